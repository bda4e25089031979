//! From sections of options to typed jobs: globals apply downwards, every mistake
//! is collected, and what single options cannot know is checked at the end.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use underpin::DeviceUrl;
use underpin::emulator::EmulatorConfig;
use underpin::fs::store::PAGE_BYTES;
use underpin::nvme::{DeviceAddress, DeviceUrlError};

use super::value::{MAX_BLOCK_BYTES, Value};
use super::{EngineKind, JobSpec, Mix};
use crate::options::ini::expand_environment;
use crate::options::suggest;
use crate::options::table::{self, Id, Kind, Known, OptionDef};
use crate::options::units::{self, Amount, KbBase};
use crate::options::{Entry, OptionError, Origin, Section};
use crate::stats::Direction;

/// Threads a run may have; each has buffers and histograms.
const MAX_CLONES: u64 = 1024;
/// The least and the most memory of a file's cache.
const MIN_CACHE_BYTES: u64 = 64 << 10;
const MAX_CACHE_BYTES: u64 = 1 << 40;
/// I/Os one thread may keep in flight.
const MAX_DEPTH: u64 = 65_536;

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
            Id::Target => spec.target = Some(value.target()?),
            Id::Cache => spec.cache_bytes = value.bytes(MIN_CACHE_BYTES, MAX_CACHE_BYTES)?,
            Id::AlwaysCopy => spec.always_copy = value.switch()?,
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
            Id::Interrupts => spec.interrupts = value.switch()?,
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
            "underpin-file" => EngineKind::UnderpinFile,
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
        if spec.engine.takes_device() && spec.filename.is_empty() {
            problems.push(format!(
                "ioengine={} needs filename=DEVICE_URL, for example emu:size=1g",
                spec.engine.name()
            ));
        }
        check_target(spec, &mut problems, &mut notes);
        if spec.engine.takes_device() {
            // Before a job is started: those in front of it may write.
            for url in spec.targets(0) {
                if let Err(why) = device_url(&url) {
                    problems.push(format!("filename={url}: {why}"));
                }
            }
        }
        if !spec.engine.takes_device() && spec.targets(0).is_empty() {
            problems.push(format!("filename={} names no file", spec.filename));
        }
        if !spec.engine.takes_device()
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

/// Understands a device URL down to the last option of an embedded controller.
fn device_url(text: &str) -> Result<(), String> {
    let url: DeviceUrl = text.parse().map_err(|error: DeviceUrlError| error.why)?;
    check_device(&url)
}

/// How `target=` and what belongs to it fit the rest.
fn check_target(spec: &JobSpec, problems: &mut Vec<String>, notes: &mut Vec<String>) {
    if spec.engine != EngineKind::UnderpinFile {
        if spec.target.is_some() {
            problems.push(format!(
                "target= is for ioengine=underpin-file, not {}",
                spec.engine.name()
            ));
        }
        return;
    }
    if spec.target.is_none() {
        problems.push(
            "ioengine=underpin-file needs target=FILE, whose pages the device reads and writes, \
             for example /tmp/file or extent:emu:size=64m"
                .to_owned(),
        );
    }
    // All clones may pin as much as they have in flight, and something must be left to write back.
    let block = u64::from(spec.block_bytes[0].max(spec.block_bytes[1])).div_ceil(PAGE_BYTES);
    let pinned = block.saturating_mul(u64::from(spec.iodepth) * u64::from(spec.numjobs));
    let wanted = pinned.saturating_mul(2 * PAGE_BYTES);
    if spec.cache_bytes < wanted {
        problems.push(format!(
            "cache={} is too small: iodepth={} and numjobs={} pin up to {pinned} pages of 4 KiB at \
             a time; make it {wanted} at least",
            spec.cache_bytes, spec.iodepth, spec.numjobs
        ));
    }
    if spec.interrupts {
        notes.push(format!(
            "job '{}': underpin-file polls, interrupts=1 has no effect",
            spec.name
        ));
    }
}

/// Understands a device down to the last option of an embedded controller.
pub(super) fn check_device(url: &DeviceUrl) -> Result<(), String> {
    match &url.device {
        DeviceAddress::Embedded(body) => body
            .parse::<EmulatorConfig>()
            .map(drop)
            .map_err(|error| error.to_string()),
        _ => Ok(()),
    }
}
