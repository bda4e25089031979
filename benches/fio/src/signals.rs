//! Ctrl-C and SIGTERM: the first stops the run in an orderly way, the second
//! leaves at once.

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

/// Exit status of an interrupted run: 128 + SIGINT.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Sets `stop` at the first signal and exits at the second.
pub(crate) fn install(stop: &Arc<AtomicBool>) -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // Handlers run in the order of registration: at the first signal the
        // flag is not set yet, so this one lets it pass.
        signal_hook::flag::register_conditional_shutdown(
            signal,
            i32::from(EXIT_INTERRUPTED),
            Arc::clone(stop),
        )?;
        signal_hook::flag::register(signal, Arc::clone(stop))?;
    }
    Ok(())
}
