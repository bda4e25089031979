//! Futures on a thread-per-core runtime: monoio on io_uring, one thread and one queue for each of
//! two cores, nothing shared between them but the device. Every tenth request is cancelled.
mod workload;

use monoio::net::UnixStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use underpin::dma::rt::{Instant, thread};
use underpin::{AsyncQueue, DmaBuf};
use workload::{DEPTH, Failure, Workload};

const CORES: u64 = 2;

/// Drives the queue: the ring polls its event, and its timer the commands' deadlines.
async fn drive(queue: AsyncQueue<DmaBuf>) -> Result<(), std::io::Error> {
    // Any descriptor can be polled for, but monoio offers that for sockets only; nothing of a
    // socket is asked of it.
    let event = queue.event().as_fd().try_clone_to_owned()?;
    let event = UnixStream::from_std(event.into())?;
    let readable = async |until: Option<Instant>| match until {
        None => event.readable(false).await,
        // Too late is fine: then a turn is due.
        Some(until) => monoio::time::timeout(until - Instant::now(), event.readable(false))
            .await
            .unwrap_or(Ok(())),
    };
    match queue.drive(readable).await? {}
}

/// One core's share.
fn core(workload: &Arc<Workload>, core: u64) -> Result<u64, Failure> {
    let queue = workload.queue()?;
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .enable_timer()
        .build()?;
    let share = u64::from(DEPTH) / CORES;
    runtime.block_on(async {
        // A task that is not awaited goes with its runtime.
        monoio::spawn(drive(queue.clone()));
        let workers: Vec<_> = (core * share..(core + 1) * share)
            .map(|number| {
                let (workload, queue) = (Arc::clone(workload), queue.clone());
                monoio::spawn(async move {
                    let run = |io, page| queue.run(io, page);
                    workload.worker(number, run).await
                })
            })
            .collect();
        for worker in workers {
            worker.await?;
        }
        Ok::<_, Failure>(())
    })?;
    drop(runtime);
    workload.until_idle(&queue);
    Ok(queue.stats().sleeps)
}

fn main() -> Result<(), Failure> {
    let workload = Arc::new(Workload::new()?);
    let cores = (0..CORES).map(|number| {
        let workload = Arc::clone(&workload);
        thread::spawn("core", move || core(&workload, number))
    });
    let cores: Vec<_> = cores.collect::<Result<_, _>>()?;
    let mut sleeps = 0;
    for core in cores {
        sleeps += core.join().map_err(|_| "a core panicked")??;
    }
    workload.report("thread_per_core", sleeps)
}
