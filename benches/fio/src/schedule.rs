//! The main thread during a run: starts wave after wave, samples rates, draws
//! the status line, collects results.

#![forbid(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::clock;
use crate::control::{Progress, ThreadState};
use crate::layout;
use crate::log::complain;
use crate::plan::{Plan, PlannedThread};
use crate::report::disks::DiskWatch;
use crate::report::status::StatusLine;
use crate::report::{RunReport, ThreadResult};
use crate::run::{self, Environment, Failure, Outcome};
use crate::stats::{Direction, JobStats, Moments, RateSeries};

/// How often the main thread looks at signals and clocks.
const TICK: Duration = Duration::from_millis(25);
/// Distance of bandwidth and IOPS samples, as in fio.
const SAMPLE_NS: u64 = 500_000_000;
/// Longest wait for the statistics of a thread that is stuck in an I/O.
const SNAPSHOT_WAIT_NS: u64 = 500_000_000;

/// How the run talks while it is on.
pub(crate) struct Watching<'a> {
    pub(crate) status: StatusLine,
    /// Print a report every so often.
    pub(crate) status_interval_ns: Option<u64>,
    pub(crate) on_report: &'a mut dyn FnMut(&RunReport),
    /// Takes single lines such as "Laying out …".
    pub(crate) tell: &'a mut dyn FnMut(String),
}

enum Event {
    Snapshot(usize, Box<JobStats>),
    Ended(usize, Box<Outcome>),
}

/// Runs everything; what was measured is in the report, whatever happened.
pub(crate) fn execute(
    plan: &Plan,
    environment: &Environment,
    mut watching: Watching<'_>,
    global_options: &[(&'static str, String)],
) -> RunReport {
    let threads: Vec<&PlannedThread> = plan.threads().collect();
    let disks = DiskWatch::start(threads.iter().map(|thread| (&*thread.spec, thread.clone)));
    let (sender, receiver) = channel();
    let mut desk = Desk {
        watches: threads
            .iter()
            .map(|thread| ThreadWatch::new(thread))
            .collect(),
        environment,
        receiver,
        disks,
        global_options,
        next_report_ns: watching.status_interval_ns,
        told_of_stop: false,
    };
    if desk.lay_out(watching.tell) {
        let mut first = 0;
        for wave in &plan.waves {
            if environment.control.stopping() {
                break;
            }
            desk.run_wave(wave, first, &sender, &mut watching);
            first += wave.len();
        }
    }
    watching.status.clear();
    desk.tell_of_stop(watching.tell);
    desk.report()
}

/// What the main thread knows of one job thread.
struct ThreadWatch {
    planned: PlannedThread,
    progress: Arc<Progress>,
    sampler: Sampler,
    latest: Option<Box<JobStats>>,
    outcome: Option<Box<Outcome>>,
}

impl ThreadWatch {
    fn new(planned: &PlannedThread) -> Self {
        Self {
            planned: planned.clone(),
            progress: Arc::new(Progress::default()),
            sampler: Sampler::default(),
            latest: None,
            outcome: None,
        }
    }

    fn result(&self) -> ThreadResult {
        let empty = || JobStats::new(self.planned.spec.percentile_kinds);
        let mut outcome = match (&self.outcome, &self.latest) {
            (Some(outcome), _) => (**outcome).clone(),
            (None, Some(stats)) => Outcome {
                stats: (**stats).clone(),
                failure: None,
                tid: std::process::id(),
            },
            (None, None) => Outcome {
                stats: empty(),
                failure: None,
                tid: std::process::id(),
            },
        };
        for direction in Direction::ALL {
            let counts = outcome.stats.direction_mut(direction);
            counts.bandwidth_kib = self.sampler.bandwidth(direction);
            counts.iops = self.sampler.iops(direction);
        }
        ThreadResult {
            planned: self.planned.clone(),
            outcome,
        }
    }
}

/// Samples of one thread's rates.
#[derive(Debug, Default)]
struct Sampler {
    last_ns: u64,
    last_bytes: [u64; 2],
    last_ios: [u64; 2],
    bandwidth_kib: [Moments; 2],
    iops: [Moments; 2],
}

impl Sampler {
    fn look(&mut self, now: u64, progress: &Progress) {
        let (bytes, ios) = progress.totals();
        match progress.state() {
            ThreadState::Running | ThreadState::Verifying if self.last_ns > 0 => {
                let elapsed = now - self.last_ns;
                if elapsed < SAMPLE_NS {
                    return;
                }
                for direction in 0..2 {
                    let moved = bytes[direction] - self.last_bytes[direction];
                    let done = ios[direction] - self.last_ios[direction];
                    if moved > 0 {
                        self.bandwidth_kib[direction].record(per_second(moved, elapsed) / 1024);
                        self.iops[direction].record(per_second(done, elapsed));
                    }
                }
            }
            // Not measured yet: the next sample starts here.
            _ => {}
        }
        self.last_ns = now.max(1);
        self.last_bytes = bytes;
        self.last_ios = ios;
    }

    fn bandwidth(&self, direction: Direction) -> RateSeries {
        RateSeries::from(&self.bandwidth_kib[direction as usize])
    }

    fn iops(&self, direction: Direction) -> RateSeries {
        RateSeries::from(&self.iops[direction as usize])
    }
}

/// `count` in `elapsed` ns, per second.
fn per_second(count: u64, elapsed: u64) -> u64 {
    (u128::from(count) * 1_000_000_000 / u128::from(elapsed.max(1))) as u64
}

struct Desk<'a> {
    watches: Vec<ThreadWatch>,
    environment: &'a Environment,
    receiver: Receiver<Event>,
    disks: DiskWatch,
    global_options: &'a [(&'static str, String)],
    next_report_ns: Option<u64>,
    told_of_stop: bool,
}

impl Desk<'_> {
    /// Lays out the files of all jobs; false if that failed for one.
    fn lay_out(&mut self, tell: &mut dyn FnMut(String)) -> bool {
        for watch in &mut self.watches {
            let PlannedThread { spec, clone, .. } = &watch.planned;
            if spec.create_on_open {
                continue;
            }
            if let Err(error) = layout::lay_out(spec, *clone, &self.environment.control, tell) {
                let errno = error.source.raw_os_error().unwrap_or(libc::EINVAL);
                let failure = Failure {
                    errno,
                    text: error.to_string(),
                };
                complain!("{}", failure.text);
                watch.outcome = Some(Box::new(Outcome {
                    stats: JobStats::new(spec.percentile_kinds),
                    failure: Some(failure),
                    tid: std::process::id(),
                }));
                return false;
            }
        }
        true
    }

    fn run_wave(
        &mut self,
        wave: &[PlannedThread],
        first: usize,
        sender: &Sender<Event>,
        watching: &mut Watching<'_>,
    ) {
        let mut left = 0;
        let mut handles = Vec::new();
        for (index, thread) in (first..).zip(wave) {
            match self.start(index, thread, sender) {
                Ok(handle) => {
                    handles.push(handle);
                    left += 1;
                }
                Err(error) => {
                    let failure = Failure {
                        errno: error.raw_os_error().unwrap_or(libc::EAGAIN),
                        text: format!("cannot start a thread: {error}"),
                    };
                    self.ended(index, failed_outcome(thread, failure));
                }
            }
        }
        while left > 0 {
            match self.receiver.recv_timeout(TICK) {
                Ok(Event::Ended(index, outcome)) => {
                    self.ended(index, outcome);
                    left -= 1;
                }
                Ok(Event::Snapshot(index, stats)) => self.keep(index, stats),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            left -= self.tick(watching);
        }
        for handle in handles {
            // A panic was already turned into an outcome.
            let _ = handle.join();
        }
        for thread in wave.iter().filter(|thread| thread.spec.unlink) {
            layout::remove(&thread.spec, thread.clone);
        }
    }

    fn start(
        &self,
        index: usize,
        thread: &PlannedThread,
        sender: &Sender<Event>,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        let thread = thread.clone();
        let environment = self.environment.clone();
        let progress = match self.watches.get(index) {
            Some(watch) => Arc::clone(&watch.progress),
            None => Arc::default(),
        };
        let sender = sender.clone();
        let name = thread.spec.name.clone();
        clock::spawn(&name, move || {
            let snapshots = sender.clone();
            let mut on_snapshot = |stats| {
                let _ = snapshots.send(Event::Snapshot(index, stats));
            };
            let run = || run::run_thread(&thread, &environment, &progress, &mut on_snapshot);
            let outcome = match catch_unwind(AssertUnwindSafe(run)) {
                Ok(outcome) => Box::new(outcome),
                Err(_) => {
                    progress.set_state(ThreadState::Failed);
                    failed_outcome(
                        &thread,
                        Failure {
                            errno: libc::EFAULT,
                            text: "the job thread panicked; this is a bug of underpin-fio"
                                .to_owned(),
                        },
                    )
                }
            };
            let _ = sender.send(Event::Ended(index, outcome));
        })
    }

    fn keep(&mut self, index: usize, stats: Box<JobStats>) {
        if let Some(watch) = self.watches.get_mut(index) {
            watch.latest = Some(stats);
        }
    }

    fn ended(&mut self, index: usize, outcome: Box<Outcome>) {
        let Some(watch) = self.watches.get_mut(index) else {
            return;
        };
        if let Some(failure) = &outcome.failure {
            complain!("{}: {}", watch.planned.spec.name, failure.text);
        }
        watch.outcome = Some(outcome);
    }

    /// Regular work; returns how many threads ended meanwhile.
    fn tick(&mut self, watching: &mut Watching<'_>) -> usize {
        self.tell_of_stop(watching.tell);
        let now = self.environment.clock.now_ns();
        for watch in &mut self.watches {
            watch.sampler.look(now, &watch.progress);
        }
        let threads = self
            .watches
            .iter()
            .map(|watch| (&*watch.planned.spec, &*watch.progress));
        watching.status.draw(now, threads);
        if self.next_report_ns.is_none_or(|due| now < due) {
            return 0;
        }
        self.next_report_ns = watching
            .status_interval_ns
            .map(|interval| now.saturating_add(interval));
        let ended = self.collect_snapshots();
        (watching.on_report)(&self.report());
        ended
    }

    /// Says once, and at once, that a signal was seen: the I/O in flight may take its time.
    fn tell_of_stop(&mut self, tell: &mut dyn FnMut(String)) {
        if self.environment.control.stopping() && !std::mem::replace(&mut self.told_of_stop, true) {
            tell(
                "\nunderpin-fio: terminating on signal, when the I/O in flight has ended; \
                 a second signal leaves at once, without a report"
                    .to_owned(),
            );
        }
    }

    /// Asks all active threads for their counts; returns how many ended instead.
    fn collect_snapshots(&mut self) -> usize {
        let mut ended = 0;
        let mut waiting: usize = self
            .watches
            .iter()
            .filter(|watch| watch.outcome.is_none() && watch.progress.state().is_active())
            .count();
        self.environment.control.request_snapshot();
        let deadline = self.environment.clock.now_ns() + SNAPSHOT_WAIT_NS;
        while waiting > 0 && self.environment.clock.now_ns() < deadline {
            match self.receiver.recv_timeout(TICK) {
                Ok(Event::Snapshot(index, stats)) => self.keep(index, stats),
                Ok(Event::Ended(index, outcome)) => {
                    self.ended(index, outcome);
                    ended += 1;
                }
                Err(_) => continue,
            }
            waiting -= 1;
        }
        ended
    }

    fn report(&self) -> RunReport {
        RunReport::new(
            self.watches.iter().map(ThreadWatch::result).collect(),
            self.disks.since_start(self.environment.clock.now_ns()),
            self.global_options.to_vec(),
            self.environment.clock.now_ns(),
        )
    }
}

fn failed_outcome(thread: &PlannedThread, failure: Failure) -> Box<Outcome> {
    Box::new(Outcome {
        stats: JobStats::new(thread.spec.percentile_kinds),
        failure: Some(failure),
        tid: std::process::id(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample covers half a second of measured time, never the ramp.
    #[test]
    fn rates_are_sampled_every_half_second_outside_the_ramp() {
        let progress = Progress::default();
        let mut sampler = Sampler::default();
        progress.set_state(ThreadState::Ramp);
        progress.publish([1 << 30, 0], [1000, 0]);
        sampler.look(1_000_000_000, &progress);
        progress.set_state(ThreadState::Running);
        progress.publish([(1 << 30) + (1 << 20), 0], [1256, 0]);
        sampler.look(1_400_000_000, &progress);
        assert_eq!(sampler.bandwidth(Direction::Read).samples, 0);
        sampler.look(1_500_000_000, &progress);
        let bandwidth = sampler.bandwidth(Direction::Read);
        assert_eq!((bandwidth.samples, bandwidth.min), (1, 2048));
        assert_eq!(sampler.iops(Direction::Read).max, 512);
        assert_eq!(sampler.iops(Direction::Write).samples, 0);
    }
}
