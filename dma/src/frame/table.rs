//! Many frames: their words, the memory behind them, and whom they belong to. The words of a table
//! are never unmapped: whoever is on the way out of a pin may look at them without asking who else
//! still needs them. A table that nobody uses any more is used again for another memory.
use super::lot::Lot;
use super::protocol::{Owner, PageKey, PinError, Place, ReserveError};
use super::state::StateWord;
use super::word::{Beginning, Blocked, State};
use crate::rt::sync::{Arc, Mutex, RwLock};
use crate::{DmaBuf, Error, FrameStates, Iova, MemoryWatch, OutOfBounds, SpaceId, View};
use crossbeam::queue::SegQueue;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The size of a frame.
pub const FRAME_BYTES: usize = 4096;

/// A cache line of words.
const PAD: usize = 8;

/// The words of some frames, and what is behind them at the moment.
pub(crate) struct Table {
    /// With [`PAD`] more at both ends, so that they share a cache line with nothing else.
    words: Box<[StateWord]>,
    /// Where devices see frame 0.
    iova: AtomicU64,
    /// Where this process does.
    host: AtomicPtr<u8>,
    space: AtomicU32,
    /// Long-term pins, by frame, and how many there may be.
    long: Mutex<Long>,
    /// For the referee's sake only: see [`Frames::ignore_pins`].
    ignores_pins: AtomicBool,
    behind: RwLock<Option<Behind>>,
    lot: Lot,
    /// The handle, and every frame that is not free: the last one closes the table.
    live: AtomicUsize,
}

#[derive(Debug, Default)]
struct Long {
    held: std::collections::BTreeMap<u32, u64>,
    total: u64,
    limit: u64,
}

#[derive(Clone)]
struct Behind {
    owner: Arc<dyn Owner>,
    /// Mapped until the last frame is free.
    memory: Arc<DmaBuf>,
}

/// Tables whose last frame is free. Not behind a lock: simulated worlds on several threads share
/// it, and in none of them may a lock be waited for.
static CLOSED: SegQueue<&'static Table> = SegQueue::new();

impl Table {
    /// A table of so many words, new or used.
    fn of(count: usize) -> &'static Self {
        for _ in 0..CLOSED.len() {
            match CLOSED.pop() {
                Some(table) if table.words.len() == PAD + count + PAD => return table,
                Some(table) => CLOSED.push(table),
                None => break,
            }
        }
        Box::leak(Box::new(Self {
            words: std::iter::repeat_with(StateWord::new)
                .take(PAD + count + PAD)
                .collect(),
            iova: AtomicU64::new(0),
            host: AtomicPtr::default(),
            space: AtomicU32::new(0),
            long: Mutex::new(Long::default()),
            ignores_pins: AtomicBool::new(false),
            behind: RwLock::new(None),
            lot: Lot::new(),
            live: AtomicUsize::new(0),
        }))
    }

    /// The word of a frame. One that does not exist may have a word, too, of a frame that is free
    /// for ever.
    #[inline(always)]
    pub(crate) fn word(&self, frame: u32) -> Option<&StateWord> {
        self.words.get(PAD + frame as usize)
    }

    /// The words of all frames, for whoever steps many: looked up once.
    #[inline(always)]
    pub(crate) fn words(&self) -> &[StateWord] {
        self.words.get(PAD..).unwrap_or_default()
    }

    #[inline(always)]
    pub(crate) fn iova(&self, frame: u32) -> Iova {
        Iova::new(self.iova.load(Ordering::Relaxed) + u64::from(frame) * FRAME_BYTES as u64)
    }

    /// Where this process sees a frame, as long as that is not free.
    #[inline]
    pub(crate) fn host(&self, frame: u32) -> *mut u8 {
        let base = self.host.load(Ordering::Relaxed);
        base.wrapping_add(frame as usize * FRAME_BYTES)
    }

    /// Who is told of the memory, if anybody is.
    pub(crate) fn watch(&self) -> Option<Arc<dyn MemoryWatch>> {
        let behind = self.behind.read();
        behind.as_ref()?.memory.watch().map(Arc::clone)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn ignores_pins(&self) -> bool {
        self.ignores_pins.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn space(&self) -> SpaceId {
        SpaceId::from_number(self.space.load(Ordering::Relaxed))
    }

    /// Does `work` on a frame of whoever owns the table now, if anybody does.
    #[cold]
    #[inline(never)]
    pub(crate) fn with<T>(
        &'static self,
        frame: u32,
        work: impl FnOnce(Place<'_>) -> T,
    ) -> Option<T> {
        // Cloned, and not held: the owner may call back.
        let behind = self.behind.read().clone()?;
        let caring = Caring {
            table: self,
            owner: &*behind.owner,
        };
        Some(work(Place {
            word: self.word(frame)?,
            frame,
            owner: &caring,
            lot: &self.lot,
        }))
    }

    /// The window on a frame's bytes, for whoever keeps it from being freed but has no [`Frames`].
    pub(crate) fn look<T>(
        &self,
        frame: u32,
        look: impl FnOnce(View<'_>) -> Result<T, OutOfBounds>,
    ) -> Result<T, OutOfBounds> {
        let behind = self.behind.read().clone();
        let offset = frame as usize * FRAME_BYTES;
        let behind = behind.ok_or(OutOfBounds {
            offset,
            len_bytes: FRAME_BYTES,
            available_bytes: 0,
        })?;
        look(behind.memory.view().part(offset, FRAME_BYTES)?)
    }

    /// One frame became free, or the handle is gone.
    fn let_go(&'static self) {
        // Release and Acquire: all that was done to the memory is over when it is unmapped.
        if self.live.fetch_sub(1, Ordering::AcqRel) == 1 {
            let behind = self.behind.write().take();
            if let Some(Behind { memory, .. }) = &behind
                && let Some(watch) = memory.watch()
            {
                watch.frames_gone(memory.iova(), memory.len_bytes() as u64);
            }
            drop(behind);
            CLOSED.push(self);
        }
    }

    /// One more long-term pin, of `frame`.
    pub(crate) fn take_long(&self, frame: u32) -> Result<(), LongTermLimit> {
        let mut long = self.long.lock();
        if long.total >= long.limit {
            return Err(LongTermLimit { limit: long.limit });
        }
        long.total += 1;
        let held = long.held.entry(frame).or_insert(0);
        *held += 1;
        if let (1, Some(word)) = (*held, self.word(frame)) {
            word.set_long(true);
        }
        Ok(())
    }

    pub(crate) fn give_long(&self, frame: u32) {
        let mut long = self.long.lock();
        let Some(held) = long.held.get_mut(&frame) else {
            return;
        };
        *held -= 1;
        if *held == 0 {
            long.held.remove(&frame);
            if let Some(word) = self.word(frame) {
                word.set_long(false);
            }
        }
        long.total -= 1;
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("words", &self.words.len())
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

/// The owner, and the table's own count of frames that are not free.
struct Caring<'a> {
    table: &'static Table,
    owner: &'a dyn Owner,
}

impl Owner for Caring<'_> {
    fn page(&self, frame: u32) -> PageKey {
        self.owner.page(frame)
    }
    fn still_holds(&self, frame: u32, generation: u16) -> bool {
        self.owner.still_holds(frame, generation)
    }
    fn reserve(&self, page: PageKey) -> Result<(), ReserveError> {
        self.owner.reserve(page)
    }
    fn give_back(&self, page: PageKey) {
        self.owner.give_back(page);
    }
    fn enter_dirty(&self, frame: u32, page: PageKey) {
        self.owner.enter_dirty(frame, page);
    }
    fn freed(&self, frame: u32) {
        self.owner.freed(frame);
        self.table.let_go();
    }
}

/// There are as many long-term pins as there may be (R13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit} pages are pinned for long, which is the limit; raise it or drop some of them")]
pub struct LongTermLimit {
    /// The limit.
    pub limit: u64,
}

/// A cache's frames: DMA memory in pages of 4 KiB, each with its word.
///
/// When it is dropped every page is truncated; frames that are pinned keep the memory mapped until
/// their last pin, wherever that is.
///
/// ```
/// use std::sync::Arc;
/// use underpin_dma::DmaSpace;
/// use underpin_dma::frame::{Beginning, Frames, Intent, Owner, PageKey, ReserveError};
/// use underpin_dma::pin::Cover;
///
/// /// A cache whose store has room for everything.
/// struct Cache;
/// impl Owner for Cache {
///     fn page(&self, frame: u32) -> PageKey { PageKey(frame.into()) }
///     fn still_holds(&self, _: u32, _: u16) -> bool { true }
///     fn reserve(&self, _: PageKey) -> Result<(), ReserveError> { Ok(()) }
///     fn give_back(&self, _: PageKey) {}
///     fn enter_dirty(&self, _: u32, _: PageKey) {}
///     fn freed(&self, _: u32) {}
/// }
///
/// let memory = DmaSpace::new().alloc(64 * 4096, 4096)?;
/// let frames = Frames::new(memory, Arc::new(Cache))?;
/// let page = frames.frame(7, frames.alloc(7, Beginning::Uptodate).expect("it is free"));
///
/// let pin = page.pin_write(Cover::Part)?; // Reserved, and dirty from now on.
/// // While a device may write the page, writeback in the background leaves it alone.
/// assert!(page.begin_writeback(Intent::Background, false).expect("dirty").is_none());
/// drop(pin);
/// let writeback = page.begin_writeback(Intent::Background, false).expect("dirty");
/// writeback.expect("not pinned").end(true);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Frames {
    pub(crate) table: &'static Table,
    owner: Arc<dyn Owner>,
    memory: Arc<DmaBuf>,
    count: u32,
}

impl Frames {
    /// The frames of `memory`, all of them free.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when the memory does not consist of whole pages.
    pub fn new(memory: DmaBuf, owner: Arc<dyn Owner>) -> Result<Self, Error> {
        let len = memory.len_bytes();
        let whole = len.is_multiple_of(FRAME_BYTES) && memory.iova().is_aligned(FRAME_BYTES as u64);
        let count = match u32::try_from(len / FRAME_BYTES) {
            Ok(count) if count > 0 && whole => count,
            _ => {
                return Err(Error::BadRequest {
                    name: "frames".to_owned(),
                    what: format!(
                        "{len} bytes at {:?} are not whole pages of {FRAME_BYTES} bytes, fewer than 2^32",
                        memory.iova()
                    ),
                });
            }
        };
        let table = Table::of(count as usize);
        let memory = Arc::new(memory);
        table.iova.store(memory.iova().get(), Ordering::Relaxed);
        let host = memory.view().host_pointer();
        table.host.store(host, Ordering::Relaxed);
        table
            .space
            .store(memory.space_id().number(), Ordering::Relaxed);
        table.live.store(1, Ordering::Relaxed);
        table.ignores_pins.store(false, Ordering::Relaxed);
        *table.long.lock() = Long {
            limit: u64::from(count / 2),
            ..Long::default()
        };
        *table.behind.write() = Some(Behind {
            owner: Arc::clone(&owner),
            memory: Arc::clone(&memory),
        });
        if let Some(watch) = memory.watch() {
            watch.frames(memory.iova(), len as u64, FrameStates::new(table));
        }
        Ok(Self {
            table,
            owner,
            memory,
            count,
        })
    }

    /// How many there are.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// How many may be pinned for long; half of them to begin with. Pins that are held already
    /// stay.
    pub fn set_long_term_limit(&self, frames: u64) {
        self.table.long.lock().limit = frames;
    }

    /// From now on, or no more, every writeback is direct, whoever has the page pinned: what the
    /// race referee is there to see. It damages data. It is asked only of a page that was found
    /// pinned, so it costs the others nothing.
    #[doc(hidden)]
    pub fn ignore_pins(&self, ignore: bool) {
        self.table.ignores_pins.store(ignore, Ordering::Relaxed);
    }

    /// The state of a frame; of none when there is no such frame.
    pub fn state(&self, frame: u32) -> Option<State> {
        self.table.word(frame).map(StateWord::load)
    }

    /// The window on a frame's bytes. Whoever looks through it holds a pin (R38).
    ///
    /// # Errors
    /// [`OutOfBounds`] when there is no such frame.
    pub fn view(&self, frame: u32) -> Result<View<'_>, OutOfBounds> {
        self.memory
            .view()
            .part(frame as usize * FRAME_BYTES, FRAME_BYTES)
    }

    /// A free frame becomes a page's. Gives the generation that it is known by from now on.
    ///
    /// # Errors
    /// [`Blocked::Owned`] when it is not free; [`Blocked::Pinned`] while somebody who looked its
    /// last page up is still on the way out: take another.
    pub fn alloc(&self, frame: u32, beginning: Beginning) -> Result<u16, Blocked> {
        let word = self.table.word(frame).filter(|_| frame < self.count);
        let generation = word.ok_or(Blocked::Owned)?.alloc(beginning)?;
        self.table.live.fetch_add(1, Ordering::Relaxed);
        Ok(generation)
    }

    /// A frame as it was looked up.
    #[inline(always)]
    pub const fn frame(&self, frame: u32, generation: u16) -> Frame<'_> {
        Frame {
            frames: self,
            frame,
            generation,
        }
    }

    pub(crate) fn with<T>(&self, frame: u32, work: impl FnOnce(Place<'_>) -> T) -> Option<T> {
        let caring = Caring {
            table: self.table,
            owner: &*self.owner,
        };
        Some(work(Place {
            word: self.table.word(frame)?,
            frame,
            owner: &caring,
            lot: &self.table.lot,
        }))
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames")
            .field("count", &self.count)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        for frame in 0..self.count {
            self.with(frame, |place| {
                let state = place.word.load();
                if state.has(State::OWNED) {
                    // Nobody else has the handle, so nobody else truncates; a pinned one lives on.
                    let _ = place.truncate(state.generation(), || ());
                }
            });
        }
        self.table.let_go();
    }
}

/// A frame as the index had it: pinned, written back, cut off only while it is still that page's.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub(crate) frames: &'a Frames,
    pub(crate) frame: u32,
    pub(crate) generation: u16,
}

impl Frame<'_> {
    /// Its number.
    pub const fn number(&self) -> u32 {
        self.frame
    }

    /// The generation under which it was looked up.
    pub const fn generation(&self) -> u16 {
        self.generation
    }

    /// Cuts the page off its file; `detach` clears its slot in the index. The frame lives on until
    /// its last pin, and is the owner's again then (R28).
    ///
    /// # Errors
    /// [`PinError::Moved`] when it is another page's by now.
    pub fn truncate(&self, detach: impl FnOnce()) -> Result<(), PinError> {
        let cut = self
            .frames
            .with(self.frame, |place| place.truncate(self.generation, detach));
        cut.unwrap_or(Err(PinError::Moved))
    }

    /// Takes the frame away from a clean page that nothing holds (R30); `detach` clears its slot in
    /// the index before the frame is the owner's again.
    ///
    /// # Errors
    /// What holds it.
    pub fn evict(&self, detach: impl FnOnce()) -> Result<(), Blocked> {
        let evicted = self.frames.with(self.frame, |place| {
            let due = place.word.evict(self.generation)?;
            detach();
            place.settle(due, None);
            Ok(())
        });
        evicted.unwrap_or(Err(Blocked::Generation))
    }

    /// Parks `waker` as long as `blocked` holds of the frame. False: look again now.
    pub fn park(&self, blocked: impl Fn(State) -> bool, waker: &std::task::Waker) -> bool {
        let parked = self.frames.with(self.frame, |place| {
            place.lot.park(self.frame, place.word, blocked, waker)
        });
        parked.unwrap_or(false)
    }
}
