//! The tasks that one thread carries, stepped from inside its waits.
//! In a simulated build this list is the whole world, stepped in an order drawn from the seed.
use crate::task::EndMark;
use crate::{Instant, Step, Task, Waker};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

struct Slot {
    id: u64,
    /// Taken out while it is stepped, so that a step may add or remove tasks.
    task: Option<Box<dyn Task>>,
    waker: Waker,
    /// The last turn in which it was stepped.
    #[cfg(not(underpin_sim))]
    turn: u64,
    #[cfg(underpin_sim)]
    sim: sim::Standing,
    /// Dropped after the task: says that it is gone.
    _mark: EndMark,
}

thread_local! {
    static TASKS: RefCell<Vec<Slot>> = const { RefCell::new(Vec::new()) };
    /// How many tasks are listed: lets a wait on a thread without tasks skip the list. Like the
    /// others below it can still be read while the thread ends and its list is gone.
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static THREAD: Cell<u64> = const { Cell::new(0) };
    #[cfg(not(underpin_sim))]
    static TURN: Cell<u64> = const { Cell::new(0) };
}

/// Which task of which thread; unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalId {
    thread: u64,
    id: u64,
}

impl LocalId {
    /// True on the thread that carries the task.
    pub(crate) fn is_of_this_thread(self) -> bool {
        THREAD.get() == self.thread
    }
}

/// What became of a request to remove a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// It and what it owned are gone.
    Gone,
    /// It is in the middle of a step on this thread, and ends when that step returns.
    Stepping,
    /// This thread does not list it: it has ended, or another thread carries it.
    NotListed,
}

fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Works on the list; `None` when the thread is ending and has dropped it, and all tasks with it.
/// Nothing of a task's own may run or be dropped inside.
fn with_tasks<R>(work: impl FnOnce(&mut Vec<Slot>) -> R) -> Option<R> {
    TASKS
        .try_with(|tasks| {
            let mut tasks = tasks.borrow_mut();
            let result = work(&mut tasks);
            COUNT.set(tasks.len());
            result
        })
        .ok()
}

/// True when this thread lists any task.
#[cfg(not(underpin_sim))]
pub(crate) fn carries_tasks() -> bool {
    COUNT.get() > 0
}

pub(crate) fn add(name: &str, task: Box<dyn Task>, waker: Waker, mark: EndMark) -> LocalId {
    #[cfg(not(underpin_sim))]
    let _ = name;
    if THREAD.get() == 0 {
        THREAD.set(number());
    }
    let id = number();
    let slot = Slot {
        id,
        task: Some(task),
        waker,
        #[cfg(not(underpin_sim))]
        turn: 0,
        #[cfg(underpin_sim)]
        sim: sim::Standing::new(name),
        _mark: mark,
    };
    // On a thread that is ending the task ends at once.
    let _ = with_tasks(|tasks| tasks.push(slot));
    LocalId {
        thread: THREAD.get(),
        id,
    }
}

/// Removes a task of this thread, if it is one.
pub(crate) fn remove(id: LocalId) -> Removed {
    let slot = with_tasks(|tasks| {
        let at = tasks.iter().position(|slot| slot.id == id.id)?;
        let stepping = tasks.get(at).is_none_or(|slot| slot.task.is_none());
        Some(if stepping {
            None
        } else {
            Some(tasks.remove(at))
        })
    });
    match slot.flatten() {
        Some(Some(slot)) => {
            drop(slot);
            Removed::Gone
        }
        Some(None) => Removed::Stepping,
        None => Removed::NotListed,
    }
}

/// Drops the tasks that were asked to stop, each outside of the list.
fn reap() {
    let next = |tasks: &mut Vec<Slot>| {
        let ended = |slot: &Slot| slot.task.is_some() && slot.waker.stop_asked();
        let at = tasks.iter().position(ended)?;
        Some(tasks.remove(at))
    };
    while let Some(slot) = with_tasks(next).flatten() {
        drop(slot);
    }
}

/// A task while it is stepped. Dropping it puts the task back, or ends it when its step said so,
/// panicked, or somebody asked for its end meanwhile.
struct Stepped {
    id: u64,
    task: Option<Box<dyn Task>>,
    outcome: Option<Step>,
}

impl Stepped {
    fn step(mut self, now: Instant) -> Step {
        if let Some(task) = &mut self.task {
            self.outcome = Some(task.step(now));
        }
        self.outcome.unwrap_or(Step::Done)
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        let (task, outcome) = (self.task.take(), self.outcome);
        let ended = with_tasks(|tasks| {
            let Some(at) = tasks.iter().position(|slot| slot.id == self.id) else {
                return (task, None);
            };
            let goes_on = matches!(outcome, Some(Step::Busy | Step::Idle { .. }));
            match tasks.get_mut(at) {
                Some(slot) if goes_on && !slot.waker.stop_asked() => {
                    slot.task = task;
                    #[cfg(underpin_sim)]
                    slot.sim.stepped(outcome);
                    (None, None)
                }
                _ => (task, Some(tasks.remove(at))),
            }
        });
        // First the task, then the slot, whose mark says that the task is gone.
        if let Some((task, slot)) = ended {
            drop(task);
            drop(slot);
        }
    }
}

/// What a turn found.
#[cfg(not(underpin_sim))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turn {
    /// A task did something.
    pub(crate) busy: bool,
    /// When the first of the idle ones wants to be stepped again.
    pub(crate) next: Option<Instant>,
}

/// Steps every task of this thread once, in order, woken or not: on one thread nobody else can
/// ring for it. Does not allocate.
#[cfg(not(underpin_sim))]
pub(crate) fn turn() -> Turn {
    let mut result = Turn::default();
    if COUNT.get() == 0 {
        return result;
    }
    reap();
    let now = Instant::now();
    let turn = TURN.get() + 1;
    TURN.set(turn);
    // Steps may add and remove tasks, and take turns of their own while they wait: so the list
    // is looked at anew each time, and whoever was stepped since this turn began is passed over.
    let next = |tasks: &mut Vec<Slot>| {
        let due = |slot: &&mut Slot| slot.turn < turn && slot.task.is_some();
        let slot = tasks.iter_mut().find(due)?;
        slot.turn = turn;
        slot.waker.take_notice();
        Some(Stepped {
            id: slot.id,
            task: slot.task.take(),
            outcome: None,
        })
    };
    while let Some(stepped) = with_tasks(next).flatten() {
        match stepped.step(now) {
            Step::Busy => result.busy = true,
            Step::Idle { until: Some(until) } => {
                result.next = Some(result.next.map_or(until, |next| next.min(until)));
            }
            Step::Idle { until: None } | Step::Done => {}
        }
    }
    result
}

#[cfg(underpin_sim)]
pub(crate) use sim::{clear, turn};

#[cfg(underpin_sim)]
mod sim {
    //! The scheduler of the simulated world. A task goes through the same stations as on a
    //! thread: it runs; when idle it looks again a few times; then it says what shall wake it
    //! and sleeps, and only a wake-up or its time brings it back. So a wake-up that is
    //! forgotten shows here too.
    use super::{Stepped, reap, with_tasks};
    use crate::sim::{self, Choice};
    use crate::{Instant, Step};

    /// Where a task stands.
    pub(super) struct Standing {
        /// For the trace: equal names are told apart by their place in the list.
        name: u64,
        /// How often it is drawn, compared with the others.
        weight: u64,
        station: Station,
    }

    #[derive(Clone, Copy)]
    enum Station {
        Running,
        /// Idle, and looking again now and then.
        Awake(Option<Instant>),
        Asleep(Option<Instant>),
    }

    impl Standing {
        pub(super) fn new(name: &str) -> Self {
            let hash =
                |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            Self {
                name: name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, hash),
                weight: sim::draw_weight(),
                station: Station::Running,
            }
        }

        pub(super) fn stepped(&mut self, outcome: Option<Step>) {
            self.station = match outcome {
                Some(Step::Idle { until }) => Station::Awake(until),
                _ => Station::Running,
            };
        }
    }

    /// Takes the next look at the tasks. `Some(None)` when a task was put to sleep or was gone.
    fn next(now: Instant, ready: &[Choice]) -> Option<Option<Stepped>> {
        let place = sim::pick(ready)?;
        with_tasks(|tasks| {
            let slot = tasks.get_mut(place)?;
            let woken = slot.waker.take_notice();
            if let Station::Awake(until) = slot.sim.station
                && !woken
                && until.is_none_or(|until| until > now)
                && sim::flip()
            {
                return Some((slot.id, until, slot.task.take(), true));
            }
            Some((slot.id, None, slot.task.take(), false))
        })
        .flatten()
        .map(|(id, until, task, to_bed)| {
            let mut stepped = Stepped {
                id,
                task,
                outcome: None,
            };
            if !to_bed {
                return Some(stepped);
            }
            let sleeps = stepped
                .task
                .as_mut()
                .is_some_and(|task| task.before_sleep());
            stepped.outcome = Some(Step::Busy);
            drop(stepped);
            if sleeps {
                let _ = with_tasks(|tasks| {
                    if let Some(slot) = tasks.iter_mut().find(|slot| slot.id == id) {
                        slot.sim.station = Station::Asleep(until);
                    }
                });
            }
            None
        })
    }

    /// Steps tasks in an order drawn from the seed until the caller's own turn is drawn; lets
    /// virtual time pass to the next event when all of them sleep.
    pub(crate) fn turn(deadline: Option<Instant>) {
        loop {
            reap();
            let now = Instant::now();
            let found = with_tasks(|tasks| {
                let mut ready = Vec::with_capacity(tasks.len());
                let mut first: Option<Instant> = None;
                for (place, slot) in tasks.iter().enumerate() {
                    let asleep = match slot.sim.station {
                        Station::Asleep(until) if until.is_none_or(|until| until > now) => {
                            first = first.into_iter().chain(until).min();
                            !slot.waker.has_notice()
                        }
                        _ => false,
                    };
                    if slot.task.is_some() && !asleep {
                        ready.push(Choice {
                            place,
                            name: slot.sim.name,
                            weight: slot.sim.weight,
                        });
                    }
                }
                (ready, first)
            });
            let (ready, first) = found.unwrap_or_default();
            if ready.is_empty() {
                sim::pass(first.into_iter().chain(deadline).min());
                return;
            }
            match next(now, &ready) {
                Some(Some(stepped)) => {
                    stepped.step(now);
                }
                Some(None) => {}
                None => return,
            }
        }
    }

    /// Drops every task of this thread: a simulation begins or ends.
    pub(crate) fn clear() {
        while let Some(slot) = with_tasks(Vec::pop).flatten() {
            drop(slot);
        }
    }
}
