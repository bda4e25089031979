//! The same job file in both tools: how many I/Os of which kind, in which groups.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{folder, ours, report, stock, write};
use serde_json::Value;

/// Per job entry: name, group, and I/Os and bytes of each direction.
fn work(report: &Value) -> Vec<(String, u64, [u64; 4])> {
    report["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| {
            let number = |direction: &str, key: &str| job[direction][key].as_u64().unwrap();
            (
                job["jobname"].as_str().unwrap().to_owned(),
                job["groupid"].as_u64().unwrap(),
                [
                    number("read", "total_ios"),
                    number("write", "total_ios"),
                    number("read", "io_bytes"),
                    number("write", "io_bytes"),
                ],
            )
        })
        .collect()
}

fn same_work(job: &str) {
    let at = folder();
    write(at.path(), "job.fio", job);
    let theirs = report(stock(), at.path(), &["--thread", "job.fio"]);
    let mine = report(ours(), at.path(), &["job.fio"]);
    assert_eq!(work(&mine), work(&theirs), "{job}");
}

/// Offsets, sizes, loops, limits: the amount of work is fio's to the block.
#[test]
fn the_amount_of_work_is_that_of_fio() {
    for options in [
        "rw=read\nsize=1m",
        "rw=write\nsize=1m\nbs=64k",
        "rw=randread\nsize=1m\noffset=64k",
        "rw=read\nsize=1m\nloops=3",
        "rw=randwrite\nsize=1m\nloops=2\nverify=crc32c",
        "rw=write\nsize=1m\nio_size=256k",
        "rw=write\nsize=256k\nio_size=1m",
        "rw=randwrite\nsize=256k\nio_size=1m",
        "rw=read\nsize=1m\nnumber_ios=17",
        "rw=randread\nsize=1m\nnorandommap\nnumber_ios=100",
        "rw=rw\nsize=1m\nrwmixread=70",
        "rw=randrw\nsize=4m\nrwmixwrite=10",
        "rw=randrw\nsize=4m\nverify=crc32c",
        "rw=randrw\nsize=1m\nbs=4k\nnumber_ios=50\nverify=crc32c",
        "rw=randread:8\nsize=1m\nnorandommap",
        "rw=write:4k\nsize=1m",
        "rw=read\nfilename=a.img:b.img\nsize=1m",
        "rw=read\nnrfiles=4\nsize=1m",
        "rw=write\nsize=1m\nfsync=8",
        "rw=randwrite\nsize=1m\nfdatasync=8\nend_fsync=1",
        "rw=read\nsize=1000k\nbs=16k",
        "rw=randread\nsize=1m\nallrandrepeat=1",
        "rw=randrw\nsize=1m\nrandrepeat=0\nrandseed=77",
        "rw=write\nsize=1m\ndo_verify=0\nverify=crc32c",
        "rw=randread\nsize=1m\nnumjobs=3\noffset_increment=1m",
    ] {
        let with_name = if options.contains("filename=") || options.contains("nrfiles") {
            options.to_owned()
        } else {
            format!("filename=f.img\n{options}")
        };
        same_work(&format!("[j]\n{with_name}\n"));
    }
}

/// Clones, stonewalls and groups are numbered and merged as fio does it.
#[test]
fn groups_and_clones_are_reported_as_by_fio() {
    same_work(
        "[global]\nsize=256k\nrw=read\n[a]\nnumjobs=2\n[b]\nstonewall\n[c]\n[d]\nnew_group\n",
    );
    same_work(
        "[global]\nsize=256k\nrw=randrw\ngroup_reporting\n[a]\nnumjobs=3\n[b]\n[c]\nstonewall\nnumjobs=2\n",
    );
}

/// Two job files: the second waits, and does not inherit the first's defaults.
#[test]
fn job_files_run_one_after_the_other() {
    let at = folder();
    write(
        at.path(),
        "1.fio",
        "[global]\nbs=8k\n[a]\nsize=64k\nrw=write\n",
    );
    write(at.path(), "2.fio", "[b]\nsize=64k\nrw=write\n");
    let theirs = report(stock(), at.path(), &["1.fio", "2.fio"]);
    let mine = report(ours(), at.path(), &["1.fio", "2.fio"]);
    assert_eq!(work(&mine), work(&theirs));
    assert_eq!(work(&mine)[1].2[1], 16);
}

/// time_based goes on, runtime ends, ramp_time is not counted.
#[test]
fn time_limits_hold() {
    let at = folder();
    let arguments = [
        "--name=t",
        "--filename=f.img",
        "--size=64k",
        "--rw=randread",
    ];
    let run = |extra: &[&str]| {
        let all: Vec<&str> = arguments.iter().chain(extra).copied().collect();
        report(ours(), at.path(), &all)["jobs"][0].clone()
    };
    let job = run(&["--time_based", "--runtime=300ms"]);
    assert!(job["read"]["total_ios"].as_u64().unwrap() > 16);
    assert!(job["read"]["runtime"].as_u64().unwrap() >= 300);
    let job = run(&["--time_based", "--runtime=200ms", "--ramp_time=200ms"]);
    let measured = job["job_runtime"].as_u64().unwrap();
    assert!(measured >= 200, "{measured}");
    assert_eq!(
        job["read"]["clat_ns"]["N"].as_u64(),
        job["read"]["total_ios"].as_u64()
    );
    // A job shorter than its ramp measured nothing, and says so.
    let job = run(&["--ramp_time=60s"]);
    assert_eq!(job["read"]["total_ios"], 0);
}

/// A delayed clone starts late but does all its work.
#[test]
fn startdelay_delays() {
    let at = folder();
    let job = "[global]\nsize=64k\nrw=write\n[a]\n[b]\nstartdelay=100ms\n";
    write(at.path(), "d.fio", job);
    let mine = report(ours(), at.path(), &["d.fio"]);
    assert_eq!(work(&mine)[1].2[1], 16);
}

/// unlink removes what was made, create_on_open makes it late.
#[test]
fn files_come_and_go() {
    let at = folder();
    let arguments = ["--name=t", "--size=64k", "--rw=write", "--unlink=1"];
    report(ours(), at.path(), &arguments);
    assert!(!at.path().join("t.0.0").exists());
    let arguments = ["--name=t", "--size=64k", "--rw=write", "--create_on_open=1"];
    let mine = report(ours(), at.path(), &arguments);
    assert_eq!(work(&mine)[0].2[1], 16);
    assert_eq!(
        std::fs::metadata(at.path().join("t.0.0")).unwrap().len(),
        65_536
    );
}
