//! The queue behind its futures: begins requests, keeps those that wait for room in order, and
//! takes their ends. Wakers, buffers and contexts are foreign code: they are put aside here, and
//! woken and dropped one by one when nothing is borrowed, so that they may call back or panic.
use super::error::Outcome;
use super::mailbox::{Mailbox, Posted, Reply};
use super::slab::{Entry, Owner, Slab, Stage};
use crate::dma::Payload;
use crate::dma::rt::Instant;
use crate::{Armed, Completion, Error, Io, QueuePair, Refused};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

/// A device at the other end of a socket holds the event's descriptor, too, and could take the ring
/// of another thread's request away: how long that may stay unnoticed.
const STOLEN_RING: Duration = Duration::from_secs(1);

/// What is to be done when nothing is borrowed.
#[derive(Debug)]
pub(super) enum Aside<B> {
    Wake(Waker),
    Drop(Outcome<B>),
    /// The last reference may be ours, and with it the buffer.
    Reply(Arc<Reply<B>>),
}

impl<B> Aside<B> {
    pub(super) fn run(self) {
        match self {
            Self::Wake(waker) => waker.wake(),
            Self::Drop(outcome) => drop(outcome),
            Self::Reply(reply) => drop(reply),
        }
    }
}

/// A queue and its requests.
#[derive(Debug)]
pub(super) struct Core<B: Payload> {
    /// Each buffer carries its request's place in the slab.
    pub(super) queue: QueuePair<(B, u32)>,
    slab: Slab<B>,
    /// Places of requests that wait for room, in the order in which they came.
    line: VecDeque<u32>,
    aside: VecDeque<Aside<B>>,
    mailbox: Arc<Mailbox<B>>,
}

/// What became of an attempt to submit.
enum Tried<B> {
    Submitted,
    NoRoom(Option<B>),
    Refused(Outcome<B>),
}

impl<B: Payload> Core<B> {
    pub(super) fn new(queue: QueuePair<(B, u32)>, mailbox: Arc<Mailbox<B>>) -> Self {
        let depth = queue.depth();
        Self {
            queue,
            slab: Slab::new(2 * depth),
            line: VecDeque::with_capacity(depth),
            aside: VecDeque::with_capacity(2 * depth),
            mailbox,
        }
    }

    /// The next thing that was put aside.
    pub(super) fn next_aside(&mut self) -> Option<Aside<B>> {
        self.aside.pop_front()
    }

    /// Begins a request: submits it if there is room and nobody waits for it already, else puts
    /// it in the line. Gives its place. The doorbell is rung at the next turn, one for all.
    pub(super) fn begin(&mut self, io: Io, buffer: Option<B>, owner: Owner<B>) -> u32 {
        let at = self.slab.insert(owner);
        self.set_waiting(at, io, buffer);
        self.line.push_back(at);
        if self.line.len() == 1 {
            self.submit_line();
        }
        self.mailbox.bell.ring_from_own_thread();
        at
    }

    fn set_waiting(&mut self, at: u32, io: Io, buffer: Option<B>) {
        if let Some(entry) = self.slab.get(at) {
            entry.stage = Stage::Waiting(Some((io, buffer)));
        }
    }

    /// Submits those who wait, in order, as long as there is room. True when one left the line.
    fn submit_line(&mut self) -> bool {
        let mut moved = false;
        while let Some(&at) = self.line.front() {
            if self.is_given_up(at) {
                self.line.pop_front();
                moved = true;
                if let Some(entry) = self.slab.remove(at) {
                    self.put_aside(entry);
                }
                continue;
            }
            let waiting = match self.slab.get(at).map(|entry| &mut entry.stage) {
                Some(Stage::Waiting(waiting)) => waiting.take(),
                _ => None,
            };
            match waiting.map(|(io, buffer)| (io, self.submit(at, io, buffer))) {
                // Nothing is left of it.
                None => {
                    self.slab.remove(at);
                }
                Some((_, Tried::Submitted)) => {}
                Some((io, Tried::NoRoom(buffer))) => {
                    self.set_waiting(at, io, buffer);
                    return moved;
                }
                Some((_, Tried::Refused(outcome))) => {
                    let Self { slab, aside, .. } = self;
                    end(slab, aside, at, outcome);
                }
            }
            self.line.pop_front();
            moved = true;
        }
        moved
    }

    /// True when nobody waits for the request any more.
    fn is_given_up(&mut self, at: u32) -> bool {
        match self.slab.get(at).map(|entry| &entry.owner) {
            Some(Owner::Remote(reply)) => Arc::strong_count(reply) == 1,
            Some(Owner::Nobody) | None => true,
            Some(Owner::Task(_)) => false,
        }
    }

    /// A request that was given up before it was submitted.
    fn put_aside(&mut self, entry: Entry<B>) {
        if let Stage::Waiting(Some((_, buffer))) = entry.stage {
            let result = Ok(0);
            let given_up = Outcome { result, buffer };
            self.aside.push_back(Aside::Drop(given_up));
        }
        if let Owner::Remote(reply) = entry.owner {
            self.aside.push_back(Aside::Reply(reply));
        }
    }

    fn submit(&mut self, at: u32, io: Io, buffer: Option<B>) -> Tried<B> {
        let submitted = match buffer {
            Some(buffer) => {
                let refused =
                    |Refused { error, buffer }: Refused<(B, u32)>| (error, Some(buffer.0));
                self.queue.submit(io, (buffer, at)).map_err(refused)
            }
            None => self.queue.submit_bare(io).map_err(|error| (error, None)),
        };
        match submitted {
            Ok(token) => {
                if let Some(entry) = self.slab.get(at) {
                    entry.stage = Stage::InFlight(token);
                }
                Tried::Submitted
            }
            Err((Error::QueueFull { .. }, buffer)) => Tried::NoRoom(buffer),
            Err((error, buffer)) => Tried::Refused(Outcome::failed(error, buffer)),
        }
    }

    /// Takes what has ended, then begins what can be begun, and rings. True when there was
    /// anything.
    pub(super) fn work(&mut self) -> bool {
        let Self {
            queue, slab, aside, ..
        } = self;
        let ended = queue.poll(usize::MAX, |completion| finish(slab, aside, completion));
        let posted = self.take_posted();
        let moved = self.submit_line();
        self.queue.ring();
        ended > 0 || posted || moved
    }

    /// Requests of other threads: not more than the queue could hold, so that theirs wait with
    /// them and not here.
    fn has_room_for_posted(&self) -> bool {
        self.line.len() < self.queue.depth()
    }

    fn take_posted(&mut self) -> bool {
        let mut any = false;
        while self.has_room_for_posted()
            && let Some(Posted { io, buffer, reply }) = self.mailbox.pop()
        {
            any = true;
            if Arc::strong_count(&reply) == 1 {
                // Its future was dropped before anybody had seen it.
                self.put_aside(Entry {
                    stage: Stage::Waiting(Some((io, buffer))),
                    owner: Owner::Remote(reply),
                });
                continue;
            }
            let at = self.slab.insert(Owner::Remote(reply));
            self.set_waiting(at, io, buffer);
            self.line.push_back(at);
        }
        any
    }

    /// True when a turn would find something.
    pub(super) fn has_news(&mut self) -> bool {
        if let Some(&first) = self.line.front()
            && self.is_given_up(first)
        {
            return true;
        }
        let posted = self.has_room_for_posted() && !self.mailbox.is_empty();
        posted || !self.aside.is_empty() || self.queue.has_news()
    }

    /// Makes the event tell of everything that can come, and looks again.
    pub(super) fn arm(&mut self) -> Armed {
        // First the bell, then the looks: see `Bell`.
        self.mailbox.bell.arm();
        // One that rings after this is taken for an interrupt, and made up for at the next arming.
        let own = self.mailbox.bell.take_signals();
        self.queue.add_own_signals(own);
        if self.queue.event().is_none() {
            self.mailbox.bell.event.clear();
        }
        let armed = self.queue.arm();
        // A ring since then may be what the queue's own arming cleared from the event, and for
        // something that was taken already: nothing to be found, but the bell is to be armed again.
        if armed == Armed::Ready || self.has_news() || !self.mailbox.bell.is_armed() {
            self.mailbox.bell.disarm();
            return Armed::Ready;
        }
        match armed {
            Armed::Sleep { until: None } if self.mailbox.bell.event.is_watched() => {
                let until = Some(Instant::now() + STOLEN_RING);
                Armed::Sleep { until }
            }
            armed => armed,
        }
    }

    pub(super) fn spins_until(&mut self, now: Instant) -> Option<Instant> {
        self.queue.spins_until(now)
    }

    // For the futures.

    /// How the request ended, once it has; its place is free then.
    pub(super) fn take_ended(&mut self, at: u32) -> Option<Outcome<B>> {
        if !matches!(self.slab.get(at)?.stage, Stage::Ended(_)) {
            return None;
        }
        match self.slab.remove(at)?.stage {
            Stage::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Where the request's waker is kept.
    pub(super) fn waker(&mut self, at: u32) -> Option<&mut Option<Waker>> {
        match &mut self.slab.get(at)?.owner {
            Owner::Task(waker) => Some(waker),
            _ => None,
        }
    }

    /// The request's future is dropped. What comes back is the caller's to drop, when nothing is
    /// borrowed any more. A buffer in flight stays with the queue.
    pub(super) fn detach(&mut self, at: u32) -> Option<(Owner<B>, Option<Stage<B>>)> {
        if self.line.front() == Some(&at) {
            // There may be room for those behind it.
            self.mailbox.bell.ring_from_own_thread();
        }
        let entry = self.slab.get(at)?;
        match &mut entry.stage {
            Stage::Free { .. } => None,
            Stage::Ended(_) => {
                let entry = self.slab.remove(at)?;
                Some((entry.owner, Some(entry.stage)))
            }
            Stage::Waiting(waiting) => {
                let given_up = Stage::Waiting(waiting.take());
                Some((
                    std::mem::replace(&mut entry.owner, Owner::Nobody),
                    Some(given_up),
                ))
            }
            Stage::InFlight(_) => Some((std::mem::replace(&mut entry.owner, Owner::Nobody), None)),
        }
    }
}

/// A completion, to the request it belongs to.
fn finish<B>(slab: &mut Slab<B>, aside: &mut VecDeque<Aside<B>>, completion: Completion<(B, u32)>) {
    let Completion {
        token,
        result,
        dw0,
        buffer,
    } = completion;
    let (buffer, at) = match buffer {
        Some((buffer, at)) => (Some(buffer), Some(at)),
        None => (None, slab.find(token)),
    };
    let outcome = Outcome {
        result: result.map(|()| dw0).map_err(Error::Command),
        buffer,
    };
    match at {
        Some(at) => end(slab, aside, at, outcome),
        None => aside.push_back(Aside::Drop(outcome)),
    }
}

/// The end of a request, to its owner.
fn end<B>(slab: &mut Slab<B>, aside: &mut VecDeque<Aside<B>>, at: u32, outcome: Outcome<B>) {
    let Some(entry) = slab.get(at) else {
        return aside.push_back(Aside::Drop(outcome));
    };
    match &mut entry.owner {
        Owner::Task(waker) => {
            aside.extend(waker.take().map(Aside::Wake));
            entry.stage = Stage::Ended(outcome);
        }
        Owner::Nobody => {
            slab.remove(at);
            aside.push_back(Aside::Drop(outcome));
        }
        Owner::Remote(_) => {
            if let Some(entry) = slab.remove(at)
                && let Owner::Remote(reply) = entry.owner
            {
                aside.extend(reply.fill(outcome).map(Aside::Wake));
                aside.push_back(Aside::Reply(reply));
            }
        }
    }
}

impl<B: Payload> Drop for Core<B> {
    /// Tells every request of another thread that nobody will do it any more. Those that were not
    /// submitted bring their buffers back; those in flight are the queue's to end, with proof.
    fn drop(&mut self) {
        let mut aside: VecDeque<_> = std::mem::take(&mut self.aside);
        self.mailbox
            .close(|waker| aside.push_back(Aside::Wake(waker)));
        for entry in self.slab.drain() {
            let buffer = match entry.stage {
                Stage::Waiting(Some((_, buffer))) => buffer,
                _ => None,
            };
            let outcome = Outcome::failed(Error::QueueClosed, buffer);
            match entry.owner {
                Owner::Remote(reply) => {
                    aside.extend(reply.fill(outcome).map(Aside::Wake));
                    aside.push_back(Aside::Reply(reply));
                }
                Owner::Task(_) | Owner::Nobody => aside.push_back(Aside::Drop(outcome)),
            }
        }
        for aside in aside {
            // Nobody is there to hear of a panic, and the others are to be told all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| aside.run()));
        }
    }
}
