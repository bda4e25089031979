//! Time and threads: the only module that reads the machine's real clocks,
//! sleeps, or starts a thread, because measuring them is what this binary is for.

#![forbid(unsafe_code)]
// Elsewhere in the workspace time and threads come from the runtime seam, so
// that they can be simulated. A benchmark of wall time cannot be.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the start of the program, one vDSO read per call (about
/// 20 ns, no system call). The I/O loop reads it once per batch, not per I/O.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts counting now.
    pub(crate) fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// Nanoseconds since `start`; wraps after 584 years.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        let elapsed = self.origin.elapsed();
        elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos())
    }
}

/// Wall time since 1970 as seconds and nanoseconds.
pub(crate) fn wall_time() -> (u64, u32) {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    (since.as_secs(), since.subsec_nanos())
}

/// Sleeps.
pub(crate) fn sleep(length: Duration) {
    std::thread::sleep(length);
}

/// Starts a thread; its name shows in `top -H`.
pub(crate) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    // Linux shows 15 bytes of a thread's name.
    let short: String = name.chars().filter(|c| *c != '\0').take(15).collect();
    std::thread::Builder::new().name(short).spawn(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Latencies are differences of this clock: it must not run backwards.
    #[test]
    fn the_clock_does_not_run_backwards() {
        let clock = Clock::start();
        let mut last = 0;
        for _ in 0..1000 {
            let now = clock.now_ns();
            assert!(now >= last);
            last = now;
        }
    }
}
