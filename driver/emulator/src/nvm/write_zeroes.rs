//! Write Zeroes (NVM Command Set 1.0, 3.2.8): blocks that read as zeroes, with or without room of
//! their own.
use super::other::Part;
use super::{INVALID_FIELD, read_back};
use crate::abilities::within;
use crate::core::Machine;
use crate::namespace::Namespace;
use underpin_nvme_spec::nvm::WriteZeroes;
use underpin_nvme_spec::{Sqe, Status};

impl Machine {
    pub(super) fn write_zeroes(&mut self, sqe: &Sqe) -> Result<(), Status> {
        self.stats.write_zeroes += 1;
        let command = WriteZeroes::from_sqe(sqe);
        let part = self.part_of(sqe)?;
        let limit = self.supports.abilities.wzsl;
        if !within(part.len_bytes, limit, self.supports.smallest_page_bytes) {
            return Err(INVALID_FIELD);
        }
        let durable = command.blocks.fua || self.limits.write_through;
        let namespace = self.namespace_at(part.namespace)?;
        namespace.clear(part, command.deallocate, durable)
    }
}

impl Namespace {
    /// Makes blocks read as zeroes; `deallocate`: without keeping room for them.
    pub(super) fn clear(
        &mut self,
        part: Part,
        deallocate: bool,
        durable: bool,
    ) -> Result<(), Status> {
        let Self { medium, cache, .. } = self;
        let write = cache
            .as_mut()
            .map(|cache| cache.begin(part.at, part.len_bytes));
        for (at, len_bytes) in part.pieces() {
            // What a power cut may bring back.
            let old = match write {
                Some(_) => read_back(medium, at, len_bytes as usize),
                None => Vec::new(),
            };
            let cleared = medium.clear(at, len_bytes, deallocate);
            if let (Some(cache), Some(write)) = (cache.as_mut(), write)
                && !old.is_empty()
            {
                let new = read_back(medium, at, old.len());
                cache.note(write, at, old, new);
            }
            cleared.map_err(|_| medium.write_failure())?;
        }
        if durable {
            medium.flush().map_err(|_| Status::WRITE_FAULT)?;
            if let (Some(cache), Some(write)) = (cache.as_mut(), write) {
                cache.harden(write);
            }
        }
        Ok(())
    }
}
