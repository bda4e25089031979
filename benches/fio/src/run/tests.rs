//! The whole life of a job on an engine in memory that misbehaves on demand.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use super::*;
use crate::engine::{Done, EngineError, Geometry, IoBuffer, IoFailure, Refused};
use crate::job::resolve;
use crate::options::ini::entry_from;
use crate::options::{Origin, Section};
use crate::plan::Plan;
use crate::sys::counting::allocations;

/// An engine whose "device URL" says what goes wrong: `vfio-user:short=3` cuts every
/// third transfer in half, `busy=4` takes four units at a time, `fail=7` fails the
/// seventh transfer, `lose=9` drops the ninth write, `reorder=1` moves
/// the data of a batch in reverse, `slow=1` takes a millisecond to submit.
struct Memory {
    media: Vec<u8>,
    queued: VecDeque<Unit<Vec<u8>>>,
    ready: VecDeque<Done<Vec<u8>>>,
    short: u64,
    busy: u64,
    fail: u64,
    lose: u64,
    reorder: bool,
    slow: bool,
    transfers: u64,
    writes: u64,
}

const MEDIA_BYTES: usize = 1 << 20;

impl IoBuffer for Vec<u8> {
    fn copy_from(&mut self, bytes: &[u8]) {
        self[..bytes.len()].copy_from_slice(bytes);
    }

    fn copy_to(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self[..bytes.len()]);
    }
}

impl Memory {
    fn perform(&mut self, unit: &mut Unit<Vec<u8>>) -> Result<u32, IoFailure> {
        let request = unit.request;
        self.transfers += 1;
        if self.transfers == self.fail {
            return Err(IoFailure {
                errno: libc::EIO,
                text: "as asked".to_owned(),
            });
        }
        let mut len = request.len_bytes as usize;
        if self.short > 0 && self.transfers.is_multiple_of(self.short) && len > 512 {
            len /= 2;
        }
        let at = request.offset as usize;
        let skip = request.skip_bytes as usize;
        match request.op {
            Op::Read => {
                unit.buffer[skip..skip + len].copy_from_slice(&self.media[at..at + len]);
            }
            Op::Write => {
                self.writes += 1;
                if self.writes != self.lose {
                    self.media[at..at + len].copy_from_slice(&unit.buffer[skip..skip + len]);
                }
            }
            Op::Flush | Op::DataFlush => {}
        }
        Ok(len as u32)
    }
}

impl Engine for Memory {
    type Buffer = Vec<u8>;
    const COMPLETES_IN_QUEUE: bool = false;

    fn open(request: &OpenRequest<'_>, _devices: &Devices) -> Result<Self, EngineError> {
        let text = request.targets[0].strip_prefix("vfio-user:").unwrap();
        let number = |key: &str| {
            text.split(',')
                .find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
                .map_or(0, |value| value.parse().unwrap())
        };
        Ok(Self {
            media: vec![0; MEDIA_BYTES],
            queued: VecDeque::with_capacity(request.depth as usize),
            ready: VecDeque::with_capacity(request.depth as usize),
            short: number("short"),
            busy: number("busy"),
            fail: number("fail"),
            lose: number("lose"),
            reorder: number("reorder") > 0,
            slow: number("slow") > 0,
            transfers: 0,
            writes: 0,
        })
    }

    fn geometry(&self, _file: usize) -> Result<Geometry, EngineError> {
        Ok(Geometry {
            len_bytes: MEDIA_BYTES as u64,
            block_bytes: 512,
        })
    }

    fn buffer(&mut self, len_bytes: u32) -> Result<Vec<u8>, EngineError> {
        Ok(vec![0; len_bytes as usize])
    }

    fn ready(&mut self, _units: &mut [Unit<Vec<u8>>]) -> Result<(), EngineError> {
        Ok(())
    }

    fn queue(&mut self, unit: Unit<Vec<u8>>) -> Result<(), Refused<Vec<u8>>> {
        let taken = (self.queued.len() + self.ready.len()) as u64;
        if self.busy > 0 && taken >= self.busy {
            return Err(Refused::Busy(unit));
        }
        self.queued.push_back(unit);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), EngineError> {
        if self.slow {
            clock::sleep(Duration::from_millis(1));
        }
        let first = self.ready.len();
        while let Some(mut unit) = if self.reorder {
            self.queued.pop_back()
        } else {
            self.queued.pop_front()
        } {
            let result = self.perform(&mut unit);
            let at = if self.reorder {
                first
            } else {
                self.ready.len()
            };
            self.ready.insert(at, Done { unit, result });
        }
        Ok(())
    }

    fn reap(
        &mut self,
        min: u32,
        max: u32,
        done: &mut Vec<Done<Vec<u8>>>,
    ) -> Result<(), EngineError> {
        // As late as allowed: only what is waited for completes.
        let count = (min.max(1).min(max) as usize).min(self.ready.len());
        done.extend(self.ready.drain(..count));
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A job must not leave while the device holds its buffers.
        assert!(self.queued.is_empty() && self.ready.is_empty());
    }
}

fn run(lines: &[&str]) -> (JobStats, Result<(), Failure>) {
    run_with(lines, &mut |_| {}, &Arc::new(Control::default()))
}

fn run_with(
    lines: &[&str],
    on_snapshot: &mut dyn FnMut(Box<JobStats>),
    control: &Arc<Control>,
) -> (JobStats, Result<(), Failure>) {
    let origin = Origin::Argument { index: 1 };
    let section = Section {
        name: "j".to_owned(),
        global: false,
        entries: std::iter::once(&"ioengine=underpin")
            .chain(lines)
            .map(|line| entry_from(line, origin.clone()))
            .collect(),
        origin,
        source: 1,
    };
    let specs = resolve(&[section], &[], &|_| None).unwrap().specs;
    let thread = Plan::new(specs).threads().next().unwrap().clone();
    let environment = Environment {
        clock: Clock::start(),
        control: Arc::clone(control),
        devices: Arc::new(Devices::default()),
        entropy: 0,
    };
    let mut stats = JobStats::new(thread.spec.percentile_kinds);
    let result = run_on::<Memory>(
        &thread,
        &environment,
        &Arc::new(Progress::default()),
        on_snapshot,
        &mut stats,
    );
    (stats, result)
}

fn ios(stats: &JobStats) -> [u64; 2] {
    Direction::ALL.map(|direction| stats.direction(direction).ios)
}

/// A transfer that stops halfway is continued where it stopped, and counts once.
#[test]
fn short_transfers_are_continued() {
    for rw in ["rw=write", "rw=randrw"] {
        let (stats, result) = run(&[
            "filename=vfio-user:short=3",
            rw,
            "bs=16k",
            "iodepth=4",
            "verify=crc32c",
        ]);
        result.unwrap();
        let write = stats.direction(Direction::Write);
        assert!(write.short_ios > 0 && write.ios > 0);
        assert_eq!(write.bytes, write.ios * 16_384);
        let read = stats.direction(Direction::Read);
        assert_eq!(read.bytes, read.ios * 16_384);
    }
}

/// An engine with fewer places than the depth slows the job, no more.
#[test]
fn a_busy_engine_is_offered_the_unit_again() {
    let (stats, result) = run(&[
        "filename=vfio-user:busy=3",
        "rw=randwrite",
        "iodepth=16",
        "verify=crc32c",
    ]);
    result.unwrap();
    assert_eq!(ios(&stats), [256, 256]);
    assert_eq!(
        stats.depth.iter().skip(2).sum::<u64>(),
        0,
        "never more than 3 in flight"
    );
}

/// The first error ends the job, says where it was, and waits for the rest (the
/// engine's own drop checks that).
#[test]
fn an_error_ends_the_job_with_nothing_in_flight() {
    let (stats, result) = run(&["filename=vfio-user:fail=7", "rw=read", "iodepth=8"]);
    let failure = result.unwrap_err();
    assert_eq!(failure.errno, libc::EIO);
    assert!(failure.text.contains("offset 24576"), "{}", failure.text);
    assert!(failure.text.contains("as asked"));
    assert!(ios(&stats)[0] < 256);
}

/// A write that the device confirmed and lost is found: on blank media, and on
/// media that hold an intact older write of the same job.
#[test]
fn lost_writes_are_found() {
    for (lose, loops) in [(9, "loops=1"), (256 + 9, "loops=2")] {
        let filename = format!("filename=vfio-user:lose={lose}");
        let (_, result) = run(&[&filename, "rw=write", "iodepth=4", "verify=crc32c", loops]);
        let failure = result.unwrap_err();
        assert_eq!(failure.errno, libc::EILSEQ);
        assert_eq!(failure.text, "1 bad block", "{loops}");
    }
    let (_, result) = run(&[
        "filename=vfio-user:lose=9",
        "rw=write",
        "verify=crc32c",
        "verify_fatal",
    ]);
    let failure = result.unwrap_err();
    assert!(
        failure.text.contains("byte offset 32768"),
        "{}",
        failure.text
    );
}

/// Two writes to one block are never in flight together, so the last one is what
/// is read back, whatever the depth.
#[test]
fn overlapping_writes_are_kept_apart() {
    let (stats, result) = run(&[
        "filename=vfio-user:reorder=1",
        "rw=randwrite",
        "norandommap",
        "size=32k",
        "io_size=64k",
        "iodepth=16",
        "verify=crc32c",
    ]);
    result.unwrap();
    assert_eq!(ios(&stats)[1], 16);
    assert!(ios(&stats)[0] <= 8);
}

/// Batches are what the options say.
#[test]
fn batches_keep_to_their_limits() {
    let lines = ["filename=vfio-user:x", "rw=read", "iodepth=16"];
    let (stats, _) = run(&[&lines[..], &["iodepth_batch=1"]].concat());
    assert_eq!(stats.submitted[1], 256);
    assert_eq!(stats.submitted.iter().sum::<u64>(), 256);
    let (stats, _) = run(&[&lines[..], &["iodepth_batch_complete_min=8"]].concat());
    assert_eq!(stats.completed[2], 256 / 8);
    let (stats, _) = run(&[
        &lines[..],
        &[
            "iodepth_batch_complete_min=8",
            "iodepth_batch_complete_max=2",
        ],
    ]
    .concat());
    assert_eq!(stats.completed[1], 256 / 2);
}

/// Time spent submitting is submission latency, of every I/O of the batch, and
/// not completion latency.
#[test]
fn submission_time_is_submission_latency() {
    let (stats, _) = run(&[
        "filename=vfio-user:slow=1",
        "rw=read",
        "iodepth=8",
        "size=64k",
    ]);
    let read = stats.direction(Direction::Read);
    let (submission, total) = (read.submission.moments, read.total.moments);
    assert_eq!(submission.samples, 16);
    assert!(submission.min >= 1_000_000, "{}", submission.min);
    let sum = submission.mean() + read.completion.moments.mean();
    assert!((total.mean() - sum).abs() < 1.0);
}

/// Flushes come after every so many writes, and are counted apart.
#[test]
fn flushes_are_counted_apart() {
    let (stats, result) = run(&[
        "filename=vfio-user:x",
        "rw=write",
        "fsync=16",
        "end_fsync=1",
    ]);
    result.unwrap();
    assert_eq!(stats.sync.moments.samples, 256 / 16);
    assert_eq!(ios(&stats), [0, 256]);
}

/// A hundred times the I/O makes not one allocation more.
#[test]
fn the_loop_does_not_allocate_per_io() {
    let count = |lines: &[&str]| {
        // The first run also pays for what a thread sets up once.
        run(lines).1.unwrap();
        let before = allocations();
        run(lines).1.unwrap();
        allocations() - before
    };
    for extra in ["verify=0", "fsync=4"] {
        let few = count(&[
            "filename=vfio-user:x",
            "rw=randrw",
            "norandommap",
            "iodepth=8",
            "io_size=64k",
            extra,
        ]);
        let many = count(&[
            "filename=vfio-user:x",
            "rw=randrw",
            "norandommap",
            "iodepth=8",
            "io_size=640m",
            "number_ios=1600",
            extra,
        ]);
        assert!(few > 0 && many <= few + 4, "{few} then {many}");
    }
}

/// A stop ends the job in between, and what was done is reported.
#[test]
fn a_stop_ends_the_job() {
    let control = Arc::new(Control::default());
    control.stop.store(true, Ordering::Relaxed);
    let (stats, result) = run_with(&["filename=vfio-user:x", "rw=read"], &mut |_| {}, &control);
    result.unwrap();
    assert_eq!(ios(&stats)[0], 0);
}

/// `number_ios` and time together: the first limit reached counts.
#[test]
fn the_first_limit_counts() {
    let (stats, _) = run(&[
        "filename=vfio-user:x",
        "rw=randread",
        "time_based",
        "runtime=60s",
        "number_ios=1000",
    ]);
    assert_eq!(ios(&stats)[0], 1000);
}
