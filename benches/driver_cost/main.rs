//! What the driver costs: its own nanoseconds and instructions per read, and two cores against
//! bare rings. Prints `ratio NAME VALUE` lines for scripts and the rest for people.
//!
//! ```text
//! cargo bench --bench driver_cost              everything
//! cargo bench --bench driver_cost -- --times   nanoseconds and throughput only
//! cargo bench --bench driver_cost -- --gate    counts only, against the committed baseline
//! cargo bench --bench driver_cost -- --bless   makes the counts the committed baseline
//! cargo bench --bench driver_cost -- --markers only what may run between the markers
//! cargo bench --bench driver_cost -- --vfio-user only the rows over vfio-user
//! cargo bench --bench driver_cost -- --depth 128 only the rows of both cores at this depth
//! cargo bench --bench driver_cost -- --sums    only whether the device reads what was submitted
//! ```
#![forbid(unsafe_code)]

mod bare;
mod baseline;
mod by_hand;
mod callgrind;
mod cores;
mod inline;
mod ledger;
mod machine;
mod one_core;
mod ours;
mod pool;
mod rounds;
mod two_cores;
mod vfio_user;

use baseline::Baseline;
use cores::Cores;
use std::error::Error;
use std::process::ExitCode;

/// What must hold on a quiet machine.
const DRIVER_ONLY_NS_MOST: f64 = 25.0;
const TWO_CORES_LEAST: f64 = 0.6;
const POOL_NS_MOST: f64 = 5.0;

/// Reads in flight where two cores work.
const DEPTHS: [u16; 3] = [1, 32, 128];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // cargo bench adds --bench.
    let words: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|&word| word != "--bench")
        .collect();
    let outcome = match words.as_slice() {
        [] => everything(),
        ["--times"] => held_when_quiet(times),
        ["--gate"] => counts(Against::Baseline),
        ["--bless"] => counts(Against::Bless),
        ["--markers"] => counts(Against::Nothing),
        ["--sums"] => sums(),
        ["--vfio-user"] => held_when_quiet(|cores| over_vfio_user(&DEPTHS, cores)),
        ["--depth", depth] => depth
            .parse()
            .map_err(Into::into)
            .and_then(|depth| held_when_quiet(|cores| at_depths(&[depth], cores))),
        // This program as the server.
        ["--serve", path] => vfio_user::serve(path.as_ref()).map(|()| Vec::new()),
        // This program under callgrind.
        ["--count-at", depth] => depth
            .parse()
            .map_err(Into::into)
            .and_then(|depth| one_core::count(depth).map(|()| Vec::new())),
        _ => {
            eprintln!(
                "usage: driver_cost [--times | --gate | --bless | --markers | --vfio-user | --depth N | --sums]"
            );
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            failures
                .iter()
                .for_each(|failure| eprintln!("FAILED: {failure}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

type Failures = Result<Vec<String>, Box<dyn Error>>;

fn everything() -> Failures {
    machine::print_facts();
    let mut missed = held_when_quiet(times)?;
    missed.extend(counts(Against::Baseline)?);
    Ok(missed)
}

/// Takes times, and holds them to their bars if nobody else used the machine meanwhile.
fn held_when_quiet(times: impl FnOnce(Option<Cores>) -> Failures) -> Failures {
    let cores = Cores::choose();
    match cores {
        Some(cores) => {
            cores.stay();
            println!("processors: {cores}");
        }
        None => println!("processors: not chosen, both sides may share one"),
    }
    let watch = machine::Watch::start();
    let mut missed = times(cores)?;
    let quiet = match watch.verdict() {
        Some(others) => {
            let quiet = others.quiet();
            println!(
                "quiet: {} (others used {:.0} % of a processor, {:.0} % was stolen)",
                if quiet { "yes" } else { "no" },
                others.busy_percent,
                others.stolen_percent
            );
            quiet
        }
        None => {
            println!("quiet: unknown (no /proc/stat)");
            false
        }
    };
    if !quiet && !missed.is_empty() {
        println!("warning: times taken while others work say little; what was missed is not held:");
        missed
            .drain(..)
            .for_each(|what| println!("warning: {what}"));
    }
    Ok(missed)
}

/// What moves with the machine.
fn times(cores: Option<Cores>) -> Failures {
    let mut missed = Vec::new();
    println!(
        "\none thread: driver + inline emulator, less bare host + inline emulator; ns per 4 KiB read"
    );
    for depth in [1, 32] {
        let one_core::DriverOnly {
            ours_ns,
            bare_ns,
            driver_ns,
        } = one_core::driver_only(depth)?;
        println!(
            "  QD {depth:<3}  driver {ours_ns:.1}  bare {bare_ns:.1}  difference {driver_ns:.1}"
        );
        println!("ratio driver_only_ns_qd{depth} {:.2}", driver_ns.median);
        if depth == 32 && driver_ns.median > DRIVER_ONLY_NS_MOST {
            missed.push(format!(
                "driver_only_ns_qd32 is {:.1}, over {DRIVER_ONLY_NS_MOST}",
                driver_ns.median
            ));
        }
    }
    let pool::PoolCost {
        pool_ns,
        ring_ns,
        beyond_ns,
    } = pool::pool_cost()?;
    println!("\na pool's buffer taken and given back, less a number of a bare ring; ns");
    println!("  pool {pool_ns:.1}  ring {ring_ns:.1}  difference {beyond_ns:.1}");
    println!("ratio pool_ns_beyond_ring {:.2}", beyond_ns.median);
    if beyond_ns.median > POOL_NS_MOST {
        missed.push(format!(
            "pool_ns_beyond_ring is {:.1}, over {POOL_NS_MOST}",
            beyond_ns.median
        ));
    }
    missed.extend(at_depths(&DEPTHS, cores)?);
    Ok(missed)
}

/// Two cores, in one process and in two.
fn at_depths(depths: &[u16], cores: Option<Cores>) -> Failures {
    let mut missed = Vec::new();
    println!(
        "\ntwo threads: driver and emulator, against a bare ring pair; million reads of 4 KiB a second"
    );
    for &depth in depths {
        let two = two_cores::two_cores(depth, cores)?;
        let million = |spread: rounds::Spread| rounds::Spread {
            p10: spread.p10 / 1e6,
            median: spread.median / 1e6,
            p90: spread.p90 / 1e6,
        };
        println!(
            "  QD {depth:<3}  driver {:.2}, {:.0} ns CPU each  bare {:.2}, {:.0} ns CPU each  quotient {:.2}",
            million(two.ours_iops),
            two.ours_cpu_ns,
            million(two.bare_iops),
            two.bare_cpu_ns,
            two.ratio,
        );
        println!(
            "          bare host over the emulator {:.2}",
            million(two.mixed_iops)
        );
        println!(
            "          doorbell registers written per 1000 reads: {:.2}",
            two.register_writes_per_1000
        );
        println!("ratio two_core_vs_bare_qd{depth} {:.3}", two.ratio.median);
        if depth == 32 && two.ratio.median < TWO_CORES_LEAST {
            missed.push(format!(
                "two_core_vs_bare_qd32 is {:.2}, under {TWO_CORES_LEAST}",
                two.ratio.median
            ));
        }
    }
    missed.extend(over_vfio_user(depths, cores)?);
    Ok(missed)
}

/// The same, with the emulator in another process.
fn over_vfio_user(depths: &[u16], cores: Option<Cores>) -> Failures {
    let mut missed = Vec::new();
    println!(
        "\ntwo processes: driver and served emulator over vfio-user, against a bare ring pair; million reads of 4 KiB a second"
    );
    for &depth in depths {
        let found = vfio_user::vfio_user(depth, cores)?;
        let million = |spread: rounds::Spread| rounds::Spread {
            p10: spread.p10 / 1e6,
            median: spread.median / 1e6,
            p90: spread.p90 / 1e6,
        };
        println!(
            "  QD {depth:<3}  driver {:.2}  bare {:.2}  quotient {:.2}",
            million(found.ours_iops),
            million(found.bare_iops),
            found.ratio,
        );
        if depth == 1 {
            println!(
                "          one by one: submit {:.0} ns, complete {:.0} ns, a look at the clock included",
                found.submit_ns, found.complete_ns
            );
        }
        println!(
            "          doorbell messages per 1000 reads: {:.2}",
            found.messages_per_1000
        );
        println!(
            "ratio vfio_user_vs_bare_qd{depth} {:.3}",
            found.ratio.median
        );
        if depth != 1 && found.ratio.median < TWO_CORES_LEAST {
            missed.push(format!(
                "vfio_user_vs_bare_qd{depth} is {:.2}, under {TWO_CORES_LEAST}",
                found.ratio.median
            ));
        }
    }
    Ok(missed)
}

/// Every command that is submitted must be one that the device reads, word for word.
fn sums() -> Result<Vec<String>, Box<dyn Error>> {
    for depth in [1, 32] {
        one_core::count(depth)?;
        println!("QD {depth}: the device read what was submitted");
    }
    Ok(Vec::new())
}

/// What counts are held to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Against {
    Baseline,
    Bless,
    Nothing,
}

/// What does not: counts by callgrind, and what must not run at all.
fn counts(against: Against) -> Result<Vec<String>, Box<dyn Error>> {
    let mut failures = Vec::new();
    let mut figures = Vec::new();
    println!("\ncallgrind: submit, ring and poll between two markers, per 4 KiB read");
    for (depth, name) in [(1_u16, "instructions_qd1"), (32, "instructions_qd32")] {
        let counted = callgrind::run(depth)?;
        let per_read = |count: u64| count as f64 / one_core::COUNTED_READS as f64;
        println!(
            "  QD {depth:<3}  {:.1} instructions, {:.3} of them lock the bus",
            per_read(counted.instructions),
            per_read(counted.locked),
        );
        for function in &counted.functions {
            println!(
                "    {:8.2}  {}",
                per_read(function.instructions),
                function.name
            );
        }
        println!(
            "ratio driver_only_{name} {:.2}",
            per_read(counted.instructions)
        );
        figures.push((name, per_read(counted.instructions)));
        let batches = one_core::COUNTED_READS as f64 / f64::from(depth);
        for what in callgrind::violations(&counted, batches) {
            failures.push(format!("between the markers at QD {depth}: {what}"));
        }
    }
    if failures.is_empty() {
        println!("between the markers: no allocator, lock, futex or system call but the clock's");
    }
    let now = Baseline::new(machine::rustc(), &figures);
    match against {
        Against::Bless if failures.is_empty() => now.bless()?,
        Against::Nothing => {}
        _ => failures.extend(Baseline::read()?.excesses(&now)),
    }
    Ok(failures)
}
