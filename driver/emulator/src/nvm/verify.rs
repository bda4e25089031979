//! Verify (NVM Command Set 1.0, 3.2.5): whether blocks can be read, without sending them.
use super::INVALID_FIELD;
use crate::abilities::within;
use crate::core::Machine;
use underpin_nvme_spec::{Sqe, Status};

impl Machine {
    pub(super) fn verify(&mut self, sqe: &Sqe) -> Result<(), Status> {
        self.stats.verifies += 1;
        let part = self.part_of(sqe)?;
        let limit = self.supports.abilities.vsl;
        if !within(part.len_bytes, limit, self.supports.smallest_page_bytes) {
            return Err(INVALID_FIELD);
        }
        let medium = &self.namespace_at(part.namespace)?.medium;
        if medium.has_bytes() {
            for (at, len_bytes) in part.pieces() {
                let read = medium.read_bytes(at, &mut vec![0; len_bytes as usize]);
                read.map_err(|_| Status::UNRECOVERED_READ_ERROR)?;
            }
        }
        self.health.looked_at_bytes += part.len_bytes;
        Ok(())
    }
}
