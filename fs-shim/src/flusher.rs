//! The background: writes back what is old, or too much, and copies what has been dirty for too
//! long. A task that never waits, and sleeps while there is nothing to write.
use crate::book::FileState;
use crate::cache::Inner;
use crate::writeback::{Pass, pass};
use std::collections::HashMap;
use std::time::Duration;
use underpin_dma::rt::sync::atomic::Ordering;
use underpin_dma::rt::sync::{Arc, Weak};
use underpin_dma::rt::{Instant, Step, Task};

/// How often it looks for pages that have become old.
const LOOK: Duration = Duration::from_millis(100);
/// How often it looks for the end of commands, when nobody else waits for any.
const LOOK_WHILE_WRITING: Duration = Duration::from_micros(50);

/// The flusher of one cache.
#[derive(Debug)]
pub(crate) struct Flusher {
    cache: Weak<Inner>,
    /// How far the pass of each file has come.
    after: HashMap<u32, Option<u64>>,
}

impl Flusher {
    pub(crate) fn new(cache: &Arc<Inner>) -> Self {
        Self {
            cache: Arc::downgrade(cache),
            after: HashMap::new(),
        }
    }
}

impl Task for Flusher {
    fn step(&mut self, now: Instant) -> Step {
        let Some(cache) = self.cache.upgrade() else {
            return Step::Done;
        };
        let ended = cache.book.poll();
        let options = &cache.options;
        let older_than = match cache.has_much_dirt() {
            true => Instant::NEVER,
            false => before(now, options.age),
        };
        let what = Pass {
            older_than,
            expired_before: before(now, options.expiry),
        };
        let files = cache.book.files();
        self.after
            .retain(|id, _| files.iter().any(|file| file.id == *id));
        let mut sent = 0;
        for file in &*files {
            let after = self.after.entry(file.id).or_default();
            if file.store.failure().is_some() {
                continue;
            }
            let unused = file.handles.load(Ordering::Acquire) == 0;
            if file.dirty.count() > 0 {
                // What nobody has open any more is written back at once.
                let older_than = if unused { Instant::NEVER } else { older_than };
                sent += pass(&cache, file, Pass { older_than, ..what }, after);
            } else if unused {
                evict_all(&cache, file);
            }
        }
        let is_writing = cache.is_writing();
        match (sent, ended, is_writing) {
            (0, 0, false) => Step::Idle {
                until: Some(now + LOOK),
            },
            (0, 0, _) => Step::Idle {
                until: Some(now + LOOK_WHILE_WRITING),
            },
            _ => Step::Busy,
        }
    }
}

/// Gives back all frames of a file that nobody has open, and with the last its store.
fn evict_all(cache: &Inner, file: &FileState) {
    for (page, slot) in file.index.range(0, file.pages()) {
        let frame = cache.frames.frame(slot.frame, slot.generation);
        // One that is pinned, or at work, is looked at again.
        let _ = frame.evict(|| file.index.clear(page, slot));
    }
}

/// So long before `now`; nothing is older than the beginning.
fn before(now: Instant, age: Duration) -> Instant {
    let since_start = now.since(Instant::START);
    Instant::START + since_start.saturating_sub(age)
}
