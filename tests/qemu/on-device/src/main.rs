//! What the scenarios of `tests/qemu` do with a device and need a program for: load until the end,
//! memory taken away behind the driver's back, answers compared with another tool's.
//! Everything here writes to the device's first namespace.

mod cost;
mod fields;
mod load;
mod meddle;
mod pair;
mod proof;
mod rate;
mod reset;
mod unmapped;
mod vectors;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(about = "What the scenarios of tests/qemu do with a device")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Measures submit, ring and poll by the guest's clock, the device's time left out
    Cost(cost::CostArgs),
    /// Keeps reads and writes in flight until the controller fails, and says how that went.
    /// Prints `loaded` once it has done some work
    Load(load::LoadArgs),
    /// One buffer for two controllers in one space, of which one is closed amid the other's I/O
    Pair {
        /// The one that is closed
        first: String,
        /// The one that goes on
        second: String,
    },
    /// Measures I/Os per second in a loop that submits and polls, and does nothing else
    Rate(rate::RateArgs),
    /// Resets the function amid I/O, and looks at the result
    Reset {
        /// The device
        url: String,
        /// It has no reset
        #[arg(long)]
        none: bool,
    },
    /// Reads into an address at which memory was, and is no more
    UnmappedData {
        /// The device
        url: String,
    },
    /// Reads with a PRP list that the device cannot reach
    UnmappedList {
        /// The device
        url: String,
    },
    /// Submits to a queue that the device cannot reach
    UnmappedQueue {
        /// The device
        url: String,
    },
    /// Sleeps for completions on several queues, each of which has to have its own interrupts
    Vectors {
        /// The device
        url: String,
    },
    /// Compares what nvme-cli prints as JSON with what `underpin` prints, field by field
    Fields {
        /// nvme-cli's output
        theirs: PathBuf,
        /// Ours
        ours: PathBuf,
        /// The member of ours that holds the fields
        member: String,
    },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let done = match Args::parse().what {
        What::Cost(args) => cost::run(&args),
        What::Load(args) => load::run(&args),
        What::Pair { first, second } => pair::run(&first, &second),
        What::Rate(args) => rate::run(&args),
        What::Reset { url, none } => reset::run(&url, !none),
        What::UnmappedData { url } => unmapped::data(&url),
        What::UnmappedList { url } => unmapped::list(&url),
        What::UnmappedQueue { url } => unmapped::queue(&url),
        What::Vectors { url } => vectors::run(&url),
        What::Fields {
            theirs,
            ours,
            member,
        } => fields::compare(&theirs, &ours, &member),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED  {error:#}");
            ExitCode::FAILURE
        }
    }
}
