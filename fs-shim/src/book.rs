//! Whose each frame is: what pins and their release ask of a cache (`dma::frame::Owner`). Slow
//! paths only; a granted pin never comes here.
use crate::dirty::Dirty;
use crate::errseq::ErrSeq;
use crate::index::{Index, Slot};
use crate::store::{Done, Store, StoreError};
use crossbeam::queue::ArrayQueue;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use underpin_dma::frame::{FRAME_BYTES, Frames, Owner, PageKey, ReserveError};
use underpin_dma::rt::Instant;
use underpin_dma::rt::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use underpin_dma::rt::sync::{Arc, Mutex, OnceLock, RwLock, Weak};

/// A page number has this many bits in a key; the file's number has the rest.
const PAGE_BITS: u32 = 40;

/// Who owns the frames, and the files that they may belong to.
pub(crate) struct Book {
    /// The page that each frame is; changed only while the frame is free.
    keys: Box<[AtomicU64]>,
    free: ArrayQueue<u32>,
    files: RwLock<Files>,
    next: AtomicU32,
    pub(crate) counts: Arc<Counts>,
}

/// The files that are open, or have frames still.
#[derive(Default)]
struct Files {
    by_id: HashMap<u32, Arc<FileState>>,
    /// The same, for those who call foreign code on each: not under the lock.
    list: Arc<[Arc<FileState>]>,
}

impl Files {
    fn changed(&mut self) {
        let mut list: Vec<_> = self.by_id.values().map(Arc::clone).collect();
        list.sort_unstable_by_key(|file| file.id);
        self.list = list.into();
    }
}

/// Figures of a cache that many places add to.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) fills: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) direct: AtomicU64,
    pub(crate) copies_clean: AtomicU64,
    pub(crate) copies_kept: AtomicU64,
    pub(crate) skips: AtomicU64,
    pub(crate) waits: AtomicU64,
    pub(crate) bounce_waits: AtomicU64,
    pub(crate) throttled: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) write_errors: AtomicU64,
    pub(crate) reservations: AtomicU64,
    pub(crate) written_pages: AtomicU64,
    /// Pages in all dirty indices now.
    pub(crate) dirty: AtomicU64,
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// How a file's pages are written back while they are not pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// From the page itself; a pin that comes meanwhile waits for the end.
    #[default]
    Wait,
    /// From a copy, always: no pin ever waits, at the price of a copy of each page.
    AlwaysCopy,
}

/// One open file, shared by its handles, its frames and its commands.
#[derive(Debug)]
pub(crate) struct FileState {
    pub(crate) id: u32,
    /// Who is told of the ends of writebacks that nobody waits for.
    pub(crate) told: Arc<Told>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) policy: Policy,
    pub(crate) index: Index,
    pub(crate) dirty: Dirty,
    pub(crate) errors: ErrSeq,
    len_bytes: AtomicU64,
    /// Taken by whoever gives pages frames. Holds the pages that must not get any, as they are
    /// being cut off (R28).
    pub(crate) inserts: Mutex<Option<Range<u64>>>,
    /// Writeback commands in flight: those of a store that has failed never end, and must not keep
    /// other files from being written.
    pub(crate) writing: AtomicU64,
    /// Somebody changes the file's length, or punches.
    pub(crate) resizing: AtomicBool,
    /// Frames that are its pages, and handles that are open.
    pub(crate) holders: AtomicU64,
    /// Of these, handles.
    pub(crate) handles: AtomicU64,
    counts: Arc<Counts>,
    /// Which page is in which frame tells only the frames' words.
    frames: OnceLock<Weak<Frames>>,
}

impl FileState {
    #[inline]
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes.load(Ordering::Acquire)
    }

    /// Under the lock of `inserts`.
    pub(crate) fn publish_len(&self, len_bytes: u64) {
        self.len_bytes.store(len_bytes, Ordering::Release);
    }

    /// How many pages the file has, the last perhaps in part.
    pub(crate) fn pages(&self) -> u64 {
        self.len_bytes().div_ceil(FRAME_BYTES as u64)
    }

    /// How many bytes of the page lie within the file.
    pub(crate) fn valid_bytes(&self, page: u64) -> usize {
        let before = page.saturating_mul(FRAME_BYTES as u64);
        let valid = self.len_bytes().saturating_sub(before);
        usize::try_from(valid).map_or(FRAME_BYTES, |valid| valid.min(FRAME_BYTES))
    }

    fn key(&self, page: u64) -> u64 {
        u64::from(self.id) << PAGE_BITS | page
    }

    /// True when the page's word has neither dirt nor a writeback nor somebody who may add dirt.
    pub(crate) fn is_clean(&self, frames: &Frames, page: u64) -> bool {
        use underpin_dma::frame::{Pin, State};
        let Some(slot) = self.index.get(page) else {
            return true;
        };
        let Some(state) = frames.state(slot.frame) else {
            return true;
        };
        let busy = State::DIRTY | State::WB_DIRECT | State::WB_COPY;
        state.generation() != slot.generation || !state.has(busy) && state.pins(Pin::Write) == 0
    }
}

/// A file's writebacks tell it of their end, if it is there still. They do not keep it: a command
/// in quarantine would keep its store, and that the controller which is to end the quarantine.
#[derive(Debug)]
pub(crate) struct Told(pub(crate) Weak<FileState>);

impl Done for Told {
    fn done(&self, first_page: u64, pages: u64, result: Result<(), StoreError>) {
        if let Some(file) = self.0.upgrade() {
            file.written(first_page, pages, result);
        }
    }
}

impl FileState {
    fn written(&self, first_page: u64, pages: u64, result: Result<(), StoreError>) {
        self.writing.fetch_sub(1, Ordering::Relaxed);
        match result {
            Ok(()) => {
                Counts::add(&self.counts.written_pages, pages);
                let now = Instant::now();
                let Some(frames) = self.frames.get().and_then(Weak::upgrade) else {
                    return;
                };
                for page in first_page..first_page + pages {
                    self.dirty
                        .written(page, now, || self.is_clean(&frames, page));
                }
            }
            Err(error) => {
                Counts::add(&self.counts.write_errors, 1);
                self.errors.report(error);
            }
        }
    }
}

impl Book {
    /// Of so many frames, all free.
    pub(crate) fn new(frames: u32) -> Self {
        let free = ArrayQueue::new(frames.max(1) as usize);
        for frame in 0..frames {
            // There is room for each, and each is here once.
            let _ = free.push(frame);
        }
        Self {
            keys: (0..frames).map(|_| AtomicU64::new(0)).collect(),
            free,
            files: RwLock::default(),
            next: AtomicU32::new(0),
            counts: Arc::default(),
        }
    }

    /// Enters a file, with one handle.
    pub(crate) fn open(
        &self,
        store: Arc<dyn Store>,
        policy: Policy,
        frames: &Arc<Frames>,
    ) -> Arc<FileState> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) & ((1 << (64 - PAGE_BITS)) - 1);
        let of = OnceLock::new();
        let _ = of.set(Arc::downgrade(frames));
        let file = Arc::new_cyclic(|told| FileState {
            id,
            told: Arc::new(Told(Weak::clone(told))),
            policy,
            index: Index::new(store.max_len_bytes().div_ceil(FRAME_BYTES as u64)),
            dirty: Dirty::new(Arc::clone(&self.counts)),
            errors: ErrSeq::default(),
            len_bytes: AtomicU64::new(store.len_bytes()),
            inserts: Mutex::new(None),
            writing: AtomicU64::new(0),
            resizing: AtomicBool::new(false),
            holders: AtomicU64::new(1),
            handles: AtomicU64::new(0),
            counts: Arc::clone(&self.counts),
            frames: of,
            store,
        });
        let mut files = self.files.write();
        files.by_id.insert(id, Arc::clone(&file));
        files.changed();
        drop(files);
        file
    }

    /// One handle or frame of the file less; the last takes it out of the book.
    pub(crate) fn let_go(&self, file: &FileState) {
        if file.holders.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut files = self.files.write();
            let gone = files.by_id.remove(&file.id);
            let list = Arc::clone(&files.list);
            files.changed();
            drop(files);
            // Its store is foreign code: not dropped under the lock.
            drop((gone, list));
        }
    }

    /// Lets go of files whose stores have failed, whatever frames they have still: nobody has them
    /// open, and there is nothing to give back.
    pub(crate) fn forget_failed(&self) {
        let mut failed = self.files().to_vec();
        failed.retain(|file| file.store.failure().is_some());
        let mut files = self.files.write();
        let gone: Vec<_> = (failed.iter())
            .map(|file| files.by_id.remove(&file.id))
            .collect();
        let list = Arc::clone(&files.list);
        files.changed();
        drop(files);
        // Foreign code, as above.
        drop((gone, list, failed));
    }

    /// The files that are open, or have frames still.
    pub(crate) fn files(&self) -> Arc<[Arc<FileState>]> {
        Arc::clone(&self.files.read().list)
    }

    /// Polls every store; how many commands ended.
    pub(crate) fn poll(&self) -> usize {
        self.files().iter().map(|file| file.store.poll()).sum()
    }

    pub(crate) fn take_free(&self) -> Option<u32> {
        self.free.pop()
    }

    /// A frame that was taken and not used.
    pub(crate) fn put_free(&self, frame: u32) {
        let _ = self.free.push(frame);
    }

    pub(crate) fn free_count(&self) -> u64 {
        self.free.len() as u64
    }

    /// The frame, which is free and the caller's, will be this page.
    pub(crate) fn assign(&self, frame: u32, file: &FileState, page: u64) {
        if let Some(key) = self.keys.get(frame as usize) {
            key.store(file.key(page), Ordering::Release);
            file.holders.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The file and page that a frame is, as long as that cannot change.
    pub(crate) fn whose(&self, frame: u32) -> Option<(Arc<FileState>, u64)> {
        let key = self.keys.get(frame as usize)?.load(Ordering::Acquire);
        self.of(key)
    }

    fn of(&self, key: u64) -> Option<(Arc<FileState>, u64)> {
        let id = u32::try_from(key >> PAGE_BITS).ok()?;
        let file = self.files.read().by_id.get(&id).map(Arc::clone)?;
        Some((file, key & ((1 << PAGE_BITS) - 1)))
    }
}

impl Owner for Book {
    fn page(&self, frame: u32) -> PageKey {
        let key = self.keys.get(frame as usize);
        PageKey(key.map_or(u64::MAX, |key| key.load(Ordering::Acquire)))
    }

    fn still_holds(&self, frame: u32, generation: u16) -> bool {
        self.whose(frame)
            .is_some_and(|(file, page)| file.index.get(page) == Some(Slot { frame, generation }))
    }

    fn reserve(&self, page: PageKey) -> Result<(), ReserveError> {
        let (file, page) = self.of(page.0).ok_or(ReserveError::Os(libc::ESTALE))?;
        file.store.reserve(page)?;
        Counts::add(&self.counts.reservations, 1);
        Ok(())
    }

    fn give_back(&self, page: PageKey) {
        if let Some((file, page)) = self.of(page.0) {
            file.store.give_back(page);
        }
    }

    fn enter_dirty(&self, _frame: u32, page: PageKey) {
        if let Some((file, page)) = self.of(page.0) {
            file.dirty.enter(page);
        }
    }

    fn freed(&self, frame: u32) {
        let whose = self.whose(frame);
        self.put_free(frame);
        if let Some((file, _)) = whose {
            self.let_go(&file);
        }
    }
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Book")
            .field("frames", &self.keys.len())
            .field("free", &self.free.len())
            .finish_non_exhaustive()
    }
}
