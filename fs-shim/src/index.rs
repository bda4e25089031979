//! Which frame holds which page of a file: looked up without a lock, changed under the file's.
//! A tree of three levels whose nodes live as long as the file.
use underpin_dma::rt::sync::OnceLock;
use underpin_dma::rt::sync::atomic::{AtomicU64, Ordering};

const LEAF_BITS: u32 = 9;
const LEAF_PAGES: u64 = 1 << LEAF_BITS;
const MIDDLE_BITS: u32 = 9;
const MIDDLE_PAGES: u64 = LEAF_PAGES << MIDDLE_BITS;

/// Files are no longer than this: 2^32 pages, 16 TiB.
pub(crate) const MAX_PAGES: u64 = 1 << 32;

/// A frame, as the index has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) frame: u32,
    pub(crate) generation: u16,
}

const TAKEN: u64 = 1 << 63;

impl Slot {
    const fn bits(self) -> u64 {
        TAKEN | (self.generation as u64) << 32 | self.frame as u64
    }

    const fn from_bits(bits: u64) -> Option<Self> {
        if bits & TAKEN == 0 {
            return None;
        }
        Some(Self {
            frame: bits as u32,
            generation: (bits >> 32) as u16,
        })
    }
}

#[derive(Debug)]
struct Leaf([AtomicU64; LEAF_PAGES as usize]);

#[derive(Debug)]
struct Middle([OnceLock<Box<Leaf>>; 1 << MIDDLE_BITS]);

/// The pages of one file that are in memory.
#[derive(Debug)]
pub(crate) struct Index {
    root: Box<[OnceLock<Box<Middle>>]>,
}

impl Index {
    /// For a file that never has more than `pages` pages, nor than [`MAX_PAGES`].
    pub(crate) fn new(pages: u64) -> Self {
        let count = pages.min(MAX_PAGES).div_ceil(MIDDLE_PAGES).max(1);
        Self {
            root: (0..count).map(|_| OnceLock::new()).collect(),
        }
    }

    #[inline]
    fn word(&self, page: u64) -> Option<&AtomicU64> {
        let root = usize::try_from(page / MIDDLE_PAGES).ok()?;
        let middle = self.root.get(root)?.get()?;
        let leaf = middle
            .0
            .get((page / LEAF_PAGES % (1 << MIDDLE_BITS)) as usize)?;
        leaf.get()?.0.get((page % LEAF_PAGES) as usize)
    }

    /// The page's frame, if it has one.
    #[inline]
    pub(crate) fn get(&self, page: u64) -> Option<Slot> {
        Slot::from_bits(self.word(page)?.load(Ordering::Acquire))
    }

    /// Gives the page a frame; under the file's lock for that. False past the last page.
    pub(crate) fn set(&self, page: u64, slot: Slot) -> bool {
        let Some(root) = usize::try_from(page / MIDDLE_PAGES)
            .ok()
            .and_then(|root| self.root.get(root))
        else {
            return false;
        };
        let middle =
            root.get_or_init(|| Box::new(Middle([const { OnceLock::new() }; 1 << MIDDLE_BITS])));
        let Some(leaf) = middle
            .0
            .get((page / LEAF_PAGES % (1 << MIDDLE_BITS)) as usize)
        else {
            return false;
        };
        let leaf =
            leaf.get_or_init(|| Box::new(Leaf([const { AtomicU64::new(0) }; LEAF_PAGES as usize])));
        let Some(word) = leaf.0.get((page % LEAF_PAGES) as usize) else {
            return false;
        };
        word.store(slot.bits(), Ordering::Release);
        true
    }

    /// The page has this frame no longer. (It may have another by now.)
    pub(crate) fn clear(&self, page: u64, slot: Slot) {
        if let Some(word) = self.word(page) {
            let _ = word.compare_exchange(slot.bits(), 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// The pages from `first` up to `end` that have a frame, in order.
    pub(crate) fn range(&self, first: u64, end: u64) -> impl Iterator<Item = (u64, Slot)> + '_ {
        let mut page = first;
        std::iter::from_fn(move || {
            while page < end {
                // Whole nodes that were never made are passed over.
                let root = usize::try_from(page / MIDDLE_PAGES).ok()?;
                let middle = self.root.get(root)?;
                let Some(middle) = middle.get() else {
                    page = (page / MIDDLE_PAGES + 1) * MIDDLE_PAGES;
                    continue;
                };
                let leaf = middle
                    .0
                    .get((page / LEAF_PAGES % (1 << MIDDLE_BITS)) as usize);
                let Some(leaf) = leaf.and_then(OnceLock::get) else {
                    page = (page / LEAF_PAGES + 1) * LEAF_PAGES;
                    continue;
                };
                let at = page;
                page += 1;
                let word = leaf.0.get((at % LEAF_PAGES) as usize);
                let bits = word.map_or(0, |word| word.load(Ordering::Acquire));
                if let Some(slot) = Slot::from_bits(bits) {
                    return Some((at, slot));
                }
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is set is found, nothing else is, and a clear that comes too late clears nothing.
    #[test]
    fn pages_are_found_where_they_were_put() {
        let index = Index::new(MAX_PAGES);
        let slot = |frame| Slot {
            frame,
            generation: 0xffff,
        };
        let pages = [0, 511, 512, MIDDLE_PAGES - 1, MIDDLE_PAGES, MAX_PAGES - 1];
        for (frame, page) in pages.iter().enumerate() {
            assert!(index.set(*page, slot(frame as u32)));
        }
        assert!(!index.set(MAX_PAGES, slot(9)));
        assert_eq!(index.get(1), None);
        assert_eq!(index.get(u64::MAX), None);
        let found: Vec<_> = index.range(0, u64::MAX).collect();
        let put: Vec<_> = pages
            .iter()
            .zip(0..)
            .map(|(page, frame)| (*page, slot(frame)))
            .collect();
        assert_eq!(found, put);
        assert_eq!(index.range(512, MIDDLE_PAGES).count(), 2);
        index.clear(511, slot(7));
        assert_eq!(index.get(511), Some(slot(1)));
        index.clear(511, slot(1));
        assert_eq!(index.get(511), None);
    }
}
