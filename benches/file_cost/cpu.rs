//! What the host's side of a measurement takes of the processors: the CPU time of every thread but the
//! emulated device's, which real ones have none of.
use std::fs;

/// CPU time so far, in nanoseconds. Of threads that have ended nothing is known any more.
pub(crate) fn host_ns() -> u64 {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return 0;
    };
    let hosts = threads.flatten().filter(|thread| {
        let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        !name.starts_with("emu")
    });
    let ns = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let first = text.split_whitespace().next();
        first.and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    hosts.map(ns).sum()
}
