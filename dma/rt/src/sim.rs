//! The simulated world: virtual time and the order of steps, both from one seed.
//! In a real build only [`is_simulated`] and [`run`] exist, and `run` just calls its body.
//!
//! A world belongs to one thread. Between two polls of a [`wait`](crate::wait) any number of
//! steps of any tasks may happen, none too; some worlds draw some tasks, or the caller, much more
//! often than others. Nobody who can do something is passed over for ever.

/// True in a build with `--cfg underpin_sim`.
///
/// ```
/// // Only a simulation may hold a test to exact times.
/// assert_eq!(underpin_rt::sim::is_simulated(), cfg!(underpin_sim));
/// ```
pub const fn is_simulated() -> bool {
    cfg!(underpin_sim)
}

/// Runs `body` in a fresh world made from `seed`: time starts at zero, no tasks run. Its tasks
/// end with it. In a real build it only calls `body`.
///
/// ```
/// use std::time::Duration;
/// use underpin_rt::{Instant, sim, wait};
///
/// let took = sim::run(42, || {
///     let began = Instant::now();
///     let until = began + Duration::from_millis(1);
///     let _ = wait(Some(until), |_now| None::<()>);
///     Instant::now().since(began)
/// });
/// assert!(took >= Duration::from_millis(1), "virtual in a simulated build, real in this one");
/// ```
pub fn run<R>(seed: u64, body: impl FnOnce() -> R) -> R {
    #[cfg(underpin_sim)]
    {
        /// Ends the world also when the body panics.
        struct End;
        impl Drop for End {
            fn drop(&mut self) {
                crate::local::clear();
            }
        }
        world::start(seed);
        let _end = End;
        body()
    }
    #[cfg(not(underpin_sim))]
    {
        let _ = seed;
        body()
    }
}

#[cfg(underpin_sim)]
pub(crate) use world::{Choice, draw_weight, flip, now, pass, pick, random_u64};

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
        /// How often the caller's own turn comes, compared with the tasks'.
        caller_weight: u64,
    }

    impl World {
        const fn from_seed(seed: u64) -> Self {
            Self {
                now: Instant::START,
                rng: Rng::seeded(seed),
                trace: seed,
                caller_weight: 1,
            }
        }

        fn mark(&mut self, what: u64) {
            let trace = (self.trace ^ what).wrapping_mul(0x0100_0000_01b3);
            self.trace = trace.rotate_left(17);
        }
    }

    /// A task that can do something.
    pub(crate) struct Choice {
        /// Its place in the list.
        pub(crate) place: usize,
        /// A hash of its name.
        pub(crate) name: u64,
        /// How often it is drawn, compared with the others.
        pub(crate) weight: u64,
    }

    thread_local! {
        static WORLD: RefCell<World> = const {
            RefCell::new(World::from_seed(0))
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
            *world = World::from_seed(seed);
            world.caller_weight = weight(&mut world.rng);
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

    /// Mostly all alike, sometimes far apart: a slow device, a busy host.
    fn weight(rng: &mut Rng) -> u64 {
        rng.pick(&[1, 1, 1, 4, 16]).copied().unwrap_or(1)
    }

    /// How often a new task is to be drawn.
    pub(crate) fn draw_weight() -> u64 {
        WORLD.with_borrow_mut(|world| weight(&mut world.rng))
    }

    /// One or the other.
    pub(crate) fn flip() -> bool {
        WORLD.with_borrow_mut(|world| {
            let heads = world.rng.chance(1, 2);
            world.mark(u64::from(heads));
            heads
        })
    }

    /// Draws the place of one of the ready tasks, or `None` for the caller itself.
    pub(crate) fn pick(ready: &[Choice]) -> Option<usize> {
        WORLD.with_borrow_mut(|world| {
            world.now = world.now + SHORTEST_JUMP;
            let tasks: u64 = ready.iter().map(|choice| choice.weight).sum();
            let mut drawn = world.rng.below(tasks + world.caller_weight);
            for choice in ready {
                if drawn < choice.weight {
                    world.mark(choice.name);
                    world.mark(choice.place as u64);
                    return Some(choice.place);
                }
                drawn -= choice.weight;
            }
            world.mark(u64::MAX);
            None
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
    #![allow(clippy::unwrap_used)]
    use crate::{Instant, Rng, Step, Task, Waker, spawn, wait};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    struct Counter(Arc<AtomicU64>, u64);
    impl Task for Counter {
        fn step(&mut self, now: Instant) -> Step {
            self.0.fetch_add(self.1, Relaxed);
            Step::Idle {
                until: Some(now + Duration::from_secs(36)),
            }
        }
    }

    /// A minute of virtual time passes at once.
    #[test]
    fn time_is_virtual() {
        super::run(1, || {
            let sum = Arc::new(AtomicU64::new(0));
            let _a = spawn("a", Box::new(Counter(Arc::clone(&sum), 1)));
            let _b = spawn("b", Box::new(Counter(Arc::clone(&sum), 1000)));
            let end = Instant::START + Duration::from_secs(73);
            wait(None, |now| (now > end).then_some(())).unwrap();
            // At 0, 36 and 72 s, and perhaps a few looks before each sleep.
            let sum = sum.load(Relaxed);
            assert!(sum % 1000 >= 3 && sum / 1000 >= 3, "{sum}");
            assert!(sum % 1000 < 100 && sum / 1000 < 100, "{sum}");
            assert!(Instant::now() < end + Duration::from_secs(1));
        });
    }

    /// Does random things, and leaves a trail of what it saw.
    struct Walker {
        rng: Rng,
        trail: Arc<AtomicU64>,
        other: Waker,
    }
    impl Task for Walker {
        fn step(&mut self, now: Instant) -> Step {
            let word = now.as_nanos() ^ self.rng.next_u64();
            let trail = self.trail.load(Relaxed).rotate_left(5) ^ word;
            self.trail.store(trail, Relaxed);
            match self.rng.below(5) {
                0 => Step::Busy,
                1 => {
                    self.other.wake();
                    Step::Idle { until: None }
                }
                2 if self.rng.chance(1, 100) => Step::Done,
                _ => Step::Idle {
                    until: Some(now + Duration::from_nanos(self.rng.below(5000))),
                },
            }
        }
    }

    /// The same seed makes the same world, step by step; another seed makes another.
    #[test]
    fn a_seed_repeats() {
        let go = |seed| {
            super::run(seed, || {
                let trail = Arc::new(AtomicU64::new(0));
                let mut handles: Vec<crate::TaskHandle> = Vec::new();
                for name in ["a", "b", "c", "d"] {
                    let other = handles.last().map_or_else(Waker::noop, |last| last.waker());
                    let walker = Walker {
                        rng: Rng::from_world(),
                        trail: Arc::clone(&trail),
                        other,
                    };
                    handles.push(spawn(name, Box::new(walker)).unwrap());
                }
                let end = Instant::START + Duration::from_micros(300);
                wait(Some(end), |_| None::<()>).unwrap_err();
                handles.truncate(2);
                let end = end + Duration::from_micros(300);
                wait(Some(end), |_| None::<()>).unwrap_err();
                (super::trace_hash(), trail.load(Relaxed), Instant::now())
            })
        };
        let worlds: Vec<_> = (0..50).map(go).collect();
        assert_eq!(worlds, (0..50).map(go).collect::<Vec<_>>());
        for (at, world) in worlds.iter().enumerate() {
            let mut others = worlds[..at].iter().map(|(_, trail, _)| *trail);
            assert!(
                others.all(|trail| trail != world.1),
                "seed {at} repeats another"
            );
        }
    }

    struct Busy(Arc<AtomicU64>);
    impl Task for Busy {
        fn step(&mut self, _: Instant) -> Step {
            self.0.fetch_add(1, Relaxed);
            Step::Busy
        }
    }

    /// Whatever the weights: every busy task and the caller get on, though none ever rests.
    #[test]
    fn nobody_starves() {
        for seed in 0..100 {
            super::run(seed, || {
                let steps: Vec<_> = (0..4).map(|_| Arc::new(AtomicU64::new(0))).collect();
                let _tasks: Vec<_> = steps
                    .iter()
                    .map(|steps| spawn("busy", Box::new(Busy(Arc::clone(steps)))).unwrap())
                    .collect();
                let mut polls = 0;
                wait(None, |_| {
                    polls += 1;
                    (polls == 2000).then_some(())
                })
                .unwrap();
                for steps in &steps {
                    assert!(steps.load(Relaxed) > 20, "seed {seed}");
                }
            });
        }
    }

    /// Several steps happen between two polls in some worlds, none in others: the caller sees a
    /// device that is ahead, and one that lags.
    #[test]
    fn polls_and_steps_interleave_freely() {
        let (mut none, mut many) = (0, 0);
        for seed in 0..50 {
            super::run(seed, || {
                let steps = Arc::new(AtomicU64::new(0));
                let _task = spawn("busy", Box::new(Busy(Arc::clone(&steps)))).unwrap();
                let (mut polls, mut last) = (0, 0);
                wait(None, |_| {
                    polls += 1;
                    let now = steps.load(Relaxed);
                    none += u64::from(now == last);
                    many += u64::from(now >= last + 3);
                    last = now;
                    (polls == 50).then_some(())
                })
                .unwrap();
            });
        }
        assert!(none > 50 && many > 50, "{none} {many}");
    }

    /// Looks at a mailbox; sleeps until it is woken.
    struct Mailbox {
        mail: Arc<AtomicU64>,
        read: Arc<AtomicU64>,
        sleeps: Arc<AtomicU64>,
    }
    impl Task for Mailbox {
        fn step(&mut self, _: Instant) -> Step {
            self.read.store(self.mail.load(Relaxed), Relaxed);
            Step::Idle { until: None }
        }
        fn before_sleep(&mut self) -> bool {
            let nothing = self.mail.load(Relaxed) == self.read.load(Relaxed);
            self.sleeps.fetch_add(u64::from(nothing), Relaxed);
            nothing
        }
    }

    /// A task that sleeps is brought back by its waker and by nothing else: a forgotten wake-up
    /// is found in a simulation as it would be on a thread.
    #[test]
    fn a_forgotten_wake_up_is_not_papered_over() {
        for seed in 0..50 {
            super::run(seed, || {
                let [mail, read, sleeps] = [0; 3].map(|_| Arc::new(AtomicU64::new(0)));
                let task = spawn(
                    "mailbox",
                    Box::new(Mailbox {
                        mail: Arc::clone(&mail),
                        read: Arc::clone(&read),
                        sleeps: Arc::clone(&sleeps),
                    }),
                )
                .unwrap();
                wait(None, |_| (sleeps.load(Relaxed) == 1).then_some(())).unwrap();
                mail.store(1, Relaxed);
                let end = Instant::now() + Duration::from_secs(1);
                wait(Some(end), |_| (read.load(Relaxed) == 1).then_some(())).unwrap_err();
                task.waker().wake();
                wait(Some(end + Duration::from_secs(1)), |_| {
                    (read.load(Relaxed) == 1).then_some(())
                })
                .unwrap();
            });
        }
    }

    /// An idle task that has not gone to sleep yet looks again, though another never rests: its
    /// host need not wake what says it is awake.
    #[test]
    fn an_idle_task_looks_again_beside_a_busy_one() {
        for seed in 0..50 {
            super::run(seed, || {
                let [mail, read, sleeps, steps] = [0; 4].map(|_| Arc::new(AtomicU64::new(0)));
                let _busy = spawn("busy", Box::new(Busy(steps))).unwrap();
                let _mailbox = spawn(
                    "mailbox",
                    Box::new(Mailbox {
                        mail: Arc::clone(&mail),
                        read: Arc::clone(&read),
                        sleeps: Arc::clone(&sleeps),
                    }),
                )
                .unwrap();
                mail.store(1, Relaxed);
                let end = Instant::now() + Duration::from_millis(10);
                wait(Some(end), |_| (read.load(Relaxed) == 1).then_some(())).unwrap();
                wait(Some(end), |_| (sleeps.load(Relaxed) == 1).then_some(())).unwrap();
            });
        }
    }
}
