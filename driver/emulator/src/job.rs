//! Commands that take more than one step: those a fault holds up, and all of them in stepped runs.
//! A job owns its command until its completion is in the outbox; the outbox waits for room.
use crate::admin::Reaction;
use crate::bus::{Bus, Who};
use crate::core::{Cx, Machine};
use crate::faults::{Occasion, Plan};
use crate::intake::Intake;
use crate::iommu::Mappings;
use crate::nvm::Transfer;
use crate::walk::{PrpWalk, Segment};
use underpin_dma::rt::Instant;
use underpin_nvme_spec::{Cid, Cqe, NvmOpcode, Qid, Sqe, Status};

/// Commands in progress before fetching from I/O queues stops. Admin commands may go beyond: an
/// I/O queue whose commands are all held must not lock out the command that deletes it.
const MAX_JOBS: usize = 4096;

/// The phase tag in the second half of a completion.
const PHASE: u64 = 1 << 48;

/// What a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Nothing,
    Until(Instant),
    /// For one release more than there were.
    Released(u64),
    /// For its own end.
    Aborted,
}

/// Bytes on their way to the host: an identify page or a log page.
#[derive(Debug)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
    done: usize,
    segment: Segment,
    walk: PrpWalk,
    /// Write no more than so many of them.
    limit: usize,
}

impl Reply {
    pub(crate) fn new(sqe: &Sqe, bytes: Vec<u8>, page_bytes: u64) -> Self {
        Self {
            done: 0,
            segment: Segment {
                iova: 0,
                len_bytes: 0,
            },
            walk: PrpWalk::new(sqe.prp1(), sqe.prp2(), bytes.len() as u64, page_bytes),
            limit: bytes.len(),
            bytes,
        }
    }

    /// The bytes, to be spoiled.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Writes no more than the first `len_bytes` of them.
    pub(crate) fn cut_to(&mut self, len_bytes: usize) {
        self.limit = self.limit.min(len_bytes);
    }

    /// Moves up to `chunk` bytes. True when all are written.
    pub(crate) fn advance(
        &mut self,
        bus: &mut Bus,
        map: &Mappings,
        who: Who,
        chunk: usize,
    ) -> Result<bool, Status> {
        let mut budget = chunk;
        while self.done < self.limit {
            if budget == 0 {
                return Ok(false);
            }
            if self.segment.len_bytes == 0 {
                let Some(segment) = self.walk.next(bus, map, who)? else {
                    return Err(Status::INTERNAL_ERROR);
                };
                self.segment = segment;
            }
            let len = (self.segment.len_bytes as usize)
                .min(budget)
                .min(self.limit - self.done);
            let part = self.bytes.get(self.done..self.done + len);
            bus.write(map, self.segment.iova, part.unwrap_or(&[]), who)
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            self.segment.iova = self.segment.iova.wrapping_add(len as u64);
            self.segment.len_bytes -= len as u64;
            self.done += len;
            budget -= len;
        }
        Ok(true)
    }
}

/// What a command does once it was looked at.
#[derive(Debug)]
pub(crate) enum Work {
    Transfer(Transfer),
    Reply(Reply),
    Intake(Intake),
}

/// A command in progress.
#[derive(Debug)]
pub(crate) struct Job {
    qid: u16,
    cqid: u16,
    sqe: Sqe,
    plan: Plan,
    wait: Wait,
    work: Option<Work>,
    /// Its completion went ahead: what it moves now, it moves late.
    told: bool,
}

impl Job {
    fn who(&self) -> Who {
        Who {
            qid: self.qid,
            cid: Some(self.sqe.cid().0),
            told: self.told,
        }
    }
}

/// A completion to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) sqid: u16,
    pub(crate) cqid: u16,
    pub(crate) cid: u16,
    pub(crate) status: Status,
    pub(crate) dw0: u32,
    pub(crate) plan: Plan,
}

impl Machine {
    /// True when another command of queue `qid` can be taken on.
    pub(crate) fn takes_more(&self, qid: u16) -> bool {
        let limit = if qid == 0 { 2 * MAX_JOBS } else { MAX_JOBS };
        self.jobs.len() + self.outbox.len() < limit
    }

    /// Makes a job of a fetched command, as its faults have it.
    pub(crate) fn accept(&mut self, cx: &Cx<'_>, qid: u16, cqid: u16, sqe: Sqe) {
        let plan = self.faults.at(Occasion::Command { qid, sqe }, cx.now);
        if self.ended_by(cx, &plan) {
            return;
        }
        if plan.namespace_gone {
            self.vanish(sqe.nsid().0);
        }
        if let Some(times) = plan.aer_storm {
            self.storm(times);
        }
        if plan.irq_spurious
            && let Some(vector) = self.cq(cqid).and_then(|cq| cq.vector)
        {
            cx.shared.vectors.raise(vector);
        }
        if let Some(time) = plan.cq_stall {
            self.stall(cqid, cx.now + time);
        }
        let sqe = match plan.wrong_iova {
            Some(offset) => Self::misplace(sqe, offset),
            None => sqe,
        };
        let mut job = Job {
            qid,
            cqid,
            sqe,
            plan,
            wait: Wait::Nothing,
            work: None,
            told: false,
        };
        let len_bytes = self.data_bytes(qid, &sqe);
        if let (Some(model), Some(len_bytes)) = (&mut self.model, len_bytes) {
            job.wait = Wait::Until(model.end_of(cx.now, len_bytes));
        }
        if let Some(delay) = plan.delay {
            job.wait = Wait::Until(cx.now + delay);
        }
        if plan.hold {
            job.wait = Wait::Released(cx.shared.faults.releases());
        }
        if plan.dma_after_abort.is_some() {
            job.wait = Wait::Aborted;
        }
        if let Some(delay) = plan.late_dma {
            self.finish(&job, Status::SUCCESS, 0);
            job.told = true;
            job.wait = Wait::Until(cx.now + delay);
        }
        self.jobs.push(Box::new(job));
    }

    /// What an I/O command transfers; `None` for an admin command.
    fn data_bytes(&self, qid: u16, sqe: &Sqe) -> Option<u64> {
        if qid == 0 {
            return None;
        }
        if !matches!(NvmOpcode(sqe.opcode()), NvmOpcode::READ | NvmOpcode::WRITE) {
            return Some(0);
        }
        let namespace = self
            .namespaces
            .get((sqe.nsid().0 as usize).wrapping_sub(1))?;
        Some((u64::from(sqe.cdw12() & 0xffff) + 1) << namespace.lba_shift)
    }

    fn finish(&mut self, job: &Job, status: Status, dw0: u32) {
        if job.told {
            return;
        }
        if !status.is_success() {
            self.note_error(job.qid, &job.sqe, status);
        }
        self.outbox.push_back(Outgoing {
            sqid: job.qid,
            cqid: job.cqid,
            cid: job.sqe.cid().0,
            status,
            dw0,
            plan: job.plan,
        });
    }

    /// True when the job at `index` could go on now.
    pub(crate) fn is_runnable(&self, cx: &Cx<'_>, index: usize) -> bool {
        let Some(job) = self.jobs.get(index) else {
            return false;
        };
        // Late means after the completion, so that one comes first.
        let untold = |out: &Outgoing| out.sqid == job.qid && out.cid == job.sqe.cid().0;
        if job.told && self.outbox.iter().any(untold) {
            return false;
        }
        match job.wait {
            Wait::Nothing => true,
            Wait::Until(until) => until <= cx.now,
            Wait::Aborted => false,
            Wait::Released(seen) => cx.shared.faults.releases() != seen,
        }
    }

    /// When the next job that waits for a time can go on.
    pub(crate) fn next_job_time(&self) -> Option<Instant> {
        let times = self.jobs.iter().filter_map(|job| match job.wait {
            Wait::Until(until) => Some(until),
            _ => None,
        });
        times.chain(self.next_stall_end()).min()
    }

    /// Runs every job that can go on, to its end, in the order they came.
    pub(crate) fn run_jobs(&mut self, cx: &Cx<'_>) -> usize {
        let mut done = 0;
        let mut index = 0;
        let mut passed = 0;
        // A job may end others (a deleted queue), never add any.
        let limit = self.jobs.len();
        while index < self.jobs.len() && passed < limit && self.is_ready() {
            passed += 1;
            if !self.is_runnable(cx, index) {
                index += 1;
                continue;
            }
            let before = self.jobs.len();
            while !self.advance_job(cx, index, u64::MAX) {}
            done += 1;
            index = (index + 1).saturating_sub(before.saturating_sub(self.jobs.len()));
        }
        done
    }

    /// Does one piece of a job. True when the job has ended and is gone.
    pub(crate) fn advance_job(&mut self, cx: &Cx<'_>, index: usize, chunk: u64) -> bool {
        if index >= self.jobs.len() {
            return true;
        }
        // Out of the list while it runs: deleting a queue ends other jobs.
        let mut job = self.jobs.remove(index);
        match self.advance_taken(cx, &mut job, chunk) {
            Some((status, dw0)) => {
                self.finish(&job, status, dw0);
                true
            }
            None => {
                let at = index.min(self.jobs.len());
                self.jobs.insert(at, job);
                false
            }
        }
    }

    /// `Some` when the command has ended; a held one has, without a completion.
    fn advance_taken(&mut self, cx: &Cx<'_>, job: &mut Job, chunk: u64) -> Option<(Status, u32)> {
        let who = job.who();
        let Some(work) = &mut job.work else {
            if let Some(status) = job.plan.status {
                return Some((Status(status), 0));
            }
            match self.react(cx, job.qid, &job.sqe) {
                Begun::Transfer(transfer) => job.work = Some(Work::Transfer(transfer)),
                Begun::Reaction(Reaction::Done(status, dw0)) => return Some((status, dw0)),
                Begun::Reaction(Reaction::Reply(mut reply)) => {
                    if job.qid == 0 {
                        self.spoil(&job.sqe, &job.plan, &mut reply);
                    }
                    job.work = Some(Work::Reply(reply));
                }
                Begun::Reaction(Reaction::Take(intake)) => job.work = Some(Work::Intake(intake)),
                Begun::Reaction(Reaction::Held) => {
                    // It stays with the controller, without a job and without an end.
                    job.told = true;
                    return Some((Status::SUCCESS, 0));
                }
            }
            return None;
        };
        let moved = match work {
            Work::Transfer(transfer) => {
                transfer.advance(&mut self.bus, cx.map, &mut self.namespaces, who, chunk)
            }
            Work::Reply(reply) => {
                let chunk = usize::try_from(chunk).unwrap_or(usize::MAX);
                reply.advance(&mut self.bus, cx.map, who, chunk)
            }
            Work::Intake(intake) => {
                let chunk = usize::try_from(chunk).unwrap_or(usize::MAX);
                intake.advance(&mut self.bus, cx.map, who, chunk)
            }
        };
        if let (Work::Intake(_), Ok(true)) = (&*work, moved)
            && let Some(Work::Intake(intake)) = job.work.take()
        {
            return match self.data_came(job.qid, &job.sqe, intake) {
                Reaction::Done(status, dw0) => Some((status, dw0)),
                _ => Some((Status::INTERNAL_ERROR, 0)),
            };
        }
        if let (Some(Work::Transfer(transfer)), Ok(true), true) =
            (&job.work, moved, job.plan.corrupt_data)
        {
            self.flip_a_bit(cx, transfer, who);
        }
        match moved {
            Ok(false) => None,
            Ok(true) => Some((Status::SUCCESS, 0)),
            Err(status) => Some((status, 0)),
        }
    }

    /// Looks at a command: executes it, or begins its transfer.
    #[inline(always)]
    pub(crate) fn react(&mut self, cx: &Cx<'_>, qid: u16, sqe: &Sqe) -> Begun {
        if qid == 0 {
            self.stats.admin += 1;
            return Begun::Reaction(self.admin(cx, sqe));
        }
        self.nvm(sqe)
    }

    /// Writes completions that have room, in order for each queue. Returns how many.
    pub(crate) fn drain_outbox(&mut self, cx: &Cx<'_>) -> usize {
        let mut done = 0;
        let mut index = 0;
        let mut full: Vec<u16> = Vec::new();
        while let Some(out) = self.outbox.get(index).copied() {
            if full.contains(&out.cqid) || !self.has_room(cx, out.cqid) {
                full.push(out.cqid);
                index += 1;
                continue;
            }
            self.outbox.remove(index);
            self.post(cx, &out);
            done += 1;
            if !self.is_ready() {
                break;
            }
        }
        done
    }

    /// The first completion of each queue that could be written now.
    pub(crate) fn postable(&mut self, cx: &Cx<'_>) -> Vec<usize> {
        let mut seen: Vec<u16> = Vec::new();
        let mut postable = Vec::new();
        for index in 0..self.outbox.len() {
            let Some(cqid) = self.outbox.get(index).map(|out| out.cqid) else {
                break;
            };
            if !seen.contains(&cqid) {
                seen.push(cqid);
                if self.has_room(cx, cqid) {
                    postable.push(index);
                }
            }
        }
        postable
    }

    /// True when completion queue `cqid` has room for one more, or is gone.
    pub(crate) fn has_room(&mut self, cx: &Cx<'_>, cqid: u16) -> bool {
        if !self.stalls.is_empty() && self.is_stalled(cx, cqid) {
            return false;
        }
        let looked = {
            let Some(cq) = self.cqs.get_mut(usize::from(cqid)).and_then(Option::as_mut) else {
                return true;
            };
            if cq.room() > 0 {
                cq.waiting = false;
                return true;
            }
            cq.look(&mut self.bus, cx.map, &cx.shared.bar, self.shadow.as_ref())
                .map(|look| {
                    let full = cq.room() == 0;
                    let was_waiting = std::mem::replace(&mut cq.waiting, full);
                    (look, full && !was_waiting, !full)
                })
        };
        match looked {
            Ok((look, stalled, room)) => {
                self.count_invalid(look);
                self.stats.cq_stalls += u64::from(stalled);
                room
            }
            Err(_) => {
                self.fail(cx, "a completion doorbell page that is not mapped");
                false
            }
        }
    }

    /// Writes one completion, as its faults have it. The queue has room.
    pub(crate) fn post(&mut self, cx: &Cx<'_>, out: &Outgoing) {
        if out.plan.drop {
            return;
        }
        let sq = self.sqs.get(usize::from(out.sqid)).and_then(Option::as_ref);
        let (head, entries) = sq.map_or((0, 0), |sq| (sq.head, sq.entries));
        let Some(cq) = self
            .cqs
            .get_mut(usize::from(out.cqid))
            .and_then(Option::as_mut)
        else {
            return;
        };
        if cq.open(&mut self.bus, cx.map).is_err() {
            return self.fail(cx, "a completion queue that is not mapped");
        }
        let plan = &out.plan;
        let mut flip = |wanted: bool| match wanted {
            true => 1 + self.rng.below(0xffff) as u16,
            false => 0,
        };
        let cid = out.cid ^ flip(plan.corrupt_cid);
        let sqid = out.sqid ^ flip(plan.corrupt_sqid);
        let sqhd = match plan.corrupt_sqhd && entries < 65536 {
            // Beyond the ring: a head that no queue of this size can have.
            true => (entries + self.rng.below(u64::from(65536 - entries)) as u32) as u16,
            false => head as u16,
        };
        let garbage = plan
            .corrupt_cqe
            .then(|| [self.rng.next_u64(), self.rng.next_u64()]);
        for _ in 0..1 + usize::from(plan.duplicate) {
            if cq.room() == 0 {
                break;
            }
            cq.post(&self.bus, plan.corrupt_phase, |phase| match garbage {
                Some([low, high]) => {
                    Cqe::from_u64s([low, high & !PHASE | (PHASE * u64::from(phase))])
                }
                None => Cqe::new(out.dw0, 0, sqhd, Qid(sqid), Cid(cid), phase, out.status),
            });
            self.stats.completions += 1;
        }
        if let Some(vector) = cq.vector {
            let times = plan.irq_storm.unwrap_or(1);
            for _ in 0..if plan.irq_lost { 0 } else { times } {
                cx.shared.vectors.raise(vector);
            }
        }
        self.stats.errors += u64::from(!out.status.is_success());
    }

    /// Ends a command that waits. False when it does not, or ended already.
    pub(crate) fn abort_job(&mut self, qid: u16, cid: u16, status: Status) -> bool {
        let waits = |job: &Job| job.qid == qid && job.sqe.cid().0 == cid && !job.told;
        let Some(index) = self.jobs.iter().position(|job| waits(job)) else {
            return false;
        };
        let mut job = self.jobs.remove(index);
        self.finish(&job, status, 0);
        if let Some(delay) = job.plan.dma_after_abort {
            job.told = true;
            job.wait = Wait::Until(self.faults.now() + delay);
            self.jobs.insert(index, job);
        }
        true
    }

    /// Ends all commands of a submission queue that is being deleted, fetched or not. Completions
    /// are written as far as there is room for them (Base 2.0, 5.7: they may be).
    pub(crate) fn abort_queue(&mut self, cx: &Cx<'_>, qid: u16) {
        const ABORTED: Status = Status::ABORTED_SQ_DELETION;
        self.bus.command_failed(Some(qid), None);
        let mut ended: Vec<Outgoing> = Vec::new();
        self.outbox.retain(|out| {
            let mine = out.sqid == qid;
            if mine {
                ended.push(*out);
            }
            !mine
        });
        let jobs = std::mem::take(&mut self.jobs);
        let (mine, others): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.qid == qid);
        self.jobs = others;
        for mut job in mine.into_iter().filter(|job| !job.told) {
            ended.push(Outgoing {
                sqid: qid,
                cqid: job.cqid,
                cid: job.sqe.cid().0,
                status: ABORTED,
                dw0: 0,
                plan: Plan::default(),
            });
            if let Some(delay) = job.plan.dma_after_abort {
                job.told = true;
                job.wait = Wait::Until(cx.now + delay);
                self.jobs.push(job);
            }
        }
        for out in &ended {
            if self.has_room(cx, out.cqid) {
                self.post(cx, out);
            }
        }
        // What lies in the ring still.
        let Some(mut sq) = self.take_sq(qid) else {
            return;
        };
        let looked = sq.look(&mut self.bus, cx.map, &cx.shared.bar, self.shadow.as_ref());
        let open = looked.is_ok() && (sq.is_empty() || sq.open(&mut self.bus, cx.map).is_ok());
        let cqid = sq.cqid;
        while open && !sq.is_empty() && self.has_room(cx, cqid) && self.cq(cqid).is_some() {
            let Some(words) = sq.fetch(&self.bus) else {
                break;
            };
            let out = Outgoing {
                sqid: qid,
                cqid,
                cid: Sqe::from_u64s(words).cid().0,
                status: ABORTED,
                dw0: 0,
                plan: Plan::default(),
            };
            self.put_sq(sq);
            self.post(cx, &out);
            let Some(back) = self.take_sq(qid) else {
                return;
            };
            sq = back;
        }
        self.put_sq(sq);
    }
}

/// What became of a command at the first look.
#[derive(Debug)]
pub(crate) enum Begun {
    Reaction(Reaction),
    Transfer(Transfer),
}
