//! What files cost whose pages devices write: a pin by page number, a command on a pinned page, and
//! writeback beside the best that the driver alone does. Prints `ratio NAME VALUE` lines.
//!
//! ```text
//! cargo bench --bench file_cost              everything, held to its bars if the machine is quiet
//! cargo bench --bench file_cost -- --quick   fewer rounds, no verdict
//! ```
#![deny(unsafe_code)]
// What a round reads from the others' modules is not all used here.
#![allow(dead_code)]

mod count;
mod cpu;
mod crc;
mod foreground;
#[path = "../driver_cost/inline.rs"]
mod inline;
#[path = "../driver_cost/ledger.rs"]
mod ledger;
#[path = "../driver_cost/machine.rs"]
mod machine;
mod pinned;
#[path = "../driver_cost/rounds.rs"]
mod rounds;
mod streams;

use machine::Watch;
use rounds::{Spread, interleave};
use std::error::Error;
use std::process::ExitCode;
use streams::{Stream, Streams};

/// Bars on a quiet machine: name, and the most or the least that is wanted.
const BARS: [(&str, Bar); 8] = [
    ("pin_lookup", Bar::Most(40.0)),
    ("pinned_io_extra", Bar::Most(1.3)),
    ("pinned_io_extra_instructions", Bar::Most(40.0)),
    ("copy_crc", Bar::Most(1.1)),
    ("writeback_direct", Bar::Least(0.95)),
    ("writeback_copy", Bar::Least(0.90)),
    ("writeback_direct_cpu", Bar::Most(1.15)),
    ("writeback_copy_cpu", Bar::Most(1.0)),
];

enum Bar {
    Most(f64),
    Least(f64),
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let held = match words[..] {
        [] => all(false),
        ["--quick"] => all(true),
        // This program under callgrind.
        ["--count", kind] => count::count(kind).map(|()| true),
        _ => {
            eprintln!("usage: file_cost [--quick]");
            return ExitCode::from(2);
        }
    };
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("file_cost: {error}");
            ExitCode::FAILURE
        }
    }
}

fn all(quick: bool) -> Result<bool, Box<dyn Error>> {
    machine::print_facts();
    let watch = Watch::start();
    let rounds = if quick { 5 } else { 31 };
    let mut values = Vec::new();

    let lookup = pinned::Lookup::new()?;
    let [ours, bare] = interleave(rounds, [&mut || lookup.ours(), &mut || lookup.bare()])?;
    let (ours, bare) = (Spread::of(ours), Spread::of(bare));
    println!("pin_lookup: a file's page {ours} ns, two locked adds {bare} ns");
    values.push(("pin_lookup", ours.median));

    let mut commands = pinned::Commands::new()?;
    let commands = std::cell::RefCell::new(&mut commands);
    let [with, without, bare] = interleave(
        rounds,
        [
            &mut || commands.borrow_mut().pinned(),
            &mut || commands.borrow_mut().plain(),
            &mut || lookup.bare(),
        ],
    )?;
    let extra: Vec<f64> = with
        .iter()
        .zip(&without)
        .map(|(with, without)| with - without)
        .collect();
    let ratio = Spread::of(extra.iter().zip(&bare).map(|(extra, bare)| extra / bare));
    println!(
        "pinned_io_extra: pinned {} ns, a plain buffer {} ns, two locked adds {} ns; extra / bare {ratio:.3}",
        Spread::of(with),
        Spread::of(without),
        Spread::of(bare),
    );
    values.push(("pinned_io_extra", ratio.median));

    let (with, without) = (
        count::instructions("pinned")?,
        count::instructions("plain")?,
    );
    println!(
        "pinned_io_extra_instructions: pinned {with:.1}, a plain buffer {without:.1}, the device's included"
    );
    values.push(("pinned_io_extra_instructions", with - without));

    let crc = crc::Pages::new(if quick { 1 << 12 } else { 1 << 15 })?;
    let [both, alone] = interleave(
        rounds,
        [&mut || crc.copy_and_crc(), &mut || crc.crc_alone()],
    )?;
    let ratio = Spread::of(both.iter().zip(&alone).map(|(both, alone)| both / alone));
    let (both, alone) = (Spread::of(both), Spread::of(alone));
    println!("copy_crc: copy and CRC of a cold page {both} ns, CRC alone {alone} ns; {ratio:.3}");
    values.push(("copy_crc", ratio.median));

    let streams = Streams::new()?;
    let raw = streams.best_raw(if quick { 2 } else { 5 })?;
    let [direct, copy, raw] = interleave(
        if quick { 2 } else { 7 },
        [
            &mut || streams.writeback(false),
            &mut || streams.writeback(true),
            &mut || streams.raw(raw),
        ],
    )?;
    let speeds = |of: &[Stream]| -> Vec<f64> { of.iter().map(|one| one.mb_per_s).collect() };
    for (name, ours) in [("writeback_direct", &direct), ("writeback_copy", &copy)] {
        let (ours, raw) = (speeds(ours), speeds(&raw));
        let ratio = Spread::of(ours.iter().zip(&raw).map(|(ours, raw)| ours / raw));
        let (ours, raw) = (Spread::of(ours), Spread::of(raw));
        println!("{name}: {ours} MB/s, the driver alone {raw} MB/s; {ratio:.3}");
        values.push((name, ratio.median));
    }
    let copied_ns = Spread::of((0..5).map(|_| streams::copy_ns())).median;
    for (name, ours, more_ns) in [
        ("writeback_direct_cpu", &direct, 0.0),
        ("writeback_copy_cpu", &copy, copied_ns),
    ] {
        let cpu = |of: &[Stream]| -> Vec<f64> { of.iter().map(|one| one.cpu_ns).collect() };
        let (ours, raw) = (cpu(ours), cpu(&raw));
        let ratio = Spread::of(
            ours.iter()
                .zip(&raw)
                .map(|(ours, raw)| ours / (raw + more_ns)),
        );
        let (ours, raw) = (Spread::of(ours), Spread::of(raw));
        println!(
            "{name}: {ours} ns of the host's processors a page, the driver alone {raw} ns, a copy {more_ns:.1} ns; {ratio:.3}"
        );
        values.push((name, ratio.median));
    }

    let foreground = foreground::Foreground::new()?;
    for (seed, name, flusher) in [(1, "idle", false), (2, "at full speed", true)] {
        let count = if quick { 2_000 } else { 20_000 };
        let (waits, mb_per_s) = foreground.reads(count, flusher, seed)?;
        println!(
            "foreground reads of pages that are not there, the flusher {name} ({mb_per_s:.0} MB/s): p50 {:.1} us, p99 {:.1} us",
            waits.p50_us, waits.p99_us
        );
    }
    let stats = foreground.stats();
    println!("  written back meanwhile: {stats:?}");

    for (name, value) in &values {
        println!("ratio {name} {value:.3}");
    }
    let quiet = watch.verdict();
    match quiet {
        Some(others) => println!(
            "others used {:.1} % of a processor, {:.1} % were withheld; quiet: {}",
            others.busy_percent,
            others.stolen_percent,
            if others.quiet() { "yes" } else { "no" }
        ),
        None => println!("quiet: unknown"),
    }
    let quiet = quiet.is_some_and(machine::Others::quiet);
    Ok(held(&values, quiet) || quick || !quiet)
}

fn held(values: &[(&'static str, f64)], quiet: bool) -> bool {
    let mut held = true;
    for ((name, bar), (_, value)) in BARS.iter().zip(values) {
        let (good, wanted) = match bar {
            Bar::Most(most) => (value <= most, format!("at most {most}")),
            Bar::Least(least) => (value >= least, format!("at least {least}")),
        };
        if !good {
            let noise = if quiet { "" } else { " (not quiet)" };
            println!("{name}: {value:.3}, wanted {wanted}{noise}");
            held = false;
        }
    }
    held
}
