//! Compare (NVM Command Set 1.0, 3.2.1): whether the medium holds what the host has.
use super::INVALID_FIELD;
use crate::admin::Reaction;
use crate::core::Machine;
use crate::intake::Intake;
use underpin_nvme_spec::{Sqe, Status};

impl Machine {
    pub(super) fn compare(&mut self, sqe: &Sqe) -> Reaction {
        self.stats.compares += 1;
        let part = match self.part_of(sqe) {
            Ok(part) => part,
            Err(status) => return status.into(),
        };
        if part.len_bytes > self.limits.max_bytes {
            return INVALID_FIELD.into();
        }
        let len_bytes = part.len_bytes as usize;
        Reaction::Take(Intake::new(sqe, len_bytes, &self.limits))
    }

    /// At once, so that no write is seen in the middle.
    pub(super) fn compare_data(&mut self, sqe: &Sqe, bytes: &[u8]) -> Result<(), Status> {
        // Looked up again: the namespace may have changed while the data came.
        let part = self.part_of(sqe)?;
        self.health.looked_at_bytes += part.len_bytes;
        let medium = &self.namespace_at(part.namespace)?.medium;
        if !medium.has_bytes() {
            return Ok(());
        }
        for (at, len_bytes) in part.pieces() {
            let mut held = vec![0; len_bytes as usize];
            let read = medium.read_bytes(at, &mut held);
            read.map_err(|_| Status::UNRECOVERED_READ_ERROR)?;
            let from = (at - part.at) as usize;
            if bytes.get(from..from + held.len()) != Some(&held) {
                return Err(Status::COMPARE_FAILURE);
            }
        }
        Ok(())
    }
}
