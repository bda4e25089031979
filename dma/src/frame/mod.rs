//! Frames: pages of memory that a device may be given while a file's bytes are in them. One word
//! each says who holds a page, whether it is dirty, and what happens to it (`docs/PINS.md`).
mod lot;
mod protocol;
mod state;
mod sync;
mod table;
mod word;

pub use lot::Lot;
pub use protocol::{Owner, PageKey, PinError, Place, ReserveError};
pub use state::{Due, Fast, StateWord};
pub(crate) use table::Table;
pub use table::{FRAME_BYTES, Frame, Frames, LongTermLimit};
pub use word::{Beginning, Blocked, Decision, Intent, Pin, State};
