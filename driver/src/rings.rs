//! The two rings of a queue as the host sees them: their memory, where it writes and reads next,
//! and how it tells the device. What the entries mean is the queue's business.
use crate::dma::{DmaBuf, DmaSpace, Iova, Records, barrier};
use crate::doorbell::{Doorbell, Shadow};
use crate::{Error, Transport, TransportError};
use std::sync::Arc;
use underpin_nvme_spec::{Cid, Cqe, Qid, Sqe, Status};

/// What a ring is made of.
pub(crate) struct RingSpec {
    pub(crate) entries: u16,
    pub(crate) page_bytes: u64,
    /// Of the doorbell register, in BAR0.
    pub(crate) doorbell: usize,
    pub(crate) shadow: Option<Shadow>,
}

impl RingSpec {
    /// Memory for the ring, of entries of `WORDS` words, and its doorbell.
    fn make<const WORDS: usize>(
        self,
        space: &DmaSpace,
        transport: &Arc<dyn Transport>,
    ) -> Result<(DmaBuf, Records<WORDS>, Doorbell), Error> {
        let page = usize::try_from(self.page_bytes).unwrap_or(4096);
        let count = usize::from(self.entries);
        // Whole pages: a queue's memory is contiguous and page-aligned (Base 2.0, 3.3.3.1).
        let memory = space.alloc((count * WORDS * 8).next_multiple_of(page), page)?;
        let entries = memory.slice().and_then(|slice| Records::new(slice, count));
        let entries = entries.map_err(|error| Error::Dma(error.into()))?;
        let bell = Doorbell::new(
            Arc::clone(transport),
            self.doorbell,
            self.entries,
            self.shadow,
        );
        Ok((memory, entries, bell))
    }
}

/// Entries that wait for a ring at most.
const STAGED: usize = 16;

/// The submission ring.
///
/// Entries are made in memory of the host's own and moved to the ring all together when it is
/// rung. A ring's cache lines were last read by the device: each has to come from its processor
/// before a store to it is done, and every later store of the host, to whatever memory, waits in
/// a queue of a few dozen behind it. Moved together, the lines' ways overlap; written one by one
/// among all else that a command stores, the host waits for each.
///
/// No more than [`STAGED`] wait: then its owner rings, and the device works on them while the host
/// submits the rest of a long batch. Of 32 in flight over vfio-user, 88 % of the bare rings' reads a
/// second were seen instead of 71 %; with 8 or 32 in place of 16, fewer.
#[derive(Debug)]
pub(crate) struct SubmissionRing {
    entries: Records<8>,
    /// What was written since the last ring, in order, and how much of it there is.
    staged: [[u64; 8]; STAGED],
    /// Entries written since the ring was made.
    written: u64,
    /// The number of the first one that the device was not told of.
    untold: u64,
    /// Words may be left in `staged` that are zero in a plain entry.
    untidy: bool,
    /// The tail that the device was last told.
    tail: usize,
    bell: Doorbell,
    /// Times that it was rung.
    rings: u64,
    /// Kept as long as the device may use it.
    memory: DmaBuf,
}

impl SubmissionRing {
    pub(crate) fn new(
        space: &DmaSpace,
        transport: &Arc<dyn Transport>,
        spec: RingSpec,
    ) -> Result<Self, Error> {
        let (memory, entries, bell) = spec.make(space, transport)?;
        Ok(Self {
            staged: [[0; 8]; STAGED],
            written: 0,
            untold: 1,
            untidy: false,
            entries,
            tail: 0,
            bell,
            rings: 0,
            memory,
        })
    }

    #[inline(always)]
    pub(crate) const fn count(&self) -> usize {
        self.entries.count()
    }

    pub(crate) const fn iova(&self) -> Iova {
        self.memory.iova()
    }

    /// Entries written since the ring was made.
    #[inline(always)]
    pub(crate) const fn written(&self) -> u64 {
        self.written
    }

    /// Entries that the device was not told of.
    #[inline(always)]
    const fn pending(&self) -> usize {
        (self.written + 1 - self.untold) as usize
    }

    pub(crate) const fn rings(&self) -> u64 {
        self.rings
    }

    pub(crate) const fn register_writes(&self) -> u64 {
        self.bell.register_writes
    }

    /// As many entries wait as can: it is to be rung before the next is written.
    pub(crate) const fn is_full(&self) -> bool {
        self.pending() >= STAGED
    }

    /// Writes an entry; the device sees it at the next ring. The ring is not [full](Self::is_full),
    /// and it has more entries than the queue has slots. Returns the entry's number, counted from 1.
    pub(crate) fn write(&mut self, sqe: Sqe) -> u64 {
        self.untidy = true;
        let at = self.pending();
        if let Some(place) = self.staged.get_mut(at) {
            *place = sqe.as_u64s();
            self.written += 1;
        }
        self.written
    }

    /// As [`write`](Self::write); the entry's number is `number`, the one after those written. What
    /// is zero in every plain entry lies in `staged` already. False, and nothing done, when the ring
    /// is full.
    #[inline(always)]
    pub(crate) fn write_plain(&mut self, number: u64, entry: Plain) -> bool {
        let at = number - self.untold;
        let Some(place) = self.staged.get_mut(at as usize) else {
            return false;
        };
        place[0] = entry.head;
        place[3] = entry.prp1;
        place[5] = entry.place;
        place[6] = entry.count;
        self.written = number;
        true
    }

    /// Tells the device of what was written since the last ring.
    #[inline(always)]
    pub(crate) fn ring(&mut self) -> Result<(), TransportError> {
        if self.pending() == 0 {
            return Ok(());
        }
        self.move_staged();
        self.rings += 1;
        self.bell.ring(self.tail as u16)
    }

    /// Moves the entries that the device was not told of into the ring.
    #[inline(always)]
    fn move_staged(&mut self) {
        let Some(waiting) = self.staged.get(..self.pending()) else {
            return;
        };
        let tail = self.entries.write_around(self.tail, waiting);
        self.tail = if tail == self.entries.count() {
            0
        } else {
            tail
        };
        self.untold = self.written + 1;
        if self.untidy {
            self.tidy();
        }
    }

    #[cold]
    fn tidy(&mut self) {
        self.staged.fill([0; 8]);
        self.untidy = false;
    }
}

/// The words of an entry that are not zero where a command names its memory by PRP1 alone.
#[derive(Clone, Copy)]
pub(crate) struct Plain {
    /// Opcode, identifier, namespace.
    pub(crate) head: u64,
    pub(crate) prp1: u64,
    /// Dwords 10 and 11.
    pub(crate) place: u64,
    /// Dword 12.
    pub(crate) count: u64,
}

/// The completion ring.
#[derive(Debug)]
pub(crate) struct CompletionRing {
    entries: Records<2>,
    head: usize,
    phase: bool,
    /// The second word of a completion that comes next in the ring, tells of success and is of the
    /// queue's own submission queue, but for what differs from one to the next.
    plain: u64,
    sqid: Qid,
    bell: Doorbell,
    /// The head that the device was last told.
    told: usize,
    /// Tell it at the latest after so many: the completion queue is longer than what can be in
    /// flight, so that a doorbell serves several polls and the queue still never fills.
    acknowledge_every: usize,
    /// Completions consumed of which the device was told.
    acknowledged: u64,
    /// Kept as long as the device may use it.
    memory: DmaBuf,
}

/// What a completion's second word has in common with all of its kind: submission queue, phase and
/// status.
const KIND: u64 = Cqe::new(0, 0, 0, Qid(u16::MAX), Cid(0), true, Status(0x7fff)).as_u64s()[1];

/// The kind that is expected: success.
const fn plain(sqid: Qid, phase: bool) -> u64 {
    Cqe::new(0, 0, 0, sqid, Cid(0), phase, Status::SUCCESS).as_u64s()[1]
}

impl CompletionRing {
    /// A ring of submission queue `sqid`, with at most `depth` commands in flight.
    pub(crate) fn new(
        space: &DmaSpace,
        transport: &Arc<dyn Transport>,
        spec: RingSpec,
        sqid: Qid,
        depth: u16,
    ) -> Result<Self, Error> {
        // One less than the ring has, so that a whole lap is never taken for none.
        let acknowledge_every = usize::from(spec.entries.saturating_sub(depth).max(1));
        let (memory, entries, bell) = spec.make(space, transport)?;
        Ok(Self {
            entries,
            head: 0,
            phase: true,
            plain: plain(sqid, true),
            sqid,
            bell,
            told: 0,
            acknowledge_every,
            acknowledged: 0,
            memory,
        })
    }

    pub(crate) const fn count(&self) -> usize {
        self.entries.count()
    }

    pub(crate) const fn iova(&self) -> Iova {
        self.memory.iova()
    }

    pub(crate) const fn register_writes(&self) -> u64 {
        self.bell.register_writes
    }

    /// Completions consumed since the device was last told.
    #[inline(always)]
    fn unacknowledged(&self) -> usize {
        let lap = if self.head < self.told {
            self.entries.count()
        } else {
            0
        };
        self.head + lap - self.told
    }

    /// Completions consumed since the ring was made.
    pub(crate) fn consumed(&self) -> u64 {
        self.acknowledged + self.unacknowledged() as u64
    }

    /// True when the device has written a completion that was not consumed yet.
    #[inline]
    pub(crate) fn has_next(&self) -> bool {
        self.is_there(self.look_at(self.head))
    }

    /// Where the next completion will lie.
    #[inline(always)]
    pub(crate) const fn head(&self) -> usize {
        self.head
    }

    /// What lies there, written by the device or not.
    #[inline(always)]
    pub(crate) fn look_at(&self, head: usize) -> Cqe {
        let entry = self.entries.record(head);
        // One 64-bit load takes phase, status, identifier and head pointer together.
        let high = entry.load(1);
        // The rest of the entry, and the data it announces, are read after the phase.
        barrier::read();
        Cqe::from_u64s([entry.load(0), high])
    }

    /// True when the device has written what was seen.
    #[inline(always)]
    pub(crate) fn is_there(&self, seen: Cqe) -> bool {
        seen.phase() == self.phase
    }

    /// True when it has, and what was seen tells of success and is of the queue's own submission
    /// queue: all as one comparison.
    #[inline(always)]
    pub(crate) fn is_plain(&self, seen: Cqe) -> bool {
        seen.as_u64s()[1] & KIND == self.plain
    }

    /// Goes on to the next completion after the one at `head`, and returns where that will lie.
    #[inline(always)]
    pub(crate) const fn consume(&mut self, head: usize) -> usize {
        let next = head + 1;
        self.head = next;
        if next == self.entries.count() {
            self.turn();
            return 0;
        }
        next
    }

    /// Begins the next lap.
    #[inline(always)]
    const fn turn(&mut self) {
        self.head = 0;
        self.phase = !self.phase;
        self.plain = plain(self.sqid, self.phase);
    }

    /// Tells the device how far the host has read, when that is due.
    #[inline(always)]
    pub(crate) fn acknowledge(&mut self) -> Result<(), TransportError> {
        let unacknowledged = self.unacknowledged();
        if unacknowledged < self.acknowledge_every {
            return Ok(());
        }
        self.acknowledged += unacknowledged as u64;
        self.told = self.head;
        self.bell.ring(self.head as u16)
    }

    /// Writes an entry as the device would.
    #[cfg(test)]
    pub(crate) fn write_as_device(&self, at: usize, cqe: Cqe) {
        self.entries.write(at, cqe.as_u64s());
    }

    /// What the completions that the device has written, and nobody has consumed yet, name.
    #[cold]
    pub(crate) fn unread(&self) -> Vec<Cid> {
        let count = self.entries.count();
        let entry = |ahead: usize| {
            let at = self.head + ahead;
            let (index, phase) = match at.checked_sub(count) {
                None => (at, self.phase),
                Some(wrapped) => (wrapped, !self.phase),
            };
            let cqe = Cqe::from_u64s([0, self.entries.read_word(index, 1)]);
            (cqe.phase() == phase).then(|| cqe.cid())
        };
        (0..count).map_while(entry).collect()
    }
}
