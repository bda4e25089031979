//! `underpin-fuzz`: runs fuzz targets on stable Rust, for a few seconds in continuous integration and
//! for as long as one likes by hand.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use underpin_dma::rt::sim::is_simulated;
use underpin_fuzz::engine::{self, Plan};
use underpin_fuzz::{TARGETS, Target};

/// Runs fuzz targets: the kept inputs of tests/fuzz/corpus first, then ones made of them.
///
/// The targets run in virtual time. A program that was not built so builds another one, with
/// RUSTFLAGS='--cfg underpin_sim' and a target folder of its own, and runs that.
#[derive(Debug, Parser)]
#[command(name = "underpin-fuzz")]
struct Args {
    /// The target, or `all`.
    target: String,
    /// Run these inputs and nothing else.
    inputs: Vec<PathBuf>,
    /// Seconds for made inputs, for each target.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// No more than so many made inputs.
    #[arg(long, default_value_t = u64::MAX)]
    most: u64,
    /// Of all randomness; printed, and another one each time unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the kept inputs of all targets lie.
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Where an input is saved that finds something.
    #[arg(long, default_value = "target/fuzz-findings")]
    findings: PathBuf,
    /// Add inputs to the corpus that do something new.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let done = if is_simulated() {
        run(&Args::parse())
    } else {
        build_and_run()
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("underpin-fuzz: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs this program as it should have been built.
fn build_and_run() -> Result<ExitCode> {
    // Mistakes in the arguments are told before a build.
    let _ = Args::parse();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here
        .ancestors()
        .nth(2)
        .context("the workspace lies two folders up")?;
    let base =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "run",
            "--quiet",
            "--release",
            "-p",
            "underpin-fuzz",
            "--manifest-path",
        ])
        .arg(root.join("Cargo.toml"))
        .arg("--")
        .args(std::env::args_os().skip(1))
        .env("RUSTFLAGS", "--cfg underpin_sim")
        .env("CARGO_TARGET_DIR", base.join("sim"));
    let status = cargo.status().context("cargo cannot be run")?;
    Ok(match status.code() {
        Some(code) => ExitCode::from(code as u8),
        None => ExitCode::from(2),
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    let wanted: Vec<&Target> = TARGETS
        .iter()
        .filter(|target| args.target == "all" || args.target == target.name)
        .collect();
    if wanted.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        bail!(
            "no target {:?}; there are {} and all",
            args.target,
            names.join(", ")
        );
    }
    let corpus = args.corpus.clone();
    let corpus = corpus.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus"));
    // From the process: which one it was does not matter, only that it is told.
    let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let (mut passed, mut failed) = (0, 0);
    for target in wanted {
        if !args.inputs.is_empty() {
            engine::replay(target, &args.inputs, &args.findings)?;
            continue;
        }
        let plan = Plan {
            seconds: args.seconds,
            most: args.most,
            seed,
            corpus: corpus.join(target.name),
            findings: args.findings.clone(),
            keep: args.keep,
        };
        let outcome = engine::fuzz(target, &plan)?;
        let name = target.name;
        println!(
            "{name:15} {} kept inputs, {} made from seed {seed}, {} kinds of things, {:.1} s: {}",
            outcome.kept,
            outcome.made,
            outcome.features,
            outcome.seconds,
            if outcome.finding.is_none() {
                "no finding"
            } else {
                "FINDING"
            },
        );
        match outcome.finding {
            None => passed += 1,
            Some(path) => {
                failed += 1;
                println!(
                    "again: cargo run -p underpin-fuzz -- {name} {}",
                    path.display()
                );
            }
        }
    }
    println!("targets: {passed} passed, {failed} failed");
    Ok(ExitCode::from(u8::from(failed > 0)))
}
