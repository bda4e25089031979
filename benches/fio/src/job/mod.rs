//! A job as the run needs it: every option typed, checked against the others,
//! with defaults filled in.

#![forbid(unsafe_code)]

mod resolve;
mod target;
#[cfg(test)]
mod tests;
mod value;

use crate::options::Origin;
use crate::options::units::{Amount, KbBase};
use crate::stats::{Direction, PercentileKinds};

pub(crate) use resolve::{Jobs, resolve};
pub(crate) use target::Target;

/// How I/O is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineKind {
    Psync,
    IoUring,
    Underpin,
    UnderpinFile,
}

impl EngineKind {
    /// Name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EngineKind::Psync => "psync",
            EngineKind::IoUring => "io_uring",
            EngineKind::Underpin => "underpin",
            EngineKind::UnderpinFile => "underpin-file",
        }
    }

    /// Whether `filename=` is a device URL.
    pub(crate) fn takes_device(self) -> bool {
        matches!(self, EngineKind::Underpin | EngineKind::UnderpinFile)
    }
}

/// Which directions a job has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    Read,
    Write,
    Both,
}

/// The value of `rw=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pattern {
    pub(crate) mix: Mix,
    pub(crate) random: bool,
    /// Random: I/Os from one random place. 1 unless `rw=randread:8`.
    pub(crate) run_length: u32,
    /// Sequential: bytes left out after each I/O (`rw=write:4k`).
    pub(crate) skip_bytes: u64,
}

impl Pattern {
    /// Whether the job reads, apart from verification.
    pub(crate) fn reads(self) -> bool {
        self.mix != Mix::Write
    }

    /// Whether the job writes.
    pub(crate) fn writes(self) -> bool {
        self.mix != Mix::Read
    }

    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        match (self.mix, self.random) {
            (Mix::Read, false) => "read",
            (Mix::Write, false) => "write",
            (Mix::Both, false) => "rw",
            (Mix::Read, true) => "randread",
            (Mix::Write, true) => "randwrite",
            (Mix::Both, true) => "randrw",
        }
    }
}

/// One job, before cloning.
#[derive(Debug, Clone)]
pub(crate) struct JobSpec {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) origin: Origin,
    pub(crate) engine: EngineKind,
    /// As given; empty if names are to be made up.
    pub(crate) filename: String,
    pub(crate) directory: String,
    /// The file whose pages the device reads and writes; for `underpin-file`.
    pub(crate) target: Option<Target>,
    /// Memory of that file's cache.
    pub(crate) cache_bytes: u64,
    pub(crate) always_copy: bool,
    pub(crate) nr_files: u32,
    pub(crate) pattern: Pattern,
    /// By direction.
    pub(crate) block_bytes: [u32; 2],
    pub(crate) size: Option<Amount>,
    pub(crate) filesize: Option<Amount>,
    pub(crate) io_size: Option<Amount>,
    pub(crate) offset: Amount,
    pub(crate) offset_increment: Amount,
    pub(crate) number_ios: Option<u64>,
    pub(crate) loops: u64,
    pub(crate) numjobs: u32,
    pub(crate) iodepth: u32,
    pub(crate) batch_submit: Option<u32>,
    pub(crate) batch_complete_min: u32,
    pub(crate) batch_complete_max: Option<u32>,
    pub(crate) direct: bool,
    pub(crate) invalidate: bool,
    pub(crate) fixed_buffers: bool,
    pub(crate) interrupts: bool,
    pub(crate) register_files: bool,
    pub(crate) runtime_ns: Option<u64>,
    pub(crate) time_based: bool,
    pub(crate) ramp_ns: u64,
    pub(crate) start_delay_ns: u64,
    pub(crate) stonewall: bool,
    pub(crate) new_group: bool,
    pub(crate) group_reporting: bool,
    /// Percentage of reads in a mix.
    pub(crate) mix_read: u32,
    pub(crate) random_map: bool,
    pub(crate) rand_repeat: bool,
    pub(crate) all_rand_repeat: bool,
    pub(crate) rand_seed: Option<u64>,
    pub(crate) verify: bool,
    pub(crate) do_verify: bool,
    pub(crate) verify_only: bool,
    pub(crate) verify_fatal: bool,
    pub(crate) verify_interval: Option<u32>,
    pub(crate) fsync_every: u64,
    pub(crate) fdatasync_every: u64,
    pub(crate) end_fsync: bool,
    pub(crate) create_on_open: bool,
    pub(crate) unlink: bool,
    pub(crate) percentile_kinds: PercentileKinds,
    pub(crate) percentiles: Vec<f64>,
    pub(crate) kb_base: KbBase,
    /// The options given in the job itself, for the JSON report.
    pub(crate) given: Vec<(&'static str, String)>,
}

impl JobSpec {
    fn new(name: &str, origin: Origin) -> Self {
        Self {
            name: name.to_owned(),
            description: String::new(),
            origin,
            engine: EngineKind::Psync,
            filename: String::new(),
            directory: String::new(),
            target: None,
            cache_bytes: 64 << 20,
            always_copy: false,
            nr_files: 1,
            pattern: Pattern {
                mix: Mix::Read,
                random: false,
                run_length: 1,
                skip_bytes: 0,
            },
            block_bytes: [4096; 2],
            size: None,
            filesize: None,
            io_size: None,
            offset: Amount::Bytes(0),
            offset_increment: Amount::Bytes(0),
            number_ios: None,
            loops: 1,
            numjobs: 1,
            iodepth: 1,
            batch_submit: None,
            batch_complete_min: 1,
            batch_complete_max: None,
            direct: false,
            invalidate: true,
            fixed_buffers: false,
            interrupts: false,
            register_files: false,
            runtime_ns: None,
            time_based: false,
            ramp_ns: 0,
            start_delay_ns: 0,
            stonewall: false,
            new_group: false,
            group_reporting: false,
            mix_read: 50,
            random_map: true,
            rand_repeat: true,
            all_rand_repeat: false,
            rand_seed: None,
            verify: false,
            do_verify: true,
            verify_only: false,
            verify_fatal: false,
            verify_interval: None,
            fsync_every: 0,
            fdatasync_every: 0,
            end_fsync: false,
            create_on_open: false,
            unlink: false,
            percentile_kinds: PercentileKinds {
                submission: false,
                completion: true,
                total: false,
            },
            percentiles: vec![
                1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 99.5,
                99.9, 99.95, 99.99,
            ],
            kb_base: KbBase::Binary,
            given: Vec::new(),
        }
    }

    /// Bytes per I/O of a direction.
    pub(crate) fn block(&self, direction: Direction) -> u32 {
        self.block_bytes[direction as usize]
    }

    /// Bytes between verify headers within a written block.
    pub(crate) fn header_interval(&self) -> u32 {
        let block = if self.pattern.writes() {
            self.block(Direction::Write)
        } else {
            self.block(Direction::Read)
        };
        match self.verify_interval {
            Some(interval) if interval < block && block.is_multiple_of(interval) => interval,
            _ => block,
        }
    }

    /// Whether written blocks carry headers.
    pub(crate) fn writes_headers(&self) -> bool {
        self.verify && self.pattern.writes() && !self.verify_only
    }

    /// Whether a phase of reading back follows the writing.
    pub(crate) fn reads_back(&self) -> bool {
        self.verify && self.do_verify && self.pattern.writes()
    }

    /// Whether every block read is checked as it comes (jobs that only read).
    pub(crate) fn checks_reads(&self) -> bool {
        self.verify && !self.pattern.writes()
    }

    /// Whether the device is written at all.
    pub(crate) fn touches_media(&self) -> bool {
        self.pattern.writes() && !(self.verify && self.verify_only)
    }

    /// Whether something is written that `fsync=` makes durable: what a device reads into a file
    /// is written to the file.
    pub(crate) fn has_to_sync(&self) -> bool {
        self.pattern.writes() || self.engine == EngineKind::UnderpinFile
    }

    /// The files or the device of clone number `clone`, by full name.
    pub(crate) fn targets(&self, clone: u32) -> Vec<String> {
        if self.engine.takes_device() {
            return vec![self.filename.clone()];
        }
        let in_directory = |name: &str| {
            if self.directory.is_empty() || name.starts_with('/') {
                name.to_owned()
            } else {
                format!("{}/{name}", self.directory.trim_end_matches('/'))
            }
        };
        if self.filename.is_empty() {
            return (0..self.nr_files)
                .map(|file| in_directory(&format!("{}.{clone}.{file}", self.name)))
                .collect();
        }
        split_names(&self.filename)
            .iter()
            .map(|name| {
                in_directory(
                    &name
                        .replace("$jobname", &self.name)
                        .replace("$jobnum", &clone.to_string()),
                )
            })
            .collect()
    }
}

/// Splits at ':'; `\:` is a colon.
fn split_names(text: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.peek() == Some(&':') => {
                letters.next();
                if let Some(name) = names.last_mut() {
                    name.push(':');
                }
            }
            ':' => names.push(String::new()),
            other => {
                if let Some(name) = names.last_mut() {
                    name.push(other);
                }
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}
