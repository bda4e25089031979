//! `underpin-fio`: runs fio job files on Underpin's NVMe driver, on io_uring or
//! with pread/pwrite, and reports as fio does.
//!
//! From job file to report: `cli` and `options` read, `job` makes it typed,
//! `plan` puts it in order, `schedule` starts a thread per job, `run` pumps I/O
//! from `generate` through an `engine` and counts in `stats`, `report` prints.

#![deny(unsafe_code)]
// They panic when the stream is full or closed.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod app;
mod cli;
mod clock;
mod control;
mod engine;
mod generate;
mod histogram;
mod job;
mod layout;
mod log;
mod measure;
mod options;
mod pins;
mod plan;
mod random;
mod random_map;
mod report;
mod run;
mod schedule;
mod signals;
mod stats;
#[allow(unsafe_code, reason = "the one module for it, see its first lines")]
mod sys;
mod verify;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    app::run(arguments)
}
