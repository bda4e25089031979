//! Requests as futures: whoever drops, panics, calls back or goes away, each request ends once,
//! each buffer comes back, and no device writes to memory that was given away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use support::{Rig, is_stamped, stamp, within_limit};
use underpin::dma::rt::{self, Instant, Rng};
use underpin::nvme::futures::{Request, RequestError, Turn};
use underpin::nvme::{AsyncQueue, CommandError, Failure, Waiting};
use underpin::{
    Controller, ControllerOptions, DmaBuf, Error, Lba, Namespace, Pool, PoolOptions, QueueOptions,
};
#[cfg(not(underpin_sim))]
use underpin::{dma::rt::thread, nvme::futures::block_on};

type Queue = AsyncQueue<DmaBuf>;
type Ended = Result<DmaBuf, RequestError<DmaBuf>>;

/// A device, its pool of buffers, and a queue.
struct Bench {
    rig: Rig,
    controller: Controller,
    ns: Namespace,
    pool: Pool,
}

const BUFFERS: usize = 16;

impl Bench {
    fn new(config: &str) -> Self {
        Self::with(config, ControllerOptions::default())
    }

    fn with(config: &str, options: ControllerOptions) -> Self {
        let rig = Rig::new(config);
        let controller = rig.open(options).unwrap();
        let options = PoolOptions {
            buf_bytes: 4096,
            count: BUFFERS,
        };
        Self {
            ns: controller.namespace(None).unwrap(),
            pool: rig.space.pool("futures", options).unwrap(),
            controller,
            rig,
        }
    }

    fn queue(&self, depth: u16, waiting: Waiting) -> Queue {
        let options = QueueOptions { depth, waiting };
        self.controller.async_queue(options).unwrap()
    }

    fn read(&self, queue: &Queue, lba: u64) -> Request<DmaBuf> {
        queue.run(
            self.ns.read(Lba(lba), 8).unwrap(),
            self.pool.alloc().unwrap(),
        )
    }

    /// Writes what the tag says.
    fn write(&self, queue: &Queue, lba: u64, tag: u64) -> Request<DmaBuf> {
        let mut buffer = self.pool.alloc().unwrap();
        stamp(&mut buffer, tag);
        queue.run(self.ns.write(Lba(lba), 8).unwrap(), buffer)
    }

    /// Takes turns until all buffers are back.
    #[track_caller]
    fn until_all_back(&self, queue: &Queue) {
        within_limit("all buffers to come back", || {
            queue.turn();
            (self.pool.free_count() == BUFFERS).then_some(())
        });
        assert_eq!(queue.in_flight(), 0);
    }

    #[track_caller]
    fn end(self) {
        drop((self.ns, self.controller, self.pool));
        self.rig.end();
    }
}

/// Counts wake-ups, and does something at each.
struct Count<F: Fn() + Send + Sync>(AtomicU64, F);

impl<F: Fn() + Send + Sync> Wake for Count<F> {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        (self.1)();
    }
}

fn counting() -> (Arc<Count<impl Fn() + Send + Sync>>, Waker) {
    let count = Arc::new(Count(AtomicU64::new(0), || {}));
    (Arc::clone(&count), Waker::from(count))
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// Takes turns until the future has ended, with a waker that counts.
#[track_caller]
fn finish<F: Future + Unpin>(queue: &Queue, future: &mut F) -> F::Output {
    within_limit("a future to end", || {
        queue.turn();
        match poll(future, Waker::noop()) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    })
}

/// A request ends, its waker is woken once for it, and the data are right.
#[test]
fn a_request_wakes_its_task_once() {
    for waiting in [Waiting::Poll, Waiting::Interrupt, Waiting::ADAPTIVE] {
        let bench = Bench::new("size=1m");
        let queue = bench.queue(4, waiting);
        let (count, waker) = counting();
        let mut write = bench.write(&queue, 8, 5);
        assert_eq!(bench.pool.free_count(), BUFFERS - 1);
        assert!(poll(&mut write, &waker).is_pending());
        // Another waker takes the place of the first.
        let (second, other) = counting();
        assert!(poll(&mut write, &other).is_pending());
        within_limit("the wake-up", || {
            queue.turn();
            (second.0.load(Ordering::Relaxed) > 0).then_some(())
        });
        assert_eq!(
            count.0.load(Ordering::Relaxed),
            0,
            "a waker that was replaced"
        );
        let Poll::Ready(Ok(buffer)) = poll(&mut write, &other) else {
            panic!("woken, and not ready");
        };
        drop((buffer, write));
        let buffer = queue.block_on(bench.read(&queue, 8)).unwrap();
        assert!(is_stamped(&buffer, 5), "{waiting:?}");
        drop(buffer);
        assert_eq!(second.0.load(Ordering::Relaxed), 1);
        queue.block_on(queue.run_bare(bench.ns.flush())).unwrap();
        bench.until_all_back(&queue);
        drop(queue);
        bench.end();
    }
}

/// Dropped before it was sent, while it waits for room, in flight, and after its end: nothing is
/// lost, nothing ends twice, and the others go on.
#[test]
fn a_request_can_be_dropped_at_every_point() {
    let bench = Bench::new("size=1m,fault=hold@op=read+lba=96-103+count=all");
    let queue = bench.queue(2, Waiting::ADAPTIVE);
    let (_, waker) = counting();
    // Before.
    drop(bench.read(&queue, 0));
    assert_eq!(bench.pool.free_count(), BUFFERS);
    // In flight: the device has it, and keeps it.
    let mut held = [bench.read(&queue, 96), bench.read(&queue, 96)];
    for future in &mut held {
        assert!(poll(future, &waker).is_pending());
    }
    queue.turn();
    bench.rig.until_fired(2);
    drop(held);
    assert_eq!(
        bench.pool.free_count(),
        BUFFERS - 2,
        "the device writes them yet"
    );
    // Waiting for room.
    let mut first = bench.read(&queue, 0);
    let mut second = bench.write(&queue, 8, 1);
    let mut third = bench.write(&queue, 8, 2);
    for future in [&mut first, &mut second, &mut third] {
        assert!(poll(future, &waker).is_pending());
    }
    drop(second);
    assert_eq!(bench.pool.free_count(), BUFFERS - 4, "nobody has it but us");
    bench.rig.emulator.release_held();
    drop(finish(&queue, &mut third).unwrap());
    // Ended, and not looked at.
    within_limit("the first to end", || {
        queue.turn();
        (queue.in_flight() == 0).then_some(())
    });
    assert_eq!(bench.pool.free_count(), BUFFERS - 1);
    drop(first);
    assert_eq!(bench.pool.free_count(), BUFFERS);
    let buffer = queue.block_on(bench.read(&queue, 8)).unwrap();
    assert!(is_stamped(&buffer, 2));
    drop((buffer, queue));
    bench.end();
}

/// A place whose future was dropped is nobody else's while its command is in flight.
#[test]
fn an_abandoned_request_does_not_end_anothers() {
    let bench = Bench::new("size=1m,fault=hold@op=read+lba=96-103");
    let queue = bench.queue(4, Waiting::ADAPTIVE);
    let mut abandoned = bench.read(&queue, 96);
    assert!(poll(&mut abandoned, Waker::noop()).is_pending());
    queue.turn();
    bench.rig.until_fired(1);
    drop(abandoned);
    let mut write = bench.write(&queue, 8, 3);
    drop(finish(&queue, &mut write).unwrap());
    let mut read = bench.read(&queue, 8);
    assert!(poll(&mut read, Waker::noop()).is_pending());
    // The abandoned one ends first: the other's doorbell is not rung before the next turn.
    let before = bench.rig.emulator.stats().completions;
    bench.rig.emulator.release_held();
    bench
        .rig
        .until("the held one to end", |stats| stats.completions > before);
    let buffer = finish(&queue, &mut read).unwrap();
    assert!(is_stamped(&buffer, 3), "it got another request's buffer");
    drop(buffer);
    bench.until_all_back(&queue);
    drop(queue);
    bench.end();
}

/// Those who wait for room get it in the order in which they came.
#[test]
fn room_is_given_in_order() {
    let bench = Bench::new("size=1m");
    let queue = bench.queue(1, Waiting::ADAPTIVE);
    let mut order = Vec::new();
    let mut futures: Vec<_> = (0..8)
        .map(|index| Some((index, bench.read(&queue, index))))
        .collect();
    for (_, future) in futures.iter_mut().flatten() {
        assert!(poll(future, Waker::noop()).is_pending());
    }
    within_limit("all to end", || {
        queue.turn();
        // Polled from behind: what counts is who got the queue first.
        let before = order.len();
        for place in futures.iter_mut().rev() {
            if let Some((index, future)) = place
                && let Poll::Ready(ended) = poll(future, Waker::noop())
            {
                drop(ended.unwrap());
                order.push(*index);
                *place = None;
            }
        }
        assert!(order.len() <= before + 1, "two at once at depth 1");
        (order.len() == 8).then_some(())
    });
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
    drop(futures);
    bench.until_all_back(&queue);
    drop(queue);
    bench.end();
}

/// The executor goes, with all tasks and the queue, in mid-I/O. What is in flight is freed when
/// the device has provably let go.
#[test]
fn an_executor_may_go_at_any_time() {
    let bench = Bench::new("size=1m,queues=1");
    for in_flight in 0..8 {
        let queue = bench.queue(8, Waiting::ADAPTIVE);
        let mut futures: Vec<_> = (0..in_flight).map(|lba| bench.read(&queue, lba)).collect();
        for future in &mut futures {
            assert!(poll(future, Waker::noop()).is_pending());
        }
        if in_flight % 2 == 0 {
            queue.turn();
        }
        if in_flight % 3 == 0 {
            // Harmless, if not tidy: the queue then lives until the controller's end.
            futures.drain(..).skip(3).for_each(drop);
        }
        drop(queue);
        drop(futures);
        assert_eq!(bench.pool.free_count(), BUFFERS, "{in_flight} in flight");
    }
    bench.end();
}

/// A waker that panics: the caller of the turn gets the panic, the others their wake-up.
#[test]
fn a_waker_that_panics_takes_nobody_with_it() {
    let bench = Bench::new("size=1m");
    let queue = bench.queue(8, Waiting::ADAPTIVE);
    let bomb = Arc::new(Count(AtomicU64::new(0), || panic!("a waker's own")));
    let (count, good) = counting();
    let mut futures: Vec<_> = (0..6).map(|lba| bench.read(&queue, lba)).collect();
    for (index, future) in futures.iter_mut().enumerate() {
        let waker = if index % 2 == 0 {
            Waker::from(Arc::clone(&bomb))
        } else {
            good.clone()
        };
        assert!(poll(future, &waker).is_pending());
    }
    let mut panics = 0;
    within_limit("all to be woken", || {
        panics += u64::from(catch_unwind(AssertUnwindSafe(|| queue.turn())).is_err());
        (count.0.load(Ordering::Relaxed) == 3 && panics == 3).then_some(())
    });
    for future in &mut futures {
        assert!(matches!(poll(future, &good), Poll::Ready(Ok(_))));
    }
    drop(futures);
    bench.until_all_back(&queue);
    drop(queue);
    bench.end();
}

thread_local! {
    /// What foreign code calls back into.
    static BACK: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

fn call_back() {
    // Each calls back once, not for ever.
    if DEPTH.get() < 3 {
        DEPTH.set(DEPTH.get() + 1);
        BACK.with_borrow(|back| back.as_ref().map(|back| back()));
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// What a request carries beside its buffer, and what its owner does when it is dropped.
struct Callback;
impl Drop for Callback {
    fn drop(&mut self) {
        call_back();
    }
}

/// Wakers and contexts that call back into the queue, begin requests and drop them there.
#[test]
fn foreign_code_may_call_back() {
    let bench = Bench::new("size=1m");
    let options = QueueOptions {
        depth: 4,
        waiting: Waiting::ADAPTIVE,
    };
    let queue: AsyncQueue<(DmaBuf, Callback)> = bench.controller.async_queue(options).unwrap();
    let calls = std::rc::Rc::new(Cell::new(0));
    let back = {
        let (queue, ns, pool) = (queue.clone(), bench.ns.clone(), bench.pool.clone());
        let calls = std::rc::Rc::clone(&calls);
        move || {
            calls.set(calls.get() + 1);
            queue.turn();
            if let Some(buffer) = pool.try_alloc() {
                let mut read = queue.run(ns.read(Lba(0), 8).unwrap(), (buffer, Callback));
                let _ = poll(&mut read, Waker::noop());
            }
            queue.turn();
        }
    };
    BACK.set(Some(Box::new(back)));
    let waker = Waker::from(Arc::new(Count(AtomicU64::new(0), call_back)));
    let mut rng = Rng::seeded(11);
    let mut futures = Vec::new();
    for _ in 0..300 {
        if let Some(buffer) = bench.pool.try_alloc() {
            let read = bench.ns.read(Lba(rng.below(90)), 8).unwrap();
            let mut future = queue.run(read, (buffer, Callback));
            if poll(&mut future, &waker).is_pending() {
                futures.push(future);
            }
        }
        queue.turn();
        if !futures.is_empty() && rng.chance(1, 2) {
            let at = rng.below(futures.len() as u64) as usize;
            drop(futures.swap_remove(at));
        }
        futures.retain_mut(|future| poll(future, &waker).is_pending());
    }
    assert!(calls.get() > 100, "{} calls back", calls.get());
    drop(futures);
    BACK.take();
    within_limit("all buffers to come back", || {
        queue.turn();
        (bench.pool.free_count() == BUFFERS).then_some(())
    });
    drop(queue);
    bench.end();
}

/// Who gives up its place at the head of the line lets those behind it go on at once, and not when
/// the device happens to end something.
#[test]
fn giving_up_the_head_of_the_line_wakes_the_queue() {
    let options = ControllerOptions {
        max_transfer_bytes: 4096,
        ..ControllerOptions::default()
    };
    let bench = Bench::with("size=1m,fault=hold@op=read+lba=96-103", options);
    let queue = bench.queue(2, Waiting::ADAPTIVE);
    let mut held = bench.read(&queue, 96);
    assert!(poll(&mut held, Waker::noop()).is_pending());
    // Two commands, and there is room for one.
    let long = bench.rig.space.alloc(8192, 4096).unwrap();
    let mut long = queue.run(bench.ns.read(Lba(0), 16).unwrap(), long);
    let mut short = bench.read(&queue, 8);
    assert!(poll(&mut long, Waker::noop()).is_pending());
    assert!(poll(&mut short, Waker::noop()).is_pending());
    within_limit("the queue to sleep", || {
        matches!(queue.turn(), Turn::Sleep { .. }).then_some(())
    });
    drop(long);
    assert!(
        queue.event().is_set(),
        "nobody looks before the device does"
    );
    drop(finish(&queue, &mut short).unwrap());
    bench.rig.emulator.release_held();
    drop(finish(&queue, &mut held).unwrap());
    drop((held, short, queue));
    bench.end();
}

/// The same for requests of other threads: their futures go without the queue's thread.
#[test]
fn giving_up_from_elsewhere_wakes_the_queue() {
    let options = ControllerOptions {
        max_transfer_bytes: 4096,
        ..ControllerOptions::default()
    };
    let bench = Bench::with("size=1m,fault=hold@op=read+lba=96-103", options);
    let queue = bench.queue(2, Waiting::ADAPTIVE);
    let mut held = bench.read(&queue, 96);
    assert!(poll(&mut held, Waker::noop()).is_pending());
    let handle = queue.handle();
    let long = bench.rig.space.alloc(8192, 4096).unwrap();
    let mut long = handle.run(bench.ns.read(Lba(0), 16).unwrap(), long);
    let short = bench.pool.alloc().unwrap();
    let mut short = handle.run(bench.ns.read(Lba(8), 8).unwrap(), short);
    assert!(poll(&mut long, Waker::noop()).is_pending());
    assert!(poll(&mut short, Waker::noop()).is_pending());
    within_limit("the queue to sleep", || {
        matches!(queue.turn(), Turn::Sleep { .. }).then_some(())
    });
    drop(long);
    assert!(
        queue.event().is_set(),
        "nobody looks before the device does"
    );
    drop(finish(&queue, &mut short).unwrap());
    assert_eq!(queue.stats().reads, 2, "what was given up was never sent");
    bench.rig.emulator.release_held();
    drop(finish(&queue, &mut held).unwrap());
    drop((held, short, queue));
    bench.end();
}

/// Interrupts are counted by whom they reach, and a queue's signals to itself are none.
#[test]
fn interrupts_are_counted_where_they_arrive() {
    let bench = Bench::new("size=1m");
    let queue = bench.queue(4, Waiting::Interrupt);
    let before = bench.rig.emulator.stats().interrupts;
    for lba in 0..50 {
        // Asleep when the request comes, so that it rings.
        within_limit("the queue to sleep", || {
            matches!(queue.turn(), Turn::Sleep { .. }).then_some(())
        });
        drop(queue.block_on(bench.read(&queue, lba)).unwrap());
    }
    // The last one may be signalled after its completion was seen.
    let received = within_limit("as many interrupts as were sent", || {
        queue.turn();
        let received = queue.stats().interrupts;
        (bench.rig.emulator.stats().interrupts - before == received).then_some(received)
    });
    assert!((1..=50).contains(&received), "{received}");
    drop(queue);
    bench.end();
}

/// The controller fails: every future is told, without its buffer, and later ones are refused
/// with theirs.
#[test]
fn a_failure_reaches_every_future() {
    let options = ControllerOptions {
        command_timeout: Duration::from_millis(50),
        ..ControllerOptions::default()
    };
    let bench = Bench::with("size=1m,fault=drop@op=read+count=all", options);
    let queue = bench.queue(2, Waiting::ADAPTIVE);
    let reads: Vec<_> = (0..4).map(|lba| bench.read(&queue, lba)).collect();
    let ends = queue.block_on(async {
        let mut reads: Vec<_> = reads.into_iter().map(Box::pin).collect();
        let mut ends = Vec::new();
        std::future::poll_fn(|cx| {
            reads.retain_mut(|read| match read.as_mut().poll(cx) {
                Poll::Ready(end) => {
                    ends.push(end);
                    false
                }
                Poll::Pending => true,
            });
            if reads.is_empty() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        ends
    });
    let told = |end: &Ended| match end {
        Err(RequestError {
            error: Error::Command(CommandError::Lost(failure)),
            buffer: None,
        }) => {
            assert!(matches!(failure, Failure::Timeout { .. }), "{failure}");
            'l'
        }
        Err(RequestError {
            error: Error::Failed(_),
            buffer: Some(_),
        }) => 'r',
        other => panic!("{other:?}"),
    };
    let mut told: Vec<_> = ends.iter().map(told).collect();
    told.sort_unstable();
    assert_eq!(
        told,
        ['l', 'l', 'r', 'r'],
        "two were in flight, two waited for room"
    );
    drop(ends);
    let refused = queue.block_on(bench.read(&queue, 0)).unwrap_err();
    assert!(matches!(refused.error, Error::Failed(_)) && refused.buffer.is_some());
    drop((refused, queue));
    let pool = bench.pool.clone();
    bench.end();
    assert_eq!(pool.free_count(), BUFFERS, "given back with proof");
}

/// The driver of a queue that failed sleeps, though completions lie in its ring that nobody will
/// take.
#[test]
fn a_failed_queue_lets_its_driver_sleep() {
    for waiting in [Waiting::Poll, Waiting::ADAPTIVE] {
        let bench = Bench::new("size=1m,fault=corrupt-sqid@op=read+count=all");
        let queue = bench.queue(4, waiting);
        let mut reads: Vec<_> = (0..3).map(|lba| bench.read(&queue, lba)).collect();
        for read in &mut reads {
            assert!(poll(read, Waker::noop()).is_pending());
        }
        for read in &mut reads {
            assert!(finish(&queue, read).is_err());
        }
        within_limit("the driver to sleep", || {
            matches!(queue.turn(), Turn::Sleep { until: None }).then_some(())
        });
        drop((reads, queue));
        bench.end();
    }
}

/// Threads send requests, more than the way holds, and give up one of ten; the data are right,
/// each buffer comes back, and the queue's thread sleeps and wakes all the while.
#[cfg(not(underpin_sim))]
#[test]
fn other_threads_send_requests() {
    const HOSTS: u64 = 3;
    const ROUNDS: u64 = 2000;
    let bench = Bench::new("size=1m");
    let queue = bench.queue(
        2,
        Waiting::Adaptive {
            spin: Duration::from_micros(5),
        },
    );
    let left = Arc::new(AtomicU64::new(HOSTS));
    let gave_up = Arc::new(AtomicU64::new(0));
    let hosts: Vec<_> = (0..HOSTS)
        .map(|host| {
            let (handle, ns, pool) = (queue.handle(), bench.ns.clone(), bench.pool.clone());
            let (left, gave_up) = (Arc::clone(&left), Arc::clone(&gave_up));
            let body = move || {
                let mut rng = Rng::seeded(host);
                for round in 0..ROUNDS {
                    // Two at a time, so that the way, of two, is full.
                    let place = |at: u64| Lba(8 * (2 * host + at));
                    let writes = [0, 1].map(|at| {
                        let mut buffer = pool.alloc().unwrap();
                        stamp(&mut buffer, round + at);
                        handle.run(ns.write(place(at), 8).unwrap(), buffer)
                    });
                    let [mut one, mut two] = writes;
                    let first = poll(&mut one, Waker::noop());
                    drop(block_on(&mut two).unwrap());
                    drop(match first {
                        Poll::Ready(end) => end.unwrap(),
                        Poll::Pending => block_on(&mut one).unwrap(),
                    });
                    let mut read = handle.run(ns.read(place(1), 8).unwrap(), pool.alloc().unwrap());
                    if rng.chance(1, 10) {
                        let _ = poll(&mut read, Waker::noop());
                        gave_up.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let buffer = block_on(read).unwrap();
                    assert!(is_stamped(&buffer, round + 1), "host {host}, round {round}");
                    if rng.chance(1, 50) {
                        // The queue's thread falls asleep.
                        thread::sleep(Duration::from_micros(rng.below(300)));
                    }
                }
                block_on(handle.run_bare(ns.flush())).unwrap();
                left.fetch_sub(1, Ordering::SeqCst);
                // Its own end wakes the queue's thread, too.
                drop(block_on(
                    handle.run(ns.read(Lba(0), 8).unwrap(), pool.alloc().unwrap()),
                ));
            };
            thread::spawn("host", body).unwrap()
        })
        .collect();
    let limit = Instant::now() + support::hang() + Duration::from_secs(40);
    while left.load(Ordering::SeqCst) > 0 {
        assert!(
            Instant::now() < limit,
            "HANG: {} hosts left",
            left.load(Ordering::SeqCst)
        );
        if let Turn::Sleep { until } = queue.turn() {
            let patience = Instant::now() + Duration::from_secs(10);
            let until = until.into_iter().fold(patience, Instant::min);
            let told = queue.event().wait(Some(until));
            assert!(told || Instant::now() < patience, "slept through a request");
        }
    }
    // Gone while the last requests of the hosts are on their way: each is answered.
    drop(queue);
    hosts.into_iter().for_each(|host| host.join().unwrap());
    assert!(gave_up.load(Ordering::Relaxed) > 0);
    assert_eq!(bench.pool.free_count(), BUFFERS);
    bench.end();
}

/// The queue's thread is gone: who asked is told, and has the buffer again unless the device may
/// still write it. Who comes later is told at once.
#[test]
fn a_queue_that_is_gone_answers() {
    let bench = Bench::new("size=1m,fault=hold@op=read+lba=96-103");
    let queue = bench.queue(1, Waiting::ADAPTIVE);
    let handle = queue.handle();
    let ask = |lba| {
        handle.run(
            bench.ns.read(Lba(lba), 8).unwrap(),
            bench.pool.alloc().unwrap(),
        )
    };
    // In flight, waiting for room, on the way, in line for the way, dropped, forgotten.
    let (count, waker) = counting();
    let mut asked = vec![ask(96)];
    assert!(poll(&mut asked[0], &waker).is_pending());
    queue.turn();
    queue.turn();
    bench.rig.until_fired(1);
    for lba in 0..3 {
        let mut one = ask(lba);
        assert!(poll(&mut one, &waker).is_pending());
        asked.push(one);
        if lba == 0 {
            queue.turn();
        }
    }
    let mut dropped = ask(0);
    assert!(poll(&mut dropped, &waker).is_pending());
    drop(dropped);
    let mut later = ask(0);
    drop(queue);
    assert!(count.0.load(Ordering::Relaxed) >= 4, "not all were woken");
    for (index, one) in asked.iter_mut().enumerate() {
        let Poll::Ready(Err(RequestError { error, buffer })) = poll(one, &waker) else {
            panic!("request {index} has no answer");
        };
        assert!(matches!(error, Error::QueueClosed), "{error}");
        assert_eq!(buffer.is_some(), index > 0, "request {index}");
    }
    let Poll::Ready(Err(RequestError {
        buffer: Some(buffer),
        ..
    })) = poll(&mut later, &waker)
    else {
        panic!("the later one has no answer");
    };
    std::mem::forget(handle);
    drop((buffer, asked, later));
    assert_eq!(bench.pool.free_count(), BUFFERS);
    bench.end();
}

/// A queue that is driven by one task of `block_on` sleeps; another thread's request wakes it.
#[cfg(not(underpin_sim))]
#[test]
fn a_sleeping_queue_is_woken_by_a_request() {
    let bench = Bench::new("size=1m");
    let queue = bench.queue(4, Waiting::Interrupt);
    let (handle, ns, pool) = (queue.handle(), bench.ns.clone(), bench.pool.clone());
    let done = Arc::new(AtomicU64::new(0));
    let (told, is_told) = (Arc::clone(&done), Arc::clone(&done));
    let body = move || {
        let mut rng = Rng::seeded(5);
        for _ in 0..5000 {
            let pause = Duration::from_nanos(rng.below(30_000));
            let _ = rt::wait(Some(Instant::now() + pause), |_now| None::<()>);
            let read = handle.run(ns.read(Lba(0), 8).unwrap(), pool.alloc().unwrap());
            drop(block_on(read).unwrap());
        }
        told.store(1, Ordering::SeqCst);
        drop(block_on(handle.run_bare(ns.flush())));
    };
    let host = thread::spawn("host", body).unwrap();
    let limit = Instant::now() + support::hang() + Duration::from_secs(40);
    let mut sleeps = 0_u64;
    while is_told.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < limit, "HANG");
        if let Turn::Sleep { until } = queue.turn() {
            sleeps += 1;
            let patience = Instant::now() + Duration::from_secs(10);
            let until = until.into_iter().fold(patience, Instant::min);
            let owes = queue.in_flight() > 0;
            let told = queue.event().wait(Some(until));
            assert!(told || !owes, "slept through a completion");
            assert!(told || Instant::now() < patience, "slept through a request");
        }
    }
    drop(queue);
    host.join().unwrap();
    println!("{sleeps} sleeps");
    assert!(sleeps > 1000, "{sleeps}");
    assert_eq!(bench.pool.free_count(), BUFFERS);
    bench.end();
}

/// Random requests, random drops, random turns: what is read is what was written.
/// Returns how many wake-ups there were.
fn storm(seed: u64, rounds: u64) -> u64 {
    let bench = Bench::new("size=1m");
    let queue = bench.queue(
        4,
        Waiting::Adaptive {
            spin: Duration::from_micros(3),
        },
    );
    let mut rng = Rng::seeded(seed);
    let (count, waker) = counting();
    let mut futures: Vec<(u64, Option<u64>, Request<DmaBuf>)> = Vec::new();
    let mut known = [0_u64; 12];
    for cell in 0..known.len() as u64 {
        drop(queue.block_on(bench.write(&queue, 8 * cell, 0)).unwrap());
    }
    for round in 1..=rounds {
        let cell = rng.below(known.len() as u64);
        let busy = futures.iter().any(|(of, _, _)| *of == cell);
        // One at a time for each cell, dropped ones included.
        if !busy && bench.pool.free_count() > 0 && known[cell as usize] != u64::MAX {
            let (tag, mut future) = match rng.chance(1, 2) {
                true => (None, bench.read(&queue, 8 * cell)),
                false => (Some(round), bench.write(&queue, 8 * cell, round)),
            };
            let ended = rng.chance(3, 4) && poll(&mut future, &waker).is_ready();
            assert!(!ended, "at once?");
            futures.push((cell, tag, future));
        }
        if rng.chance(1, 3) {
            queue.turn();
        }
        if rng.chance(1, 4) {
            // The device gets on.
            let pause = Duration::from_nanos(rng.below(10_000));
            let _ = rt::wait(Some(Instant::now() + pause), |_now| None::<()>);
        }
        if !futures.is_empty() && rng.chance(1, 10) {
            let (cell, tag, future) = futures.swap_remove(rng.below(futures.len() as u64) as usize);
            drop(future);
            if tag.is_some() {
                // Whether it was written is not known.
                known[cell as usize] = u64::MAX;
            }
        }
        futures.retain_mut(|(cell, tag, future)| match poll(future, &waker) {
            Poll::Pending => true,
            Poll::Ready(end) => {
                let buffer = end.unwrap();
                match tag {
                    Some(tag) => known[*cell as usize] = *tag,
                    None => assert!(is_stamped(&buffer, known[*cell as usize]), "seed {seed}"),
                }
                false
            }
        });
        if futures.is_empty() && rng.chance(1, 4) {
            // All is quiet: unknown cells become known again.
            bench.until_all_back(&queue);
            for (cell, known) in (0..).zip(&mut known) {
                if *known == u64::MAX {
                    drop(
                        queue
                            .block_on(bench.write(&queue, 8 * cell, round))
                            .unwrap(),
                    );
                    *known = round;
                }
            }
        }
    }
    drop(futures);
    bench.until_all_back(&queue);
    drop(queue);
    bench.end();
    count.0.load(Ordering::Relaxed)
}

#[test]
fn random_cancellation() {
    let (seeds, rounds) = if rt::sim::is_simulated() {
        (200, 300)
    } else {
        (4, 20_000)
    };
    let storms = (0..seeds).map(|seed| rt::sim::run(seed, || storm(seed, rounds)));
    let woken: u64 = storms.sum();
    println!("{seeds} seeds of {rounds} rounds: {woken} wake-ups");
    assert!(woken > 10 * seeds, "{woken}: nothing was under way");
}

/// A future of the queue's own thread can wait for anything else, too.
#[cfg(not(underpin_sim))]
#[test]
fn block_on_hears_of_other_wakers() {
    let bench = Bench::new("size=1m");
    let queue = bench.queue(4, Waiting::Interrupt);
    let flag = Arc::new(AtomicU64::new(0));
    let (sender, wakers) = std::sync::mpsc::channel::<Waker>();
    let raised = Arc::clone(&flag);
    let other = thread::spawn("other", move || {
        for waker in wakers {
            raised.fetch_add(1, Ordering::SeqCst);
            waker.wake();
        }
    })
    .unwrap();
    for round in 1..=1000 {
        let mut sent = false;
        let mut heard = std::pin::pin!(std::future::poll_fn(|cx| {
            if !std::mem::replace(&mut sent, true) {
                sender.send(cx.waker().clone()).unwrap();
            }
            match flag.load(Ordering::SeqCst) == round {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        }));
        queue.block_on(heard.as_mut());
    }
    drop(sender);
    other.join().unwrap();
    drop(queue);
    // The referee wants to have seen something.
    bench.queue(4, Waiting::Poll).block_on(async {});
    bench.end();
}
