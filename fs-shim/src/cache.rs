//! The cache: frames for pages of several files, copies for writeback, and one step of waiting.
//! What is done with a page is in `page.rs`, with a file in `file.rs`.
use crate::FileError;
use crate::book::{Book, Counts, FileState, Policy};
use crate::file::File;
use crate::flusher::Flusher;
use crate::page::Stop;
use crate::store::Store;
use std::fmt;
use std::time::Duration;
use underpin_dma::frame::{FRAME_BYTES, Frames, Owner, State};
use underpin_dma::rt::sync::atomic::{AtomicU32, Ordering};
use underpin_dma::rt::sync::{Arc, Mutex};
use underpin_dma::rt::{self, Instant, TaskHandle, Waker};
use underpin_dma::{DmaSpace, Pool, PoolOptions, SpaceId};

/// How a cache is made.
#[derive(Clone, Copy, Debug)]
pub struct CacheOptions {
    /// Frames of 4 KiB: the memory that is locked for pages.
    pub frames: u32,
    /// Pages for copies of what is written back while it is pinned, 4 KiB each: their own reserve.
    /// When all are at work a writeback waits for one of them, never for a pin (R25).
    pub bounces: usize,
    /// Writeback commands of a file in flight at most, so that reads are not starved.
    pub writeback_commands: u64,
    /// Pages of one writeback command at most.
    pub writeback_pages: usize,
    /// Pages that are dirty for longer are written back in the background, unless they are pinned.
    pub age: Duration,
    /// Pages that are dirty for longer are copied even while they are pinned (R17).
    pub expiry: Duration,
    /// When more pages are dirty than this share of the frames, in percent, they are written back
    /// whatever their age.
    pub background_percent: u8,
    /// When more pages are dirty than this share of the frames, in percent, [`File::write_at`] waits
    /// until there are fewer; pages that are dirty because they are pinned do not count then (R14).
    pub throttle_percent: u8,
    /// Whether the cache writes back by itself; without, only [`File::fsync`], [`Cache::sync`] and
    /// want of frames do.
    pub flusher: bool,
    /// How long a call waits for pins of others to go, where it must: for a page that a device
    /// reads in under a pin, for a frame when all are pinned.
    pub pin_wait: Duration,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            frames: 4096,
            bounces: 256,
            writeback_commands: 8,
            writeback_pages: 32,
            age: Duration::from_secs(5),
            expiry: Duration::from_secs(30),
            background_percent: 10,
            throttle_percent: 40,
            flusher: true,
            pin_wait: Duration::from_secs(30),
        }
    }
}

underpin_dma::counters! {
    /// Figures about a cache, since it was made.
    pub struct CacheStats {
        /// Frames.
        frames,
        /// Frames that are no page's now.
        free_frames,
        /// Pages that are dirty, or on their way out, now.
        dirty_pages,
        /// Commands that read pages in.
        fills,
        /// Pages that lost their frame to another.
        evictions,
        /// Pages written back from themselves.
        direct,
        /// Pages written back from a copy that was begun with no pins, and clean since.
        copies_clean,
        /// Pages written back from a copy while they were pinned.
        copies_kept,
        /// Times that the background left a pinned page for later.
        skips,
        /// Times that a call met a page in a state that it had to wait for.
        waits,
        /// Times that a writeback waited for a page to copy into.
        bounce_waits,
        /// Times that a write waited because too much was dirty.
        throttled,
        /// Flushes sent to stores.
        flushes,
        /// Pages of writeback commands that ended well.
        written_pages,
        /// Writeback commands that failed.
        write_errors,
        /// Reservations that were made; those that were not needed included.
        reservations,
    }
}

/// A page cache for files on any number of [stores](Store), whose pages devices may read and write.
///
/// ```
/// use std::sync::Arc;
/// use underpin_dma::DmaSpace;
/// use underpin_fs::{Cache, CacheOptions, store::Memory};
///
/// let cache = Cache::new(&DmaSpace::new(), CacheOptions::default())?;
/// let file = cache.open(Arc::new(Memory::new(1 << 20)))?;
/// file.write_at(100, b"cached")?;
/// file.fsync()?;
/// let mut text = [0; 6];
/// file.read_at(100, &mut text)?;
/// assert_eq!(&text, b"cached");
/// assert_eq!(cache.stats().written_pages, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
    /// Stopped when the last handle goes.
    _flusher: Arc<Mutex<Option<TaskHandle>>>,
}

/// What handles, files and the flusher share.
pub(crate) struct Inner {
    pub(crate) frames: Arc<Frames>,
    pub(crate) book: Arc<Book>,
    pub(crate) bounces: Pool,
    pub(crate) options: CacheOptions,
    space: SpaceId,
    /// The next frame that is looked at when one is wanted.
    hand: AtomicU32,
    flusher: Mutex<Option<Waker>>,
}

impl Cache {
    /// A cache with memory of `space`.
    ///
    /// # Errors
    /// [`FileError::Dma`] when there is no memory for it; [`FileError::Flusher`].
    pub fn new(space: &DmaSpace, options: CacheOptions) -> Result<Self, FileError> {
        let len_bytes = options.frames as usize * FRAME_BYTES;
        let memory = space.pool(
            "file pages",
            PoolOptions {
                buf_bytes: len_bytes,
                count: 1,
            },
        )?;
        let bounces = PoolOptions {
            buf_bytes: FRAME_BYTES,
            count: options.bounces,
        };
        let book = Arc::new(Book::new(options.frames));
        let owner: Arc<dyn Owner> = Arc::clone(&book) as _;
        let inner = Arc::new(Inner {
            frames: Arc::new(Frames::new(memory.alloc()?, owner)?),
            book,
            bounces: space.pool("copies for writeback", bounces)?,
            options,
            space: space.id(),
            hand: AtomicU32::new(0),
            flusher: Mutex::new(None),
        });
        let mut task = None;
        if options.flusher {
            let flusher = Box::new(Flusher::new(&inner));
            let handle = rt::spawn("underpin-flusher", flusher).map_err(FileError::Flusher)?;
            *inner.flusher.lock() = Some(handle.waker());
            task = Some(handle);
        }
        Ok(Self {
            inner,
            _flusher: Arc::new(Mutex::new(task)),
        })
    }

    /// Opens a file on a store, which is this cache's alone from now on.
    ///
    /// # Errors
    /// [`FileError::OtherSpace`] when the store's device cannot see the cache's memory.
    pub fn open(&self, store: Arc<dyn Store>) -> Result<File, FileError> {
        self.open_with(store, Policy::default())
    }

    /// The same, with a policy of writeback.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(&self, store: Arc<dyn Store>, policy: Policy) -> Result<File, FileError> {
        if store
            .space_id()
            .is_some_and(|space| space != self.inner.space)
        {
            return Err(FileError::OtherSpace);
        }
        let file = self.inner.book.open(store, policy, &self.inner.frames);
        Ok(File::new(self.clone(), file))
    }

    /// Writes back everything that is dirty, and makes it durable. Errors are told to the handles
    /// of the files ([`File::fsync`]), and the first one here.
    ///
    /// # Errors
    /// [`FileError::Store`].
    pub fn sync(&self) -> Result<(), FileError> {
        let mut first = Ok(());
        for file in &*self.inner.book.files() {
            let seen = file.errors.seen();
            let synced = crate::fsync::run(&self.inner, file, &seen);
            first = first.and(synced);
        }
        first
    }

    /// Figures about it.
    pub fn stats(&self) -> CacheStats {
        let get = |counter: &rt::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.inner.book.counts;
        CacheStats {
            frames: u64::from(self.inner.frames.count()),
            free_frames: self.inner.book.free_count(),
            dirty_pages: self.inner.dirty_pages(),
            fills: get(&counts.fills),
            evictions: get(&counts.evictions),
            direct: get(&counts.direct),
            copies_clean: get(&counts.copies_clean),
            copies_kept: get(&counts.copies_kept),
            skips: get(&counts.skips),
            waits: get(&counts.waits),
            bounce_waits: get(&counts.bounce_waits),
            throttled: get(&counts.throttled),
            flushes: get(&counts.flushes),
            written_pages: get(&counts.written_pages),
            write_errors: get(&counts.write_errors),
            reservations: get(&counts.reservations),
        }
    }

    /// Begins to write back what is dirty and not pinned, as much as there is room for, without
    /// waiting; for a cache without a flusher. Returns how many commands were sent.
    pub fn write_back(&self) -> u64 {
        crate::writeback::relieve(&self.inner)
    }

    /// Sends what stores have kept and takes what has ended, without waiting: for a loop of the
    /// caller's own. Calls that wait do it themselves.
    pub fn poll(&self) -> usize {
        self.inner.book.poll()
    }

    /// Lets writeback ignore pins, for tests: see `Frames::ignore_pins`. It damages data.
    #[doc(hidden)]
    pub fn ignore_pins(&self, ignore: bool) {
        self.inner.frames.ignore_pins(ignore);
    }

    pub(crate) const fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Inner {
    /// Pages that are dirty or on their way out, in all files.
    pub(crate) fn dirty_pages(&self) -> u64 {
        self.book.counts.dirty.load(Ordering::Relaxed)
    }

    /// More pages are dirty than may be before the background begins.
    pub(crate) fn has_much_dirt(&self) -> bool {
        let most = u64::from(self.frames.count()) * u64::from(self.options.background_percent);
        self.dirty_pages() * 100 > most
    }

    /// Whoever makes pages dirty faster than they are written waits; but not for pages that nobody
    /// can clean, as they are pinned (R14).
    #[inline]
    pub(crate) fn throttle(&self, file: &FileState) -> Result<(), FileError> {
        match self.has_too_much_dirt() {
            false => Ok(()),
            true => self.wait_for_less_dirt(file),
        }
    }

    fn has_too_much_dirt(&self) -> bool {
        let most = u64::from(self.frames.count()) * u64::from(self.options.throttle_percent);
        self.dirty_pages() * 100 > most
    }

    #[cold]
    fn wait_for_less_dirt(&self, file: &FileState) -> Result<(), FileError> {
        Counts::add(&self.book.counts.throttled, 1);
        self.wait(file, |_now| {
            if !self.has_too_much_dirt() {
                return Ok(());
            }
            let sent = crate::writeback::relieve(self);
            match sent == 0 && !self.is_writing() {
                true => Ok(()),
                false => Err(Stop::Wait),
            }
        })
    }

    /// Some writeback is in flight whose end can be hoped for.
    pub(crate) fn is_writing(&self) -> bool {
        let files = self.book.files();
        files
            .iter()
            .any(|file| file.writing.load(Ordering::Relaxed) > 0 && file.store.failure().is_none())
    }

    /// Waits for what `step` wants, polling every store meanwhile: so whoever waits makes progress
    /// for all, and nobody's progress depends on another thread being awake (R8).
    ///
    /// # Errors
    /// What `step` says, or the failure of the file's store.
    pub(crate) fn wait<T>(
        &self,
        file: &FileState,
        mut step: impl FnMut(Instant) -> Result<T, Stop>,
    ) -> Result<T, FileError> {
        let mut counted = false;
        loop {
            let turn = rt::wait(None, |now| {
                match step(now) {
                    Ok(answer) => return Some(Some(Ok(answer))),
                    Err(Stop::Fail(error)) => return Some(Some(Err(error))),
                    Err(Stop::Again) => return Some(None),
                    Err(Stop::Wait) => {}
                }
                if !counted {
                    counted = true;
                    Counts::add(&self.book.counts.waits, 1);
                }
                if self.book.poll() > 0 {
                    return Some(None);
                }
                let failure = file.store.failure()?;
                Some(Some(Err(failure.into())))
            });
            match turn {
                Ok(Some(answer)) => return answer,
                // Something moved: pauses between looks begin anew, with the shortest.
                Ok(None) => {}
                // Without a deadline it does not elapse.
                Err(rt::Elapsed) => return Err(crate::store::StoreError::Closed.into()),
            }
        }
    }

    /// A frame that is nobody's: a free one, or that of a clean page which nothing holds.
    pub(crate) fn take_frame(&self) -> Option<u32> {
        if let Some(frame) = self.book.take_free() {
            return Some(frame);
        }
        let count = self.frames.count();
        for _ in 0..count {
            let at = self.hand.fetch_add(1, Ordering::Relaxed) % count;
            let Some(state) = self.frames.state(at) else {
                continue;
            };
            if !state.has(State::OWNED) || state.has(State::DIRTY | State::DEAD) {
                continue;
            }
            let evicted = self.frames.frame(at, state.generation()).evict(|| {
                if let Some((file, page)) = self.book.whose(at) {
                    let slot = crate::index::Slot {
                        frame: at,
                        generation: state.generation(),
                    };
                    file.index.clear(page, slot);
                }
            });
            if evicted.is_ok() {
                Counts::add(&self.book.counts.evictions, 1);
                if let Some(frame) = self.book.take_free() {
                    return Some(frame);
                }
            }
        }
        None
    }

    /// No frame is to be had: what is dirty must go.
    pub(crate) fn press(&self) {
        crate::writeback::relieve(self);
        if let Some(flusher) = &*self.flusher.lock() {
            flusher.wake();
        }
    }
}

impl Drop for Inner {
    /// A page in flight keeps the frames' table, that the book, that the files and their stores,
    /// and those the queue that has the page. So what is in flight ends first; and what a failed
    /// device has in quarantine must not keep the controller, whose end is the proof that it waits
    /// for.
    fn drop(&mut self) {
        let at_work = State::FILL | State::WB_DIRECT | State::WB_COPY;
        let in_flight = |frame| {
            self.frames
                .state(frame)
                .is_some_and(|state| state.has(at_work))
                && (self.book.whose(frame)).is_some_and(|(file, _)| file.store.failure().is_none())
        };
        let until = Instant::now() + self.options.pin_wait;
        let ended = rt::wait(Some(until), |_now| {
            self.book.poll();
            (!(0..self.frames.count()).any(in_flight)).then_some(())
        });
        if ended.is_err() {
            tracing::warn!("a cache is closed while its stores are at work");
        }
        self.book.forget_failed();
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("frames", &self.frames)
            .field("book", &self.book)
            .finish_non_exhaustive()
    }
}
