//! Requests from other threads: a handle that can be sent, and its futures, which can, too.
use super::error::{Outcome, RequestError};
use super::mailbox::{Mailbox, Posted, Reply};
use crate::Io;
use crate::dma::Payload;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Sends requests to an [`AsyncQueue`](super::AsyncQueue) from any thread. Dropping it, or
/// forgetting it, is nobody's concern. When the queue is gone, requests end with
/// [`Error::QueueClosed`](crate::Error::QueueClosed).
///
/// ```
/// use underpin_dma::{DmaSpace, rt::thread};
/// use underpin_nvme::futures::block_on;
/// use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions, Waiting};
///
/// let space = DmaSpace::new();
/// let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// let read = controller.namespace(None)?.read(Lba(0), 8)?;
/// let options = QueueOptions { waiting: Waiting::ADAPTIVE, ..QueueOptions::default() };
/// let queue = controller.async_queue(options)?;
///
/// let (handle, page) = (queue.handle(), space.alloc(4096, 4096)?);
/// let (done, is_done) = std::sync::mpsc::channel();
/// let other = thread::spawn("other", move || {
///     let page = block_on(handle.run(read, page));
///     let _ = done.send(());
///     page.map(|page| page.len_bytes())
/// })?;
/// // This thread is the queue's: it drives until the other is done.
/// queue.block_on(std::future::poll_fn(|cx| match is_done.try_recv() {
///     Ok(()) => std::task::Poll::Ready(()),
///     Err(_) => {
///         cx.waker().wake_by_ref();
///         std::task::Poll::Pending
///     }
/// }));
/// assert_eq!(other.join().expect("no panic")?, 4096);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Handle<B: Payload>(Arc<Mailbox<B>>);

impl<B: Payload> Clone for Handle<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Payload> fmt::Debug for Handle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl<B: Payload> Handle<B> {
    pub(super) const fn new(mailbox: Arc<Mailbox<B>>) -> Self {
        Self(mailbox)
    }

    /// A request with a buffer, as a future that gives the buffer back. Nothing happens before it
    /// is first polled. While the way to the queue is full it waits, first come, first served.
    pub fn run(&self, io: Io, buffer: B) -> HandleRequest<B> {
        HandleRequest(self.request(io, Some(buffer)))
    }

    /// A request that transfers nothing, such as a flush, as a future.
    pub fn run_bare(&self, io: Io) -> BareHandleRequest<B> {
        BareHandleRequest(self.request(io, None))
    }

    fn request(&self, io: Io, buffer: Option<B>) -> Shared<B> {
        let reply = Reply::new();
        Shared {
            mailbox: Arc::clone(&self.0),
            state: State::Unsent(Posted { io, buffer, reply }),
        }
    }
}

/// One request, whatever it carries.
struct Shared<B: Payload> {
    mailbox: Arc<Mailbox<B>>,
    state: State<B>,
}

enum State<B> {
    Unsent(Posted<B>),
    Posted(Arc<Reply<B>>),
    Over,
}

impl<B: Payload> Shared<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<B>> {
        let reply = match std::mem::replace(&mut self.state, State::Over) {
            State::Unsent(posted) => {
                let reply = Arc::clone(&posted.reply);
                self.mailbox.post(posted);
                reply
            }
            State::Posted(reply) => reply,
            State::Over => over(),
        };
        match reply.take(cx.waker()) {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                self.state = State::Posted(reply);
                Poll::Pending
            }
        }
    }
}

#[cold]
fn over() -> ! {
    panic!("a request was polled after it had ended")
}

impl<B: Payload> Drop for Shared<B> {
    fn drop(&mut self) {
        if let State::Posted(reply) = std::mem::replace(&mut self.state, State::Over) {
            drop(self.mailbox.give_up(reply));
        }
    }
}

/// A request sent to another thread's queue; its end gives the buffer back. Made by
/// [`Handle::run`].
///
/// Dropping it before its end detaches: a request that was not submitted yet may not be any more,
/// one that was goes on, and its buffer is dropped with its completion.
///
/// # Panics
/// When it is polled again after its end.
///
/// ```
/// use underpin_nvme::Error;
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let queue: AsyncQueue<DmaBuf> = controller.async_queue(QueueOptions::default())?;
/// let handle = queue.handle();
/// let request = handle.run(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?);
/// drop(queue);
/// let refused = futures::block_on(request).unwrap_err();
/// assert!(matches!(refused.error, Error::QueueClosed));
/// assert!(refused.buffer.is_some(), "for another queue");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a future does nothing until it is polled"]
pub struct HandleRequest<B: Payload>(Shared<B>);

// Nothing in it is ever pinned: the buffer moves on.
impl<B: Payload> Unpin for HandleRequest<B> {}

impl<B: Payload> Future for HandleRequest<B> {
    type Output = Result<B, RequestError<B>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.poll(cx).map(Outcome::into_buffer)
    }
}

impl<B: Payload> fmt::Debug for HandleRequest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandleRequest").finish_non_exhaustive()
    }
}

/// A request without data sent to another thread's queue; its end gives dword 0 of the completion.
/// Made by [`Handle::run_bare`]. Dropping it detaches, as with [`HandleRequest`].
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
/// let handle = queue.handle();
/// // A handle works on the queue's own thread, too, as long as that drives the queue.
/// let dword = queue.block_on(handle.run_bare(ns.flush()))?;
/// assert_eq!((dword, queue.stats().flushes), (0, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a future does nothing until it is polled"]
pub struct BareHandleRequest<B: Payload>(Shared<B>);

impl<B: Payload> Unpin for BareHandleRequest<B> {}

impl<B: Payload> Future for BareHandleRequest<B> {
    type Output = Result<u32, RequestError<B>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.poll(cx).map(Outcome::into_dw0)
    }
}

impl<B: Payload> fmt::Debug for BareHandleRequest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BareHandleRequest").finish_non_exhaustive()
    }
}
