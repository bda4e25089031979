//! The least that can own frames: which page has which, what is dirty, and what is reserved. A
//! real cache is made of more; what its pages may and may not do is the same.
use std::collections::BTreeSet;
use underpin::dma::frame::{FRAME_BYTES, Owner, PageKey, ReserveError};
use underpin::dma::rt::sync::Mutex;

pub(crate) const PAGES: usize = 5;
pub(crate) const FRAMES: u32 = 7;
pub(crate) const BLOCK_BYTES: usize = 512;
pub(crate) const BLOCKS: usize = FRAME_BYTES / BLOCK_BYTES;

pub(crate) struct Index {
    /// Of each page, its frame and generation.
    pub(crate) slots: [Option<(u32, u16)>; PAGES],
    /// Of each frame, the page that it is or was last.
    pub(crate) page_of: [usize; FRAMES as usize],
    pub(crate) free: Vec<u32>,
    pub(crate) dirty: BTreeSet<usize>,
    /// Reservations held by pages and commands.
    pub(crate) reserved: i64,
}

pub(crate) struct Cache(pub(crate) Mutex<Index>);

impl Cache {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Index {
            slots: [None; PAGES],
            page_of: [0; FRAMES as usize],
            free: (0..FRAMES).collect(),
            dirty: BTreeSet::new(),
            reserved: 0,
        }))
    }
}

impl Owner for Cache {
    fn page(&self, frame: u32) -> PageKey {
        PageKey(self.0.lock().page_of[frame as usize] as u64)
    }
    fn still_holds(&self, frame: u32, generation: u16) -> bool {
        let index = self.0.lock();
        index.slots[index.page_of[frame as usize]] == Some((frame, generation))
    }
    fn reserve(&self, _page: PageKey) -> Result<(), ReserveError> {
        self.0.lock().reserved += 1;
        Ok(())
    }
    fn give_back(&self, _page: PageKey) {
        self.0.lock().reserved -= 1;
    }
    fn enter_dirty(&self, _frame: u32, page: PageKey) {
        self.0.lock().dirty.insert(page.0 as usize);
    }
    fn freed(&self, frame: u32) {
        self.0.lock().free.push(frame);
    }
}

/// What the source device has at block `block` of source `source` of a page: one word, over and
/// over, that says all of that.
pub(crate) fn stamp(page: usize, source: u64, block: usize) -> u64 {
    0x5741_4d50_0000_0000 | (page as u64) << 24 | source << 8 | block as u64
}

pub(crate) fn stamped(page: usize, source: u64) -> Vec<u8> {
    let blocks = (0..BLOCKS).map(|block| stamp(page, source, block));
    blocks
        .flat_map(|word| word.to_le_bytes().repeat(BLOCK_BYTES / 8))
        .collect()
}

/// True when every block is zero, or whole and of this page and place.
pub(crate) fn is_whole(page: usize, sources: u64, bytes: &[u8]) -> bool {
    bytes
        .chunks(BLOCK_BYTES)
        .enumerate()
        .all(|(block, bytes)| is_block(page, block, sources, bytes))
}

fn is_block(page: usize, block: usize, sources: u64, bytes: &[u8]) -> bool {
    let mut words = bytes.chunks(8).map(|word| {
        let word: [u8; 8] = word.try_into().unwrap();
        u64::from_le_bytes(word)
    });
    let first = words.next().unwrap();
    let known = first == 0 || (0..sources).any(|source| first == stamp(page, source, block));
    known && words.all(|word| word == first)
}
