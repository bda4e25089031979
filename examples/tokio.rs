//! Futures under tokio: a current-thread runtime and a `LocalSet`, one task that drives the queue
//! and sleeps through `AsyncFd`, and 32 tasks that use it. Every tenth request is cancelled.
mod workload;

use std::rc::Rc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::LocalSet;
use underpin::dma::rt::Instant;
use underpin::{AsyncQueue, DmaBuf};
use workload::{DEPTH, Failure, Workload};

/// Drives the queue: tokio watches its event, and its timer the commands' deadlines.
async fn drive(queue: AsyncQueue<DmaBuf>) -> Result<(), std::io::Error> {
    #[allow(
        deprecated,
        reason = "its successor is unsafe, for types that close their descriptor"
    )]
    let event = AsyncFd::with_interest(queue.event().clone(), Interest::READABLE)?;
    let readable = async |until: Option<Instant>| {
        let ready = async { event.readable().await.map(|mut guard| guard.clear_ready()) };
        match until {
            None => ready.await,
            // Too late is fine: then a turn is due.
            Some(until) => tokio::time::timeout(until - Instant::now(), ready)
                .await
                .unwrap_or(Ok(())),
        }
    };
    match queue.drive(readable).await? {}
}

fn main() -> Result<(), Failure> {
    let workload = Rc::new(Workload::new()?);
    let queue = workload.queue()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let tasks = LocalSet::new();
    tasks.spawn_local(drive(queue.clone()));
    let workers: Vec<_> = (0..u64::from(DEPTH))
        .map(|number| {
            let (workload, queue) = (Rc::clone(&workload), queue.clone());
            tasks.spawn_local(async move {
                let run = |io, page| queue.run(io, page);
                workload.worker(number, run).await
            })
        })
        .collect();
    runtime.block_on(tasks.run_until(async {
        for worker in workers {
            worker.await??;
        }
        Ok::<_, Failure>(())
    }))?;
    // The executor goes; what was cancelled may still be in flight.
    drop((tasks, runtime));
    workload.until_all_back(&queue);
    workload.report("tokio", queue.stats().sleeps)
}
