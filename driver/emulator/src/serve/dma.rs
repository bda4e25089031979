//! The memory that a client has given: each range mapped once, checked, and out of the
//! controller's reach before an unmapping is answered.
use super::ServeOptions;
use crate::iommu::Iommu;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use underpin_dma::{Access, Iova, MapRequest, Mapper, Memory};
use underpin_vfio_user::{DmaMap, DmaUnmap, Refusal, dma_flags, unmap_flags};

/// Ranges must be whole pages of this size.
const PAGE_BYTES: u64 = 4096;

/// What one client has mapped.
#[derive(Debug)]
pub(super) struct DmaTable {
    iommu: Arc<Iommu>,
    options: ServeOptions,
    /// By first address.
    ranges: BTreeMap<u64, Range>,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    size: u64,
    /// It came with a file; DMA to others is blocked.
    reachable: bool,
}

impl DmaTable {
    pub(super) fn new(iommu: Arc<Iommu>, options: ServeOptions) -> Self {
        Self {
            iommu,
            options,
            ranges: BTreeMap::new(),
        }
    }

    pub(super) fn map(&mut self, map: &DmaMap, file: Option<OwnedFd>) -> Result<(), Refusal> {
        let DmaMap {
            address,
            size,
            offset,
            flags,
            ..
        } = *map;
        let aligned = [address, size, offset]
            .iter()
            .all(|number| number.is_multiple_of(PAGE_BYTES));
        let last = size
            .checked_sub(1)
            .and_then(|span| address.checked_add(span));
        let Some(last) = last.filter(|_| aligned) else {
            return Err(Refusal::invalid(format!(
                "a range of {size:#x} bytes at {address:#x}, file offset {offset:#x}, is not \
                 whole pages of {PAGE_BYTES} bytes below 2^64"
            )));
        };
        let access = match flags & (dma_flags::READ | dma_flags::WRITE) {
            dma_flags::READ => Access::ReadOnly,
            0 | dma_flags::WRITE => {
                let why = format!("a range that cannot be read (flags {flags:#x})");
                return Err(Refusal::invalid(why));
            }
            _ => Access::ReadWrite,
        };
        let limit = self.options.protocol.max_dma_maps as usize;
        if self.ranges.len() >= limit {
            return Err(Refusal::full(format!("all {limit} ranges are in use")));
        }
        let below = self.ranges.range(..=last).next_back();
        if let Some((first, range)) = below
            && first + (range.size - 1) >= address
        {
            return Err(Refusal::exists(format!(
                "{size:#x} bytes at {address:#x} overlap the range at {first:#x}"
            )));
        }
        let reachable = file.is_some();
        match file {
            Some(file) => self.reach(map, access, file)?,
            None => tracing::debug!(
                address,
                size,
                "a range without a file; DMA there is blocked"
            ),
        }
        self.ranges.insert(address, Range { size, reachable });
        Ok(())
    }

    fn reach(&self, map: &DmaMap, access: Access, file: OwnedFd) -> Result<(), Refusal> {
        let name = format!("client {:#x}", map.address);
        let unsealed = self.options.allow_unsealed;
        let memory = Memory::received(&name, file, map.offset, map.size, unsealed);
        let memory = memory.map_err(|error| Refusal::denied(error.to_string()))?;
        let request = MapRequest {
            iova: Iova::new(map.address),
            memory,
            access,
            name,
        };
        self.iommu
            .map(&request)
            .map_err(|error| Refusal::full(error.to_string()))
    }

    pub(super) fn unmap(&mut self, unmap: &DmaUnmap) -> Result<(), Refusal> {
        let DmaUnmap {
            address,
            size,
            flags,
            ..
        } = *unmap;
        if flags & unmap_flags::DIRTY_BITMAP != 0 {
            return Err(Refusal::unsupported("written pages are not tracked"));
        }
        if flags & unmap_flags::ALL != 0 {
            self.clear();
            return Ok(());
        }
        let range = self.ranges.get(&address).filter(|range| range.size == size);
        let Some(range) = range.copied() else {
            return Err(Refusal::absent(format!(
                "no range of {size:#x} bytes begins at {address:#x}; a part cannot be unmapped"
            )));
        };
        if range.reachable {
            // Waits for the controller's present batch: when it returns no DMA is under way.
            self.iommu
                .unmap(Iova::new(address), size)
                .map_err(|error| Refusal::io(error.to_string()))?;
        }
        self.ranges.remove(&address);
        Ok(())
    }

    /// Takes everything back.
    pub(super) fn clear(&mut self) {
        for (address, range) in std::mem::take(&mut self.ranges) {
            if range.reachable
                && let Err(error) = self.iommu.unmap(Iova::new(address), range.size)
            {
                // Only this table maps and unmaps here, so this cannot be.
                tracing::error!(%error, "a range is still mapped");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use underpin_dma::PageSize;

    fn table(limit: u32) -> DmaTable {
        let iommu = Iommu::new("emu".to_owned(), vec![0..=u64::MAX], None);
        let mut options = ServeOptions::default();
        options.protocol.max_dma_maps = limit;
        DmaTable::new(iommu, options)
    }

    fn file(pages: u64) -> Option<OwnedFd> {
        let memory = Memory::new("m", pages * 4096, PageSize::Small).unwrap();
        Some(memory.fd().unwrap().0.try_clone_to_owned().unwrap())
    }

    fn map(address: u64, size: u64) -> DmaMap {
        DmaMap {
            argsz: 32,
            flags: dma_flags::READ | dma_flags::WRITE,
            offset: 0,
            address,
            size,
        }
    }

    fn unmap(address: u64, size: u64) -> DmaUnmap {
        DmaUnmap {
            address,
            size,
            ..DmaUnmap::default()
        }
    }

    /// Whatever a client asks for that cannot be is refused, and a refusal changes nothing.
    #[test]
    fn impossible_ranges_are_refused() {
        let mut table = table(3);
        table.map(&map(0x10000, 0x4000), file(4)).unwrap();
        let read_only = DmaMap {
            flags: 1,
            ..map(0x0, 0x1000)
        };
        for (what, bad, pages) in [
            ("no bytes", map(0x20000, 0), 1),
            ("half a page", map(0x20000, 0x800), 1),
            ("between pages", map(0x20800, 0x1000), 1),
            ("past 2^64", map(u64::MAX - 0xfff, 0x2000), 2),
            (
                "no right",
                DmaMap {
                    flags: 0,
                    ..map(0x20000, 0x1000)
                },
                1,
            ),
            (
                "write only",
                DmaMap {
                    flags: 2,
                    ..map(0x20000, 0x1000)
                },
                1,
            ),
            ("longer than its file", map(0x20000, 0x3000), 2),
            (
                "file offset past its file",
                DmaMap {
                    offset: 0x1000,
                    ..map(0x20000, 0x1000)
                },
                1,
            ),
            (
                "file offset near 2^64",
                DmaMap {
                    offset: u64::MAX - 0xfff,
                    ..map(0x20000, 0x1000)
                },
                1,
            ),
            ("the same", map(0x10000, 0x4000), 4),
            ("overlap at the end", map(0x13000, 0x2000), 2),
            ("overlap at the start", map(0xf000, 0x2000), 2),
            ("around", map(0xf000, 0x10000), 16),
        ] {
            assert!(table.map(&bad, file(pages)).is_err(), "{what}");
        }
        for (what, bad) in [
            ("a part", unmap(0x10000, 0x1000)),
            ("its middle", unmap(0x11000, 0x1000)),
            ("more", unmap(0x10000, 0x5000)),
            ("elsewhere", unmap(0, 0x1000)),
            (
                "with a bitmap",
                DmaUnmap {
                    flags: unmap_flags::DIRTY_BITMAP,
                    ..unmap(0x10000, 0x4000)
                },
            ),
        ] {
            assert!(table.unmap(&bad).is_err(), "{what}");
        }
        table.map(&read_only, file(1)).unwrap();
        // Without a file it counts, and can be taken back.
        table.map(&map(0x40000, 0x1000), None).unwrap();
        assert!(
            table.map(&map(0x50000, 0x1000), file(1)).is_err(),
            "one too many"
        );
        table.unmap(&unmap(0x40000, 0x1000)).unwrap();
        table.unmap(&unmap(0x10000, 0x4000)).unwrap();
        table.map(&map(0x10000, 0x4000), file(4)).unwrap();
        table
            .unmap(&DmaUnmap {
                flags: unmap_flags::ALL,
                ..unmap(0, 0)
            })
            .unwrap();
        table.map(&map(0x0, 0x1000), file(1)).unwrap();
    }

    /// A file that its owner can shrink is refused unless that was allowed; one that is no
    /// memory always.
    #[test]
    fn files_that_could_kill_the_server_are_refused() {
        let shrinkable = || {
            let file = tempfile::tempfile_in("/dev/shm").unwrap();
            file.set_len(4096).unwrap();
            Some(OwnedFd::from(file))
        };
        let mut strict = table(8);
        let refusal = strict.map(&map(0, 0x1000), shrinkable()).unwrap_err();
        assert!(refusal.why.contains("F_SEAL_SHRINK"), "{refusal}");
        let mut lax = table(8);
        lax.options.allow_unsealed = true;
        lax.map(&map(0, 0x1000), shrinkable()).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(lax.map(&map(0x1000, 0x1000), Some(null.into())).is_err());
    }
}
