//! Regions and which parts of them can be mapped: region info with its list of capabilities.
//! A list is followed forwards only, so that none is endless.
use crate::Error;
use crate::message::{Fields, RegionHead, region_flags};

/// A part of a region that can be mapped.
///
/// ```
/// use underpin_vfio_user::{Area, RegionInfo};
///
/// // The doorbells of BAR0 alone.
/// let areas = vec![Area { offset: 0x1000, size: 0x1000 }];
/// let bar0 = RegionInfo { size: 0x4000, areas, ..RegionInfo::default() };
/// assert!(bar0.areas.iter().all(|area| area.offset + area.size <= bar0.size));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Where it begins in the region.
    pub offset: u64,
    /// How long it is.
    pub size: u64,
}

/// What a region is.
///
/// ```
/// use underpin_vfio_user::{RegionInfo, region_flags};
///
/// let read_only = RegionInfo { flags: region_flags::READ, size: 256, ..RegionInfo::default() };
/// assert!(read_only.flags & region_flags::WRITE == 0 && read_only.areas.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionInfo {
    /// See [`region_flags`](crate::region_flags).
    pub flags: u32,
    /// How long it is; 0: there is none.
    pub size: u64,
    /// Where in the file that comes with it the region begins.
    pub offset: u64,
    /// What can be mapped.
    pub areas: Vec<Area>,
}

/// The capability that lists areas.
const SPARSE_MMAP: u16 = 1;
/// Its header: id, version, next; number of areas, reserved.
const SPARSE_HEAD_BYTES: usize = 16;
const AREA_BYTES: usize = 16;
/// More areas than any device has.
const MOST_AREAS: u32 = 1024;

impl RegionInfo {
    /// Bytes of the whole, capabilities included.
    pub(crate) fn full_bytes(&self) -> usize {
        let caps = match self.areas.len() {
            0 => 0,
            areas => SPARSE_HEAD_BYTES + areas * AREA_BYTES,
        };
        RegionHead::LEN_BYTES + caps
    }

    /// The body of a reply to somebody who has room for `argsz` bytes, and whether capabilities
    /// are in it.
    pub(crate) fn encode(&self, index: u32, argsz: u32) -> (Vec<u8>, bool) {
        let full = self.full_bytes();
        let has_caps = full > RegionHead::LEN_BYTES;
        let fits = argsz as usize >= full;
        let head = RegionHead {
            argsz: full as u32,
            flags: match has_caps {
                true => self.flags | region_flags::CAPS,
                false => self.flags,
            },
            index,
            cap_offset: if has_caps {
                RegionHead::LEN_BYTES as u32
            } else {
                0
            },
            size: self.size,
            offset: self.offset,
        };
        let mut body = head.encode();
        if has_caps && fits {
            body.extend(SPARSE_MMAP.to_ne_bytes());
            body.extend(1_u16.to_ne_bytes());
            body.extend(0_u32.to_ne_bytes());
            body.extend((self.areas.len() as u32).to_ne_bytes());
            body.extend(0_u32.to_ne_bytes());
            for area in &self.areas {
                body.extend(area.offset.to_ne_bytes());
                body.extend(area.size.to_ne_bytes());
            }
        }
        (body, fits)
    }

    /// Reads a reply's body about region `index`. The number is what the whole needs: more than
    /// the body has when the peer left capabilities out.
    pub(crate) fn decode(body: &[u8], index: u32) -> Result<(Self, u32), Error> {
        let (head, rest) = RegionHead::decode(body)?;
        if head.index != index {
            return Err(Error::Protocol(format!(
                "info about region {} came for region {index}",
                head.index
            )));
        }
        let mut info = Self {
            flags: head.flags,
            size: head.size,
            offset: head.offset,
            areas: Vec::new(),
        };
        if head.flags & region_flags::CAPS == 0 || rest.is_empty() {
            return Ok((info, head.argsz));
        }
        let mut at = head.cap_offset as usize;
        let mut before = RegionHead::LEN_BYTES - 1;
        while at != 0 {
            if at <= before {
                return Err(Error::Protocol(format!(
                    "the capability of region {index} at {at} comes after one at {before}"
                )));
            }
            before = at;
            at = info.capability(body, at, index)?;
        }
        Ok((info, head.argsz))
    }

    /// Reads the capability at `at` and gives the place of the next, or 0.
    fn capability(&mut self, body: &[u8], at: usize, index: u32) -> Result<usize, Error> {
        let outside = || {
            Error::Protocol(format!(
                "a capability of region {index} at {at} ends past its {} bytes",
                body.len()
            ))
        };
        let mut fields = Fields(body.get(at..).ok_or_else(outside)?);
        let (Some(id), Some(_version), Some(next)) = (fields.u16(), fields.u16(), fields.u32())
        else {
            return Err(outside());
        };
        if id == SPARSE_MMAP {
            let (Some(count), Some(_)) = (fields.u32(), fields.u32()) else {
                return Err(outside());
            };
            if count > MOST_AREAS {
                return Err(Error::Protocol(format!(
                    "region {index} claims {count} areas to be mapped"
                )));
            }
            for _ in 0..count {
                let (Some(offset), Some(size)) = (fields.u64(), fields.u64()) else {
                    return Err(outside());
                };
                let end = offset.checked_add(size);
                if end.is_none_or(|end| end > self.size) {
                    return Err(Error::Protocol(format!(
                        "an area of {size} bytes at {offset} lies outside region {index} of {} bytes",
                        self.size
                    )));
                }
                self.areas.push(Area { offset, size });
            }
        }
        Ok(next as usize)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn info() -> RegionInfo {
        RegionInfo {
            flags: region_flags::READ | region_flags::WRITE | region_flags::MMAP,
            size: 0x4000,
            offset: 0,
            areas: vec![Area {
                offset: 0x1000,
                size: 0x1000,
            }],
        }
    }

    /// Somebody without room learns how much is needed; with that much the areas arrive.
    #[test]
    fn capabilities_come_to_whom_has_room() {
        let (body, fits) = info().encode(0, 32);
        assert!(!fits && body.len() == 32);
        let (found, needed) = RegionInfo::decode(&body, 0).unwrap();
        assert!(found.areas.is_empty() && found.size == 0x4000);
        let (body, fits) = info().encode(0, needed);
        assert!(fits && body.len() == needed as usize);
        let (found, _) = RegionInfo::decode(&body, 0).unwrap();
        assert_eq!(found.areas, info().areas);
    }

    /// Lists that go back, lead outside, claim what is not there, or lie about their region.
    #[test]
    fn hostile_lists_are_refused() {
        let (good, _) = info().encode(3, 4096);
        let put = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            bad
        };
        for (what, body) in [
            ("another region", put(8, &4_u32.to_ne_bytes())),
            ("a list before itself", put(36, &32_u32.to_ne_bytes())),
            ("a list in the head", put(12, &8_u32.to_ne_bytes())),
            ("a list outside", put(12, &4000_u32.to_ne_bytes())),
            ("a next outside", put(36, &u32::MAX.to_ne_bytes())),
            ("areas without end", put(40, &u32::MAX.to_ne_bytes())),
            ("more areas than bytes", put(40, &2_u32.to_ne_bytes())),
            ("an area past 2^64", put(48, &u64::MAX.to_ne_bytes())),
            (
                "an area past the region",
                put(56, &0x3001_u64.to_ne_bytes()),
            ),
        ] {
            assert!(RegionInfo::decode(&body, 3).is_err(), "{what}");
        }
        assert!(RegionInfo::decode(&good[..31], 3).is_err());
        assert!(RegionInfo::decode(&good[..60], 3).is_err());
    }
}
