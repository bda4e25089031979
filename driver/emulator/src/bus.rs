//! The controller's way to host memory: every byte passes the IOMMU and the referee here.
//! Translations are remembered by index, valid for one generation of the IOMMU's table.
use crate::iommu::{Direction, Iommu, IommuFault, Mapping, Mappings};
use crate::referee::Referee;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use underpin_dma::{Access, Iova, MemSlice, View};

/// On whose behalf DMA is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) qid: u16,
    pub(crate) cid: Option<u16>,
    /// The host was told already that the command ended.
    pub(crate) told: bool,
}

impl Who {
    /// A queue's own ring or doorbells.
    pub(crate) const fn ring(qid: u16) -> Self {
        Self {
            qid,
            cid: None,
            told: false,
        }
    }
}

/// The IOMMU blocked an access; it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocked;

#[derive(Clone, Copy, Debug)]
struct Remembered {
    first: u64,
    last: u64,
    index: usize,
}

/// Nothing lies in it: the first is behind the last.
const NOTHING: Remembered = Remembered {
    first: 1,
    last: 0,
    index: 0,
};

/// The bus master of one controller.
#[derive(Debug)]
pub(crate) struct Bus {
    iommu: Arc<Iommu>,
    referee: Option<Arc<Referee>>,
    /// Its number among those of the referee.
    device: u32,
    generation: u64,
    remembered: [Remembered; 4],
    next: usize,
    pub(crate) bytes_from_host: u64,
    pub(crate) bytes_to_host: u64,
    /// Those of them that are no blocks: lists, answers, ranges.
    pub(crate) overhead_from_host: u64,
    pub(crate) overhead_to_host: u64,
}

impl Bus {
    pub(crate) fn new(iommu: Arc<Iommu>, referee: Option<Arc<Referee>>) -> Self {
        Self {
            iommu,
            device: referee.as_ref().map_or(0, |referee| referee.next_device()),
            referee,
            generation: 0,
            remembered: [NOTHING; 4],
            next: 0,
            bytes_from_host: 0,
            bytes_to_host: 0,
            overhead_from_host: 0,
            overhead_to_host: 0,
        }
    }

    /// Forgets what was looked up in an older table. True when the table has changed.
    #[inline]
    pub(crate) fn revalidate(&mut self, map: &Mappings) -> bool {
        if self.generation == map.generation {
            return false;
        }
        self.generation = map.generation;
        self.remembered = [NOTHING; 4];
        true
    }

    /// The mapping that holds `iova`.
    #[inline(always)]
    fn lookup<'m>(&mut self, map: &'m Mappings, iova: u64) -> Option<&'m Mapping> {
        for at in 0..self.remembered.len() {
            let known = self.remembered[at];
            if known.first <= iova && iova <= known.last {
                // Rings are looked up once, data over and over: what is found comes first.
                if at != 0 {
                    self.remembered.swap(0, at);
                }
                return map.list.get(known.index);
            }
        }
        self.look_up_slowly(map, iova)
    }

    #[cold]
    fn look_up_slowly<'m>(&mut self, map: &'m Mappings, iova: u64) -> Option<&'m Mapping> {
        let index = map.find(iova)?;
        let mapping = map.list.get(index)?;
        let at = self.next % self.remembered.len();
        self.next += 1;
        if let Some(place) = self.remembered.get_mut(at) {
            *place = Remembered {
                first: mapping.first,
                last: mapping.last,
                index,
            };
        }
        Some(mapping)
    }

    /// Where the mapping begins that data was last found in, and how far behind that its last byte
    /// lies, if it may be written. `None` too when somebody wants to hear of each access.
    #[inline(always)]
    pub(crate) fn last_found(&self, map: &Mappings) -> Option<(u64, u64)> {
        let [Remembered { first, last, index }, ..] = self.remembered;
        let writable = map.list.get(index)?.access == Access::ReadWrite;
        let span = last.checked_sub(first)?;
        (writable && self.referee.is_none()).then_some((first, span))
    }

    /// The mapping and how many of `len_bytes` bytes from `iova` on lie in it, if the access is
    /// allowed there. Told to the referee; counted.
    #[inline(always)]
    fn piece<'m>(
        &mut self,
        map: &'m Mappings,
        iova: u64,
        len_bytes: u64,
        direction: Direction,
        who: Who,
    ) -> Result<(&'m Mapping, u64), Blocked> {
        let allowed = |mapping: &&Mapping| {
            direction == Direction::FromHost || mapping.access == Access::ReadWrite
        };
        let Some(mapping) = self.lookup(map, iova).filter(allowed) else {
            return Err(self.blocked(iova, len_bytes, direction, who));
        };
        let len = len_bytes.min((mapping.last - iova).saturating_add(1));
        if let Some(referee) = &self.referee {
            referee.dma(Iova::new(iova), len, direction, self.device, who);
            if direction == Direction::FromHost
                && let Ok(bytes) = mapping
                    .memory
                    .part((iova - mapping.first) as usize, len as usize)
            {
                referee.fetching(Iova::new(iova), bytes, self.device, who);
            }
        }
        match direction {
            Direction::FromHost => self.bytes_from_host += len,
            Direction::ToHost => self.bytes_to_host += len,
        }
        Ok((mapping, len))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn blocked(
        &mut self,
        iova: u64,
        len_bytes: u64,
        direction: Direction,
        who: Who,
    ) -> Blocked {
        self.iommu.record(IommuFault {
            iova: Iova::new(iova),
            len_bytes,
            direction,
            qid: who.qid,
            cid: who.cid,
        });
        Blocked
    }

    /// Passes `len_bytes` bytes of host memory to `each` as windows, in order; a range may lie in
    /// several adjacent mappings. `each` gets the window's offset in the range.
    #[inline(always)]
    pub(crate) fn windows<E: From<Blocked>>(
        &mut self,
        map: &Mappings,
        iova: u64,
        len_bytes: usize,
        direction: Direction,
        who: Who,
        mut each: impl FnMut(usize, View<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut done = 0;
        while done < len_bytes {
            let left = (len_bytes - done) as u64;
            let Some(at) = iova.checked_add(done as u64) else {
                return Err(self.blocked(iova, len_bytes as u64, direction, who).into());
            };
            let (mapping, len) = self.piece(map, at, left, direction, who)?;
            let view = mapping
                .memory
                .part((at - mapping.first) as usize, len as usize);
            // The table says that the range lies in the memory; were it wrong, nothing moves.
            let Ok(view) = view else {
                return Err(self.blocked(at, len, direction, who).into());
            };
            each(done, view)?;
            done += len as usize;
        }
        Ok(())
    }

    /// Checks a transfer as if it were made, and moves nothing.
    #[inline(always)]
    pub(crate) fn check(
        &mut self,
        map: &Mappings,
        iova: u64,
        len_bytes: usize,
        direction: Direction,
        who: Who,
    ) -> Result<(), Blocked> {
        let mut at = iova;
        let mut left = len_bytes as u64;
        loop {
            let (_, len) = self.piece(map, at, left, direction, who)?;
            left -= len;
            if left == 0 {
                return Ok(());
            }
            at = match at.checked_add(len) {
                Some(at) => at,
                None => return Err(self.blocked(iova, len_bytes as u64, direction, who)),
            };
        }
    }

    /// Reads aligned little-endian words of host memory: entries of a PRP list.
    pub(crate) fn read_words(
        &mut self,
        map: &Mappings,
        iova: u64,
        words: &mut [u64],
        who: Who,
    ) -> Result<(), Blocked> {
        let len = words.len() * 8;
        self.overhead_from_host += len as u64;
        self.windows(map, iova, len, Direction::FromHost, who, |at, view| {
            // Mappings are whole pages, so no word lies in two of them.
            for offset in (0..view.len_bytes()).step_by(8) {
                let word = words.get_mut((at + offset) / 8).ok_or(Blocked)?;
                let loaded = view.load_u64(offset, Ordering::Relaxed);
                *word = loaded.map_err(|_| Blocked)?;
            }
            Ok(())
        })
    }

    /// Reads host memory.
    pub(crate) fn read(
        &mut self,
        map: &Mappings,
        iova: u64,
        dst: &mut [u8],
        who: Who,
    ) -> Result<(), Blocked> {
        self.overhead_from_host += dst.len() as u64;
        self.windows(
            map,
            iova,
            dst.len(),
            Direction::FromHost,
            who,
            |at, view| {
                let part = dst.get_mut(at..at + view.len_bytes()).ok_or(Blocked)?;
                view.copy_to(0, part).map_err(|_| Blocked)
            },
        )
    }

    /// Writes host memory.
    pub(crate) fn write(
        &mut self,
        map: &Mappings,
        iova: u64,
        src: &[u8],
        who: Who,
    ) -> Result<(), Blocked> {
        self.overhead_to_host += src.len() as u64;
        self.windows(map, iova, src.len(), Direction::ToHost, who, |at, view| {
            let part = src.get(at..at + view.len_bytes()).ok_or(Blocked)?;
            view.copy_from(0, part).map_err(|_| Blocked)
        })
    }

    /// A ring's or doorbell page's memory, to be used until the table changes.
    pub(crate) fn ring(
        &mut self,
        map: &Mappings,
        iova: u64,
        len_bytes: u64,
        direction: Direction,
        who: Who,
    ) -> Result<MemSlice, Blocked> {
        let (mapping, len) = self.piece(map, iova, len_bytes, direction, who)?;
        // Making a ring reachable moves nothing.
        match direction {
            Direction::FromHost => self.bytes_from_host -= len,
            Direction::ToHost => self.bytes_to_host -= len,
        }
        // One mapping must hold it all: the emulator does not stitch rings together.
        if len < len_bytes {
            return Err(self.blocked(iova, len_bytes, direction, who));
        }
        MemSlice::new(
            &mapping.memory,
            (iova - mapping.first) as usize,
            len as usize,
        )
        .map_err(|_| Blocked)
    }

    /// Tells the referee of a ring access that goes through a remembered slice.
    #[inline(always)]
    pub(crate) fn ring_access(&self, iova: u64, len_bytes: u64, direction: Direction, qid: u16) {
        if let Some(referee) = &self.referee {
            let who = Who::ring(qid);
            referee.dma(Iova::new(iova), len_bytes, direction, self.device, who);
        }
    }

    /// Tells the referee that a command has failed, or all of a queue, or of the device.
    pub(crate) fn command_failed(&self, qid: Option<u16>, cid: Option<u16>) {
        if let Some(referee) = &self.referee {
            referee.ended(self.device, qid, cid);
        }
    }
}
