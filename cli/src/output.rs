//! Where the answer goes: plain text, or with bold headings when somebody watches.
use crate::failure::{EXIT_USAGE, Failure, Problem};
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// How text is dressed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    bold: bool,
}

impl Style {
    /// Headings are bold on a terminal, unless `NO_COLOR` is set or the terminal is dumb.
    pub(crate) fn of_stdout() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            bold: io::stdout().is_terminal() && !set("NO_COLOR") && !dumb,
        }
    }

    /// A heading.
    pub(crate) fn heading(self, text: &str) -> String {
        if self.bold {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// What a command prints.
#[derive(Debug)]
pub(crate) enum Answer {
    Text(String),
    Json(Value),
    /// As they are.
    Bytes(Vec<u8>),
}

impl Answer {
    /// Writes it to standard output.
    pub(crate) fn print(&self) -> Result<(), Failure> {
        match self {
            Self::Text(answer) => text(answer),
            Self::Json(answer) => json(answer),
            Self::Bytes(answer) => bytes(answer),
        }
    }
}

/// Writes a line to standard error. One that is full or that nobody reads changes nothing: the exit
/// status still tells, and a server goes on.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes text to standard output.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes())
}

/// Writes one JSON object to standard output, indented.
pub(crate) fn json(value: &Value) -> Result<(), Failure> {
    text(&format!("{value:#}\n"))
}

/// Writes what is about the command itself to standard output: help, version, manual, completions.
/// Where that cannot go nothing else has been asked for: the command line is wrong.
pub(crate) fn page(bytes: &[u8]) -> Result<(), Failure> {
    self::bytes(bytes).map_err(not_taken)
}

/// Prints clap's help or version, in colours where somebody watches.
pub(crate) fn help(help: &clap::Error) -> Result<(), Failure> {
    // What is still in the buffer at the end would be lost without a word.
    let printed = help.print().and_then(|()| io::stdout().flush());
    printed.map_err(|error| not_taken(error.into()))
}

fn not_taken(failure: Failure) -> Failure {
    match failure {
        Failure::Output(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Failure::Told(Problem {
                exit: EXIT_USAGE,
                ..Problem::output(&error)
            })
        }
        other => other,
    }
}

/// Writes bytes to standard output as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}
