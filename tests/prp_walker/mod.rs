//! Which bytes of memory a command's PRP entries name, written from NVMe Base 2.0, 4.1.1 alone.
//! It shares nothing with the driver, the emulator or their spec crate, so as to judge them.
//!
//! Stricter than a controller has to be: what the specification forbids the host is an error
//! here even where controllers are allowed to look away (bits 1:0 of PRP1, fields not in use).

use std::fmt;

/// What is wrong with a command's PRP entries, or with the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalkError {
    /// A memory page is 2^(12 + CC.MPS) bytes, MPS being four bits.
    PageSize { page_size: u64 },
    /// PSDT says that the data pointer holds SGLs, or has its reserved value.
    NotPrp { psdt: u8 },
    /// PRP1 is not dword aligned.
    Prp1Unaligned { prp1: u64 },
    /// PRP1 is zero though the command transfers data.
    Prp1Zero,
    /// A command that transfers no data has a PRP1.
    Prp1Unused { prp1: u64 },
    /// PRP2 is not zero though PRP1 names all of the data.
    Prp2Unused { prp2: u64 },
    /// PRP2 is zero though PRP1 does not name all of the data.
    Prp2Zero,
    /// PRP2 is the second entry and has an offset into its page.
    Prp2Offset { prp2: u64 },
    /// PRP2 points to a list and is not qword aligned.
    ListUnaligned { prp2: u64 },
    /// The list lies in memory that cannot be read.
    ListUnreadable { at: u64 },
    /// An entry of the list is zero.
    EntryZero { at: u64 },
    /// An entry of the list has an offset into its page.
    EntryOffset { at: u64, entry: u64 },
    /// The pointer to the next page of the list is zero.
    ChainZero { at: u64 },
    /// The pointer to the next page of the list does not name the page's first byte.
    ChainOffset { at: u64, pointer: u64 },
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PageSize { page_size } => {
                write!(
                    f,
                    "{page_size} bytes are no memory page: 2^12 to 2^27 bytes are"
                )
            }
            Self::NotPrp { psdt } => write!(f, "PSDT is {psdt:#04b}: not PRP entries"),
            Self::Prp1Unaligned { prp1 } => write!(f, "PRP1 {prp1:#x} is not dword aligned"),
            Self::Prp1Zero => write!(f, "PRP1 is zero, but there is data"),
            Self::Prp1Unused { prp1 } => write!(f, "PRP1 is {prp1:#x}, but there is no data"),
            Self::Prp2Unused { prp2 } => {
                write!(f, "PRP2 is {prp2:#x}, but PRP1 names all of the data")
            }
            Self::Prp2Zero => write!(f, "PRP2 is zero, but PRP1 does not name all of the data"),
            Self::Prp2Offset { prp2 } => {
                write!(
                    f,
                    "PRP2 {prp2:#x} is the second entry and has an offset into its page"
                )
            }
            Self::ListUnaligned { prp2 } => {
                write!(
                    f,
                    "PRP2 {prp2:#x} points to a list and is not qword aligned"
                )
            }
            Self::ListUnreadable { at } => write!(f, "the list cannot be read at {at:#x}"),
            Self::EntryZero { at } => write!(f, "the list entry at {at:#x} is zero"),
            Self::EntryOffset { at, entry } => {
                write!(
                    f,
                    "the list entry at {at:#x}, {entry:#x}, has an offset into its page"
                )
            }
            Self::ChainZero { at } => {
                write!(f, "the pointer to the next list page at {at:#x} is zero")
            }
            Self::ChainOffset { at, pointer } => {
                write!(
                    f,
                    "the next list page at {at:#x}, {pointer:#x}, is not page aligned"
                )
            }
        }
    }
}

impl std::error::Error for WalkError {}

/// The bytes that a command's PRP entries name, as runs of (IOVA, length) in the order of the
/// data, adjacent runs merged.
///
/// `sqe` is the submission queue entry as it lies in memory, `page_size` the memory page size
/// that CC.MPS says, `len_bytes` the length of the data as opcode and dwords 10 to 15 say.
/// `read_u64` reads eight little-endian bytes of list memory; it is called once per list entry
/// that counts, in order, and for nothing else.
pub(crate) fn walk(
    sqe: &[u8; 64],
    page_size: u64,
    len_bytes: u64,
    mut read_u64: impl FnMut(u64) -> Option<u64>,
) -> Result<Vec<(u64, u64)>, WalkError> {
    if !page_size.is_power_of_two() || !(1 << 12..=1 << 27).contains(&page_size) {
        return Err(WalkError::PageSize { page_size });
    }
    let offset_of = |iova: u64| iova % page_size;
    // Figure 87: PSDT is bits 15:14 of dword 0, DPTR bytes 24 to 39.
    let psdt = sqe[1] >> 6;
    let (prp1, prp2) = (qword(sqe, 24), qword(sqe, 32));
    if psdt != 0 {
        return Err(WalkError::NotPrp { psdt });
    }

    let mut runs = Runs(Vec::new());
    if len_bytes == 0 {
        return match (prp1, prp2) {
            (0, 0) => Ok(runs.0),
            (0, _) => Err(WalkError::Prp2Unused { prp2 }),
            _ => Err(WalkError::Prp1Unused { prp1 }),
        };
    }

    // The first entry alone may have an offset, of whole dwords; it reaches to its page's end.
    if prp1 == 0 {
        return Err(WalkError::Prp1Zero);
    }
    if prp1 % 4 != 0 {
        return Err(WalkError::Prp1Unaligned { prp1 });
    }
    let mut left = len_bytes;
    left -= runs.push(prp1, left.min(page_size - offset_of(prp1)));

    // What PRP2 is follows from the page boundaries that the data crosses: none, reserved; one,
    // the second entry; more, a pointer to a list.
    if left == 0 {
        return if prp2 == 0 {
            Ok(runs.0)
        } else {
            Err(WalkError::Prp2Unused { prp2 })
        };
    }
    if prp2 == 0 {
        return Err(WalkError::Prp2Zero);
    }
    if left <= page_size {
        if offset_of(prp2) != 0 {
            return Err(WalkError::Prp2Offset { prp2 });
        }
        runs.push(prp2, left);
        return Ok(runs.0);
    }

    // The pointer may have an offset of whole qwords; the list begins there.
    if prp2 % 8 != 0 {
        return Err(WalkError::ListUnaligned { prp2 });
    }
    let mut at = prp2;
    while left != 0 {
        let value = read_u64(at).ok_or(WalkError::ListUnreadable { at })?;
        let last_of_page = offset_of(at) == page_size - 8;
        if last_of_page && left > page_size {
            // More than this one entry is needed, so it is no entry but the pointer to the next
            // page of the list, which is taken from its first byte on.
            if value == 0 {
                return Err(WalkError::ChainZero { at });
            }
            if offset_of(value) != 0 {
                return Err(WalkError::ChainOffset { at, pointer: value });
            }
            at = value;
            continue;
        }
        if value == 0 {
            return Err(WalkError::EntryZero { at });
        }
        if offset_of(value) != 0 {
            return Err(WalkError::EntryOffset { at, entry: value });
        }
        left -= runs.push(value, left.min(page_size));
        // After the page's last entry there is nothing left, and nothing is read at `at`.
        at = at.wrapping_add(8);
    }
    Ok(runs.0)
}

/// Runs of bytes, merged where one begins where the last one ends.
struct Runs(Vec<(u64, u64)>);

impl Runs {
    /// Adds a run and returns its length.
    fn push(&mut self, iova: u64, len_bytes: u64) -> u64 {
        match self.0.last_mut() {
            Some((last, last_len)) if last.checked_add(*last_len) == Some(iova) => {
                *last_len += len_bytes;
            }
            _ => self.0.push((iova, len_bytes)),
        }
        len_bytes
    }
}

fn qword(sqe: &[u8; 64], at: usize) -> u64 {
    (0..8).fold(0, |value, i| value | u64::from(sqe[at + i]) << (8 * i))
}
