//! How the command ends when it does not end well: one message, the next step, a status.
//! With `--json` the same as one object on standard output.
use crate::output;
use crate::text::escape;
use serde_json::{Value, json};
use std::io;
use std::process::ExitCode;
use underpin::emulator::EmulatorError;
use underpin::nvme::CommandError;
use underpin::spec::Status;
use underpin::{DeviceUrl, Error};

/// A device could not be opened, or failed; or the answer could not be written.
const EXIT_FAILED: u8 = 1;
/// The command line is wrong.
pub(crate) const EXIT_USAGE: u8 = 2;

/// Why the command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Not told yet.
    Told(Problem),
    /// The same, after an answer that is right for all that: standard output is left alone.
    AfterAnswer(Problem),
    /// Devices failed and have been reported where they belong.
    Reported,
    /// The answer could not be written.
    Output(io::Error),
}

/// What is wrong, for people and for programs.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    /// One word for programs; the README lists them.
    pub(crate) code: &'static str,
    /// One line, fit for a terminal.
    pub(crate) message: String,
    /// The next step.
    pub(crate) hint: String,
    /// What the device answered, where that is the problem.
    pub(crate) status: Option<Status>,
    pub(crate) exit: u8,
}

impl Problem {
    /// A driver's error about `url`, with what to do about it.
    pub(crate) fn device(url: &DeviceUrl, error: &Error) -> Self {
        let text = error.to_string();
        // Many of the driver's errors begin with the device themselves.
        let message = match text.starts_with(&url.device.to_string()) {
            true => text,
            false => format!("{url}: {text}"),
        };
        Self {
            code: code(error),
            message: escape(&message),
            hint: hint(error).to_owned(),
            status: status(error),
            exit: EXIT_FAILED,
        }
    }

    /// Standard output takes no answer.
    pub(crate) fn output(error: &io::Error) -> Self {
        Self {
            code: "output",
            message: format!("the answer could not be written: {error}"),
            hint: "make room, or write it elsewhere".to_owned(),
            status: None,
            exit: EXIT_FAILED,
        }
    }

    /// As JSON; the same object wherever an error is told.
    pub(crate) fn json(&self) -> Value {
        let mut object = json!({
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
        });
        if let Some(status) = self.status {
            object["status"] = json!({
                "code": status.code(),
                "name": status.name(),
                "type": status.kind().to_string(),
                "do_not_retry": status.do_not_retry(),
            });
        }
        object
    }

    /// On standard error, with the next step.
    pub(crate) fn say(&self) {
        output::complain(&format!("error: {}", self.message));
        output::complain(&format!("  try: {}", self.hint));
    }
}

impl Failure {
    /// A driver's error about `url`.
    pub(crate) fn device(url: &DeviceUrl, error: &Error) -> Self {
        Self::Told(Problem::device(url, error))
    }

    /// The command line asks for what cannot be.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Told(Problem {
            code: "usage",
            message: message.into(),
            hint: hint.into(),
            status: None,
            exit: EXIT_USAGE,
        })
    }

    /// This machine is not as it has to be; `code` is one word for programs.
    pub(crate) fn machine(
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Told(Problem {
            code,
            message: message.into(),
            hint: hint.into(),
            status: None,
            exit: EXIT_FAILED,
        })
    }

    /// The same, and how things stand now.
    pub(crate) fn but(self, state: &str) -> Self {
        match self {
            Self::Told(mut problem) => {
                problem.message = format!("{}; {state}", problem.message);
                Self::Told(problem)
            }
            other => other,
        }
    }

    /// What is wrong, where that is known in one line.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Told(problem) | Self::AfterAnswer(problem) => &problem.message,
            Self::Reported | Self::Output(_) => "see above",
        }
    }

    /// A file of the user's could not be read or written.
    pub(crate) fn file(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Told(Problem {
            code: "file",
            message: message.into(),
            hint: hint.into(),
            status: None,
            exit: EXIT_FAILED,
        })
    }

    /// Says why, as JSON too if that was asked for, and gives the status to exit with.
    pub(crate) fn report(self, as_json: bool) -> ExitCode {
        let problem = match self {
            Self::Told(problem) => problem,
            Self::AfterAnswer(problem) => {
                problem.say();
                return ExitCode::from(problem.exit);
            }
            Self::Reported => return ExitCode::from(EXIT_FAILED),
            // Whoever read us has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Output(error) => Problem::output(&error),
        };
        problem.say();
        if as_json && problem.code != "output" {
            // Whether it can be written or not, the status is that of the problem.
            let _ = output::json(&json!({ "error": problem.json() }));
        }
        ExitCode::from(problem.exit)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// One word for a driver's error, for programs.
fn code(error: &Error) -> &'static str {
    match error {
        Error::Url(_) => "url",
        Error::Emulator(EmulatorError::Option { .. } | EmulatorError::Fault(_)) => "url",
        Error::Emulator(EmulatorError::File { .. }) => "file",
        Error::Emulator(EmulatorError::InUse { .. }) | Error::InUse { .. } => "in-use",
        Error::Emulator(_) | Error::Dma(_) => "memory",
        Error::Transport(_) => "unreachable",
        Error::NoNamespace { .. } => "no-namespace",
        Error::Unsupported { .. } | Error::NotSupported { .. } => "unsupported",
        Error::WouldBreakDriver { .. } => "refused",
        Error::Request(_) | Error::TooLong { .. } | Error::Buffer(_) => "request",
        Error::NotInTime { .. } => "timeout",
        Error::Failed(_) | Error::Command(CommandError::Lost(_)) => "failed",
        Error::Admin { .. } | Error::Command(_) => "status",
        Error::BadAnswer { .. } => "bad-answer",
        _ => "device",
    }
}

/// What the device answered, if it did.
fn status(error: &Error) -> Option<Status> {
    match error {
        Error::Admin { status, .. } | Error::Command(CommandError::Status { status, .. }) => {
            Some(*status)
        }
        _ => None,
    }
}

/// What to do about a driver's error.
fn hint(error: &Error) -> &'static str {
    match error {
        Error::Url(_) | Error::Emulator(EmulatorError::Option { .. } | EmulatorError::Fault(_)) => {
            "`underpin help identify` explains device URLs"
        }
        Error::Emulator(EmulatorError::File { .. }) => {
            "name a file in a directory that exists and that you may write"
        }
        Error::Emulator(EmulatorError::InUse { .. }) => {
            "end the other program, or add ro=on here and there"
        }
        Error::Emulator(_) => "choose a smaller size, or end other programs",
        Error::NoNamespace { .. } => "leave ?ns= out to see every namespace",
        Error::NotSupported { .. } => "underpin log effects URL shows what the device has",
        Error::WouldBreakDriver { .. } => {
            "underpin passthru --dangerous sends it; what comes then may be errors only"
        }
        Error::Request(_) | Error::TooLong { .. } | Error::Buffer(_) => {
            "compare the command with the specification: its length, its opcode's data direction"
        }
        Error::Unsupported { .. } => "another device; this one lacks what the driver needs",
        Error::Dma(underpin::dma::Error::Mapper(error)) if error.context.starts_with("vfio ") => {
            "underpin doctor looks at all that VFIO needs"
        }
        Error::Transport(error) if error.device.starts_with("pci:") => {
            "underpin doctor looks at all that VFIO needs"
        }
        Error::Transport(_) => {
            "start its server, as with `underpin serve --socket PATH`, or name the right socket"
        }
        Error::NotInTime { .. } | Error::Failed(_) => {
            "reset the device or cycle its power; RUST_LOG=debug shows how far it came"
        }
        Error::Admin { .. } | Error::BadAnswer { .. } | Error::Command(_) => {
            "RUST_LOG=debug shows the command; a newer firmware may answer it better"
        }
        _ => "RUST_LOG=debug shows what the driver did",
    }
}
