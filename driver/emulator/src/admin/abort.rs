//! Abort (Base 2.0, 5.1): a command that waits is ended; one that does not is too far.
use super::Reaction;
use crate::core::Machine;
use underpin_nvme_spec::admin::Abort;
use underpin_nvme_spec::{Sqe, Status};

impl Machine {
    pub(super) fn abort(&mut self, sqe: &Sqe) -> Reaction {
        self.stats.aborts += 1;
        let Abort { sqid, cid } = Abort::from_sqe(sqe);
        let aborted = self.abort_job(sqid.0, cid.0, Status::ABORT_REQUESTED)
            || (sqid.0 == 0 && self.abort_event_request(cid.0));
        // Bit 0: the command was not aborted.
        Reaction::Done(Status::SUCCESS, u32::from(!aborted))
    }
}
