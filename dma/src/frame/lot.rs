//! Where those wait who need a page in another state: for the end of a fill, of a direct
//! writeback, or of the last pin. A waiter that could poll the queue that is at work does (R8).
use super::state::StateWord;
use super::sync::Mutex;
use super::word::State;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;

/// Neighbouring frames share a lock with nobody near.
const SHARDS: usize = 64;

type Shard = Mutex<Vec<(u32, Waker)>>;

/// The parked of one table of frames.
#[derive(Debug)]
pub struct Lot {
    shards: Box<[Shard]>,
}

impl Lot {
    /// An empty one.
    pub fn new() -> Self {
        Self::with_shards(SHARDS)
    }

    pub(crate) fn with_shards(count: usize) -> Self {
        Self {
            shards: (0..count.max(1)).map(|_| Mutex::new(Vec::new())).collect(),
        }
    }

    fn shard(&self, frame: u32) -> &Shard {
        &self.shards[frame as usize % self.shards.len()]
    }

    /// Parks `waker` until the word changes, if `blocked` still holds of it. False: look again now.
    ///
    /// A woken waiter looks again, too: it may have been woken for somebody else's sake.
    pub fn park(
        &self,
        frame: u32,
        word: &StateWord,
        blocked: impl Fn(State) -> bool,
        waker: &Waker,
    ) -> bool {
        // Cloning a waker is foreign code: not under the lock.
        let waker = waker.clone();
        let shard = self.shard(frame);
        // WAIT is set under the lock that the waker takes after it has cleared it: so it finds us.
        let mut parked = shard.lock();
        if !word.set_wait(blocked) {
            return false;
        }
        parked.push((frame, waker));
        true
    }

    /// Wakes all who are parked at `frame`; by whoever cleared WAIT, after that.
    #[cold]
    pub fn wake(&self, frame: u32) {
        let mut woken = Vec::new();
        {
            let mut parked = self.shard(frame).lock();
            let mut at = 0;
            while let Some((of, _)) = parked.get(at) {
                match *of == frame {
                    true => woken.push(parked.swap_remove(at).1),
                    false => at += 1,
                }
            }
        }
        // A waker is foreign code. One that panics must not cost the others their wake-up.
        let mut panicked = None;
        for waker in woken {
            let woke = catch_unwind(AssertUnwindSafe(|| waker.wake()));
            panicked = panicked.or(woke.err());
        }
        if let Some(payload) = panicked {
            resume_unwind(payload);
        }
    }
}

impl Default for Lot {
    fn default() -> Self {
        Self::new()
    }
}
