//! The tasks that one thread carries, stepped from inside its waits.
//! In a simulated build this list is the whole world, stepped in an order drawn from the seed.
use crate::task::EndMark;
use crate::{Instant, Step, Task, Waker};
use std::cell::{Cell, RefCell};

struct Slot {
    id: u64,
    #[cfg_attr(not(underpin_sim), allow(dead_code))]
    name: String,
    /// Taken out while it is stepped, so that a step may add or remove tasks.
    task: Option<Box<dyn Task>>,
    waker: Waker,
    /// `Some(until)` while the task is idle.
    idle: Option<Option<Instant>>,
    /// Dropped last: says that the task is gone.
    _mark: EndMark,
}

thread_local! {
    static TASKS: RefCell<Vec<Slot>> = const { RefCell::new(Vec::new()) };
    static NEXT_ID: Cell<u64> = const { Cell::new(1) };
    /// How many tasks are listed: lets a wait on a thread without tasks skip the list.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Numbers are unique in the process, so that a handle never removes another thread's task.
fn fresh_id() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static BLOCKS: AtomicU64 = AtomicU64::new(1);
    NEXT_ID.with(|next| {
        if next.get() & 0xffff_ffff == 1 {
            next.set((BLOCKS.fetch_add(1, Ordering::Relaxed) << 32) | 1);
        }
        next.replace(next.get() + 1)
    })
}

pub(crate) fn add(name: &str, task: Box<dyn Task>, waker: Waker, mark: EndMark) -> u64 {
    let id = fresh_id();
    TASKS.with_borrow_mut(|tasks| {
        tasks.push(Slot {
            id,
            name: name.to_owned(),
            task: Some(task),
            waker,
            idle: None,
            _mark: mark,
        });
        COUNT.set(tasks.len());
    });
    id
}

/// Removes a task of this thread; one of another thread is left to that thread's next turn.
pub(crate) fn remove(id: u64) {
    // A thread that is ending has dropped its list, and with it the task.
    let slot = TASKS
        .try_with(|tasks| {
            let mut tasks = tasks.try_borrow_mut().ok()?;
            let at = tasks.iter().position(|slot| slot.id == id)?;
            let slot = tasks.remove(at);
            COUNT.set(tasks.len());
            Some(slot)
        })
        .ok()
        .flatten();
    drop(slot);
}

/// Drops the tasks that were asked to stop.
fn reap() {
    let ended: Vec<Slot> = TASKS.with_borrow_mut(|tasks| {
        let ended = tasks
            .extract_if(.., |slot| slot.waker.stop_asked())
            .collect();
        COUNT.set(tasks.len());
        ended
    });
    drop(ended);
}

fn step_one(index: usize, now: Instant) -> Step {
    let Some((id, mut task)) = TASKS.with_borrow_mut(|tasks| {
        let slot = tasks.get_mut(index)?;
        Some((slot.id, slot.task.take()?))
    }) else {
        return Step::Idle { until: None };
    };
    let step = task.step(now);
    TASKS.with_borrow_mut(|tasks| {
        if let Some(slot) = tasks.iter_mut().find(|slot| slot.id == id) {
            slot.task = Some(task);
            slot.idle = match step {
                Step::Busy => None,
                Step::Idle { until } => Some(until),
                Step::Done => Some(None),
            };
        }
    });
    if step == Step::Done {
        remove(id);
    }
    step
}

/// Tasks of this thread that could do something now. A woken task is ready.
fn ready(now: Instant) -> Vec<usize> {
    TASKS.with_borrow_mut(|tasks| {
        let mut ready = Vec::with_capacity(tasks.len());
        for (index, slot) in tasks.iter_mut().enumerate() {
            let woken = slot.waker.take_notice();
            let idle = match slot.idle {
                None => false,
                Some(None) => true,
                Some(Some(until)) => until > now,
            };
            if woken || !idle {
                slot.idle = None;
                ready.push(index);
            }
        }
        ready
    })
}

/// Steps every task of this thread once, in order. True when any of them did something.
#[cfg(not(underpin_sim))]
pub(crate) fn turn(_deadline: Option<Instant>) -> bool {
    if COUNT.get() == 0 {
        return false;
    }
    reap();
    let now = Instant::now();
    let mut busy = false;
    for index in ready(now) {
        busy |= step_one(index, now) == Step::Busy;
    }
    // On one thread nobody else can ring: what a sleeping task would look at again is looked at
    // now, by stepping it at the next turn whether or not somebody woke it.
    TASKS.with_borrow_mut(|tasks| tasks.iter_mut().for_each(|slot| slot.idle = None));
    busy
}

/// Steps one ready task drawn from the seed, or lets virtual time pass to the next event.
#[cfg(underpin_sim)]
pub(crate) fn turn(deadline: Option<Instant>) -> bool {
    reap();
    let now = Instant::now();
    let ready = ready(now);
    if let Some(&index) = crate::sim::pick(&ready) {
        step_one(index, now);
        return true;
    }
    let next = TASKS.with_borrow(|tasks| tasks.iter().filter_map(|slot| slot.idle.flatten()).min());
    // A task about to sleep publishes what shall wake it and looks again, as on a thread.
    let restless = TASKS.with_borrow_mut(|tasks| {
        let mut restless = false;
        for slot in tasks.iter_mut() {
            if let Some(task) = slot.task.as_mut()
                && !task.before_sleep()
            {
                slot.idle = None;
                restless = true;
            }
        }
        restless
    });
    if !restless {
        crate::sim::pass(next.into_iter().chain(deadline).min());
    }
    restless
}

/// Drops every task of this thread: a simulation ends.
#[cfg(underpin_sim)]
pub(crate) fn clear() {
    let tasks = TASKS.take();
    COUNT.set(0);
    drop(tasks);
}
