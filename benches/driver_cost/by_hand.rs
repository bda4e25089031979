//! Brings a controller up by hand, registers and all, so that the bare host has an emulator of the
//! same make as the driver's. Nothing here is measured.
use crate::bare::{BareHost, RingMemory};
use std::error::Error;
use std::time::Duration;
use underpin::PoolOptions;
use underpin::dma::rt::Instant;
use underpin::dma::{Attachment, DmaBuf, DmaSpace, Records, barrier};
use underpin::emulator::Emulator;
use underpin::spec::admin::{
    CreateIoCq, CreateIoSq, DoorbellBufferConfig, FeatureId, QueueCounts, SetFeatures,
};
use underpin::spec::registers::{Aqa, Cc, Csts, doorbell_sq, offset};
use underpin::spec::{Cqe, Nsid, Qid, Sqe};

/// A bare host on one I/O queue of an emulator.
#[derive(Debug)]
pub(crate) struct ByHand {
    pub(crate) host: BareHost,
    _memory: Vec<DmaBuf>,
    _attachment: Attachment,
}

const ADMIN_ENTRIES: usize = 16;
const QID: Qid = Qid(1);

impl ByHand {
    /// Brings `emulator` up. `step` lets it work while it is waited for.
    pub(crate) fn new(
        emulator: &Emulator,
        step: &dyn Fn(),
        space: &DmaSpace,
        depth: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let attachment = space.attach(emulator.mapper())?;
        let asq = space.alloc(ADMIN_ENTRIES * 64, 4096)?;
        let acq = space.alloc(ADMIN_ENTRIES * 16, 4096)?;
        let mut admin = Admin {
            emulator,
            step,
            sq: Records::new(asq.slice()?, ADMIN_ENTRIES)?,
            cq: Records::new(acq.slice()?, ADMIN_ENTRIES)?,
            done: 0,
        };
        let last = ADMIN_ENTRIES as u16 - 1;
        let bar = emulator;
        bar.write32(offset::AQA, Aqa(0).with_asqs(last).with_acqs(last).0);
        bar.write64(offset::ASQ, asq.iova().get());
        bar.write64(offset::ACQ, acq.iova().get());
        let cc = Cc(0).with_iosqes(6).with_iocqes(4).with_en(true);
        bar.write32(offset::CC, cc.0);
        admin.until("ready", || Csts(bar.read32(offset::CSTS)).rdy())?;

        // The same length of rings as the driver's.
        let (sq_entries, cq_entries) = (depth + 1, 2 * (depth + 1));
        let sq = space.alloc(sq_entries * 64, 4096)?;
        let cq = space.alloc(cq_entries * 16, 4096)?;
        let shadow = space.alloc(4096, 4096)?;
        let event_idx = space.alloc(4096, 4096)?;
        let one = QueueCounts {
            submission: 1,
            completion: 1,
        };
        let number_of_queues = SetFeatures {
            fid: FeatureId::NUMBER_OF_QUEUES,
            cdw11: one.to_cdw(),
            ..SetFeatures::default()
        };
        admin.call(number_of_queues.to_sqe())?;
        let doorbells = DoorbellBufferConfig {
            shadow: shadow.iova().get(),
            event_idx: event_idx.iova().get(),
        };
        admin.call(doorbells.to_sqe())?;
        let create_cq = CreateIoCq {
            qid: QID,
            entries: cq_entries as u32,
            prp1: cq.iova().get(),
            contiguous: true,
            ..CreateIoCq::default()
        };
        admin.call(create_cq.to_sqe())?;
        let create_sq = CreateIoSq {
            qid: QID,
            entries: sq_entries as u32,
            prp1: sq.iova().get(),
            contiguous: true,
            priority: 0,
            cqid: QID,
        };
        admin.call(create_sq.to_sqe())?;

        let memory = RingMemory {
            sq: sq.slice()?,
            cq: cq.slice()?,
            bells: shadow.slice()?,
            sq_tail_offset: doorbell_sq(QID, 0) - offset::DOORBELLS,
            cq_head_offset: doorbell_sq(QID, 0) - offset::DOORBELLS + 4,
        };
        let pool = space.pool(
            "bare reads",
            PoolOptions {
                buf_bytes: 4096,
                count: depth,
            },
        )?;
        let pages = (0..depth).map(|_| pool.alloc()).collect::<Result<_, _>>()?;
        let host = BareHost::new(&memory, Nsid(1).0, pages)?;
        Ok(Self {
            host,
            _memory: vec![asq, acq, sq, cq, shadow, event_idx],
            _attachment: attachment,
        })
    }
}

/// Wakes the device by the register of the submission queue.
pub(crate) fn kick(emulator: &Emulator, host: &BareHost) {
    emulator.write32(doorbell_sq(QID, 0), host.tail());
}

struct Admin<'a> {
    emulator: &'a Emulator,
    step: &'a dyn Fn(),
    sq: Records<8>,
    cq: Records<2>,
    /// Commands done; fewer than the ring has entries.
    done: usize,
}

impl Admin<'_> {
    /// Lets the device work until `met`.
    fn until(&self, what: &str, met: impl Fn() -> bool) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if met() {
                return Ok(());
            }
            (self.step)();
        }
        Err(format!("the device brought up by hand is not {what}").into())
    }

    fn call(&mut self, sqe: Sqe) -> Result<(), Box<dyn Error>> {
        let at = self.done;
        self.sq.write(at, sqe.as_u64s());
        barrier::write();
        self.done += 1;
        let bell = doorbell_sq(Qid::ADMIN, 0);
        self.emulator.write32(bell, self.done as u32);
        self.until("done", || Cqe::from_u64s(self.cq.read(at)).phase())?;
        let status = Cqe::from_u64s(self.cq.read(at)).status();
        match status.is_success() {
            true => Ok(()),
            false => Err(format!("opcode {:#x} by hand: {status}", sqe.opcode()).into()),
        }
    }
}
