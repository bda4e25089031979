//! One page's way into the hands of a caller: looked up, given a frame, read in, pinned. A step
//! that never waits: it says what it has begun, and is asked again.
use crate::FileError;
use crate::book::{Counts, FileState};
use crate::cache::Inner;
use crate::index::Slot;
use crate::store::{Done, Store, StoreError, Work};
use std::fmt;
use underpin_dma::PageRun;
use underpin_dma::frame::{Beginning, Blocked, FRAME_BYTES, PinError, State};
use underpin_dma::pin::{Cover, ReadPin, WritePin};
use underpin_dma::rt::Instant;
use underpin_dma::rt::sync::Arc;

/// Why a step did not get through.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Try again at once: what was missing is there.
    Again,
    /// Not yet: poll, and try again.
    Wait,
    /// Never.
    Fail(FileError),
}

impl From<FileError> for Stop {
    fn from(error: FileError) -> Self {
        Self::Fail(error)
    }
}

/// How many pages one command reads in.
const FILL_PAGES: u64 = 32;

/// What a caller that comes again has seen before.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    /// It began, or waited for, a fill of this page: if that failed, it is told.
    filled: Option<u64>,
    /// Since when it waits for what only others can end: pins, frames.
    stuck: Option<Instant>,
}

impl Attempt {
    /// A wait for pins of others, no longer than the cache's options say.
    fn wait_for_others(
        &mut self,
        cache: &Inner,
        now: Instant,
        error: impl FnOnce() -> FileError,
    ) -> Stop {
        let since = *self.stuck.get_or_insert(now);
        if now.since(since) >= cache.options.pin_wait {
            return Stop::Fail(error());
        }
        Stop::Wait
    }
}

/// A page of a file of a cache, and how many of the pages behind it are wanted as well.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) cache: &'a Inner,
    pub(crate) file: &'a Arc<FileState>,
    pub(crate) page: u64,
    /// The end of the range that is wanted, for one command to read in what is missing.
    pub(crate) end: u64,
}

impl At<'_> {
    /// Pins the page for writing.
    #[inline]
    pub(crate) fn pin_write(
        &self,
        cover: Cover,
        attempt: &mut Attempt,
        now: impl Fn() -> Instant,
    ) -> Result<WritePin, Stop> {
        if let Some(slot) = self.file.index.get(self.page) {
            let frame = self.cache.frames.frame(slot.frame, slot.generation);
            match frame.pin_write(cover) {
                Ok(pin) => return Ok(pin),
                Err(why) => return Err(self.met(slot, why, attempt, now())),
            }
        }
        let beginning = match cover {
            Cover::Whole => Beginning::Unknown,
            Cover::Part => Beginning::Fill,
        };
        Err(self.missing(beginning, attempt, now()))
    }

    /// Pins the page for reading.
    #[inline]
    pub(crate) fn pin_read(
        &self,
        attempt: &mut Attempt,
        now: impl Fn() -> Instant,
    ) -> Result<ReadPin, Stop> {
        if let Some(slot) = self.file.index.get(self.page) {
            let frame = self.cache.frames.frame(slot.frame, slot.generation);
            match frame.pin_read() {
                Ok(pin) => return Ok(pin),
                Err(why) => return Err(self.met(slot, why, attempt, now())),
            }
        }
        Err(self.missing(Beginning::Fill, attempt, now()))
    }

    /// The page has a frame, and could not be pinned.
    #[cold]
    fn met(&self, slot: Slot, why: PinError, attempt: &mut Attempt, now: Instant) -> Stop {
        match why {
            PinError::Reserve(error) => Stop::Fail(error.into()),
            // What is in the way ends by itself, or by a command that whoever waits polls.
            PinError::Moved | PinError::OtherFrames => Stop::Wait,
            PinError::Blocked(Blocked::Fill) => {
                attempt.filled = Some(self.page);
                Stop::Wait
            }
            PinError::Blocked(Blocked::NotUptodate) => self.fill(slot, attempt, now),
            PinError::Blocked(Blocked::Saturated) => {
                attempt.wait_for_others(self.cache, now, || self.busy())
            }
            PinError::Blocked(_) => Stop::Wait,
        }
    }

    fn busy(&self) -> FileError {
        FileError::Busy {
            page: self.page,
            waited: self.cache.options.pin_wait,
        }
    }

    /// It has a frame, and must be read in.
    fn fill(&self, slot: Slot, attempt: &mut Attempt, now: Instant) -> Stop {
        let failed = (self.cache.frames.state(slot.frame))
            .is_some_and(|state| state.generation() == slot.generation && state.has(State::ERR));
        if failed && attempt.filled == Some(self.page) {
            return Stop::Fail(self.unreadable());
        }
        match self
            .cache
            .frames
            .frame(slot.frame, slot.generation)
            .begin_fill()
        {
            Ok(fill) => {
                let mut run = PageRun::with_capacity(1);
                run.push_fill(fill);
                self.read(self.page, run);
                attempt.filled = Some(self.page);
                Stop::Wait
            }
            // A device reads it in under a pin that covers it: its end, or its failure, is waited
            // for (R6), with a bound: it may be the caller's own pin.
            Err(Blocked::Pinned | Blocked::Dirty) => {
                attempt.wait_for_others(self.cache, now, || self.busy())
            }
            Err(_) => Stop::Wait,
        }
    }

    fn unreadable(&self) -> FileError {
        self.file.store.failure().map_or_else(
            || StoreError::Device(format!("page {} could not be read in", self.page)).into(),
            FileError::from,
        )
    }

    /// It has no frame.
    #[cold]
    fn missing(&self, beginning: Beginning, attempt: &mut Attempt, now: Instant) -> Stop {
        if beginning != Beginning::Fill {
            return match self.insert(self.page, beginning) {
                Ok(_) => Stop::Again,
                Err(stop) => self.without_frame(stop, attempt, now),
            };
        }
        match self.begin_reading() {
            // A hole is there at once; for the others there is a poll to be done anyway.
            Ok(_) => {
                attempt.filled = Some(self.page);
                Stop::Again
            }
            Err(stop) => self.without_frame(stop, attempt, now),
        }
    }

    /// Begins to read the page in, with its neighbours that are wanted and missing, too, in one
    /// command. How many pages have been seen to.
    pub(crate) fn begin_reading(&self) -> Result<u64, Stop> {
        let mut run = PageRun::with_capacity(1);
        let mut seen = 0;
        for page in self.page..self.end.min(self.page + FILL_PAGES) {
            if page != self.page && self.file.index.get(page).is_some() {
                break;
            }
            let slot = match self.insert(page, Beginning::Fill) {
                Ok(slot) => slot,
                Err(stop) if page == self.page => return Err(stop),
                Err(_) => break,
            };
            seen += 1;
            // None: a hole, or somebody else was first.
            let fill = slot.and_then(|slot| {
                let frame = self.cache.frames.frame(slot.frame, slot.generation);
                frame.begun_fill().ok()
            });
            match fill {
                Some(fill) => run.push_fill(fill),
                None => break,
            }
        }
        if !run.is_empty() {
            self.read(self.page, run);
        }
        Ok(seen)
    }

    fn without_frame(&self, stop: Stop, attempt: &mut Attempt, now: Instant) -> Stop {
        let Stop::Wait = stop else {
            return stop;
        };
        let frames = self.cache.frames.count();
        attempt.wait_for_others(self.cache, now, || FileError::NoFrames {
            frames,
            waited: self.cache.options.pin_wait,
        })
    }

    fn read(&self, first: u64, run: PageRun) {
        Counts::add(&self.cache.book.counts.fills, 1);
        self.file
            .store
            .read(Work::new(first, run, Arc::new(Nobody)));
    }

    /// Gives the page a frame. `None` when somebody else did, or when it needs no fill.
    fn insert(&self, page: u64, beginning: Beginning) -> Result<Option<Slot>, Stop> {
        let Some(frame) = self.cache.take_frame() else {
            self.cache.press();
            return Err(Stop::Wait);
        };
        let inserted = self.insert_frame(page, beginning, frame);
        if !matches!(inserted, Ok((_, true))) {
            self.cache.book.put_free(frame);
        }
        inserted.map(|(slot, _)| slot)
    }

    /// The same with a frame; true when that was taken.
    fn insert_frame(
        &self,
        page: u64,
        beginning: Beginning,
        frame: u32,
    ) -> Result<(Option<Slot>, bool), Stop> {
        let cut = self.file.inserts.lock();
        if page >= self.file.pages() {
            let offset = page * FRAME_BYTES as u64;
            return Err(Stop::Fail(FileError::Range {
                offset,
                end: offset + FRAME_BYTES as u64,
                len_bytes: self.file.len_bytes(),
            }));
        }
        if cut.as_ref().is_some_and(|cut| cut.contains(&page)) {
            return Err(Stop::Wait);
        }
        if self.file.index.get(page).is_some() {
            return Ok((None, false));
        }
        let hole = beginning == Beginning::Fill && self.file.store.is_hole(page);
        let beginning = match hole {
            true => {
                // Nobody has the frame: it is ours to write.
                let view = self.cache.frames.view(frame);
                let zeroed = view.and_then(|view| view.fill(0, FRAME_BYTES, 0));
                zeroed.map_err(|_| Stop::Wait)?;
                Beginning::Uptodate
            }
            false => beginning,
        };
        self.cache.book.assign(frame, self.file, page);
        let Ok(generation) = self.cache.frames.alloc(frame, beginning) else {
            // Somebody who looked its last page up is on the way out still.
            self.cache.book.let_go(self.file);
            return Err(Stop::Wait);
        };
        let slot = Slot { frame, generation };
        self.file.index.set(page, slot);
        Ok(((!hole).then_some(slot), true))
    }
}

/// Who is told of the end of a fill: nobody, as the pages' words say it.
struct Nobody;

impl Done for Nobody {
    fn done(&self, first_page: u64, pages: u64, result: Result<(), StoreError>) {
        if let Err(error) = result {
            tracing::warn!(first_page, pages, %error, "pages could not be read in");
        }
    }
}

impl fmt::Debug for Nobody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nobody")
    }
}

/// So that a caller's own error is preferred to that of the store's failure.
pub(crate) fn failure(store: &dyn Store) -> Result<(), FileError> {
    store.failure().map_or(Ok(()), |error| Err(error.into()))
}
