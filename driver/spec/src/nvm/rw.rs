//! Read and Write (NVM Command Set 1.0, 3.2.4 and 3.2.6), and those commands that share their
//! first three dwords: Compare, Write Zeroes, Verify.

use crate::{Lba, Nsid, NvmOpcode, Sqe};

/// A transfer of logical blocks: Read, Write, or a command of the same layout.
///
/// Where the data lies (PRP entries) and protection information are not part of it.
///
/// ```
/// use underpin_nvme_spec::nvm::ReadWrite;
/// use underpin_nvme_spec::{Lba, Nsid, NvmOpcode};
///
/// let write = ReadWrite {
///     slba: Lba(0x1_0000_0008),
///     blocks: 8,
///     fua: true,
///     ..ReadWrite::new(NvmOpcode::WRITE, Nsid(1))
/// };
/// let sqe = write.to_sqe().with_prp1(0x2000);
/// assert_eq!((sqe.cdw10(), sqe.cdw11(), sqe.cdw12()), (8, 1, 1 << 30 | 7));
/// assert_eq!(ReadWrite::from_sqe(&sqe), write);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReadWrite {
    /// Read, Write, Compare, Write Zeroes or Verify.
    pub opcode: NvmOpcode,
    /// The namespace.
    pub nsid: Nsid,
    /// The first logical block.
    pub slba: Lba,
    /// Number of logical blocks, 1 to 65,536.
    pub blocks: u32,
    /// Force Unit Access: from, or to, the medium and not a volatile cache.
    pub fua: bool,
    /// Whether the controller should try less hard than it can before it reports an error.
    pub limited_retry: bool,
}

/// Bits of dword 12 (NVM Command Set 1.0, figures 34 and 66).
const LIMITED_RETRY: u32 = 1 << 31;
const FUA: u32 = 1 << 30;

impl ReadWrite {
    /// One block, block 0: to be filled in by struct update.
    #[inline(always)]
    #[must_use]
    pub const fn new(opcode: NvmOpcode, nsid: Nsid) -> Self {
        Self {
            opcode,
            nsid,
            slba: Lba(0),
            blocks: 1,
            fua: false,
            limited_retry: false,
        }
    }

    /// A Read with opcode and namespace alone: dwords 10 to 12 are the caller's to set.
    #[inline(always)]
    #[must_use]
    pub const fn read(nsid: Nsid) -> Sqe {
        Sqe::new().with_opcode(NvmOpcode::READ.0).with_nsid(nsid)
    }

    /// A Write with opcode and namespace alone: dwords 10 to 12 are the caller's to set.
    #[inline(always)]
    #[must_use]
    pub const fn write(nsid: Nsid) -> Sqe {
        Sqe::new().with_opcode(NvmOpcode::WRITE.0).with_nsid(nsid)
    }

    /// The submission queue entry, without a command identifier and without PRP entries.
    #[inline(always)]
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        let fua = if self.fua { FUA } else { 0 };
        let limited_retry = if self.limited_retry { LIMITED_RETRY } else { 0 };
        Sqe::new()
            .with_opcode(self.opcode.0)
            .with_nsid(self.nsid)
            .with_cdw10(self.slba.0 as u32)
            .with_cdw11((self.slba.0 >> 32) as u32)
            .with_cdw12(limited_retry | fua | super::zero_based(self.blocks))
    }

    /// The command that an entry with one of these opcodes holds.
    #[inline(always)]
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            opcode: NvmOpcode(sqe.opcode()),
            nsid: sqe.nsid(),
            slba: Lba((sqe.cdw11() as u64) << 32 | sqe.cdw10() as u64),
            blocks: (sqe.cdw12() & 0xffff) + 1,
            fua: sqe.cdw12() & FUA != 0,
            limited_retry: sqe.cdw12() & LIMITED_RETRY != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NVM Command Set 1.0, 3.2.4: SLBA in dwords 10 and 11, NLB from 0, FUA bit 30, LR bit 31.
    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let read = ReadWrite {
            opcode: NvmOpcode::READ,
            nsid: Nsid(9),
            slba: Lba(0x1122_3344_5566_7788),
            blocks: 8,
            fua: false,
            limited_retry: true,
        };
        let sqe = read.to_sqe();
        assert_eq!((sqe.opcode(), sqe.nsid()), (0x02, Nsid(9)));
        assert_eq!((sqe.cdw10(), sqe.cdw11()), (0x5566_7788, 0x1122_3344));
        assert_eq!(sqe.cdw12(), 0x8000_0007);
        assert_eq!(ReadWrite::from_sqe(&sqe), read);

        let write = ReadWrite {
            opcode: NvmOpcode::WRITE,
            blocks: 65_536,
            fua: true,
            limited_retry: false,
            ..read
        };
        let sqe = write.to_sqe();
        assert_eq!((sqe.opcode(), sqe.cdw12()), (0x01, 0x4000_ffff));
        assert_eq!(ReadWrite::from_sqe(&sqe), write);
    }

    /// The templates hold what the whole command holds, less its dwords 10 to 12.
    #[test]
    fn templates_are_opcode_and_namespace_alone() {
        for (template, opcode) in [
            (ReadWrite::read(Nsid(3)), NvmOpcode::READ),
            (ReadWrite::write(Nsid(3)), NvmOpcode::WRITE),
        ] {
            assert_eq!(template, ReadWrite::new(opcode, Nsid(3)).to_sqe());
        }
    }

    /// A host may send anything: a count of ones is 65,536 blocks, not 0.
    #[test]
    fn entries_of_ones_are_read() {
        let read = ReadWrite::from_sqe(&Sqe::from_dwords([!0; 16]));
        assert_eq!((read.blocks, read.slba), (65_536, Lba(u64::MAX)));
        assert!(read.fua && read.limited_retry);
    }
}
