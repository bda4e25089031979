//! `underpin serve`: a controller in software for other processes, until a signal ends it.
use crate::args::ServeArgs;
use crate::failure::Failure;
use crate::output;
use crate::text::escape;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use underpin::emulator::serve::{ServeError, ServeOptions, Served};

/// What a shell expects of a program that Ctrl-C ended at once: 128 + SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = args.config().map_err(|error| {
        Failure::usage(
            escape(&error.to_string()),
            "`underpin help serve` shows the options; `cargo doc` lists all keys of emu: URLs at EmulatorConfig",
        )
    })?;
    let options = ServeOptions {
        allow_unsealed: args.allow_unsealed,
        ..ServeOptions::default()
    };
    // Before the socket is there: whoever sees it may send the signal at once.
    let stop = stop_on_signal()?;
    let served = Served::bind(&args.socket, config, options).map_err(failed)?;
    output::text(&format!("listening on {}\n", args.socket.display()))?;
    served.run(&stop).map_err(failed)
}

/// Becomes readable at Ctrl-C or SIGTERM; a second one leaves at once.
fn stop_on_signal() -> io::Result<UnixStream> {
    let (stop, signalled) = UnixStream::pair()?;
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Handlers run in the order of registration: at the first signal the flag is not set yet.
        let flag = Arc::clone(&again);
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED, flag)?;
        signal_hook::flag::register(signal, Arc::clone(&again))?;
        signal_hook::low_level::pipe::register(signal, signalled.try_clone()?)?;
    }
    Ok(stop)
}

fn failed(error: ServeError) -> Failure {
    let hint = match &error {
        ServeError::Socket(_) => "choose another --socket; RUST_LOG=debug shows what was done",
        ServeError::Emulator(_) => "choose a smaller --size, or a --file that you may write",
        _ => "end other programs, or choose fewer queues with -o queues=N",
    };
    Failure::file(escape(&error.to_string()), hint)
}
