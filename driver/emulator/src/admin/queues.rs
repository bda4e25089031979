//! Making and deleting I/O queues (Base 2.0, 5.4 to 5.7), with the errors for what cannot be.
//! Deleting a submission queue ends its commands: no DMA for it follows.
use super::INVALID_FIELD;
use crate::core::{Cx, Machine};
use crate::queues::{Cq, Sq};
use underpin_nvme_spec::admin::{CreateIoCq, CreateIoSq, DeleteIoCq, DeleteIoSq};
use underpin_nvme_spec::{Sqe, Status};

const INVALID_ID: Status = Status::INVALID_QUEUE_ID.with_do_not_retry();
const INVALID_SIZE: Status = Status::INVALID_QUEUE_SIZE.with_do_not_retry();

impl Machine {
    /// True when `qid` can name an I/O queue.
    fn in_range(&self, qid: u16) -> bool {
        (1..=self.features.queues).contains(&qid)
    }

    fn check_ring(&self, entries: u32, prp1: u64, contiguous: bool) -> Result<(), Status> {
        if !(2..=self.supports.queue_entries).contains(&entries) {
            return Err(INVALID_SIZE);
        }
        // CAP.CQR: queues are contiguous, and begin on a page.
        if !contiguous {
            return Err(INVALID_FIELD);
        }
        if prp1 & (self.limits.page_bytes - 1) != 0 {
            return Err(Status::PRP_OFFSET_INVALID.with_do_not_retry());
        }
        Ok(())
    }

    pub(super) fn create_cq(&mut self, cx: &Cx<'_>, sqe: &Sqe) -> Result<(), Status> {
        let command = CreateIoCq::from_sqe(sqe);
        let qid = command.qid.0;
        if !self.in_range(qid) || self.cq(qid).is_some() {
            return Err(INVALID_ID);
        }
        self.check_ring(command.entries, command.prp1, command.contiguous)?;
        if command.interrupts && command.vector > self.supports.queues {
            return Err(Status::INVALID_INTERRUPT_VECTOR.with_do_not_retry());
        }
        cx.shared.bar.set_live(2 * usize::from(qid) + 1, true);
        let vector = command.interrupts.then_some(command.vector);
        self.put_cq(Cq::new(qid, command.prp1, command.entries, vector));
        Ok(())
    }

    pub(super) fn create_sq(&mut self, cx: &Cx<'_>, sqe: &Sqe) -> Result<(), Status> {
        let command = CreateIoSq::from_sqe(sqe);
        let (qid, cqid) = (command.qid.0, command.cqid.0);
        // Base 2.0, 5.5: a completion queue out of range is an invalid identifier; one that could
        // be but is not is an invalid queue.
        if !self.in_range(qid) || self.sq(qid).is_some() || !self.in_range(cqid) {
            return Err(INVALID_ID);
        }
        let Some(cq) = self.cq(cqid) else {
            return Err(Status::COMPLETION_QUEUE_INVALID.with_do_not_retry());
        };
        let users = cq.users;
        self.check_ring(command.entries, command.prp1, command.contiguous)?;
        if let Some(cq) = self.cq(cqid) {
            cq.users = users + 1;
        }
        cx.shared.bar.set_live(2 * usize::from(qid), true);
        self.put_sq(Sq::new(qid, cqid, command.prp1, command.entries));
        Ok(())
    }

    pub(super) fn delete_sq(&mut self, cx: &Cx<'_>, sqe: &Sqe) -> Result<(), Status> {
        let qid = DeleteIoSq::from_sqe(sqe).qid.0;
        if !self.in_range(qid) || self.sq(qid).is_none() {
            return Err(INVALID_ID);
        }
        self.abort_queue(cx, qid);
        cx.shared.bar.set_live(2 * usize::from(qid), false);
        if let Some(sq) = self.take_sq(qid)
            && let Some(cq) = self.cq(sq.cqid)
        {
            cq.users = cq.users.saturating_sub(1);
        }
        Ok(())
    }

    pub(super) fn delete_cq(&mut self, cx: &Cx<'_>, sqe: &Sqe) -> Result<(), Status> {
        let qid = DeleteIoCq::from_sqe(sqe).qid.0;
        if !self.in_range(qid) {
            return Err(INVALID_ID);
        }
        let Some(cq) = self.cq(qid) else {
            return Err(INVALID_ID);
        };
        if cq.users > 0 {
            return Err(Status::INVALID_QUEUE_DELETION.with_do_not_retry());
        }
        cx.shared.bar.set_live(2 * usize::from(qid) + 1, false);
        self.drop_cq(qid);
        Ok(())
    }
}
