//! A queue and the ring that a device writes, without a device: what the test puts there is there.
#![allow(clippy::unwrap_used, clippy::panic)]
use super::{Outcome, Queue, QueueSpec, SglRule};
use crate::dma::{DmaBuf, DmaSpace, Mapper};
use crate::health::Health;
use crate::slots::Describe;
use crate::{Transport, TransportError};
use std::sync::Arc;
use std::time::Duration;
use underpin_nvme_spec::{Cid, Cqe, NvmOpcode, Qid, Sqe, Status};

/// Nobody is there.
#[derive(Debug)]
struct Nobody;

impl Transport for Nobody {
    fn name(&self) -> String {
        "nobody".to_owned()
    }
    fn read32(&self, _offset: usize) -> Result<u32, TransportError> {
        Ok(1)
    }
    fn read64(&self, _offset: usize) -> Result<u64, TransportError> {
        Ok(1)
    }
    fn write32(&self, _offset: usize, _value: u32) -> Result<(), TransportError> {
        Ok(())
    }
    fn write64(&self, _offset: usize, _value: u64) -> Result<(), TransportError> {
        Ok(())
    }
    fn mapper(&self) -> Arc<dyn Mapper> {
        panic!("a queue maps nothing")
    }
    fn sever(&self) -> Result<(), TransportError> {
        Ok(())
    }
}

const DEPTH: u16 = 3;
const CQ_ENTRIES: u16 = 8;

fn queue(health: &Arc<Health>) -> Queue<DmaBuf> {
    let transport: Arc<dyn Transport> = Arc::new(Nobody);
    let spec = QueueSpec {
        qid: Qid(1),
        depth: DEPTH,
        sq_entries: DEPTH + 1,
        cq_entries: CQ_ENTRIES,
        page_bytes: 4096,
        max_transfer_bytes: 4096,
        sgl: SglRule::default(),
        max_runs: 1,
        timeout: Duration::from_secs(1),
        dstrd: 0,
        shadows: None,
    };
    Queue::new(&DmaSpace::new(), &transport, health, spec).unwrap()
}

/// Begins so many commands, and has the device end them.
fn flushes(queue: &mut Queue<DmaBuf>, count: u16, at: &mut usize) {
    for _ in 0..count {
        let sqe = Sqe::new().with_opcode(NvmOpcode::FLUSH.0);
        queue.push(sqe, Describe::default(), None).unwrap();
    }
    let flying = queue
        .slots
        .iter()
        .filter(|slot| slot.state().is_in_flight());
    for cid in flying.map(|slot| slot.cid()) {
        queue.completions.write_as_device(*at, success(cid));
        *at += 1;
    }
}

const fn success(cid: Cid) -> Cqe {
    Cqe::new(0, 0, 0, Qid(1), cid, true, Status::SUCCESS)
}

/// A device that writes one completion more than its ring has room for breaks the protocol; what
/// the queue counts stays true all the same, and nothing is left to be found.
#[test]
fn a_ring_filled_to_the_last_entry_is_not_an_empty_one() {
    let health = Arc::new(Health::default());
    let mut queue = queue(&health);
    let mut at = 0;
    // As many as the device need not be told of yet.
    for count in [DEPTH, CQ_ENTRIES - 1 - 2 * DEPTH] {
        flushes(&mut queue, count, &mut at);
        assert_eq!(queue.poll(usize::MAX, |_| ()), usize::from(count));
    }
    flushes(&mut queue, DEPTH, &mut at);
    assert_eq!(at, usize::from(CQ_ENTRIES) - 1);
    queue.completions.write_as_device(at, success(Cid(0x77)));
    let mut done = 0;
    queue.poll(usize::MAX, |ended| {
        done += u16::from(matches!(ended.outcome, Outcome::Done { .. }));
    });
    assert_eq!(done, DEPTH);
    assert!(health.is_failed(), "it names nothing in flight");
    assert_eq!(queue.in_flight(), 0);
    assert_eq!(queue.free_count(), usize::from(DEPTH));
    assert!(!queue.has_news());
}
