//! One submission queue and its completion queue: rings, slots, deadlines, checks.
//! Used by one owner at a time; [`QueuePair`](crate::QueuePair) and the admin queue are its faces.
use crate::dma::rt::Instant;
use crate::dma::{DmaBuf, DmaSpace, Iova, Payload, Records, SpaceId, Span, barrier};
use crate::doorbell::{Doorbell, Shadow};
use crate::health::Health;
use crate::prp::{self, ListPages, PrpError, Prps};
use crate::slots::{Describe, SlotState, Slots, Token};
use crate::{Error, Failure, Refused, Transport};
use std::sync::Arc;
use std::time::Duration;
use underpin_nvme_spec::{Cid, Cqe, Qid, Sqe, Status, registers};

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
    pub(crate) timeout: Duration,
    pub(crate) dstrd: u8,
    pub(crate) shadows: Option<(Shadow, Shadow)>,
}

/// A submission queue, its completion queue, and all that their commands own.
#[derive(Debug)]
pub(crate) struct Queue<B> {
    qid: Qid,
    // The submission side.
    sq: Records<8>,
    tail: u16,
    tail_told: u16,
    sq_bell: Doorbell,
    // The completion side.
    cq: Records<2>,
    head: u16,
    phase: bool,
    /// Completions consumed since the device was last told.
    unacknowledged: u16,
    /// Tell it at the latest after so many: the completion queue is longer than what can be in
    /// flight, so that a doorbell serves several polls and the queue still never fills.
    acknowledge_every: u16,
    cq_bell: Doorbell,
    // What is in flight.
    slots: Slots<B>,
    lists: Lists,
    space: SpaceId,
    page_bytes: u64,
    max_transfer_bytes: u64,
    // Time.
    timeout: Duration,
    /// Polls until the clock is looked at.
    polls_to_clock: u32,
    /// When the device's registers were last looked at.
    looked: Option<Instant>,
    /// The rings' memory, kept as long as the device may use it.
    rings: (DmaBuf, DmaBuf),
    health: Arc<Health>,
    transport: Arc<dyn Transport>,
    pub(crate) stats: QueueStats,
}

/// Figures about a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Commands written to the submission ring.
    pub commands: u64,
    /// Completions consumed.
    pub completions: u64,
    /// Requests that ended in an error.
    pub errors: u64,
    /// Times that the submission doorbell was rung, by whatever means.
    pub rings: u64,
    /// Times that a doorbell register was written: with shadow doorbells only to wake a device.
    pub register_writes: u64,
}

/// A request that has ended.
#[derive(Debug)]
pub(crate) struct Ended<B> {
    pub(crate) token: Token,
    pub(crate) outcome: Outcome,
    pub(crate) opcode: u8,
    pub(crate) describe: Describe,
    pub(crate) buffer: Option<B>,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Done { status: Status, dw0: u32 },
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
        let page = usize::try_from(spec.page_bytes).unwrap_or(4096);
        // Whole pages: a queue's memory is contiguous and page-aligned (Base 2.0, 3.3.3.1).
        let sq_memory = space.alloc(
            (usize::from(spec.sq_entries) * 64).next_multiple_of(page),
            page,
        )?;
        let cq_memory = space.alloc(
            (usize::from(spec.cq_entries) * 16).next_multiple_of(page),
            page,
        )?;
        let dma = |error: underpin_dma::OutOfBounds| Error::Dma(error.into());
        let sq = Records::new(
            sq_memory.slice().map_err(dma)?,
            usize::from(spec.sq_entries),
        )
        .map_err(dma)?;
        let cq = Records::new(
            cq_memory.slice().map_err(dma)?,
            usize::from(spec.cq_entries),
        )
        .map_err(dma)?;
        let lists = Lists::new(space, &spec)?;
        let (sq_shadow, cq_shadow) = spec.shadows.unzip();
        let offset = registers::doorbell_sq(spec.qid, spec.dstrd);
        let sq_bell = Doorbell::new(Arc::clone(transport), offset, spec.sq_entries, sq_shadow);
        let offset = registers::doorbell_cq(spec.qid, spec.dstrd);
        let cq_bell = Doorbell::new(Arc::clone(transport), offset, spec.cq_entries, cq_shadow);
        Ok(Self {
            qid: spec.qid,
            sq,
            tail: 0,
            tail_told: 0,
            sq_bell,
            cq,
            head: 0,
            phase: true,
            unacknowledged: 0,
            acknowledge_every: spec.cq_entries.saturating_sub(spec.depth).max(1),
            cq_bell,
            slots: Slots::new(spec.depth),
            lists,
            space: space.id(),
            page_bytes: spec.page_bytes,
            max_transfer_bytes: spec.max_transfer_bytes,
            timeout: spec.timeout,
            polls_to_clock: POLLS_PER_CLOCK,
            looked: None,
            rings: (sq_memory, cq_memory),
            health: Arc::clone(health),
            transport: Arc::clone(transport),
            stats: QueueStats::default(),
        })
    }

    pub(crate) const fn qid(&self) -> Qid {
        self.qid
    }

    pub(crate) fn sq_iova(&self) -> Iova {
        self.rings.0.iova()
    }

    pub(crate) fn cq_iova(&self) -> Iova {
        self.rings.1.iova()
    }

    pub(crate) fn sq_entries(&self) -> u32 {
        self.sq.count() as u32
    }

    pub(crate) fn cq_entries(&self) -> u32 {
        self.cq.count() as u32
    }

    pub(crate) fn depth(&self) -> usize {
        self.slots.depth()
    }

    /// Requests' commands that have not ended, quarantined ones included.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.depth() - self.slots.free_count()
    }

    pub(crate) fn free_count(&self) -> usize {
        self.slots.free_count()
    }

    pub(crate) fn stats(&self) -> QueueStats {
        let register_writes = self.sq_bell.register_writes + self.cq_bell.register_writes;
        QueueStats {
            register_writes,
            ..self.stats
        }
    }

    /// Writes one command that transfers nothing, or whose data pointer is set already. `buffer`
    /// is what it owns while in flight.
    #[inline(always)]
    pub(crate) fn push(
        &mut self,
        sqe: Sqe,
        describe: Describe,
        buffer: Option<B>,
    ) -> Result<Token, (Error, Option<B>)> {
        if self.health.is_failed() {
            return Err((self.failed(), buffer));
        }
        let Some((index, cid)) = self.slots.take(sqe.opcode()) else {
            return Err((self.full(1), buffer));
        };
        let token = self.slots.fresh_token();
        self.open_request(index, token, 1, describe, buffer);
        self.write_entry(sqe.with_cid(cid));
        Ok(token)
    }

    /// Rings the submission doorbell if entries were written since it was last rung.
    #[inline(always)]
    pub(crate) fn ring(&mut self) {
        if self.tail != self.tail_told {
            self.tail_told = self.tail;
            self.stats.rings += 1;
            if let Err(error) = self.sq_bell.ring(self.tail) {
                self.fail(Failure::Transport(error.to_string()));
            }
        }
    }

    #[inline(always)]
    fn write_entry(&mut self, sqe: Sqe) {
        self.sq.write(usize::from(self.tail), sqe.as_u64s());
        self.stats.commands += 1;
        self.tail += 1;
        if usize::from(self.tail) == self.sq.count() {
            self.tail = 0;
        }
    }

    #[inline(always)]
    fn open_request(
        &mut self,
        lead: u16,
        token: Token,
        commands: u16,
        describe: Describe,
        buffer: Option<B>,
    ) {
        if let Some(slot) = self.slots.slot(lead) {
            let request = &mut slot.request;
            request.token = token;
            request.remaining = commands;
            request.status = Status::SUCCESS;
            request.dw0 = 0;
            request.describe = describe;
            request.buffer = buffer;
        }
    }

    /// Consumes completions, at most `budget`, and calls `ended` for every request that ends.
    /// Rings first, so that a forgotten ring delays and never hangs. Returns how many ended.
    #[inline(always)]
    pub(crate) fn poll(&mut self, budget: usize, mut ended: impl FnMut(Ended<B>)) -> usize {
        if self.health.is_failed() {
            return self.tell_lost(budget, ended);
        }
        self.ring();
        let (mut consumed, mut told) = (0, 0);
        while told < budget {
            // One 64-bit load takes phase, status, identifier and head pointer together.
            let high = self.cq.read_word(usize::from(self.head), 1);
            if Cqe::from_u64s([0, high]).phase() != self.phase {
                break;
            }
            // The rest of the entry, and the data it announces, are read after the phase.
            barrier::read();
            let low = self.cq.read_word(usize::from(self.head), 0);
            let cqe = Cqe::from_u64s([low, high]);
            self.head += 1;
            if usize::from(self.head) == self.cq.count() {
                self.head = 0;
                self.phase = !self.phase;
            }
            self.unacknowledged += 1;
            consumed += 1;
            match self.complete(cqe) {
                Ok(None) => {}
                Ok(Some(end)) => {
                    told += 1;
                    ended(end);
                }
                Err(failure) => {
                    self.fail(failure);
                    return told + self.tell_lost(budget - told, ended);
                }
            }
        }
        self.stats.completions += consumed;
        if self.unacknowledged >= self.acknowledge_every {
            self.acknowledge();
        }
        self.polls_to_clock -= 1;
        if self.polls_to_clock == 0 {
            self.look_at_clock();
        }
        told
    }

    /// One completion: checks every field the device wrote, and ends the command it names.
    #[inline(always)]
    fn complete(&mut self, cqe: Cqe) -> Result<Option<Ended<B>>, Failure> {
        if cqe.sqid() != self.qid {
            return Err(self.protocol(format!("a completion names queue {}", cqe.sqid())));
        }
        // Only the range is checked: the head pointer is not needed for flow control, as a command
        // keeps its slot until it ends, and devices that complete from several units report it
        // out of order.
        if usize::from(cqe.sqhd()) >= self.sq.count() {
            let (sqhd, entries) = (cqe.sqhd(), self.sq.count());
            return Err(self.protocol(format!("a completion has SQ head {sqhd} of {entries}")));
        }
        let Some(index) = self.slots.in_flight(cqe.cid()) else {
            return Err(self.protocol(format!("a completion names {:?}, not in flight", cqe.cid())));
        };
        let status = cqe.status();
        let Some(slot) = self.slots.slot(index) else {
            return Ok(None);
        };
        let lead = slot.lead;
        if lead != index {
            self.slots.give_back(index);
        } else {
            slot.state = SlotState::Ended;
        }
        let Some(slot) = self.slots.slot(lead) else {
            return Ok(None);
        };
        let request = &mut slot.request;
        if request.status.is_success() {
            request.status = status;
            request.dw0 = cqe.dw0();
        }
        request.remaining -= 1;
        if request.remaining != 0 {
            return Ok(None);
        }
        let (status, dw0) = (request.status, request.dw0);
        let end = Ended {
            token: request.token,
            outcome: Outcome::Done { status, dw0 },
            opcode: slot.opcode,
            describe: slot.request.describe,
            buffer: slot.request.buffer.take(),
        };
        if !status.is_success() {
            self.stats.errors += 1;
        }
        self.slots.give_back(lead);
        Ok(Some(end))
    }

    #[inline(always)]
    fn acknowledge(&mut self) {
        self.unacknowledged = 0;
        if let Err(error) = self.cq_bell.ring(self.head) {
            self.fail(Failure::Transport(error.to_string()));
        }
    }

    /// After a failure: tells every owner once. Buffers stay with their slots until proof.
    #[cold]
    #[inline(never)]
    fn tell_lost(&mut self, budget: usize, mut ended: impl FnMut(Ended<B>)) -> usize {
        let mut told = 0;
        for (index, slot) in self.slots.iter_mut() {
            let live = matches!(slot.state, SlotState::InFlight | SlotState::Ended);
            if !live || told == budget {
                continue;
            }
            if slot.lead != index {
                slot.state = SlotState::Quarantined;
                continue;
            }
            slot.state = SlotState::Quarantined;
            told += 1;
            self.stats.errors += 1;
            ended(Ended {
                token: slot.request.token,
                outcome: Outcome::Lost,
                opcode: slot.opcode,
                describe: slot.request.describe,
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
        let now = Instant::now();
        let timeout = self.timeout;
        let mut oldest = Duration::ZERO;
        let mut late: Vec<(Cid, u8)> = Vec::new();
        for (_, slot) in self.slots.iter_mut() {
            if slot.state != SlotState::InFlight {
                continue;
            }
            let age = now.since(*slot.seen.get_or_insert(now));
            oldest = oldest.max(age);
            if age >= timeout {
                late.push((slot.cid(), slot.opcode));
            }
        }
        if !late.is_empty() {
            // The device may be in time and the host late: its completions wait in the ring for
            // the next polls.
            let unread = self.unread();
            late.retain(|(cid, _)| !unread.contains(cid));
        }
        if let Some(&(_, opcode)) = late.first() {
            let opcode = crate::controller::opcode_name(self.qid, opcode);
            let qid = self.qid;
            self.fail(Failure::Timeout {
                qid,
                opcode,
                timeout,
            });
        } else if oldest >= PATIENCE && self.looked.is_none_or(|last| now.since(last) >= PATIENCE) {
            // A dead or fatally wounded device is told apart from a slow one at once.
            self.looked = Some(now);
            if let Err(failure) = crate::registers::check_alive(&*self.transport) {
                self.fail(failure);
            }
        }
    }

    /// What the completions that the device has written, and nobody has consumed yet, name.
    #[cold]
    fn unread(&self) -> Vec<Cid> {
        let count = self.cq.count();
        let entry = |ahead: usize| {
            let at = usize::from(self.head) + ahead;
            let (index, phase) = match at.checked_sub(count) {
                None => (at, self.phase),
                Some(wrapped) => (wrapped, !self.phase),
            };
            let cqe = Cqe::from_u64s([0, self.cq.read_word(index, 1)]);
            (cqe.phase() == phase).then(|| cqe.cid())
        };
        (0..count).map_while(entry).collect()
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

/// A request that transfers data: what each of its commands repeats, and its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// The command without identifier, data pointer, first block and length.
    pub(crate) sqe: Sqe,
    pub(crate) lba: u64,
    pub(crate) lba_shift: u8,
    pub(crate) nsid: u32,
    pub(crate) len_bytes: u64,
}

impl Transfer {
    /// The command for `len_bytes` from byte `at` of the request on.
    #[inline(always)]
    fn command(&self, at: u64, len_bytes: u64) -> Sqe {
        let slba = self.lba + (at >> self.lba_shift);
        let blocks = (len_bytes >> self.lba_shift) as u32;
        // Read and Write: CDW10-11 first block, CDW12 15:00 block count, counted from 0 (NVM
        // Command Set 1.0, 3.2.4 and 3.2.6).
        self.sqe
            .with_cdw10(slba as u32)
            .with_cdw11((slba >> 32) as u32)
            .with_cdw12(self.sqe.cdw12() | (blocks - 1))
    }

    const fn describe(&self) -> Describe {
        Describe {
            nsid: self.nsid,
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
        if self.health.is_failed() {
            return Err(Refused {
                error: self.failed(),
                buffer,
            });
        }
        if buffer.space_id() != self.space {
            return Err(Refused {
                error: wrong_space(),
                buffer,
            });
        }
        let one_span = buffer.span_count() == 1;
        if !one_span || transfer.len_bytes > self.max_transfer_bytes {
            return self.submit_long(transfer, buffer);
        }
        let span = buffer.span(0);
        if (span.len_bytes as u64) < transfer.len_bytes {
            return Err(Refused {
                error: too_short(span.len_bytes as u64, transfer),
                buffer,
            });
        }
        let Some((index, cid)) = self.slots.take(transfer.sqe.opcode()) else {
            return Err(Refused {
                error: self.full(1),
                buffer,
            });
        };
        let span = Span {
            len_bytes: transfer.len_bytes as usize,
            ..span
        };
        let prps = prp::build_contiguous(span, self.page_bytes, &mut self.lists.of(index));
        let Prps { prp1, prp2 } = match prps {
            Ok(prps) => prps,
            Err(error) => {
                self.slots.give_back(index);
                return Err(Refused {
                    error: not_prp(&error),
                    buffer,
                });
            }
        };
        let token = self.slots.fresh_token();
        self.open_request(index, token, 1, transfer.describe(), Some(buffer));
        let sqe = transfer.command(0, transfer.len_bytes);
        self.write_entry(sqe.with_prp1(prp1).with_prp2(prp2).with_cid(cid));
        Ok(token)
    }

    /// A transfer over several commands (MDTS) or of several runs of memory.
    #[inline(never)]
    fn submit_long(&mut self, transfer: &Transfer, buffer: B) -> Result<Token, Refused<B>> {
        let total: u64 = spans(&buffer).map(|span| span.len_bytes as u64).sum();
        if total < transfer.len_bytes {
            return Err(Refused {
                error: too_short(total, transfer),
                buffer,
            });
        }
        // A command's part is whole pages and whole blocks, so that the next begins on a block.
        let unit = self.page_bytes.max(1 << transfer.lba_shift);
        let part = (self.max_transfer_bytes / unit * unit).max(1 << transfer.lba_shift);
        let commands = transfer.len_bytes.div_ceil(part);
        let needed = usize::try_from(commands).unwrap_or(usize::MAX);
        if needed > self.slots.depth() {
            let max_bytes = part * self.slots.depth() as u64;
            let error = Error::TooLong {
                len_bytes: transfer.len_bytes,
                max_bytes,
            };
            return Err(Refused { error, buffer });
        }
        if needed > self.slots.free_count() {
            return Err(Refused {
                error: self.full(needed),
                buffer,
            });
        }
        // Geometry first, for all parts: a refusal leaves no command behind.
        let mut built: Vec<(u16, Sqe)> = Vec::with_capacity(needed);
        for nth in 0..commands {
            let at = nth * part;
            let len = part.min(transfer.len_bytes - at);
            let Some((index, cid)) = self.slots.take(transfer.sqe.opcode()) else {
                break;
            };
            let runs = Cut {
                spans: spans(&buffer),
                skip: at,
                left: len,
            };
            match prp::build(runs, self.page_bytes, &mut self.lists.of(index)) {
                Ok(Prps { prp1, prp2 }) => {
                    let sqe = transfer.command(at, len);
                    built.push((index, sqe.with_prp1(prp1).with_prp2(prp2).with_cid(cid)));
                }
                Err(error) => {
                    self.slots.give_back(index);
                    built
                        .iter()
                        .for_each(|&(index, _)| self.slots.give_back(index));
                    return Err(Refused {
                        error: not_prp(&error),
                        buffer,
                    });
                }
            }
        }
        let Some(&(lead, _)) = built.first() else {
            return Err(Refused {
                error: too_short(0, transfer),
                buffer,
            });
        };
        let token = self.slots.fresh_token();
        self.open_request(
            lead,
            token,
            needed as u16,
            transfer.describe(),
            Some(buffer),
        );
        for (index, sqe) in built {
            if let Some(slot) = self.slots.slot(index) {
                slot.lead = lead;
            }
            self.write_entry(sqe);
        }
        Ok(token)
    }
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
            let iova = span.iova.wrapping_add(self.skip);
            self.skip = 0;
            self.left -= take;
            return Some(Span {
                iova,
                len_bytes: take as usize,
            });
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

#[cold]
fn not_prp(error: &PrpError) -> Error {
    Error::Buffer(error.to_string())
}

/// The PRP list pages of all slots, in one piece of memory.
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
        let per_slot = prp::list_pages_for(spec.max_transfer_bytes, page_bytes);
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
