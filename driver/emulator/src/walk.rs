//! Walks PRP entries and lists (Base 2.0, 4.1.1) as a strict controller does.
//! Written from the specification, sharing nothing with the driver that builds them.
use crate::bus::{Bus, Who};
use crate::iommu::Mappings;
use underpin_nvme_spec::Status;

/// Entries of a list read at a time.
const AHEAD: usize = 8;

/// A run of host memory within one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) iova: u64,
    pub(crate) len_bytes: u64,
}

/// What a transfer of at most two pages names: PRP1, and PRP2 as a page. `None` when it takes a
/// list. The rules are those of [`PrpWalk`]; this is the way of most commands.
#[inline(always)]
pub(crate) fn without_list(
    prp1: u64,
    prp2: u64,
    len_bytes: u64,
    page_bytes: u64,
) -> Option<Result<[Segment; 2], Status>> {
    let first = len_bytes.min(page_bytes - (prp1 & (page_bytes - 1)));
    let second = len_bytes - first;
    if second > page_bytes {
        return None;
    }
    if prp1 & 3 != 0 || (second != 0 && prp2 & (page_bytes - 1) != 0) {
        return Some(Err(OFFSET_INVALID));
    }
    Some(Ok([
        Segment {
            iova: prp1,
            len_bytes: first,
        },
        Segment {
            iova: prp2,
            len_bytes: second,
        },
    ]))
}

#[derive(Clone, Copy, Debug)]
enum Next {
    /// PRP1, with an offset into its page.
    First,
    /// PRP2: the second page, or the list.
    Second,
    /// The entry at this address of a list page.
    List(u64),
}

/// Yields the runs of one transfer, in order.
#[derive(Clone, Debug)]
pub(crate) struct PrpWalk {
    prp1: u64,
    prp2: u64,
    page_bytes: u64,
    /// Bytes of the transfer that no run has covered yet.
    left: u64,
    next: Next,
    ahead: [u64; AHEAD],
    /// How many entries of `ahead` were taken, and how many there are.
    taken: usize,
    read: usize,
}

const OFFSET_INVALID: Status = Status::PRP_OFFSET_INVALID.with_do_not_retry();

impl PrpWalk {
    #[inline(always)]
    pub(crate) fn new(prp1: u64, prp2: u64, len_bytes: u64, page_bytes: u64) -> Self {
        Self {
            prp1,
            prp2,
            page_bytes,
            left: len_bytes,
            next: Next::First,
            ahead: [0; AHEAD],
            taken: 0,
            read: 0,
        }
    }

    /// The next run; `None` at the end of the transfer.
    #[inline(always)]
    pub(crate) fn next(
        &mut self,
        bus: &mut Bus,
        map: &Mappings,
        who: Who,
    ) -> Result<Option<Segment>, Status> {
        if self.left == 0 {
            return Ok(None);
        }
        let page = self.page_bytes;
        let iova = match self.next {
            Next::First => {
                // Dword aligned; only here an offset into the page is allowed.
                if self.prp1 & 3 != 0 {
                    return Err(OFFSET_INVALID);
                }
                self.next = Next::Second;
                self.prp1
            }
            Next::Second if self.left <= page => {
                if self.prp2 & (page - 1) != 0 {
                    return Err(OFFSET_INVALID);
                }
                self.prp2
            }
            Next::Second => {
                // The list may begin anywhere in its page, at a whole entry.
                if self.prp2 & 7 != 0 {
                    return Err(OFFSET_INVALID);
                }
                self.next = Next::List(self.prp2);
                self.entry(bus, map, who)?
            }
            Next::List(_) => self.entry(bus, map, who)?,
        };
        let len_bytes = self.left.min(page - (iova & (page - 1)));
        self.left -= len_bytes;
        Ok(Some(Segment { iova, len_bytes }))
    }

    /// The next data entry of the list, following its chain.
    fn entry(&mut self, bus: &mut Bus, map: &Mappings, who: Who) -> Result<u64, Status> {
        let page = self.page_bytes;
        loop {
            let Next::List(at) = self.next else {
                return Err(Status::INTERNAL_ERROR);
            };
            if self.taken == self.read {
                self.read_ahead(bus, map, at, who)?;
            }
            let entry = self.ahead.get(self.taken).copied().unwrap_or(0);
            self.taken += 1;
            if entry & (page - 1) != 0 {
                return Err(OFFSET_INVALID);
            }
            let is_last_of_page = at & (page - 1) == page - 8;
            if is_last_of_page && self.left > page {
                // It points to the next list page. Each such page holds data entries, so the
                // chain is no longer than the transfer.
                self.next = Next::List(entry);
                (self.taken, self.read) = (0, 0);
                continue;
            }
            self.next = Next::List(at.wrapping_add(8));
            return Ok(entry);
        }
    }

    fn read_ahead(
        &mut self,
        bus: &mut Bus,
        map: &Mappings,
        at: u64,
        who: Who,
    ) -> Result<(), Status> {
        // No further than the list page, and no more than the transfer needs.
        let in_page = (self.page_bytes - (at & (self.page_bytes - 1))) / 8;
        let needed = self.left.div_ceil(self.page_bytes);
        let count = in_page.min(needed).min(AHEAD as u64) as usize;
        let Some(words) = self.ahead.get_mut(..count) else {
            return Err(Status::INTERNAL_ERROR);
        };
        bus.read_words(map, at, words, who)
            .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        (self.taken, self.read) = (0, count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::iommu::Iommu;
    use std::sync::Arc;
    use underpin_dma::{Access, Iova, MapRequest, Mapper, Memory, PageSize};

    const WHO: Who = Who {
        qid: 1,
        cid: Some(0),
        told: false,
    };
    const LISTS: u64 = 0x10_0000;

    /// A memory of 4 pages at LISTS, for lists; data pages need not exist to be walked.
    fn bus() -> (Bus, Arc<Iommu>, Arc<Memory>) {
        let iommu = Iommu::new("emu".to_owned(), vec![0..=u64::MAX - 1], None);
        let memory = Memory::new("lists", 4 * 4096, PageSize::Small).unwrap();
        let request = MapRequest {
            iova: Iova::new(LISTS),
            memory: Arc::clone(&memory),
            access: Access::ReadOnly,
            name: "lists".to_owned(),
        };
        iommu.map(&request).unwrap();
        (Bus::new(Arc::clone(&iommu), None), iommu, memory)
    }

    fn put(memory: &Memory, offset: usize, entries: &[u64]) {
        for (at, entry) in entries.iter().enumerate() {
            let bytes = entry.to_le_bytes();
            memory.view().copy_from(offset + 8 * at, &bytes).unwrap();
        }
    }

    fn walk(
        bus: &mut Bus,
        iommu: &Iommu,
        prp1: u64,
        prp2: u64,
        len: u64,
    ) -> Result<Vec<(u64, u64)>, Status> {
        let map = iommu.read();
        let mut walk = PrpWalk::new(prp1, prp2, len, 4096);
        let mut runs = Vec::new();
        while let Some(Segment { iova, len_bytes }) = walk.next(bus, &map, WHO)? {
            runs.push((iova, len_bytes));
        }
        Ok(runs)
    }

    /// The short way names what the long way walks, whatever the host wrote.
    #[test]
    fn both_ways_agree_without_a_list() {
        let (mut bus, iommu, _memory) = bus();
        let mut rng = underpin_dma::rt::Rng::seeded(7);
        let mut short = 0;
        for _ in 0..20_000 {
            let low = [0, 4, 8, 512, 4092, 2, 7][rng.below(7) as usize];
            let prp1 = rng.below(64) * 4096 + low;
            let low = [0, 0, 0, 4, 512][rng.below(5) as usize];
            let prp2 = rng.below(64) * 4096 + low;
            let len = 1 + rng.below(3 * 4096);
            let Some(direct) = without_list(prp1, prp2, len, 4096) else {
                continue;
            };
            short += 1;
            let direct = direct.map(|segments| {
                let run = |segment: Segment| (segment.iova, segment.len_bytes);
                let runs = segments.into_iter().map(run);
                runs.filter(|&(_, len)| len != 0).collect::<Vec<_>>()
            });
            assert_eq!(direct, walk(&mut bus, &iommu, prp1, prp2, len));
        }
        assert!(short > 5_000);
    }

    #[test]
    fn one_and_two_entries() {
        let (mut bus, iommu, _memory) = bus();
        let mut go = |prp1, prp2, len| walk(&mut bus, &iommu, prp1, prp2, len);
        // PRP2 is reserved, whatever it holds, where one entry is enough.
        assert_eq!(go(0x1e00, 3, 512), Ok(vec![(0x1e00, 512)]));
        assert_eq!(
            go(0x1e00, 0x9000, 1024),
            Ok(vec![(0x1e00, 512), (0x9000, 512)])
        );
        assert_eq!(
            go(0x1000, 0x9000, 8192),
            Ok(vec![(0x1000, 4096), (0x9000, 4096)])
        );
        assert_eq!(go(0x1e02, 0, 512), Err(OFFSET_INVALID));
        assert_eq!(go(0x1e00, 0x9200, 1024), Err(OFFSET_INVALID));
    }

    /// A list that starts in the middle of its page and goes on in another: the last entry of a
    /// page is data when it completes the transfer, and a pointer when it does not.
    #[test]
    fn lists_chain_only_when_they_must() {
        let (mut bus, iommu, memory) = bus();
        put(&memory, 4096 - 24, &[0xa000, 0xb000, LISTS + 0x2000]);
        put(&memory, 0x2000, &[0xc000, 0xd000]);
        let list = LISTS + 4096 - 24;
        let runs = walk(&mut bus, &iommu, 0x1000, list, 5 * 4096).unwrap();
        let pages: Vec<u64> = runs.iter().map(|&(iova, _)| iova).collect();
        assert_eq!(pages, [0x1000, 0xa000, 0xb000, 0xc000, 0xd000]);
        let runs = walk(&mut bus, &iommu, 0x1000, list, 4 * 4096 - 8).unwrap();
        assert_eq!(
            runs.last(),
            Some(&(LISTS + 0x2000, 4088)),
            "the last entry is data here"
        );
        assert_eq!(
            bus.bytes_from_host,
            24 + 16 + 24,
            "no entry is read needlessly"
        );
    }

    #[test]
    fn what_a_list_must_not_be() {
        let (mut bus, iommu, memory) = bus();
        put(&memory, 0, &[0xa000, 0xb200]);
        put(&memory, 4096 - 8, &[LISTS + 8]);
        let mut go = |prp2, pages: u64| walk(&mut bus, &iommu, 0x1000, prp2, pages * 4096);
        assert_eq!(go(LISTS + 4, 3), Err(OFFSET_INVALID), "not a whole entry");
        assert_eq!(go(LISTS, 3), Err(OFFSET_INVALID), "an offset in an entry");
        assert_eq!(
            go(LISTS + 4096 - 8, 3),
            Err(OFFSET_INVALID),
            "an offset in a chain"
        );
        assert_eq!(
            go(0x5000_0000, 3),
            Err(Status::DATA_TRANSFER_ERROR),
            "not mapped"
        );
        assert_eq!(iommu.fault_count(), 1);
    }

    /// A list page that points to itself yields data of no sense, not an endless loop.
    #[test]
    fn a_circular_chain_ends() {
        let (mut bus, iommu, memory) = bus();
        put(&memory, 0, &[LISTS; 512]);
        let runs = walk(&mut bus, &iommu, 0x1000, LISTS, 4096 * 2000).unwrap();
        assert_eq!(runs.len(), 2000);
    }
}
