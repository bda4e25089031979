//! Requests as futures of the queue's own thread.
use super::core::Core;
use super::error::{Outcome, RequestError};
use super::slab::Owner;
use crate::Io;
use crate::dma::Payload;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// One request, whatever it carries.
struct Shared<B: Payload> {
    core: Rc<RefCell<Core<B>>>,
    state: State<B>,
}

enum State<B> {
    Unsent(Io, Option<B>),
    /// Its place among the queue's requests.
    Begun(u32),
    Over,
}

impl<B: Payload> Shared<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<B>> {
        let at = match std::mem::replace(&mut self.state, State::Over) {
            State::Unsent(io, buffer) => {
                let owner = Owner::Task(Some(cx.waker().clone()));
                self.core.borrow_mut().begin(io, buffer, owner)
            }
            State::Begun(at) => at,
            State::Over => over(),
        };
        if let Some(outcome) = self.core.borrow_mut().take_ended(at) {
            return Poll::Ready(outcome);
        }
        self.state = State::Begun(at);
        let knows = |waker: &Option<std::task::Waker>| {
            waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()))
        };
        if !self
            .core
            .borrow_mut()
            .waker(at)
            .is_some_and(|waker| knows(waker))
        {
            // Cloning and dropping a waker is foreign code, which may come back here.
            let new = cx.waker().clone();
            let old = self
                .core
                .borrow_mut()
                .waker(at)
                .and_then(|place| place.replace(new));
            drop(old);
        }
        Poll::Pending
    }
}

#[cold]
fn over() -> ! {
    panic!("a request was polled after it had ended")
}

impl<B: Payload> Drop for Shared<B> {
    fn drop(&mut self) {
        if let State::Begun(at) = self.state {
            let rest = self.core.borrow_mut().detach(at);
            // A waker or a buffer: foreign code, with nothing borrowed.
            drop(rest);
        }
    }
}

/// A request with a buffer, which its end gives back. Made by
/// [`AsyncQueue::run`](super::AsyncQueue::run).
///
/// Dropping it before its end detaches: a request that was not submitted never is, one that was
/// goes on, and its buffer is dropped with its completion.
///
/// # Panics
/// When it is polled again after its end.
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let queue: AsyncQueue<DmaBuf> = controller.async_queue(QueueOptions::default())?;
/// let given_up = queue.run(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?);
/// drop(given_up); // Never polled, so never submitted.
/// assert_eq!(queue.stats().reads, 0);
///
/// let page = queue.block_on(queue.run(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?))?;
/// assert_eq!((queue.stats().reads, page.len_bytes()), (1, 4096));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a future does nothing until it is polled"]
pub struct Request<B: Payload>(Shared<B>);

impl<B: Payload> Request<B> {
    pub(super) fn new(core: Rc<RefCell<Core<B>>>, io: Io, buffer: B) -> Self {
        let state = State::Unsent(io, Some(buffer));
        Self(Shared { core, state })
    }
}

// Nothing in it is ever pinned: the buffer moves into the queue.
impl<B: Payload> Unpin for Request<B> {}

impl<B: Payload> Future for Request<B> {
    type Output = Result<B, RequestError<B>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.poll(cx).map(Outcome::into_buffer)
    }
}

impl<B: Payload> fmt::Debug for Request<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

/// A request that transfers nothing; its end gives dword 0 of the completion. Made by
/// [`AsyncQueue::run_bare`](super::AsyncQueue::run_bare). Dropping it detaches, as with
/// [`Request`].
///
/// # Panics
/// When it is polled again after its end.
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let queue: AsyncQueue<DmaBuf> = controller.async_queue(QueueOptions::default())?;
/// let dword = queue.block_on(queue.run_bare(ns.flush()))?;
/// assert_eq!((dword, queue.stats().flushes), (0, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a future does nothing until it is polled"]
pub struct BareRequest<B: Payload>(Shared<B>);

impl<B: Payload> BareRequest<B> {
    pub(super) fn new(core: Rc<RefCell<Core<B>>>, io: Io) -> Self {
        let state = State::Unsent(io, None);
        Self(Shared { core, state })
    }
}

impl<B: Payload> Unpin for BareRequest<B> {}

impl<B: Payload> Future for BareRequest<B> {
    type Output = Result<u32, RequestError<B>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.poll(cx).map(Outcome::into_dw0)
    }
}

impl<B: Payload> fmt::Debug for BareRequest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BareRequest").finish_non_exhaustive()
    }
}
