//! Futures over a queue pair, for any executor: an [`AsyncQueue`] on the queue's own thread, and
//! [`Handle`]s through which other threads send it requests.
//!
//! A request owns its buffer from the call on. Where it has been submitted, the buffer belongs to
//! the queue's slot until the device has answered, and nobody can take it back: dropping the
//! future only detaches from it, and the buffer is freed, or returns to its pool, when the
//! completion comes. So cancellation is safe at every point, `mem::forget` and panics included.
//!
//! The queue does nothing by itself: its thread takes a [`turn`](AsyncQueue::turn), again and
//! again, in an executor's task ([`drive`](AsyncQueue::drive)), in a loop of its own, or in
//! [`block_on`](AsyncQueue::block_on). A turn says when the next is due; until then the thread may
//! sleep, and the queue's event wakes it: for a completion, a request of another thread, or one
//! made by another task of its own.
mod block_on;
mod core;
mod drive;
mod error;
mod handle;
mod mailbox;
mod request;
mod slab;

pub use block_on::block_on;
pub use drive::Turn;
pub use error::RequestError;
pub use handle::{BareHandleRequest, Handle, HandleRequest};
pub use request::{BareRequest, Request};

use self::core::Core;
use self::mailbox::{Bell, Mailbox};
use crate::dma::Payload;
use crate::dma::rt::Event;
use crate::{Controller, Error, Io, QueueOptions, QueuePair, QueueStats, TransportError};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

impl Controller {
    /// Makes a queue whose requests are futures, for the calling thread. With
    /// [`Waiting::ADAPTIVE`](crate::Waiting::ADAPTIVE) its driver polls while there is something
    /// to do and sleeps otherwise; with [`Waiting::Poll`](crate::Waiting::Poll) it polls as long
    /// as anything is in flight.
    ///
    /// # Errors
    /// As [`queue_pair`](Self::queue_pair); [`Error::Transport`] when no event can be had.
    pub fn async_queue<B: Payload>(&self, options: QueueOptions) -> Result<AsyncQueue<B>, Error> {
        AsyncQueue::new(self.queue_pair(options)?, &self.name())
    }
}

/// A queue pair whose requests are futures. Clones are the same queue; all stay on one thread.
///
/// ```
/// use underpin_dma::DmaSpace;
/// use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions, Waiting};
///
/// let space = DmaSpace::new();
/// let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// let ns = controller.namespace(None)?;
/// let options = QueueOptions { waiting: Waiting::ADAPTIVE, ..QueueOptions::default() };
/// let queue = controller.async_queue(options)?;
///
/// let mut page = space.alloc(4096, 4096)?;
/// page.copy_from(0, b"later")?;
/// let text = queue.block_on(async {
///     let page = queue.run(ns.write(Lba(8), 8)?, page).await?;
///     queue.run_bare(ns.flush()).await?;
///     let page = queue.run(ns.read(Lba(8), 8)?, page).await?;
///     let mut text = [0; 5];
///     page.copy_to(0, &mut text)?;
///     Ok::<_, Box<dyn std::error::Error>>(text)
/// })?;
/// assert_eq!(&text, b"later");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct AsyncQueue<B: Payload> {
    core: Rc<RefCell<Core<B>>>,
    mailbox: Arc<Mailbox<B>>,
}

impl<B: Payload> Clone for AsyncQueue<B> {
    fn clone(&self) -> Self {
        Self {
            core: Rc::clone(&self.core),
            mailbox: Arc::clone(&self.mailbox),
        }
    }
}

impl<B: Payload> AsyncQueue<B> {
    fn new(queue: QueuePair<(B, u32)>, device: &str) -> Result<Self, Error> {
        let event = match queue.event() {
            Some(event) => event.clone(),
            None => Event::new().map_err(|error| TransportError {
                device: device.to_owned(),
                what: format!("no event could be made to wake its queue: {error}"),
            })?,
        };
        let mailbox = Arc::new(Mailbox::new(queue.depth(), Bell::new(event)));
        let core = Core::new(queue, Arc::clone(&mailbox));
        Ok(Self {
            core: Rc::new(RefCell::new(core)),
            mailbox,
        })
    }

    /// A request with a buffer, as a future that gives the buffer back. Nothing happens before it
    /// is first polled. When the queue is full it waits for its turn, first come, first served.
    pub fn run(&self, io: Io, buffer: B) -> Request<B> {
        Request::new(Rc::clone(&self.core), io, buffer)
    }

    /// A request that transfers nothing, such as a flush, as a future.
    pub fn run_bare(&self, io: Io) -> BareRequest<B> {
        BareRequest::new(Rc::clone(&self.core), io)
    }

    /// A way for other threads to send requests to this queue.
    pub fn handle(&self) -> Handle<B> {
        Handle::new(Arc::clone(&self.mailbox))
    }

    /// What wakes the queue's thread: readable when a [`turn`](Self::turn) is due.
    pub fn event(&self) -> &Event {
        &self.mailbox.bell.event
    }

    /// How many commands it can have in flight.
    pub fn depth(&self) -> usize {
        self.core.borrow().queue.depth()
    }

    /// How many commands are in flight, those of dropped futures included.
    pub fn in_flight(&self) -> usize {
        self.core.borrow().queue.in_flight()
    }

    /// Figures about it.
    pub fn stats(&self) -> QueueStats {
        self.core.borrow().queue.stats()
    }
}
