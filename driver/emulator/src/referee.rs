//! The race referee: DMA after the end was told, to memory not lent, or into a cache's page that is
//! not in a state for it. Fed by pools, the heap and frames (what is lent to whom, and the states)
//! and by the emulator's bus (every DMA).
mod content;
mod frames;

use crate::bus::Who;
use crate::iommu::Direction;
use content::Contents;
use frames::Caches;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use underpin_dma::rt::sync::Mutex;
use underpin_dma::{FrameStates, Iova, MemoryWatch, View};

/// What the referee objects to.
///
/// An example is at [`Violation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ViolationKind {
    /// DMA for a command after its completion was written: the host may have reused the memory.
    AfterCompletion,
    /// DMA to memory that was lent once and given back.
    GivenBack,
    /// DMA to memory of which no owner was ever told.
    NeverLent,
    /// A device wrote a page between the begin and the end of its direct writeback.
    DuringWriteback,
    /// DMA into a frame that is no page's.
    FreeFrame,
    /// A device wrote, or read, a page that another command is reading in.
    FilledByAnother,
    /// A device wrote a page that is not pinned for writing, or read one that is not pinned.
    Unpinned,
    /// A device wrote a page under a pin that was not granted: nothing was reserved for what it
    /// writes, and the page is not dirty (R2).
    NotReserved,
    /// A device read a page that is being written back from a copy: the copy is what goes out.
    CopyBypassed,
    /// A command fetched other bytes than it was [announced](Referee::announce) with (R15).
    OtherBytes,
}

/// One DMA that ought not to have been.
///
/// ```
/// use underpin_dma::DmaSpace;
/// use underpin_emulator::{Emulator, EmulatorConfig, Referee, ViolationKind};
///
/// // The rings lie in memory of which the referee was never told.
/// let referee = Referee::new();
/// let config = EmulatorConfig::ram(1 << 20, 512).with_referee(referee.clone());
/// let emulator = Emulator::new(config)?;
/// let mut core = emulator.inline_core();
/// let space = DmaSpace::new();
/// let attachment = space.attach(emulator.mapper())?;
/// let ring = space.alloc(8192, 4096)?;
/// emulator.write32(0x24, 0x000f_000f); // AQA
/// emulator.write64(0x28, ring.iova().get());
/// emulator.write64(0x30, ring.iova().get() + 4096);
/// emulator.write32(0x14, 0x0046_0001); // CC.EN
/// core.run_batch();
/// emulator.write32(0x1000, 1);
/// core.run_batch();
///
/// let violation = referee.violations()[0];
/// assert_eq!(violation.kind, ViolationKind::NeverLent);
/// assert_eq!((violation.iova, violation.cid), (ring.iova(), None));
/// assert!(referee.checks() >= referee.violation_count());
/// # drop(attachment);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What was wrong with it.
    pub kind: ViolationKind,
    /// The first byte that the rule forbids.
    pub iova: Iova,
    /// How long the access was from there on.
    pub len_bytes: u64,
    /// Which way the bytes went.
    pub direction: Direction,
    /// Which emulator did it, in the order that they were made, from 1 on; 0: none of them, but
    /// what [`MemoryWatch::dma`] told of.
    pub device: u32,
    /// The submission queue of the command, or the queue whose ring it was.
    pub qid: u16,
    /// The command; `None` for rings and doorbell pages.
    pub cid: Option<u16>,
}

/// Memory is watched in pieces of this many bytes: the heap's granularity.
const GRANULE: u64 = 64;
/// One chunk of the table covers this many bytes of IOVA space.
const CHUNK: u64 = 2 << 20;
const WORDS: usize = (CHUNK / GRANULE / 64) as usize;
const SHARDS: u64 = 16;
/// Violations kept for reading; later ones are counted only.
const KEPT: usize = 1024;

/// Two bits a granule: lent now, and heard of at all. 8 KiB for 2 MiB of memory.
struct Chunk {
    lent: [u64; WORDS],
    known: [u64; WORDS],
}

/// Watches that a device touches only memory that has an owner, and only while it may; and pages
/// of a cache only in a state for it (`docs/PINS.md`).
///
/// One referee serves one [`DmaSpace`](underpin_dma::DmaSpace) and all emulators attached to it:
/// give the same `Arc` to [`SpaceOptions::watch`](underpin_dma::SpaceOptions) and to
/// [`EmulatorConfig::referee`](crate::EmulatorConfig). The space tells it what is lent, in granules
/// of 64 bytes: buffers of pools and of the heap while they are out, regions that a caller made or
/// registered while they live. A range that nobody ever spoke of, such as memory put into the
/// controller's IOMMU past the space, counts as not lent until [`lent`](MemoryWatch::lent) is called
/// for it.
///
/// It costs a lock and a look at one or two words per DMA; memory: 8 KiB for each 2 MiB of IOVA
/// space that was ever lent.
///
/// ```
/// use underpin_dma::{Iova, MemoryWatch};
/// use underpin_emulator::Referee;
///
/// let referee = Referee::new();
/// referee.lent(Iova::new(0x1_0000_0000), 4096);
/// assert_eq!(referee.violation_count(), 0);
/// ```
pub struct Referee {
    shards: Vec<Mutex<HashMap<u64, Box<Chunk>>>>,
    violations: Mutex<Vec<Violation>>,
    violation_count: AtomicU64,
    checks: AtomicU64,
    caches: Caches,
    contents: Contents,
    devices: AtomicU32,
}

/// Whose DMA it is. A command's number is used again after its end, and by other queues before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Command {
    device: u32,
    qid: u16,
    cid: Option<u16>,
}

impl fmt::Debug for Referee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Referee")
            .field("checks", &self.checks)
            .field("violation_count", &self.violation_count)
            .finish_non_exhaustive()
    }
}

impl Referee {
    /// A referee that has heard of no memory yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect(),
            violations: Mutex::new(Vec::new()),
            violation_count: AtomicU64::new(0),
            checks: AtomicU64::new(0),
            caches: Caches::default(),
            contents: Contents::default(),
            devices: AtomicU32::new(0),
        })
    }

    /// The violations seen so far, the first 1024 of them, in the order they happened.
    pub fn violations(&self) -> Vec<Violation> {
        self.violations.lock().clone()
    }

    /// How many violations there were.
    pub fn violation_count(&self) -> u64 {
        self.violation_count.load(Ordering::Acquire)
    }

    /// How many accesses were judged; a referee that has judged none proves nothing.
    pub fn checks(&self) -> u64 {
        self.checks.load(Ordering::Relaxed)
    }

    /// How many accesses were judged by the state of the page that they touched.
    pub fn frame_checks(&self) -> u64 {
        self.caches.checks()
    }

    /// How many accesses touched a page that another command had touched under pins that are still
    /// there, one of the two writing. That is legal (R9): whoever shares a page has to know.
    pub fn overlaps(&self) -> u64 {
        self.caches.overlaps()
    }

    /// The next command that fetches the 4096 bytes at `iova` is to find bytes of this CRC-32C;
    /// other ones are a [violation](ViolationKind::OtherBytes). For whoever decided what a command
    /// writes, before it is submitted: the bytes must not change until its end (R15).
    pub fn announce(&self, iova: Iova, crc32c: u32) {
        self.contents.announce(iova, crc32c);
    }

    /// How many announced pages were fetched, whatever their bytes.
    pub fn fetched(&self) -> u64 {
        self.contents.fetched()
    }

    /// The number of one more device.
    pub(crate) fn next_device(&self) -> u32 {
        self.devices.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A command has failed, or all of a queue (no `cid`), or of a device (no `qid`): another may
    /// take up what it was reading in.
    pub(crate) fn ended(&self, device: u32, qid: Option<u16>, cid: Option<u16>) {
        let is_it = |command: Command| {
            command.device == device
                && qid.is_none_or(|qid| command.qid == qid)
                && cid.is_none_or(|cid| command.cid == Some(cid))
        };
        self.caches.forget(is_it);
        self.contents.forget(is_it);
    }

    /// A command is fetching these bytes.
    pub(crate) fn fetching(&self, iova: Iova, bytes: View<'_>, device: u32, who: Who) {
        let Who { qid, cid, .. } = who;
        let command = Command { device, qid, cid };
        if cid.is_some() && self.contents.differs(iova, bytes, command) {
            self.report(Violation {
                kind: ViolationKind::OtherBytes,
                iova,
                len_bytes: bytes.len_bytes() as u64,
                direction: Direction::FromHost,
                device,
                qid,
                cid,
            });
        }
    }

    /// Judges one access.
    pub(crate) fn dma(
        &self,
        iova: Iova,
        len_bytes: u64,
        direction: Direction,
        device: u32,
        who: Who,
    ) {
        self.checks.fetch_add(1, Ordering::Relaxed);
        let blame = |kind, iova: u64, len_bytes| Violation {
            kind,
            iova: Iova::new(iova),
            len_bytes,
            direction,
            device,
            qid: who.qid,
            cid: who.cid,
        };
        if who.told {
            self.report(blame(ViolationKind::AfterCompletion, iova.get(), len_bytes));
        }
        let Some(end) = iova.get().checked_add(len_bytes) else {
            return;
        };
        let first = iova.get() / GRANULE;
        let mut bad = None;
        self.each_word(
            first,
            end.div_ceil(GRANULE),
            false,
            |chunk, word, mask, at| {
                let chunk = chunk.as_deref();
                let missing =
                    mask & !chunk.map_or(0, |chunk| chunk.lent.get(word).copied().unwrap_or(0));
                if missing != 0 && bad.is_none() {
                    let bit = u64::from(missing.trailing_zeros());
                    let known =
                        chunk.map_or(0, |chunk| chunk.known.get(word).copied().unwrap_or(0));
                    let kind = if known >> bit & 1 == 1 {
                        ViolationKind::GivenBack
                    } else {
                        ViolationKind::NeverLent
                    };
                    bad = Some((kind, ((at + bit) * GRANULE).max(iova.get())));
                }
            },
        );
        if let Some((kind, at)) = bad {
            self.report(blame(kind, at, end - at));
        }
        let Who { qid, cid, .. } = who;
        let command = Command { device, qid, cid };
        self.caches
            .judge(iova.get(), end, direction, command, |kind, at, len| {
                self.report(blame(kind, at, len));
            });
    }

    #[cold]
    fn report(&self, violation: Violation) {
        let mut kept = self.violations.lock();
        if kept.len() < KEPT {
            kept.push(violation);
        }
        self.violation_count.fetch_add(1, Ordering::Release);
    }

    /// Calls `look` for each word of the table that granules `first..end` touch, with the mask of
    /// those granules and the number of the word's first granule.
    fn each_word(
        &self,
        first: u64,
        end: u64,
        create: bool,
        mut look: impl FnMut(Option<&mut Chunk>, usize, u64, u64),
    ) {
        const PER_CHUNK: u64 = CHUNK / GRANULE;
        let mut at = first;
        while at < end {
            let number = at / PER_CHUNK;
            let chunk_end = ((number + 1) * PER_CHUNK).min(end);
            let Some(shard) = self.shards.get((number % SHARDS) as usize) else {
                return;
            };
            let mut shard = shard.lock();
            let mut chunk = if create {
                Some(shard.entry(number).or_insert_with(|| {
                    Box::new(Chunk {
                        lent: [0; WORDS],
                        known: [0; WORDS],
                    })
                }))
            } else {
                shard.get_mut(&number)
            };
            while at < chunk_end {
                let word_start = at / 64 * 64;
                let word_end = (word_start + 64).min(chunk_end);
                let count = word_end - at;
                let mask = (u64::MAX >> (64 - count)) << (at - word_start);
                let word = (word_start % PER_CHUNK / 64) as usize;
                look(
                    chunk.as_deref_mut().map(|chunk| &mut **chunk),
                    word,
                    mask,
                    word_start,
                );
                at = word_end;
            }
        }
    }
}

impl MemoryWatch for Referee {
    /// The range has an owner from now on. Widened to whole granules of 64 bytes.
    fn lent(&self, iova: Iova, len_bytes: u64) {
        let end = iova.get().saturating_add(len_bytes).div_ceil(GRANULE);
        self.each_word(iova.get() / GRANULE, end, true, |chunk, word, mask, _| {
            if let Some(chunk) = chunk
                && let (Some(lent), Some(known)) =
                    (chunk.lent.get_mut(word), chunk.known.get_mut(word))
            {
                *lent |= mask;
                *known |= mask;
            }
        });
    }

    /// The range has no owner from now on. Narrowed to whole granules of 64 bytes.
    fn returned(&self, iova: Iova, len_bytes: u64) {
        let end = iova.get().saturating_add(len_bytes) / GRANULE;
        self.each_word(
            iova.get().div_ceil(GRANULE),
            end,
            true,
            |chunk, word, mask, _| {
                if let Some(chunk) = chunk
                    && let (Some(lent), Some(known)) =
                        (chunk.lent.get_mut(word), chunk.known.get_mut(word))
                {
                    *lent &= !mask;
                    *known |= mask;
                }
            },
        );
    }

    /// DMA into the range is judged by the states of its frames from now on.
    fn frames(&self, iova: Iova, len_bytes: u64, states: FrameStates) {
        self.caches.add(iova, len_bytes, states);
    }

    fn frames_gone(&self, iova: Iova, _len_bytes: u64) {
        self.caches.remove(iova);
    }

    fn dma(&self, iova: Iova, len_bytes: u64, direction: Direction) {
        // One for all: who they are is not known, so they are never another's to each other.
        self.dma(iova, len_bytes, direction, 0, Who::ring(0));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WHO: Who = Who {
        qid: 1,
        cid: Some(7),
        told: false,
    };

    /// Lent memory may be touched, memory beside it or given back may not, and the first
    /// forbidden byte is named.
    #[test]
    fn judges_by_what_is_lent_now() {
        let referee = Referee::new();
        let base = 0x1_0000_0000 - 128;
        // Across two chunks of the table.
        referee.lent(Iova::new(base), 256);
        referee.dma(Iova::new(base + 4), 200, Direction::ToHost, 1, WHO);
        assert_eq!(referee.violations(), []);
        referee.dma(Iova::new(base + 4), 253, Direction::ToHost, 1, WHO);
        referee.returned(Iova::new(base + 64), 64);
        referee.dma(Iova::new(base), 256, Direction::FromHost, 1, WHO);
        let seen: Vec<_> = referee
            .violations()
            .iter()
            .map(|v| (v.kind, v.iova.get() - base, v.direction))
            .collect();
        assert_eq!(
            seen,
            [
                (ViolationKind::NeverLent, 256, Direction::ToHost),
                (ViolationKind::GivenBack, 64, Direction::FromHost),
            ]
        );
        assert_eq!(referee.checks(), 3);
    }

    /// DMA after the completion is a violation even where the memory has an owner (a new one).
    #[test]
    fn late_dma_is_a_violation_in_lent_memory() {
        let referee = Referee::new();
        referee.lent(Iova::new(0x2000), 4096);
        let late = Who { told: true, ..WHO };
        referee.dma(Iova::new(0x2000), 512, Direction::ToHost, 1, late);
        let violations = referee.violations();
        assert_eq!(violations.len(), 1);
        assert!(
            violations
                .iter()
                .all(|v| v.kind == ViolationKind::AfterCompletion && v.cid == Some(7))
        );
    }

    /// R15: what a command fetches of an announced page, in pieces, is what was announced; one
    /// changed bit is seen, whoever else reads there, and a command that failed may be sent again.
    #[test]
    fn an_announced_page_is_fetched_as_it_was() {
        let referee = Referee::new();
        let memory = underpin_dma::DmaSpace::new().alloc(8192, 4096).unwrap();
        let view = memory.view();
        let bytes: Vec<u8> = (0..8192_u32).map(|at| (at ^ (at >> 8)) as u8).collect();
        view.copy_from(0, &bytes).unwrap();
        let crc = crc32c::crc32c(&bytes[4096..]);
        let fetch = |cid, from: usize, len: usize| {
            let iova = memory.iova().wrapping_add(from as u64);
            let who = Who {
                cid: Some(cid),
                ..WHO
            };
            referee.fetching(iova, view.part(from, len).unwrap(), 1, who);
        };
        let page = memory.iova().wrapping_add(4096);
        referee.announce(page, crc);
        // The first time it fails half way.
        fetch(1, 4096, 2048);
        referee.ended(1, Some(1), Some(1));
        fetch(2, 0, 4096 + 512);
        fetch(3, 6144, 512);
        // Somebody reads beside it, and goes on when it has ended.
        fetch(6, 4096, 512);
        (1..8).for_each(|block| fetch(2, 4096 + 512 * block, 512));
        assert_eq!((referee.fetched(), referee.violation_count()), (1, 0));
        view.copy_from(5000, &[!bytes[5000]]).unwrap();
        (1..8).for_each(|block| fetch(6, 4096 + 512 * block, 512));
        assert_eq!((referee.fetched(), referee.violation_count()), (1, 0));
        // Nobody announced it this time.
        fetch(4, 4096, 4096);
        assert_eq!((referee.fetched(), referee.violation_count()), (1, 0));
        referee.announce(page, crc);
        fetch(5, 4096, 4096);
        assert_eq!(referee.fetched(), 2);
        let violation = referee.violations()[0];
        assert_eq!(violation.kind, ViolationKind::OtherBytes);
        assert_eq!(
            (violation.cid, violation.direction),
            (Some(5), Direction::FromHost)
        );
    }
}
