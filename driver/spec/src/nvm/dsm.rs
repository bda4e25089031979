//! Dataset Management (NVM Command Set 1.0, 3.2.3): what the host says of ranges of blocks, of
//! which "I need them no more" (deallocate) is what matters here.

use crate::{Lba, Nsid, NvmOpcode, Sqe};

/// Dataset Management. Its data are up to 256 ranges of 16 bytes.
///
/// ```
/// use underpin_nvme_spec::{Nsid, nvm::DatasetManagement};
///
/// let command = DatasetManagement {
///     nsid: Nsid(1),
///     ranges: 2,
///     deallocate: true,
///     ..DatasetManagement::default()
/// };
/// let sqe = command.to_sqe();
/// assert_eq!((sqe.opcode(), sqe.cdw10(), sqe.cdw11()), (0x09, 1, 0b100));
/// assert_eq!(DatasetManagement::from_sqe(&sqe), command);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DatasetManagement {
    /// The namespace.
    pub nsid: Nsid,
    /// How many ranges follow, 1 to 256.
    pub ranges: u16,
    /// The ranges are to be read as a whole.
    pub integral_read: bool,
    /// The ranges are to be written as a whole.
    pub integral_write: bool,
    /// The ranges are needed no more.
    pub deallocate: bool,
    /// First PRP entry of the ranges.
    pub prp1: u64,
    /// Second PRP entry.
    pub prp2: u64,
}

impl DatasetManagement {
    /// The most ranges that one command has.
    pub const MAX_RANGES: usize = 256;

    /// The submission queue entry, without a command identifier. Counts that do not fit eight
    /// bits are the caller's mistake; the low eight bits are kept.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        Sqe::new()
            .with_opcode(NvmOpcode::DATASET_MANAGEMENT.0)
            .with_nsid(self.nsid)
            .with_prp1(self.prp1)
            .with_prp2(self.prp2)
            .with_cdw10((self.ranges as u32).wrapping_sub(1) & 0xff)
            .with_cdw11(
                self.integral_read as u32
                    | (self.integral_write as u32) << 1
                    | (self.deallocate as u32) << 2,
            )
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            nsid: sqe.nsid(),
            ranges: (sqe.cdw10() & 0xff) as u16 + 1,
            integral_read: sqe.cdw11() & 1 != 0,
            integral_write: sqe.cdw11() & 1 << 1 != 0,
            deallocate: sqe.cdw11() & 1 << 2 != 0,
            prp1: sqe.prp1(),
            prp2: sqe.prp2(),
        }
    }
}

/// One range of blocks (NVM Command Set 1.0, figure 40).
///
/// ```
/// use underpin_nvme_spec::{Lba, nvm::DsmRange};
///
/// let range = DsmRange { attributes: 0, blocks: 8, slba: Lba(16) };
/// assert_eq!(DsmRange::from_bytes(&range.to_bytes()), range);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DsmRange {
    /// Context attributes: hints that a controller may ignore.
    pub attributes: u32,
    /// How many blocks, not counted from 0.
    pub blocks: u32,
    /// The first block.
    pub slba: Lba,
}

impl DsmRange {
    /// Bytes of one range.
    pub const LEN_BYTES: usize = 16;

    /// The range as it lies in memory.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; Self::LEN_BYTES] {
        let whole =
            self.attributes as u128 | (self.blocks as u128) << 32 | (self.slba.0 as u128) << 64;
        whole.to_le_bytes()
    }

    /// The range that lies in memory as these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: &[u8; Self::LEN_BYTES]) -> Self {
        let whole = u128::from_le_bytes(*bytes);
        Self {
            attributes: whole as u32,
            blocks: (whole >> 32) as u32,
            slba: Lba((whole >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NVM Command Set 1.0, 3.2.3: NR from 0 in dword 10; IDR, IDW and AD in dword 11.
    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let dsm = DatasetManagement {
            nsid: Nsid(3),
            ranges: 256,
            deallocate: true,
            prp1: 0x1000,
            ..DatasetManagement::default()
        };
        let sqe = dsm.to_sqe();
        assert_eq!(
            (sqe.opcode(), sqe.nsid(), sqe.prp1()),
            (0x09, Nsid(3), 0x1000)
        );
        assert_eq!((sqe.cdw10(), sqe.cdw11()), (0xff, 0b100));
        assert_eq!(DatasetManagement::from_sqe(&sqe), dsm);
        let hints = DatasetManagement {
            integral_read: true,
            ranges: 1,
            ..DatasetManagement::default()
        };
        assert_eq!((hints.to_sqe().cdw10(), hints.to_sqe().cdw11()), (0, 0b001));
        let hints = DatasetManagement {
            integral_write: true,
            ..hints
        };
        assert_eq!(hints.to_sqe().cdw11(), 0b011);
    }

    /// NVM Command Set 1.0, figure 40: attributes, length, first block.
    #[test]
    fn a_range_is_laid_out_as_the_specification_has_it() {
        let range = DsmRange {
            attributes: 0x0403_0201,
            blocks: 0x0807_0605,
            slba: Lba(0x100f_0e0d_0c0b_0a09),
        };
        assert_eq!(range.to_bytes(), core::array::from_fn(|at| at as u8 + 1));
    }

    /// A host may send anything.
    #[test]
    fn entries_of_ones_are_read() {
        let dsm = DatasetManagement::from_sqe(&Sqe::from_dwords([!0; 16]));
        assert_eq!((dsm.ranges, dsm.deallocate), (256, true));
        assert_eq!(DsmRange::from_bytes(&[0xff; 16]).blocks, u32::MAX);
    }
}
