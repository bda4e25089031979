//! Between threads: requests on their way to the queue's thread, answers on their way back, and
//! the bell that wakes that thread when it sleeps. Bounded; what finds it full stands in line.
use super::error::Outcome;
use crate::dma::rt::Event;
use crate::dma::rt::sync::Mutex;
use crate::{Error, Io};
use crossbeam::queue::ArrayQueue;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::task::Waker;

/// Wakes the queue's thread, and costs a system call only when it sleeps.
///
/// The thread arms it, looks at everything that could have come, and sleeps on the event. Others
/// post, then ring. Both have a full fence between their two acts, so that either the look finds
/// what was posted or the ring finds the bell armed.
#[derive(Debug)]
pub(super) struct Bell {
    pub(super) event: Event,
    armed: AtomicBool,
    /// Its signals of the event that the thread was not told of.
    signals: AtomicU64,
}

impl Bell {
    pub(super) const fn new(event: Event) -> Self {
        Self {
            event,
            armed: AtomicBool::new(false),
            signals: AtomicU64::new(0),
        }
    }

    pub(super) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// False once it was rung since it was armed.
    pub(super) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::SeqCst)
    }

    pub(super) fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    pub(super) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::SeqCst) {
            // First, so that nobody takes the signal for another's.
            self.signals.fetch_add(1, Ordering::SeqCst);
            self.event.signal();
        }
    }

    /// The same by the thread that arms it: no fence is needed.
    pub(super) fn ring_from_own_thread(&self) {
        if self.armed.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    /// How often it signalled the event since it was last asked.
    pub(super) fn take_signals(&self) -> u64 {
        self.signals.swap(0, Ordering::SeqCst)
    }
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Posted<B> {
    pub(super) io: Io,
    pub(super) buffer: Option<B>,
    pub(super) reply: Arc<Reply<B>>,
}

/// Where a request's end is left for its future.
#[derive(Debug)]
pub(super) struct Reply<B>(Mutex<Answer<B>>);

#[derive(Debug)]
struct Answer<B> {
    outcome: Option<Outcome<B>>,
    waker: Option<Waker>,
}

impl<B> Reply<B> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Answer {
            outcome: None,
            waker: None,
        })))
    }

    /// Leaves the end and gives who is to be woken.
    pub(super) fn fill(&self, outcome: Outcome<B>) -> Option<Waker> {
        let mut answer = self.0.lock();
        answer.outcome = Some(outcome);
        answer.waker.take()
    }

    /// Takes the end, or leaves who is to be woken.
    pub(super) fn take(&self, waker: &Waker) -> Option<Outcome<B>> {
        // Cloning and dropping wakers is foreign code: not under the lock.
        let waker = waker.clone();
        let mut answer = self.0.lock();
        if let Some(outcome) = answer.outcome.take() {
            drop(answer);
            return Some(outcome);
        }
        let old = answer.waker.replace(waker);
        drop(answer);
        drop(old);
        None
    }
}

/// Requests from other threads.
///
/// A request that finds no room stands in line, itself and not its future: so those behind it do
/// not depend on that future being polled again. The line is as long as there are futures.
#[derive(Debug)]
pub(super) struct Mailbox<B> {
    posted: ArrayQueue<Posted<B>>,
    line: Mutex<VecDeque<Posted<B>>>,
    /// How many stand in line: lets everybody else pass without the lock.
    in_line: AtomicUsize,
    pub(super) bell: Bell,
    closed: AtomicBool,
}

impl<B> Mailbox<B> {
    pub(super) fn new(capacity: usize, bell: Bell) -> Self {
        Self {
            posted: ArrayQueue::new(capacity.max(1)),
            line: Mutex::new(VecDeque::new()),
            in_line: AtomicUsize::new(0),
            bell,
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.posted.is_empty() && self.in_line.load(Ordering::SeqCst) == 0
    }

    /// Posts a request, which will be answered, whatever happens.
    pub(super) fn post(&self, posted: Posted<B>) {
        let refused = match self.in_line.load(Ordering::SeqCst) {
            0 => self.posted.push(posted).err(),
            _ => Some(posted),
        };
        if let Some(posted) = refused {
            let mut line = self.line.lock();
            line.push_back(posted);
            self.in_line.store(line.len(), Ordering::SeqCst);
        }
        self.bell.ring();
        // To a queue that is gone: nobody else looks again.
        if self.closed.load(Ordering::SeqCst) {
            self.refuse_all(Waker::wake);
        }
    }

    /// The next request: of those who found room first, then of those in line.
    pub(super) fn pop(&self) -> Option<Posted<B>> {
        if let Some(posted) = self.posted.pop() {
            return Some(posted);
        }
        if self.in_line.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut line = self.line.lock();
        let first = line.pop_front();
        self.in_line.store(line.len(), Ordering::SeqCst);
        first
    }

    /// A request's future is dropped: takes the request out of the line, if it stands there. If it
    /// has gone on to the queue, those behind it may have room now.
    pub(super) fn give_up(&self, reply: Arc<Reply<B>>) -> Option<Posted<B>> {
        let posted = self.take_from_line(&reply);
        // Its other holder sees by that that nobody waits any more.
        drop(reply);
        self.bell.ring();
        posted
    }

    fn take_from_line(&self, reply: &Arc<Reply<B>>) -> Option<Posted<B>> {
        if self.in_line.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut line = self.line.lock();
        let at = line
            .iter()
            .position(|posted| Arc::ptr_eq(&posted.reply, reply))?;
        let posted = line.remove(at);
        self.in_line.store(line.len(), Ordering::SeqCst);
        posted
    }

    /// Answers everybody, and from now on everybody at once. `wake` is given who is to be woken.
    pub(super) fn close(&self, wake: impl FnMut(Waker)) {
        self.closed.store(true, Ordering::SeqCst);
        // Either this finds what is posted now, or whoever posts it finds the queue closed.
        fence(Ordering::SeqCst);
        self.refuse_all(wake);
    }

    fn refuse_all(&self, mut wake: impl FnMut(Waker)) {
        while let Some(Posted { buffer, reply, .. }) = self.pop() {
            if let Some(waker) = reply.fill(Outcome::failed(Error::QueueClosed, buffer)) {
                wake(waker);
            }
        }
    }
}
