//! A cell that loom watches: two that touch it without an order between them end the model.
#![allow(unsafe_code)]

/// Bytes of a page, of which only the order of accesses matters.
#[derive(Debug)]
pub(crate) struct Watched(loom::cell::UnsafeCell<()>);

// SAFETY: there is nothing in it that could be torn, and loom panics at every access that another
// thread's is not ordered with.
unsafe impl Sync for Watched {}

impl Watched {
    pub(crate) fn new() -> Self {
        Self(loom::cell::UnsafeCell::new(()))
    }
    pub(crate) fn write(&self) {
        self.0.with_mut(|_| ());
    }
    pub(crate) fn read(&self) {
        self.0.with(|_| ());
    }
}
