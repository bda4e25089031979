//! Futures without an executor: one thread has the queue and drives it, four others send it
//! requests through handles and wait for them. Every tenth request is cancelled.
mod workload;

use std::future::Future;
use std::sync::Arc;
use std::task::{Poll, Waker};
use underpin::dma::rt::{sync::Mutex, thread};
use underpin::nvme::futures::block_on;
use workload::{DEPTH, Failure, Workload, all};

const THREADS: u64 = 4;

/// Tells the queue's thread when all others have ended.
#[derive(Default)]
struct Left(Mutex<(u64, Option<Waker>)>);

impl Left {
    fn one_less(&self) {
        let mut left = self.0.lock();
        left.0 -= 1;
        if left.0 == 0
            && let Some(waker) = left.1.take()
        {
            waker.wake();
        }
    }

    fn none(&self) -> impl Future<Output = ()> {
        std::future::poll_fn(|cx| {
            let mut left = self.0.lock();
            if left.0 == 0 {
                return Poll::Ready(());
            }
            left.1 = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

fn main() -> Result<(), Failure> {
    let workload = Arc::new(Workload::new()?);
    let queue = workload.queue()?;
    let left = Arc::new(Left(Mutex::new((THREADS, None))));
    let share = u64::from(DEPTH) / THREADS;
    let threads = (0..THREADS).map(|number| {
        let (workload, handle) = (Arc::clone(&workload), queue.handle());
        let left = Arc::clone(&left);
        thread::spawn("host", move || {
            let workers = (number * share..(number + 1) * share)
                .map(|worker| workload.worker(worker, |io, page| handle.run(io, page)));
            let result = block_on(all(workers));
            left.one_less();
            result
        })
    });
    let threads: Vec<_> = threads.collect::<Result<_, _>>()?;
    // This thread is the queue's. It sleeps whenever there is nothing to do.
    queue.block_on(left.none());
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    workload.until_all_back(&queue);
    workload.report("threads", queue.stats().sleeps)
}
