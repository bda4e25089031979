//! Where an option was written, and what can be wrong with it.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The place an option came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A line of a job file.
    File {
        /// As given on the command line.
        path: Arc<PathBuf>,
        /// Counting from 1.
        line: usize,
    },
    /// An argument, counting from 1.
    Argument {
        /// Position on the command line.
        index: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Argument { index } => write!(f, "argument {index}"),
        }
    }
}

/// A mistake in a job file or command line. Each names the place, the option,
/// the value, and what would have been right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionError {
    #[error("{origin}: unknown option '{name}'{}", nearest_hint(*nearest))]
    Unknown {
        origin: Origin,
        name: String,
        nearest: Option<&'static str>,
    },
    #[error(
        "{origin}: '{name}' is an option of fio that underpin-fio does not have; \
         ignoring it would change what the job does, so remove it to go on"
    )]
    NotOffered { origin: Origin, name: String },
    #[error("{origin}: option '{option}' needs a value: {accepted}")]
    MissingValue {
        origin: Origin,
        option: &'static str,
        accepted: String,
    },
    #[error("{origin}: option '{option}' cannot be '{value}': {accepted}")]
    BadValue {
        origin: Origin,
        option: &'static str,
        value: String,
        accepted: String,
    },
    #[error("{origin}: environment variable '{name}' is not set, and the value needs it")]
    EnvironmentMissing { origin: Origin, name: String },
    #[error("{origin}: {text}")]
    Grammar { origin: Origin, text: String },
    #[error("cannot read job file '{}': {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("job '{job}' ({origin}): {text}")]
    Job {
        origin: Origin,
        job: String,
        text: String,
    },
    #[error("{0}")]
    Usage(String),
}

fn nearest_hint(nearest: Option<&'static str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean '{name}'? (--cmdhelp={name} explains it)"),
        None => "; --cmdhelp lists all options".to_owned(),
    }
}
