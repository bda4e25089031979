//! The admin queue's calls: a command, its answer, and a `poll` between them.
//! Control path: behind a lock, which is never held while anybody waits.
use crate::commands::{EventWatch, times};
use crate::controller::Inner;
use crate::dma::rt::Instant;
use crate::dma::{DmaBuf, rt};
use crate::queue::{Ended, Outcome, Queue};
use crate::slots::Token;
use crate::{Error, Failure};
use std::time::Duration;
use underpin_nvme_spec::{AdminOpcode, Qid, Sqe, Status};

/// The admin queue and the answers that nobody has fetched yet.
#[derive(Debug)]
pub(crate) struct Admin {
    queue: Queue<DmaBuf>,
    answers: Vec<Ended<DmaBuf>>,
    /// Commands in flight whose callers are gone: their answers are nobody's.
    left: Vec<Token>,
    events: EventWatch,
}

impl Admin {
    pub(crate) fn new(queue: Queue<DmaBuf>) -> Self {
        Self {
            queue,
            answers: Vec::new(),
            left: Vec::new(),
            events: EventWatch::default(),
        }
    }

    pub(crate) const fn queue(&self) -> &Queue<DmaBuf> {
        &self.queue
    }

    pub(crate) fn poll(&mut self) {
        let (answers, left, events) = (&mut self.answers, &mut self.left, &mut self.events);
        self.queue.poll(usize::MAX, |ended| {
            if events.take(&ended) {
                return;
            }
            match left.iter().position(|&token| token == ended.token) {
                Some(at) => _ = left.swap_remove(at),
                None => answers.push(ended),
            }
        });
    }

    /// What is told of events, and the queue that their requests are on.
    pub(crate) const fn events(&mut self) -> (&mut EventWatch, &mut Queue<DmaBuf>) {
        (&mut self.events, &mut self.queue)
    }

    /// Nobody will fetch this answer.
    fn leave(&mut self, token: Token) {
        if self.fetch(token).is_none() {
            self.left.push(token);
        }
    }

    fn fetch(&mut self, token: Token) -> Option<Ended<DmaBuf>> {
        let at = self.answers.iter().position(|ended| ended.token == token)?;
        Some(self.answers.swap_remove(at))
    }
}

/// A good answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) dw0: u32,
    /// The buffer that the command owned.
    pub(crate) buffer: Option<DmaBuf>,
}

/// One admin command on its way: first until the queue has room, then until it ends.
#[derive(Debug)]
pub(crate) struct Call {
    opcode: AdminOpcode,
    state: State,
    /// How long it may take, where that is not the queue's time.
    time: Option<Duration>,
    /// When it is late, where that is earlier than the queue has it.
    deadline: Option<(Instant, Duration)>,
}

#[derive(Debug)]
enum State {
    ToSubmit(Sqe, Option<DmaBuf>),
    InFlight(Token),
    Over,
}

impl Call {
    /// A command; its data, if any, lies at the start of `buffer`, which it owns from now on.
    pub(crate) fn new(sqe: Sqe, buffer: Option<DmaBuf>) -> Self {
        let sqe = match &buffer {
            // One page at most, aligned to it: PRP1 alone names it.
            Some(buffer) => sqe.with_prp1(buffer.iova().get()),
            None => sqe,
        };
        Self::within(sqe, buffer, None)
    }

    /// A command with its data pointer set, which may take `time` where that is given.
    pub(crate) fn within(sqe: Sqe, buffer: Option<DmaBuf>, time: Option<Duration>) -> Self {
        Self {
            opcode: AdminOpcode(sqe.opcode()),
            state: State::ToSubmit(sqe, buffer),
            time,
            deadline: None,
        }
    }

    /// One step: the answer, once there is one.
    pub(crate) fn poll(&mut self, inner: &Inner) -> Option<Result<Answer, Error>> {
        let mut admin = inner.admin.lock();
        let Some(admin) = admin.as_mut() else {
            return Some(Err(Failure::Closed.into()));
        };
        if let State::ToSubmit(..) = self.state {
            let State::ToSubmit(sqe, buffer) = std::mem::replace(&mut self.state, State::Over)
            else {
                return None;
            };
            let (allowed, sooner) = times(self.time, inner.options.admin_timeout);
            match admin.queue.push_within(sqe, allowed, buffer) {
                Ok(token) => {
                    tracing::trace!(
                        device = inner.transport.name(),
                        opcode = %self.opcode,
                        nsid = sqe.nsid().0,
                        cdw10 = format_args!("{:#010x}", sqe.cdw10()),
                        cdw11 = format_args!("{:#010x}", sqe.cdw11()),
                        "admin command"
                    );
                    admin.queue.ring();
                    self.deadline = sooner.map(|time| (Instant::now() + time, time));
                    self.state = State::InFlight(token);
                }
                Err((Error::QueueFull { .. }, buffer)) => {
                    self.state = State::ToSubmit(sqe, buffer);
                }
                Err((error, _)) => return Some(Err(error)),
            }
        }
        admin.poll();
        let State::InFlight(token) = self.state else {
            return None;
        };
        let Some(ended) = admin.fetch(token) else {
            if let Some((deadline, timeout)) = self.deadline
                && Instant::now() >= deadline
            {
                // Whether the device uses the memory still is not known: only its end is proof.
                let failure = Failure::Timeout {
                    qid: Qid::ADMIN,
                    opcode: self.opcode.to_string(),
                    timeout,
                };
                inner.health.fail(&inner.transport.name(), failure);
            }
            return None;
        };
        self.state = State::Over;
        let (device, opcode) = (inner.transport.name(), self.opcode);
        Some(match ended.outcome {
            Outcome::Done { dw0 } => {
                tracing::debug!(device, %opcode, dw0, "admin command done");
                Ok(Answer {
                    dw0,
                    buffer: ended.buffer,
                })
            }
            Outcome::Error { status, .. } => {
                tracing::debug!(device, %opcode, %status, "admin command refused");
                Err(self.error(status))
            }
            Outcome::Lost => Err(inner.failed()),
        })
    }

    /// Its caller goes: the command ends by itself, and its answer is not kept.
    pub(crate) fn leave(&mut self, inner: &Inner) {
        if let State::InFlight(token) = std::mem::replace(&mut self.state, State::Over)
            && let Some(admin) = inner.admin.lock().as_mut()
        {
            admin.leave(token);
        }
    }

    /// Waits for the answer; no longer than the admin deadline, which fails the controller.
    pub(crate) fn wait(mut self, inner: &Inner) -> Result<Answer, Error> {
        let answer = rt::wait(None, |_now| self.poll(inner));
        answer.unwrap_or_else(|_| Err(inner.failed()))
    }

    fn error(&self, status: Status) -> Error {
        Error::Admin {
            opcode: self.opcode,
            status,
        }
    }
}
