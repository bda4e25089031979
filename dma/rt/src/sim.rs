//! The simulated world: virtual time and the order of steps, both from one seed.
//! In a real build only [`is_simulated`] and [`run`] exist, and `run` just calls its body.

/// True in a build with `--cfg underpin_sim`.
pub const fn is_simulated() -> bool {
    cfg!(underpin_sim)
}

/// Runs `body` in a fresh world made from `seed`: time starts at zero, no tasks run. Its tasks
/// end with it. In a real build it only calls `body`.
pub fn run<R>(seed: u64, body: impl FnOnce() -> R) -> R {
    #[cfg(underpin_sim)]
    {
        world::start(seed);
        let result = body();
        crate::local::clear();
        result
    }
    #[cfg(not(underpin_sim))]
    {
        let _ = seed;
        body()
    }
}

#[cfg(underpin_sim)]
pub(crate) use world::{now, pass, pick, random_u64};

/// A hash of every choice the scheduler has made since the world began: equal for equal seeds.
#[cfg(underpin_sim)]
pub fn trace_hash() -> u64 {
    world::trace_hash()
}

#[cfg(underpin_sim)]
mod world {
    use crate::{Instant, Rng};
    use std::cell::RefCell;
    use std::time::Duration;

    struct World {
        now: Instant,
        rng: Rng,
        trace: u64,
    }

    thread_local! {
        static WORLD: RefCell<World> = const {
            RefCell::new(World { now: Instant::START, rng: Rng::seeded(0), trace: 0 })
        };
    }

    /// The longest jump of virtual time when nothing is ready: waits with inner deadlines (a
    /// queue's commands) look at the clock at least this often.
    const LONGEST_JUMP: Duration = Duration::from_millis(10);
    /// The shortest: a poll that finds nothing must not stop the clock.
    const SHORTEST_JUMP: Duration = Duration::from_nanos(100);

    pub(super) fn start(seed: u64) {
        crate::local::clear();
        WORLD.with_borrow_mut(|world| {
            *world = World {
                now: Instant::START,
                rng: Rng::seeded(seed),
                trace: seed,
            };
        });
    }

    pub(crate) fn now() -> Instant {
        WORLD.with_borrow(|world| world.now)
    }

    pub(crate) fn random_u64() -> u64 {
        WORLD.with_borrow_mut(|world| world.rng.next_u64())
    }

    pub(super) fn trace_hash() -> u64 {
        WORLD.with_borrow(|world| world.trace)
    }

    /// Draws one of the ready tasks; the caller, which polls between two turns, is the other party.
    pub(crate) fn pick(ready: &[usize]) -> Option<&usize> {
        WORLD.with_borrow_mut(|world| {
            let chosen = world.rng.pick(ready);
            let mark = chosen.map_or(u64::MAX, |&index| index as u64);
            world.trace = (world.trace ^ mark)
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(17);
            world.now = world.now + SHORTEST_JUMP;
            chosen
        })
    }

    /// Lets time pass to `next`, within the bounds of one jump.
    pub(crate) fn pass(next: Option<Instant>) {
        WORLD.with_borrow_mut(|world| {
            let longest = world.now + LONGEST_JUMP;
            let shortest = world.now + SHORTEST_JUMP;
            world.now = next.unwrap_or(longest).clamp(shortest, longest);
        });
    }
}

#[cfg(all(test, underpin_sim))]
mod tests {
    use crate::{Instant, Step, Task, spawn, wait};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    struct Counter(Arc<AtomicU64>, u64);
    impl Task for Counter {
        fn step(&mut self, now: Instant) -> Step {
            self.0.fetch_add(self.1, Ordering::Relaxed);
            Step::Idle {
                until: Some(now + Duration::from_secs(36)),
            }
        }
    }

    /// A minute of virtual time passes at once, and the same seed makes the same choices.
    #[test]
    fn a_seed_repeats_and_time_is_virtual() {
        let go = |seed| {
            super::run(seed, || {
                let sum = Arc::new(AtomicU64::new(0));
                let _a = spawn("a", Box::new(Counter(Arc::clone(&sum), 1)));
                let _b = spawn("b", Box::new(Counter(Arc::clone(&sum), 100)));
                let end = Instant::START + Duration::from_secs(73);
                wait(None, |now| (now > end).then_some(())).unwrap_or(());
                assert_eq!(sum.load(Ordering::Relaxed), 303);
                super::trace_hash()
            })
        };
        assert_eq!(go(1), go(1));
        assert_ne!(go(1), go(2));
    }
}
