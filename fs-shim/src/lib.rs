//! A page cache and writeback over a store, whose pages are DMA targets: the layer in which
//! pinned pages are never written back while a device writes them.
//!
//! A [`Cache`] has frames for pages of [`File`]s, each of which lives on a [`Store`](store::Store). A
//! page that a device writes is pinned: [`File::pin_write`] gives the memory that a queue's `submit`
//! takes. `docs/PINS.md` has the rules, and which file keeps which.
//!
//! From top to bottom: `file.rs` (calls), `page.rs` (one page's way to a pin), `writeback.rs` (dirty
//! pages on their way out), `fsync.rs`, `flusher.rs` and `resize.rs` above it; `index.rs` (page to
//! frame), `dirty.rs`, `book.rs` (frame to page) below.
#![deny(unsafe_code)]

mod book;
mod cache;
mod dirty;
mod error;
mod errseq;
mod file;
mod flusher;
mod fsync;
mod index;
mod page;
mod resize;
pub mod store;
mod writeback;

pub use book::Policy;
pub use cache::{Cache, CacheOptions, CacheStats};
pub use error::FileError;
pub use file::{File, MappedPages};

pub use underpin_dma as dma;
