//! Tasks: what runs beside its caller. A `step(now)` that never blocks, and a way to wake it.
//! On a thread of its own, on its caller's thread, or under the simulation's scheduler.
use crate::{Instant, local};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What a task says after one step.
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

/// The task did not end in time, so nothing is proven about what it may still touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJoined;

impl std::fmt::Display for NotJoined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the task did not end in time")
    }
}

impl std::error::Error for NotJoined {}

/// A running task. Dropping the handle stops and joins the task.
#[derive(Debug)]
pub struct TaskHandle {
    shared: Arc<Shared>,
    /// The local list's number for the task; `None` for a task with a thread of its own.
    local: Option<u64>,
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
    /// [`NotJoined`] when a local task lives on another thread that does not step it for 10 s.
    pub fn join(mut self) -> Result<(), NotJoined> {
        self.end()
    }

    fn end(&mut self) -> Result<(), NotJoined> {
        self.shared.stop.store(true, Ordering::Release);
        self.waker().wake();
        #[cfg(not(underpin_sim))]
        if let Some(thread) = self.thread.take() {
            // A panic of the task was printed by its thread; it is gone either way.
            let _ = thread.join();
        }
        if let Some(id) = self.local {
            local::remove(id);
            if !self.has_ended() {
                let deadline = Instant::now() + std::time::Duration::from_secs(10);
                crate::wait(Some(deadline), |_| self.has_ended().then_some(()))
                    .map_err(|_| NotJoined)?;
            }
        }
        Ok(())
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
pub fn spawn(name: &str, task: Box<dyn Task>) -> std::io::Result<TaskHandle> {
    #[cfg(underpin_sim)]
    {
        Ok(spawn_local(name, task))
    }
    #[cfg(not(underpin_sim))]
    {
        let shared = Shared::new();
        let waker = Waker(Arc::clone(&shared));
        let mark = EndMark(Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run_on_thread(task, &waker, mark))?;
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

#[cfg(not(underpin_sim))]
fn run_on_thread(mut task: Box<dyn Task>, waker: &Waker, mark: EndMark) {
    let shared = &*waker.0;
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
                } else if task.before_sleep() {
                    sleep_until(shared, until);
                    idle_since = None;
                } else {
                    idle_since = None;
                }
            }
        }
    }
    drop(task);
    drop(mark);
}

#[cfg(not(underpin_sim))]
fn sleep_until(shared: &Shared, until: Option<Instant>) {
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
    shared.state.store(AWAKE, Ordering::SeqCst);
}
