//! The atomics and the lock of the pin protocol, in one place, so that the models under loom
//! compile the shipped files over loom's.
pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
pub(super) use underpin_rt::sync::Mutex;
