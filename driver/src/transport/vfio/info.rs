//! What the kernel says of regions, interrupts and the IOMMU: fixed heads, then chains of
//! capabilities. Every offset and count is checked; a chain is followed forwards only.
use std::ops::RangeInclusive;
use vfio_bindings::bindings::vfio;

/// What a region is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RegionInfo {
    /// How much the kernel would say, if there were room.
    pub(super) needed_bytes: usize,
    pub(super) flags: u32,
    pub(super) size: u64,
    /// Where in the device's file it begins.
    pub(super) offset: u64,
    /// Offset and length of what can be mapped; all of it where the region can be mapped and no
    /// list says less.
    pub(super) areas: Vec<(u64, u64)>,
}

/// What an IOMMU context can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct IommuInfo {
    pub(super) needed_bytes: usize,
    /// First and last usable address; empty when the kernel does not say.
    pub(super) ranges: Vec<RangeInclusive<u64>>,
    /// How many more mappings it takes, where it says so.
    pub(super) mappings_left: Option<usize>,
}

/// What the kernel wrote makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's answer of {len_bytes} bytes is malformed: {what}")]
pub(super) struct Malformed {
    len_bytes: usize,
    what: String,
}

/// More ranges or areas than any device or platform has.
const MOST: u32 = 4096;
const REGION_HEAD: usize = 32;
const IOMMU_HEAD: usize = 24;
/// A capability's head: id, version, offset of the next.
const CAP_HEAD: usize = 8;

struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    fn bad(&self, what: impl Into<String>) -> Malformed {
        Malformed {
            len_bytes: self.0.len(),
            what: what.into(),
        }
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Malformed> {
        let field = at.checked_add(N).and_then(|end| self.0.get(at..end));
        field
            .and_then(|field| field.try_into().ok())
            .ok_or_else(|| self.bad(format!("{N} bytes at {at} lie outside")))
    }

    fn u16(&self, at: usize) -> Result<u16, Malformed> {
        self.array(at).map(u16::from_ne_bytes)
    }

    fn u32(&self, at: usize) -> Result<u32, Malformed> {
        self.array(at).map(u32::from_ne_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, Malformed> {
        self.array(at).map(u64::from_ne_bytes)
    }

    /// Id and offset of each capability from `first` on.
    fn chain(&self, first: u32, head: usize) -> Result<Vec<(u32, usize)>, Malformed> {
        let mut found = Vec::new();
        let (mut at, mut least) = (first as usize, head);
        while at != 0 {
            if at < least {
                return Err(self.bad(format!("its list goes back, to {at}")));
            }
            found.push((u32::from(self.u16(at)?), at));
            least = at + CAP_HEAD;
            at = self.u32(at + 4)? as usize;
        }
        Ok(found)
    }

    /// The pairs of a capability: a count at `at`, `reserved` bytes, then the pairs.
    fn pairs(&self, at: usize) -> Result<Vec<(u64, u64)>, Malformed> {
        let count = self.u32(at)?;
        if count > MOST {
            return Err(self.bad(format!("it claims {count} ranges")));
        }
        let pair = |index: u32| {
            let at = at + 8 + index as usize * 16;
            Ok((self.u64(at)?, self.u64(at + 8)?))
        };
        (0..count).map(pair).collect()
    }
}

/// Reads a `vfio_region_info` and what follows.
pub(super) fn region(bytes: &[u8]) -> Result<RegionInfo, Malformed> {
    let answer = Answer(bytes);
    let mut info = RegionInfo {
        needed_bytes: answer.u32(0)? as usize,
        flags: answer.u32(4)?,
        size: answer.u64(16)?,
        offset: answer.u64(24)?,
        areas: Vec::new(),
    };
    if info.offset.checked_add(info.size).is_none() {
        return Err(answer.bad(format!(
            "a region of {} bytes at {:#x} of the file",
            info.size, info.offset
        )));
    }
    if info.flags & vfio::VFIO_REGION_INFO_FLAG_MMAP == 0 || info.needed_bytes > bytes.len() {
        return Ok(info);
    }
    let mut listed = false;
    if info.flags & vfio::VFIO_REGION_INFO_FLAG_CAPS != 0 {
        for (id, at) in answer.chain(answer.u32(12)?, REGION_HEAD)? {
            if id != vfio::VFIO_REGION_INFO_CAP_SPARSE_MMAP {
                continue;
            }
            listed = true;
            for (offset, size) in answer.pairs(at + CAP_HEAD)? {
                if offset.checked_add(size).is_none_or(|end| end > info.size) {
                    return Err(answer.bad(format!(
                        "an area of {size} bytes at {offset} lies outside a region of {}",
                        info.size
                    )));
                }
                info.areas.push((offset, size));
            }
        }
    }
    if !listed {
        info.areas.push((0, info.size));
    }
    Ok(info)
}

/// Reads a `vfio_iommu_type1_info` and what follows.
pub(super) fn iommu(bytes: &[u8]) -> Result<IommuInfo, Malformed> {
    let answer = Answer(bytes);
    let flags = answer.u32(4)?;
    let mut info = IommuInfo {
        needed_bytes: answer.u32(0)? as usize,
        ..IommuInfo::default()
    };
    if flags & vfio::VFIO_IOMMU_INFO_CAPS == 0 || info.needed_bytes > bytes.len() {
        return Ok(info);
    }
    for (id, at) in answer.chain(answer.u32(16)?, IOMMU_HEAD)? {
        match id {
            vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                for (first, last) in answer.pairs(at + CAP_HEAD)? {
                    if first > last {
                        return Err(answer.bad(format!("a range from {first:#x} to {last:#x}")));
                    }
                    info.ranges.push(first..=last);
                }
            }
            vfio::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => {
                info.mappings_left = Some(answer.u32(at + CAP_HEAD)? as usize);
            }
            _ => {}
        }
    }
    Ok(info)
}

/// Reads the flags and count of a `vfio_irq_info`.
pub(super) fn irq(bytes: &[u8]) -> Result<(u32, u32), Malformed> {
    let answer = Answer(bytes);
    Ok((answer.u32(4)?, answer.u32(12)?))
}

/// Reads one word, by its place in the answer.
pub(super) fn word(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    Answer(bytes).u32(at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
        bytes[at..at + value.len()].copy_from_slice(value);
    }

    fn region_bytes(caps: bool) -> Vec<u8> {
        let mut bytes = vec![0; 80];
        put(&mut bytes, 0, &80_u32.to_ne_bytes());
        let flags = if caps { 15_u32 } else { 7 };
        put(&mut bytes, 4, &flags.to_ne_bytes());
        put(&mut bytes, 12, &32_u32.to_ne_bytes());
        put(&mut bytes, 16, &0x4000_u64.to_ne_bytes());
        put(&mut bytes, 24, &(7_u64 << 40).to_ne_bytes());
        // One that is not known, then the sparse areas.
        put(&mut bytes, 32, &3_u16.to_ne_bytes());
        put(&mut bytes, 36, &40_u32.to_ne_bytes());
        put(&mut bytes, 40, &1_u16.to_ne_bytes());
        put(&mut bytes, 48, &1_u32.to_ne_bytes());
        put(&mut bytes, 56, &0x1000_u64.to_ne_bytes());
        put(&mut bytes, 64, &0x2000_u64.to_ne_bytes());
        bytes
    }

    /// A list of areas is what can be mapped; without one, all of a region that can be.
    #[test]
    fn areas_are_those_listed_or_the_whole() {
        let info = region(&region_bytes(true)).unwrap();
        assert_eq!((info.size, info.offset), (0x4000, 7 << 40));
        assert_eq!(info.areas, [(0x1000, 0x2000)]);
        assert_eq!(region(&region_bytes(false)).unwrap().areas, [(0, 0x4000)]);
        let mut bytes = region_bytes(true);
        put(&mut bytes, 4, &3_u32.to_ne_bytes());
        assert_eq!(region(&bytes).unwrap().areas, [], "it cannot be mapped");
        // Asked with too little room: nothing may be concluded.
        let short = region(&region_bytes(true)[..40]).unwrap();
        assert_eq!((short.needed_bytes, short.areas.len()), (80, 0));
    }

    #[test]
    fn hostile_lists_are_refused() {
        for (what, at, value) in [
            ("a list inside the head", 12, 8_u64.to_ne_bytes()),
            ("a list outside", 12, 0x7fff_u64.to_ne_bytes()),
            ("one that leads to itself", 36, 32_u64.to_ne_bytes()),
            ("one that ends past the bytes", 36, 76_u64.to_ne_bytes()),
            ("areas without end", 48, u64::MAX.to_ne_bytes()),
            ("more areas than bytes", 48, 3_u64.to_ne_bytes()),
            ("an area past the region", 64, 0x3001_u64.to_ne_bytes()),
            ("an area past 2^64", 56, u64::MAX.to_ne_bytes()),
            ("a region past 2^64", 24, (u64::MAX - 0x3ffe).to_ne_bytes()),
        ] {
            let mut bytes = region_bytes(true);
            let len = if at == 12 || at == 36 || at == 48 {
                4
            } else {
                8
            };
            put(&mut bytes, at, &value[..len]);
            assert!(region(&bytes).is_err(), "{what}");
        }
        for len in 0..32 {
            assert!(region(&region_bytes(true)[..len]).is_err(), "{len} bytes");
        }
    }

    /// What a 39-bit IOMMU on x86 says: the interrupt window is a hole, and mappings are counted.
    #[test]
    fn ranges_and_mappings_left_are_read() {
        let mut bytes = vec![0; 92];
        put(&mut bytes, 0, &92_u32.to_ne_bytes());
        put(&mut bytes, 4, &3_u32.to_ne_bytes());
        put(&mut bytes, 16, &24_u32.to_ne_bytes());
        put(&mut bytes, 24, &1_u16.to_ne_bytes());
        put(&mut bytes, 28, &80_u32.to_ne_bytes());
        put(&mut bytes, 32, &2_u32.to_ne_bytes());
        put(&mut bytes, 48, &0xfedf_ffff_u64.to_ne_bytes());
        put(&mut bytes, 56, &0xfef0_0000_u64.to_ne_bytes());
        put(&mut bytes, 64, &0x7f_ffff_ffff_u64.to_ne_bytes());
        put(&mut bytes, 80, &3_u16.to_ne_bytes());
        put(&mut bytes, 88, &65535_u32.to_ne_bytes());
        let info = iommu(&bytes).unwrap();
        let ranges = [0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff];
        assert_eq!(info.ranges, ranges);
        assert_eq!(info.mappings_left, Some(65535));
        put(&mut bytes, 56, &u64::MAX.to_ne_bytes());
        assert!(iommu(&bytes).is_err(), "a range that ends before it begins");
        put(&mut bytes, 4, &1_u32.to_ne_bytes());
        assert_eq!(
            iommu(&bytes).unwrap().ranges,
            [],
            "an old kernel says nothing"
        );
    }
}
