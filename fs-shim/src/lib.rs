//! A page cache and writeback over a store, whose pages are DMA targets: the layer in which
//! pinned pages are never written back while a device writes them.
//!
//! Nothing is built here yet. The crate exists so that the layers above and below it are laid
//! out around it: it will name `underpin-nvme` and `underpin-dma`, and nothing below will name it.
#![forbid(unsafe_code)]
