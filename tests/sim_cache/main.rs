//! The whole stack on one thread from one seed: cache, flusher, writeback, driver, two emulated
//! devices, and in half of the worlds one that fails for good, by a power cut or otherwise. A read
//! gives the newest bytes; what an fsync promised is on the medium; and the referee objects to
//! nothing. Built with `--cfg underpin_sim`.
//!
//! More worlds: `UNDERPIN_SCHEDULES=100000 RUSTFLAGS='--cfg underpin_sim' CARGO_TARGET_DIR=target/sim
//! cargo test --release --test sim_cache -- --nocapture`
#![cfg(underpin_sim)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod model;
#[allow(dead_code, reason = "another test has the rest of it")]
#[path = "../sim_pins/cache.rs"]
mod stamps;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use underpin::emulator::ViolationKind;
use world::{Report, live, make_source};

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn with_source<T>(body: impl FnOnce(&Path) -> T) -> T {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("versions");
    make_source(&path);
    body(&path)
}

fn judged(seed: u64, source: &Path) -> Report {
    match catch_unwind(AssertUnwindSafe(|| live(seed, source, false))) {
        Ok(report) => report,
        Err(panic) => {
            eprintln!("seed {seed} fails; again: UNDERPIN_SEED={seed} with the test `one_seed`");
            std::panic::resume_unwind(panic)
        }
    }
}

/// Whatever the order: no read of old or foreign bytes, nothing promised that is lost, no DMA that
/// is not allowed.
#[test]
fn no_world_loses_or_mixes_bytes() {
    let count = number_from("UNDERPIN_SCHEDULES").unwrap_or(1000);
    let (mut total, mut cuts, mut trace) = (Report::default(), 0_u64, 0_u64);
    let mut decided = [0_u64; 4];
    with_source(|source| {
        for seed in 0..count {
            let report = judged(seed, source);
            assert_eq!(report.violations, [], "seed {seed}: the referee objects");
            trace = trace.rotate_left(1) ^ report.trace;
            cuts += u64::from(report.cut);
            total.came += report.came;
            total.fsyncs += report.fsyncs;
            total.fsyncs_during += report.fsyncs_during;
            total.told += report.told;
            total.read += report.read;
            total.reread += report.reread;
            total.frame_checks += report.frame_checks;
            let stats = report.stats;
            let more = [
                stats.direct,
                stats.copies_clean,
                stats.copies_kept,
                stats.skips,
            ];
            decided
                .iter_mut()
                .zip(more)
                .for_each(|(all, more)| *all += more);
            total.stats.evictions += stats.evictions;
            total.stats.bounce_waits += stats.bounce_waits;
        }
    });
    println!(
        "{count} worlds, {cuts} with a device that failed: {} commands into pages, {} fsyncs ended well ({} with a \
         command under way), {} errors told, Direct, CopyClean, CopyKeep, Skip {decided:?}, {} evictions, {} waits for a \
         copy; {} blocks read and {} on the medium are right; {} accesses judged, 0 violations; trace \
         {trace:016x}",
        total.came,
        total.fsyncs,
        total.fsyncs_during,
        total.told,
        total.stats.evictions,
        total.stats.bounce_waits,
        total.read,
        total.reread,
        total.frame_checks
    );
    assert!(decided.iter().all(|&times| times >= count / 10), "too rare");
    assert!(
        total.fsyncs_during >= count,
        "too few fsyncs while a device writes"
    );
    assert!(total.stats.evictions >= count, "too few evictions");
}

/// With the pin check off the referee fires, and bytes are lost.
#[test]
fn without_the_pin_check_bytes_are_lost() {
    with_source(|source| {
        let (mut fired, mut wrong, count) = (0_u64, 0_u64, 400);
        for seed in 0..count {
            let report = live(seed, source, true);
            let during = |kind| kind == ViolationKind::DuringWriteback;
            fired += u64::from(
                report
                    .violations
                    .iter()
                    .any(|violation| during(violation.kind)),
            );
            wrong += report.wrong;
        }
        println!(
            "the pin check off: the referee fires in {fired} of {count} worlds; {wrong} blocks are wrong"
        );
        assert!(fired > 0, "a referee that has never fired proves nothing");
        assert!(
            wrong > 0,
            "a judge of bytes that never finds any wrong proves nothing"
        );
    });
}

/// The same seed makes the same world.
#[test]
fn a_seed_repeats() {
    with_source(|source| {
        for seed in 0..30 {
            assert_eq!(judged(seed, source), judged(seed, source), "seed {seed}");
        }
    });
}

/// One seed by hand, told in the environment; without one, the first.
#[test]
fn one_seed() {
    let seed = number_from("UNDERPIN_SEED").unwrap_or(0);
    println!("{:#?}", with_source(|source| judged(seed, source)));
}
