//! What `dma/src/frame/sync.rs` is in the library.
pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};

/// Without poisoning, as the library's.
#[derive(Debug)]
pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }
    pub(super) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }
}
