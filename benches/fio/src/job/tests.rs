//! What options mean, and what is said about mistakes.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]
use super::*;
use crate::options::Section;
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
        (
            "ioengine=underpin\nfilename=nvme0",
            &["filename=nvme0", "emu:"],
        ),
        (
            "ioengine=underpin\nfilename=emu:szie=1g",
            &["szie", "`size`"],
        ),
        (
            "ioengine=underpin\nfilename=emu:size=1g,fault=bogus",
            &["bogus", "no such fault"],
        ),
        ("filename=emu:size=1g", &["ioengine=underpin"]),
    ] {
        let lines: Vec<&str> = line.split('\n').collect();
        let text = one(&lines).expect_err(line);
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
        [b]\nstonewall\nrw=write:4k\nioengine=underpin\nfilename=emu:size=${BS}?ns=1\nkb_base=1000\n\
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
