//! The underpin engine: jobs on the embedded NVMe controller, checked by stock fio
//! on the file that keeps its blocks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;

use common::{damage, folder, ours, output, report, stock, succeed, write};

/// The quickstart's jobs with another file and less time.
fn quickstart(at: &Path) -> String {
    let text = include_str!("../../jobs/quickstart.fio");
    let image = at.join("disk.img");
    let text = text
        .replace("/tmp/underpin-quickstart.img", image.to_str().unwrap())
        .replace("runtime=3s", "runtime=100ms");
    assert!(!text.contains("runtime=3s") && text.contains("disk.img"));
    text
}

/// What the quickstart leaves, stock fio verifies block for block; after one block
/// was overwritten both tools fail and name its offset.
#[test]
fn stock_fio_verifies_what_the_quickstart_wrote() {
    let at = folder();
    write(at.path(), "q.fio", &quickstart(at.path()));
    let text = succeed(ours().current_dir(at.path()).arg("q.fio"));
    assert_eq!(text.matches("err= 0").count(), 3, "{text}");
    let check = |rw: &str, is_ours: bool| {
        let mut command = if is_ours { ours() } else { stock() };
        command.current_dir(at.path()).args([
            "--name=c",
            "--size=64m",
            "--bs=4k",
            "--verify=crc32c",
            "--verify_only",
            rw,
        ]);
        if is_ours {
            let url = format!(
                "--filename=emu:file={},size=64m",
                at.path().join("disk.img").display()
            );
            command.args(["--ioengine=underpin", "--iodepth=16", &url]);
        } else {
            command.arg("--filename=disk.img");
        }
        output(&mut command)
    };
    for rw in ["--rw=write", "--rw=read"] {
        assert!(check(rw, false).0.status.success());
        assert!(check(rw, true).0.status.success());
    }
    damage(&at.path().join("disk.img"), 7 * 4096, b"overwritten");
    for is_ours in [false, true] {
        let (result, stdout, stderr) = check("--rw=write", is_ours);
        let text = stdout + &stderr;
        assert_eq!(result.status.code(), Some(1), "{text}");
        assert!(text.contains("offset 28672"), "{text}");
    }
}

/// Clones share one controller, each with a queue pair and its own part; block
/// sizes above the device's transfer limit are split.
#[test]
fn clones_share_a_controller() {
    let at = folder();
    let job = "[j]\nioengine=underpin\nfilename=emu:file=disk.img,size=16m\nsize=4m\nnumjobs=4\n\
        offset_increment=4m\nrw=randwrite\nbs=512k\niodepth=4\nverify=crc32c\ngroup_reporting\n";
    write(at.path(), "n.fio", job);
    let found = report(ours(), at.path(), &["n.fio"]);
    assert_eq!(found["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(found["jobs"][0]["write"]["io_bytes"], 16 << 20);
    let whole = [
        "--name=c",
        "--filename=disk.img",
        "--size=16m",
        "--bs=512k",
        "--rw=write",
        "--verify=crc32c",
        "--verify_only",
    ];
    succeed(stock().current_dir(at.path()).args(whole));
}

/// Both block sizes, several namespaces, and a job of each pattern.
#[test]
fn every_pattern_runs_on_every_kind_of_namespace() {
    let at = folder();
    for url in [
        "emu:size=8m",
        "emu:size=8m,lba=4096",
        "emu:size=8m,ns=2?ns=2",
    ] {
        for rw in ["read", "write", "randread", "randwrite", "rw", "randrw"] {
            let arguments = [
                "--name=j",
                "--ioengine=underpin",
                &format!("--filename={url}"),
                &format!("--rw={rw}"),
                "--bs=4k,16k",
                "--iodepth=8",
                "--io_size=2m",
                "--fsync=16",
                "--verify=0",
            ];
            let found = report(ours(), at.path(), &arguments);
            let job = &found["jobs"][0];
            let bytes = job["read"]["io_bytes"].as_u64().unwrap()
                + job["write"]["io_bytes"].as_u64().unwrap();
            assert!(
                ((2 << 20)..(2 << 20) + 16_384).contains(&bytes),
                "{url} {rw} {bytes}"
            );
        }
    }
}

/// Sleeping for interrupts moves the same bytes as polling, at any depth, and none is waited for in vain.
#[test]
fn interrupts_end_every_io() {
    let at = folder();
    for depth in [1, 8] {
        let arguments = [
            "--name=j",
            "--ioengine=underpin",
            "--filename=emu:size=8m",
            "--rw=randrw",
            "--interrupts=1",
            &format!("--iodepth={depth}"),
            "--io_size=2m",
        ];
        let found = report(ours(), at.path(), &arguments);
        let job = &found["jobs"][0];
        let bytes =
            job["read"]["io_bytes"].as_u64().unwrap() + job["write"]["io_bytes"].as_u64().unwrap();
        assert_eq!(bytes, 2 << 20, "depth {depth}");
    }
}

/// What does not fit the device is said with its numbers; what is no device is a mistake of the
/// command line, found before any job runs.
#[test]
fn what_does_not_fit_is_explained() {
    let at = folder();
    for (url, extra, words) in [
        ("emu:size=1m,lba=4096", "--bs=512", &["4096", "bs=512"][..]),
        ("emu:size=1m", "--size=2m", &["1048576", "2097152"]),
        ("emu:size=1m?ns=7", "--bs=4k", &["namespace", "7"]),
        ("emu:sise=1m", "--bs=4k", &["emu:sise=1m"]),
        ("nvme0", "--bs=4k", &["nvme0", "emu:"]),
        (
            "emu:size=1m,queues=2",
            "--numjobs=3",
            &["grants 2", "numjobs"],
        ),
    ] {
        let url = format!("--filename={url}");
        let arguments = ["--name=j", "--ioengine=underpin", "--rw=read", &url, extra];
        let (result, _, stderr) = output(ours().current_dir(at.path()).args(arguments));
        let is_device = !url.contains("sise") && !url.contains("nvme0");
        let status = if is_device { 1 } else { 2 };
        assert_eq!(result.status.code(), Some(status), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "{url}: {stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

/// A device that does not end as it should may have lost what was written: the run has failed,
/// though every I/O went well.
#[test]
fn a_device_that_does_not_close_fails_the_run() {
    let at = folder();
    let mut command = ours();
    command.current_dir(at.path()).args([
        "--name=a",
        "--ioengine=underpin",
        "--rw=write",
        "--bs=4k",
        "--size=64k",
        "--filename=emu:size=1m,to_ms=500,fault=never-disabled@op=disable",
    ]);
    let (result, stdout, stderr) = output(&mut command);
    assert_eq!(result.status.code(), Some(1), "{stderr}");
    assert!(stdout.contains("err= 0"), "{stdout}");
    let words = ["closing 'emu:", "did not become disabled"];
    assert!(words.iter().all(|word| stderr.contains(word)), "{stderr}");
}

/// The job file for host files parses; running it takes a quiet machine.
#[test]
fn the_job_file_of_the_host_is_sound() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../jobs/host.fio");
    let mut command = ours();
    command
        .env("TARGET", "/tmp/nothing")
        .args(["--parse-only", path]);
    assert_eq!(succeed(&mut command).matches("ioengine=").count(), 4);
}

/// Why a medium failed is said, not only that it did: here a file of the host that may not grow.
#[test]
fn the_cause_of_a_failed_medium_is_told() {
    let at = folder();
    let job = "exec \"$0\" --name=a --ioengine=underpin --rw=write --bs=4k --size=1m \
               --offset=48m --filename=emu:file=disk.img,size=64m";
    let image = std::fs::File::create(at.path().join("disk.img")).unwrap();
    image.set_len(64 << 20).unwrap();
    // SIGXFSZ ignored, a write past the limit is EFBIG.
    let script = format!("trap '' XFSZ; ulimit -f 32768; {job}");
    let program = ours().get_program().to_owned();
    let mut shell = std::process::Command::new("sh");
    shell
        .current_dir(at.path())
        .arg("-c")
        .arg(script)
        .arg(program);
    let (result, _, stderr) = output(&mut shell);
    assert_eq!(result.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("Write Fault"), "{stderr}");
    assert!(stderr.contains("os error 27"), "{stderr}");
}

/// The first bad block of `verify_fatal` is named once.
#[test]
fn a_fatal_bad_block_is_named_once() {
    let at = folder();
    let url = "--filename=emu:file=disk.img,size=64k";
    let job = [
        "--name=a",
        "--ioengine=underpin",
        "--size=64k",
        "--rw=write",
        "--verify=crc32c",
        url,
    ];
    succeed(ours().current_dir(at.path()).args(job));
    damage(&at.path().join("disk.img"), 4096, b"overwritten");
    let only = ["--verify_only", "--verify_fatal=1"];
    let (result, _, stderr) = output(ours().current_dir(at.path()).args(job).args(only));
    assert_eq!(result.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.matches("verify failed").count(), 1, "{stderr}");
}

/// The report repeats iodepth, so a device that takes fewer commands is named.
#[test]
fn a_depth_that_is_not_reached_is_noted() {
    let at = folder();
    for (options, depth, noted) in [
        ("mqes=9", "8", false),
        ("mqes=9", "9", true),
        ("mqes=9,mdts=1", "4", false),
        ("mqes=9,mdts=1", "5", true),
    ] {
        let (result, _, stderr) = output(ours().current_dir(at.path()).args([
            "--name=a",
            "--ioengine=underpin",
            "--rw=read",
            "--size=1m",
            "--bs=16k",
            &format!("--filename=emu:size=1m,{options}"),
            &format!("--iodepth={depth}"),
        ]));
        assert!(result.status.success(), "{stderr}");
        assert_eq!(stderr.contains("not reached"), noted, "{options}: {stderr}");
    }
}
