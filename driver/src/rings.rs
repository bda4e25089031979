//! The two rings of a queue as the host sees them: their memory, where it writes and reads next,
//! and how it tells the device. What the entries mean is the queue's business.
use crate::dma::{DmaBuf, DmaSpace, Iova, Records, barrier};
use crate::doorbell::{Doorbell, Shadow};
use crate::{Error, Transport, TransportError};
use std::sync::Arc;
use underpin_nvme_spec::{Cid, Cqe, Qid, Sqe};

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

/// The submission ring.
///
/// Entries are made in memory of the host's own and moved to the ring all together when it is
/// rung. A ring's cache lines were last read by the device: each has to come from its processor
/// before a store to it is done, and every later store of the host, to whatever memory, waits in
/// a queue of a few dozen behind it. Moved together, the lines' ways overlap; written one by one
/// among all else that a command stores, the host waits for each.
#[derive(Debug)]
pub(crate) struct SubmissionRing {
    entries: Records<8>,
    /// What was written since the last ring, each entry at its place in the ring.
    staged: Vec<[u64; 8]>,
    tail: u16,
    /// The tail that the device was last told.
    told: u16,
    bell: Doorbell,
    /// Entries written in the laps before this one.
    earlier_laps: u64,
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
            staged: vec![[0; 8]; entries.count()],
            entries,
            tail: 0,
            told: 0,
            bell,
            earlier_laps: 0,
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
        self.earlier_laps + self.tail as u64
    }

    pub(crate) const fn rings(&self) -> u64 {
        self.rings
    }

    pub(crate) const fn register_writes(&self) -> u64 {
        self.bell.register_writes
    }

    /// Writes an entry; the device sees it at the next ring. There is room: the ring has more
    /// entries than the queue has slots. Returns the entry's number, counted from 1.
    #[inline(always)]
    pub(crate) fn write(&mut self, sqe: Sqe) -> u64 {
        if let Some(place) = self.staged.get_mut(usize::from(self.tail)) {
            *place = sqe.as_u64s();
        }
        let number = self.written() + 1;
        self.tail += 1;
        if usize::from(self.tail) == self.entries.count() {
            self.tail = 0;
            self.earlier_laps = number;
        }
        number
    }

    /// Tells the device of what was written since the last ring.
    #[inline(always)]
    pub(crate) fn ring(&mut self) -> Result<(), TransportError> {
        if self.tail == self.told {
            return Ok(());
        }
        self.move_staged();
        self.told = self.tail;
        self.rings += 1;
        self.bell.ring(self.tail)
    }

    /// Moves the entries that the device was not told of into the ring.
    #[inline(always)]
    fn move_staged(&self) {
        let (mut told, tail) = (usize::from(self.told), usize::from(self.tail));
        if tail < told {
            let rest = self.staged.get(told..).unwrap_or(&[]);
            self.entries.write_run(told, rest);
            told = 0;
        }
        let rest = self.staged.get(told..tail).unwrap_or(&[]);
        self.entries.write_run(told, rest);
    }
}

/// The completion ring.
#[derive(Debug)]
pub(crate) struct CompletionRing {
    entries: Records<2>,
    head: u16,
    phase: bool,
    bell: Doorbell,
    /// The head that the device was last told.
    told: u16,
    /// Tell it at the latest after so many: the completion queue is longer than what can be in
    /// flight, so that a doorbell serves several polls and the queue still never fills.
    acknowledge_every: usize,
    /// Completions consumed of which the device was told.
    acknowledged: u64,
    /// Kept as long as the device may use it.
    memory: DmaBuf,
}

impl CompletionRing {
    /// A ring of a queue with at most `depth` commands in flight.
    pub(crate) fn new(
        space: &DmaSpace,
        transport: &Arc<dyn Transport>,
        spec: RingSpec,
        depth: u16,
    ) -> Result<Self, Error> {
        // One less than the ring has, so that a whole lap is never taken for none.
        let acknowledge_every = usize::from(spec.entries.saturating_sub(depth).max(1));
        let (memory, entries, bell) = spec.make(space, transport)?;
        Ok(Self {
            entries,
            head: 0,
            phase: true,
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
        let (head, told) = (usize::from(self.head), usize::from(self.told));
        let lap = if head < told { self.entries.count() } else { 0 };
        head + lap - told
    }

    /// Completions consumed since the ring was made.
    pub(crate) fn consumed(&self) -> u64 {
        self.acknowledged + self.unacknowledged() as u64
    }

    /// True when the device has written a completion that was not consumed yet.
    #[inline]
    pub(crate) fn has_next(&self) -> bool {
        let high = self.entries.read_word(usize::from(self.head), 1);
        Cqe::from_u64s([0, high]).phase() == self.phase
    }

    /// Consumes the next completion, if the device has written it. With it comes whether it tells
    /// of success and is of submission queue `sqid`.
    #[inline(always)]
    pub(crate) fn take(&mut self, sqid: Qid) -> Option<(Cqe, bool)> {
        let entry = self.entries.record(usize::from(self.head));
        // One 64-bit load takes phase, status, identifier and head pointer together.
        let high = entry.load(1);
        let seen = Cqe::from_u64s([0, high]);
        let is_plain = seen.is_success_of(sqid, self.phase);
        if !is_plain && seen.phase() != self.phase {
            return None;
        }
        // The rest of the entry, and the data it announces, are read after the phase.
        barrier::read();
        let cqe = Cqe::from_u64s([entry.load(0), high]);
        self.head += 1;
        if usize::from(self.head) == self.entries.count() {
            self.head = 0;
            self.phase = !self.phase;
        }
        Some((cqe, is_plain))
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
        self.bell.ring(self.head)
    }

    /// What the completions that the device has written, and nobody has consumed yet, name.
    #[cold]
    pub(crate) fn unread(&self) -> Vec<Cid> {
        let count = self.entries.count();
        let entry = |ahead: usize| {
            let at = usize::from(self.head) + ahead;
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
