//! The underpin-file engine: devices read into pages of a file and write from them; what they leave
//! is checked by stock fio on the files that keep the blocks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{damage, folder, ours, output, report, stock, succeed, write};
use serde_json::Value;

/// A job that reads 1 MiB of a device into a file, with more options behind.
fn read_job(extra: &[&str]) -> Command {
    let mut command = ours();
    command.args([
        "--ioengine=underpin-file",
        "--filename=emu:size=1m",
        "--target=extent:emu:file=target.img,size=1m",
        "--cache=4m",
        "--rw=read",
        "--iodepth=8",
        "--name=a",
    ]);
    command.args(extra);
    command
}

fn pages(report: &Value) -> &Value {
    &report["jobs"][0]["underpin"]["pages"]
}

fn number(value: &Value, key: &str) -> u64 {
    let found = value[key].as_u64();
    found.unwrap_or_else(|| panic!("no {key}: {value}"))
}

/// Stock fio, checking the headers of a file.
fn checks(at: &Path, file: &str, bs: &str) -> bool {
    let mut fio = stock();
    fio.current_dir(at).args([
        "--name=c",
        &format!("--filename={file}"),
        &format!("--bs={bs}"),
        "--rw=read",
        "--verify=crc32c",
    ]);
    output(&mut fio).0.status.success()
}

/// The job file runs as it is; what it says of the pages is in each report, and stock fio finds every
/// block intact in the file and in the copy that a device made of its pages.
#[test]
fn the_job_file_runs_and_stock_fio_verifies_it() {
    let at = folder();
    let text = include_str!("../../jobs/pinned.fio");
    let text = text
        .replace("/tmp/underpin-", &format!("{}/", at.path().display()))
        .replace("runtime=2s", "runtime=100ms")
        .replace("size=64m", "size=8m");
    assert!(text.contains("/pinned.img") && text.contains("runtime=100ms"));
    write(at.path(), "p.fio", &text);
    let text = succeed(ours().current_dir(at.path()).arg("p.fio"));
    assert_eq!(text.matches("err= 0").count(), 4, "{text}");
    for line in [
        "  pins         : written by device=2048, read by device=0; pin+unpin of a page: median=",
        "  pins         : written by device=0, read by device=2048;",
        "  writeback    : direct=",
        "  page waits   : waits=",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    for image in ["pinned.img", "copied.img"] {
        assert!(checks(at.path(), image, "16k"), "{image}");
        damage(&at.path().join(image), 5 * 16_384 + 100, b"overwritten");
        assert!(!checks(at.path(), image, "16k"), "{image}");
    }
}

/// Every figure is in the JSON report, and they agree with each other; at the end of a job that syncs
/// nothing is dirty.
#[test]
fn the_report_has_the_pages() {
    let at = folder();
    let found = report(read_job(&["--fsync=16", "--end_fsync=1"]), at.path(), &[]);
    let pages = pages(&found);
    assert_eq!(number(pages, "pins"), 256);
    assert_eq!(number(pages, "write_pins"), 256);
    assert_eq!(number(pages, "read_pins"), 0);
    assert_eq!(number(pages, "dirty_pages"), 0);
    assert_eq!(number(pages, "write_errors"), 0);
    assert!(number(pages, "written_pages") >= 256);
    let copies = number(pages, "copies_clean") + number(pages, "copies_kept");
    assert_eq!(number(pages, "copies"), copies);
    assert_eq!(number(pages, "copied_bytes"), copies * 4096);
    for key in ["skips", "waits", "bounce_waits", "throttled", "put_off"] {
        number(pages, key);
    }
    let timed = &pages["pin_unpin_ns"];
    assert_eq!(number(timed, "N"), 16);
    assert!(timed["bins"].is_object(), "{timed}");
    assert_eq!(
        pages["targets"][0],
        "extent:emu:file=target.img,size=1m?lba=0"
    );
    assert_eq!(found["jobs"][0]["sync"]["total_ios"], 16);
    let plain = ["--name=b", "--size=64k", "--rw=write"];
    assert!(self::pages(&report(ours(), at.path(), &plain)).is_null());
}

/// Pages that a device is writing while the file is synced are copied, and stay dirty; those of a
/// file that always copies are never written from themselves.
#[test]
fn what_is_pinned_is_copied() {
    let at = folder();
    // Long in flight, and over and over into the same pages.
    let slow = "--filename=emu:size=256k,fault=delay:300us@op=read+count=all";
    let often = [
        slow,
        "--size=256k",
        "--loops=20",
        "--iodepth=32",
        "--fsync=8",
    ];
    let found = report(read_job(&often), at.path(), &[]);
    assert!(number(pages(&found), "copies_kept") > 0, "{found}");
    assert_eq!(number(pages(&found), "copies_clean"), 0);
    let always = ["--always_copy=1", "--fsync=8", "--end_fsync=1"];
    let found = report(read_job(&always), at.path(), &[]);
    assert!(number(pages(&found), "copies_clean") > 0, "{found}");
    assert_eq!(number(pages(&found), "direct"), 0);
}

/// A file larger than its cache, in both directions at once, with blocks of several pages: what is
/// verified on the device came from the file's pages.
#[test]
fn a_small_cache_and_mixed_jobs_keep_every_byte() {
    let at = folder();
    for bs in ["4k", "20k", "256k"] {
        let extra = [
            "--rw=randrw",
            "--verify=crc32c",
            &format!("--bs={bs}"),
            "--iodepth=4",
            "--cache=2m",
            "--filename=emu:size=8m",
            "--target=extent:emu:size=8m,lba=4096",
            "--fsync=16",
        ];
        let found = report(read_job(&extra), at.path(), &[]);
        let pages = pages(&found);
        assert!(number(pages, "read_pins") > 0 && number(pages, "write_pins") > 0);
        assert!(number(pages, "evictions") > 0, "{bs}: {found}");
        assert_eq!(found["jobs"][0]["error"], 0);
    }
}

/// Clones share the file and its cache, whose figures are told once for the group.
#[test]
fn clones_share_one_cache() {
    let at = folder();
    let extra = [
        "--numjobs=4",
        "--size=256k",
        "--offset_increment=256k",
        "--end_fsync=1",
        "--group_reporting",
    ];
    let found = report(read_job(&extra), at.path(), &[]);
    let pages = pages(&found);
    assert_eq!(number(pages, "pins"), 256);
    assert_eq!(number(pages, "direct") + number(pages, "copies"), 256);
    assert_eq!(number(pages, "dirty_pages"), 0);
    let apart = ["--name=b", "--cache=8m"];
    let (result, _, stderr) = output(read_job(&apart).current_dir(at.path()));
    assert_eq!(result.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("is open with cache="), "{stderr}");
}

/// A file of the host, which stock fio and everybody else reads as it is: made as long as the job
/// needs, synced, and not longer afterwards; one that is there keeps what the job does not write.
#[test]
fn a_file_of_the_host_has_what_the_device_had() {
    let at = folder();
    let fill = [
        "--filename=emu:file=disk.img,size=2m",
        "--ioengine=underpin",
        "--bs=16k",
        "--rw=write",
        "--verify=crc32c",
        "--name=fill",
        "--size=1m",
    ];
    succeed(ours().current_dir(at.path()).args(fill));
    let host = [
        "--filename=emu:file=disk.img,size=2m",
        "--target=host.file",
        "--bs=16k",
        "--size=1m",
        "--fsync=8",
        "--verify=crc32c",
    ];
    let found = report(read_job(&host), at.path(), &[]);
    assert_eq!(pages(&found)["targets"][0], "host.file");
    assert_eq!(number(pages(&found), "write_pins"), 256);
    let device = std::fs::read(at.path().join("disk.img")).unwrap();
    let file = std::fs::read(at.path().join("host.file")).unwrap();
    assert!(file.len() == 1 << 20 && file[..] == device[..1 << 20]);
    assert!(checks(at.path(), "host.file", "16k"));
    // A part of it again, from a device of zeroes; then from the file to a device.
    let part = ["--target=host.file", "--offset=64k", "--size=64k"];
    succeed(read_job(&part).current_dir(at.path()));
    let changed = std::fs::read(at.path().join("host.file")).unwrap();
    assert_eq!(changed.len(), 1 << 20);
    assert!(changed[65_536..131_072].iter().all(|byte| *byte == 0));
    assert!(changed[..65_536] == file[..65_536] && changed[131_072..] == file[131_072..]);
    let back = [
        "--filename=emu:file=back.img,size=1m",
        "--target=host.file",
        "--rw=randwrite",
        "--bs=8k",
    ];
    succeed(read_job(&back).current_dir(at.path()));
    assert!(std::fs::read(at.path().join("back.img")).unwrap() == changed);
    for (target, words) in [("/nonexistent/file", "No such file"), (".", "directory")] {
        let target = format!("--target={target}");
        let (result, _, stderr) = output(read_job(&[&target]).current_dir(at.path()));
        assert_eq!(result.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

/// A store that fails is told at the fsync, and a device that goes away is no hang; no page stays
/// pinned (it would be told at the end).
#[test]
fn failures_are_told_and_nothing_hangs() {
    let at = folder();
    for (target, words) in [
        (
            "extent:emu:size=1m,fault=status:0x281@op=write+nth=3",
            &["flush failed", "Write"][..],
        ),
        (
            "extent:emu:size=1m,fault=status:0x280@op=flush+nth=1",
            &["flush failed", "Flush"],
        ),
        (
            "extent:emu:size=1m,fault=removed@op=write+nth=3",
            &["flush failed"],
        ),
    ] {
        let target = format!("--target={target}");
        let job = ["--fsync=8", &target];
        let (result, _, stderr) = output(read_job(&job).current_dir(at.path()));
        assert_eq!(result.status.code(), Some(1), "{target}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{target}: {stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(!stderr.contains("pinned"), "{stderr}");
    }
    for fault in ["removed@op=read+nth=9", "status:0x281@op=read+nth=9"] {
        let device = format!("--filename=emu:size=1m,fault={fault}");
        let (result, _, stderr) = output(read_job(&[&device]).current_dir(at.path()));
        assert_eq!(result.status.code(), Some(1), "{fault}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

/// Mistakes are found before any job runs, by line and with what would be right.
#[test]
fn mistakes_are_named() {
    let at = folder();
    let job = |lines: &str| format!("[a]\nioengine=underpin-file\nfilename=emu:size=1m\n{lines}\n");
    let target = "target=extent:emu:size=1m";
    for (lines, words) in [
        (
            "targte=extent:emu:size=1m".to_owned(),
            &["x.fio:4:", "did you mean 'target'?"][..],
        ),
        (format!("{target}\ncahce=1m"), &["x.fio:5:", "'cache'"]),
        (format!("{target}\ncache=1k"), &["x.fio:5:", "65536"]),
        (
            "target=extent:emu:size=1m?lab=8".to_owned(),
            &["x.fio:4:", "did you mean lba?"],
        ),
        (
            "target=extent:emu:sizze=1m".to_owned(),
            &["x.fio:4:", "size"],
        ),
        ("target=emu:size=1m".to_owned(), &["x.fio:4:", "extent:emu"]),
        (String::new(), &["needs target="]),
        (
            format!("{target}\niodepth=64\nbs=1m\ncache=64m"),
            &["134217728", "cache=67108864"],
        ),
        (format!("{target}\nioengine=underpin"), &["underpin-file"]),
    ] {
        write(at.path(), "x.fio", &job(&lines));
        let (result, _, stderr) = output(ours().current_dir(at.path()).arg("x.fio"));
        assert_eq!(result.status.code(), Some(2), "{lines}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{lines}: {word}: {stderr}");
        }
    }
    let (result, _, stderr) = output(read_job(&["--readonly"]).current_dir(at.path()));
    assert_eq!(result.status.code(), Some(2), "{stderr}");
    assert!(!at.path().join("target.img").exists());
}

/// What does not fit the file is said with both sizes and the file's name; blocks that would be
/// read into themselves are refused, and so are files that share blocks.
#[test]
fn what_does_not_fit_is_explained() {
    let at = folder();
    let far = "--target=extent:emu:size=1m?lba=1024";
    let itself = "--filename=emu:size=1m";
    for (extra, words) in [
        (&["--size=1m", far][..], &["524288", "lba=1024"][..]),
        (&["--bs=512"], &["4096", "bs=512"]),
        (&["--target=extent:emu:size=1m?len=4095"], &["whole pages"]),
        (&["--target=extent:emu:size=1m?ns=7"], &["namespace"]),
        (
            &[
                "--size=1m",
                "--target=extent:emu:size=1m?lba=512&ns=1",
                itself,
            ],
            &["262144", "in front of"],
        ),
        (
            &[
                "--target=extent:emu:size=4m",
                "--name=b",
                "--target=extent:emu:size=4m?lba=64",
                "--startdelay=300ms",
            ],
            &["has blocks of", "keep them apart"],
        ),
    ] {
        let (result, _, stderr) = output(read_job(extra).current_dir(at.path()));
        assert_eq!(result.status.code(), Some(1), "{extra:?}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{extra:?}: {word}: {stderr}");
        }
    }
}

/// The first signal ends the run with a report of the pages; nothing is left pinned, or the end
/// would say so.
#[test]
fn an_interrupted_run_gives_its_pages_back() {
    let at = folder();
    let mut child = read_job(&["--rw=randrw", "--time_based", "--runtime=600", "--fsync=32"])
        .current_dir(at.path())
        .args(["--output-format=json", "--eta=never"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !at.path().join("target.img").exists() {
        std::hint::spin_loop();
    }
    succeed(Command::new("sleep").arg("0.3"));
    succeed(Command::new("kill").args(["-INT", &child.id().to_string()]));
    let (mut text, mut complaints) = (String::new(), String::new());
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut complaints).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{complaints}");
    let found: Value = serde_json::from_str(&text).unwrap();
    assert!(number(pages(&found), "pins") > 0);
    assert!(!complaints.contains("closing target"), "{complaints}");
}

/// `pins` measures and says what each ratio is held to; its lines are those that scripts read.
#[test]
fn pins_prints_ratios_and_bars() {
    let text = succeed(ours().args(["pins", "--quick"]));
    for name in [
        "pin_hot",
        "pin_random_batched",
        "pin_two_threads",
        "writeback_begin_end",
    ] {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("ratio {name} ")));
        let value: f64 = line.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
        assert!(value > 0.0, "{text}");
        assert!(text.contains(&format!("\nbar {name} at most ")), "{text}");
    }
    assert!(text.contains("quiet: "), "{text}");
    let (result, _, stderr) = output(ours().args(["pins", "--fast"]));
    assert_eq!(result.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--quick"), "{stderr}");
}
