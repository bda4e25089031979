//! Sleeping and waking: a device that has gone to sleep finds every command that comes, also one
//! that comes while it is falling asleep.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;
use support::{Rig, finish, within_limit};
use underpin::dma::rt::{self, Instant, Rng};
use underpin::{DmaBuf, Lba, PoolOptions, QueueOptions, QueuePair};

/// Lets the device become idle, in a way that depends on the round, then one request; until the
/// device has been woken so many times. A wake-up that is lost is a request that never ends.
fn transitions(config: &str, wanted: u64) {
    let rig = Rig::new(config);
    let controller = rig.controller();
    let ns = controller.namespace(None).unwrap();
    let options = PoolOptions {
        buf_bytes: 4096,
        count: 2,
    };
    let pool = rig.space.pool("idle", options).unwrap();
    let mut queues: Vec<QueuePair<DmaBuf>> = (0..2)
        .map(|_| {
            controller
                .queue_pair(QueueOptions {
                    depth: 4,
                    ..QueueOptions::default()
                })
                .unwrap()
        })
        .collect();
    let mut rng = Rng::seeded(7);
    let woken_before = rig.emulator.stats().wakeups;
    let mut rounds = 0_u64;
    loop {
        let stats = rig.emulator.stats();
        if stats.wakeups - woken_before >= wanted {
            break;
        }
        rounds += 1;
        assert!(
            rounds < 100 * wanted,
            "the device hardly ever sleeps: {stats:?}"
        );
        if rounds.is_multiple_of(8) {
            // Fast asleep.
            within_limit("the device to sleep", || {
                let now = rig.emulator.stats();
                (now.sleeps > now.wakeups).then_some(())
            });
        } else {
            // Awake, asleep, or on its way from the one to the other.
            let pause = Duration::from_nanos(rng.below(60_000));
            let _ = rt::wait(Some(Instant::now() + pause), |_now| None::<()>);
        }
        let queue = &mut queues[(rounds % 2) as usize];
        let io = ns.read(Lba(rounds % 100), 8).unwrap();
        let token = queue.submit(io, pool.alloc().unwrap()).unwrap();
        finish(queue, token).result.unwrap();
    }
    let stats = rig.emulator.stats();
    println!(
        "{config}: {} wake-ups in {rounds} rounds, {} kicks",
        stats.wakeups - woken_before,
        stats.kicks
    );
    drop((queues, ns, controller));
    rig.end();
}

#[test]
fn ten_thousand_wake_ups_with_shadow_doorbells() {
    transitions("size=1m,dbbuf=on", 10_000);
}

#[test]
fn ten_thousand_wake_ups_with_plain_doorbells() {
    transitions("size=1m,dbbuf=off", 10_000);
}

/// Two hosts wake one device: the wake-up of one is not taken for the other's.
#[test]
fn two_threads_wake_one_device() {
    let rig = Rig::new("size=1m,queues=2");
    let controller = rig.controller();
    let hosts: Vec<_> = (0..2)
        .map(|host| {
            let controller = controller.clone();
            let body = move || {
                let ns = controller.namespace(None).unwrap();
                let mut queue: QueuePair<DmaBuf> = controller
                    .queue_pair(QueueOptions {
                        depth: 2,
                        ..QueueOptions::default()
                    })
                    .unwrap();
                let mut rng = Rng::seeded(host);
                let mut buffer = Some(controller.space().alloc(4096, 4096).unwrap());
                for round in 0..3000 {
                    let pause = Duration::from_nanos(rng.below(60_000));
                    let _ = rt::wait(Some(Instant::now() + pause), |_now| None::<()>);
                    let io = ns.read(Lba(round % 100), 8).unwrap();
                    let token = queue.submit(io, buffer.take().unwrap()).unwrap();
                    let ended = finish(&mut queue, token);
                    ended.result.unwrap();
                    buffer = ended.buffer;
                }
            };
            rt::thread::spawn("host", body).unwrap()
        })
        .collect();
    for host in hosts {
        host.join().unwrap();
    }
    drop(controller);
    rig.end();
}
