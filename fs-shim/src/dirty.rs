//! Which pages of a file are to be written back, and since when. An entry goes only when the page's
//! word, read under this lock, says that nobody will need it (I9 in `docs/PINS.md`).
use crate::book::Counts;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use underpin_dma::rt::Instant;
use underpin_dma::rt::sync::atomic::{AtomicU64, Ordering};
use underpin_dma::rt::sync::{Arc, Mutex};

/// The dirty index of one file.
#[derive(Debug)]
pub(crate) struct Dirty {
    pages: Mutex<BTreeMap<u64, Instant>>,
    count: AtomicU64,
    /// Those of the cache; its `dirty`.
    counts: Arc<Counts>,
}

impl Dirty {
    pub(crate) const fn new(counts: Arc<Counts>) -> Self {
        Self {
            pages: Mutex::new(BTreeMap::new()),
            count: AtomicU64::new(0),
            counts,
        }
    }

    /// Puts the page in; it keeps the time that it may have already.
    pub(crate) fn enter(&self, page: u64) {
        let now = Instant::now();
        let mut pages = self.pages.lock();
        if let Entry::Vacant(vacant) = pages.entry(page) {
            vacant.insert(now);
            self.count.fetch_add(1, Ordering::Relaxed);
            self.counts.dirty.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes the page out if `is_clean` says so, asked under the lock.
    pub(crate) fn leave(&self, page: u64, is_clean: impl FnOnce() -> bool) {
        let mut pages = self.pages.lock();
        if is_clean() {
            self.remove(&mut pages, page);
        }
    }

    fn remove(&self, pages: &mut BTreeMap<u64, Instant>, page: u64) {
        if pages.remove(&page).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            self.counts.dirty.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The page was written at `now`: takes it out if `is_clean` says so, asked under the lock; what
    /// makes it dirty still is no older than that.
    pub(crate) fn written(&self, page: u64, now: Instant, is_clean: impl FnOnce() -> bool) {
        let mut pages = self.pages.lock();
        if is_clean() {
            self.remove(&mut pages, page);
        } else if let Some(since) = pages.get_mut(&page) {
            *since = now;
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// All of them, in order.
    pub(crate) fn all(&self) -> Vec<u64> {
        self.pages.lock().keys().copied().collect()
    }

    /// Up to `most` of them behind `after`, in order, and since when they are dirty.
    pub(crate) fn after(&self, after: Option<u64>, most: usize) -> Vec<(u64, Instant)> {
        let pages = self.pages.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = pages.range((from, Bound::Unbounded));
        behind
            .take(most)
            .map(|(page, since)| (*page, *since))
            .collect()
    }
}
