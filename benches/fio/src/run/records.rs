//! What this run wrote where: the verify phase compares against it, and a block
//! is not written again while a write to it is in flight.

#![forbid(unsafe_code)]

use crate::generate::Region;

/// State of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Untouched = 0,
    InFlight = 1,
    Written = 2,
}

/// Blocks of one file. Parallel arrays of plain zeros: the system hands them out
/// untouched, so a huge region costs memory only where it is written.
#[derive(Debug)]
struct FileRecords {
    start: u64,
    seeds: Vec<u64>,
    numbers: Vec<u16>,
    states: Vec<u8>,
}

/// All blocks of a job thread.
#[derive(Debug)]
pub(crate) struct Records {
    block_bytes: u32,
    files: Vec<FileRecords>,
}

/// A block that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrittenBlock {
    pub(crate) file: u32,
    pub(crate) block: u64,
    pub(crate) offset: u64,
}

impl Records {
    /// For blocks of `block_bytes` in `regions`.
    pub(crate) fn new(regions: &[Region], block_bytes: u32) -> Self {
        let files = regions
            .iter()
            .map(|region| {
                let blocks = usize::try_from(region.len / u64::from(block_bytes.max(1)))
                    .unwrap_or(usize::MAX);
                FileRecords {
                    start: region.start,
                    seeds: vec![0; blocks],
                    numbers: vec![0; blocks],
                    states: vec![0; blocks],
                }
            })
            .collect();
        Self { block_bytes, files }
    }

    fn file(&mut self, file: u32) -> Option<&mut FileRecords> {
        self.files.get_mut(file as usize)
    }

    /// Notes that a write starts; false if one to the same block is in flight.
    pub(crate) fn begin(&mut self, file: u32, block: u64) -> bool {
        let state = self
            .file(file)
            .and_then(|records| records.states.get_mut(block as usize));
        match state {
            Some(state) if *state == State::InFlight as u8 => false,
            Some(state) => {
                *state = State::InFlight as u8;
                true
            }
            None => true,
        }
    }

    /// Notes that the write is done and what it left there.
    pub(crate) fn complete(&mut self, file: u32, block: u64, seed: u64, number: u16) {
        let index = block as usize;
        let Some(records) = self.file(file) else {
            return;
        };
        if let (Some(state), Some(old_seed), Some(old_number)) = (
            records.states.get_mut(index),
            records.seeds.get_mut(index),
            records.numbers.get_mut(index),
        ) {
            *state = State::Written as u8;
            *old_seed = seed;
            *old_number = number;
        }
    }

    /// Seed and number of the last write to a block.
    pub(crate) fn written(&self, file: u32, block: u64) -> Option<(u64, u16)> {
        let records = self.files.get(file as usize)?;
        let index = block as usize;
        (*records.states.get(index)? == State::Written as u8)
            .then_some((*records.seeds.get(index)?, *records.numbers.get(index)?))
    }

    /// The first written block at or after a place, in order of files and offsets.
    pub(crate) fn next_written(&self, file: u32, block: u64) -> Option<WrittenBlock> {
        let mut from = block as usize;
        for (index, records) in self.files.iter().enumerate().skip(file as usize) {
            let rest = records.states.get(from..).unwrap_or(&[]);
            let found = rest.iter().position(|state| *state == State::Written as u8);
            if let Some(step) = found {
                let block = (from + step) as u64;
                return Some(WrittenBlock {
                    file: index as u32,
                    block,
                    offset: records.start + block * u64::from(self.block_bytes),
                });
            }
            from = 0;
        }
        None
    }

    /// Bytes that a verify phase would read.
    pub(crate) fn written_bytes(&self) -> u64 {
        let written = |records: &FileRecords| {
            records
                .states
                .iter()
                .filter(|state| **state == State::Written as u8)
                .count() as u64
        };
        self.files.iter().map(written).sum::<u64>() * u64::from(self.block_bytes)
    }

    /// Forgets everything: the next pass writes anew.
    pub(crate) fn clear(&mut self) {
        for records in &mut self.files {
            records.states.fill(State::Untouched as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One write per block at a time; the last one is what counts.
    #[test]
    fn a_block_has_one_write_in_flight_and_keeps_the_last() {
        let regions = [
            Region {
                start: 4096,
                len: 16_384,
            },
            Region {
                start: 0,
                len: 8192,
            },
        ];
        let mut records = Records::new(&regions, 4096);
        assert!(records.begin(0, 1));
        assert!(!records.begin(0, 1));
        assert_eq!(records.written(0, 1), None);
        records.complete(0, 1, 11, 1);
        assert!(records.begin(0, 1));
        records.complete(0, 1, 22, 2);
        records.begin(1, 0);
        records.complete(1, 0, 33, 3);
        assert_eq!(records.written(0, 1), Some((22, 2)));
        let first = records.next_written(0, 0);
        assert_eq!(
            first,
            Some(WrittenBlock {
                file: 0,
                block: 1,
                offset: 8192
            })
        );
        let second = records.next_written(0, 2);
        assert_eq!(
            second,
            Some(WrittenBlock {
                file: 1,
                block: 0,
                offset: 0
            })
        );
        assert_eq!(records.next_written(1, 1), None);
        assert_eq!(records.written_bytes(), 8192);
        records.clear();
        assert_eq!(records.next_written(0, 0), None);
    }
}
