//! What the driver logs, on standard error; `RUST_LOG` chooses how much.
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Installs the log: warnings and errors unless `RUST_LOG` says otherwise.
pub(crate) fn install() {
    let filter = match std::env::var("RUST_LOG") {
        Ok(wanted) if !wanted.is_empty() => EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
            let wanted = crate::text::escape(&wanted);
            crate::output::complain(&format!(
                "warning: RUST_LOG={wanted} is not understood ({error}); using warn"
            ));
            EnvFilter::new("warn")
        }),
        _ => EnvFilter::new("warn"),
    };
    let stderr = std::io::stderr();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr.is_terminal())
        .with_writer(std::io::stderr)
        // It would be told of by `eprintln!`, which panics when standard error is what failed.
        .log_internal_errors(false)
        .with_target(false)
        .without_time()
        .init();
}
