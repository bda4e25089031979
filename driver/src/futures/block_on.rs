//! Futures without an executor: a thread that waits for one, driving a queue meanwhile or not.
use super::mailbox::Mailbox;
use super::{AsyncQueue, Turn};
use crate::dma::Payload;
use crate::dma::rt::{self, Event};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Waits on the calling thread until `future` ends. For threads that send requests through a
/// [`Handle`](super::Handle); the queue's own thread uses [`AsyncQueue::block_on`].
///
/// # Panics
/// When the process may have no further file descriptor.
///
/// ```
/// use underpin_nvme::futures::block_on;
///
/// assert_eq!(block_on(async { 6 * 7 }), 42);
/// ```
pub fn block_on<F: Future>(future: F) -> F::Output {
    let event = match Event::new() {
        Ok(event) => event,
        Err(error) => panic!("a thread that waits needs a file descriptor: {error}"),
    };
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Signal(event.clone())));
    loop {
        event.clear();
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        event.wait(None);
    }
}

struct Signal(Event);

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.0.signal();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.signal();
    }
}

/// Tells the queue's thread that its own future wants to be polled.
struct Woken<B: Payload> {
    mailbox: Arc<Mailbox<B>>,
    flag: AtomicBool,
}

impl<B: Payload> Wake for Woken<B> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.flag.store(true, Ordering::SeqCst);
        self.mailbox.bell.ring();
    }
}

impl<B: Payload> AsyncQueue<B> {
    /// Drives the queue on this thread until `future` ends, sleeping when there is nothing to do.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// let queue: AsyncQueue<DmaBuf> = controller.async_queue(QueueOptions::default())?;
    /// // Two requests in flight at once, on one thread.
    /// let (first, second) = (space.alloc(4096, 4096)?, space.alloc(4096, 4096)?);
    /// let mut first = std::pin::pin!(queue.run(ns.read(Lba(0), 8)?, first));
    /// let mut second = std::pin::pin!(queue.run(ns.read(Lba(8), 8)?, second));
    /// let mut ended = 0;
    /// queue.block_on(std::future::poll_fn(|cx| {
    ///     for request in [&mut first, &mut second] {
    ///         // Each is polled once to begin it; from then on its waker is told.
    ///         ended += usize::from(ended < 2 && request.as_mut().poll(cx).is_ready());
    ///     }
    ///     if ended > 0 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    /// }));
    /// assert!(ended > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let woken = Arc::new(Woken {
            mailbox: Arc::clone(&self.mailbox),
            flag: AtomicBool::new(true),
        });
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let is_woken = || woken.flag.load(Ordering::SeqCst);
        loop {
            if woken.flag.swap(false, Ordering::SeqCst)
                && let Poll::Ready(output) = future.as_mut().poll(&mut cx)
            {
                return output;
            }
            match self.turn() {
                Turn::Busy => {}
                Turn::Spin { until } => {
                    let news = |_now| (is_woken() || self.has_news()).then_some(());
                    let _ = rt::wait(Some(until), news);
                }
                // The bell was armed before this look, and rings after the flag is set.
                Turn::Sleep { until } if !is_woken() => {
                    self.event().wait(until);
                }
                Turn::Sleep { .. } => {}
            }
        }
    }
}
