//! Rings as the controller sees them: where entries are, how far each side has come.
//! Every index that comes from the host is checked before it is used.
use crate::bar::Bar;
use crate::bus::{Blocked, Bus, Who};
use crate::doorbells::DoorbellPage;
use crate::iommu::{Direction, Mappings};
use crate::shadow::{ShadowPages, ShadowWords};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use underpin_dma::{Records, barrier};
use underpin_nvme_spec::{Cqe, Sqe};

/// Why an index from the host was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing new.
    Same,
    /// The index has moved.
    Moved,
    /// A value outside the ring was written; it is ignored.
    Invalid,
}

/// What both kinds of ring have: memory and a doorbell.
#[derive(Debug)]
struct Bell {
    /// In BAR0, in doorbells.
    index: usize,
    shadow: Option<ShadowWords>,
    /// What the host last wrote, valid or not.
    raw: u32,
    /// EventIdx names an index of the ring, or what the host found fit to put there.
    asks: bool,
    /// Where a peer writes the doorbell without a message; `None`: not looked for yet.
    page: Option<Option<Arc<DoorbellPage>>>,
}

impl Bell {
    fn new(index: usize) -> Self {
        Self {
            index,
            shadow: None,
            raw: 0,
            asks: true,
            page: None,
        }
    }

    /// The value now: from the shadow page where there is one, else from the register.
    #[inline(always)]
    fn load(
        &mut self,
        bus: &mut Bus,
        map: &Mappings,
        bar: &Bar,
        pages: Option<&ShadowPages>,
    ) -> Result<u32, Blocked> {
        if let Some(shadow) = &self.shadow {
            return Ok(shadow.value.load(Ordering::Acquire));
        }
        self.load_slowly(bus, map, bar, pages)
    }

    #[inline(never)]
    fn load_slowly(
        &mut self,
        bus: &mut Bus,
        map: &Mappings,
        bar: &Bar,
        pages: Option<&ShadowPages>,
    ) -> Result<u32, Blocked> {
        // The admin queue never has shadow doorbells (Base 2.0, 5.8).
        if self.index >= 2
            && let Some(pages) = pages
        {
            self.shadow = pages.words(bus, map, self.index)?;
            if let Some(shadow) = &self.shadow {
                return Ok(shadow.value.load(Ordering::Acquire));
            }
        }
        match self.page.get_or_insert_with(|| bar.page()) {
            Some(page) => Ok(page.load(self.index)),
            None => Ok(bar.doorbell(self.index)),
        }
    }

    fn publish(&mut self, index: u16) {
        self.asks = index != NO_INDEX;
        if let Some(shadow) = &self.shadow {
            shadow.event_idx.store(u32::from(index), Ordering::Relaxed);
        }
    }

    /// The controller is awake: an index that stays behind would be passed again at every wrap
    /// of the ring, and each time cost the host a register write and us a wake-up.
    #[inline(always)]
    fn stop_asking(&mut self) {
        if self.asks {
            self.publish(NO_INDEX);
        }
    }
}

/// No index of any ring: a host never passes it. A host that compares modulo 2^16 passes it once
/// a wrap, which costs a needless wake-up and loses none.
const NO_INDEX: u16 = u16::MAX;

/// A submission queue.
#[derive(Debug)]
pub(crate) struct Sq {
    pub(crate) qid: u16,
    pub(crate) cqid: u16,
    pub(crate) entries: u32,
    pub(crate) head: u32,
    pub(crate) tail: u32,
    iova: u64,
    bell: Bell,
    ring: Option<Records<8>>,
}

impl Sq {
    pub(crate) fn new(qid: u16, cqid: u16, iova: u64, entries: u32) -> Box<Self> {
        Box::new(Self {
            qid,
            cqid,
            entries,
            head: 0,
            tail: 0,
            iova,
            bell: Bell::new(2 * usize::from(qid)),
            ring: None,
        })
    }

    /// Looks how far the host has written.
    #[inline(always)]
    pub(crate) fn look(
        &mut self,
        bus: &mut Bus,
        map: &Mappings,
        bar: &Bar,
        pages: Option<&ShadowPages>,
    ) -> Result<Look, Blocked> {
        let raw = self.bell.load(bus, map, bar, pages)?;
        if raw == self.bell.raw {
            return Ok(Look::Same);
        }
        self.bell.raw = raw;
        if raw >= self.entries {
            return Ok(Look::Invalid);
        }
        self.tail = raw;
        self.bell.stop_asking();
        Ok(Look::Moved)
    }

    #[inline(always)]
    pub(crate) const fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Makes the ring's memory reachable, if it is not.
    #[inline(always)]
    pub(crate) fn open(&mut self, bus: &mut Bus, map: &Mappings) -> Result<(), Blocked> {
        if self.ring.is_none() {
            let len = u64::from(self.entries) * Sqe::LEN_BYTES as u64;
            let who = Who::ring(self.qid);
            let slice = bus.ring(map, self.iova, len, Direction::FromHost, who)?;
            self.ring = Records::new(slice, self.entries as usize).ok();
        }
        match self.ring.is_some() {
            true => Ok(()),
            false => Err(Blocked),
        }
    }

    /// Reads the entry at the head and moves on. The queue is open and not empty.
    #[inline(always)]
    pub(crate) fn fetch(&mut self, bus: &Bus) -> Option<[u64; 8]> {
        let at = self.head;
        let words = self.ring.as_ref()?.read(at as usize);
        bus.ring_access(
            self.iova + u64::from(at) * Sqe::LEN_BYTES as u64,
            Sqe::LEN_BYTES as u64,
            Direction::FromHost,
            self.qid,
        );
        self.head = if at + 1 == self.entries { 0 } else { at + 1 };
        Some(words)
    }

    /// The first word of the entry at the head. The queue is open and not empty.
    #[inline(always)]
    pub(crate) fn next_word(&self) -> Option<u64> {
        Some(self.ring.as_ref()?.read_word(self.head as usize, 0))
    }

    /// Where up to `count` entries from the head on lie, not over the ring's end. The queue is open.
    #[inline(always)]
    pub(crate) fn ahead(&self, count: usize) -> Option<(&Records<8>, Range<usize>)> {
        let (head, tail) = (self.head as usize, self.tail as usize);
        let entries = self.entries as usize;
        let end = if tail < head { entries } else { tail };
        Some((self.ring.as_ref()?, head..end.min(head + count)))
    }

    /// Moves on by `count` entries that [`ahead`](Self::ahead) gave.
    #[inline(always)]
    pub(crate) const fn pass(&mut self, count: usize) {
        self.head += count as u32;
        if self.head == self.entries {
            self.head = 0;
        }
    }

    /// Says that the next `count` entries are going to be read soon, as far as they are there.
    #[inline(always)]
    pub(crate) fn expect(&self, count: u32) {
        let Some(ring) = &self.ring else { return };
        let (head, tail) = (self.head as usize, self.tail as usize);
        let (mut left, mut at) = (count as usize, head);
        if tail < head {
            let lap = left.min(self.entries as usize - head);
            ring.expect_reads(head, lap);
            (left, at) = (left - lap, 0);
        }
        if at <= tail {
            ring.expect_reads(at, left.min(tail - at));
        }
    }

    /// Asks to be woken when the tail moves on from here.
    pub(crate) fn publish(&mut self) {
        self.bell.publish(self.bell.raw as u16);
    }

    /// Forgets memory that may have been unmapped.
    pub(crate) fn close(&mut self) {
        self.ring = None;
        self.bell.shadow = None;
    }
}

/// A completion queue.
#[derive(Debug)]
pub(crate) struct Cq {
    pub(crate) qid: u16,
    entries: u32,
    /// How far the host has read, as far as we know.
    head: u32,
    tail: u32,
    phase: bool,
    iova: u64,
    bell: Bell,
    ring: Option<Records<2>>,
    /// Submission queues that complete here.
    pub(crate) users: u32,
    /// A completion waits for room: the host's next read is news.
    pub(crate) waiting: bool,
    /// The vector to raise when completions were written; `None` without interrupts.
    pub(crate) vector: Option<u16>,
}

impl Cq {
    pub(crate) fn new(qid: u16, iova: u64, entries: u32, vector: Option<u16>) -> Box<Self> {
        Box::new(Self {
            qid,
            entries,
            head: 0,
            tail: 0,
            phase: true,
            iova,
            bell: Bell::new(2 * usize::from(qid) + 1),
            ring: None,
            users: 0,
            waiting: false,
            vector,
        })
    }

    /// How many completions fit, as far as we know.
    #[inline(always)]
    pub(crate) const fn room(&self) -> u32 {
        let used = if self.tail >= self.head {
            self.tail - self.head
        } else {
            self.tail + self.entries - self.head
        };
        self.entries - 1 - used
    }

    /// Looks how far the host has read.
    pub(crate) fn look(
        &mut self,
        bus: &mut Bus,
        map: &Mappings,
        bar: &Bar,
        pages: Option<&ShadowPages>,
    ) -> Result<Look, Blocked> {
        let raw = self.bell.load(bus, map, bar, pages)?;
        if raw == self.bell.raw {
            return Ok(Look::Same);
        }
        self.bell.raw = raw;
        // The host can have read only what was written.
        let forward = |from: u32, to: u32| (to + self.entries - from) % self.entries;
        if raw >= self.entries || forward(self.head, raw) > forward(self.head, self.tail) {
            return Ok(Look::Invalid);
        }
        self.head = raw;
        self.bell.stop_asking();
        Ok(Look::Moved)
    }

    /// Makes the ring's memory reachable, if it is not.
    #[inline(always)]
    pub(crate) fn open(&mut self, bus: &mut Bus, map: &Mappings) -> Result<(), Blocked> {
        if self.ring.is_none() {
            let len = u64::from(self.entries) * Cqe::LEN_BYTES as u64;
            let who = Who::ring(self.qid);
            let slice = bus.ring(map, self.iova, len, Direction::ToHost, who)?;
            self.ring = Records::new(slice, self.entries as usize).ok();
        }
        match self.ring.is_some() {
            true => Ok(()),
            false => Err(Blocked),
        }
    }

    /// Says that the next `count` entries are going to be written soon.
    #[inline(always)]
    pub(crate) fn expect(&self, count: u32) {
        const A_LINE: usize = 64 / Cqe::LEN_BYTES;
        let Some(ring) = &self.ring else { return };
        for ahead in (0..count + A_LINE as u32 - 1).step_by(A_LINE) {
            let at = self.tail + ahead;
            let at = if at < self.entries {
                at
            } else {
                at - self.entries
            };
            ring.expect_write(at as usize);
        }
    }

    /// Writes a completion, with the right phase or, on request, the wrong one. The queue is open
    /// and has room. `entry` makes the completion for a phase.
    #[inline(always)]
    pub(crate) fn post(&mut self, bus: &Bus, wrong_phase: bool, entry: impl FnOnce(bool) -> Cqe) {
        let Some(ring) = &self.ring else { return };
        let [low, high] = entry(self.phase != wrong_phase).as_u64s();
        let at = self.tail as usize;
        ring.write_word(at, 0, low);
        // Data and the first half are there before the phase says so.
        barrier::write();
        ring.write_word(at, 1, high);
        bus.ring_access(
            self.iova + at as u64 * Cqe::LEN_BYTES as u64,
            Cqe::LEN_BYTES as u64,
            Direction::ToHost,
            self.qid,
        );
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }

    /// Writes completions of commands that succeeded. The queue is open and has room for them.
    #[inline(always)]
    pub(crate) fn post_successes(&mut self, cids: &[u64], sq_head: u16, sqid: u16) {
        let Some(ring) = &self.ring else { return };
        let same = u64::from(sq_head) | u64::from(sqid) << 16;
        let put = |cids: &[u64], from: u32, phase: bool| {
            let same = same | u64::from(phase) << 48;
            for (at, cid) in (from as usize..).zip(cids) {
                let place = ring.record(at);
                place.store(0, 0);
                // Data and the first half are there before the phase says so.
                barrier::write();
                place.store(1, same | cid << 32);
            }
        };
        let lap = cids.len().min((self.entries - self.tail) as usize);
        let (lap, rest) = cids.split_at(lap);
        put(lap, self.tail, self.phase);
        self.tail += lap.len() as u32;
        if self.tail == self.entries {
            put(rest, 0, !self.phase);
            self.tail = rest.len() as u32;
            self.phase = !self.phase;
        }
    }

    /// Asks to be woken when the head moves on from here, if anything waits for that. Otherwise
    /// asks for the index behind, which the head has passed already, also for a host
    /// that compares modulo 2^16.
    pub(crate) fn publish(&mut self) {
        let seen = self.bell.raw as u16;
        let index = if self.waiting {
            seen
        } else {
            seen.wrapping_sub(1)
        };
        self.bell.publish(index);
    }

    /// Forgets memory that may have been unmapped.
    pub(crate) fn close(&mut self) {
        self.ring = None;
        self.bell.shadow = None;
    }
}
