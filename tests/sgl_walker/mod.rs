//! Which bytes of memory a command's scatter gather list names, written from NVMe Base 2.0, 4.1.2
//! alone. It shares nothing with the driver, the emulator or their spec crate, so as to judge them.
//!
//! Stricter than a controller has to be: what the specification forbids the host is an error here
//! even where controllers are allowed to look away (reserved bytes, MPTR without metadata), and so
//! is what no sensible host writes (descriptors of nothing, segments of a link alone).
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fmt;

/// A part of the data, in the order of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// So many bytes from this IOVA on.
    Memory(u64, u64),
    /// So many bytes that go nowhere.
    Skipped(u64),
}

/// What the controller takes, and what the command is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// SGLS bits 1:0: data blocks are multiples of 1 or of 4 bytes.
    pub(crate) granularity: u64,
    /// SGLS bit 16.
    pub(crate) bit_bucket: bool,
    /// The controller writes the data.
    pub(crate) is_read: bool,
    /// As opcode and dwords 10 to 15 say.
    pub(crate) len_bytes: u64,
}

/// What a list is found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List {
    /// The data, adjacent parts merged.
    pub(crate) parts: Vec<Part>,
    /// Segments in memory.
    pub(crate) segments: usize,
    /// Descriptors of data, the command's own included.
    pub(crate) descriptors: usize,
}

/// What is wrong with a command's SGL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalkError {
    /// PSDT is not 01b.
    NotSgl { psdt: u8 },
    /// MPTR is not zero though there is no metadata.
    Mptr { mptr: u64 },
    /// A descriptor is of a type that the controller does not take, or has a subtype.
    Type { identifier: u8 },
    /// Reserved bytes of a descriptor are not zero.
    Reserved { low: u64, high: u64 },
    /// A data block or bit bucket of no bytes.
    Nothing,
    /// A data block that is not whole dwords where it has to be.
    Granularity { address: u64, len: u64 },
    /// A bit bucket in a write, or for a controller without.
    BitBucket,
    /// A segment's length is no positive multiple of 16.
    SegmentLength { len: u64 },
    /// A segment is not qword aligned.
    SegmentUnaligned { address: u64 },
    /// A segment cannot be read.
    Unreadable { at: u64 },
    /// A descriptor leads on before the end of its segment.
    LeadsOnEarly { at: u64 },
    /// The last segment leads on.
    LastLeadsOn { at: u64 },
    /// A segment that is not the last does not lead on.
    LeadsNowhere { at: u64 },
    /// A segment with no data at all.
    NoData { at: u64 },
    /// The list has more bytes than the command.
    TooLong { by: u64 },
    /// The list has fewer bytes than the command.
    TooShort { by: u64 },
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:x?}")
    }
}

impl std::error::Error for WalkError {}

/// The next segment.
#[derive(Clone, Copy)]
struct Next {
    at: u64,
    len: u64,
    is_last: bool,
}

struct Walk {
    terms: Terms,
    list: List,
    left: u64,
}

/// The bytes that a command's SGL names. `sqe` is the submission queue entry as it lies in memory;
/// `read_u64` reads eight little-endian bytes of memory: each half of a descriptor once, in order.
pub(crate) fn walk(
    sqe: &[u8; 64],
    terms: Terms,
    mut read_u64: impl FnMut(u64) -> Option<u64>,
) -> Result<List, WalkError> {
    // Figure 87: PSDT is bits 15:14 of dword 0, MPTR bytes 16 to 23, SGL1 bytes 24 to 39.
    let (psdt, mptr) = (sqe[1] >> 6, qword(sqe, 16));
    if psdt != 0b01 {
        return Err(WalkError::NotSgl { psdt });
    }
    if mptr != 0 {
        return Err(WalkError::Mptr { mptr });
    }
    let mut walk = Walk {
        terms,
        left: terms.len_bytes,
        list: List {
            parts: Vec::new(),
            segments: 0,
            descriptors: 0,
        },
    };
    let mut next = walk.descriptor(qword(sqe, 24), qword(sqe, 32))?;
    while let Some(segment) = next {
        walk.list.segments += 1;
        let before = walk.list.descriptors;
        let count = segment.len / 16;
        for index in 0..count {
            let at = segment.at + 16 * index;
            let mut read = |at| read_u64(at).ok_or(WalkError::Unreadable { at });
            let (low, high) = (read(at)?, read(at + 8)?);
            next = walk.descriptor(low, high)?;
            let is_end = index + 1 == count;
            match next {
                Some(_) if !is_end => return Err(WalkError::LeadsOnEarly { at }),
                Some(_) if segment.is_last => return Err(WalkError::LastLeadsOn { at }),
                None if is_end && !segment.is_last => return Err(WalkError::LeadsNowhere { at }),
                _ => {}
            }
        }
        if walk.list.descriptors == before {
            return Err(WalkError::NoData { at: segment.at });
        }
    }
    match walk.left {
        0 => Ok(walk.list),
        by => Err(WalkError::TooShort { by }),
    }
}

impl Walk {
    /// Figures 90 to 95: an address in bytes 0 to 7, a length in 8 to 11, type and subtype in 15.
    fn descriptor(&mut self, low: u64, high: u64) -> Result<Option<Next>, WalkError> {
        let (identifier, len) = ((high >> 56) as u8, high & 0xffff_ffff);
        if high >> 32 & 0xff_ffff != 0 {
            return Err(WalkError::Reserved { low, high });
        }
        match identifier {
            0x00 => {
                if !(low | len).is_multiple_of(self.terms.granularity) {
                    return Err(WalkError::Granularity { address: low, len });
                }
                self.data(Part::Memory(low, len), len)?;
            }
            0x10 => {
                if low != 0 {
                    return Err(WalkError::Reserved { low, high });
                }
                if !self.terms.is_read || !self.terms.bit_bucket {
                    return Err(WalkError::BitBucket);
                }
                self.data(Part::Skipped(len), len)?;
            }
            0x20 | 0x30 => {
                if len == 0 || !len.is_multiple_of(16) {
                    return Err(WalkError::SegmentLength { len });
                }
                if !low.is_multiple_of(8) {
                    return Err(WalkError::SegmentUnaligned { address: low });
                }
                let is_last = identifier == 0x30;
                return Ok(Some(Next {
                    at: low,
                    len,
                    is_last,
                }));
            }
            _ => return Err(WalkError::Type { identifier }),
        }
        Ok(None)
    }

    fn data(&mut self, part: Part, len: u64) -> Result<(), WalkError> {
        if len == 0 {
            return Err(WalkError::Nothing);
        }
        if len > self.left {
            return Err(WalkError::TooLong {
                by: len - self.left,
            });
        }
        self.left -= len;
        self.list.descriptors += 1;
        push(&mut self.list.parts, part);
        Ok(())
    }
}

/// Appends a part, merged with the last where it continues it; nothing for no bytes.
pub(crate) fn push(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), part) {
        (_, Part::Memory(_, 0) | Part::Skipped(0)) => {}
        (Some(Part::Memory(last, last_len)), Part::Memory(begin, len))
            if *last + *last_len == begin =>
        {
            *last_len += len;
        }
        (Some(Part::Skipped(last)), Part::Skipped(len)) => *last += len,
        _ => parts.push(part),
    }
}

fn qword(sqe: &[u8; 64], at: usize) -> u64 {
    (0..8).fold(0, |value, i| value | u64::from(sqe[at + i]) << (8 * i))
}
