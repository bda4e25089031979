//! Who wants to know which memory is lent out, and what is a cache's: the race referee of a test.
//! Told by pools, frames and the space; an ordinary space has no watcher and pays one branch.
use crate::Iova;
use crate::frame::{State, Table};
use std::fmt;

/// Which way DMA goes, seen from the host's memory.
///
/// What judges DMA is told it, and says it of what it objects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device reads host memory.
    FromHost,
    /// The device writes host memory.
    ToHost,
}

/// A look at the states of a cache's frames, by their place in the range that
/// [`MemoryWatch::frames`] was told of. It costs those who pin nothing.
#[derive(Clone, Copy)]
pub struct FrameStates {
    table: &'static Table,
}

impl FrameStates {
    pub(crate) const fn new(table: &'static Table) -> Self {
        Self { table }
    }

    /// What the word of a frame holds now: one load, so all of it is of one moment.
    pub fn state(&self, frame: u32) -> State {
        let word = self.table.word(frame);
        word.map_or(State::free(0), |word| word.load())
    }
}

impl fmt::Debug for FrameStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameStates").finish_non_exhaustive()
    }
}

/// Is told when memory is lent to an owner and when it comes back. DMA into memory that is not
/// lent is what a referee looks for.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use underpin_dma::{DmaSpace, Iova, MemoryWatch, SpaceOptions};
///
/// #[derive(Debug, Default)]
/// struct Lent(AtomicU64);
///
/// impl MemoryWatch for Lent {
///     fn lent(&self, _iova: Iova, len_bytes: u64) {
///         self.0.fetch_add(len_bytes, Relaxed);
///     }
///     fn returned(&self, _iova: Iova, len_bytes: u64) {
///         self.0.fetch_sub(len_bytes, Relaxed);
///     }
/// }
///
/// let lent = Arc::new(Lent::default());
/// let watch = Some(Arc::clone(&lent) as _);
/// let space = DmaSpace::with_options(SpaceOptions { watch, ..SpaceOptions::default() });
/// let page = space.alloc(4096, 4096)?;
/// assert_eq!(lent.0.load(Relaxed), 4096);
/// drop(page);
/// assert_eq!(lent.0.load(Relaxed), 0);
/// # Ok::<(), underpin_dma::Error>(())
/// ```
pub trait MemoryWatch: Send + Sync + fmt::Debug {
    /// The range has an owner from now on.
    fn lent(&self, iova: Iova, len_bytes: u64);
    /// The range has no owner from now on.
    fn returned(&self, iova: Iova, len_bytes: u64);

    /// The range consists of frames from now on, of 4 KiB each, whose states can be looked at. It
    /// is lent all the while.
    fn frames(&self, iova: Iova, len_bytes: u64, states: FrameStates) {
        let _ = (iova, len_bytes, states);
    }

    /// The last frame of a range is free, and the table that had them is closed; before the memory
    /// is [returned](Self::returned).
    fn frames_gone(&self, iova: Iova, len_bytes: u64) {
        let _ = (iova, len_bytes);
    }

    /// Something that is no emulator touches memory: a store that lets the host's kernel read or
    /// write it. Told when the request is made and once more before its end is told, since nobody
    /// sees when in between the bytes move.
    fn dma(&self, iova: Iova, len_bytes: u64, direction: Direction) {
        let _ = (iova, len_bytes, direction);
    }
}
