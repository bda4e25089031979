//! Figures of queues and controllers, as plain structs and as JSON, and how a controller knows
//! those of queues that other threads own: they leave a copy now and then.
use crate::dma::{JsonObject, counters};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use underpin_nvme_spec::{NvmOpcode, Qid, Status};

counters! {
    /// Figures about a queue since it was made.
    ///
    /// A *request* is what a caller submits; one that is longer than the device takes at once is
    /// several *commands*. The driver never sends a command a second time by itself: there are no
    /// retries to be counted.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    /// // One request of twice what the device takes at once: two commands, one doorbell.
    /// let len = 2 * controller.max_transfer_bytes();
    /// queue.run(ns.read(Lba(0), len / 512)?, space.alloc(len as usize, 4096)?)?;
    /// let stats = queue.stats();
    /// assert_eq!((stats.reads, stats.commands, stats.rings), (1, 2, 1));
    /// assert_eq!(stats.read_bytes, len);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub struct QueueStats {
        /// Commands written to the submission ring.
        commands,
        /// Completions consumed.
        completions,
        /// Read requests submitted.
        reads,
        /// Write requests submitted.
        writes,
        /// Compare requests submitted.
        compares,
        /// Flushes submitted.
        flushes,
        /// Write Zeroes requests submitted.
        write_zeroes,
        /// Deallocations (Dataset Management) submitted.
        deallocates,
        /// Verify requests submitted.
        verifies,
        /// Requests of any other kind submitted; of the admin queue, all commands.
        others,
        /// Bytes that read requests asked for.
        read_bytes,
        /// Bytes that write requests had to write.
        written_bytes,
        /// Commands whose memory an SGL names, and not PRPs.
        sgls,
        /// Requests that ended in an error.
        errors,
        /// Times that the submission doorbell was rung, by whatever means.
        rings,
        /// Times that a doorbell register was written: with shadow doorbells only to wake a device.
        register_writes,
        /// Times that its owner was free to sleep until an interrupt or a deadline.
        sleeps,
        /// Interrupts received, as far as it has looked: it does when it arms its event.
        interrupts,
        /// Sleeps that found a completion of which no interrupt had told: a device, or a driver,
        /// that loses interrupts. They cost 100 ms, not the command.
        missed_interrupts,
    }
}

counters! {
    /// Figures about a controller since it was opened, its queues' aside.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m,queues=4", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    /// let counts = controller.stats().counts;
    /// assert_eq!((counts.granted_queues, counts.open_queues), (4, 1));
    /// assert_eq!((counts.timeouts, counts.quarantined_bytes), (0, 0));
    /// # drop(queue);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub struct ControllerCounts {
        /// Times that it was reset: once, when it was opened, until it is recovered by resets.
        resets,
        /// Commands that were not completed in time: the first one fails the controller.
        timeouts,
        /// I/O queues that the device grants.
        granted_queues,
        /// I/O queues that are in use.
        open_queues,
        /// Queues whose memory is in quarantine: dropped, but the device has not let go.
        quarantined_queues,
        /// The bytes of their rings, and of what was in flight on them.
        quarantined_bytes,
        /// Namespaces, unusable ones included.
        namespaces,
    }
}

/// How many requests ended with one status.
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m,fault=status:0x281@op=read+count=2", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// for _ in 0..3 {
///     let _ = queue.run(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?);
/// }
/// let errors = controller.stats().errors;
/// assert_eq!(errors[0].status, Status::UNRECOVERED_READ_ERROR);
/// assert_eq!((errors.len(), errors[0].count), (1, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusCount {
    /// The status, without Do Not Retry and More.
    pub status: Status,
    /// How many.
    pub count: u64,
}

impl StatusCount {
    fn json(&self) -> JsonObject {
        JsonObject::new()
            .number("code", u64::from(self.status.code()))
            .text("status", &self.status.to_string())
            .number("count", self.count)
    }
}

/// What is known of a controller and all its queues at one time.
///
/// ```
/// use underpin_dma::DmaSpace;
/// use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions};
///
/// let space = DmaSpace::new();
/// let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// let ns = controller.namespace(None)?;
/// let mut queue = controller.queue_pair(QueueOptions::default())?;
/// queue.run(ns.write(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
///
/// let stats = controller.stats();
/// assert_eq!((stats.io.writes, stats.io.written_bytes), (1, 4096));
/// assert!(stats.to_json().contains("\"writes\":1"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ControllerStats {
    /// The device's name: its URL without a namespace.
    pub device: String,
    /// Why it is of no use any more, if it is.
    pub failure: Option<String>,
    /// Its own figures.
    pub counts: ControllerCounts,
    /// Of the admin queue.
    pub admin: QueueStats,
    /// Of all I/O queues together, those that are gone included.
    pub io: QueueStats,
    /// Of each I/O queue that is open.
    pub queues: Vec<(Qid, QueueStats)>,
    /// Requests that ended in an error, by status; the most frequent first.
    pub errors: Vec<StatusCount>,
}

impl ControllerStats {
    /// As JSON text: one object, named as the fields are.
    #[must_use]
    pub fn to_json(&self) -> String {
        let queues = self
            .queues
            .iter()
            .map(|(qid, stats)| stats.json().number("qid", u64::from(qid.0)));
        JsonObject::new()
            .text("device", &self.device)
            .text_or_null("failure", self.failure.as_deref())
            .object("counts", self.counts.json())
            .object("admin", self.admin.json())
            .object("io", self.io.json())
            .list("queues", queues)
            .list("errors", self.errors.iter().map(StatusCount::json))
            .finish()
    }
}

/// Requests and bytes by opcode. A request costs two additions to memory, at places that the
/// opcode alone names: a smaller table would cost more instructions.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    requests: [u64; 256],
    bytes: [u64; 256],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            requests: [0; 256],
            bytes: [0; 256],
        }
    }
}

impl Tally {
    /// Where commands are counted that are not the NVM command set's by their opcode: those of the
    /// admin queue, and raw ones.
    pub(crate) const OTHER: u8 = u8::MAX;

    /// Counts a request that transfers `len_bytes` bytes.
    #[inline(always)]
    pub(crate) const fn transfer(&mut self, opcode: NvmOpcode, len_bytes: u64) {
        self.requests[opcode.0 as usize] += 1;
        self.bytes[opcode.0 as usize] += len_bytes;
    }

    /// Counts any other.
    #[inline]
    pub(crate) const fn other(&mut self, opcode: u8) {
        self.requests[opcode as usize] += 1;
    }

    pub(crate) fn fill(&self, stats: &mut QueueStats) {
        let index = |opcode: NvmOpcode| usize::from(opcode.0);
        let requests = |opcode| self.requests[index(opcode)];
        stats.reads = requests(NvmOpcode::READ);
        stats.writes = requests(NvmOpcode::WRITE);
        stats.compares = requests(NvmOpcode::COMPARE);
        stats.flushes = requests(NvmOpcode::FLUSH);
        stats.write_zeroes = requests(NvmOpcode::WRITE_ZEROES);
        stats.deallocates = requests(NvmOpcode::DATASET_MANAGEMENT);
        stats.verifies = requests(NvmOpcode::VERIFY);
        let named = stats.reads
            + stats.writes
            + stats.compares
            + stats.flushes
            + stats.write_zeroes
            + stats.deallocates
            + stats.verifies;
        stats.others = self.requests.iter().sum::<u64>() - named;
        stats.read_bytes = self.bytes[index(NvmOpcode::READ)];
        stats.written_bytes = self.bytes[index(NvmOpcode::WRITE)];
    }
}

/// Statuses are counted one by one up to so many; a device can make up two thousand.
const STATUSES: usize = 32;

/// The copy of its figures that a queue leaves for its controller. Written by the queue's owner
/// alone, so that plain loads and stores do.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) qid: Qid,
    figures: [AtomicU64; 19],
    /// Status in the upper 16 bits, from bit 48; its count below.
    errors: [AtomicU64; STATUSES],
}

impl Published {
    pub(crate) fn new(qid: Qid) -> Arc<Self> {
        Arc::new(Self {
            qid,
            figures: Default::default(),
            errors: Default::default(),
        })
    }

    pub(crate) fn publish(&self, stats: &QueueStats) {
        for (to, (_, figure)) in self.figures.iter().zip(stats.fields()) {
            to.store(figure, Ordering::Relaxed);
        }
    }

    /// Counts an error. One whose status finds no place any more is in `errors` of the figures
    /// alone.
    #[cold]
    pub(crate) fn count_error(&self, status: Status) {
        let code = u64::from(status.code()) << 48;
        for place in &self.errors {
            let seen = place.load(Ordering::Relaxed);
            if seen == 0 || seen >> 48 == code >> 48 {
                place.store(code | ((seen & ((1 << 48) - 1)) + 1), Ordering::Relaxed);
                return;
            }
        }
    }

    pub(crate) fn read(&self) -> QueueStats {
        let mut at = self.figures.iter();
        let mut next = || at.next().map_or(0, |figure| figure.load(Ordering::Relaxed));
        QueueStats {
            commands: next(),
            completions: next(),
            reads: next(),
            writes: next(),
            compares: next(),
            flushes: next(),
            write_zeroes: next(),
            deallocates: next(),
            verifies: next(),
            others: next(),
            read_bytes: next(),
            written_bytes: next(),
            sgls: next(),
            errors: next(),
            rings: next(),
            register_writes: next(),
            sleeps: next(),
            interrupts: next(),
            missed_interrupts: next(),
        }
    }

    fn errors(&self) -> impl Iterator<Item = StatusCount> + '_ {
        let counted = self
            .errors
            .iter()
            .map(|place| place.load(Ordering::Relaxed));
        counted.filter(|&seen| seen != 0).map(|seen| StatusCount {
            status: Status((seen >> 48) as u16),
            count: seen & ((1 << 48) - 1),
        })
    }
}

/// What a controller knows of its queues.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    open: Vec<Arc<Published>>,
    /// Of I/O queues that are gone.
    past: QueueStats,
    errors: Vec<StatusCount>,
}

impl Ledger {
    /// A queue is made.
    pub(crate) fn enter(&mut self, queue: Arc<Published>) {
        self.open.push(queue);
    }

    /// A queue's owner has dropped it; nothing is added to its figures any more.
    pub(crate) fn close(&mut self, qid: Qid) {
        if let Some(at) = self.open.iter().position(|queue| queue.qid == qid) {
            let queue = self.open.swap_remove(at);
            self.past.add(&queue.read());
            queue
                .errors()
                .for_each(|error| add(&mut self.errors, error));
        }
    }

    /// The admin queue's figures, those of all I/O queues, those of each, and the errors of all.
    #[allow(
        clippy::type_complexity,
        reason = "taken apart at once by the one caller"
    )]
    pub(crate) fn read(
        &self,
    ) -> (
        QueueStats,
        QueueStats,
        Vec<(Qid, QueueStats)>,
        Vec<StatusCount>,
    ) {
        let (mut admin, mut io, mut queues) = (QueueStats::default(), self.past, Vec::new());
        let mut errors = self.errors.clone();
        for queue in &self.open {
            let stats = queue.read();
            if queue.qid == Qid::ADMIN {
                admin = stats;
            } else {
                io.add(&stats);
                queues.push((queue.qid, stats));
            }
            queue.errors().for_each(|error| add(&mut errors, error));
        }
        queues.sort_by_key(|(qid, _)| qid.0);
        errors.sort_by_key(|error| std::cmp::Reverse(error.count));
        (admin, io, queues, errors)
    }
}

fn add(errors: &mut Vec<StatusCount>, more: StatusCount) {
    match errors.iter_mut().find(|error| error.status == more.status) {
        Some(error) => error.count += more.count,
        None => errors.push(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a command's opcode is, it is in one figure.
    #[test]
    fn every_opcode_is_counted_once() {
        let mut tally = Tally::default();
        (0..=u8::MAX).for_each(|opcode| tally.other(opcode));
        let mut stats = QueueStats::default();
        tally.fill(&mut stats);
        assert_eq!((stats.reads, stats.flushes, stats.others), (1, 1, 249));
    }

    /// What is published is read back, every figure in its place; a status counts as one whatever
    /// its other bits are, and no device's inventions are without bound.
    #[test]
    fn what_a_queue_leaves_is_what_the_controller_reads() {
        let published = Published::new(Qid(3));
        let mut stats = QueueStats::default();
        published.publish(&stats);
        assert_eq!(published.read(), stats);
        let figures = published.figures.len();
        assert_eq!(stats.fields().count(), figures, "each figure has its place");
        (stats.commands, stats.missed_interrupts, stats.written_bytes) = (1, 15, 9);
        published.publish(&stats);
        assert_eq!(published.read(), stats);

        let status = Status::UNRECOVERED_READ_ERROR;
        published.count_error(status);
        published.count_error(status.with_do_not_retry());
        (0..0x7ff).for_each(|code| published.count_error(Status(code)));
        let errors: Vec<_> = published.errors().collect();
        assert_eq!(errors.len(), STATUSES);
        assert_eq!((errors[0].status, errors[0].count), (status, 3));
    }

    /// The figures of queues that are gone stay in the sum.
    #[test]
    fn a_closed_queue_stays_in_the_sum() {
        let mut ledger = Ledger::default();
        for qid in [0, 1, 2] {
            let queue = Published::new(Qid(qid));
            let stats = QueueStats {
                reads: 10 + u64::from(qid),
                ..QueueStats::default()
            };
            queue.publish(&stats);
            queue.count_error(Status::INTERNAL_ERROR);
            ledger.enter(queue);
        }
        ledger.close(Qid(1));
        ledger.close(Qid(1));
        let (admin, io, queues, errors) = ledger.read();
        assert_eq!((admin.reads, io.reads, queues.len()), (10, 23, 1));
        assert_eq!((errors.len(), errors[0].count), (1, 3));
    }
}
