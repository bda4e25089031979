//! Corners of the driver that a review found: queues of many thousands, doorbell pages too small,
//! memory that must wait for proof though nobody owns it yet, one bad namespace among good ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{Rig, finish, within_limit};
use underpin::dma::Mapper;
use underpin::nvme::transport::Embedded;
use underpin::nvme::{Transport, TransportError};
use underpin::{
    Controller, ControllerOptions, DmaBuf, Error, Lba, Nsid, Pool, PoolOptions, QueueOptions,
    QueuePair,
};

fn pool(rig: &Rig, buf_bytes: usize, count: usize) -> Pool {
    let options = PoolOptions { buf_bytes, count };
    rig.space.pool("test", options).unwrap()
}

/// A queue may be as deep as CAP.MQES allows, also beyond 2^15 where no power of two of 16 bits
/// holds the slots' numbers.
#[test]
fn the_deepest_queues_work() {
    let rig = Rig::new("size=1m,mqes=65536");
    let options = ControllerOptions {
        max_transfer_bytes: 4096,
        ..ControllerOptions::default()
    };
    let controller = rig.open(options).unwrap();
    let ns = controller.namespace(None).unwrap();
    let pool = pool(&rig, 4096, 1);
    for depth in [32_768, 32_769, u16::MAX] {
        let mut queue = controller
            .queue_pair(QueueOptions {
                depth,
                ..QueueOptions::default()
            })
            .unwrap();
        assert_eq!(queue.depth(), usize::from(depth.min(65_534)));
        for _ in 0..3 {
            let io = ns.read(Lba(0), 8).unwrap();
            let token = queue.submit(io, pool.alloc().unwrap()).unwrap();
            finish(&mut queue, token).result.unwrap();
        }
    }
    drop((ns, controller));
    rig.end();
}

/// One page of shadow doorbells, laid out with the registers' stride, may have no room for a
/// single I/O queue (CAP.DSTRD of 9 and more). The registers serve as well.
#[test]
fn a_stride_too_wide_for_shadow_doorbells_leaves_the_registers() {
    for (dstrd, shadow) in [(8, true), (9, false), (10, false), (15, false)] {
        let rig = Rig::new(&format!("size=1m,queues=4,dstrd={dstrd}"));
        let controller = rig.controller();
        assert_eq!(controller.has_shadow_doorbells(), shadow, "DSTRD {dstrd}");
        assert_eq!(controller.granted_queues(), if shadow { 1 } else { 4 });
        let ns = controller.namespace(None).unwrap();
        let mut queue = controller.queue_pair(QueueOptions::default()).unwrap();
        let pool = pool(&rig, 4096, 1);
        let io = ns.read(Lba(0), 8).unwrap();
        let token = queue.submit(io, pool.alloc().unwrap()).unwrap();
        finish(&mut queue, token).result.unwrap();
        drop((queue, ns, controller));
        rig.end();
    }
}

/// Who waits for a request is told of its loss, and nobody is told again: found by fuzzing. The
/// poll that notices the failure is not the one that tells of it.
#[test]
fn a_loss_that_was_waited_for_is_told_once() {
    let rig = Rig::new("size=1m,fault=drop@op=io");
    let options = ControllerOptions {
        command_timeout: Duration::from_millis(20),
        ..ControllerOptions::default()
    };
    let controller = rig.open(options).unwrap();
    let ns = controller.namespace(None).unwrap();
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default()).unwrap();
    let token = queue.submit_bare(ns.flush()).unwrap();
    assert!(queue.wait_for(token).result.is_err());
    let again = queue.poll(usize::MAX, |completion| {
        panic!("told again: {completion:?}")
    });
    assert_eq!(again, 0);
    drop((queue, ns, controller));
    rig.end();
}

/// The embedded controller, but nothing that one can do to it proves that it has stopped. Once
/// told to, it panics: at the next doorbell, or when it is severed.
#[derive(Debug)]
struct Unstoppable {
    inner: Arc<Embedded>,
    panics: AtomicBool,
}

impl Unstoppable {
    fn new(rig: &Rig) -> Arc<Self> {
        Arc::new(Self {
            inner: rig.transport.clone(),
            panics: AtomicBool::new(false),
        })
    }

    fn panic_from_now_on(&self, panics: bool) {
        self.panics.store(panics, Ordering::Relaxed);
    }

    fn maybe_panic(&self) {
        assert!(!self.panics.load(Ordering::Relaxed), "a bug of a transport");
    }
}

impl Transport for Unstoppable {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn read32(&self, offset: usize) -> Result<u32, TransportError> {
        self.inner.read32(offset)
    }
    fn read64(&self, offset: usize) -> Result<u64, TransportError> {
        self.inner.read64(offset)
    }
    fn write32(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        if offset >= 0x1000 {
            self.maybe_panic();
        }
        self.inner.write32(offset, value)
    }
    fn write64(&self, offset: usize, value: u64) -> Result<(), TransportError> {
        self.inner.write64(offset, value)
    }
    fn mapper(&self) -> Arc<dyn Mapper> {
        self.inner.mapper()
    }
    fn sever(&self) -> Result<(), TransportError> {
        self.maybe_panic();
        Err(TransportError {
            device: self.name(),
            what: "it does not let go".to_owned(),
        })
    }
}

/// A panic of the transport, wherever in the life of a controller, frees nothing that the device
/// may still touch.
#[test]
fn a_transport_that_panics_frees_nothing() {
    let used = |rig: &Rig| rig.space.stats().heap_used_bytes;

    // While a queue is made: its rings may be known to the device.
    let rig = Rig::new("size=1m,queues=2,to_ms=500");
    let transport = Unstoppable::new(&rig);
    let options = ControllerOptions::default();
    let controller = Controller::with_transport(transport.clone(), &rig.space, options).unwrap();
    let make = || controller.queue_pair::<DmaBuf>(QueueOptions::default());
    let before = used(&rig);
    let queue = make().unwrap();
    let of_a_queue = used(&rig) - before;
    transport.panic_from_now_on(true);
    catch_unwind(AssertUnwindSafe(make)).expect_err("it panics");
    assert_eq!(used(&rig), before + 2 * of_a_queue, "half-made");

    // While a queue is deleted.
    catch_unwind(AssertUnwindSafe(|| drop(queue))).expect_err("it panics");
    assert_eq!(used(&rig), before + 2 * of_a_queue, "half-deleted");

    // While the controller is closed.
    rig.inject("never-disabled");
    let closed = catch_unwind(AssertUnwindSafe(|| drop(controller)));
    closed.expect_err("it panics");
    assert_eq!(used(&rig), before + 2 * of_a_queue, "half-closed");
}

/// A device that got Doorbell Buffer Config but never answered may write EventIdx at any later
/// time: the two pages wait for proof like everything else, and without it are never used again.
#[test]
fn doorbell_pages_of_an_unanswered_command_wait_for_proof() {
    let rig = Rig::new("size=1m,to_ms=500");
    rig.inject("drop@op=0x7c");
    rig.inject("never-disabled");
    let options = ControllerOptions {
        admin_timeout: Duration::from_millis(200),
        ..ControllerOptions::default()
    };
    let transport = Unstoppable::new(&rig);
    let error = Controller::with_transport(transport, &rig.space, options).unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error}");
    rig.until_fired(2);
    let left = rig.space.stats().heap_used_bytes;
    // The two admin rings, and the two pages of doorbells.
    assert_eq!(left, 4 * 4096, "given back to the heap without proof");
}

/// A namespace that the device will not identify (detached meanwhile, or of another command set)
/// is reported as unusable; the others work.
#[test]
fn one_namespace_that_cannot_be_identified_does_not_take_the_others_along() {
    // Invalid Namespace or Format (Base 2.0, figure 94).
    let rig = Rig::new("size=1m,ns=2,fault=status:0x00b@op=identify+nsid=1");
    let controller = rig.controller();
    assert_eq!(controller.namespaces().len(), 2);
    let bad = controller.namespace(Some(Nsid(1))).unwrap();
    let why = bad.unusable().expect("it was not identified");
    assert!(why.contains("Invalid Namespace"), "{why}");
    let error = bad.read(Lba(0), 1).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let good = controller.namespace(Some(Nsid(2))).unwrap();
    let mut queue = controller.queue_pair(QueueOptions::default()).unwrap();
    let pool = pool(&rig, 4096, 1);
    let io = good.read(Lba(0), 8).unwrap();
    let token = queue.submit(io, pool.alloc().unwrap()).unwrap();
    finish(&mut queue, token).result.unwrap();
    drop((queue, controller));
    rig.end();
}

/// What a caller carries beside a buffer may panic when it is dropped.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the caller's own");
    }
}

/// A panic of what the caller put into one queue frees nothing of another queue that waits for
/// its proof, nor is the queue that was deleted lost.
#[test]
fn a_panic_while_one_queue_is_freed_leaves_the_others_in_quarantine() {
    let rig = Rig::new("size=1m,queues=2");
    let controller = rig.controller();
    let ns = controller.namespace(None).unwrap();
    let pool = pool(&rig, 4096, 2);
    let options = QueueOptions {
        depth: 4,
        ..QueueOptions::default()
    };
    let mut first: QueuePair<(DmaBuf, Bomb)> = controller.queue_pair(options).unwrap();
    let mut second: QueuePair<DmaBuf> = controller.queue_pair(options).unwrap();
    rig.inject("hold@op=read+count=2");
    let io = ns.read(Lba(0), 8).unwrap();
    let _ = first.submit(io, (pool.alloc().unwrap(), Bomb)).unwrap();
    let _ = second.submit(io, pool.alloc().unwrap()).unwrap();
    first.ring();
    second.ring();
    rig.until_fired(2);

    // Delete I/O Submission Queue is refused for the first queue once, and for the second.
    rig.inject("status:0x006@op=0x00");
    rig.inject("status:0x006@op=0x00+nth=3");
    drop(first);
    assert_eq!(controller.quarantined_queues(), 1);
    catch_unwind(AssertUnwindSafe(|| drop(second))).expect_err("the bomb goes off");
    assert_eq!(pool.free_count(), 1, "the second queue's buffer was freed");
    assert_eq!(controller.quarantined_queues(), 1);

    let again: [QueuePair<DmaBuf>; 2] = [(); 2].map(|()| controller.queue_pair(options).unwrap());
    assert_eq!(pool.free_count(), 2);
    drop((again, ns, controller));
    rig.end();
}

/// The error of a queue without room says what it holds and what is wanted, and nothing untrue.
#[test]
fn a_full_queue_says_what_it_holds() {
    let rig = Rig::new("size=1m,mdts=1");
    let controller = rig.controller();
    let ns = controller.namespace(None).unwrap();
    let mut queue = controller
        .queue_pair(QueueOptions {
            depth: 8,
            ..QueueOptions::default()
        })
        .unwrap();
    let pool = pool(&rig, 64 << 10, 2);
    let first = queue
        .submit(ns.read(Lba(0), 8).unwrap(), pool.alloc().unwrap())
        .unwrap();
    let whole = ns.read(Lba(0), 128).unwrap();
    let refused = queue.submit(whole, pool.alloc().unwrap()).unwrap_err();
    let text = refused.error.to_string();
    assert!(!text.contains("8 commands are in flight"), "one is: {text}");
    assert!(
        text.contains("holds 8 ") && text.contains("8 more"),
        "{text}"
    );
    within_limit("the read", || {
        (queue.poll(1, |ended| assert_eq!(ended.token, first)) == 1).then_some(())
    });
    drop((refused, queue, ns, controller));
    rig.end();
}
