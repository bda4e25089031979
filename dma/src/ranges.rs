//! Gives out aligned ranges of a number line: IOVAs of a space, and pieces of a region.
//! First fit over free ranges; control path only.
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A first-fit allocator of ranges. Freed ranges merge with their neighbours.
///
/// ```
/// use underpin_dma::RangeAllocator;
///
/// let mut line = RangeAllocator::new(0..=99);
/// assert_eq!(line.alloc(10, 16), Some(0));
/// assert_eq!(line.alloc(10, 16), Some(16));
/// assert!(line.claim(90, 10) && !line.claim(90, 1));
/// line.exclude(10, 6);
/// assert_eq!(line.free_total(), 64);
///
/// line.free(0, 10);
/// line.restrict(&[0..=49]);
/// assert_eq!(line.free_total(), 10 + 24);
/// assert_eq!(line.alloc(30, 1), None, "no free range is so long");
///
/// let mut later = RangeAllocator::empty();
/// assert_eq!(later.alloc(1, 1), None);
/// later.free(7, 1);
/// assert_eq!(later.alloc(1, 1), Some(7));
/// ```
#[derive(Clone, Debug, Default)]
pub struct RangeAllocator {
    /// Free ranges: first -> last, inclusive so that the top of the line can be expressed.
    free: BTreeMap<u64, u64>,
}

impl RangeAllocator {
    /// An allocator with nothing to give out.
    pub const fn empty() -> Self {
        Self {
            free: BTreeMap::new(),
        }
    }

    /// An allocator over `range`.
    pub fn new(range: RangeInclusive<u64>) -> Self {
        let mut ranges = Self::empty();
        if !range.is_empty() {
            ranges.insert(*range.start(), *range.end());
        }
        ranges
    }

    /// Takes `len` numbers, starting at a multiple of `align` (a power of two).
    /// `None` when no free range fits, or `len` is 0.
    pub fn alloc(&mut self, len: u64, align: u64) -> Option<u64> {
        let mask = align.checked_sub(1)?;
        let (first, last, start) = self.free.iter().find_map(|(&first, &last)| {
            let start = first.checked_add(mask)? & !mask;
            let end = start.checked_add(len.checked_sub(1)?)?;
            (end <= last).then_some((first, last, start))
        })?;
        self.cut(first, last, start, start + (len - 1));
        Some(start)
    }

    /// Takes exactly the `len` numbers from `start` on. False, with nothing taken, when one of
    /// them is not free or `len` is 0.
    pub fn claim(&mut self, start: u64, len: u64) -> bool {
        let end = len.checked_sub(1).and_then(|more| start.checked_add(more));
        let holds = self.free.range(..=start).next_back();
        match (end, holds) {
            (Some(end), Some((&first, &last))) if end <= last => {
                self.cut(first, last, start, end);
                true
            }
            _ => false,
        }
    }

    /// Takes away whatever of the `len` numbers from `start` on is free.
    pub fn exclude(&mut self, start: u64, len: u64) {
        let Some(more) = len.checked_sub(1) else {
            return;
        };
        let end = start.saturating_add(more);
        while let Some((&first, &last)) = self.free.range(..=end).next_back()
            && last >= start
        {
            self.cut(first, last, first.max(start), last.min(end));
        }
    }

    /// Takes `start..=end` out of the free range `first..=last`, which holds it.
    fn cut(&mut self, first: u64, last: u64, start: u64, end: u64) {
        self.free.remove(&first);
        if first < start {
            self.free.insert(first, start - 1);
        }
        if end < last {
            self.free.insert(end + 1, last);
        }
    }

    /// Gives back (or adds) `len` numbers from `start` on.
    ///
    /// # Panics
    /// When any of them is free already: a range was given back twice.
    pub fn free(&mut self, start: u64, len: u64) {
        if len > 0 {
            self.insert(start, start + (len - 1));
        }
    }

    /// Keeps only what lies in one of `usable`, which may overlap and come in any order: a
    /// context with a smaller address width joined.
    pub fn restrict(&mut self, usable: &[RangeInclusive<u64>]) {
        let before = std::mem::take(&mut self.free);
        let usable = merged(usable);
        for (first, last) in before {
            for range in &usable {
                let (lo, hi) = (first.max(*range.start()), last.min(*range.end()));
                if lo <= hi {
                    self.insert(lo, hi);
                }
            }
        }
    }

    /// How many numbers are free.
    pub fn free_total(&self) -> u64 {
        self.free.iter().fold(0_u64, |sum, (first, last)| {
            sum.saturating_add(last - first).saturating_add(1)
        })
    }

    fn insert(&mut self, mut first: u64, mut last: u64) {
        if let Some((&next, &next_last)) = self.free.range(first..).next() {
            assert!(last < next, "range {first:#x}..={last:#x} is free already");
            if last.checked_add(1) == Some(next) {
                self.free.remove(&next);
                last = next_last;
            }
        }
        if let Some((&before, &before_last)) = self.free.range(..first).next_back() {
            assert!(
                before_last < first,
                "range {first:#x}..={last:#x} is free already"
            );
            if before_last.checked_add(1) == Some(first) {
                first = before;
            }
        }
        self.free.insert(first, last);
    }
}

/// The same numbers in order, as few ranges as can be: without empty ones, and with those that
/// overlap or touch made one.
pub(crate) fn merged(ranges: &[RangeInclusive<u64>]) -> Vec<RangeInclusive<u64>> {
    let mut sorted: Vec<(u64, u64)> = ranges
        .iter()
        .filter(|range| !range.is_empty())
        .map(|range| (*range.start(), *range.end()))
        .collect();
    sorted.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
    for (first, last) in sorted {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
        .into_iter()
        .map(|(first, last)| first..=last)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{RangeAllocator, merged};
    use underpin_rt::Rng;

    /// Whatever was taken never overlaps, is aligned, and all merges back into one range.
    #[test]
    fn allocations_never_overlap_and_merge_back() {
        let mut ranges = RangeAllocator::new(0x1000..=0x10_0fff);
        let total = ranges.free_total();
        let mut rng = Rng::seeded(3);
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for _ in 0..2000 {
            if rng.chance(3, 5) {
                let (len, align) = (1 + rng.below(9000), 1 << rng.below(13));
                if let Some(start) = ranges.alloc(len, align) {
                    assert_eq!(start % align, 0);
                    assert!(start >= 0x1000 && start + len <= 0x10_1000);
                    assert!(
                        taken
                            .iter()
                            .all(|&(s, l)| start + len <= s || s + l <= start)
                    );
                    taken.push((start, len));
                }
            } else if !taken.is_empty() {
                let at = usize::try_from(rng.below(taken.len() as u64)).unwrap();
                let (start, len) = taken.swap_remove(at);
                ranges.free(start, len);
            }
        }
        taken
            .into_iter()
            .for_each(|(start, len)| ranges.free(start, len));
        assert_eq!(ranges.free_total(), total);
        assert_eq!(
            ranges.alloc(total, 1),
            Some(0x1000),
            "the pieces merged into one"
        );
    }

    #[test]
    #[should_panic(expected = "free already")]
    fn giving_back_twice_is_caught() {
        let mut ranges = RangeAllocator::new(0..=99);
        let start = ranges.alloc(10, 1).unwrap();
        ranges.free(start, 10);
        ranges.free(start, 10);
    }

    #[test]
    fn restrict_keeps_only_what_all_can_reach() {
        let mut ranges = RangeAllocator::new(0..=u64::MAX);
        ranges.restrict(&[0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff]);
        assert_eq!(ranges.alloc(1 << 32, 1 << 32), Some(1 << 32));
        assert_eq!(ranges.alloc(1 << 40, 1), None);
        assert_eq!(ranges.alloc(0, 1), None);
    }

    /// What a context says it can use may overlap, repeat or be empty: it comes from a kernel or
    /// a peer, and must not trip the check against giving back twice.
    #[test]
    #[allow(clippy::reversed_empty_ranges)]
    fn restrict_takes_ranges_as_they_come() {
        let told = [50..=200, 0..=100, 9..=3, 300..=400, 201..=210, 50..=200];
        assert_eq!(merged(&told), [0..=210, 300..=400]);
        let mut ranges = RangeAllocator::new(10..=350);
        ranges.restrict(&told);
        assert_eq!(ranges.free_total(), 201 + 51);
        ranges.restrict(&[]);
        assert_eq!(ranges.free_total(), 0);
        assert_eq!(merged(&[0..=u64::MAX, 5..=6]), [0..=u64::MAX]);
    }

    /// `claim` takes all or nothing; `exclude` takes whatever is there.
    #[test]
    fn claim_is_all_or_nothing_and_exclude_takes_the_rest() {
        let mut ranges = RangeAllocator::new(0..=99);
        assert!(ranges.claim(10, 10) && ranges.claim(90, 10));
        for (start, len) in [(5, 6), (19, 2), (10, 1), (99, 1), (80, 11), (0, 0)] {
            assert!(!ranges.claim(start, len), "{start}+{len}");
        }
        assert!(
            !ranges.claim(99, u64::MAX),
            "the end is past the number line"
        );
        assert_eq!(ranges.free_total(), 80);
        ranges.exclude(0, 30);
        ranges.exclude(85, u64::MAX);
        ranges.exclude(40, 0);
        assert_eq!(ranges.free_total(), 55);
        assert_eq!(ranges.alloc(55, 1), Some(30));
    }
}
