//! Verify headers: what one tool writes the other checks, block for block, and
//! damage is found by both.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{damage, folder, ours, output, stock, succeed};
use std::path::Path;
use std::process::Command;

fn job(command: &mut Command, at: &Path, arguments: &[&str]) {
    command.current_dir(at).args([
        "--name=j",
        "--filename=disk.img",
        "--size=2m",
        "--verify=crc32c",
    ]);
    command.args(arguments);
}

fn passes(mut command: Command, at: &Path, arguments: &[&str]) {
    job(&mut command, at, arguments);
    succeed(&mut command);
}

/// Each pattern and block size, each engine: ours writes, stock fio checks the
/// whole file. `randrw` is replayed by fio from its own seeds, header seeds
/// included, so this also holds our sequence against fio's.
#[test]
fn stock_fio_accepts_what_we_write() {
    for (rw, bs, engine) in [
        ("write", "4k", "psync"),
        ("randwrite", "4k", "io_uring"),
        ("rw", "4k", "io_uring"),
        ("randrw", "4k", "psync"),
        ("randrw", "4k", "io_uring"),
        ("randwrite", "16k", "psync"),
        ("write", "128k", "io_uring"),
        ("randrw", "128k", "psync"),
    ] {
        let at = folder();
        let (rw, bs) = (format!("--rw={rw}"), format!("--bs={bs}"));
        let engine = format!("--ioengine={engine}");
        passes(ours(), at.path(), &[&rw, &bs, &engine, "--iodepth=8"]);
        passes(stock(), at.path(), &[&rw, &bs, "--verify_only"]);
        if rw.ends_with("write") {
            passes(stock(), at.path(), &["--rw=read", &bs]);
            passes(stock(), at.path(), &["--rw=randread", &bs]);
        }
    }
}

/// The other way round.
#[test]
fn we_accept_what_stock_fio_writes() {
    for (rw, bs) in [
        ("write", "4k"),
        ("randwrite", "4k"),
        ("rw", "8k"),
        ("randrw", "4k"),
        ("randrw", "64k"),
        ("write", "128k"),
    ] {
        let at = folder();
        let (rw, bs) = (format!("--rw={rw}"), format!("--bs={bs}"));
        passes(stock(), at.path(), &[&rw, &bs]);
        for engine in ["--ioengine=psync", "--ioengine=io_uring"] {
            passes(
                ours(),
                at.path(),
                &[&rw, &bs, engine, "--verify_only", "--iodepth=4"],
            );
            if rw.ends_with("write") {
                passes(ours(), at.path(), &["--rw=randread", &bs, engine]);
            }
        }
    }
}

/// Without a map some blocks are never written: only a tool that makes the same
/// sequence knows which.
#[test]
fn sparse_random_writes_are_replayed_by_the_other_tool() {
    let arguments = ["--rw=randwrite", "--bs=4k", "--norandommap"];
    let only = [
        "--rw=randwrite",
        "--bs=4k",
        "--norandommap",
        "--verify_only",
    ];
    let at = folder();
    passes(ours(), at.path(), &arguments);
    passes(ours(), at.path(), &only);
    passes(stock(), at.path(), &only);
    let at = folder();
    passes(stock(), at.path(), &arguments);
    passes(ours(), at.path(), &only);
}

/// One damaged block: both tools fail and name its offset; ours also names the
/// file and both checksums.
#[test]
fn damage_is_found_and_named_by_both() {
    let at = folder();
    passes(ours(), at.path(), &["--rw=write", "--bs=4k"]);
    damage(&at.path().join("disk.img"), 40_960 + 1000, b"damage");
    for rw in ["--rw=write", "--rw=randwrite", "--rw=read"] {
        for (mut command, is_ours) in [(stock(), false), (ours(), true)] {
            job(&mut command, at.path(), &[rw, "--bs=4k", "--verify_only"]);
            let (result, stdout, stderr) = output(&mut command);
            let text = stdout + &stderr;
            assert_eq!(result.status.code(), Some(1), "{text}");
            assert!(text.contains("offset 40960"), "{text}");
            if is_ours {
                assert!(text.contains("disk.img"), "{text}");
                assert!(
                    text.contains("expected CRC") && text.contains("received"),
                    "{text}"
                );
            }
        }
    }
}

/// By default every bad block is named; `verify_fatal` stops at the first.
#[test]
fn verify_fatal_stops_at_the_first_bad_block() {
    let at = folder();
    passes(ours(), at.path(), &["--rw=write", "--bs=4k"]);
    for block in [3u64, 7, 11] {
        damage(&at.path().join("disk.img"), block * 4096 + 5, &[0xff; 8]);
    }
    let count = |extra: &[&str]| {
        let mut command = ours();
        job(
            &mut command,
            at.path(),
            &["--rw=write", "--bs=4k", "--verify_only"],
        );
        command.args(extra);
        let (result, _, stderr) = output(&mut command);
        assert_eq!(result.status.code(), Some(1));
        stderr.matches("byte offset").count()
    };
    assert_eq!(count(&[]), 3);
    // Once where it was found, once as the reason why the job ended.
    assert!((1..=2).contains(&count(&["--verify_fatal=1"])));
}

/// Loops write the same blocks anew and verify each time; reading with another
/// block size than was written is an error that says so.
#[test]
fn another_block_size_is_not_accepted() {
    let at = folder();
    passes(ours(), at.path(), &["--rw=write", "--bs=4k", "--loops=2"]);
    let mut command = ours();
    job(&mut command, at.path(), &["--rw=read", "--bs=8k"]);
    let (result, _, stderr) = output(&mut command);
    assert_eq!(result.status.code(), Some(1));
    assert!(stderr.contains("another block size"), "{stderr}");
}

/// Several headers per block.
#[test]
fn verify_intervals_agree() {
    let at = folder();
    passes(
        ours(),
        at.path(),
        &["--rw=write", "--bs=64k", "--verify_interval=4k"],
    );
    passes(
        stock(),
        at.path(),
        &[
            "--rw=write",
            "--bs=64k",
            "--verify_interval=4k",
            "--verify_only",
        ],
    );
    passes(stock(), at.path(), &["--rw=read", "--bs=4k"]);
}

/// O_DIRECT, registered files and buffers, several loops.
#[test]
fn direct_and_registered_io_verifies() {
    let at = folder();
    passes(
        ours(),
        at.path(),
        &[
            "--rw=randwrite",
            "--bs=4k",
            "--ioengine=io_uring",
            "--direct=1",
            "--fixedbufs=1",
            "--registerfiles=1",
            "--iodepth=16",
            "--loops=2",
            "--fsync=16",
            "--end_fsync=1",
        ],
    );
    passes(
        stock(),
        at.path(),
        &["--rw=write", "--bs=4k", "--verify_only"],
    );
}
