//! Tasks end when they are asked, wherever they are, and say so only when all they owned is gone.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use underpin_rt::sync::Mutex;
use underpin_rt::{Instant, NotJoined, Rng, Step, Task, TaskHandle, spawn, spawn_local, wait};

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(60))
}

/// Says when it is dropped, and on which thread.
#[derive(Default)]
struct Tomb(Arc<Mutex<Option<std::thread::ThreadId>>>);

impl Drop for Tomb {
    fn drop(&mut self) {
        *self.0.lock() = Some(std::thread::current().id());
    }
}

impl Tomb {
    fn witness(&self) -> Arc<Mutex<Option<std::thread::ThreadId>>> {
        Arc::clone(&self.0)
    }
}

/// Steps until it is stopped; `idle` decides what it answers.
struct Worker {
    steps: Arc<AtomicU64>,
    beds: Arc<AtomicU64>,
    idle: bool,
    _tomb: Tomb,
}

impl Worker {
    fn boxed(idle: bool) -> (Box<Self>, Arc<AtomicU64>, Arc<AtomicU64>) {
        let [steps, beds] = [0; 2].map(|_| Arc::new(AtomicU64::new(0)));
        let worker = Self {
            steps: Arc::clone(&steps),
            beds: Arc::clone(&beds),
            idle,
            _tomb: Tomb::default(),
        };
        (Box::new(worker), steps, beds)
    }
}

impl Task for Worker {
    fn step(&mut self, _: Instant) -> Step {
        self.steps.fetch_add(1, Relaxed);
        match self.idle {
            true => Step::Idle { until: None },
            false => Step::Busy,
        }
    }
    fn before_sleep(&mut self) -> bool {
        self.beds.fetch_add(1, Relaxed);
        true
    }
}

/// A task that sleeps for ever ends at once when it is joined, or its handle dropped; when the
/// call returns, all that it owned is gone.
#[test]
fn a_sleeping_task_ends() {
    for by_drop in [false, true] {
        let (worker, _, beds) = Worker::boxed(true);
        let tomb = worker._tomb.witness();
        let task = spawn("sleeper", worker).unwrap();
        wait(soon(), |_| (beds.load(Relaxed) > 0).then_some(())).unwrap();
        assert!(!task.has_ended());
        let waker = task.waker();
        if by_drop {
            drop(task);
        } else {
            task.join().unwrap();
        }
        assert!(tomb.lock().is_some());
        waker.wake();
    }
}

/// So does one that never rests, and one that ended by itself.
#[test]
fn a_busy_task_and_an_ended_one_end() {
    let (worker, steps, _) = Worker::boxed(false);
    let tomb = worker._tomb.witness();
    let task = spawn("busy", worker).unwrap();
    wait(soon(), |_| (steps.load(Relaxed) > 10).then_some(())).unwrap();
    task.join().unwrap();
    assert!(tomb.lock().is_some());

    struct Once(#[allow(dead_code)] Tomb);
    impl Task for Once {
        fn step(&mut self, _: Instant) -> Step {
            Step::Done
        }
    }
    let once = Once(Tomb::default());
    let tomb = once.0.witness();
    let task = spawn("once", Box::new(once)).unwrap();
    wait(soon(), |_| task.has_ended().then_some(())).unwrap();
    assert!(tomb.lock().is_some(), "ended before it was gone");
    task.join().unwrap();
}

/// Counts steps while it owns its own handle: the last one there is.
struct Selfish {
    own: Arc<Mutex<Option<TaskHandle>>>,
    let_go: Arc<AtomicBool>,
    answer: Arc<Mutex<Option<Result<(), NotJoined>>>>,
    ended_early: Arc<AtomicBool>,
    _tomb: Tomb,
}

impl Task for Selfish {
    fn step(&mut self, _: Instant) -> Step {
        if self.let_go.load(Acquire)
            && let Some(own) = self.own.lock().take()
        {
            let tomb = self._tomb.witness();
            *self.answer.lock() = Some(own.join());
            self.ended_early.store(tomb.lock().is_some(), Relaxed);
        }
        Step::Idle {
            until: Some(Instant::now() + Duration::from_micros(50)),
        }
    }
}

/// A task that lets go of its own handle does not wait for itself: it is told that it has not
/// ended, and ends after that step. On a thread of its own and on its caller's.
#[test]
fn a_task_may_drop_its_own_handle() {
    for local in [false, true] {
        let own = Arc::new(Mutex::new(None));
        let let_go = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(Mutex::new(None));
        let ended_early = Arc::new(AtomicBool::new(false));
        let selfish = Box::new(Selfish {
            own: Arc::clone(&own),
            let_go: Arc::clone(&let_go),
            answer: Arc::clone(&answer),
            ended_early: Arc::clone(&ended_early),
            _tomb: Tomb::default(),
        });
        let tomb = selfish._tomb.witness();
        let task = if local {
            spawn_local("selfish", selfish)
        } else {
            spawn("selfish", selfish).unwrap()
        };
        *own.lock() = Some(task);
        let_go.store(true, Release);
        wait(soon(), |_| answer.lock().is_some().then_some(())).unwrap();
        assert!(!local || tomb.lock().is_some(), "it ends after that step");
        wait(soon(), |_| tomb.lock().is_some().then_some(())).unwrap();
        assert_eq!(*answer.lock(), Some(Err(NotJoined)));
        assert!(!ended_early.load(Relaxed), "it was gone during its step");
    }
}

/// Looks, in its last moment, whether its handle says already that it is gone.
struct LastWords {
    handle: Arc<Mutex<Option<TaskHandle>>>,
    told: Arc<AtomicU64>,
    panics: bool,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(5));
        let ended = self.handle.lock().as_ref().map(TaskHandle::has_ended);
        let told = match ended {
            Some(false) => 1,
            _ => 2,
        };
        self.told.store(told, Release);
    }
}

impl Task for LastWords {
    fn step(&mut self, _: Instant) -> Step {
        if self.handle.lock().is_none() {
            return Step::Busy;
        }
        assert!(!self.panics, "as planned");
        Step::Done
    }
}

/// The end is told when nothing of the task is left, not before: however it ended, wherever.
#[test]
fn the_end_is_told_last() {
    for (local, panics) in [(false, false), (false, true), (true, false), (true, true)] {
        let handle = Arc::new(Mutex::new(None));
        let told = Arc::new(AtomicU64::new(0));
        let words = Box::new(LastWords {
            handle: Arc::clone(&handle),
            told: Arc::clone(&told),
            panics,
        });
        let task = if local {
            spawn_local("words", words)
        } else {
            spawn("words", words).unwrap()
        };
        *handle.lock() = Some(task);
        // A panic inside of a wait goes through to whoever waits.
        let _ =
            std::panic::catch_unwind(|| wait(soon(), |_| (told.load(Acquire) > 0).then_some(())));
        assert_eq!(told.load(Acquire), 1, "local {local}, panics {panics}");
        let task = handle.lock().take().unwrap();
        wait(soon(), |_| task.has_ended().then_some(())).unwrap();
    }
}

/// A local task is stepped inside of waits on its thread, in the middle of which it may be joined.
#[test]
fn a_local_task_lives_inside_of_waits() {
    let (worker, steps, _) = Worker::boxed(true);
    let tomb = worker._tomb.witness();
    let task = spawn_local("local", worker);
    assert_eq!(steps.load(Relaxed), 0);
    wait(soon(), |_| (steps.load(Relaxed) > 3).then_some(())).ok();
    task.waker().wake();
    let before = steps.load(Relaxed);
    wait(soon(), |_| (steps.load(Relaxed) > before).then_some(())).unwrap();
    task.join().unwrap();
    assert_eq!(*tomb.lock(), Some(std::thread::current().id()));
    let after = steps.load(Relaxed);
    let _ = wait::<()>(Some(Instant::now() + Duration::from_millis(1)), |_| None);
    assert_eq!(steps.load(Relaxed), after, "an ended task is not stepped");
}

/// Tasks that end and begin inside of each other's steps: every one is stepped, none twice at
/// once, and the one that a step removes is gone.
#[test]
fn steps_may_add_and_remove_tasks() {
    struct Parent {
        children: Vec<TaskHandle>,
        rng: Rng,
        steps: Arc<AtomicU64>,
        alive: Arc<AtomicU64>,
    }
    struct Child {
        steps: Arc<AtomicU64>,
        alive: Arc<AtomicU64>,
        left: u64,
    }
    impl Drop for Child {
        fn drop(&mut self) {
            self.alive.fetch_sub(1, Relaxed);
        }
    }
    impl Task for Child {
        fn step(&mut self, now: Instant) -> Step {
            self.steps.fetch_add(1, Relaxed);
            self.left -= 1;
            match self.left {
                0 => Step::Done,
                left if left % 2 == 0 => Step::Busy,
                _ => Step::Idle { until: Some(now) },
            }
        }
    }
    impl Task for Parent {
        fn step(&mut self, _: Instant) -> Step {
            if self.rng.chance(1, 2) {
                self.alive.fetch_add(1, Relaxed);
                let child = Child {
                    steps: Arc::clone(&self.steps),
                    alive: Arc::clone(&self.alive),
                    left: 1 + self.rng.below(20),
                };
                self.children.push(spawn_local("child", Box::new(child)));
            } else if !self.children.is_empty() {
                let at = usize::try_from(self.rng.below(self.children.len() as u64)).unwrap();
                self.children.swap_remove(at).join().unwrap();
            }
            assert!(self.alive.load(Relaxed) <= self.children.len() as u64);
            Step::Busy
        }
    }
    let steps = Arc::new(AtomicU64::new(0));
    let parents: Vec<_> = (0..3)
        .map(|seed| {
            let parent = Parent {
                children: Vec::new(),
                rng: Rng::seeded(seed),
                steps: Arc::clone(&steps),
                alive: Arc::default(),
            };
            spawn_local("parent", Box::new(parent))
        })
        .collect();
    let mut polls = 0;
    wait(soon(), |_| {
        polls += 1;
        (polls > 2000).then_some(())
    })
    .unwrap();
    assert!(steps.load(Relaxed) > 1000);
    parents
        .into_iter()
        .for_each(|parent| parent.join().unwrap());
}

/// In a simulated build one thread plays every part.
#[cfg(not(underpin_sim))]
mod threads {
    use super::*;
    use std::sync::mpsc;

    /// A mailbox that a task reads; the task is awake, about to sleep, or asleep when mail comes.
    struct Mailbox {
        posted: Arc<AtomicU64>,
        seen: Arc<AtomicU64>,
        beds: Arc<AtomicU64>,
    }
    impl Task for Mailbox {
        fn step(&mut self, _: Instant) -> Step {
            let posted = self.posted.load(Relaxed);
            if self.seen.swap(posted, Relaxed) == posted {
                Step::Idle { until: None }
            } else {
                Step::Busy
            }
        }
        fn before_sleep(&mut self) -> bool {
            let beds = self.beds.fetch_add(1, Relaxed);
            // Mail may come after the look and before the sleep.
            for _ in 0..beds % 500 {
                std::hint::spin_loop();
            }
            true
        }
    }

    /// Mail that comes at any moment between idle and asleep is read.
    #[test]
    fn no_wake_up_is_lost_between_idle_and_asleep() {
        let [posted, seen, beds] = [0; 3].map(|_| Arc::new(AtomicU64::new(0)));
        let task = spawn(
            "mailbox",
            Box::new(Mailbox {
                posted: Arc::clone(&posted),
                seen: Arc::clone(&seen),
                beds: Arc::clone(&beds),
            }),
        )
        .unwrap();
        let waker = task.waker();
        let (mut rng, mut sleeps) = (Rng::seeded(9), 0);
        for round in 1..=20_000 {
            let before = beds.load(Relaxed);
            posted.store(round, Relaxed);
            waker.wake();
            wait(soon(), |_| (seen.load(Relaxed) == round).then_some(()))
                .unwrap_or_else(|_| panic!("round {round} was slept through"));
            // Next time it is awake, about to sleep, or in bed already.
            if rng.chance(1, 4) {
                wait(soon(), |_| (beds.load(Relaxed) > before).then_some(())).unwrap();
                sleeps += 1;
            }
            for _ in 0..rng.below(2000) {
                std::hint::spin_loop();
            }
        }
        assert!(sleeps > 4000 && beds.load(Relaxed) >= sleeps);
        task.join().unwrap();
    }

    /// A local task joined by another thread is dropped by its own, inside of that thread's wait;
    /// a thread that does not wait is not proof, and the answer says so; a thread that ends takes
    /// its tasks with it.
    #[test]
    fn a_local_task_is_joined_from_another_thread() {
        let (give, handles) = mpsc::channel();
        let (tombs, tomb) = mpsc::channel();
        let (go_on, gate) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            for _ in 0..3 {
                let (worker, _, _) = Worker::boxed(true);
                tombs.send(worker._tomb.witness()).unwrap();
                give.send(spawn_local("local", worker)).unwrap();
            }
            // Waits until the first is joined, then does not wait any more.
            let first = wait(soon(), |_| gate.try_recv().ok());
            first.unwrap();
            gate.recv().unwrap();
            std::thread::current().id()
        });
        let (first, second, third) = (
            handles.recv().unwrap(),
            handles.recv().unwrap(),
            handles.recv().unwrap(),
        );
        let tombs: Vec<_> = tomb.iter().take(3).collect();
        first.join().unwrap();
        assert!(tombs[0].lock().is_some());
        go_on.send(()).unwrap();
        go_on.send(()).unwrap();
        let id = thread.join().unwrap();
        for tomb in &tombs {
            assert_eq!(*tomb.lock(), Some(id), "its own thread dropped it");
        }
        assert!(second.has_ended());
        second.join().unwrap();
        drop(third);
    }

    /// A panic ends the task, on its own thread and inside of a wait; the mark of the end comes
    /// after what the task owned is gone.
    #[test]
    fn a_panic_ends_a_task() {
        struct Panics(#[allow(dead_code)] SlowTomb);
        struct SlowTomb(Arc<AtomicBool>);
        impl Drop for SlowTomb {
            fn drop(&mut self) {
                std::thread::sleep(Duration::from_millis(20));
                self.0.store(true, Release);
            }
        }
        impl Task for Panics {
            fn step(&mut self, _: Instant) -> Step {
                panic!("as planned");
            }
        }
        let gone = Arc::new(AtomicBool::new(false));
        let task = spawn("panics", Box::new(Panics(SlowTomb(Arc::clone(&gone))))).unwrap();
        wait(soon(), |_| task.has_ended().then_some(())).unwrap();
        assert!(gone.load(Acquire), "ended before it was gone");
        task.join().unwrap();

        let gone = Arc::new(AtomicBool::new(false));
        let task = spawn_local("panics", Box::new(Panics(SlowTomb(Arc::clone(&gone)))));
        let caught = std::panic::catch_unwind(|| wait(soon(), |_| None::<()>));
        assert!(caught.is_err(), "the caller of the wait sees the panic");
        assert!(task.has_ended() && gone.load(Acquire));
        task.join().unwrap();
    }

    /// A thread that ends drops its tasks even where one owns the handle of another: nobody waits
    /// for what is being dropped, and nothing aborts.
    #[test]
    fn a_thread_ends_with_tasks_that_own_tasks() {
        struct Owner(
            #[allow(dead_code)] Option<TaskHandle>,
            #[allow(dead_code)] Tomb,
        );
        impl Task for Owner {
            fn step(&mut self, _: Instant) -> Step {
                Step::Idle { until: None }
            }
        }
        let tombs: Vec<_> = (0..3).map(|_| Tomb::default()).collect();
        let witnesses: Vec<_> = tombs.iter().map(Tomb::witness).collect();
        let (give, handles) = mpsc::channel();
        std::thread::spawn(move || {
            let mut handle = None;
            for tomb in tombs {
                handle = Some(spawn_local("owner", Box::new(Owner(handle, tomb))));
            }
            // The last handle outlives the thread; each task but the first owns another's.
            give.send(handle).unwrap();
        })
        .join()
        .unwrap();
        for witness in &witnesses {
            assert!(witness.lock().is_some());
        }
        drop(handles.recv().unwrap());
    }

    /// An idle task's own time brings it back, from sleep too.
    #[test]
    fn a_timed_task_is_stepped_again_without_a_wake_up() {
        struct Timed(Arc<AtomicU64>);
        impl Task for Timed {
            fn step(&mut self, now: Instant) -> Step {
                self.0.fetch_add(1, Relaxed);
                Step::Idle {
                    until: Some(now + Duration::from_micros(200)),
                }
            }
        }
        let steps = Arc::new(AtomicU64::new(0));
        let task = spawn("timed", Box::new(Timed(Arc::clone(&steps)))).unwrap();
        wait(soon(), |_| (steps.load(Relaxed) > 50).then_some(())).unwrap();
        task.join().unwrap();
    }
}
