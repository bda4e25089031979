//! I/O commands beyond Read, Write and Flush: which family answers which opcode, and what they
//! share: a range of blocks that must lie within its namespace.
use super::{INVALID_FIELD, INVALID_NAMESPACE};
use crate::admin::Reaction;
use crate::core::Machine;
use crate::namespace::Namespace;
use underpin_nvme_spec::nvm::ReadWrite;
use underpin_nvme_spec::{Nsid, NvmOpcode, Sqe, Status};

/// Bytes looked at or cleared at a time.
pub(super) const PIECE_BYTES: u64 = 1 << 20;

/// A part of a namespace's medium.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// The namespace's place in the list.
    pub(super) namespace: usize,
    /// In bytes.
    pub(super) at: u64,
    pub(super) len_bytes: u64,
}

impl Part {
    /// In pieces of at most [`PIECE_BYTES`]: where each begins, and how long it is.
    pub(super) fn pieces(self) -> impl Iterator<Item = (u64, u64)> {
        let end = self.at + self.len_bytes;
        let mut at = self.at;
        std::iter::from_fn(move || {
            let len_bytes = PIECE_BYTES.min(end - at);
            let piece = (at, len_bytes);
            at += len_bytes;
            (len_bytes != 0).then_some(piece)
        })
    }
}

impl Machine {
    /// Executes an I/O command of any other opcode, but for the transfer of its data.
    pub(crate) fn other_io(&mut self, sqe: &Sqe) -> Reaction {
        if sqe.fuse() != 0 || !self.limits.sgl.takes(sqe.psdt()) {
            return INVALID_FIELD.into();
        }
        let opcode = NvmOpcode(sqe.opcode());
        if !self.supports.abilities.has_io(opcode) {
            self.stats.io_other += 1;
            return Status::INVALID_OPCODE.with_do_not_retry().into();
        }
        match opcode {
            NvmOpcode::COMPARE => self.compare(sqe),
            NvmOpcode::WRITE_ZEROES => self.write_zeroes(sqe).into(),
            NvmOpcode::DATASET_MANAGEMENT => self.dataset_management(sqe),
            NvmOpcode::VERIFY => self.verify(sqe).into(),
            _ => Status::INTERNAL_ERROR.into(),
        }
    }

    /// The data of an I/O command have come.
    pub(crate) fn io_data(&mut self, sqe: &Sqe, bytes: &[u8]) -> Reaction {
        match NvmOpcode(sqe.opcode()) {
            NvmOpcode::COMPARE => self.compare_data(sqe, bytes).into(),
            NvmOpcode::DATASET_MANAGEMENT => self.dataset_ranges(sqe, bytes).into(),
            _ => Status::INTERNAL_ERROR.into(),
        }
    }

    pub(super) fn place_of(&self, nsid: Nsid) -> Result<usize, Status> {
        let index = (nsid.0 as usize).wrapping_sub(1);
        match self.namespaces.get(index) {
            Some(namespace) if !namespace.gone => Ok(index),
            _ => Err(INVALID_NAMESPACE),
        }
    }

    /// The blocks that a command of Read's layout names.
    pub(super) fn part_of(&self, sqe: &Sqe) -> Result<Part, Status> {
        let ReadWrite {
            nsid, slba, blocks, ..
        } = ReadWrite::from_sqe(sqe);
        let namespace = self.place_of(nsid)?;
        self.part(namespace, slba.0, u64::from(blocks))
    }

    pub(super) fn part(&self, namespace: usize, lba: u64, blocks: u64) -> Result<Part, Status> {
        let Some(found) = self.namespaces.get(namespace) else {
            return Err(INVALID_NAMESPACE);
        };
        if blocks > found.blocks || lba > found.blocks - blocks {
            return Err(found.refusal());
        }
        Ok(Part {
            namespace,
            at: lba << found.lba_shift,
            len_bytes: blocks << found.lba_shift,
        })
    }

    pub(super) fn namespace_at(&mut self, place: usize) -> Result<&mut Namespace, Status> {
        self.namespaces.get_mut(place).ok_or(INVALID_NAMESPACE)
    }
}
