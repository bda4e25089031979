//! What pins cost, through the public API, beside the two bare atomics that they are made of and
//! beside what the kernel takes to pin a page. Prints `ratio NAME VALUE` lines for scripts.
//!
//! ```text
//! cargo bench --bench pin_unpin              everything, held to its bars if the machine is quiet
//! cargo bench --bench pin_unpin -- --quick   fewer rounds, no verdict
//! cargo bench --bench pin_unpin -- --asm     the instructions of a pin and an unpin
//! ```
#![deny(unsafe_code)]
// What a round reads from the other's module is not all used here.
#![allow(dead_code)]

mod arms;
mod asm;
mod cache;
mod kernel;
#[path = "../driver_cost/machine.rs"]
mod machine;
#[path = "../driver_cost/rounds.rs"]
mod rounds;

use machine::Watch;
use rounds::{Spread, interleave};
use std::error::Error;
use std::process::ExitCode;

/// Bars on a quiet machine: name, the most, or the least.
const BARS: [(&str, Bar); 5] = [
    ("pin_hot", Bar::Most(1.10)),
    ("pin_random_batched", Bar::Most(1.15)),
    ("pin_two_threads", Bar::Most(1.15)),
    ("writeback_begin_end", Bar::Most(1.2)),
    ("pin_vs_kernel", Bar::Least(20.0)),
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
        ["--asm"] => asm::print().map(|()| true),
        _ => {
            eprintln!("usage: pin_unpin [--quick | --asm]");
            return ExitCode::from(2);
        }
    };
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pin_unpin: {error}");
            ExitCode::FAILURE
        }
    }
}

fn all(quick: bool) -> Result<bool, Box<dyn Error>> {
    machine::print_facts();
    let watch = Watch::start();
    let rounds = if quick { 5 } else { 31 };
    let mut ratios = Vec::new();
    let hot = arms::Hot::new()?;
    ratios.push(ratio("pin_hot", rounds, &mut || hot.ours(), &mut || {
        hot.bare()
    })?);
    let pages = if quick { 1 << 18 } else { 8 << 20 };
    let random = arms::Random::new(pages)?;
    println!("{pages} pages:");
    ratios.push(ratio(
        "pin_random_batched",
        rounds,
        &mut || random.ours(),
        &mut || random.bare(),
    )?);
    drop(random);
    let shared = arms::Shared::new()?;
    ratios.push(ratio(
        "pin_two_threads",
        rounds,
        &mut || shared.ours(),
        &mut || shared.bare(),
    )?);
    let writeback = arms::Writebacks::new()?;
    ratios.push(ratio(
        "writeback_begin_end",
        rounds,
        &mut || writeback.ours(),
        &mut || writeback.bare(),
    )?);
    match kernel::Registration::new() {
        Ok(kernel) => {
            let (pages, huge) = (kernel.per_page_of_512()?, kernel.per_page_of_huge());
            println!("the kernel, 512 pages at a time: {pages:.1} ns a page");
            match huge {
                Ok(huge) => println!("the kernel, a 2 MiB page: {huge:.1} ns per 4 KiB"),
                Err(why) => println!("the kernel, a 2 MiB page: not to be had ({why})"),
            }
            let [theirs, ours] =
                interleave(rounds, [&mut || kernel.one_page(), &mut || hot.ours()])?;
            let (theirs, ours) = (Spread::of(theirs), Spread::of(ours));
            println!(
                "pin_vs_kernel: the kernel's register + unregister of a page {theirs} ns, ours {ours} ns"
            );
            ratios.push(("pin_vs_kernel", theirs.median / ours.median));
        }
        Err(why) => println!("pin_vs_kernel: not measured: io_uring cannot be had ({why})"),
    }
    for (name, value) in &ratios {
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
    Ok(quick || held(&ratios, quiet.is_some_and(machine::Others::quiet)))
}

/// Ours against the bare arm, round by round: the median of the rounds' ratios.
fn ratio(
    name: &'static str,
    rounds: usize,
    ours: &mut dyn FnMut() -> Result<f64, Box<dyn Error>>,
    bare: &mut dyn FnMut() -> Result<f64, Box<dyn Error>>,
) -> Result<(&'static str, f64), Box<dyn Error>> {
    let [ours, bare] = interleave(rounds, [ours, bare])?;
    let of_rounds = Spread::of(ours.iter().zip(&bare).map(|(ours, bare)| ours / bare));
    let (ours, bare) = (Spread::of(ours), Spread::of(bare));
    println!("{name}: ours {ours:.2} ns, bare {bare:.2} ns, ours / bare {of_rounds:.3}");
    Ok((name, of_rounds.median))
}

fn held(ratios: &[(&'static str, f64)], quiet: bool) -> bool {
    let mut held = true;
    for (name, bar) in BARS {
        let Some((_, value)) = ratios.iter().find(|(of, _)| *of == name) else {
            println!("{name}: not measured");
            held = false;
            continue;
        };
        let (good, wanted) = match bar {
            Bar::Most(most) => (*value <= most, format!("at most {most}")),
            Bar::Least(least) => (*value >= least, format!("at least {least}")),
        };
        if !good {
            println!(
                "{name}: {value:.3}, wanted {wanted}{}",
                if quiet { "" } else { " (not quiet)" }
            );
            held = false;
        }
    }
    held || !quiet
}
