//! What the examples of futures do, whatever runs them: 32 workers, each with one request at a
//! time, of which it gives up every tenth; what it reads must be what it wrote.
#![allow(dead_code, reason = "each example uses a part of it")]
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use underpin::nvme::futures::RequestError;
use underpin::{
    AsyncQueue, Controller, ControllerOptions, DmaBuf, DmaSpace, Io, Lba, Namespace, Pool,
    PoolOptions, QueueOptions, Waiting,
};

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Requests in flight at once.
pub(crate) const DEPTH: u16 = 32;
/// Requests of one worker.
const REQUESTS: u64 = 1000;
const PAGE_BYTES: usize = 4096;
/// Those of requests given up come back later; until then they are missing.
const BUFFERS: usize = 8 * DEPTH as usize;

/// A device, buffers for it, and what was counted.
pub(crate) struct Workload {
    pub(crate) controller: Controller,
    pub(crate) namespace: Namespace,
    pub(crate) pool: Pool,
    pages: AtomicU64,
    gave_up: AtomicU64,
}

impl Workload {
    pub(crate) fn new() -> Result<Self, Failure> {
        let space = DmaSpace::new();
        let controller = Controller::open("emu:size=64m", &space, ControllerOptions::default())?;
        let options = PoolOptions {
            buf_bytes: PAGE_BYTES,
            count: BUFFERS,
        };
        Ok(Self {
            namespace: controller.namespace(None)?,
            pool: space.pool("pages", options)?,
            controller,
            pages: AtomicU64::new(0),
            gave_up: AtomicU64::new(0),
        })
    }

    /// A queue of 32 that sleeps when it has nothing to do.
    pub(crate) fn queue(&self) -> Result<AsyncQueue<DmaBuf>, Failure> {
        let options = QueueOptions {
            depth: DEPTH,
            waiting: Waiting::ADAPTIVE,
        };
        Ok(self.controller.async_queue(options)?)
    }

    fn io(&self, page: u64, writing: bool) -> Result<Io, Failure> {
        let blocks = PAGE_BYTES as u64 / u64::from(self.namespace.lba_bytes());
        let lba = Lba(page * blocks);
        Ok(if writing {
            self.namespace.write(lba, blocks)?
        } else {
            self.namespace.read(lba, blocks)?
        })
    }

    /// Writes and reads pages of its own, one request at a time. `run` makes a future of a
    /// request.
    pub(crate) async fn worker<F>(
        &self,
        number: u64,
        run: impl Fn(Io, DmaBuf) -> F,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<DmaBuf, RequestError<DmaBuf>>> + Unpin,
    {
        // A page that is checked, and one for the requests that are given up: whether such a
        // write was done is not known.
        let (checked, scratch) = (2 * number, 2 * number + 1);
        for request in 0..REQUESTS {
            let stamp = (number << 32) | (request / 2);
            let writing = request % 2 == 0;
            let mut page = self.pool.alloc()?;
            if request % 10 == 9 {
                let future = run(self.io(scratch, request % 20 == 19)?, page);
                give_up(future).await;
                self.gave_up.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if writing {
                let bytes = stamp.to_le_bytes().repeat(PAGE_BYTES / 8);
                page.copy_from(0, &bytes)?;
            }
            let page = run(self.io(checked, writing)?, page).await?;
            if !writing {
                let mut bytes = vec![0; PAGE_BYTES];
                page.copy_to(0, &mut bytes)?;
                if bytes != stamp.to_le_bytes().repeat(PAGE_BYTES / 8) {
                    return Err(format!("worker {number}, request {request}: wrong data").into());
                }
            }
            self.pages.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Drives the queue until the buffers of all requests that were given up are back, too: also
    /// of those that other threads have sent and that it has not looked at yet.
    pub(crate) fn until_all_back(&self, queue: &AsyncQueue<DmaBuf>) {
        Self::drive_until(queue, || self.pool.free_count() == BUFFERS);
    }

    /// Drives the queue until nothing is in flight on it.
    pub(crate) fn until_idle(&self, queue: &AsyncQueue<DmaBuf>) {
        Self::drive_until(queue, || queue.in_flight() == 0);
    }

    fn drive_until(queue: &AsyncQueue<DmaBuf>, done: impl Fn() -> bool) {
        queue.block_on(std::future::poll_fn(|cx| {
            if done() {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
    }

    /// Says what was done. Every buffer must be back.
    pub(crate) fn report(&self, name: &str, sleeps: u64) -> Result<(), Failure> {
        let (pages, gave_up) = (
            self.pages.load(Ordering::Relaxed),
            self.gave_up.load(Ordering::Relaxed),
        );
        let free = self.pool.free_count();
        println!(
            "{name}: {pages} pages written or checked at QD {DEPTH}, {gave_up} requests given up, {free} of {BUFFERS} buffers back, {sleeps} sleeps"
        );
        if free != BUFFERS || gave_up == 0 || gave_up * 9 != pages {
            return Err("buffers or requests are missing".into());
        }
        Ok(())
    }
}

/// Polls a future once, so that its request is on its way, and drops it.
async fn give_up(mut future: impl Future + Unpin) {
    std::future::poll_fn(|cx| {
        let _ = Pin::new(&mut future).poll(cx);
        Poll::Ready(())
    })
    .await;
    drop(future);
    // Lets others run: the request may even end meanwhile.
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs futures side by side until all have ended, and gives the first error.
pub(crate) async fn all<F>(futures: impl Iterator<Item = F>) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut result = Ok(());
    std::future::poll_fn(|cx| {
        futures.retain_mut(|future| match future.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(end) => {
                if result.is_ok() {
                    result = end;
                }
                false
            }
        });
        if futures.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    result
}
