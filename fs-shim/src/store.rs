//! What a file of the cache lives on: pages that can be reserved, read, written, flushed, freed.
//! The cache hands over work and is told of its end; the store never touches a page's state.
mod error;
mod extent;
mod host_file;
mod memory;
mod work;

pub use error::StoreError;
pub use extent::{Extent, ExtentError, ExtentQueue};
pub use host_file::{
    Direct, Engine, EngineChoice, HostFile, HostFileError, HostFileOptions, NotFirm, Reservation,
};
pub use memory::Memory;
pub use work::{Done, Ticket, Work};

use std::fmt;
use std::ops::Range;
use underpin_dma::SpaceId;
use underpin_dma::frame::ReserveError;

/// The size of a page of a store.
pub const PAGE_BYTES: u64 = underpin_dma::frame::FRAME_BYTES as u64;

/// Where the pages of one file are kept.
///
/// `read`, `write` and `flush` only begin: what they are given ends by [`Work::end`], by any thread
/// that calls [`poll`](Self::poll). They never refuse and never wait: what the store has no room for
/// yet, it keeps until it has. A store that has failed ends all that it is given from then on, or
/// says why it cannot by [`failure`](Self::failure).
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// The space in which the devices of the store see memory; `None` when it takes any memory.
    fn space_id(&self) -> Option<SpaceId>;

    /// The file's length when it is opened.
    fn len_bytes(&self) -> u64;

    /// How long the file may get.
    fn max_len_bytes(&self) -> u64;

    /// Reserves what it takes to write the page (a file system's `page_mkwrite`): space, an index
    /// entry. Called on a clean page before it gets dirty (R2), from any thread, possibly for the
    /// same page by several at once; what is not needed comes [back](Self::give_back).
    ///
    /// # Errors
    /// [`ReserveError`]: the only place where the store can say that it is full (R3).
    fn reserve(&self, page: u64) -> Result<(), ReserveError>;

    /// One reservation was not needed. (A page that is written well has used its own.)
    fn give_back(&self, page: u64);

    /// True when the page is known to be zeroes, so that it need not be read.
    fn is_hole(&self, page: u64) -> bool;

    /// Begins to read pages, from [`Work::first_page`] on.
    fn read(&self, work: Work);

    /// Begins to write pages, from [`Work::first_page`] on. What a write covers past the end of the
    /// file is zero (R24); the file's length is what [`set_len`](Self::set_len) said last.
    fn write(&self, work: Work);

    /// Begins to make durable what was written: the writes that had *ended* before this call.
    fn flush(&self, work: Work);

    /// Sends what is kept, and ends what has ended. Returns how many ended. Never waits.
    fn poll(&self) -> usize;

    /// Why nothing ends any more, if that is so: work in flight stays with the device then, until
    /// it provably has let go.
    fn failure(&self) -> Option<StoreError>;

    /// The file's new length. Pages past it are free already, and nothing that the cache began on
    /// them is in flight (R28).
    ///
    /// # Errors
    /// [`StoreError`].
    fn set_len(&self, len_bytes: u64) -> Result<(), StoreError>;

    /// Whole pages are zero from now on, and their space is free. Nothing that the cache began on
    /// them is in flight (R28).
    ///
    /// # Errors
    /// [`StoreError`].
    fn free(&self, pages: Range<u64>) -> Result<(), StoreError>;
}
