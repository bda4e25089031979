//! A page cache and writeback over a store, whose pages are DMA targets: the layer in which
//! pinned pages are never written back while a device writes them.
//!
//! A [`Store`](store::Store) keeps a file's pages; `docs/PINS.md` has the rules.
#![forbid(unsafe_code)]

pub mod store;

pub use underpin_dma as dma;
