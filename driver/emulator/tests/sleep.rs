//! The sleep protocol: an idle controller sleeps, and no wake-up is lost, however the host's
//! doorbell and the controller's decision fall together.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod common;

use common::*;
use std::time::Duration;
use underpin_dma::rt::{self, Instant, Rng};
use underpin_nvme_spec::Status;
use underpin_nvme_spec::admin::Cns;

const TRANSITIONS: u64 = if rt::sim::is_simulated() { 500 } else { 10_000 };

/// From asleep to a completed command and back, many times. A lost wake-up is a command that
/// never ends.
#[test]
fn no_wake_up_is_lost() {
    let mut host = Host::up(config("size=1m"), Mode::Thread);
    let mut pair = host.create(1, 8);
    let before = host.emu.stats();
    let mut slept = before.sleeps;
    let mut nth = 0;
    // A sleep may end for nothing now and then, so more commands than transitions are allowed.
    while host.emu.stats().wakeups - before.wakeups < TRANSITIONS {
        assert!(nth < 2 * TRANSITIONS, "most commands find it asleep");
        nth += 1;
        host.wait(|| (host.emu.stats().sleeps > slept).then_some(()))
            .expect("it sleeps");
        slept = host.emu.stats().sleeps;
        if nth % 16 == 0 {
            // The admin queue has no shadow doorbell: its register wakes.
            host.identify(Cns::CONTROLLER, 0).unwrap();
        } else {
            let status = host.flush(&mut pair, 1);
            assert_eq!(status, Status::SUCCESS, "command {nth}");
        }
    }
    assert!(pair.kicks >= TRANSITIONS / 2, "its register wakes it");
}

/// Pauses of about the length at which the controller gives up spinning and goes to sleep.
#[test]
fn no_wake_up_is_lost_at_the_edge_of_sleep() {
    let mut host = Host::up(config("size=1m"), Mode::Thread);
    let mut one = host.create(1, 4);
    let mut two = host.create(2, 16);
    let mut rng = Rng::seeded(3);
    for nth in 0..TRANSITIONS {
        let pair = if rng.chance(1, 2) { &mut one } else { &mut two };
        assert_eq!(host.flush(pair, 1), Status::SUCCESS, "command {nth}");
        let until = Instant::now() + Duration::from_nanos(rng.below(60_000));
        while Instant::now() < until {
            if rt::sim::is_simulated() {
                host.pass(Duration::from_micros(1));
            }
            std::hint::spin_loop();
        }
    }
}

/// While it is awake the controller asks for no register writes: a busy host writes next to none.
#[test]
fn a_busy_host_does_not_kick() {
    if rt::sim::is_simulated() {
        // There a controller sleeps whenever it has nothing to do.
        return;
    }
    let mut host = Host::up(config("media=null,size=1m"), Mode::Local);
    let mut pair = host.create(1, 64);
    let buf = host.space.alloc(4096, 4096).unwrap();
    for nth in 0..2000 {
        let sqe = read(1, nth % 8, 1).with_prp1(buf.iova().get());
        assert_eq!(host.io(&mut pair, sqe).status(), Status::SUCCESS);
    }
    let stats = host.emu.stats();
    assert!(stats.kicks < 200, "{} kicks for 2000 commands", stats.kicks);
    assert_eq!(stats.kicks, pair.kicks);
}

/// A controller that waits for room in a completion queue is woken by the head's doorbell.
#[test]
fn a_stalled_controller_is_woken_by_the_head() {
    let mut host = Host::up(config("size=1m"), Mode::Thread);
    let mut pair = host.pair(1, 32);
    let small = host.pair(1, 3);
    assert_eq!(
        host.admin(Host::create_cq_of(&small).to_sqe()).status(),
        Status::SUCCESS
    );
    assert_eq!(
        host.admin(Host::create_sq_of(&pair).to_sqe()).status(),
        Status::SUCCESS
    );
    (pair.cq, pair.cq_buf) = (small.cq, small.cq_buf);
    for round in 0..200 {
        let slept = host.emu.stats().sleeps;
        let flush = underpin_nvme_spec::nvm::Flush {
            nsid: underpin_nvme_spec::Nsid(1),
        };
        (0..6).for_each(|_| {
            pair.push(flush.to_sqe());
        });
        pair.ring(&host.emu, host.dstrd);
        host.wait(|| (host.emu.stats().sleeps > slept).then_some(()))
            .expect("it sleeps");
        for _ in 0..6 {
            let cqe = host.complete(&mut pair);
            assert_eq!(
                cqe.map(|cqe| cqe.status()),
                Some(Status::SUCCESS),
                "round {round}"
            );
        }
    }
}

/// The host's doorbell at each point of the controller's decision, one after the other: before
/// its last look, between that look and the publication, and after it went to sleep.
#[test]
fn a_doorbell_at_every_point_of_the_decision() {
    let mut host = Host::up(config("size=1m,step=off"), Mode::Inline);
    let mut pair = host.create(1, 5);
    let mut core = host.take_inline().unwrap();
    let flush = underpin_nvme_spec::nvm::Flush {
        nsid: underpin_nvme_spec::Nsid(1),
    };
    for round in 0..40 {
        while core.run_batch() > 0 {}
        assert!(core.before_sleep(), "round {round}: nothing to do");
        // Asleep: the register is written, and what it announces is found.
        let kicks = pair.kicks;
        pair.push(flush.to_sqe());
        pair.ring(&host.emu, host.dstrd);
        assert_eq!(pair.kicks, kicks + 1, "round {round}: a sleeper is kicked");
        assert!(core.run_batch() > 0 && pair.pop().is_some());
        // Its completions are read without a kick: nothing waits for room.
        pair.acknowledge(&host.emu, host.dstrd);
        assert_eq!(pair.kicks, kicks + 1, "round {round}");
        // Awake, but about to sleep: the sleep is called off, kick or not.
        while core.run_batch() > 0 {}
        pair.push(flush.to_sqe());
        pair.ring(&host.emu, host.dstrd);
        assert!(
            !core.before_sleep(),
            "round {round}: there is something to do"
        );
        assert!(core.run_batch() > 0 && pair.pop().is_some());
        pair.acknowledge(&host.emu, host.dstrd);
    }
    // The same for a register: a reset is never slept through.
    while core.run_batch() > 0 {}
    host.emu
        .write32(underpin_nvme_spec::registers::offset::CC, 0);
    assert!(!core.before_sleep());
}

/// Two threads at full speed: the controller decides to sleep as soon as it finds nothing, and
/// the host's doorbell falls into that decision. It sleeps until a register is written.
#[test]
fn a_doorbell_during_the_decision() {
    if rt::sim::is_simulated() {
        return;
    }
    let mut host = Host::up(config("size=1m"), Mode::Inline);
    let mut pair = host.create(1, 8);
    let mut core = host.take_inline().unwrap();
    let emu = host.emu.clone();
    let controller = rt::thread::spawn("controller", move || {
        let mut called_off = 0_u64;
        loop {
            let heard = emu.stats().doorbell_writes;
            if core.run_batch() > 0 {
                continue;
            }
            if !core.before_sleep() {
                called_off += 1;
                continue;
            }
            while emu.stats().doorbell_writes == heard {
                if emu.read32(0) == u32::MAX {
                    return called_off;
                }
                rt::thread::yield_now();
            }
        }
    })
    .unwrap();
    let mut rng = Rng::seeded(9);
    for nth in 0..TRANSITIONS {
        assert_eq!(host.flush(&mut pair, 1), Status::SUCCESS, "command {nth}");
        for _ in 0..rng.below(100) {
            std::hint::spin_loop();
        }
    }
    host.emu.stop().unwrap();
    let called_off = controller.join().unwrap();
    println!(
        "{called_off} sleeps called off of {}",
        host.emu.stats().sleeps
    );
}
