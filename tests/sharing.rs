//! Several controllers in one space: one IOVA for all of them, late joiners, and the end of one
//! that does not concern the others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::{Rig, bytes, finish, is_stamped, stamp, within_limit};
use underpin::dma::rt::thread;
use underpin::dma::{Error as DmaError, SpaceStats};
use underpin::emulator::{EmulatorConfig, Fault, FaultKind, FaultOp, Trigger};
use underpin::nvme::CommandError;
use underpin::{
    Controller, ControllerOptions, DmaBuf, Error, Lba, PoolOptions, QueueOptions, QueuePair,
};

const POOL: PoolOptions = PoolOptions {
    buf_bytes: 4096,
    count: 32,
};

/// A's load: writes and reads of its own blocks, all verified, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Load {
    /// Keeps eight requests in flight on a queue of its own, on blocks from 1024 up.
    fn on(controller: &Controller) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&rounds));
        let controller = controller.clone();
        let body = move || {
            let ns = controller.namespace(None).unwrap();
            let pool = controller.space().pool("load", POOL).unwrap();
            let mut queue: QueuePair<DmaBuf> = controller
                .queue_pair(QueueOptions {
                    depth: 8,
                    ..QueueOptions::default()
                })
                .unwrap();
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) {
                let lba = |slot: u64| Lba(1024 + 8 * slot);
                for slot in 0..8 {
                    let mut buffer = pool.alloc().unwrap();
                    stamp(&mut buffer, round ^ (slot << 40));
                    queue
                        .submit(ns.write(lba(slot), 8).unwrap(), buffer)
                        .unwrap();
                }
                drain(&mut queue, 8);
                let reads: Vec<_> = (0..8)
                    .map(|slot| {
                        let io = ns.read(lba(slot), 8).unwrap();
                        queue.submit(io, pool.alloc().unwrap()).unwrap()
                    })
                    .collect();
                for (token, buffer) in drain(&mut queue, 8) {
                    let slot = reads.iter().position(|&read| read == token).unwrap() as u64;
                    assert!(is_stamped(&buffer, round ^ (slot << 40)), "round {round}");
                }
                round += 1;
                count.store(round, Ordering::Relaxed);
            }
        };
        Self {
            stop,
            rounds,
            thread: thread::spawn("load", body).unwrap(),
        }
    }

    /// Waits until the load has gone some way on: it still runs.
    #[track_caller]
    fn goes_on(&self) {
        let now = self.rounds.load(Ordering::Relaxed);
        within_limit("the load on A to go on", || {
            let done = self.rounds.load(Ordering::Relaxed) >= now + 3;
            (done || self.thread.is_finished()).then_some(())
        });
        assert!(!self.thread.is_finished(), "the load on A has ended");
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.rounds.load(Ordering::Relaxed)
    }
}

fn drain(queue: &mut QueuePair<DmaBuf>, count: usize) -> Vec<(underpin::Token, DmaBuf)> {
    let mut ended = Vec::new();
    within_limit("the load's completions", || {
        queue.poll(count, |completion| {
            completion.result.unwrap();
            ended.push((completion.token, completion.buffer.unwrap()));
        });
        (ended.len() == count).then_some(())
    });
    ended
}

/// Runs one request to its end.
#[track_caller]
fn run(queue: &mut QueuePair<DmaBuf>, io: underpin::Io, buffer: DmaBuf) -> DmaBuf {
    let token = queue.submit(io, buffer).unwrap();
    let ended = finish(queue, token);
    ended.result.unwrap();
    ended.buffer.unwrap()
}

/// What A read is written to B from the same memory at the same IOVA, though B joined when
/// regions and buffers were there already; and B's end disturbs nothing on A, which is busy from
/// before B comes until after it is gone.
#[test]
fn a_buffer_read_from_a_is_written_to_b_which_joined_late_and_leaves() {
    let a = Rig::new("size=64m,queues=4");
    let space = a.space.clone();
    let controller_a = a.controller();
    let pool = space.pool("shared", POOL).unwrap();
    let mut queue_a = controller_a.queue_pair(QueueOptions::default()).unwrap();
    let ns_a = controller_a.namespace(None).unwrap();
    let load = Load::on(&controller_a);
    load.goes_on();

    // The data is on A's medium, and in no buffer any more.
    let mut buffer = pool.alloc().unwrap();
    stamp(&mut buffer, 42);
    let mut buffer = run(&mut queue_a, ns_a.write(Lba(8), 8).unwrap(), buffer);
    buffer.fill(0);

    // B joins late, with blocks of another size.
    let b = Rig::joining("size=64m,lba=4096", &space, &a.referee);
    let controller_b = b.controller();
    let mut queue_b = controller_b.queue_pair(QueueOptions::default()).unwrap();
    let ns_b = controller_b.namespace(None).unwrap();
    load.goes_on();

    let iova = buffer.iova();
    let buffer = run(&mut queue_a, ns_a.read(Lba(8), 8).unwrap(), buffer);
    let buffer = run(&mut queue_b, ns_b.write(Lba(3), 1).unwrap(), buffer);
    assert_eq!(buffer.iova(), iova, "one IOVA for both devices");
    drop(buffer);

    let mut other = pool.alloc().unwrap();
    other.fill(0xee);
    let other = run(&mut queue_b, ns_b.read(Lba(3), 1).unwrap(), other);
    assert!(is_stamped(&other, 42), "B's medium has what A's had");
    drop(other);

    // B leaves with its queue, while A's load runs.
    let SpaceStats { contexts, .. } = space.stats();
    drop((queue_b, ns_b));
    drop(controller_b);
    assert_eq!(
        space.stats().contexts,
        contexts - 1,
        "B's context is detached"
    );
    b.end();
    load.goes_on();
    let buffer = run(
        &mut queue_a,
        ns_a.read(Lba(8), 8).unwrap(),
        pool.alloc().unwrap(),
    );
    assert!(is_stamped(&buffer, 42));
    drop(buffer);
    assert_eq!(pool.free_count(), POOL.count, "nothing of the pool is lost");
    println!("{} verified rounds on A meanwhile", load.end());
    drop((queue_a, controller_a));
    a.end();
}

/// B is pulled out with a command in flight: its waiter is told, its buffer comes back when B is
/// closed, and A never notices.
#[test]
fn b_is_pulled_out_under_load_and_a_goes_on() {
    let a = Rig::new("size=64m,queues=4");
    let controller_a = a.controller();
    let load = Load::on(&controller_a);
    let b = Rig::joining("size=64m", &a.space, &a.referee);
    let options = ControllerOptions {
        command_timeout: Duration::from_millis(400),
        ..ControllerOptions::default()
    };
    let controller_b = b.open(options).unwrap();
    let pool = a.space.pool("shared", POOL).unwrap();
    let mut queue_b = controller_b.queue_pair(QueueOptions::default()).unwrap();
    let ns_b = controller_b.namespace(None).unwrap();
    let removal = Trigger::FIRST.on(FaultOp::Write);
    b.emulator.inject(Fault::new(FaultKind::Removed, removal));
    let io = ns_b.write(Lba(0), 8).unwrap();
    let token = queue_b.submit(io, pool.alloc().unwrap()).unwrap();
    let ended = finish(&mut queue_b, token);
    let Err(CommandError::Lost(failure)) = ended.result else {
        panic!("it ended with {:?}", ended.result);
    };
    println!("B: {failure}");
    assert!(ended.buffer.is_none(), "the device may still write it");
    assert_eq!(pool.free_count(), POOL.count - 1, "it is in quarantine");
    load.goes_on();
    drop(queue_b);
    assert_eq!(
        pool.free_count(),
        POOL.count - 1,
        "a dead device proves nothing"
    );
    drop((ns_b, controller_b));
    // The emulator's thread was joined: proof.
    assert_eq!(pool.free_count(), POOL.count);
    drop(b);
    load.goes_on();
    load.end();
    drop(controller_a);
    a.end();
}

/// A device that cannot reach what is there is refused with the region's name, wherever in the
/// list the region stands, and leaves no trace.
#[test]
fn a_late_joiner_with_a_small_range_is_told_which_region_it_cannot_reach() {
    let a = Rig::new("size=16m");
    let controller = a.controller();
    let first = a.space.region("index pages", 4 << 20).unwrap();
    let second = a.space.region("cold pages", 4 << 20).unwrap();
    let before = a.space.stats();
    for (region, usable) in [
        (&first, 0..=first.iova().get() - 1),
        (&second, 0..=second.iova().get() + (1 << 20)),
    ] {
        let mut config: EmulatorConfig = "size=16m".parse().unwrap();
        config.usable = vec![usable];
        let late = Rig::configured(config, &a.space, &a.referee);
        let error = late.open(ControllerOptions::default()).unwrap_err();
        let Error::Dma(DmaError::Unreachable {
            name,
            iova,
            len_bytes,
            ..
        }) = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!((name.as_str(), *iova), (region.name(), region.iova()));
        assert_eq!(*len_bytes, region.len_bytes());
        assert!(error.to_string().contains(region.name()), "{error}");
        println!("{error}");
        assert_eq!(a.space.stats(), before);
    }
    // One whose table is too small is refused as well, and those that came before work on.
    let late = Rig::joining("size=16m,mappings=1", &a.space, &a.referee);
    let error = late.open(ControllerOptions::default()).unwrap_err();
    assert!(
        matches!(error, Error::Dma(DmaError::Unreachable { .. })),
        "{error:?}"
    );
    drop(late);
    let pool = a.space.pool("blocks", POOL).unwrap();
    let ns = controller.namespace(None).unwrap();
    let mut queue = controller.queue_pair(QueueOptions::default()).unwrap();
    let mut buffer = pool.alloc().unwrap();
    stamp(&mut buffer, 7);
    let buffer = run(&mut queue, ns.write(Lba(0), 8).unwrap(), buffer);
    let before = bytes(&buffer);
    let buffer = run(&mut queue, ns.read(Lba(0), 8).unwrap(), buffer);
    assert_eq!(bytes(&buffer), before);
    drop((buffer, queue, ns, controller));
    a.end();
}

/// Regions made after two devices have joined lie where both can reach them.
#[test]
fn later_regions_lie_where_every_device_can_reach_them() {
    let a = Rig::new("size=16m");
    let controller_a = a.controller();
    let mut config: EmulatorConfig = "size=16m".parse().unwrap();
    let last = (1_u64 << 33) - 1;
    config.usable = vec![0..=last];
    let b = Rig::configured(config, &a.space, &a.referee);
    let controller_b = b.controller();
    let region = a.space.region("later", 64 << 20).unwrap();
    assert!(region.iova().get() + region.len_bytes() - 1 <= last);
    let mut queue = controller_b.queue_pair(QueueOptions::default()).unwrap();
    let ns = controller_b.namespace(None).unwrap();
    let buffer = region.buf((64 << 20) - 4096, 4096).unwrap();
    let buffer = run(&mut queue, ns.write(Lba(0), 8).unwrap(), buffer);
    drop((buffer, region, queue, ns, controller_b, controller_a));
    b.end();
    a.end();
}
