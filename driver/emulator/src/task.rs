//! The controller as something that runs: a task for threads and simulation, or stepped by hand.
//! A step locks the IOMMU's table for one batch, so that an unmapping waits for its DMA.
use crate::core::{Cx, Machine};
use crate::emulator::Shared;
use std::sync::Arc;
use std::time::Duration;
use underpin_dma::rt::{self, Instant, Step, Task};

/// Commands of one queue executed before others have their turn.
const BUDGET: usize = 64;
/// What is done before the lock is let go.
const ONE_LOCK: usize = 4 * BUDGET;
/// Times that the lock is taken in one step, before the task's loop looks at the clock again.
const LOCKS: usize = 16;
/// Looks that found nothing, before a step says that the controller is idle.
const LOOKS: usize = 16;
/// Commands in one batch from which on a host is taken to keep many in flight. It waits for no
/// single one, so looks may come seldom: where host and controller are the two threads of one
/// core, each look takes issue slots from the host. Seen at 128 in flight: 4 % more a second.
const DEEP: usize = 16;
/// Pauses between two looks then.
const DEEP_PAUSES: usize = 4;

/// How long a doorbell in a page that a peer writes may stay unseen.
const WATCH: Duration = Duration::from_millis(1);
/// The same once the controller has been idle for long: a look that has to wake a thread and a
/// processor costs up to 40 us, and an idle controller shall cost less than 2 % of one.
const IDLE_WATCH: Duration = Duration::from_millis(4);
/// How long that is.
const LONG_IDLE: Duration = Duration::from_millis(100);

/// The controller and what it shares with its handle.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) machine: Machine,
    /// Since when there was nothing to do.
    pub(crate) idle_since: Option<Instant>,
}

impl Core {
    /// One batch under one lock; without the time, only what needs none. Returns how much was done.
    #[inline]
    pub(crate) fn batch(&mut self, now: Option<Instant>) -> usize {
        let Self {
            shared, machine, ..
        } = self;
        let map = shared.iommu.read();
        let cx = Cx {
            shared,
            map: &map,
            now: now.unwrap_or(Instant::START),
            timed: now.is_some(),
        };
        let done = machine.batch(&cx, BUDGET);
        // Under the lock, for whoever asks: what a host has seen is counted then.
        if done > 0 {
            machine.publish(shared);
        }
        done
    }

    /// Batches under one lock, while there is something to do: at most so much that an unmapping
    /// need not wait long. Looks several times before it says that there is nothing more. Returns
    /// how much was done.
    fn batches(&mut self, now: Instant) -> usize {
        let Self {
            shared, machine, ..
        } = self;
        let map = shared.iommu.read();
        let cx = Cx {
            shared,
            map: &map,
            now,
            timed: true,
        };
        let (mut all, mut looks, mut pauses) = (0, 0, 1);
        while all < ONE_LOCK && looks < LOOKS {
            let done = machine.batch(&cx, BUDGET);
            if done != 0 {
                all += done;
                looks = 0;
                pauses = if done < DEEP { 1 } else { DEEP_PAUSES };
                if !machine.is_fast() {
                    // Delays and the like want the time.
                    break;
                }
                continue;
            }
            looks += 1;
            (0..pauses).for_each(|_| std::hint::spin_loop());
        }
        // Not at the first look that finds nothing: a busy host is only about to ring.
        if all != 0 {
            machine.publish(shared);
        }
        drop(map);
        all
    }

    pub(crate) fn step(&mut self, now: Instant) -> Step {
        let done = self.batch(Some(now));
        self.next_step(now, done > 0)
    }

    fn next_step(&mut self, now: Instant, busy: bool) -> Step {
        if busy {
            self.idle_since = None;
            return Step::Busy;
        }
        if self.machine.ends_soon(now) {
            rt::thread::yield_now();
            return Step::Busy;
        }
        Step::Idle {
            until: self.until(now),
        }
    }

    /// When to step again though nobody wakes the controller.
    fn until(&mut self, now: Instant) -> Option<Instant> {
        let next = self.machine.next_time();
        if self.shared.bar.is_watched() && self.machine.is_ready() {
            let idle = now.since(*self.idle_since.get_or_insert(now));
            let watch = match idle < LONG_IDLE {
                true => WATCH,
                false => IDLE_WATCH,
            };
            let look = now + watch;
            return Some(next.map_or(look, |next| next.min(look)));
        }
        next
    }

    pub(crate) fn before_sleep(&mut self) -> bool {
        let Self {
            shared, machine, ..
        } = self;
        let map = shared.iommu.read();
        let cx = Cx {
            shared,
            map: &map,
            // Times are the task loop's business.
            now: Instant::START,
            timed: false,
        };
        let sleeps = machine.before_sleep(&cx);
        machine.publish(shared);
        sleeps
    }
}

/// The controller on a thread of its own, or under the simulation's scheduler.
#[derive(Debug)]
pub(crate) struct EmulatorTask {
    pub(crate) core: Core,
    /// Looks several times before it says that it is idle; not where its caller waits meanwhile.
    pub(crate) spins: bool,
}

impl Task for EmulatorTask {
    fn step(&mut self, now: Instant) -> Step {
        if !self.spins {
            return self.core.step(now);
        }
        let mut busy = false;
        for _ in 0..LOCKS {
            if self.core.batches(now) == 0 {
                break;
            }
            busy = true;
            if !self.core.machine.is_fast() {
                break;
            }
        }
        self.core.next_step(now, busy)
    }

    fn before_sleep(&mut self) -> bool {
        self.core.before_sleep()
    }
}
