//! Commands that a queue is given whole: admin commands with deadlines of their own, and I/O
//! commands that the driver does not understand. Off the fast path; they are never split.
use super::{Lists, Queue, spans, wrong_space};
use crate::dma::Payload;
use crate::dma::rt::Instant;
use crate::prp;
use crate::slots::{Describe, Head, Token};
use crate::stats::Tally;
use crate::{Error, Refused};
use std::time::Duration;
use underpin_nvme_spec::Sqe;

/// How long a command may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// As long as any other of the queue.
    Usual,
    /// So long, where that is longer.
    AtLeast(Duration),
    /// For ever: it ends when the device has something to say.
    Forever,
}

impl<B> Queue<B> {
    /// As [`push`](Queue::push), with a time of its own. Deadlines count from the moment a command
    /// was first seen in flight, so one that was seen in the future has longer.
    pub(crate) fn push_within(
        &mut self,
        sqe: Sqe,
        allowed: Allowed,
        buffer: Option<B>,
    ) -> Result<Token, (Error, Option<B>)> {
        if self.health.is_failed() {
            return Err((self.failed(), buffer));
        }
        let seen = match allowed {
            Allowed::Usual => None,
            Allowed::AtLeast(time) => {
                let more = time.saturating_sub(self.timeout);
                (!more.is_zero()).then(|| Instant::now() + more)
            }
            Allowed::Forever => Some(Instant::NEVER),
        };
        let token = self.next_token();
        let Some((_, cid, slot)) = self.slots.take() else {
            return Err((self.full(1), buffer));
        };
        self.tally.other(Tally::OTHER);
        let describe = Describe {
            head: Head::of(sqe),
            ..Describe::default()
        };
        slot.lead(token, describe, buffer);
        if let Some(seen) = seen {
            slot.see(seen);
        }
        self.write(sqe.with_cid(cid));
        Ok(token)
    }
}

impl<B: Payload> Queue<B> {
    /// Writes one command, whose data are the first `len_bytes` bytes of the buffer. What the
    /// device makes of them is the command's business.
    pub(crate) fn submit_whole(
        &mut self,
        sqe: Sqe,
        describe: Describe,
        buffer: B,
    ) -> Result<Token, Refused<B>> {
        match self.write_whole(sqe, describe, &buffer) {
            Ok((token, index)) => {
                if let Some(slot) = self.slots.slot(index) {
                    slot.lead(token, describe, Some(buffer));
                }
                Ok(token)
            }
            Err(error) => Err(Refused { error, buffer }),
        }
    }

    fn write_whole(
        &mut self,
        sqe: Sqe,
        describe: Describe,
        buffer: &B,
    ) -> Result<(Token, u16), Error> {
        if self.health.is_failed() {
            return Err(self.failed());
        }
        if buffer.space_id() != self.space {
            return Err(wrong_space());
        }
        let len_bytes = describe.len_bytes;
        let total: u64 = spans(buffer).map(|span| span.len_bytes as u64).sum();
        if total < len_bytes {
            return Err(Error::Buffer(format!(
                "it has {total} bytes and the command is to have {len_bytes}"
            )));
        }
        if len_bytes > self.max_transfer_bytes {
            return Err(Error::TooLong {
                len_bytes,
                max_bytes: self.max_transfer_bytes,
            });
        }
        let Some((index, cid, _)) = self.slots.take() else {
            return Err(self.full(1));
        };
        let named = name(&mut self.lists, index, buffer, len_bytes, self.page_bytes);
        match named {
            Ok(prps) => {
                let sqe = sqe.with_cid(cid).with_prp1(prps.prp1).with_prp2(prps.prp2);
                self.tally.other(Tally::OTHER);
                Ok((Token(self.write(sqe)), index))
            }
            Err(error) => {
                self.slots.give_back(index);
                Err(error)
            }
        }
    }
}

/// The PRPs of a buffer's first `len_bytes` bytes, with the lists of slot `index`.
fn name<B: Payload>(
    lists: &mut Lists,
    index: u16,
    buffer: &B,
    len_bytes: u64,
    page_bytes: u64,
) -> Result<prp::Prps, Error> {
    if len_bytes == 0 {
        return Ok(prp::Prps { prp1: 0, prp2: 0 });
    }
    let runs = super::Cut {
        spans: spans(buffer),
        skip: 0,
        left: len_bytes,
    };
    prp::build(runs, page_bytes, &mut lists.of(index))
        .map_err(|error| Error::Buffer(error.to_string()))
}
