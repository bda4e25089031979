//! The `underpin` command: which NVMe devices there are, and what one says of itself.
//! Exit status: 0 fine, 1 a device failed, 2 the command line is wrong.
#![deny(unsafe_code)]
// They panic when the stream is full or closed.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod bind;
#[allow(unsafe_code, reason = "a function that runs before `main`")]
mod closed;
mod device;
mod doctor;
mod failure;
mod features;
mod identify;
mod iommu;
mod list;
mod log;
mod log_page;
mod machine;
mod manual;
mod number;
mod output;
mod passthru;
mod processes;
mod serve;
mod sysfs;
mod text;
mod unbind;

use args::{Args, Command};
use clap::Parser;
use failure::{EXIT_USAGE, Failure, Problem};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return refused(&error),
    };
    if args.command.answers() && closed::output_was_closed() {
        return nobody_listens();
    }
    log::install();
    let as_json = args.command.json();
    let ended = match args.command {
        Command::List(args) => list::run(&args),
        Command::Bind(args) => bind::run(&args),
        Command::Unbind(args) => unbind::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Identify(args) => identify::run(&args),
        Command::Log(args) => log_page::run(&args),
        Command::Features(args) => features::run(&args),
        Command::Passthru(args) => passthru::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(as_json),
    }
}

/// An answer that nobody can get is not worth asking a device for, least of all changing it.
fn nobody_listens() -> ExitCode {
    let problem = Problem {
        code: "output",
        message: "standard output is closed".to_owned(),
        hint: "open it, or send it to /dev/null where the answer is not wanted".to_owned(),
        status: None,
        exit: EXIT_USAGE,
    };
    Failure::Told(problem).report(false)
}

/// The command line could not be read, or asks for help. Whoever wants JSON gets JSON for this, too:
/// what else was meant is not known, but that is.
fn refused(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    if !error.use_stderr() {
        if closed::output_was_closed() {
            return nobody_listens();
        }
        return match output::help(error) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(false),
        };
    }
    if !wants_json {
        error.exit();
    }
    let text = error.to_string();
    let message = what_is_wrong(&text);
    let is_url = text.contains("[URL]") || text.contains("<URL>");
    let problem = Problem {
        code: match error.kind() {
            clap::error::ErrorKind::ValueValidation if is_url => "url",
            _ => "usage",
        },
        message: text::escape(&message),
        hint: "underpin help explains".to_owned(),
        status: None,
        exit: EXIT_USAGE,
    };
    Failure::Told(problem).report(true)
}

/// What clap says before it repeats the usage, in one line: which arguments are missing, and which
/// values there are, stand below its first one.
fn what_is_wrong(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let told = lines.take_while(|line| {
        let more = ["Usage:", "For more information", "Device URLs:", "tip:"];
        !more.iter().any(|start| line.starts_with(start))
    });
    let told: Vec<_> = told.filter(|line| !line.is_empty()).collect();
    told.join(" ").trim_start_matches("error: ").to_owned()
}
