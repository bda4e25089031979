//! The emulator's own IOMMU: which IOVAs its controller may reach, and what happens at others.
//! A batch of the controller holds the table's read lock, so an unmapping waits for its DMA.
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
pub use underpin_dma::Direction;
use underpin_dma::rt::Waker;
use underpin_dma::rt::sync::{Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use underpin_dma::{Access, Iova, MapRequest, Mapper, MapperError, Memory};

/// DMA that the IOMMU blocked: the host had not mapped the range, or not with that right.
///
/// ```
/// use underpin_emulator::{Direction, Emulator};
///
/// let emulator = Emulator::new("size=1m".parse()?)?;
/// let mut core = emulator.inline_core();
/// emulator.write32(0x24, 0x000f_000f); // AQA: queues of 16 entries,
/// emulator.write64(0x28, 0x10_0000); // ASQ: at IOVAs that nobody has mapped.
/// emulator.write64(0x30, 0x20_0000);
/// emulator.write32(0x14, 0x0046_0001); // CC.EN
/// core.run_batch();
/// emulator.write32(0x1000, 1);
/// core.run_batch();
///
/// let blocked = emulator.iommu_faults()[0];
/// assert_eq!((blocked.iova.get(), blocked.direction), (0x10_0000, Direction::FromHost));
/// assert_eq!((blocked.qid, blocked.cid), (0, None));
/// assert_eq!(emulator.stats().blocked_dma, 1);
/// # Ok::<(), underpin_emulator::EmulatorError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuFault {
    /// Where the access began.
    pub iova: Iova,
    /// How long it was.
    pub len_bytes: u64,
    /// Which way the bytes would have gone.
    pub direction: Direction,
    /// The submission queue of the command, or the queue whose ring it was.
    pub qid: u16,
    /// The command; `None` for the rings and doorbell pages themselves.
    pub cid: Option<u16>,
}

/// Blocked accesses kept for reading; later ones are counted only.
const FAULTS_KEPT: usize = 256;

/// One mapping: a whole memory at an IOVA.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) memory: Arc<Memory>,
    pub(crate) access: Access,
}

/// The table, sorted by IOVA.
#[derive(Debug)]
pub(crate) struct Mappings {
    pub(crate) list: Vec<Mapping>,
    /// Moves with every change: what was looked up before is to be looked up again.
    pub(crate) generation: u64,
    /// The controller was stopped: no DMA any more, whatever is mapped.
    pub(crate) severed: bool,
}

impl Mappings {
    /// The index of the mapping that holds `iova`.
    pub(crate) fn find(&self, iova: u64) -> Option<usize> {
        let index = self
            .list
            .partition_point(|mapping| mapping.first <= iova)
            .checked_sub(1)?;
        (iova <= self.list.get(index)?.last).then_some(index)
    }
}

/// The IOMMU of one emulated controller.
#[derive(Debug)]
pub(crate) struct Iommu {
    name: String,
    usable: Vec<RangeInclusive<u64>>,
    limit: Option<usize>,
    table: RwLock<Mappings>,
    blocked: Mutex<VecDeque<IommuFault>>,
    blocked_count: AtomicU64,
    /// Told of changes, so that a sleeping controller lets go of memory that was unmapped.
    waker: OnceLock<Waker>,
}

impl Iommu {
    pub(crate) fn new(
        name: String,
        usable: Vec<RangeInclusive<u64>>,
        limit: Option<usize>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            usable,
            limit,
            table: RwLock::new(Mappings {
                list: Vec::new(),
                generation: 1,
                severed: false,
            }),
            blocked: Mutex::new(VecDeque::new()),
            blocked_count: AtomicU64::new(0),
            waker: OnceLock::new(),
        })
    }

    pub(crate) fn set_waker(&self, waker: Waker) {
        let _ = self.waker.set(waker);
    }

    /// Keeps batches from being made.
    pub(crate) fn pause(&self) -> RwLockWriteGuard<'_, Mappings> {
        self.table.write()
    }

    /// Access to the table; while it lives nothing is mapped or unmapped.
    #[inline]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Mappings> {
        self.table.read()
    }

    /// Blocks all DMA from now on. When this returns none is under way.
    pub(crate) fn sever(&self) {
        let mut table = self.table.write();
        table.severed = true;
        table.generation += 1;
    }

    #[cold]
    pub(crate) fn record(&self, fault: IommuFault) {
        self.blocked_count.fetch_add(1, Ordering::Relaxed);
        let mut blocked = self.blocked.lock();
        if blocked.len() < FAULTS_KEPT {
            blocked.push_back(fault);
        }
    }

    pub(crate) fn faults(&self) -> Vec<IommuFault> {
        self.blocked.lock().iter().copied().collect()
    }

    pub(crate) fn fault_count(&self) -> u64 {
        self.blocked_count.load(Ordering::Relaxed)
    }

    fn error(&self, what: String) -> MapperError {
        MapperError {
            context: self.name.clone(),
            what,
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

impl Mapper for Iommu {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn map(&self, request: &MapRequest) -> Result<(), MapperError> {
        let first = request.iova.get();
        let len = request.memory.len_bytes() as u64;
        let name = &request.name;
        let last = len
            .checked_sub(1)
            .and_then(|span| first.checked_add(span))
            .ok_or_else(|| self.error(format!("{name:?} has no bytes or passes 2^64")))?;
        let usable = |range: &RangeInclusive<u64>| range.contains(&first) && range.contains(&last);
        if !self.usable.iter().any(usable) {
            return Err(self.error(format!(
                "{name:?} at {first:#x}-{last:#x} lies outside the usable IOVA ranges"
            )));
        }
        {
            let mut table = self.table.write();
            if self.limit.is_some_and(|limit| table.list.len() >= limit) {
                return Err(self.error(format!(
                    "all {} mappings are in use; map fewer, larger regions",
                    table.list.len()
                )));
            }
            let at = table.list.partition_point(|mapping| mapping.first < first);
            let before = at.checked_sub(1).and_then(|before| table.list.get(before));
            if before.is_some_and(|before| before.last >= first)
                || table.list.get(at).is_some_and(|next| next.first <= last)
            {
                return Err(self.error(format!(
                    "{name:?} at {first:#x}-{last:#x} overlaps a mapping"
                )));
            }
            table.list.insert(
                at,
                Mapping {
                    first,
                    last,
                    memory: Arc::clone(&request.memory),
                    access: request.access,
                },
            );
            table.generation += 1;
        }
        Ok(())
    }

    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), MapperError> {
        let first = iova.get();
        // The memory is let go of after the lock.
        let mapping = {
            let mut table = self.table.write();
            let at = table.list.partition_point(|mapping| mapping.first < first);
            let whole = |mapping: &&Mapping| {
                mapping.first == first && mapping.last - first == len_bytes.wrapping_sub(1)
            };
            if table.list.get(at).filter(whole).is_none() {
                return Err(self.error(format!(
                    "no mapping of {len_bytes} bytes begins at {first:#x}; a part cannot be unmapped"
                )));
            }
            table.generation += 1;
            table.list.remove(at)
        };
        drop(mapping);
        self.wake();
        Ok(())
    }

    fn usable(&self) -> Vec<RangeInclusive<u64>> {
        self.usable.clone()
    }

    fn mappings_left(&self) -> Option<usize> {
        let limit = self.limit?;
        Some(limit.saturating_sub(self.table.read().list.len()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use underpin_dma::PageSize;

    fn request(iova: u64, pages: u64) -> MapRequest {
        MapRequest {
            iova: Iova::new(iova),
            memory: Memory::new("m", pages * 4096, PageSize::Small).unwrap(),
            access: Access::ReadWrite,
            name: "m".to_owned(),
        }
    }

    fn iommu(limit: Option<usize>) -> Arc<Iommu> {
        Iommu::new("emu".to_owned(), vec![0x1000..=0xffff_ffff], limit)
    }

    /// Every byte of a mapping is found, no byte beside it, and after unmapping none.
    #[test]
    fn finds_exactly_what_is_mapped() {
        let iommu = iommu(None);
        iommu.map(&request(0x4000, 2)).unwrap();
        iommu.map(&request(0x2000, 1)).unwrap();
        {
            let table = iommu.read();
            for (iova, found) in [
                (0x1fff, None),
                (0x2000, Some(0)),
                (0x2fff, Some(0)),
                (0x3000, None),
                (0x4000, Some(1)),
                (0x5fff, Some(1)),
                (0x6000, None),
            ] {
                assert_eq!(table.find(iova), found, "{iova:#x}");
            }
        }
        iommu.unmap(Iova::new(0x2000), 0x1000).unwrap();
        assert_eq!(iommu.read().find(0x2000), None);
    }

    /// Overlaps, unusable ranges, one mapping too many and partial unmaps are refused, and a
    /// refusal changes nothing.
    #[test]
    fn refuses_what_an_iommu_refuses() {
        let iommu = iommu(Some(2));
        iommu.map(&request(0x4000, 2)).unwrap();
        assert!(iommu.map(&request(0x5000, 1)).is_err());
        assert!(iommu.map(&request(0x3000, 2)).is_err());
        assert!(iommu.map(&request(0, 1)).is_err());
        assert!(iommu.map(&request(0xffff_f000, 2)).is_err());
        assert_eq!(iommu.mappings_left(), Some(1));
        iommu.map(&request(0x6000, 1)).unwrap();
        assert!(iommu.map(&request(0x8000, 1)).is_err());
        assert!(iommu.unmap(Iova::new(0x4000), 0x1000).is_err());
        assert!(iommu.unmap(Iova::new(0x5000), 0x1000).is_err());
        iommu.unmap(Iova::new(0x4000), 0x2000).unwrap();
        assert_eq!(iommu.mappings_left(), Some(1));
    }
}
