//! Dataset Management (NVM Command Set 1.0, 3.2.3): ranges that are needed no more are given back
//! to the medium; they read as zeroes then (DLFEAT).
use crate::admin::Reaction;
use crate::core::Machine;
use crate::intake::Intake;
use underpin_nvme_spec::nvm::{DatasetManagement, DsmRange};
use underpin_nvme_spec::{Sqe, Status};

impl Machine {
    pub(super) fn dataset_management(&mut self, sqe: &Sqe) -> Reaction {
        self.stats.dataset_managements += 1;
        let command = DatasetManagement::from_sqe(sqe);
        if let Err(status) = self.place_of(command.nsid) {
            return status.into();
        }
        let limit = self.supports.abilities.dmrl;
        if limit != 0 && command.ranges > u16::from(limit) {
            return Status::COMMAND_SIZE_LIMIT_EXCEEDED
                .with_do_not_retry()
                .into();
        }
        let len_bytes = usize::from(command.ranges) * DsmRange::LEN_BYTES;
        Reaction::Take(Intake::new(sqe, len_bytes, &self.limits))
    }

    /// All ranges are checked before any is touched.
    pub(super) fn dataset_ranges(&mut self, sqe: &Sqe, bytes: &[u8]) -> Result<(), Status> {
        let command = DatasetManagement::from_sqe(sqe);
        let place = self.place_of(command.nsid)?;
        let (ranges, _) = bytes.as_chunks::<{ DsmRange::LEN_BYTES }>();
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges.iter().map(DsmRange::from_bytes) {
            parts.push(self.part(place, range.slba.0, u64::from(range.blocks))?);
        }
        // The rest is hints.
        if !command.deallocate {
            return Ok(());
        }
        let durable = self.limits.write_through;
        let namespace = self.namespace_at(place)?;
        for part in parts {
            namespace.clear(part, true, durable)?;
        }
        Ok(())
    }
}
