//! What the driver and the embedded controller log, on standard error: an NVMe status says that a
//! medium failed, the log says why. `RUST_LOG` chooses how much.

#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};

use tracing_subscriber::EnvFilter;

/// Writes a line to standard error. One that is full or that nobody reads changes nothing: the
/// report still comes, and so does the exit status.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// [`line()`], formatted, behind the program's name.
macro_rules! complain {
    ($($argument:tt)*) => {
        $crate::log::line(&format!("underpin-fio: {}", format_args!($($argument)*)))
    };
}
pub(crate) use complain;

/// Installs the log: warnings and errors unless `RUST_LOG` says otherwise.
pub(crate) fn install() {
    let filter = match std::env::var("RUST_LOG") {
        Ok(wanted) if !wanted.is_empty() => EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
            complain!("RUST_LOG={wanted:?} is not understood ({error}); using warn");
            EnvFilter::new("warn")
        }),
        _ => EnvFilter::new("warn"),
    };
    // Another log may be installed only where this is not the program.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // It would be told of by `eprintln!`, which panics when standard error is what failed.
        .log_internal_errors(false)
        .with_target(false)
        .without_time()
        .try_init();
}
