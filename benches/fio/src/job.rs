//! A job as the run needs it: every option typed, checked against the others,
//! with defaults filled in.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use crate::options::ini::expand_environment;
use crate::options::suggest;
use crate::options::table::{self, Id, Kind, Known, OptionDef};
use crate::options::units::{self, Amount, KbBase};
use crate::options::{Entry, OptionError, Origin, Section};
use crate::stats::{Direction, PercentileKinds};

/// Threads a run may have; each has buffers and histograms.
const MAX_CLONES: u64 = 1024;
/// I/Os one thread may keep in flight.
const MAX_DEPTH: u64 = 65_536;
/// Bytes of one I/O: lengths on the wire are 32-bit.
const MAX_BLOCK_BYTES: u64 = 1 << 30;
/// Percentiles in a report, as in fio.
const MAX_PERCENTILES: usize = 20;

/// How I/O is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineKind {
    Psync,
    IoUring,
    Underpin,
}

impl EngineKind {
    /// Name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EngineKind::Psync => "psync",
            EngineKind::IoUring => "io_uring",
            EngineKind::Underpin => "underpin",
        }
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

    /// The files or the device of clone number `clone`, by full name.
    pub(crate) fn targets(&self, clone: u32) -> Vec<String> {
        if self.engine == EngineKind::Underpin {
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

/// All jobs of an invocation with what was said about them.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    pub(crate) specs: Vec<JobSpec>,
    /// Options of the global sections, for the JSON report.
    pub(crate) global_options: Vec<(&'static str, String)>,
    /// To be printed, one line each.
    pub(crate) warnings: Vec<String>,
}

/// Turns sections into jobs. `only` limits which sections of job files count;
/// all mistakes are reported, not only the first.
pub(crate) fn resolve(
    sections: &[Section],
    only: &[String],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Jobs, Vec<OptionError>> {
    let mut jobs = Jobs::default();
    let mut errors = Vec::new();
    let mut warned = BTreeSet::new();
    // Defaults of the command line reach into every job file, those of a job
    // file end with it.
    let mut command_line: Vec<&Entry> = Vec::new();
    let mut globals: Vec<&Entry> = Vec::new();
    let mut source = 0;
    let mut first_of_file = false;
    for section in sections {
        if section.source != source {
            first_of_file = source > 0;
            source = section.source;
            globals.clone_from(&command_line);
        }
        if section.global {
            globals.extend(&section.entries);
            if section.source == 0 {
                command_line.extend(&section.entries);
            }
            for entry in &section.entries {
                remember(&mut jobs.global_options, entry);
            }
            continue;
        }
        if section.source > 0 && !only.is_empty() && !only.contains(&section.name) {
            continue;
        }
        let mut builder = Builder {
            spec: JobSpec::new(&section.name, section.origin.clone()),
            errors: &mut errors,
            warnings: &mut jobs.warnings,
            warned: &mut warned,
            environment,
        };
        let all: Vec<&Entry> = globals.iter().copied().chain(&section.entries).collect();
        builder.apply_all(&all);
        // Jobs of a second file wait for those of the first.
        builder.spec.stonewall |= std::mem::take(&mut first_of_file);
        for entry in &section.entries {
            remember(&mut builder.spec.given, entry);
        }
        builder.check();
        let spec = builder.spec;
        jobs.specs.push(spec);
    }
    // A global section after the last job is parsed by nobody else.
    if jobs.specs.is_empty() {
        let mut builder = Builder {
            spec: JobSpec::new("global", Origin::Argument { index: 0 }),
            errors: &mut errors,
            warnings: &mut jobs.warnings,
            warned: &mut warned,
            environment,
        };
        builder.apply_all(&globals);
    }
    for name in only {
        if !sections.iter().any(|section| section.name == *name) {
            errors.push(OptionError::Usage(format!(
                "--section={name}: no job file has such a section"
            )));
        }
    }
    // The same default is applied to every job: say once what is wrong with it.
    let mut said = BTreeSet::new();
    errors.retain(|error| said.insert(error.to_string()));
    if errors.is_empty() {
        Ok(jobs)
    } else {
        Err(errors)
    }
}

/// Notes an option for the report; the last value counts.
fn remember(list: &mut Vec<(&'static str, String)>, entry: &Entry) {
    let Some(Known::Option(def)) = table::find(&entry.key) else {
        return;
    };
    let value = entry.value.clone().unwrap_or_else(|| "1".to_owned());
    match list.iter_mut().find(|(name, _)| *name == def.name) {
        Some(known) => known.1 = value,
        None => list.push((def.name, value)),
    }
}

struct Builder<'a> {
    spec: JobSpec,
    errors: &'a mut Vec<OptionError>,
    warnings: &'a mut Vec<String>,
    warned: &'a mut BTreeSet<String>,
    environment: &'a dyn Fn(&str) -> Option<String>,
}

impl Builder<'_> {
    fn apply_all(&mut self, entries: &[&Entry]) {
        // kb_base decides what the other numbers mean, wherever it is written.
        let is_base = |entry: &&&Entry| matches!(table::find(&entry.key), Some(Known::Option(def)) if def.id == Id::KbBase);
        for entry in entries.iter().filter(is_base) {
            self.apply(entry);
        }
        for entry in entries.iter().filter(|entry| !is_base(entry)) {
            self.apply(entry);
        }
    }

    fn warn_once(&mut self, key: &str, text: String) {
        if self.warned.insert(key.to_owned()) {
            self.warnings.push(text);
        }
    }

    fn apply(&mut self, entry: &Entry) {
        match table::find(&entry.key) {
            None => self.errors.push(OptionError::Unknown {
                origin: entry.origin.clone(),
                name: entry.key.clone(),
                nearest: suggest::nearest(&entry.key, table::suggestible()),
            }),
            Some(Known::Refused) if table::is_usual(&entry.key, entry.value.as_deref()) => {}
            Some(Known::Refused) => self.errors.push(OptionError::NotOffered {
                origin: entry.origin.clone(),
                name: entry.key.clone(),
            }),
            Some(Known::WithoutEffect(name)) => self.warn_once(
                name,
                format!("{}: option '{name}' has no effect here", entry.origin),
            ),
            Some(Known::Option(def)) => {
                if let Err(error) = self.apply_option(def, entry) {
                    self.errors.push(error);
                }
            }
        }
    }

    fn apply_option(&mut self, def: &'static OptionDef, entry: &Entry) -> Result<(), OptionError> {
        let text = match (&entry.value, def.kind) {
            (Some(text), _) => expand_environment(text, &entry.origin, self.environment)?,
            (None, Kind::Switch) => "1".to_owned(),
            (None, kind) => {
                return Err(OptionError::MissingValue {
                    origin: entry.origin.clone(),
                    option: def.name,
                    accepted: kind.accepted(),
                });
            }
        };
        if self.spec.kb_base == KbBase::Binary
            && matches!(def.kind, Kind::Amount | Kind::Amounts | Kind::Count)
            && text.split(',').any(units::has_iec_unit)
        {
            self.warn_once(
                "KiB",
                format!(
                    "{}: '{}={text}' counts in steps of 1000, as in fio, because kb_base is 1024; \
                     write k, m, g for powers of 1024 or set kb_base=1000",
                    entry.origin, def.name
                ),
            );
        }
        let value = Value {
            def,
            text: &text,
            origin: &entry.origin,
            base: self.spec.kb_base,
        };
        self.set(def.id, &value)
    }

    fn set(&mut self, id: Id, value: &Value<'_>) -> Result<(), OptionError> {
        let spec = &mut self.spec;
        match id {
            Id::Name => spec.name = value.nonempty()?,
            Id::Description => spec.description = value.text.to_owned(),
            Id::Engine => self.set_engine(value)?,
            Id::Filename => spec.filename = value.nonempty()?,
            Id::Directory => spec.directory = value.text.to_owned(),
            Id::NrFiles => spec.nr_files = value.count(1, 4096)? as u32,
            Id::Rw => spec.pattern = value.pattern()?,
            Id::BlockSize => spec.block_bytes = value.block_sizes(spec.block_bytes)?,
            Id::Size => spec.size = Some(value.positive_amount()?),
            Id::Filesize => spec.filesize = Some(value.positive_amount()?),
            // 0 means "as size", as in fio.
            Id::IoSize => spec.io_size = Some(value.amount()?).filter(|a| *a != Amount::Bytes(0)),
            Id::Offset => spec.offset = value.amount()?,
            Id::OffsetIncrement => spec.offset_increment = value.amount()?,
            Id::NumberIos => {
                spec.number_ios = Some(value.count(0, u64::MAX)?).filter(|count| *count > 0);
            }
            // 0 loops is one, as in fio.
            Id::Loops => spec.loops = value.count(0, u64::from(u32::MAX))?.max(1),
            Id::NumJobs => spec.numjobs = value.count(1, MAX_CLONES)? as u32,
            Id::IoDepth => spec.iodepth = value.count(1, MAX_DEPTH)? as u32,
            Id::BatchSubmit => {
                spec.batch_submit = Some(value.count(0, MAX_DEPTH)? as u32).filter(|n| *n > 0);
            }
            Id::BatchCompleteMin => {
                spec.batch_complete_min = value.count(0, MAX_DEPTH)? as u32;
            }
            Id::BatchCompleteMax => {
                spec.batch_complete_max =
                    Some(value.count(0, MAX_DEPTH)? as u32).filter(|n| *n > 0);
            }
            Id::Direct => spec.direct = value.switch()?,
            Id::Buffered => spec.direct = !value.switch()?,
            Id::Invalidate => spec.invalidate = value.switch()?,
            Id::FixedBuffers => spec.fixed_buffers = value.switch()?,
            Id::RegisterFiles => spec.register_files = value.switch()?,
            Id::Runtime => spec.runtime_ns = Some(value.time_ns()?).filter(|ns| *ns > 0),
            Id::TimeBased => spec.time_based = value.switch()?,
            Id::RampTime => spec.ramp_ns = value.time_ns()?,
            Id::StartDelay => spec.start_delay_ns = value.time_ns()?,
            Id::Stonewall => spec.stonewall = value.switch()?,
            Id::NewGroup => spec.new_group = value.switch()?,
            Id::GroupReporting => spec.group_reporting = value.switch()?,
            Id::RwMixRead => spec.mix_read = value.count(0, 100)? as u32,
            Id::RwMixWrite => spec.mix_read = 100 - value.count(0, 100)? as u32,
            Id::NoRandomMap => spec.random_map = !value.switch()?,
            Id::RandRepeat => spec.rand_repeat = value.switch()?,
            Id::AllRandRepeat => spec.all_rand_repeat = value.switch()?,
            Id::RandSeed => spec.rand_seed = Some(value.count(0, u64::MAX)?),
            Id::Verify => spec.verify = value.word()?.starts_with("crc32c"),
            Id::DoVerify => spec.do_verify = value.switch()?,
            Id::VerifyOnly => spec.verify_only = value.switch()?,
            Id::VerifyFatal => spec.verify_fatal = value.switch()?,
            Id::VerifyInterval => {
                spec.verify_interval =
                    Some(value.bytes(0, MAX_BLOCK_BYTES)? as u32).filter(|bytes| *bytes > 0);
            }
            Id::Fsync => spec.fsync_every = value.count(0, u64::MAX)?,
            Id::Fdatasync => spec.fdatasync_every = value.count(0, u64::MAX)?,
            Id::EndFsync => spec.end_fsync = value.switch()?,
            Id::CreateOnOpen => spec.create_on_open = value.switch()?,
            Id::Unlink => spec.unlink = value.switch()?,
            Id::ClatPercentiles => spec.percentile_kinds.completion = value.switch()?,
            Id::LatPercentiles => spec.percentile_kinds.total = value.switch()?,
            Id::SlatPercentiles => spec.percentile_kinds.submission = value.switch()?,
            Id::PercentileList => spec.percentiles = value.percentiles()?,
            Id::Thread => {
                value.switch()?;
            }
            Id::KbBase => {
                spec.kb_base = value
                    .text
                    .parse()
                    .ok()
                    .and_then(KbBase::new)
                    .ok_or_else(|| value.bad(value.def.kind.accepted()))?;
            }
        }
        Ok(())
    }

    fn set_engine(&mut self, value: &Value<'_>) -> Result<(), OptionError> {
        let word = value.word()?;
        self.spec.engine = match word {
            "underpin" => EngineKind::Underpin,
            "io_uring" | "libaio" => EngineKind::IoUring,
            _ => EngineKind::Psync,
        };
        if word != self.spec.engine.name() {
            self.warn_once(
                word,
                format!(
                    "{}: ioengine={word} runs as {}",
                    value.origin,
                    self.spec.engine.name()
                ),
            );
        }
        Ok(())
    }

    fn complain(&mut self, text: String) {
        self.errors.push(OptionError::Job {
            origin: self.spec.origin.clone(),
            job: self.spec.name.clone(),
            text,
        });
    }

    /// What single options cannot know: how they fit together.
    fn check(&mut self) {
        let spec = &self.spec;
        let mut problems = Vec::new();
        let mut notes = Vec::new();
        if spec.engine == EngineKind::Underpin && spec.filename.is_empty() {
            problems.push(
                "ioengine=underpin needs filename=DEVICE_URL, for example emu:size=1g".to_owned(),
            );
        }
        if spec.engine != EngineKind::Underpin && spec.targets(0).is_empty() {
            problems.push(format!("filename={} names no file", spec.filename));
        }
        if spec.engine != EngineKind::Underpin
            && ["emu:", "pci:", "vfio-user:"]
                .iter()
                .any(|scheme| spec.filename.starts_with(scheme))
        {
            problems.push(format!(
                "filename={} is a device URL, which needs ioengine=underpin",
                spec.filename
            ));
        }
        if spec.targets(0).iter().any(|name| name.contains('\0')) {
            problems.push("filename contains a zero byte".to_owned());
        }
        if spec.time_based && spec.runtime_ns.is_none() {
            problems.push("time_based needs runtime=TIME".to_owned());
        }
        for direction in Direction::ALL {
            let block = u64::from(spec.block(direction));
            if let Some(Amount::Bytes(size)) = spec.size
                && size < block
                && (direction == Direction::Read && spec.pattern.reads()
                    || direction == Direction::Write && spec.pattern.writes())
            {
                problems.push(format!(
                    "size={size} is less than one block of {block} bytes; raise size or lower bs"
                ));
                break;
            }
        }
        if spec.verify {
            let interval = spec.header_interval();
            if (interval as usize) <= crate::verify::HEADER_BYTES {
                problems.push(format!(
                    "verify=crc32c needs blocks longer than its {}-byte header, not {interval}",
                    crate::verify::HEADER_BYTES
                ));
            }
            if let Some(asked) = spec.verify_interval
                && asked != interval
                && asked < spec.block(Direction::Write)
            {
                problems.push(format!(
                    "verify_interval={asked} does not divide the block of {} bytes",
                    spec.block(Direction::Write)
                ));
            }
            let block = u64::from(spec.block(Direction::Write));
            if spec.pattern.writes() && !spec.pattern.skip_bytes.is_multiple_of(block) {
                problems.push(format!(
                    "verify with rw={}:{} needs a skip that is a multiple of the block of {block} bytes",
                    spec.pattern.name(),
                    spec.pattern.skip_bytes
                ));
            }
            if spec.reads_back()
                && spec.numjobs > 1
                && !spec.filename.is_empty()
                && spec.offset_increment == Amount::Bytes(0)
                && !spec.filename.contains("$jobnum")
            {
                notes.push(format!(
                    "job '{}': {} clones write the same blocks and will not find what they wrote; \
                     give each its own part with offset_increment",
                    spec.name, spec.numjobs
                ));
            }
            if spec.reads_back() && spec.time_based && spec.pattern.mix == Mix::Write {
                notes.push(format!(
                    "job '{}': the write phase may use up runtime, then nothing is read back",
                    spec.name
                ));
            }
        }
        if spec.verify_only && !spec.verify {
            problems.push("verify_only needs verify=crc32c".to_owned());
        }
        if spec.engine == EngineKind::Psync && spec.iodepth > 1 {
            notes.push(format!(
                "job '{}': psync does one I/O at a time, iodepth={} has no effect",
                spec.name, spec.iodepth
            ));
        }
        for problem in problems {
            self.complain(problem);
        }
        self.warnings.extend(notes);
    }
}

/// One value on its way to its type, with what an error message needs.
struct Value<'a> {
    def: &'static OptionDef,
    text: &'a str,
    origin: &'a Origin,
    base: KbBase,
}

impl Value<'_> {
    fn bad(&self, accepted: String) -> OptionError {
        OptionError::BadValue {
            origin: self.origin.clone(),
            option: self.def.name,
            value: self.text.to_owned(),
            accepted,
        }
    }

    fn nonempty(&self) -> Result<String, OptionError> {
        if self.text.is_empty() {
            return Err(self.bad("it must not be empty".to_owned()));
        }
        Ok(self.text.to_owned())
    }

    fn word(&self) -> Result<&'static str, OptionError> {
        let Kind::Choice(words) = self.def.kind else {
            return Err(self.bad(self.def.kind.accepted()));
        };
        words
            .iter()
            .copied()
            .find(|word| *word == self.text)
            .ok_or_else(|| {
                let near = suggest::nearest(self.text, words.iter().copied());
                let hint = near.map_or(String::new(), |word| format!(" (did you mean {word}?)"));
                self.bad(format!("{}{hint}", self.def.kind.accepted()))
            })
    }

    fn switch(&self) -> Result<bool, OptionError> {
        match self.text {
            "1" => Ok(true),
            "0" => Ok(false),
            _ => Err(self.bad(Kind::Switch.accepted())),
        }
    }

    fn count(&self, min: u64, max: u64) -> Result<u64, OptionError> {
        units::parse_count(self.text, self.base)
            .filter(|count| (min..=max).contains(count))
            .ok_or_else(|| {
                self.bad(if max == u64::MAX {
                    format!("accepted is a whole number from {min} up")
                } else {
                    format!("accepted is a whole number from {min} to {max}")
                })
            })
    }

    fn bytes(&self, min: u64, max: u64) -> Result<u64, OptionError> {
        units::parse_bytes(self.text, self.base)
            .filter(|bytes| (min..=max).contains(bytes))
            .ok_or_else(|| self.bad(format!("accepted are {min} to {max} bytes, such as 4k")))
    }

    fn amount(&self) -> Result<Amount, OptionError> {
        units::parse_amount(self.text, self.base)
            .ok_or_else(|| self.bad(units::ACCEPTED_AMOUNT.to_owned()))
    }

    fn positive_amount(&self) -> Result<Amount, OptionError> {
        match self.amount()? {
            Amount::Bytes(0) | Amount::Percent(0) => {
                Err(self.bad("it must be more than nothing".to_owned()))
            }
            amount => Ok(amount),
        }
    }

    fn time_ns(&self) -> Result<u64, OptionError> {
        units::parse_time_ns(self.text).ok_or_else(|| self.bad(units::ACCEPTED_TIME.to_owned()))
    }

    /// `read,write,trim`: an empty place keeps what it had; one value is for
    /// all, and a missing write value repeats the read value.
    fn block_sizes(&self, before: [u32; 2]) -> Result<[u32; 2], OptionError> {
        let accepted = || {
            self.bad(format!(
                "{}, up to {MAX_BLOCK_BYTES}",
                Kind::Amounts.accepted()
            ))
        };
        let parts: Vec<&str> = self.text.split(',').collect();
        if parts.len() > 3 || self.text.is_empty() {
            return Err(accepted());
        }
        let mut sizes = [None; 3];
        for (place, part) in sizes.iter_mut().zip(&parts) {
            if !part.is_empty() {
                let bytes = units::parse_bytes(part, self.base)
                    .filter(|bytes| (1..=MAX_BLOCK_BYTES).contains(bytes))
                    .ok_or_else(accepted)?;
                *place = Some(bytes as u32);
            }
        }
        let read = sizes[0].unwrap_or(before[0]);
        let write = match (sizes[1], parts.len()) {
            (Some(write), _) => write,
            (None, 1) => read,
            (None, _) => before[1],
        };
        Ok([read, write])
    }

    fn pattern(&self) -> Result<Pattern, OptionError> {
        let (word, modifier) = match self.text.split_once(':') {
            Some((word, modifier)) => (word, Some(modifier)),
            None => (self.text, None),
        };
        let (mix, random) = match word {
            "read" => (Mix::Read, false),
            "write" => (Mix::Write, false),
            "rw" | "readwrite" => (Mix::Both, false),
            "randread" => (Mix::Read, true),
            "randwrite" => (Mix::Write, true),
            "randrw" => (Mix::Both, true),
            _ => {
                let near = suggest::nearest(word, table::PATTERNS.iter().copied());
                let hint = near.map_or(String::new(), |word| format!(" (did you mean {word}?)"));
                return Err(self.bad(format!("{}{hint}", self.def.kind.accepted())));
            }
        };
        let mut pattern = Pattern {
            mix,
            random,
            run_length: 1,
            skip_bytes: 0,
        };
        let Some(modifier) = modifier else {
            return Ok(pattern);
        };
        if random {
            pattern.run_length = units::parse_count(modifier, self.base)
                .and_then(|count| u32::try_from(count).ok())
                .filter(|count| *count > 0)
                .ok_or_else(|| {
                    self.bad(format!("after '{word}:' comes a count, such as {word}:8"))
                })?;
        } else {
            pattern.skip_bytes = units::parse_bytes(modifier, self.base)
                .filter(|bytes| *bytes <= 1 << 50)
                .ok_or_else(|| {
                    self.bad(format!(
                        "after '{word}:' come bytes to skip, such as {word}:4k"
                    ))
                })?;
        }
        Ok(pattern)
    }

    fn percentiles(&self) -> Result<Vec<f64>, OptionError> {
        let accepted = || {
            self.bad(format!(
                "accepted are up to {MAX_PERCENTILES} numbers above 0, at most 100, separated by ':'"
            ))
        };
        let mut list = Vec::new();
        for part in self.text.split(':') {
            let percentile: f64 = part.trim().parse().map_err(|_| accepted())?;
            if !(percentile > 1e-6 && percentile <= 100.0) || list.len() == MAX_PERCENTILES {
                return Err(accepted());
            }
            list.push(percentile);
        }
        list.sort_by(f64::total_cmp);
        list.dedup();
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::options::ini::entry_from;

    fn section(name: &str, global: bool, source: usize, lines: &[&str]) -> Section {
        Section {
            name: name.to_owned(),
            global,
            entries: lines
                .iter()
                .enumerate()
                .map(|(index, line)| entry_from(line, Origin::Argument { index: index + 1 }))
                .collect(),
            origin: Origin::Argument { index: 0 },
            source,
        }
    }

    fn environment(name: &str) -> Option<String> {
        (name == "BS").then(|| "8k".to_owned())
    }

    fn one(lines: &[&str]) -> Result<JobSpec, String> {
        let jobs = resolve(&[section("j", false, 1, lines)], &[], &environment);
        jobs.map(|mut jobs| jobs.specs.remove(0)).map_err(|errors| {
            errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        })
    }

    /// The common options arrive as their types.
    #[test]
    fn options_become_types() {
        let spec = one(&[
            "rw=randrw",
            "bs=${BS}",
            "size=10%",
            "iodepth=32",
            "rwmixwrite=30",
            "runtime=5m",
            "ioengine=io_uring",
            "stonewall",
            "verify=crc32c",
            "percentile_list=99:50",
        ])
        .unwrap();
        assert_eq!(spec.pattern.name(), "randrw");
        assert_eq!(spec.block_bytes, [8192, 8192]);
        assert_eq!(spec.size, Some(Amount::Percent(10)));
        assert_eq!((spec.iodepth, spec.mix_read), (32, 70));
        assert_eq!(spec.runtime_ns, Some(300_000_000_000));
        assert_eq!(spec.engine, EngineKind::IoUring);
        assert!(spec.stonewall && spec.verify && spec.reads_back());
        assert_eq!(spec.percentiles, [50.0, 99.0]);
    }

    /// read,write,trim with places left out.
    #[test]
    fn block_size_triples() {
        for (text, sizes) in [
            ("bs=4k", [4096, 4096]),
            ("bs=4k,8k", [4096, 8192]),
            ("bs=4k,8k,16k", [4096, 8192]),
            ("bs=,8k", [4096, 8192]),
            ("bs=8k,", [8192, 4096]),
        ] {
            assert_eq!(one(&[text]).unwrap().block_bytes, sizes, "{text}");
        }
    }

    /// Globals apply to the jobs below them, a job overrides them, a second
    /// file starts afresh and waits for the first.
    #[test]
    fn globals_apply_downwards_and_within_their_file() {
        let jobs = resolve(
            &[
                section("global", true, 0, &["iodepth=2"]),
                section("global", true, 1, &["bs=8k"]),
                section("a", false, 1, &["rw=write"]),
                section("global", true, 1, &["bs=16k"]),
                section("b", false, 1, &["iodepth=4"]),
                section("c", false, 2, &[]),
                section("d", false, 2, &[]),
            ],
            &[],
            &environment,
        )
        .unwrap();
        let seen: Vec<_> = jobs
            .specs
            .iter()
            .map(|s| (s.name.as_str(), s.block_bytes[0], s.iodepth, s.stonewall))
            .collect();
        assert_eq!(
            seen,
            [
                ("a", 8192, 2, false),
                ("b", 16384, 4, false),
                ("c", 4096, 2, true),
                ("d", 4096, 2, false)
            ]
        );
    }

    /// Each kind of mistake names its place, the option, the value and the way out.
    #[test]
    fn mistakes_say_what_is_accepted() {
        for (line, words) in [
            ("rwmixred=3", &["argument 1", "rwmixred", "rwmixread"][..]),
            ("bs=4q", &["argument 1", "'bs'", "'4q'", "4k"]),
            ("bs=0", &["'bs'", "'0'"]),
            ("rw=randraed", &["'rw'", "randread"]),
            ("iodepth=0", &["'iodepth'", "1 to"]),
            ("runtime=5x", &["'runtime'", "30s"]),
            ("direct=yes", &["'direct'", "0 and 1"]),
            ("size", &["'size'", "needs a value"]),
            ("bssplit=4k/50", &["bssplit", "remove it"]),
            ("verify=md5", &["'verify'", "crc32c"]),
            ("percentile_list=0:101", &["percentile_list"]),
            ("filename=${NOPE}", &["NOPE", "not set"]),
            ("time_based", &["runtime"]),
            ("verify_only", &["verify=crc32c"]),
            ("ioengine=underpin", &["filename", "emu:"]),
            ("filename=emu:size=1g", &["ioengine=underpin"]),
        ] {
            let text = one(&[line]).expect_err(line);
            for word in words {
                assert!(text.contains(word), "{line}: {text}");
            }
        }
    }

    /// Harmless fio options pass with one warning however often they are given.
    #[test]
    fn options_without_effect_warn_once() {
        let jobs = resolve(
            &[
                section(
                    "a",
                    false,
                    1,
                    &["hipri=1", "gtod_reduce=1", "ioengine=libaio"],
                ),
                section(
                    "b",
                    false,
                    1,
                    &["hipri=1", "ioengine=libaio", "random_distribution=random"],
                ),
            ],
            &[],
            &environment,
        )
        .unwrap();
        assert_eq!(jobs.warnings.len(), 3, "{:?}", jobs.warnings);
    }

    /// `--section` keeps what it names and complains about what is not there.
    #[test]
    fn sections_can_be_chosen() {
        let sections = [
            section("a", false, 1, &["nonsense=1"]),
            section("b", false, 1, &[]),
        ];
        let jobs = resolve(&sections, &["b".to_owned()], &environment).unwrap();
        assert_eq!(jobs.specs.len(), 1);
        assert!(resolve(&sections, &["x".to_owned()], &environment).is_err());
    }

    /// ':' separates host files, and nothing in a device URL.
    #[test]
    fn file_names() {
        let targets = |lines: &[&str], clone| one(lines).unwrap().targets(clone);
        assert_eq!(targets(&["filename=/a:/b\\:c"], 0), ["/a", "/b:c"]);
        assert_eq!(targets(&["directory=/d"], 2), ["/d/j.2.0"]);
        assert_eq!(targets(&["filename=$jobname-$jobnum"], 1), ["j-1"]);
        assert_eq!(
            targets(&["ioengine=underpin", "filename=emu:file=/x?ns=1"], 0),
            ["emu:file=/x?ns=1"]
        );
    }

    /// fio's KiB is 1000 under the default base; that is said once.
    #[test]
    fn iec_units_are_as_in_fio_and_noted() {
        let jobs = resolve(
            &[section("a", false, 1, &["bs=4KiB", "size=1MiB"])],
            &[],
            &environment,
        )
        .unwrap();
        assert_eq!(jobs.specs[0].block_bytes[0], 4000);
        assert_eq!(jobs.warnings.len(), 1);
        assert_eq!(
            one(&["bs=4KiB", "kb_base=1000"]).unwrap().block_bytes[0],
            4096
        );
    }

    /// Whatever bytes a job file holds, the answer is jobs or errors, never a
    /// panic: pure noise, and right files with a few bytes changed.
    #[test]
    fn no_bytes_make_the_parser_panic() {
        use crate::options::ini::read_job_file;
        use crate::random::Random;
        const SOUND: &str = "[global]\nbs=4k,64k\nsize=10%\nfilename=/a:b\n[a]\nrw=randrw:8\n\
            runtime=30s\npercentile_list=50:99.9\nverify=crc32c\nverify_interval=512\n\
            [b]\nstonewall\nrw=write:4k\nioengine=underpin\nfilename=${BS}?ns=1\nkb_base=1000\n\
            include x\nnumjobs=3\noffset_increment=1g\n";
        const WORDS: &[u8] = b"[]=\n#;:,%${}0x9kKmMgGtTpP-+.\\\0\xff\xc3 ";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("noise.fio");
        let mut random = Random::new(20);
        for round in 0..3000 {
            let mut bytes = if round % 2 == 0 {
                (0..random.below(200))
                    .map(|_| random.next_u32() as u8)
                    .collect()
            } else {
                SOUND.as_bytes().to_vec()
            };
            for _ in 0..random.below(12) {
                let at = random.below(bytes.len() as u64 + 1) as usize;
                let word = WORDS[random.below(WORDS.len() as u64) as usize];
                match random.below(3) {
                    0 => bytes.insert(at, word),
                    1 if at < bytes.len() => bytes[at] = word,
                    _ => drop(bytes.drain(at..(at + 3).min(bytes.len()))),
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            let Ok(sections) = read_job_file(&path, 1) else {
                continue;
            };
            match resolve(&sections, &[], &environment) {
                Ok(jobs) => {
                    for spec in &jobs.specs {
                        let _ = (spec.targets(1), spec.header_interval());
                    }
                }
                Err(errors) => assert!(errors.iter().all(|error| !error.to_string().is_empty())),
            }
        }
    }
}
