//! Driving a queue: one turn after another, by whatever executor there is.
use super::AsyncQueue;
use crate::Armed;
use crate::dma::Payload;
use crate::dma::rt::Instant;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What a turn says of the next.
///
/// A thread that has a loop of its own:
///
/// ```
/// use underpin_nvme::futures::Turn;
/// use underpin_nvme::{AsyncQueue, QueueOptions, Waiting};
/// use std::task::{Context, Poll, Waker};
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let options = QueueOptions { waiting: Waiting::ADAPTIVE, ..QueueOptions::default() };
/// let queue: AsyncQueue<DmaBuf> = controller.async_queue(options)?;
/// let mut request = std::pin::pin!(queue.run(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?));
/// let mut cx = Context::from_waker(Waker::noop());
/// let page = loop {
///     if let Poll::Ready(ended) = request.as_mut().poll(&mut cx) {
///         break ended?;
///     }
///     match queue.turn() {
///         Turn::Busy | Turn::Spin { .. } => {}
///         Turn::Sleep { until } => {
///             queue.event().wait(until);
///         }
///     }
/// };
/// assert_eq!(page.len_bytes(), 4096);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something was done: let tasks run, then take another turn.
    Busy,
    /// Nothing was there, and something is expected before long: look again, letting others run
    /// meanwhile. After `until` a turn will want to sleep.
    Spin {
        /// When the patience ends.
        until: Instant,
    },
    /// Nothing is there, and the event will tell of what comes: wait until it is readable.
    Sleep {
        /// Take a turn at this time though the event told nothing: a command's deadline or a look
        /// at the device is due then. `None` while nothing is in flight, unless somebody else could
        /// take the event's signals away.
        until: Option<Instant>,
    },
}

impl<B: Payload> AsyncQueue<B> {
    /// One turn: takes what has ended and wakes its futures, takes requests of other threads,
    /// submits what waits for room, rings. Never waits.
    ///
    /// # Panics
    /// When a waker or the drop of a detached buffer does; the others' turn comes with the next.
    pub fn turn(&self) -> Turn {
        let mut busy = self.core.borrow_mut().work();
        // One by one, with nothing borrowed: each may call back, or panic.
        loop {
            let next = self.core.borrow_mut().next_aside();
            let Some(aside) = next else { break };
            busy = true;
            aside.run();
        }
        let mut core = self.core.borrow_mut();
        if busy {
            core.queue.was_busy();
            return Turn::Busy;
        }
        let now = Instant::now();
        match core.spins_until(now) {
            Some(until) if until > now => return Turn::Spin { until },
            _ => {}
        }
        match core.arm() {
            Armed::Sleep { until } => Turn::Sleep { until },
            Armed::Ready => Turn::Busy,
        }
    }

    /// True when a turn would find something.
    pub(super) fn has_news(&self) -> bool {
        self.core.borrow_mut().has_news()
    }

    /// Drives the queue in a task of any executor, for ever: takes turns, lets other tasks run
    /// between them, and when there is nothing to do awaits `readable`, the executor's own way to
    /// wait until the queue's [`event`](Self::event) is readable, or until the time given. Who
    /// ignores that time is told late of commands that are never answered.
    ///
    /// The queue's futures end only while it is driven. Dropping the driver stops it and loses
    /// nothing; another can go on.
    ///
    /// # Errors
    /// Those of `readable`.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// let queue: AsyncQueue<DmaBuf> = controller.async_queue(QueueOptions::default())?;
    /// // With an executor, `readable` is its way to await a descriptor; here a thread has nothing else
    /// // to do meanwhile.
    /// let mut driver = std::pin::pin!(queue.drive(async |until| {
    ///     queue.event().wait(until);
    ///     Ok(())
    /// }));
    /// let mut request = std::pin::pin!(queue.run(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?));
    /// let page = futures::block_on(std::future::poll_fn(|cx| {
    ///     let ended = request.as_mut().poll(cx);
    ///     if ended.is_pending() {
    ///         let _ = driver.as_mut().poll(cx);
    ///     }
    ///     ended
    /// }))?;
    /// assert_eq!(page.len_bytes(), 4096);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn drive(
        &self,
        mut readable: impl AsyncFnMut(Option<Instant>) -> io::Result<()>,
    ) -> io::Result<Infallible> {
        loop {
            match self.turn() {
                Turn::Busy | Turn::Spin { .. } => Yield(false).await,
                Turn::Sleep { until } => readable(until).await?,
            }
        }
    }
}

/// Lets other tasks run once.
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
