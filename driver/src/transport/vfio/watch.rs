//! Waits for what the kernel has to say of a device: it is wanted back, or its link has failed.
//! A thread, because the kernel waits for an application that may be doing something else.
use super::Shared;
use crate::Failure;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::sync::Arc;
use underpin_dma::rt::Event;

/// What the thread waits for.
#[derive(Debug)]
pub(super) struct Watched {
    /// The kernel wants the device back (VFIO_PCI_REQ_IRQ_INDEX).
    pub(super) request: Event,
    /// An uncorrectable error of the link (VFIO_PCI_ERR_IRQ_INDEX).
    pub(super) error: Event,
    /// The transport is being dropped.
    pub(super) stop: Event,
}

impl Watched {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            request: Event::new()?,
            error: Event::new()?,
            stop: Event::new()?,
        })
    }

    /// The thread: sleeps until something comes, and ends with the transport or the device.
    pub(super) fn run(&self, shared: &Arc<Shared>) {
        loop {
            let events = [&self.stop, &self.request, &self.error];
            let mut fds = events.map(|event| PollFd::new(event, PollFlags::IN));
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(device = shared.name, %error, "the kernel's wishes are not heard any more");
                    return;
                }
            }
            if self.stop.is_set() {
                return;
            }
            if self.request.clear() {
                // Everybody is told before the device goes: what is in flight is lost, not late.
                shared.lose(Failure::Reclaimed);
                // And whoever sleeps: closing it can take the kernel a function reset.
                shared.wake();
                // The kernel waits until it is closed; the memory of what was in flight is kept
                // until the controller is closed, which learns there how the end was proven.
                let _ = shared.close();
                return;
            }
            if self.error.clear() {
                shared.lose(Failure::Link);
                shared.wake();
            }
        }
    }
}
