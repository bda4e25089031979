//! Which I/O comes next: direction by the mix, file by turn, place by pattern.

#![forbid(unsafe_code)]

use crate::job::{JobSpec, Mix, Pattern};
use crate::random::{Random, Seeds};
use crate::random_map::RandomMap;
use crate::stats::Direction;

/// A region of one file: `[start, start + len)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// One I/O to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) direction: Direction,
    pub(crate) file: u32,
    /// From the start of the file.
    pub(crate) offset: u64,
    pub(crate) len_bytes: u32,
    /// Number of the block within the region.
    pub(crate) block: u64,
}

/// State of one file.
#[derive(Debug)]
struct FileCursor {
    region: Region,
    /// Whole blocks in the region, by direction.
    blocks: [u64; 2],
    /// Next place, from the region's start, by direction.
    position: [u64; 2],
    /// Blocks done in this pass, by direction when their sizes differ.
    maps: Option<Vec<RandomMap>>,
    exhausted: bool,
}

/// The sequence of a job thread.
#[derive(Debug)]
pub(crate) struct Generator {
    pattern: Pattern,
    block_bytes: [u32; 2],
    mix_read: u32,
    /// Endless: start over when every block is done.
    wrap: bool,
    /// Start every pass with the same seeds.
    reseed: bool,
    seeds: Seeds,
    offsets: Random,
    mix: Random,
    files: Vec<FileCursor>,
    next_file: usize,
    /// I/Os handed out, by direction.
    issued: [u64; 2],
    /// Direction of a mix, kept until `issued` reaches `mix_until`.
    mix_direction: Direction,
    mix_until: u64,
    /// I/Os until the next random place (`rw=randread:8`).
    run_left: u32,
    wrapped: bool,
}

impl Generator {
    /// For a job on `regions` (one per file). `wrap` makes it endless.
    pub(crate) fn new(spec: &JobSpec, regions: &[Region], seeds: Seeds, wrap: bool) -> Self {
        let pattern = spec.pattern;
        let use_map = pattern.random && spec.random_map;
        let files = regions
            .iter()
            .map(|region| {
                let map = |block: u32| RandomMap::new(region.len / u64::from(block.max(1)));
                // Reads and writes of one size share a map: a mixed job then
                // does each block once, one way or the other.
                let maps = use_map.then(|| {
                    if spec.block_bytes[0] == spec.block_bytes[1] {
                        vec![map(spec.block_bytes[0])]
                    } else {
                        vec![map(spec.block_bytes[0]), map(spec.block_bytes[1])]
                    }
                });
                FileCursor {
                    region: *region,
                    blocks: spec
                        .block_bytes
                        .map(|block| region.len / u64::from(block.max(1))),
                    position: [0; 2],
                    maps,
                    exhausted: false,
                }
            })
            .collect();
        Self {
            pattern,
            block_bytes: spec.block_bytes,
            mix_read: spec.mix_read,
            wrap,
            reseed: spec.rand_repeat && spec.rand_seed.is_none(),
            seeds,
            offsets: Random::new(seeds.offsets),
            mix: Random::new(seeds.mix),
            files,
            next_file: 0,
            issued: [0; 2],
            mix_direction: Direction::Read,
            mix_until: 0,
            run_left: 1,
            wrapped: false,
        }
    }

    /// Starts the region over (the next loop of the job).
    pub(crate) fn begin_pass(&mut self) {
        if self.reseed {
            self.offsets = Random::new(self.seeds.offsets);
            self.mix = Random::new(self.seeds.mix);
        }
        self.mix_until = 0;
        self.next_file = 0;
        for file in &mut self.files {
            file.start_over();
        }
    }

    /// True once after the sequence came round to where it started.
    pub(crate) fn take_wrapped(&mut self) -> bool {
        std::mem::take(&mut self.wrapped)
    }

    /// Writes handed out so far.
    pub(crate) fn writes_issued(&self) -> u64 {
        self.issued[Direction::Write as usize]
    }

    /// I/Os handed out so far.
    pub(crate) fn issued(&self) -> u64 {
        self.issued.iter().sum()
    }

    /// The next I/O; None when every block of the pass is done.
    pub(crate) fn next(&mut self) -> Option<Access> {
        let direction = self.choose_direction();
        let count = self.files.len();
        let mut started_over = false;
        // At most: every file turns out to be done, the start over, every file
        // once more.
        for _ in 0..2 * count + 2 {
            let live = self.next_live_file();
            let Some(index) = live else {
                if !self.wrap || count == 0 {
                    return None;
                }
                if std::mem::replace(&mut started_over, true) {
                    return None;
                }
                for file in &mut self.files {
                    file.start_over();
                }
                self.wrapped = true;
                continue;
            };
            self.next_file = if index + 1 == count { 0 } else { index + 1 };
            match self.place(index, direction) {
                Some(block_start) => return Some(self.hand_out(index, direction, block_start)),
                None => self.files[index].exhausted = true,
            }
        }
        None
    }

    /// The file whose turn it is, or the next one with blocks left.
    #[inline]
    fn next_live_file(&self) -> Option<usize> {
        let (before, after) = self.files.split_at(self.next_file.min(self.files.len()));
        let live = |file: &FileCursor| !file.exhausted;
        match after.iter().position(live) {
            Some(step) => Some(before.len() + step),
            None => before.iter().position(live),
        }
    }

    fn hand_out(&mut self, index: usize, direction: Direction, place: u64) -> Access {
        let len_bytes = self.block_bytes[direction as usize];
        let file = &mut self.files[index];
        file.position[direction as usize] = place + u64::from(len_bytes);
        self.issued[direction as usize] += 1;
        Access {
            direction,
            file: index as u32,
            offset: file.region.start + place,
            len_bytes,
            block: place / u64::from(len_bytes),
        }
    }

    /// Keeps one direction for a while and then draws again, so that the mix is
    /// right in the long run and both directions come in runs.
    fn choose_direction(&mut self) -> Direction {
        match self.pattern.mix {
            Mix::Read => return Direction::Read,
            Mix::Write => return Direction::Write,
            Mix::Both => {}
        }
        let current = self.mix_direction;
        if self.issued[current as usize] >= self.mix_until {
            let drawn = if self.mix.percent() <= self.mix_read {
                Direction::Read
            } else {
                Direction::Write
            };
            if drawn != current {
                let other_share = u64::from(match current {
                    Direction::Read => 100 - self.mix_read,
                    Direction::Write => self.mix_read,
                });
                self.mix_until = self.issued[current as usize] * other_share / 100;
            }
            self.mix_direction = drawn;
        }
        self.mix_direction
    }

    /// A place for a block of this direction, from the region's start.
    fn place(&mut self, index: usize, direction: Direction) -> Option<u64> {
        if !self.pattern.random {
            return self.sequential_place(index, direction);
        }
        self.run_left -= 1;
        if self.run_left == 0 {
            self.run_left = self.pattern.run_length;
        } else {
            let file = &self.files[index];
            let place = file.position[direction as usize];
            if place + u64::from(self.block_bytes[direction as usize]) <= file.region.len {
                return Some(place);
            }
        }
        self.random_place(index, direction)
    }

    fn sequential_place(&mut self, index: usize, direction: Direction) -> Option<u64> {
        let file = &self.files[index];
        let block = u64::from(self.block_bytes[direction as usize]);
        let mut place = file.position[direction as usize];
        if place > 0 && self.pattern.skip_bytes > 0 {
            place = place.saturating_add(self.pattern.skip_bytes);
            if place.saturating_add(block) > file.region.len {
                place = 0;
            }
        }
        (place + block <= file.region.len).then_some(place)
    }

    fn random_place(&mut self, index: usize, direction: Direction) -> Option<u64> {
        let file = &mut self.files[index];
        let block_bytes = u64::from(self.block_bytes[direction as usize]);
        let blocks = file.blocks[direction as usize];
        if blocks == 0 {
            return None;
        }
        let mut block = self.offsets.below(blocks);
        if let Some(maps) = &mut file.maps {
            let which = if maps.len() > 1 {
                direction as usize
            } else {
                0
            };
            let map = &mut maps[which];
            if map.is_marked(block) {
                block = map.next_free(block)?;
            }
            map.mark(block);
        }
        Some(block * block_bytes)
    }
}

impl FileCursor {
    fn start_over(&mut self) {
        self.position = [0; 2];
        self.exhausted = false;
        for map in self.maps.iter_mut().flatten() {
            map.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::job::resolve;
    use crate::options::ini::entry_from;
    use crate::options::{Origin, Section};
    use std::collections::HashSet;

    fn spec(lines: &[&str]) -> JobSpec {
        let origin = Origin::Argument { index: 1 };
        let section = Section {
            name: "j".to_owned(),
            global: false,
            entries: lines
                .iter()
                .map(|line| entry_from(line, origin.clone()))
                .collect(),
            origin,
            source: 1,
        };
        resolve(&[section], &[], &|_| None).unwrap().specs.remove(0)
    }

    fn generator(lines: &[&str], regions: &[Region], wrap: bool) -> Generator {
        let seeds = Seeds::new(1, None, true, false, 0);
        Generator::new(&spec(lines), regions, seeds, wrap)
    }

    const MIB: Region = Region {
        start: 8192,
        len: 1 << 20,
    };

    fn offsets(generator: &mut Generator, count: usize) -> Vec<u64> {
        (0..count)
            .filter_map(|_| generator.next())
            .map(|a| a.offset)
            .collect()
    }

    /// Every block once, none outside the region, then the end.
    #[test]
    fn a_random_map_covers_every_block_once() {
        for rw in ["rw=randread", "rw=randwrite", "rw=randrw"] {
            let mut generator = generator(&[rw], &[MIB], false);
            let seen: HashSet<u64> = offsets(&mut generator, 1000).into_iter().collect();
            let all: HashSet<u64> = (0..256).map(|block| 8192 + block * 4096).collect();
            assert_eq!(seen, all, "{rw}");
        }
    }

    /// With norandommap blocks repeat and it never ends by itself.
    #[test]
    fn without_a_map_blocks_repeat() {
        let mut generator = generator(&["rw=randread", "norandommap"], &[MIB], false);
        let places = offsets(&mut generator, 1000);
        assert_eq!(places.len(), 1000);
        assert!(
            places
                .iter()
                .all(|p| (8192..8192 + (1 << 20)).contains(p) && p % 4096 == 0)
        );
        let distinct: HashSet<_> = places.iter().take(256).collect();
        assert!(distinct.len() < 256);
    }

    /// Sequential jobs go from start to end; a rest smaller than a block is left.
    #[test]
    fn sequential_patterns_go_through_the_region() {
        let region = Region {
            start: 0,
            len: 10_000,
        };
        let mut one = generator(&["rw=read"], &[region], false);
        assert_eq!(offsets(&mut one, 10), [0, 4096]);
        one.begin_pass();
        assert_eq!(offsets(&mut one, 10), [0, 4096]);
        let mut endless = generator(&["rw=read"], &[region], true);
        assert_eq!(offsets(&mut endless, 5), [0, 4096, 0, 4096, 0]);
        assert!(endless.take_wrapped() && !endless.take_wrapped());
        let mut skipping = generator(&["rw=write:4k"], &[MIB], false);
        assert_eq!(offsets(&mut skipping, 3), [8192, 16384, 24576]);
    }

    /// A file smaller than a block ends at once instead of looping for ever.
    #[test]
    fn a_region_without_a_block_ends() {
        let tiny = Region { start: 0, len: 100 };
        for rw in ["rw=read", "rw=randread"] {
            assert_eq!(generator(&[rw], &[tiny], true).next(), None);
            assert_eq!(generator(&[rw], &[], true).next(), None);
        }
    }

    /// 8 I/Os from each random place.
    #[test]
    fn runs_go_on_sequentially_from_a_random_place() {
        let mut generator = generator(&["rw=randread:8", "norandommap"], &[MIB], false);
        let places = offsets(&mut generator, 80);
        let steps = places.windows(2).filter(|w| w[1] == w[0] + 4096).count();
        assert!(steps >= 60, "{steps}");
        assert!(steps < 79);
    }

    /// The mix comes out as asked.
    #[test]
    fn the_mix_is_kept() {
        for (lines, low, high) in [
            (["rw=randrw", "rwmixread=70"], 60, 80),
            (["rw=rw", "rwmixread=100"], 100, 100),
            (["rw=rw", "rwmixwrite=100"], 0, 0),
        ] {
            let mut generator = generator(
                &lines,
                &[Region {
                    start: 0,
                    len: 64 << 20,
                }],
                true,
            );
            let reads = (0..10_000)
                .filter_map(|_| generator.next())
                .filter(|access| access.direction == Direction::Read)
                .count();
            assert!((low..=high).contains(&(reads / 100)), "{lines:?}: {reads}");
        }
    }

    /// Several files take turns.
    #[test]
    fn files_take_turns() {
        let region = Region {
            start: 0,
            len: 8192,
        };
        let mut generator = generator(&["rw=read"], &[region, region], false);
        let seen: Vec<_> = std::iter::from_fn(|| generator.next())
            .map(|access| (access.file, access.offset))
            .collect();
        assert_eq!(seen, [(0, 0), (1, 0), (0, 4096), (1, 4096)]);
    }

    /// Seeded alike, two runs and two passes are alike.
    #[test]
    fn repeatable_passes_are_alike() {
        let mut generator = generator(&["rw=randrw"], &[MIB], false);
        let first: Vec<_> = std::iter::from_fn(|| generator.next()).collect();
        generator.begin_pass();
        let second: Vec<_> = std::iter::from_fn(|| generator.next()).collect();
        assert_eq!(first.len(), second.len());
        assert_eq!(first[0].offset, second[0].offset);
    }
}
