//! Write Zeroes (NVM Command Set 1.0, 3.2.8): a write whose data need not be sent.

use super::ReadWrite;
use crate::{NvmOpcode, Sqe};

/// Write Zeroes: the blocks of a [`ReadWrite`], and what the controller may do with them.
///
/// ```
/// use underpin_nvme_spec::nvm::{ReadWrite, WriteZeroes};
/// use underpin_nvme_spec::{Nsid, NvmOpcode};
///
/// let blocks = ReadWrite { blocks: 64, ..ReadWrite::new(NvmOpcode::WRITE_ZEROES, Nsid(1)) };
/// let zeroes = WriteZeroes { blocks, deallocate: true };
/// assert_eq!(zeroes.to_sqe().cdw12(), 1 << 25 | 63);
/// assert_eq!(WriteZeroes::from_sqe(&zeroes.to_sqe()), zeroes);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WriteZeroes {
    /// Namespace, blocks, Force Unit Access, limited retry. Its opcode does not count.
    pub blocks: ReadWrite,
    /// The controller may deallocate the blocks where they read as zeroes then.
    pub deallocate: bool,
}

/// Bit of dword 12 (NVM Command Set 1.0, figure 78).
const DEALLOCATE: u32 = 1 << 25;

impl WriteZeroes {
    /// The submission queue entry, without a command identifier.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        let sqe = self.blocks.to_sqe().with_opcode(NvmOpcode::WRITE_ZEROES.0);
        let deallocate = if self.deallocate { DEALLOCATE } else { 0 };
        sqe.with_cdw12(sqe.cdw12() | deallocate)
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            blocks: ReadWrite::from_sqe(sqe),
            deallocate: sqe.cdw12() & DEALLOCATE != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lba, Nsid};

    /// NVM Command Set 1.0, 3.2.8: as a write, with DEAC in bit 25 of dword 12.
    #[test]
    fn it_is_a_write_with_a_bit_of_its_own() {
        let blocks = ReadWrite {
            slba: Lba(1 << 40),
            blocks: 65_536,
            fua: true,
            ..ReadWrite::new(NvmOpcode::WRITE_ZEROES, Nsid(2))
        };
        let zeroes = WriteZeroes {
            blocks,
            deallocate: true,
        };
        let sqe = zeroes.to_sqe();
        assert_eq!(
            (sqe.opcode(), sqe.cdw11(), sqe.cdw12()),
            (0x08, 0x100, 0x4200_ffff)
        );
        assert_eq!(WriteZeroes::from_sqe(&sqe), zeroes);
        let keeps = WriteZeroes {
            blocks,
            deallocate: false,
        };
        assert_eq!(keeps.to_sqe().cdw12(), 0x4000_ffff);
    }
}
