//! Whether a controller may still be used: one flag that every queue reads, and the reason.
//! Set once; the first failure is the one that is told.
use crate::Failure;
use crate::dma::rt::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The controller's state as its queues see it.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failed: AtomicBool,
    reason: OnceLock<Failure>,
}

impl Health {
    #[inline(always)]
    pub(crate) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Why it failed, if it has.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.is_failed()
            .then(|| self.reason.get().cloned().unwrap_or(Failure::Closed))
    }

    /// Fails the controller. The first reason stays.
    pub(crate) fn fail(&self, device: &str, reason: Failure) {
        if self.reason.set(reason.clone()).is_ok() {
            tracing::error!(device, %reason, "controller failed");
        }
        self.failed.store(true, Ordering::Release);
    }
}
