//! How the command ends when it does not end well: one message, the next step, a status.
use std::io;
use std::process::ExitCode;
use underpin::emulator::EmulatorError;
use underpin::{DeviceUrl, Error};

/// Why the command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for what cannot be.
    Usage { message: String, hint: String },
    /// A device could not be opened, or failed.
    Device { message: String, hint: String },
    /// Devices failed and have been reported where they belong.
    Reported,
    /// The answer could not be written.
    Output(io::Error),
}

impl Failure {
    /// A driver's error about `url`, with what to do about it.
    pub(crate) fn device(url: &DeviceUrl, error: &Error) -> Self {
        Self::Device {
            message: message(url, error),
            hint: hint(error).to_owned(),
        }
    }

    /// Says why on standard error and gives the status to exit with.
    pub(crate) fn report(&self) -> ExitCode {
        let (message, hint, status) = match self {
            Self::Usage { message, hint } => (message.clone(), hint.as_str(), 2),
            Self::Device { message, hint } => (message.clone(), hint.as_str(), 1),
            Self::Reported => return ExitCode::from(1),
            // Whoever read us has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Output(error) => (
                format!("the answer could not be written: {error}"),
                "make room, or write it elsewhere",
                1,
            ),
        };
        say(&message, hint);
        ExitCode::from(status)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// A driver's error about `url` in one line, fit for a terminal.
pub(crate) fn message(url: &DeviceUrl, error: &Error) -> String {
    crate::text::escape(&format!("{url}: {error}"))
}

/// A message and the next step on standard error.
pub(crate) fn say(message: &str, hint: &str) {
    eprintln!("error: {message}");
    eprintln!("  try: {hint}");
}

/// What to do about a driver's error.
pub(crate) fn hint(error: &Error) -> &'static str {
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
        Error::Unsupported { .. } => "another device; this one lacks what the driver needs",
        Error::NotInTime { .. } | Error::Failed(_) | Error::Transport(_) => {
            "reset the device or cycle its power; RUST_LOG=debug shows how far it came"
        }
        Error::Admin { .. } | Error::BadAnswer { .. } | Error::Command(_) => {
            "RUST_LOG=debug shows the command; a newer firmware may answer it better"
        }
        _ => "RUST_LOG=debug shows what the driver did",
    }
}
