//! What job threads and the main thread share while a run is on: a few atomic
//! words, so that neither ever waits for the other.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::stats::Direction;

/// Wishes of the main thread, read by every job thread once per batch.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Set by the signal handler too.
    pub(crate) stop: Arc<AtomicBool>,
    snapshot: AtomicU32,
}

impl Control {
    /// Whether the run is to end now.
    #[inline]
    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Asks every job thread for its statistics so far.
    pub(crate) fn request_snapshot(&self) {
        self.snapshot.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes with every request.
    #[inline]
    pub(crate) fn snapshot_number(&self) -> u32 {
        self.snapshot.load(Ordering::Relaxed)
    }
}

/// What a job thread is doing, as the letter of the status line needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ThreadState {
    NotStarted = 0,
    Setup,
    Ramp,
    Running,
    Verifying,
    Syncing,
    Ended,
    Failed,
}

impl ThreadState {
    fn from_word(word: u8) -> Self {
        const ALL: [ThreadState; 8] = [
            ThreadState::NotStarted,
            ThreadState::Setup,
            ThreadState::Ramp,
            ThreadState::Running,
            ThreadState::Verifying,
            ThreadState::Syncing,
            ThreadState::Ended,
            ThreadState::Failed,
        ];
        ALL.get(usize::from(word))
            .copied()
            .unwrap_or(ThreadState::Failed)
    }

    /// Whether I/O is going on.
    pub(crate) fn is_active(self) -> bool {
        matches!(
            self,
            ThreadState::Ramp
                | ThreadState::Running
                | ThreadState::Verifying
                | ThreadState::Syncing
        )
    }
}

/// How far a job thread has come. One writer; on its own cache lines, so that
/// reading it does not slow the writer's neighbours.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Progress {
    state: AtomicU8,
    bytes: [AtomicU64; 2],
    ios: [AtomicU64; 2],
    /// Bytes the job will have moved when it ends; 0 while unknown.
    pub(crate) target_bytes: AtomicU64,
    /// When I/O began, ns on the run's clock.
    pub(crate) began_ns: AtomicU64,
    /// Files open.
    pub(crate) files: AtomicU32,
}

impl Progress {
    /// Publishes what the thread does now.
    pub(crate) fn set_state(&self, state: ThreadState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// What the thread does.
    pub(crate) fn state(&self) -> ThreadState {
        ThreadState::from_word(self.state.load(Ordering::Relaxed))
    }

    /// Publishes totals since the thread began (the ramp included).
    #[inline]
    pub(crate) fn publish(&self, bytes: [u64; 2], ios: [u64; 2]) {
        for direction in Direction::ALL {
            let index = direction as usize;
            self.bytes[index].store(bytes[index], Ordering::Relaxed);
            self.ios[index].store(ios[index], Ordering::Relaxed);
        }
    }

    /// The totals last published: bytes and I/Os by direction.
    pub(crate) fn totals(&self) -> ([u64; 2], [u64; 2]) {
        let read = |words: &[AtomicU64; 2]| {
            [
                words[0].load(Ordering::Relaxed),
                words[1].load(Ordering::Relaxed),
            ]
        };
        (read(&self.bytes), read(&self.ios))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state survives the trip through its word, and garbage is "failed".
    #[test]
    fn states_survive_the_word() {
        let progress = Progress::default();
        assert_eq!(progress.state(), ThreadState::NotStarted);
        for word in 0..=255 {
            let state = ThreadState::from_word(word);
            progress.set_state(state);
            assert_eq!(progress.state(), state);
            assert!(word < 8 || state == ThreadState::Failed);
        }
    }
}
