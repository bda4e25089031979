//! The life of one job thread: wait, open, pass after pass of I/O, reading back,
//! close.

#![forbid(unsafe_code)]

mod feeds;
mod pump;
mod records;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::{self, Clock};
use crate::control::{Control, Progress, ThreadState};
use crate::engine::{CacheWish, Devices, Engine, Note, Op, OpenRequest, Request, Unit};
use crate::engine::{psync::Psync, underpin::Underpin, underpin_file::UnderpinFile, uring::Uring};
use crate::generate::{Generator, Region};
use crate::job::{EngineKind, JobSpec};
use crate::layout;
use crate::log::complain;
use crate::options::units::Amount;
use crate::plan::PlannedThread;
use crate::random::{self, Random, Seeds};
use crate::stats::{Direction, JobStats};
use feeds::{Checker, FlushFeed, IoFeed, Quota, Stamping, VerifyFeed};
use pump::{Ending, Limits, Phase, Pump, Timing};
use records::Records;

/// What ended a job early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// As in `errno.h`.
    pub(crate) errno: i32,
    /// Names the place and says what to do.
    pub(crate) text: String,
}

/// What a job thread hands back.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) stats: JobStats,
    pub(crate) failure: Option<Failure>,
    /// Thread id, for the report.
    pub(crate) tid: u32,
}

/// What all job threads of a run share.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pub(crate) clock: Clock,
    pub(crate) control: Arc<Control>,
    pub(crate) devices: Arc<Devices>,
    /// Seed of what is not to repeat.
    pub(crate) entropy: u64,
}

/// Runs the job to its end on the calling thread.
pub(crate) fn run_thread(
    thread: &PlannedThread,
    environment: &Environment,
    progress: &Arc<Progress>,
    on_snapshot: &mut dyn FnMut(Box<JobStats>),
) -> Outcome {
    progress.set_state(ThreadState::Setup);
    let run = match thread.spec.engine {
        EngineKind::Psync => run_on::<Psync>,
        EngineKind::IoUring => run_on::<Uring>,
        EngineKind::Underpin => run_on::<Underpin>,
        EngineKind::UnderpinFile => run_on::<UnderpinFile>,
    };
    let mut outcome = Outcome {
        stats: JobStats::new(thread.spec.percentile_kinds),
        failure: None,
        tid: thread_id(),
    };
    if let Err(failure) = run(
        thread,
        environment,
        progress,
        on_snapshot,
        &mut outcome.stats,
    ) {
        outcome.failure = Some(failure);
    }
    progress.set_state(if outcome.failure.is_some() {
        ThreadState::Failed
    } else {
        ThreadState::Ended
    });
    outcome
}

/// The kernel's number of this thread; the process's if `/proc` is not there.
fn thread_id() -> u32 {
    std::fs::read_link("/proc/thread-self")
        .ok()
        .and_then(|link| link.file_name()?.to_str()?.parse().ok())
        .unwrap_or_else(std::process::id)
}

/// Waits for `startdelay` in small steps, so that Ctrl-C is not kept waiting.
fn delay(spec: &JobSpec, environment: &Environment) {
    let end = environment
        .clock
        .now_ns()
        .saturating_add(spec.start_delay_ns);
    loop {
        let left = end.saturating_sub(environment.clock.now_ns());
        if left == 0 || environment.control.stopping() {
            return;
        }
        clock::sleep(Duration::from_nanos(left).min(Duration::from_millis(20)));
    }
}

fn run_on<E: Engine>(
    thread: &PlannedThread,
    environment: &Environment,
    progress: &Arc<Progress>,
    on_snapshot: &mut dyn FnMut(Box<JobStats>),
    result: &mut JobStats,
) -> Result<(), Failure> {
    let spec = &*thread.spec;
    delay(spec, environment);
    if environment.control.stopping() {
        return Ok(());
    }
    if spec.create_on_open {
        let control = &environment.control;
        layout::lay_out(spec, thread.clone, control, &mut |_| {}).map_err(|error| Failure {
            errno: error.source.raw_os_error().unwrap_or(libc::EINVAL),
            text: error.without_job(),
        })?;
        if control.stopping() {
            return Ok(());
        }
    }
    let targets = spec.targets(thread.clone);
    let depth = if E::COMPLETES_IN_QUEUE {
        1
    } else {
        spec.iodepth
    };
    let buffer_bytes = spec.block_bytes[0].max(spec.block_bytes[1]);
    let mut engine = E::open(
        &OpenRequest {
            targets: &targets,
            write: spec.touches_media(),
            direct: spec.direct,
            depth,
            buffer_bytes,
            fixed_buffers: spec.fixed_buffers,
            interrupts: spec.interrupts,
            register_files: spec.register_files,
            file_target: spec.target.as_ref().map(|target| {
                let wish = CacheWish {
                    bytes: spec.cache_bytes,
                    always_copy: spec.always_copy,
                };
                (target, wish)
            }),
            with_bytes: spec.verify,
        },
        &environment.devices,
    )?;
    progress
        .files
        .store(targets.len() as u32, Ordering::Relaxed);
    let regions = regions(spec, thread.clone, &targets, &engine)?;
    engine.cover(&regions)?;
    let units = units(spec, &mut engine, depth, buffer_bytes)?;
    if spec.invalidate {
        engine.drop_caches();
    }
    let limits = Limits {
        batch_submit: spec.batch_submit.unwrap_or(depth).clamp(1, depth),
        complete_min: spec.batch_complete_min.min(depth),
        complete_max: spec.batch_complete_max.unwrap_or(depth).clamp(1, depth),
    };
    let timing = Timing::new(environment.clock, spec.ramp_ns, spec.runtime_ns);
    progress.began_ns.store(timing.epoch_ns, Ordering::Relaxed);
    let pump = Pump::new(
        engine,
        units,
        limits,
        JobStats::new(spec.percentile_kinds),
        timing,
        Arc::clone(&environment.control),
        Arc::clone(progress),
        on_snapshot,
    );
    let mut passes = Passes {
        spec,
        thread,
        regions: &regions,
        targets: &targets,
        seeds: Seeds::new(
            thread.number,
            spec.rand_seed,
            spec.rand_repeat,
            spec.all_rand_repeat,
            environment.entropy,
        ),
        pump,
        progress,
    };
    let outcome = passes.run();
    let in_ramp = passes.pump.timing.ramp_end_ns.is_some();
    *result = passes.pump.into_stats();
    if in_ramp && outcome.is_ok() && !environment.control.stopping() {
        complain!(
            "{}: the job ended within its ramp_time, so nothing was measured",
            spec.name
        );
    }
    outcome
}

/// Makes the units and fills their buffers once, so that jobs without verify
/// write data that does not compress.
fn units<E: Engine>(
    spec: &JobSpec,
    engine: &mut E,
    depth: u32,
    buffer_bytes: u32,
) -> Result<Vec<Unit<E::Buffer>>, Failure> {
    use crate::engine::IoBuffer;
    let mut data = vec![0; buffer_bytes as usize];
    let mut units = Vec::with_capacity(depth as usize);
    for tag in 0..depth {
        let mut buffer = engine.buffer(buffer_bytes)?;
        if spec.touches_media() {
            random::fill(&mut data, u64::from(tag) + 1);
            buffer.copy_from(&data);
        }
        units.push(Unit {
            tag,
            request: Request {
                op: Op::Read,
                file: 0,
                offset: 0,
                len_bytes: 0,
                skip_bytes: 0,
            },
            note: Note::default(),
            buffer,
        });
    }
    engine.ready(&mut units)?;
    Ok(units)
}

/// The part of each file that the job covers, checked against the file.
fn regions<E: Engine>(
    spec: &JobSpec,
    clone: u32,
    targets: &[String],
    engine: &E,
) -> Result<Vec<Region>, Failure> {
    let invalid = |text: String| Failure {
        errno: libc::EINVAL,
        text,
    };
    let mut regions = Vec::with_capacity(targets.len());
    for (index, target) in targets.iter().enumerate() {
        let geometry = engine.geometry(index)?;
        let whole = geometry.len_bytes;
        let step = spec
            .offset_increment
            .of(whole)
            .checked_mul(u64::from(clone));
        let start = step
            .and_then(|step| step.checked_add(spec.offset.of(whole)))
            .ok_or_else(|| invalid("offset is larger than any file".to_owned()))?;
        let len = match spec.size.or(spec.filesize) {
            Some(Amount::Bytes(bytes)) if spec.size.is_some() => bytes / targets.len() as u64,
            Some(amount) => amount.of(whole),
            None => whole.saturating_sub(start),
        };
        // A share of the whole from an offset on cannot be more than the rest.
        let len = match spec.size.or(spec.filesize) {
            Some(Amount::Percent(_)) => len.min(whole.saturating_sub(start)),
            _ => len,
        };
        if start.checked_add(len).is_none_or(|end| end > whole) {
            return Err(invalid(format!(
                "{} has {whole} bytes, but the job goes from {start} to {}; lower size or offset",
                engine.limited_by().as_deref().unwrap_or(target),
                u128::from(start) + u128::from(len)
            )));
        }
        for direction in Direction::ALL {
            let used = match direction {
                Direction::Read => spec.pattern.reads() || spec.verify,
                Direction::Write => spec.pattern.writes(),
            };
            let block = spec.block(direction);
            if !used {
                continue;
            }
            if !block.is_multiple_of(geometry.block_bytes)
                || !start.is_multiple_of(u64::from(geometry.block_bytes))
            {
                return Err(invalid(format!(
                    "bs={block} and offset={start} must be multiples of the {} bytes that {target} \
                     takes at a time",
                    geometry.block_bytes
                )));
            }
            if u64::from(block) > len {
                return Err(invalid(if whole == 0 {
                    match engine.limited_by() {
                        Some(limit) => format!("{limit} has no room"),
                        None => format!("{target} is empty; give size=BYTES to make it larger"),
                    }
                } else {
                    format!("{target}: {len} bytes are less than one block of {block}")
                }));
            }
        }
        regions.push(Region { start, len });
    }
    Ok(regions)
}

/// The passes of a job over its region.
struct Passes<'a, 'p, E: Engine> {
    spec: &'a JobSpec,
    thread: &'a PlannedThread,
    regions: &'a [Region],
    targets: &'a [String],
    seeds: Seeds,
    pump: Pump<'p, E>,
    progress: &'a Progress,
}

impl<E: Engine> Passes<'_, '_, E> {
    fn quota(&self) -> Quota {
        let spec = self.spec;
        let region_bytes: u64 = self.regions.iter().map(|region| region.len).sum();
        let io_bytes = spec.io_size.map(|amount| amount.of(region_bytes));
        // Without a map, overwriting may go on to io_size before reading back.
        let free_writes = spec.pattern.random && spec.pattern.writes() && !spec.random_map;
        let pass_bytes = match io_bytes {
            Some(bytes) if free_writes => region_bytes.max(bytes),
            _ => region_bytes,
        };
        Quota {
            pass_bytes,
            total_bytes: io_bytes
                .filter(|_| !spec.time_based)
                .map(|bytes| bytes.saturating_mul(spec.loops)),
            passes: (!spec.time_based && io_bytes.is_none()).then_some(spec.loops),
            ios: spec.number_ios.map(|ios| ios.saturating_mul(spec.loops)),
        }
    }

    fn announce(&self, quota: &Quota) {
        let io = quota.total_bytes.or(quota
            .passes
            .map(|passes| passes.saturating_mul(quota.pass_bytes)));
        let read_back = if self.spec.reads_back() {
            match self.spec.pattern.reads() {
                true => u64::from(100 - self.spec.mix_read),
                false => 100,
            }
        } else {
            0
        };
        let total = io.map_or(0, |bytes| {
            let own = if self.spec.verify && self.spec.verify_only && self.spec.pattern.writes() {
                0
            } else {
                bytes
            };
            own.saturating_add((u128::from(bytes) * u128::from(read_back) / 100) as u64)
        });
        self.progress.target_bytes.store(total, Ordering::Relaxed);
    }

    fn run(&mut self) -> Result<(), Failure> {
        let spec = self.spec;
        let mut quota = self.quota();
        self.announce(&quota);
        let endless = spec.time_based && !spec.verify;
        let mut generator = Generator::new(spec, self.regions, self.seeds, endless);
        let write_block = spec.block(Direction::Write);
        let largest = spec.block_bytes[0].max(write_block);
        let mut checker = Checker::new(spec, self.targets, largest);
        let with_records = spec.reads_back() || spec.writes_headers();
        let mut records = Records::new(if with_records { self.regions } else { &[] }, write_block);
        let mut header_seeds = Random::new(self.seeds.verify);
        let mut ending = Ending::Finished;
        loop {
            generator.begin_pass();
            records.clear();
            if spec.rand_repeat {
                header_seeds = Random::new(self.seeds.verify);
            }
            let replay = spec.verify && spec.verify_only && spec.pattern.writes();
            if replay {
                quota = replay_writes(spec, &mut generator, &mut records, quota);
            } else {
                let stamping = spec.writes_headers().then(|| Stamping {
                    records: &mut records,
                    seeds: &mut header_seeds,
                    thread: self.thread.number as u16,
                    interval: spec.header_interval() as usize,
                    scratch: vec![0; largest as usize],
                });
                let checking = spec.checks_reads().then_some(&mut checker);
                let runs_on = !spec.verify || !spec.pattern.writes();
                let mut feed =
                    IoFeed::new(spec, &mut generator, quota, runs_on, stamping, checking);
                ending = self.pump.run(&mut feed, Phase::Io)?;
                quota = feed.quota_left();
                if spec.end_fsync && spec.has_to_sync() {
                    self.flush()?;
                }
            }
            if ending == Ending::Finished && spec.reads_back() {
                if !replay {
                    self.flush()?;
                }
                self.pump.engine.drop_caches();
                let mut feed = VerifyFeed::new(&records, &mut checker, write_block, !replay);
                ending = self.pump.run(&mut feed, Phase::Verify)?;
            }
            let another = spec.verify
                && spec.pattern.writes()
                && ending == Ending::Finished
                && records.written_bytes() > 0
                && quota.passes != Some(0)
                && quota.ios != Some(0)
                && quota
                    .total_bytes
                    .is_none_or(|left| left >= u64::from(write_block));
            if !another {
                break;
            }
        }
        if checker.bad_blocks > 0 {
            return Err(Failure {
                errno: libc::EILSEQ,
                text: match checker.bad_blocks {
                    1 => "1 bad block".to_owned(),
                    count => format!("{count} bad blocks"),
                },
            });
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let mut feed = FlushFeed::new(self.targets.len() as u32);
        self.pump.run(&mut feed, Phase::Flush).map(|_| ())
    }
}

/// Goes through the sequence without doing it, to know which blocks a run of
/// this job leaves written.
fn replay_writes(
    spec: &JobSpec,
    generator: &mut Generator,
    records: &mut Records,
    mut quota: Quota,
) -> Quota {
    let mut left = quota.pass_bytes.min(quota.total_bytes.unwrap_or(u64::MAX));
    while left > 0 && quota.ios != Some(0) {
        let Some(access) = generator.next() else {
            break;
        };
        let bytes = u64::from(access.len_bytes);
        left = left.saturating_sub(bytes);
        if let Some(ios) = &mut quota.ios {
            *ios -= 1;
        }
        if let Some(total) = &mut quota.total_bytes {
            *total = total.saturating_sub(bytes);
        }
        if access.direction == Direction::Write {
            records.complete(access.file, access.block, 0, 0);
        }
    }
    // Only what a pass leaves counts; later passes of a time-based job would
    // leave the same blocks.
    if spec.time_based {
        quota.passes = Some(1);
    }
    quota.passes = quota.passes.map(|passes| passes.saturating_sub(1));
    quota
}
