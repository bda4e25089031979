//! The I/O loop: take a free unit, let the feed fill it, queue, commit, reap,
//! account. No allocation and no lock per I/O; two clock reads per batch.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Failure;
use crate::clock::Clock;
use crate::control::{Control, Progress, ThreadState};
use crate::engine::{Done, Engine, EngineError, Note, Op, Refused, Request, Unit};
use crate::stats::{Direction, JobStats, batch_class, depth_class};
use crate::sys::os::{self, Usage};

/// What a feed answers.
#[derive(Debug)]
pub(crate) enum Next {
    /// Do this.
    Issue(Request, Note),
    /// Not before something in flight is done.
    Wait,
    /// Nothing more.
    End,
}

/// Decides what the units do and looks at what came of it.
pub(crate) trait Feed<B> {
    /// The next I/O. `buffer` is the unit's, to be filled for a write.
    fn next(&mut self, buffer: &mut B) -> Next;
    /// An I/O moved all its bytes. An error ends the job.
    fn done(&mut self, request: &Request, note: &Note, buffer: &B) -> Result<(), Failure>;
    /// Whether `next` or `done` take so long (filling, checking) that the time
    /// of the last batch will not do as the start of the next I/O.
    fn is_costly(&self) -> bool;
    /// Whether the sequence came round since the last call.
    fn take_wrapped(&mut self) -> bool {
        false
    }
}

/// Why a phase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The feed has nothing more.
    Finished,
    /// The run is being stopped.
    Interrupted,
    /// `runtime` is over.
    Expired,
}

/// What a phase counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The job's own I/O.
    Io,
    /// Reading back.
    Verify,
    /// A flush that no option counted.
    Flush,
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Failure {
            errno: error.errno(),
            text: error.to_string(),
        }
    }
}

/// Limits of the loop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) batch_submit: u32,
    pub(crate) complete_min: u32,
    pub(crate) complete_max: u32,
}

/// When to measure and when to stop.
#[derive(Debug)]
pub(crate) struct Timing {
    pub(crate) clock: Clock,
    /// End of the ramp, while it lasts.
    pub(crate) ramp_end_ns: Option<u64>,
    /// Length of the measured time.
    pub(crate) runtime_ns: Option<u64>,
    /// Start of the measured time.
    pub(crate) epoch_ns: u64,
    /// Start of the phase, or of its measured part.
    phase_start_ns: u64,
}

impl Timing {
    /// Starts now.
    pub(crate) fn new(clock: Clock, ramp_ns: u64, runtime_ns: Option<u64>) -> Self {
        let now = clock.now_ns();
        Self {
            clock,
            ramp_end_ns: (ramp_ns > 0).then(|| now.saturating_add(ramp_ns)),
            runtime_ns,
            epoch_ns: now,
            phase_start_ns: now,
        }
    }

    fn expired(&self, now: u64) -> bool {
        self.ramp_end_ns.is_none()
            && self
                .runtime_ns
                .is_some_and(|runtime| now.saturating_sub(self.epoch_ns) >= runtime)
    }
}

/// The loop with its engine, units and counts.
pub(crate) struct Pump<'a, E: Engine> {
    pub(crate) engine: E,
    idle: Vec<Unit<E::Buffer>>,
    /// Units to offer before any other: refused ones, and short transfers.
    deferred: Vec<Unit<E::Buffer>>,
    done: Vec<Done<E::Buffer>>,
    /// Tags queued since the last commit.
    batch: Vec<u32>,
    /// When each tag was committed.
    issue_ns: Vec<u64>,
    in_flight: u32,
    limits: Limits,
    phase: Phase,
    pub(crate) stats: JobStats,
    pub(crate) timing: Timing,
    usage_at_epoch: Usage,
    control: Arc<Control>,
    progress: Arc<Progress>,
    /// Totals since the beginning, the ramp included, for the status line.
    moved_bytes: [u64; 2],
    moved_ios: [u64; 2],
    seen_snapshot: u32,
    on_snapshot: &'a mut dyn FnMut(Box<JobStats>),
}

impl<'a, E: Engine> Pump<'a, E> {
    /// A loop over `units` (as many as the depth).
    #[allow(clippy::too_many_arguments, reason = "built in one place")]
    pub(crate) fn new(
        engine: E,
        units: Vec<Unit<E::Buffer>>,
        limits: Limits,
        stats: JobStats,
        timing: Timing,
        control: Arc<Control>,
        progress: Arc<Progress>,
        on_snapshot: &'a mut dyn FnMut(Box<JobStats>),
    ) -> Self {
        let depth = units.len();
        let seen_snapshot = control.snapshot_number();
        Self {
            engine,
            deferred: Vec::with_capacity(depth),
            done: Vec::with_capacity(depth),
            batch: Vec::with_capacity(depth),
            issue_ns: vec![0; depth],
            idle: units,
            in_flight: 0,
            limits,
            phase: Phase::Io,
            stats,
            timing,
            usage_at_epoch: os::thread_usage(),
            control,
            progress,
            moved_bytes: [0; 2],
            moved_ios: [0; 2],
            seen_snapshot,
            on_snapshot,
        }
    }

    /// Runs one phase until the feed ends, the time is over, the run is stopped,
    /// or an I/O fails. Nothing is in flight afterwards.
    pub(crate) fn run<F: Feed<E::Buffer>>(
        &mut self,
        feed: &mut F,
        phase: Phase,
    ) -> Result<Ending, Failure> {
        let mut now = self.timing.clock.now_ns();
        self.timing.phase_start_ns = now;
        self.phase = phase;
        self.progress.set_state(match phase {
            Phase::Io if self.timing.ramp_end_ns.is_some() => ThreadState::Ramp,
            Phase::Io => ThreadState::Running,
            Phase::Verify => ThreadState::Verifying,
            Phase::Flush => ThreadState::Syncing,
        });
        let bytes_before = self.stats.directions.each_ref().map(|counts| counts.bytes);
        let mut ending = None;
        let mut failure: Option<Failure> = None;
        loop {
            if ending.is_none() {
                ending = self.reason_to_end(now);
            }
            self.end_ramp(now);
            let mut waiting = false;
            if ending.is_none() || !self.deferred.is_empty() {
                match self.fill(feed, now, ending.is_some()) {
                    Filled::Some => {}
                    Filled::Waiting => waiting = true,
                    Filled::End => ending = ending.or(Some(Ending::Finished)),
                }
            }
            if !self.batch.is_empty() {
                now = self.commit(now)?;
            }
            if self.in_flight == 0 {
                if let Some(ending) = ending {
                    self.close_phase(now, bytes_before);
                    return failure.map_or(Ok(ending), Err);
                }
                if waiting {
                    return Err(Failure {
                        errno: libc::EBUSY,
                        text: "the engine takes no I/O although none is in flight".to_owned(),
                    });
                }
                continue;
            }
            let nothing_to_issue = waiting || ending.is_some() || self.idle.is_empty();
            let min = if nothing_to_issue {
                // With complete_min = 0 this polls.
                self.limits.complete_min.min(self.in_flight)
            } else {
                0
            };
            self.engine
                .reap(min, self.limits.complete_max, &mut self.done)?;
            if self.done.is_empty() {
                now = self.timing.clock.now_ns();
                continue;
            }
            now = self.timing.clock.now_ns();
            self.stats.completed[batch_class(self.done.len() as u32)] += 1;
            while let Some(done) = self.done.pop() {
                if let Err(error) = self.finish(feed, done, now) {
                    ending = Some(Ending::Finished);
                    failure.get_or_insert(error);
                }
            }
            if feed.is_costly() {
                now = self.timing.clock.now_ns();
            }
            if feed.take_wrapped() {
                self.engine.drop_caches();
            }
            self.progress.publish(self.moved_bytes, self.moved_ios);
            if self.control.snapshot_number() != self.seen_snapshot {
                self.send_snapshot(now, bytes_before);
            }
        }
    }

    fn reason_to_end(&self, now: u64) -> Option<Ending> {
        if self.phase == Phase::Flush {
            None
        } else if self.control.stopping() {
            Some(Ending::Interrupted)
        } else if self.timing.expired(now) {
            Some(Ending::Expired)
        } else {
            None
        }
    }

    /// Measuring starts when the ramp is over: forget what was counted.
    fn end_ramp(&mut self, now: u64) {
        if self.timing.ramp_end_ns.is_some_and(|end| now >= end) {
            self.timing.ramp_end_ns = None;
            self.timing.epoch_ns = now;
            self.timing.phase_start_ns = now;
            self.stats.reset();
            self.usage_at_epoch = os::thread_usage();
            self.engine.restart();
            self.progress.set_state(ThreadState::Running);
        }
    }

    /// Queues as much as fits in a batch. With `only_deferred`, no new I/O.
    fn fill<F: Feed<E::Buffer>>(&mut self, feed: &mut F, now: u64, only_deferred: bool) -> Filled {
        while (self.batch.len() as u32) < self.limits.batch_submit {
            let unit = match self.deferred.pop() {
                Some(unit) => unit,
                None if only_deferred => return Filled::End,
                None => {
                    let Some(mut unit) = self.idle.pop() else {
                        return Filled::Some;
                    };
                    let start_ns = if feed.is_costly() {
                        self.timing.clock.now_ns()
                    } else {
                        now
                    };
                    match feed.next(&mut unit.buffer) {
                        Next::Issue(request, note) => {
                            unit.request = request;
                            unit.note = Note { start_ns, ..note };
                            unit
                        }
                        Next::Wait => {
                            self.idle.push(unit);
                            return Filled::Waiting;
                        }
                        Next::End => {
                            self.idle.push(unit);
                            return Filled::End;
                        }
                    }
                }
            };
            let (tag, start_ns, op) = (unit.tag, unit.note.start_ns, unit.request.op);
            match self.engine.queue(unit) {
                Ok(()) => {
                    self.in_flight += 1;
                    self.batch.push(tag);
                    if matches!(op, Op::Read | Op::Write) {
                        self.stats.depth[depth_class(self.in_flight)] += 1;
                    }
                    if let Some(issue_ns) = self.issue_ns.get_mut(tag as usize) {
                        *issue_ns = start_ns;
                    }
                }
                Err(Refused::Busy(unit)) => {
                    self.deferred.push(unit);
                    return Filled::Waiting;
                }
            }
        }
        Filled::Some
    }

    fn commit(&mut self, now: u64) -> Result<u64, Failure> {
        self.engine.commit()?;
        self.stats.submitted[batch_class(self.batch.len() as u32)] += 1;
        let now = if E::COMPLETES_IN_QUEUE {
            now
        } else {
            let committed = self.timing.clock.now_ns();
            for tag in &self.batch {
                if let Some(issue_ns) = self.issue_ns.get_mut(*tag as usize) {
                    *issue_ns = committed;
                }
            }
            committed
        };
        self.batch.clear();
        Ok(now)
    }

    /// Accounts for a unit that came back and frees it, or offers the rest of a
    /// short transfer again.
    #[inline]
    fn finish<F: Feed<E::Buffer>>(
        &mut self,
        feed: &mut F,
        done: Done<E::Buffer>,
        now: u64,
    ) -> Result<(), Failure> {
        let Done { mut unit, result } = done;
        self.in_flight -= 1;
        let request = unit.request;
        let direction = match request.op {
            Op::Read => Direction::Read,
            Op::Write => Direction::Write,
            Op::Flush | Op::DataFlush => {
                let outcome = result.map_err(|error| Failure {
                    errno: error.errno,
                    text: format!("flush failed: {}", error.text),
                });
                let issue_ns = self.issued_at(&unit);
                self.idle.push(unit);
                outcome?;
                if self.phase != Phase::Flush {
                    self.stats.sync.record(now.saturating_sub(issue_ns));
                }
                return Ok(());
            }
        };
        let moved = match result {
            Ok(moved) => moved.min(request.len_bytes),
            Err(error) => {
                self.idle.push(unit);
                return Err(failed_io(direction, &request, error.errno, &error.text));
            }
        };
        if moved < request.len_bytes {
            if moved == 0 {
                self.idle.push(unit);
                let (errno, text) = match direction {
                    Direction::Read => (libc::EIO, "end of file"),
                    Direction::Write => (libc::ENOSPC, "nothing was written"),
                };
                return Err(failed_io(direction, &request, errno, text));
            }
            self.stats.direction_mut(direction).short_ios += 1;
            unit.request.offset += u64::from(moved);
            unit.request.skip_bytes += moved;
            unit.request.len_bytes -= moved;
            self.deferred.push(unit);
            return Ok(());
        }
        let bytes = u64::from(request.skip_bytes) + u64::from(moved);
        let issue_ns = self.issued_at(&unit);
        self.stats.record_io(
            direction,
            unit.note.start_ns,
            issue_ns,
            now,
            !E::COMPLETES_IN_QUEUE,
        );
        self.stats.direction_mut(direction).bytes += bytes;
        self.moved_bytes[direction as usize] += bytes;
        self.moved_ios[direction as usize] += 1;
        let outcome = feed.done(&request, &unit.note, &unit.buffer);
        self.idle.push(unit);
        outcome
    }

    #[inline]
    fn issued_at(&self, unit: &Unit<E::Buffer>) -> u64 {
        self.issue_ns
            .get(unit.tag as usize)
            .copied()
            .unwrap_or(unit.note.start_ns)
    }

    /// Adds the phase's time to the directions that it measured.
    fn close_phase(&mut self, now: u64, bytes_before: [u64; 2]) {
        let elapsed = now.saturating_sub(self.timing.phase_start_ns);
        add_runtime(&mut self.stats, self.phase, elapsed, bytes_before);
        self.progress.publish(self.moved_bytes, self.moved_ios);
    }

    fn send_snapshot(&mut self, now: u64, bytes_before: [u64; 2]) {
        self.seen_snapshot = self.control.snapshot_number();
        let mut stats = Box::new(self.stats.clone());
        let elapsed = now.saturating_sub(self.timing.phase_start_ns);
        add_runtime(&mut stats, self.phase, elapsed, bytes_before);
        stats.runtime_ns = now.saturating_sub(self.timing.epoch_ns);
        stats.usage = os::thread_usage().since(&self.usage_at_epoch);
        stats.pins = self.engine.pins();
        (self.on_snapshot)(stats);
    }

    /// The final counts.
    pub(crate) fn into_stats(mut self) -> JobStats {
        let now = self.timing.clock.now_ns();
        if self.timing.ramp_end_ns.is_some() {
            // The job ended within its ramp: nothing was measured.
            self.stats.reset();
            self.timing.epoch_ns = now;
            self.usage_at_epoch = os::thread_usage();
            self.engine.restart();
        }
        self.stats.pins = self.engine.pins();
        self.stats.runtime_ns = now.saturating_sub(self.timing.epoch_ns);
        self.stats.usage = os::thread_usage().since(&self.usage_at_epoch);
        self.stats
    }
}

enum Filled {
    Some,
    Waiting,
    End,
}

fn add_runtime(stats: &mut JobStats, phase: Phase, elapsed: u64, bytes_before: [u64; 2]) {
    if phase == Phase::Flush {
        return;
    }
    for direction in Direction::ALL {
        let counts = stats.direction_mut(direction);
        // After the ramp the counts start over, below what they were.
        if counts.bytes > 0 && counts.bytes != bytes_before[direction as usize] {
            counts.runtime_ns += elapsed;
        }
    }
}

fn failed_io(direction: Direction, request: &Request, errno: i32, text: &str) -> Failure {
    Failure {
        errno,
        text: format!(
            "{} of {} bytes at byte offset {} failed: {text}",
            direction.name(),
            request.len_bytes,
            request.offset
        ),
    }
}
