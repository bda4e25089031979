//! One submission queue and its completion queue: rings, slots, deadlines, checks.
//! Used by one owner at a time; [`QueuePair`](crate::QueuePair) and the admin queue are its faces.
mod blocks;
mod patience;
mod sleep;
#[cfg(test)]
mod tests;
mod whole;

use blocks::RangePage;
use patience::Patience;
pub(crate) use whole::Allowed;

use crate::dma::rt::Instant;
use crate::dma::{DmaBuf, DmaSpace, Iova, Payload, Records, SpaceId, Span};
use crate::doorbell::Shadow;
use crate::health::Health;
use crate::prp::{self, ListPages, Prps};
use crate::rings::{CompletionRing, Plain, RingSpec, SubmissionRing};
use crate::sgl::{self, Named, SglRule};
use crate::slots::{Describe, Head, SlotState, Slots, Token};
use crate::stats::{Published, QueueStats, Tally};
use crate::{Error, Failure, Refused, Transport};
use std::sync::Arc;
use std::time::Duration;
use underpin_nvme_spec::{Cid, Cqe, Nsid, NvmOpcode, Qid, Sqe, Status, registers};

/// What a queue is made of.
pub(crate) struct QueueSpec {
    pub(crate) qid: Qid,
    /// Commands in flight at once; the ring has one entry more.
    pub(crate) depth: u16,
    pub(crate) sq_entries: u16,
    pub(crate) cq_entries: u16,
    pub(crate) page_bytes: u64,
    /// The longest transfer of one command.
    pub(crate) max_transfer_bytes: u64,
    pub(crate) sgl: SglRule,
    /// Runs of memory that one command shall be able to have by SGL.
    pub(crate) max_runs: u16,
    pub(crate) timeout: Duration,
    pub(crate) dstrd: u8,
    pub(crate) shadows: Option<(Shadow, Shadow)>,
}

/// A submission queue, its completion queue, and all that their commands own.
#[derive(Debug)]
pub(crate) struct Queue<B> {
    qid: Qid,
    /// The index of the submission ring's last entry.
    sq_last: u16,
    submissions: SubmissionRing,
    completions: CompletionRing,
    // What is in flight.
    slots: Slots<B>,
    /// Completions consumed that freed no slot: of a part whose request goes on.
    kept: u64,
    lists: Lists,
    /// The commands of the transfer that is being submitted; kept so that none is allocated.
    parts: Vec<Part>,
    /// Memory of Dataset Management commands, once there were some.
    range_pages: Vec<RangePage>,
    space: SpaceId,
    page_bytes: u64,
    page_mask: u64,
    max_transfer_bytes: u64,
    /// The bytes of a page that PRP1 alone may name: all of them; none where everything goes by SGL.
    direct_bytes: u64,
    sgl: SglRule,
    // Time.
    timeout: Duration,
    /// Polls until the clock is looked at.
    polls_to_clock: u32,
    /// When the device's registers were last looked at.
    looked: Option<Instant>,
    /// They were asked for, and have not answered.
    is_asking: bool,
    patience: Patience,
    health: Arc<Health>,
    transport: Arc<dyn Transport>,
    /// What is counted here; the rest is read off the rings.
    pub(crate) stats: QueueStats,
    tally: Tally,
    published: Arc<Published>,
}

/// A request that has ended.
#[derive(Debug)]
pub(crate) struct Ended<B> {
    pub(crate) token: Token,
    pub(crate) outcome: Outcome,
    pub(crate) buffer: Option<B>,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Done {
        dw0: u32,
    },
    Error {
        status: Status,
        opcode: u8,
        describe: Describe,
    },
    Lost,
}

/// Busy polls between two looks at the clock: a look costs as much as several polls.
const POLLS_PER_CLOCK: u32 = if crate::dma::rt::sim::is_simulated() {
    1
} else {
    64
};
/// How long a command may take before the device's status register is looked at, too.
const PATIENCE: Duration = Duration::from_millis(100);

impl<B> Queue<B> {
    pub(crate) fn new(
        space: &DmaSpace,
        transport: &Arc<dyn Transport>,
        health: &Arc<Health>,
        spec: QueueSpec,
    ) -> Result<Self, Error> {
        let lists = Lists::new(space, &spec)?;
        let (sq_shadow, cq_shadow) = spec.shadows.unzip();
        let ring = |entries, doorbell, shadow| RingSpec {
            entries,
            page_bytes: spec.page_bytes,
            doorbell,
            shadow,
        };
        let doorbell = registers::doorbell_sq(spec.qid, spec.dstrd);
        let sq = ring(spec.sq_entries, doorbell, sq_shadow);
        let doorbell = registers::doorbell_cq(spec.qid, spec.dstrd);
        let cq = ring(spec.cq_entries, doorbell, cq_shadow);
        Ok(Self {
            qid: spec.qid,
            sq_last: spec.sq_entries.saturating_sub(1),
            submissions: SubmissionRing::new(space, transport, sq)?,
            completions: CompletionRing::new(space, transport, cq, spec.qid, spec.depth)?,
            slots: Slots::new(spec.depth),
            kept: 0,
            lists,
            parts: Vec::with_capacity(usize::from(spec.depth)),
            range_pages: Vec::new(),
            space: space.id(),
            page_bytes: spec.page_bytes,
            page_mask: spec.page_bytes - 1,
            max_transfer_bytes: spec.max_transfer_bytes,
            direct_bytes: match spec.sgl.is_for_all() {
                true => 0,
                false => spec.page_bytes.min(spec.max_transfer_bytes),
            },
            sgl: spec.sgl,
            timeout: spec.timeout,
            polls_to_clock: POLLS_PER_CLOCK,
            looked: None,
            is_asking: false,
            patience: Patience::new(spec.timeout),
            health: Arc::clone(health),
            transport: Arc::clone(transport),
            stats: QueueStats::default(),
            tally: Tally::default(),
            published: Published::new(spec.qid),
        })
    }

    pub(crate) const fn qid(&self) -> Qid {
        self.qid
    }

    pub(crate) fn sq_iova(&self) -> Iova {
        self.submissions.iova()
    }

    pub(crate) fn cq_iova(&self) -> Iova {
        self.completions.iova()
    }

    pub(crate) fn sq_entries(&self) -> u32 {
        self.submissions.count() as u32
    }

    pub(crate) fn cq_entries(&self) -> u32 {
        self.completions.count() as u32
    }

    pub(crate) fn depth(&self) -> usize {
        self.slots.depth()
    }

    /// Requests' commands that have not ended, quarantined ones included.
    pub(crate) fn in_flight(&self) -> usize {
        // Each entry written took a slot and each completion freed one, but for those kept: not
        // counted a third time with every command.
        (self.submissions.written() + self.kept - self.completions.consumed()) as usize
    }

    pub(crate) fn free_count(&self) -> usize {
        self.slots.depth() - self.in_flight()
    }

    pub(crate) fn stats(&self) -> QueueStats {
        let register_writes =
            self.submissions.register_writes() + self.completions.register_writes();
        let mut stats = QueueStats {
            commands: self.submissions.written(),
            completions: self.completions.consumed(),
            rings: self.submissions.rings(),
            register_writes,
            ..self.stats
        };
        self.tally.fill(&mut stats);
        stats
    }

    /// Where this queue leaves copies of its figures.
    pub(crate) const fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Leaves a copy of the figures for whoever asks the controller.
    pub(crate) fn publish(&self) {
        self.published.publish(&self.stats());
    }

    /// The bytes of its rings, and of what is in flight or in quarantine on it.
    pub(crate) fn held_bytes(&self) -> u64 {
        let rings = 64 * u64::from(self.sq_entries()) + 16 * u64::from(self.cq_entries());
        let held = self
            .slots
            .iter()
            .filter(|slot| slot.request.buffer.is_some());
        rings
            + held
                .map(|slot| slot.request.describe.len_bytes)
                .sum::<u64>()
    }

    /// Writes one command that transfers nothing, or whose data pointer is set already. `buffer`
    /// is what it owns while in flight.
    pub(crate) fn push(
        &mut self,
        sqe: Sqe,
        describe: Describe,
        buffer: Option<B>,
    ) -> Result<Token, (Error, Option<B>)> {
        if self.health.is_failed() {
            return Err((self.failed(), buffer));
        }
        let token = self.next_token();
        let Some((_, cid, slot)) = self.slots.take() else {
            return Err((self.full(1), buffer));
        };
        slot.lead(token, describe, buffer);
        self.write(sqe.with_cid(cid));
        self.tally.other(sqe.opcode());
        Ok(token)
    }

    /// Rings the submission doorbell if entries were written since it was last rung.
    #[inline(always)]
    pub(crate) fn ring(&mut self) {
        if let Err(error) = self.submissions.ring() {
            self.fail(Failure::Transport(error.to_string()));
        }
    }

    /// Of the entry that is written next.
    #[inline(always)]
    const fn next_token(&self) -> Token {
        Token(self.submissions.written() + 1)
    }

    /// Writes an entry, and rings before that if no more can wait for it. Returns its number.
    fn write(&mut self, sqe: Sqe) -> u64 {
        if self.submissions.is_full() {
            self.ring();
        }
        self.submissions.write(sqe)
    }

    /// The same for a plain entry that found no room; its words one by one, as they stay in
    /// registers then.
    #[cold]
    #[inline(never)]
    fn write_after_ring(&mut self, number: u64, head: u64, prp1: u64, place: u64, count: u64) {
        self.ring();
        let entry = Plain {
            head,
            prp1,
            place,
            count,
        };
        self.submissions.write_plain(number, entry);
    }

    /// Consumes completions, at most `budget`, and calls `ended` for every request that ends.
    /// Rings first, so that a forgotten ring delays and never hangs. Returns how many ended.
    #[inline(always)]
    pub(crate) fn poll(&mut self, budget: usize, mut ended: impl FnMut(Ended<B>)) -> usize {
        if self.health.is_failed() {
            return self.tell_lost(budget, ended);
        }
        self.ring();
        let mut told = 0;
        let mut head = self.completions.head();
        while told < budget {
            let seen = self.completions.look_at(head);
            // The common case: the one command of its request has ended well.
            if self.completions.is_plain(seen)
                && self.is_in_ring(seen)
                && let Some(request) = self.slots.finish(seen.cid())
            {
                head = self.completions.consume(head);
                told += 1;
                ended(Ended {
                    token: request.token,
                    outcome: Outcome::Done { dw0: seen.dw0() },
                    buffer: request.buffer.take(),
                });
                continue;
            }
            if !self.completions.is_there(seen) {
                break;
            }
            let [low, high] = seen.as_u64s();
            match self.complete_slowly(low, high, &mut ended) {
                Ok(ends) => {
                    told += ends;
                    head = self.completions.head();
                }
                Err(failure) => {
                    self.fail(failure);
                    return told + self.tell_lost(budget - told, ended);
                }
            }
        }
        if let Err(error) = self.completions.acknowledge() {
            self.fail(Failure::Transport(error.to_string()));
        }
        self.polls_to_clock -= 1;
        if self.polls_to_clock == 0 {
            self.look_at_clock();
        }
        told
    }

    /// True when a completion's queue is ours and its head pointer lies in the ring. Only the range
    /// is checked: the head pointer is not needed for flow control, as a command keeps its slot
    /// until it ends, and devices that complete from several units report it out of order.
    #[inline(always)]
    fn is_ours(&self, cqe: Cqe) -> bool {
        cqe.sqid() == self.qid && self.is_in_ring(cqe)
    }

    /// True when its head pointer lies in the ring.
    #[inline(always)]
    fn is_in_ring(&self, cqe: Cqe) -> bool {
        cqe.sqhd() <= self.sq_last
    }

    /// Any completion, with every field checked: parts of requests, errors, and what should not
    /// be. Returns how many requests ended, 0 or 1. What should not be is not consumed: so never
    /// more are than were in flight, the ring is never full of them, and a full one and an empty
    /// one need not be told apart.
    #[inline(never)]
    fn complete_slowly(
        &mut self,
        low: u64,
        high: u64,
        ended: &mut impl FnMut(Ended<B>),
    ) -> Result<usize, Failure> {
        let cqe = Cqe::from_u64s([low, high]);
        if !self.is_ours(cqe) {
            let (sqid, sqhd, entries) = (cqe.sqid(), cqe.sqhd(), self.submissions.count());
            return Err(self.protocol(if sqid != self.qid {
                format!("a completion names queue {sqid}")
            } else {
                format!("a completion has SQ head {sqhd} of {entries}")
            }));
        }
        let Some(index) = self.slots.in_flight(cqe.cid()) else {
            return Err(self.protocol(format!("a completion names {:?}, not in flight", cqe.cid())));
        };
        self.completions.consume(self.completions.head());
        self.kept += 1;
        let Some(slot) = self.slots.slot(index) else {
            return Ok(0);
        };
        let lead = slot.lead_index(index);
        let mut status = cqe.status();
        if slot.state() == SlotState::PartInFlight {
            if lead != index {
                self.slots.give_back(index);
                self.kept -= 1;
            } else {
                slot.set_state(SlotState::Ended);
            }
            let Some(slot) = self.slots.slot(lead) else {
                return Ok(0);
            };
            if slot.status.is_success() {
                slot.status = status;
            }
            slot.remaining -= 1;
            if slot.remaining != 0 {
                return Ok(0);
            }
            status = slot.status;
        }
        let Some(slot) = self.slots.slot(lead) else {
            return Ok(0);
        };
        let outcome = if status.is_success() {
            Outcome::Done { dw0: cqe.dw0() }
        } else {
            Outcome::Error {
                status,
                opcode: slot.opcode(),
                describe: slot.request.describe,
            }
        };
        if !status.is_success() {
            self.stats.errors += 1;
            self.published.count_error(status);
        }
        let end = Ended {
            token: slot.request.token,
            outcome,
            buffer: slot.request.buffer.take(),
        };
        self.slots.give_back(lead);
        self.kept -= 1;
        ended(end);
        Ok(1)
    }

    /// After a failure: tells every owner once. Buffers stay with their slots until proof.
    #[cold]
    #[inline(never)]
    fn tell_lost(&mut self, budget: usize, mut ended: impl FnMut(Ended<B>)) -> usize {
        let mut told = 0;
        for (index, slot) in self.slots.iter_mut() {
            let live = slot.state().is_in_flight() || slot.state() == SlotState::Ended;
            if !live || told == budget {
                continue;
            }
            if slot.lead_index(index) != index {
                slot.set_state(SlotState::Quarantined);
                continue;
            }
            slot.set_state(SlotState::Quarantined);
            told += 1;
            self.stats.errors += 1;
            ended(Ended {
                token: slot.request.token,
                outcome: Outcome::Lost,
                buffer: None,
            });
        }
        told
    }

    /// Deadlines: a command is late when the clock moved on by the timeout since it was first
    /// seen in flight at a look. So a look costs nothing per command submitted.
    #[cold]
    #[inline(never)]
    fn look_at_clock(&mut self) {
        self.polls_to_clock = POLLS_PER_CLOCK;
        self.publish();
        let now = Instant::now();
        self.patience.look(now);
        let timeout = self.timeout;
        let mut oldest = Duration::ZERO;
        // Filled, and so allocated, only once a command is late.
        let mut late: Vec<(Cid, u8)> = Vec::new();
        for (_, slot) in self.slots.iter_mut() {
            if !slot.state().is_in_flight() {
                continue;
            }
            let age = slot.age(now);
            oldest = oldest.max(age);
            if age >= timeout {
                late.push((slot.cid(), slot.opcode()));
            }
        }
        if !late.is_empty() {
            // The device may be in time and the host late: its completions wait in the ring for
            // the next polls.
            let unread = self.completions.unread();
            late.retain(|(cid, _)| !unread.contains(cid));
        }
        if late.is_empty() {
            self.patience.none_late();
        }
        self.is_asking = false;
        if let Some(&(_, opcode)) = late.first()
            && self.patience.is_over(now)
        {
            let opcode = crate::controller::opcode_name(self.qid, opcode);
            let qid = self.qid;
            self.fail(Failure::Timeout {
                qid,
                opcode,
                timeout,
            });
        } else if oldest >= PATIENCE && self.looked.is_none_or(|last| now.since(last) >= PATIENCE) {
            // A dead or fatally wounded device is told apart from a slow one at once.
            match crate::registers::check_up(&*self.transport) {
                Ok(is_answered) => {
                    self.is_asking = !is_answered;
                    if is_answered {
                        self.looked = Some(now);
                    }
                }
                Err(failure) => self.fail(failure),
            }
        }
    }

    #[cold]
    fn fail(&self, failure: Failure) {
        self.health.fail(&self.transport.name(), failure);
    }

    #[cold]
    fn failed(&self) -> Error {
        Error::Failed(self.health.failure().unwrap_or(Failure::Closed))
    }

    #[cold]
    fn full(&self, needed: usize) -> Error {
        Error::QueueFull {
            depth: self.slots.depth() as u16,
            needed,
        }
    }

    #[cold]
    #[inline(never)]
    fn protocol(&self, what: String) -> Failure {
        Failure::Protocol {
            qid: self.qid,
            what,
        }
    }
}

/// A request for one namespace: what each of its commands repeats, and its place and length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) lba: u64,
    pub(crate) blocks: u64,
    /// The blocks' bytes.
    pub(crate) len_bytes: u64,
    pub(crate) head: Head,
    /// The bits of CDW12 above the block count.
    pub(crate) flags: u32,
    pub(crate) lba_shift: u8,
}

impl Transfer {
    pub(crate) const fn opcode(&self) -> NvmOpcode {
        NvmOpcode(self.head.opcode())
    }

    pub(crate) const fn nsid(&self) -> Nsid {
        Nsid(self.head.nsid())
    }

    /// The command without data, identifier, place and length.
    pub(crate) fn bare(&self) -> Sqe {
        Sqe::new()
            .with_opcode(self.head.opcode())
            .with_nsid(self.nsid())
    }

    /// The command for `blocks` blocks from `lba` on.
    fn command(&self, lba: u64, blocks: u64, Prps { prp1, prp2 }: Prps, cid: Cid) -> Sqe {
        // Read and Write: CDW10-11 first block, CDW12 15:00 block count, counted from 0 (NVM
        // Command Set 1.0, 3.2.4 and 3.2.6).
        self.bare()
            .with_cid(cid)
            .with_prp1(prp1)
            .with_prp2(prp2)
            .with_cdw10(lba as u32)
            .with_cdw11((lba >> 32) as u32)
            .with_cdw12(self.flags | (blocks as u32 - 1))
    }

    #[inline(always)]
    pub(crate) const fn describe(&self) -> Describe {
        Describe {
            head: self.head,
            lba: self.lba,
            len_bytes: self.len_bytes,
        }
    }
}

impl<B: Payload> Queue<B> {
    /// Writes the command or commands of a transfer. The buffer belongs to the queue from now
    /// until the request ends.
    #[inline(always)]
    pub(crate) fn submit(&mut self, transfer: &Transfer, buffer: B) -> Result<Token, Refused<B>> {
        // The common case: one command in one page, nothing to refuse. It never moves the buffer
        // but into its slot.
        let Some(iova) = self.takes_whole(transfer, &buffer) else {
            return self.submit_slowly(*transfer, buffer);
        };
        let Some(prp1) =
            prp::within_page(iova, transfer.len_bytes, self.page_mask, self.direct_bytes)
        else {
            return self.submit_slowly(*transfer, buffer);
        };
        let Some((head, slot)) = self.slots.take_for(transfer.head) else {
            return self.submit_slowly(*transfer, buffer);
        };
        // The device does not see the entry before the next ring, so the order of the two does not
        // matter to it; this one needs fewer registers.
        let token = Token(self.submissions.written() + 1);
        slot.lead(token, transfer.describe(), Some(buffer));
        // Read and Write: CDW10-11 first block, CDW12 15:00 block count, counted from 0 (NVM
        // Command Set 1.0, 3.2.4 and 3.2.6).
        let entry = Plain {
            head,
            prp1,
            place: transfer.lba,
            count: u64::from(transfer.flags | (transfer.blocks as u32 - 1)),
        };
        if !self.submissions.write_plain(token.0, entry) {
            let Plain {
                head,
                prp1,
                place,
                count,
            } = entry;
            self.write_after_ring(token.0, head, prp1, place, count);
        }
        self.tally.transfer(transfer.opcode(), transfer.len_bytes);
        Ok(token)
    }

    /// Where the memory begins of a transfer that is one command with one run of memory by PRPs,
    /// and can be submitted.
    #[inline(always)]
    fn takes_whole(&self, transfer: &Transfer, buffer: &B) -> Option<Iova> {
        let usable = !self.health.is_failed() && buffer.space_id() == self.space;
        if !usable || buffer.span_count() != 1 {
            return None;
        }
        let Span { iova, len_bytes } = buffer.span(0);
        let fits = transfer.len_bytes <= len_bytes as u64;
        fits.then_some(iova)
    }

    /// The next most common: two pages, which take no list either.
    fn submit_two_pages(&mut self, transfer: &Transfer, buffer: B) -> Result<Token, B> {
        if transfer.len_bytes > self.max_transfer_bytes || self.sgl.is_for_all() {
            return Err(buffer);
        }
        let named = self
            .takes_whole(transfer, &buffer)
            .and_then(|iova| prp::without_list(iova, transfer.len_bytes, self.page_bytes));
        let Some(prps) = named else {
            return Err(buffer);
        };
        let token = self.next_token();
        let Some((_, cid, slot)) = self.slots.take() else {
            return Err(buffer);
        };
        slot.lead(token, transfer.describe(), Some(buffer));
        self.write(transfer.command(transfer.lba, transfer.blocks, prps, cid));
        self.tally.transfer(transfer.opcode(), transfer.len_bytes);
        Ok(token)
    }

    /// Any other transfer: of two pages, with a list, of several runs of memory, over several commands (MDTS),
    /// or refused.
    #[inline(never)]
    fn submit_slowly(&mut self, transfer: Transfer, buffer: B) -> Result<Token, Refused<B>> {
        let buffer = match self.submit_two_pages(&transfer, buffer) {
            Ok(token) => return Ok(token),
            Err(buffer) => buffer,
        };
        let mut parts = std::mem::take(&mut self.parts);
        let built = self.build_parts(&transfer, &buffer, &mut parts);
        let submitted = match built {
            Ok(()) => Ok(self.write_parts(&transfer, buffer, &parts)),
            Err(error) => {
                let unsent = parts.iter().map(|part| part.index);
                unsent.for_each(|index| self.slots.give_back(index));
                Err(Refused { error, buffer })
            }
        };
        parts.clear();
        self.parts = parts;
        submitted
    }

    /// Takes slots and names memory for each command of a transfer. Geometry first, for all of
    /// them, so that a refusal leaves no command behind; the caller frees the slots then.
    fn build_parts(
        &mut self,
        transfer: &Transfer,
        buffer: &B,
        parts: &mut Vec<Part>,
    ) -> Result<(), Error> {
        if self.health.is_failed() {
            return Err(self.failed());
        }
        if buffer.space_id() != self.space {
            return Err(wrong_space());
        }
        let lengths = spans(buffer).map(|span| span.len_bytes as u64);
        let total = lengths.fold(0, u64::saturating_add);
        if total < transfer.len_bytes {
            return Err(too_short(total, transfer));
        }
        // A command's part is whole pages and whole blocks, so that the next begins on a block.
        let unit = self.page_bytes.max(1 << transfer.lba_shift);
        let most = (self.max_transfer_bytes / unit * unit).max(1 << transfer.lba_shift);
        let commands = transfer.len_bytes.div_ceil(most);
        let needed = usize::try_from(commands).unwrap_or(usize::MAX);
        if needed > self.slots.depth() {
            return Err(Error::TooLong {
                len_bytes: transfer.len_bytes,
                max_bytes: most * self.slots.depth() as u64,
            });
        }
        if needed > self.free_count() {
            return Err(self.full(needed));
        }
        let mut at = 0;
        while at < transfer.len_bytes {
            let len_bytes = most.min(transfer.len_bytes - at);
            let Some((index, cid, _)) = self.slots.take() else {
                return Err(self.full(needed));
            };
            parts.push(Part {
                index,
                cid,
                at,
                len_bytes,
                named: Prps { prp1: 0, prp2: 0 }.into(),
            });
            let runs = Cut {
                spans: spans(buffer),
                skip: at,
                left: len_bytes,
            };
            let list = &mut self.lists.of(index);
            // Which way the data goes, opcodes tell in bits 1:0 (Base 2.0, figure 88).
            let is_read = transfer.opcode().0 & 0b11 == 0b10;
            let named = sgl::name(self.sgl, runs, is_read, self.page_bytes, list);
            if let Some(part) = parts.last_mut() {
                part.named = named.map_err(|error| Error::Buffer(error.to_string()))?;
            }
            at += len_bytes;
        }
        Ok(())
    }

    /// Writes the commands of a transfer whose parts are built; the first owns the buffer.
    fn write_parts(&mut self, transfer: &Transfer, buffer: B, parts: &[Part]) -> Token {
        let lead = parts.first().map_or(0, |part| part.index);
        // At most as many as there are slots.
        let commands = parts.len() as u16;
        // As with a single command: the number of its (first) entry.
        let token = self.next_token();
        self.tally.transfer(transfer.opcode(), transfer.len_bytes);
        if let Some(slot) = self.slots.slot(lead) {
            slot.lead(token, transfer.describe(), Some(buffer));
            slot.remaining = commands;
            slot.status = Status::SUCCESS;
        }
        for (number, part) in (token.0..).zip(parts) {
            if commands > 1
                && let Some(slot) = self.slots.slot(part.index)
            {
                slot.join(lead, Token(number), transfer.head);
            }
            let lba = transfer.lba + (part.at >> transfer.lba_shift);
            let blocks = part.len_bytes >> transfer.lba_shift;
            let Named { prps, psdt } = part.named;
            self.stats.sgls += u64::from(psdt != Sqe::PSDT_PRP);
            let sqe = transfer.command(lba, blocks, prps, part.cid);
            self.write(sqe.with_psdt(psdt));
        }
        token
    }
}

/// One command of a transfer while it is built.
#[derive(Clone, Copy, Debug)]
struct Part {
    index: u16,
    cid: Cid,
    /// Its place in the request's bytes.
    at: u64,
    len_bytes: u64,
    named: Named,
}

fn spans<B: Payload>(buffer: &B) -> impl Iterator<Item = Span> + Clone + '_ {
    (0..buffer.span_count()).map(|index| buffer.span(index))
}

/// `left` bytes of the runs, after skipping `skip`.
#[derive(Clone)]
struct Cut<I> {
    spans: I,
    skip: u64,
    left: u64,
}

impl<I: Iterator<Item = Span>> Iterator for Cut<I> {
    type Item = Span;
    fn next(&mut self) -> Option<Span> {
        loop {
            if self.left == 0 {
                return None;
            }
            let span = self.spans.next()?;
            let len = span.len_bytes as u64;
            if self.skip >= len {
                self.skip -= len;
                continue;
            }
            let take = (len - self.skip).min(self.left);
            let cut = span.part(self.skip as usize, take as usize);
            self.skip = 0;
            self.left -= take;
            return Some(cut);
        }
    }
}

#[cold]
fn wrong_space() -> Error {
    Error::Buffer("it belongs to another DmaSpace than the controller is attached to".to_owned())
}

#[cold]
fn too_short(has: u64, transfer: &Transfer) -> Error {
    Error::Buffer(format!(
        "it has {has} bytes and {} are to be transferred",
        transfer.len_bytes
    ))
}

/// The list pages of all slots, for PRPs or SGLs, in one piece of memory.
#[derive(Debug)]
struct Lists {
    words: Option<Records<1>>,
    memory: Option<DmaBuf>,
    page_bytes: u64,
    per_slot: usize,
}

impl Lists {
    fn new(space: &DmaSpace, spec: &QueueSpec) -> Result<Self, Error> {
        let page_bytes = spec.page_bytes;
        let for_runs = spec.sgl.list_pages_for(spec.max_runs.into(), page_bytes);
        let per_slot = prp::list_pages_for(spec.max_transfer_bytes, page_bytes).max(for_runs);
        if per_slot == 0 {
            return Ok(Self {
                words: None,
                memory: None,
                page_bytes,
                per_slot,
            });
        }
        let page = usize::try_from(page_bytes).unwrap_or(4096);
        let len = usize::from(spec.depth) * per_slot * page;
        let memory = space.alloc(len, page)?;
        let words = memory
            .slice()
            .and_then(|slice| Records::new(slice, len / 8));
        let words = words.map_err(|error| Error::Dma(error.into()))?;
        Ok(Self {
            words: Some(words),
            memory: Some(memory),
            page_bytes,
            per_slot,
        })
    }

    #[inline(always)]
    fn of(&mut self, slot: u16) -> SlotLists<'_> {
        SlotLists { lists: self, slot }
    }
}

struct SlotLists<'a> {
    lists: &'a mut Lists,
    slot: u16,
}

impl SlotLists<'_> {
    fn page(&self, page: usize) -> u64 {
        (usize::from(self.slot) * self.lists.per_slot + page) as u64
    }
}

impl ListPages for SlotLists<'_> {
    fn write(&mut self, page: usize, index: usize, value: u64) {
        if let Some(words) = &self.lists.words {
            let at = self.page(page) * (self.lists.page_bytes / 8) + index as u64;
            words.write_word(at as usize, 0, value);
        }
    }

    fn iova(&self, page: usize) -> Iova {
        match &self.lists.memory {
            Some(memory) => memory
                .iova()
                .wrapping_add(self.page(page) * self.lists.page_bytes),
            None => Iova::default(),
        }
    }

    fn count(&self) -> usize {
        self.lists.per_slot
    }
}
