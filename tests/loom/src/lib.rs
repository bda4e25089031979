//! The shipped files of `dma/src/frame`, compiled over loom's atomics and lock, and a small world
//! for them to live in: one page of a file, its slot in an index, a store, a disk.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

/// As in `underpin-dma`, file by file.
#[allow(missing_docs)]
pub mod frame {
    #[path = "../../../../dma/src/frame/lot.rs"]
    mod lot;
    #[path = "../../../../dma/src/frame/protocol.rs"]
    mod protocol;
    #[path = "../../../../dma/src/frame/state.rs"]
    mod state;
    mod sync;
    #[path = "../../../../dma/src/frame/word.rs"]
    mod word;

    pub use lot::Lot;
    pub use protocol::{Owner, PageKey, PinError, Place, ReserveError};
    pub use state::{Due, Fast, StateWord};
    pub use word::{Beginning, Blocked, Decision, Intent, Pin, State};
}
mod cell;
mod world;

pub use world::{Disk, World, explore};
