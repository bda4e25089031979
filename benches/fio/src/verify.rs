//! fio's verify header (3.33, x86-64) with CRC-32C: written with every block,
//! checked when it is read back, by this program or by fio.

#![forbid(unsafe_code)]

use std::fmt;

use crate::random;

/// Bytes in front of the data: the header proper and the checksum of the data.
pub(crate) const HEADER_BYTES: usize = 44;
/// Bytes that the header's own checksum covers.
const COVERED_BYTES: usize = 36;
/// First field of every header.
const MAGIC: u16 = 0xacca;
/// fio's numbers for crc32c and crc32c-intel.
const TYPE_CRC32C: u16 = 5;
const TYPE_CRC32C_INTEL: u16 = 6;

/// What a header says about its block.
///
/// Layout, little-endian: magic u16, type u16, length u32, seed u64, offset u64,
/// seconds u32, nanoseconds u32, thread u16, number u16, CRC-32C of these 36
/// bytes u32, CRC-32C of the data u32. fio leaves out the final inversion of the
/// CRC, and so do we.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) seed: u64,
    pub(crate) offset: u64,
    pub(crate) seconds: u32,
    pub(crate) nanoseconds: u32,
    pub(crate) thread: u16,
    pub(crate) number: u16,
}

/// CRC-32C as fio stores it: without the final inversion.
fn checksum(bytes: &[u8]) -> u32 {
    !crc32c::crc32c(bytes)
}

/// Fills `block` with data from the stamp's seed and puts a header at every
/// `interval` bytes.
pub(crate) fn stamp_block(block: &mut [u8], interval: usize, stamp: &Stamp) {
    random::fill(block, stamp.seed);
    for (index, part) in block.chunks_exact_mut(interval.max(1)).enumerate() {
        let header = Stamp {
            offset: stamp.offset + (index * interval) as u64,
            ..*stamp
        };
        write_header(part, &header);
    }
}

fn write_header(part: &mut [u8], stamp: &Stamp) {
    let Some((header, data)) = part.split_first_chunk_mut::<HEADER_BYTES>() else {
        return;
    };
    let length = (HEADER_BYTES + data.len()) as u32;
    header[0..2].copy_from_slice(&MAGIC.to_le_bytes());
    header[2..4].copy_from_slice(&TYPE_CRC32C.to_le_bytes());
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..16].copy_from_slice(&stamp.seed.to_le_bytes());
    header[16..24].copy_from_slice(&stamp.offset.to_le_bytes());
    header[24..28].copy_from_slice(&stamp.seconds.to_le_bytes());
    header[28..32].copy_from_slice(&stamp.nanoseconds.to_le_bytes());
    header[32..34].copy_from_slice(&stamp.thread.to_le_bytes());
    header[34..36].copy_from_slice(&stamp.number.to_le_bytes());
    let own = checksum(&header[..COVERED_BYTES]);
    header[36..40].copy_from_slice(&own.to_le_bytes());
    header[40..44].copy_from_slice(&checksum(data).to_le_bytes());
}

/// What a block must be: where, how long, and, if this run wrote it, which write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) offset: u64,
    /// Bytes per header.
    pub(crate) interval: u32,
    /// Seed and number of the last write, if they are known.
    pub(crate) write: Option<(u64, u16)>,
}

/// What is wrong with a block. `Display` says it with the expected and the
/// received value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// From the start of the file or device.
    pub(crate) offset: u64,
    pub(crate) what: Field,
    pub(crate) expected: u64,
    pub(crate) received: u64,
}

/// The part of a block that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Magic,
    Type,
    Length,
    Seed,
    Offset,
    Number,
    HeaderChecksum,
    DataChecksum,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (expected, received) = (self.expected, self.received);
        match self.what {
            Field::Magic => write!(
                f,
                "no verify header: expected magic {expected:04x}, received {received:04x}"
            ),
            Field::Type => write!(
                f,
                "header of another checksum: expected type {expected} (crc32c), received {received}"
            ),
            Field::Length => write!(
                f,
                "header of another block size: expected {expected}, received {received}"
            ),
            Field::Offset => write!(
                f,
                "block of another place: expected offset {expected}, received {received}"
            ),
            Field::Seed => write!(
                f,
                "block of another write: expected seed {expected:x}, received {received:x}"
            ),
            Field::Number => write!(
                f,
                "block of another write: expected number {expected}, received {received}"
            ),
            Field::HeaderChecksum => write!(
                f,
                "bad header: expected CRC {expected:08x}, received {received:08x}"
            ),
            Field::DataChecksum => write!(
                f,
                "bad data: expected CRC {expected:08x}, received {received:08x}"
            ),
        }
    }
}

/// Checks a block that was read.
pub(crate) fn check_block(block: &[u8], expected: &Expected) -> Result<(), Mismatch> {
    let interval = expected.interval.max(1);
    for (index, part) in block.chunks_exact(interval as usize).enumerate() {
        let offset = expected.offset + index as u64 * u64::from(interval);
        check_part(part, offset, expected)?;
    }
    Ok(())
}

fn check_part(part: &[u8], offset: u64, expected: &Expected) -> Result<(), Mismatch> {
    let fail = |what, expected: u64, received: u64| {
        Err(Mismatch {
            offset,
            what,
            expected,
            received,
        })
    };
    let Some((header, data)) = part.split_first_chunk::<HEADER_BYTES>() else {
        return fail(
            Field::Length,
            u64::from(expected.interval),
            part.len() as u64,
        );
    };
    let field = |start: usize, len: usize| {
        header
            .iter()
            .skip(start)
            .take(len)
            .rev()
            .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
    };
    if field(0, 2) != u64::from(MAGIC) {
        return fail(Field::Magic, u64::from(MAGIC), field(0, 2));
    }
    // The header's checksum comes before its fields: a flipped bit is then
    // called what it is, not "another write".
    let own = u64::from(checksum(&header[..COVERED_BYTES]));
    if field(36, 4) != own {
        return fail(Field::HeaderChecksum, field(36, 4), own);
    }
    let kind = field(2, 2);
    if kind != u64::from(TYPE_CRC32C) && kind != u64::from(TYPE_CRC32C_INTEL) {
        return fail(Field::Type, u64::from(TYPE_CRC32C), kind);
    }
    if field(4, 4) != u64::from(expected.interval) {
        return fail(Field::Length, u64::from(expected.interval), field(4, 4));
    }
    if field(16, 8) != offset {
        return fail(Field::Offset, offset, field(16, 8));
    }
    if let Some((seed, number)) = expected.write {
        if field(8, 8) != seed {
            return fail(Field::Seed, seed, field(8, 8));
        }
        if field(34, 2) != u64::from(number) {
            return fail(Field::Number, u64::from(number), field(34, 2));
        }
    }
    let crc = u64::from(checksum(data));
    if field(40, 4) != crc {
        return fail(Field::DataChecksum, field(40, 4), crc);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STAMP: Stamp = Stamp {
        seed: 0x0123_4567_89ab_cdef,
        offset: 40_960,
        seconds: 12,
        nanoseconds: 34,
        thread: 1,
        number: 7,
    };

    fn block() -> Vec<u8> {
        let mut block = vec![0; 4096];
        stamp_block(&mut block, 4096, &STAMP);
        block
    }

    fn expected() -> Expected {
        Expected {
            offset: 40_960,
            interval: 4096,
            write: Some((STAMP.seed, 7)),
        }
    }

    /// The fields are where fio 3.33 on x86-64 has them.
    #[test]
    fn the_header_is_laid_out_as_fio_lays_it_out() {
        let block = block();
        assert_eq!(block[0..2], [0xca, 0xac]);
        assert_eq!(block[2..4], [5, 0]);
        assert_eq!(block[4..8], 4096u32.to_le_bytes());
        assert_eq!(block[8..16], STAMP.seed.to_le_bytes());
        assert_eq!(block[16..24], 40_960u64.to_le_bytes());
        assert_eq!(block[34..36], [7, 0]);
        // "123456789" has CRC-32C e3069283; fio keeps its complement.
        assert_eq!(checksum(b"123456789"), !0xe306_9283);
    }

    /// What was written passes; any single byte changed anywhere does not.
    #[test]
    fn any_flipped_byte_is_found() {
        let good = block();
        check_block(&good, &expected()).unwrap();
        for at in (0..HEADER_BYTES).chain([HEADER_BYTES, 2000, 4095]) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let mismatch = check_block(&bad, &expected()).unwrap_err();
            assert_eq!(mismatch.offset, 40_960);
            assert_ne!(mismatch.expected, mismatch.received, "byte {at}");
        }
    }

    /// An intact block of an older write or of another place is not the one.
    #[test]
    fn stale_and_misplaced_blocks_are_found() {
        let block = block();
        let with = |write, offset| Expected {
            write,
            offset,
            ..expected()
        };
        let what = |expected: Expected| check_block(&block, &expected).unwrap_err().what;
        assert_eq!(what(with(Some((1, 7)), 40_960)), Field::Seed);
        assert_eq!(what(with(Some((STAMP.seed, 8)), 40_960)), Field::Number);
        assert_eq!(what(with(None, 0)), Field::Offset);
        check_block(&block, &with(None, 40_960)).unwrap();
        assert_eq!(
            check_block(&[0; 4096], &expected()).unwrap_err().what,
            Field::Magic
        );
    }

    /// Several headers per block, each for its own part.
    #[test]
    fn intervals_have_their_own_headers() {
        let mut block = vec![0; 16_384];
        stamp_block(&mut block, 4096, &STAMP);
        check_block(&block, &expected()).unwrap();
        block[3 * 4096 + 100] ^= 1;
        let mismatch = check_block(&block, &expected()).unwrap_err();
        assert_eq!(
            (mismatch.offset, mismatch.what),
            (40_960 + 3 * 4096, Field::DataChecksum)
        );
    }

    /// Reading with another block size than was written is said in words.
    #[test]
    fn another_block_size_is_named() {
        let mut large = vec![0; 8192];
        stamp_block(&mut large, 8192, &STAMP);
        let mismatch = check_block(&large, &expected()).unwrap_err();
        assert_eq!(mismatch.what, Field::Length);
        assert!(mismatch.to_string().contains("8192"));
    }
}
