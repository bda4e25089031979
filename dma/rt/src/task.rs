//! Tasks: what runs beside its caller. A `step(now)` that never blocks, and a way to wake it.
//! On a thread of its own, on its caller's thread, or under the simulation's scheduler.
use crate::local::{LocalId, Removed};
use crate::{Instant, local};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What a task says after one step.
///
/// How a task uses it is shown at [`Task`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was done; there may be more.
    Busy,
    /// Nothing to do before `until` (for ever, if `None`) unless the task is woken.
    Idle {
        /// When to step again though nobody woke the task.
        until: Option<Instant>,
    },
    /// The task has ended and is not stepped again.
    Done,
}

/// Something that runs beside its caller, in steps that never block.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering::{Acquire, Release}};
/// use underpin_rt::{Instant, Step, Task, spawn, wait};
///
/// /// Doubles each number that is put into its letter box; ends with a 0.
/// struct Doubler(Arc<[AtomicU32; 2]>);
///
/// impl Task for Doubler {
///     fn step(&mut self, _now: Instant) -> Step {
///         match self.0[0].swap(u32::MAX, Acquire) {
///             u32::MAX => Step::Idle { until: None },
///             0 => Step::Done,
///             number => {
///                 self.0[1].store(2 * number, Release);
///                 Step::Busy
///             }
///         }
///     }
/// }
///
/// let letters = Arc::new([const { AtomicU32::new(u32::MAX) }; 2]);
/// let task = spawn("doubler", Box::new(Doubler(Arc::clone(&letters))))?;
/// let waker = task.waker();
/// letters[0].store(21, Release);
/// waker.wake();
/// assert!(wait(None, |_now| (letters[1].load(Acquire) == 42).then_some(())).is_ok());
///
/// letters[0].store(0, Release);
/// waker.wake();
/// assert!(wait(None, |_now| task.has_ended().then_some(())).is_ok());
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Task: Send + 'static {
    /// Does one piece of work and says what comes next.
    fn step(&mut self, now: Instant) -> Step;

    /// Called before the task's thread sleeps: publish what shall wake it, fence, and look again.
    /// True when there is still nothing to do; false calls the sleep off.
    ///
    /// A wake-up between this call and the sleep is not lost: the [`Waker`] remembers it.
    fn before_sleep(&mut self) -> bool {
        true
    }
}

const AWAKE: u32 = 0;
#[cfg_attr(underpin_sim, allow(dead_code))]
const ASLEEP: u32 = 1;
const NOTIFIED: u32 = 2;

#[derive(Debug)]
struct Shared {
    /// AWAKE, ASLEEP or NOTIFIED: a wake-up is remembered until the task's next look.
    state: AtomicU32,
    stop: AtomicBool,
    ended: AtomicBool,
    /// The task's own thread, once it runs; a local task has none.
    #[cfg(not(underpin_sim))]
    thread: std::sync::OnceLock<std::thread::Thread>,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU32::new(AWAKE),
            stop: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            #[cfg(not(underpin_sim))]
            thread: std::sync::OnceLock::new(),
        })
    }
}

/// Wakes a task from any thread. Cheap to clone; waking an ended task does nothing.
///
/// ```
/// use underpin_rt::Waker;
///
/// // State that wakes its task can be built before there is one.
/// let mut waker = Waker::noop();
/// waker.wake();
/// # struct Idle;
/// # impl underpin_rt::Task for Idle {
/// #     fn step(&mut self, _now: underpin_rt::Instant) -> underpin_rt::Step {
/// #         underpin_rt::Step::Idle { until: None }
/// #     }
/// # }
/// let task = underpin_rt::spawn_local("idle", Box::new(Idle));
/// waker = task.waker();
/// waker.wake();
/// assert!(!task.has_ended());
/// ```
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

impl Waker {
    /// Wakes the task: it will be stepped at least once after this call. Writes made before the
    /// call are seen by that step.
    pub fn wake(&self) {
        let before = self.0.state.swap(NOTIFIED, Ordering::SeqCst);
        #[cfg(not(underpin_sim))]
        if before == ASLEEP
            && let Some(thread) = self.0.thread.get()
        {
            thread.unpark();
        }
        #[cfg(underpin_sim)]
        let _ = before;
    }

    /// A waker that wakes nothing, for state that is built before its task.
    pub fn noop() -> Self {
        Self(Shared::new())
    }

    /// Takes a remembered wake-up.
    pub(crate) fn take_notice(&self) -> bool {
        self.0.state.swap(AWAKE, Ordering::SeqCst) == NOTIFIED
    }

    /// True when a wake-up is remembered.
    #[cfg(underpin_sim)]
    pub(crate) fn has_notice(&self) -> bool {
        self.0.state.load(Ordering::SeqCst) == NOTIFIED
    }

    pub(crate) fn stop_asked(&self) -> bool {
        self.0.stop.load(Ordering::Acquire)
    }
}

/// Sets "ended" when the task and all that it owned are gone, whichever way that came about.
#[derive(Debug)]
pub(crate) struct EndMark(Arc<Shared>);

impl Drop for EndMark {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

/// The task has not ended when the call returns, so nothing is proven about what it may still
/// touch. It will end after its present step.
///
/// ```
/// use underpin_rt::NotJoined;
///
/// assert!(NotJoined.to_string().contains("has not ended yet"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJoined;

impl std::fmt::Display for NotJoined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the task was asked to end but has not ended yet")
    }
}

impl std::error::Error for NotJoined {}

/// How long a handle waits for another thread to end a local task.
const JOIN_LIMIT: std::time::Duration = if cfg!(test) {
    std::time::Duration::from_millis(200)
} else {
    std::time::Duration::from_secs(10)
};

/// A running task. Dropping the handle stops and joins the task.
///
/// ```
/// use underpin_rt::{Instant, Step, Task, spawn};
/// use std::sync::Arc;
///
/// /// Owns something for as long as it runs.
/// struct Keeper(Arc<()>);
///
/// impl Task for Keeper {
///     fn step(&mut self, _now: Instant) -> Step {
///         Step::Idle { until: None }
///     }
/// }
///
/// let kept = Arc::new(());
/// let task = spawn("keeper", Box::new(Keeper(Arc::clone(&kept))))?;
/// assert!(!task.has_ended());
/// task.join()?;
/// assert_eq!(Arc::strong_count(&kept), 1, "it and what it owned are gone");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TaskHandle {
    shared: Arc<Shared>,
    /// Which task of which thread; `None` for a task with a thread of its own.
    local: Option<LocalId>,
    #[cfg(not(underpin_sim))]
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TaskHandle {
    /// Something that wakes the task.
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.shared))
    }

    /// True when the task has ended and everything that it owned has been dropped.
    pub fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// Stops the task after its present step and waits until it and what it owned are gone.
    ///
    /// # Errors
    /// [`NotJoined`] when a local task lives on another thread that does not step it for 10 s, or
    /// when the task itself is the caller: called by its own step, by one that its step waits
    /// for, or while its thread ends.
    pub fn join(mut self) -> Result<(), NotJoined> {
        self.end()
    }

    fn end(&mut self) -> Result<(), NotJoined> {
        self.shared.stop.store(true, Ordering::Release);
        self.waker().wake();
        #[cfg(not(underpin_sim))]
        if let Some(thread) = self.thread.take() {
            // The last handle may lie in what the task owns: a thread cannot wait for itself.
            if thread.thread().id() == std::thread::current().id() {
                return Err(NotJoined);
            }
            // A panic of the task was printed by its thread; it is gone either way.
            let _ = thread.join();
        }
        let Some(id) = self.local.take() else {
            return Ok(());
        };
        match local::remove(id) {
            Removed::Gone => Ok(()),
            Removed::Stepping => Err(NotJoined),
            Removed::NotListed if self.has_ended() => Ok(()),
            Removed::NotListed if id.is_of_this_thread() => Err(NotJoined),
            Removed::NotListed => {
                let deadline = Instant::now() + JOIN_LIMIT;
                crate::wait(Some(deadline), |_| self.has_ended().then_some(()))
                    .map_err(|_| NotJoined)
            }
        }
    }
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Runs `task` on a thread of its own; in a simulated build, under the scheduler.
///
/// # Errors
/// What the operating system says when it grants no further thread.
///
/// Shown at [`Task`].
pub fn spawn(name: &str, task: Box<dyn Task>) -> std::io::Result<TaskHandle> {
    #[cfg(underpin_sim)]
    {
        Ok(spawn_local(name, task))
    }
    #[cfg(not(underpin_sim))]
    {
        let shared = Shared::new();
        let waker = Waker(Arc::clone(&shared));
        let running = Running {
            task,
            _mark: EndMark(Arc::clone(&shared)),
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run_on_thread(running, &waker))?;
        let _ = shared.thread.set(thread.thread().clone());
        Ok(TaskHandle {
            shared,
            local: None,
            thread: Some(thread),
        })
    }
}

/// Runs `task` on the calling thread, stepped whenever that thread is inside
/// [`wait`](crate::wait). For measuring without a second thread, and for simulation.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
/// use underpin_rt::{Instant, Step, Task, spawn_local, wait};
///
/// struct Counter(Arc<AtomicU32>);
///
/// impl Task for Counter {
///     fn step(&mut self, _now: Instant) -> Step {
///         self.0.fetch_add(1, Relaxed);
///         Step::Busy
///     }
/// }
///
/// let count = Arc::new(AtomicU32::new(0));
/// let task = spawn_local("counter", Box::new(Counter(Arc::clone(&count))));
/// assert_eq!(count.load(Relaxed), 0, "nobody waits, so nothing runs");
/// assert!(wait(None, |_now| (count.load(Relaxed) >= 3).then_some(())).is_ok());
/// task.join()?;
/// # Ok::<(), underpin_rt::NotJoined>(())
/// ```
pub fn spawn_local(name: &str, task: Box<dyn Task>) -> TaskHandle {
    let shared = Shared::new();
    let waker = Waker(Arc::clone(&shared));
    let id = local::add(name, task, waker, EndMark(Arc::clone(&shared)));
    TaskHandle {
        shared,
        local: Some(id),
        #[cfg(not(underpin_sim))]
        thread: None,
    }
}

/// How long an idle task's thread yields, after spinning, before it sleeps. A wake-up costs tens
/// of microseconds, so a busy host that pauses briefly should find the task awake.
#[cfg(not(underpin_sim))]
const YIELD: std::time::Duration = std::time::Duration::from_micros(20);

/// A task and the mark of its end, which is dropped after it also when a step panics.
#[cfg(not(underpin_sim))]
struct Running {
    task: Box<dyn Task>,
    _mark: EndMark,
}

#[cfg(not(underpin_sim))]
fn run_on_thread(mut running: Running, waker: &Waker) {
    let shared = &*waker.0;
    let task = &mut running.task;
    // A wake-up that came before the thread knew itself must find it.
    let _ = shared.thread.set(std::thread::current());
    let mut idle_since: Option<Instant> = None;
    while !waker.stop_asked() {
        let now = Instant::now();
        match task.step(now) {
            Step::Done => break,
            Step::Busy => idle_since = None,
            Step::Idle { until } => {
                let since = *idle_since.get_or_insert(now);
                let idle = now.since(since);
                if idle < crate::wait::SPIN {
                    std::hint::spin_loop();
                } else if idle < crate::wait::SPIN + YIELD {
                    std::thread::yield_now();
                } else {
                    let notified = !task.before_sleep() || sleep_until(shared, until);
                    // A task that merely looks from time to time goes back to sleep at once, or
                    // spinning and yielding after each look would cost more than the looks.
                    if notified {
                        idle_since = None;
                    }
                }
            }
        }
    }
}

/// True when the sleep was ended, or kept from beginning, by a wake-up.
#[cfg(not(underpin_sim))]
fn sleep_until(shared: &Shared, until: Option<Instant>) -> bool {
    if shared
        .state
        .compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
    {
        // Unparking is remembered by the thread, so a wake-up between here and park is not lost;
        // park may return early, then the task merely looks once more.
        match until {
            None => std::thread::park(),
            Some(until) => std::thread::park_timeout(until.since(Instant::now())),
        }
    }
    // An exchange, not a store: the step that follows must see what was written before a
    // wake-up that this overwrites, and only whoever reads that wake-up sees it.
    shared.state.swap(AWAKE, Ordering::SeqCst) == NOTIFIED
}

#[cfg(all(test, not(underpin_sim)))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Rng, wait};
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;

    /// A hundred thousand times somebody writes and wakes while the sleeper looks, is about to
    /// sleep, sleeps, or wakes. One wake-up lost is a sleep for ever. What was written (relaxed:
    /// the waker alone orders it) is seen.
    #[test]
    fn no_wake_up_is_lost_at_the_edge_of_sleep() {
        const ROUNDS: u64 = 100_000;
        let shared = Shared::new();
        let waker = Waker(Arc::clone(&shared));
        let [posted, seen, sleeps] = [0; 3].map(|_| Arc::new(AtomicU64::new(0)));
        let sleeper = std::thread::spawn({
            let (posted, seen) = (Arc::clone(&posted), Arc::clone(&seen));
            let sleeps = Arc::clone(&sleeps);
            move || {
                let _ = shared.thread.set(std::thread::current());
                let mut rng = Rng::seeded(2);
                while seen.load(Relaxed) < ROUNDS {
                    let mail = posted.load(Relaxed);
                    if mail == seen.load(Relaxed) {
                        sleeps.fetch_add(1, Relaxed);
                        // Between the look and the sleep is where a wake-up could get lost.
                        for _ in 0..rng.below(100) {
                            std::hint::spin_loop();
                        }
                        sleep_until(&shared, None);
                    } else {
                        seen.store(mail, Relaxed);
                    }
                }
            }
        });
        let mut rng = Rng::seeded(1);
        for round in 1..=ROUNDS {
            for _ in 0..rng.below(400) {
                std::hint::spin_loop();
            }
            posted.store(round, Relaxed);
            waker.wake();
            let deadline = Instant::now() + Duration::from_secs(60);
            let answer = wait(Some(deadline), |_| {
                (seen.load(Relaxed) == round).then_some(())
            });
            assert_eq!(answer, Ok(()), "round {round} was slept through");
        }
        sleeper.join().unwrap();
        let sleeps = sleeps.load(Relaxed);
        assert!(sleeps > ROUNDS / 10, "it slept {sleeps} times only");
    }

    struct Idle;
    impl Task for Idle {
        fn step(&mut self, _: Instant) -> Step {
            Step::Idle { until: None }
        }
    }

    /// A thread that never waits cannot end its task: whoever joins gives up and says so, and the
    /// task ends later all the same.
    #[test]
    fn a_join_that_cannot_be_had_is_no_proof() {
        let (give, handle) = std::sync::mpsc::channel();
        let (go_on, gate) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            give.send(spawn_local("idle", Box::new(Idle))).unwrap();
            gate.recv().unwrap();
            let _ = wait(Some(Instant::START), |_| None::<()>);
            let deadline = Instant::now() + Duration::from_millis(1);
            let _ = wait(Some(deadline), |_| None::<()>);
            gate.recv().unwrap();
        });
        let task = handle.recv().unwrap();
        let shared = Arc::clone(&task.shared);
        assert_eq!(task.join(), Err(NotJoined));
        assert!(!shared.ended.load(Ordering::Acquire));
        go_on.send(()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let ended = || shared.ended.load(Ordering::Acquire);
        wait(Some(deadline), |_| ended().then_some(())).unwrap();
        go_on.send(()).unwrap();
        thread.join().unwrap();
    }
}
