//! Every option: its names, what values it takes, its default, its help. Also
//! the fio options that are accepted without effect, and those refused.

#![forbid(unsafe_code)]

/// Names an option for the code that gives it meaning (`job/resolve.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Id {
    AllRandRepeat,
    AlwaysCopy,
    BatchCompleteMax,
    BatchCompleteMin,
    BatchSubmit,
    BlockSize,
    ClatPercentiles,
    CreateOnOpen,
    Description,
    Direct,
    Buffered,
    Cache,
    Directory,
    DoVerify,
    EndFsync,
    Engine,
    Fdatasync,
    Filename,
    Filesize,
    FixedBuffers,
    Fsync,
    GroupReporting,
    Interrupts,
    Invalidate,
    IoDepth,
    IoSize,
    KbBase,
    LatPercentiles,
    Loops,
    Name,
    NewGroup,
    NoRandomMap,
    NrFiles,
    NumJobs,
    NumberIos,
    Offset,
    OffsetIncrement,
    PercentileList,
    RampTime,
    RandRepeat,
    RandSeed,
    RegisterFiles,
    Runtime,
    Rw,
    RwMixRead,
    RwMixWrite,
    Size,
    SlatPercentiles,
    StartDelay,
    Stonewall,
    Target,
    Thread,
    TimeBased,
    Unlink,
    Verify,
    VerifyFatal,
    VerifyInterval,
    VerifyOnly,
}

/// What values look like: decides whether a bare key is allowed, and heads the
/// help text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Free text.
    Text,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A whole number.
    Count,
    /// 0 or 1; a bare key is 1.
    Switch,
    /// Bytes or a percentage.
    Amount,
    /// Up to three byte counts: read,write,trim.
    Amounts,
    /// A time; a bare number counts seconds.
    Time,
}

/// One option.
#[derive(Debug)]
pub(crate) struct OptionDef {
    pub(crate) id: Id,
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    pub(crate) kind: Kind,
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
}

macro_rules! options {
    ($( $id:ident $name:literal [$($alias:literal),*] $kind:expr, $default:literal, $help:literal; )*) => {
        /// All options, in the order of `--cmdhelp`.
        pub(crate) const OPTIONS: &[OptionDef] = &[
            $( OptionDef {
                id: Id::$id,
                name: $name,
                aliases: &[$($alias),*],
                kind: $kind,
                default: $default,
                help: $help,
            }, )*
        ];
    };
}

/// Patterns of `rw=`.
pub(crate) const PATTERNS: &[&str] = &[
    "read",
    "write",
    "randread",
    "randwrite",
    "rw",
    "readwrite",
    "randrw",
];
/// Engines, the native ones first.
pub(crate) const ENGINES: &[&str] = &[
    "underpin",
    "underpin-file",
    "io_uring",
    "psync",
    "libaio",
    "sync",
    "pvsync",
    "pvsync2",
];

options! {
    Name "name" [] Kind::Text, "the section's name",
        "Names the job. On the command line --name=NAME opens a new job; the options before the first one apply to all.";
    Description "description" [] Kind::Text, "none",
        "A note that the reports repeat.";
    Engine "ioengine" [] Kind::Choice(ENGINES), "psync",
        "How I/O is done. underpin: the userspace NVMe driver, filename is a device URL. underpin-file: the same, but what the device reads goes straight into pinned pages of the file that target names, and what it writes comes from them, while that file is written back and synced. io_uring: host files or block devices, asynchronous. psync: pread/pwrite, one at a time. libaio runs as io_uring; sync, pvsync and pvsync2 run as psync.";
    Filename "filename" [] Kind::Text, "JOB.NUMBER.FILE in directory",
        "What to do I/O on. psync and io_uring: one or more files separated by ':' (write '\\:' for a colon in a name); $jobname and $jobnum are replaced. underpin: one device URL such as emu:size=1g, emu:file=/tmp/disk.img,size=64m?ns=1 or pci:0000:01:00.0, in which ':' separates nothing.";
    Target "target" [] Kind::Text, "none",
        "underpin-file: the file whose pages the device reads and writes, byte for byte at the same offset: the path of a file of the host, made if need be, or extent:URL for the blocks of a device, as in extent:emu:size=64m?ns=1&lba=0&len=32m (quote it for a shell). Jobs with one target share it and its cache, which stay open until the run is over.";
    Cache "cache" [] Kind::Amount, "64m",
        "underpin-file: memory of the cache that the pages of target are in.";
    AlwaysCopy "always_copy" [] Kind::Switch, "0",
        "underpin-file: write pages back from copies always, as for a file with checksums; then no pin waits for a writeback.";
    Directory "directory" [] Kind::Text, "the current one",
        "Folder for relative file names.";
    NrFiles "nrfiles" ["nr_files"] Kind::Count, "1",
        "How many files to make up when no filename is given. A job with several files takes them in turn and splits its size among them.";
    Rw "rw" ["readwrite"] Kind::Choice(PATTERNS), "read",
        "Pattern: read, write, randread, randwrite, rw (mixed, each direction sequential), randrw. randread:8 picks a new random place every 8 I/Os and goes on sequentially in between; write:4k leaves 4 KiB out after every I/O.";
    BlockSize "bs" ["blocksize"] Kind::Amounts, "4k",
        "Bytes per I/O. bs=4k,64k is 4 KiB for reads and 64 KiB for writes; a third value, for trims, is accepted and unused.";
    Size "size" [] Kind::Amount, "the whole file or device",
        "How much of the file or device the job covers, from offset on; bytes or a percentage of it. Regular files are made this long.";
    Filesize "filesize" [] Kind::Amount, "size",
        "Length to give each file; size may then cover less or more of it than that.";
    IoSize "io_size" ["io_limit"] Kind::Amount, "size",
        "How much I/O to do: more than size goes over the region again, less stops early.";
    Offset "offset" [] Kind::Amount, "0",
        "Where the region starts; bytes or a percentage of the file or device.";
    OffsetIncrement "offset_increment" [] Kind::Amount, "0",
        "Added to offset once per clone: with numjobs=4, clone n starts at offset + n times this.";
    NumberIos "number_ios" [] Kind::Count, "no limit",
        "Stop after this many I/Os, whatever size says.";
    Loops "loops" [] Kind::Count, "1",
        "Do the whole job so many times.";
    NumJobs "numjobs" [] Kind::Count, "1",
        "Run so many clones of the job at the same time, each a thread with its own seeds.";
    IoDepth "iodepth" [] Kind::Count, "1",
        "I/Os to keep in flight. psync does one at a time whatever this says.";
    BatchSubmit "iodepth_batch" ["iodepth_batch_submit"] Kind::Count, "all free units",
        "At most so many I/Os per submission (one doorbell or one system call). fio's default is 1; here every free unit goes out together.";
    BatchCompleteMin "iodepth_batch_complete_min" ["iodepth_batch_complete"] Kind::Count, "1",
        "Wait for at least so many completions when no unit is free; 0 polls.";
    BatchCompleteMax "iodepth_batch_complete_max" [] Kind::Count, "iodepth",
        "Take at most so many completions at a time.";
    Direct "direct" [] Kind::Switch, "0",
        "Bypass the page cache with O_DIRECT. The underpin engine always does.";
    Buffered "buffered" [] Kind::Switch, "1",
        "The opposite of direct.";
    Invalidate "invalidate" [] Kind::Switch, "1",
        "Drop the files' cached pages before the job, so that reads reach the disk.";
    FixedBuffers "fixedbufs" [] Kind::Switch, "0",
        "io_uring: register the buffers with the kernel once instead of pinning them per I/O.";
    Interrupts "interrupts" [] Kind::Switch, "0",
        "underpin: sleep until the controller's interrupt instead of polling.";
    RegisterFiles "registerfiles" [] Kind::Switch, "0",
        "io_uring: register the files with the kernel once instead of looking them up per I/O.";
    Runtime "runtime" ["timeout"] Kind::Time, "no limit",
        "Stop after this long, even if size is not done; with time_based go on until then.";
    TimeBased "time_based" [] Kind::Switch, "0",
        "Repeat the job until runtime has passed.";
    RampTime "ramp_time" [] Kind::Time, "0",
        "Run this long before measuring; runtime starts after it.";
    StartDelay "startdelay" [] Kind::Time, "0",
        "Wait this long before starting.";
    Stonewall "stonewall" ["wait_for_previous"] Kind::Switch, "0",
        "Wait until all jobs before this one have ended; also starts a new reporting group.";
    NewGroup "new_group" [] Kind::Switch, "0",
        "Start a new reporting group without waiting.";
    GroupReporting "group_reporting" [] Kind::Switch, "0",
        "Report the clones and jobs of a group as one.";
    RwMixRead "rwmixread" ["rwmix"] Kind::Count, "50",
        "Percentage of reads in a mixed pattern.";
    RwMixWrite "rwmixwrite" [] Kind::Count, "50",
        "Percentage of writes in a mixed pattern.";
    NoRandomMap "norandommap" [] Kind::Switch, "0",
        "Random patterns may hit a block twice and leave others out. Without it every block is done once before any is repeated.";
    RandRepeat "randrepeat" [] Kind::Switch, "1",
        "The same job gives the same sequence in every run.";
    AllRandRepeat "allrandrepeat" [] Kind::Switch, "0",
        "Seed every generator, not only that of offsets, from the job's number.";
    RandSeed "randseed" [] Kind::Count, "0x89",
        "Seed of the sequences; switches randrepeat off.";
    Verify "verify" [] Kind::Choice(&["crc32c", "crc32c-intel", "0", "none"]), "none",
        "crc32c: writes carry fio's header with checksums, are read back after the write phase and checked; a job that only reads checks every block it reads. Stock fio can check what was written here and the other way round.";
    DoVerify "do_verify" [] Kind::Switch, "1",
        "Read back and check after writing. 0 only writes the headers.";
    VerifyOnly "verify_only" [] Kind::Switch, "0",
        "Write nothing: check that the blocks which the job would write are on the file, intact.";
    VerifyFatal "verify_fatal" [] Kind::Switch, "0",
        "Stop at the first bad block instead of naming all of them.";
    VerifyInterval "verify_interval" [] Kind::Amount, "bs",
        "Put a header every so many bytes of a block.";
    Fsync "fsync" [] Kind::Count, "0",
        "Flush after every so many writes. underpin-file: after every so many I/Os, each of which writes the file or the device; the job goes on meanwhile, and pages that are pinned are copied.";
    Fdatasync "fdatasync" [] Kind::Count, "0",
        "Like fsync, without the file's metadata.";
    EndFsync "end_fsync" [] Kind::Switch, "0",
        "Flush once when the job has written everything.";
    CreateOnOpen "create_on_open" [] Kind::Switch, "0",
        "Do not lay files out before the run; create them when the job opens them.";
    Unlink "unlink" [] Kind::Switch, "0",
        "Remove the job's regular files when it has ended.";
    ClatPercentiles "clat_percentiles" [] Kind::Switch, "1",
        "Report percentiles of completion latency.";
    LatPercentiles "lat_percentiles" [] Kind::Switch, "0",
        "Report percentiles of total latency.";
    SlatPercentiles "slat_percentiles" [] Kind::Switch, "0",
        "Report percentiles of submission latency.";
    PercentileList "percentile_list" [] Kind::Text, "1:5:10:20:30:40:50:60:70:80:90:95:99:99.5:99.9:99.95:99.99",
        "Percentiles to report, up to 20, separated by ':'.";
    Thread "thread" [] Kind::Switch, "1",
        "Jobs are always threads of one process here, so that they can share a device.";
    KbBase "kb_base" [] Kind::Choice(&["1024", "1000"]), "1024",
        "1024: k is 1024 and KiB is 1000, as in old job files. 1000: k is 1000 and KiB is 1024, as the standards say.";
}

/// fio options that would only change how the run is carried out or what extra
/// files it leaves: accepted, with one warning each.
pub(crate) const WITHOUT_EFFECT: &[&str] = &[
    "aio_max_reap",
    "allow_file_create",
    "allow_mounted_write",
    "block_error_percentiles",
    "buffer_compress_chunk",
    "buffer_compress_percentage",
    "buffer_pattern",
    "bwavgtime",
    "clocksource",
    "cmdprio_percentage",
    "cpumask",
    "cpus_allowed",
    "cpus_allowed_policy",
    "create_fsync",
    "create_serialize",
    "dedupe_global",
    "dedupe_mode",
    "dedupe_percentage",
    "dedupe_working_set_percentage",
    "disable_bw",
    "disable_bw_measurement",
    "disable_clat",
    "disable_lat",
    "disable_slat",
    "disk_util",
    "error_dump",
    "experimental_verify",
    "fadvise_hint",
    "fallocate",
    "fsync_on_close",
    "gtod_cpu",
    "gtod_reduce",
    "hipri",
    "hipri_percentage",
    "hugepage-size",
    "iodepth_low",
    "iomem",
    "iomem_align",
    "iopsavgtime",
    "ioscheduler",
    "lockmem",
    "log_alternate_epoch",
    "log_alternate_epoch_clock_id",
    "log_avg_msec",
    "log_compression",
    "log_compression_cpus",
    "log_entries",
    "log_hist_coarseness",
    "log_hist_msec",
    "log_max_value",
    "log_offset",
    "log_prio",
    "log_store_compressed",
    "log_unix_epoch",
    "mem",
    "mem_align",
    "nice",
    "nonvectored",
    "numa_cpu_nodes",
    "numa_mem_policy",
    "openfiles",
    "overwrite",
    "per_job_logs",
    "pre_read",
    "prio",
    "prioclass",
    "refill_buffers",
    "scramble_buffers",
    "serialize_overlap",
    "significant_figures",
    "softrandommap",
    "sqthread_poll",
    "sqthread_poll_cpu",
    "uncached",
    "unified_rw_reporting",
    "unique_filename",
    "unit_base",
    "use_thread",
    "userspace_reap",
    "verify_async",
    "verify_async_cpus",
    "verify_dump",
    "verify_state_load",
    "verify_state_save",
    "write_barrier",
    "write_bw_log",
    "write_hint",
    "write_hist_log",
    "write_iops_log",
    "write_lat_log",
    "zero_buffers",
];

/// fio options that change which I/O is done. To ignore one would run another
/// job than the one asked for, so they are errors.
pub(crate) const REFUSED: &[&str] = &[
    "atomic",
    "ba",
    "block_align",
    "blockalign",
    "blocksize_range",
    "blocksize_unaligned",
    "bs_is_seq_rand",
    "bs_unaligned",
    "bsrange",
    "bssplit",
    "cgroup",
    "cgroup_nodelete",
    "cgroup_weight",
    "continue_on_error",
    "create_only",
    "exec_postrun",
    "exec_prerun",
    "exit_what",
    "exitall",
    "exitall_on_error",
    "file_append",
    "file_service_type",
    "filename_format",
    "fill_device",
    "fill_fs",
    "flow",
    "flow_id",
    "flow_sleep",
    "gid",
    "ignore_error",
    "ignore_zone_limits",
    "io_submit_mode",
    "iter",
    "job_max_open_zones",
    "latency_percentile",
    "latency_run",
    "latency_target",
    "latency_window",
    "lockfile",
    "max_latency",
    "max_open_zones",
    "merge_blktrace_file",
    "merge_blktrace_iters",
    "merge_blktrace_scalars",
    "offset_align",
    "opendir",
    "percentage_random",
    "profile",
    "random_distribution",
    "random_generator",
    "rate",
    "rate_cycle",
    "rate_ignore_thinktime",
    "rate_iops",
    "rate_iops_min",
    "rate_min",
    "rate_process",
    "read_beyond_wp",
    "read_iolog",
    "read_iolog_chunked",
    "replay_align",
    "replay_no_stall",
    "replay_redirect",
    "replay_scale",
    "replay_skip",
    "replay_time_scale",
    "rw_sequencer",
    "stats",
    "steadystate",
    "steadystate_duration",
    "steadystate_ramp_time",
    "sync",
    "sync_file_range",
    "thinktime",
    "thinktime_blocks",
    "thinktime_blocks_type",
    "thinktime_iotime",
    "thinktime_spin",
    "trim_backlog",
    "trim_backlog_batch",
    "trim_percentage",
    "trim_verify_zero",
    "uid",
    "unlink_each_loop",
    "verify_backlog",
    "verify_backlog_batch",
    "verify_offset",
    "verify_pattern",
    "wait_for",
    "write_iolog",
    "zone_reset_frequency",
    "zone_reset_threshold",
    "zonecapacity",
    "zonemode",
    "zonerange",
    "zonesize",
    "zoneskip",
];

/// Values that say "as usual" for refused options: harmless, hence accepted.
const USUAL_VALUES: &[(&str, &str)] = &[
    ("file_service_type", "roundrobin"),
    ("io_submit_mode", "inline"),
    ("percentage_random", "100"),
    ("random_distribution", "random"),
    ("random_generator", "tausworthe"),
    ("rw_sequencer", "sequential"),
    ("sync", "0"),
    ("sync", "none"),
    ("verify_backlog", "0"),
    ("zonemode", "none"),
];

/// Whether a refused option is given the value it has anyway.
pub(crate) fn is_usual(name: &str, value: Option<&str>) -> bool {
    USUAL_VALUES
        .iter()
        .any(|(option, usual)| *option == name && Some(*usual) == value)
}

/// What a name is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Known {
    /// An option of ours.
    Option(&'static OptionDef),
    /// Accepted without effect.
    WithoutEffect(&'static str),
    /// An option of fio that we refuse.
    Refused,
}

/// Looks a name up.
pub(crate) fn find(name: &str) -> Option<Known> {
    let wanted = |candidate: &&&str| **candidate == name;
    if let Some(def) = OPTIONS
        .iter()
        .find(|def| def.name == name || def.aliases.contains(&name))
    {
        return Some(Known::Option(def));
    }
    if let Some(name) = WITHOUT_EFFECT.iter().find(wanted) {
        return Some(Known::WithoutEffect(name));
    }
    REFUSED.iter().find(wanted).map(|_| Known::Refused)
}

/// The names worth suggesting for a misspelt one.
pub(crate) fn suggestible() -> impl Iterator<Item = &'static str> {
    OPTIONS
        .iter()
        .flat_map(|def| std::iter::once(def.name).chain(def.aliases.iter().copied()))
}

impl Kind {
    /// What a value may be, as the end of a sentence.
    pub(crate) fn accepted(self) -> String {
        match self {
            Kind::Text => "accepted is any text".to_owned(),
            Kind::Choice(words) => format!("accepted are {}", words.join(", ")),
            Kind::Count => "accepted is a whole number".to_owned(),
            Kind::Switch => "accepted are 0 and 1, or the bare name for 1".to_owned(),
            Kind::Amount => super::units::ACCEPTED_AMOUNT.to_owned(),
            Kind::Amounts => {
                "accepted are bytes such as 512, 4k, 128k, or read,write,trim such as 4k,64k"
                    .to_owned()
            }
            Kind::Time => super::units::ACCEPTED_TIME.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A name means one thing only.
    #[test]
    fn names_are_unique_across_all_tables() {
        let mut seen = HashSet::new();
        let names = suggestible()
            .chain(WITHOUT_EFFECT.iter().copied())
            .chain(REFUSED.iter().copied());
        for name in names {
            assert!(seen.insert(name), "'{name}' is in the tables twice");
        }
    }

    /// Every option can be found by each of its names and explains itself.
    #[test]
    fn options_are_found_by_every_name_and_have_help() {
        for def in OPTIONS {
            for name in std::iter::once(&def.name).chain(def.aliases) {
                assert!(matches!(find(name), Some(Known::Option(found)) if found.id == def.id));
            }
            assert!(
                def.help.len() > 20 && def.help.ends_with('.'),
                "{}",
                def.name
            );
        }
        assert!(find("rwmixred").is_none());
        assert!(matches!(find("hipri"), Some(Known::WithoutEffect("hipri"))));
        assert!(matches!(find("bssplit"), Some(Known::Refused)));
    }
}
