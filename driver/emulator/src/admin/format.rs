//! Format NVM (Base 2.0, 5.14): another size of blocks, and nothing left of what they held.
use super::{INVALID_FIELD, Reaction};
use crate::core::Machine;
use crate::namespace::{FORMAT_SHIFTS, Namespace};
use underpin_nvme_spec::admin::{FormatNvm, SecureErase};
use underpin_nvme_spec::{Nsid, Sqe, Status};

impl Machine {
    pub(super) fn format(&mut self, sqe: &Sqe) -> Reaction {
        self.stats.formats += 1;
        let command = FormatNvm::from_sqe(sqe);
        let Some(&shift) = FORMAT_SHIFTS.get(usize::from(command.lbaf)) else {
            return Status::INVALID_FORMAT.with_do_not_retry().into();
        };
        // Neither metadata nor protection information is there to be laid out.
        if command.extended || command.protection != 0 || command.protection_first {
            return Status::INVALID_FORMAT.with_do_not_retry().into();
        }
        if matches!(command.erase, SecureErase::Reserved(_)) {
            return INVALID_FIELD.into();
        }
        let meant = |namespace: &&mut Namespace| {
            let named = command.nsid == Nsid::ALL || command.nsid == Nsid(namespace.nsid);
            named && !namespace.gone
        };
        let mut formatted = false;
        for namespace in self.namespaces.iter_mut().filter(meant) {
            formatted = true;
            if let Err(status) = namespace.format(shift) {
                return status.into();
            }
        }
        match formatted {
            true => Status::SUCCESS.into(),
            false => Status::INVALID_NAMESPACE_OR_FORMAT
                .with_do_not_retry()
                .into(),
        }
    }
}

impl Namespace {
    /// All erasures are the same here: the medium gives its blocks back, and they read as zeroes.
    fn format(&mut self, lba_shift: u32) -> Result<(), Status> {
        if self.medium.is_protected() {
            return Err(Status::NAMESPACE_WRITE_PROTECTED.with_do_not_retry());
        }
        let size_bytes = self.size_bytes;
        if size_bytes >> lba_shift == 0 {
            return Err(Status::INVALID_FORMAT.with_do_not_retry());
        }
        let erased = self
            .medium
            .clear(0, size_bytes, true)
            .and_then(|()| self.medium.flush());
        if let Some(cache) = &mut self.cache {
            cache.flush();
        }
        self.lba_shift = lba_shift;
        self.blocks = size_bytes >> lba_shift;
        erased.map_err(|_| Status::WRITE_FAULT)
    }
}
