//! What is counted of pinned pages while a job runs, and of the cache that they belong to.

#![forbid(unsafe_code)]

use underpin::dma::rt::Instant;
use underpin::fs::CacheStats;
use underpin::fs::store::PAGE_BYTES;

use crate::stats::Latency;

/// One cache's figures over a time.
#[derive(Debug, Clone)]
pub(crate) struct CacheUse {
    /// The file, as `target=` names it.
    pub(crate) target: String,
    before: (Instant, CacheStats),
    after: (Instant, CacheStats),
}

impl CacheUse {
    /// What grew meanwhile.
    fn grown(&self, pick: fn(&CacheStats) -> u64) -> u64 {
        pick(&self.after.1).saturating_sub(pick(&self.before.1))
    }

    /// Both times together: jobs that share a file share its cache, whose figures count once.
    fn merge(&mut self, other: &CacheUse) {
        if other.before.0 < self.before.0 {
            self.before = other.before;
        }
        if other.after.0 > self.after.0 {
            self.after = other.after;
        }
    }
}

/// Pins of one thread, or of a group of them, and what their caches did meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct PinUse {
    /// Pages pinned for a device that writes them, and for one that reads them.
    pub(crate) write_pins: u64,
    pub(crate) read_pins: u64,
    /// Times that an I/O had to be put off, as no page could be had for it.
    pub(crate) put_off: u64,
    /// Nanoseconds of a pin and its unpin, of those I/Os that were timed.
    pub(crate) cost: Latency,
    caches: Vec<CacheUse>,
}

impl PinUse {
    /// Nothing counted yet.
    pub(crate) fn new(target: String, stats: CacheStats) -> Self {
        let now = (Instant::now(), stats);
        Self {
            write_pins: 0,
            read_pins: 0,
            put_off: 0,
            cost: Latency::new(true),
            caches: vec![CacheUse {
                target,
                before: now,
                after: now,
            }],
        }
    }

    /// The cache's figures as they are now.
    pub(crate) fn observe(&mut self, stats: CacheStats) {
        if let Some(cache) = self.caches.first_mut() {
            cache.after = (Instant::now(), stats);
        }
    }

    /// Forgets everything: the ramp is over.
    pub(crate) fn restart(&mut self, stats: CacheStats) {
        (self.write_pins, self.read_pins, self.put_off) = (0, 0, 0);
        self.cost.reset();
        self.observe(stats);
        for cache in &mut self.caches {
            cache.before = cache.after;
        }
    }

    /// Adds another thread of the same reporting group.
    pub(crate) fn merge(&mut self, other: &PinUse) {
        self.write_pins += other.write_pins;
        self.read_pins += other.read_pins;
        self.put_off += other.put_off;
        self.cost.merge(&other.cost);
        for theirs in &other.caches {
            let mine = self
                .caches
                .iter_mut()
                .find(|mine| mine.target == theirs.target);
            match mine {
                Some(mine) => mine.merge(theirs),
                None => self.caches.push(theirs.clone()),
            }
        }
    }

    /// The files, in order of first use.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &str> {
        self.caches.iter().map(|cache| cache.target.as_str())
    }

    /// A figure of all caches together.
    pub(crate) fn figure(&self, pick: fn(&CacheStats) -> u64) -> u64 {
        self.caches.iter().map(|cache| cache.grown(pick)).sum()
    }

    /// Bytes that writeback copied, as a device was writing their pages or the file asks for it.
    pub(crate) fn copied_bytes(&self) -> u64 {
        self.figure(|stats| stats.copies_clean + stats.copies_kept) * PAGE_BYTES
    }

    /// Pages that are dirty at the end.
    pub(crate) fn dirty_pages(&self) -> u64 {
        self.caches
            .iter()
            .map(|cache| cache.after.1.dirty_pages)
            .sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Figures with so many pages written back directly and copied.
    fn stats(direct: u64, copies_kept: u64) -> CacheStats {
        let mut stats = CacheStats::default();
        stats.direct = direct;
        stats.copies_kept = copies_kept;
        stats
    }

    /// Of one thread: 3 pins of 12 ns, 5 pages written back directly, 2 from copies.
    pub(crate) fn sample(target: &str) -> PinUse {
        let mut pins = PinUse::new(target.to_owned(), stats(10, 0));
        pins.write_pins = 3;
        for _ in 0..3 {
            pins.cost.record(12);
        }
        pins.observe(stats(15, 2));
        pins
    }

    /// Threads that share a file count its cache once, from the first to the last; others add up;
    /// and after a ramp nothing of before is left.
    #[test]
    fn a_shared_cache_counts_once() {
        let mut group = PinUse::new("a".to_owned(), stats(10, 0));
        let mut clone = PinUse::new("a".to_owned(), stats(11, 0));
        group.observe(stats(20, 1));
        clone.observe(stats(30, 3));
        group.merge(&clone);
        assert_eq!(group.figure(|stats| stats.direct), 20);
        assert_eq!(group.copied_bytes(), 3 * 4096);
        group.merge(&sample("b"));
        assert_eq!(group.figure(|stats| stats.direct), 25);
        assert_eq!(group.write_pins, 3);
        assert!(group.targets().eq(["a", "b"]));
        let mut ramp = sample("c");
        ramp.restart(stats(16, 2));
        assert_eq!(ramp.figure(|stats| stats.direct), 0);
        assert_eq!((ramp.write_pins, ramp.cost.moments.samples), (0, 0));
    }
}
