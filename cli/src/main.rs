//! The `underpin` command: which NVMe devices there are, and what one says of itself.
//! Exit status: 0 fine, 1 a device failed, 2 the command line is wrong.
#![forbid(unsafe_code)]

mod args;
mod device;
mod failure;
mod identify;
mod list;
mod log;
mod output;
mod sysfs;
mod text;

use args::{Args, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    log::install();
    let ended = match args.command {
        Command::List(args) => list::run(&args),
        Command::Identify(args) => identify::run(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
