//! Format NVM (Base 2.0, 5.14; NVM Command Set 1.0, 4.1.2): another block size, and the end of all
//! that was written.

use crate::{AdminOpcode, Nsid, Sqe};

/// What a format does with the data that were there, bits 11:9 of dword 10.
///
/// ```
/// use underpin_nvme_spec::admin::SecureErase;
///
/// assert_eq!(SecureErase::Cryptographic.code(), 2);
/// assert_eq!(SecureErase::default(), SecureErase::None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SecureErase {
    /// Nothing is asked: what the blocks read as is not known.
    #[default]
    None,
    /// All user data are erased.
    UserData,
    /// The key that they are encrypted with is.
    Cryptographic,
    /// A value that the specification reserves, by number (three bits).
    Reserved(u8),
}

impl SecureErase {
    /// Its number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::UserData => 1,
            Self::Cryptographic => 2,
            Self::Reserved(code) => code & 0b111,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::None,
            1 => Self::UserData,
            2 => Self::Cryptographic,
            other => Self::Reserved(other),
        }
    }
}

/// Format NVM.
///
/// ```
/// use underpin_nvme_spec::{Nsid, admin::{FormatNvm, SecureErase}};
///
/// let format = FormatNvm {
///     nsid: Nsid(1),
///     lbaf: 2,
///     erase: SecureErase::UserData,
///     ..FormatNvm::default()
/// };
/// let sqe = format.to_sqe();
/// assert_eq!((sqe.opcode(), sqe.nsid(), sqe.cdw10()), (0x80, Nsid(1), 0x202));
/// assert_eq!(FormatNvm::from_sqe(&sqe), format);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FormatNvm {
    /// Which namespace; [`Nsid::ALL`] for all, where FNA allows it.
    pub nsid: Nsid,
    /// Index of the LBA format to have, 0 to 63.
    pub lbaf: u8,
    /// Metadata at the end of each block instead of in a buffer of their own.
    pub extended: bool,
    /// Protection information type, 0 to 7; 0 is none.
    pub protection: u8,
    /// Protection information in the first bytes of the metadata instead of the last.
    pub protection_first: bool,
    /// What becomes of the data.
    pub erase: SecureErase,
}

impl FormatNvm {
    /// The submission queue entry, without a command identifier. Of `lbaf` six bits are kept, of
    /// `protection` three.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        let lbaf = self.lbaf as u32;
        Sqe::new()
            .with_opcode(AdminOpcode::FORMAT_NVM.0)
            .with_nsid(self.nsid)
            .with_cdw10(
                lbaf & 0xf
                    | (self.extended as u32) << 4
                    | (self.protection as u32 & 0b111) << 5
                    | (self.protection_first as u32) << 8
                    | (self.erase.code() as u32) << 9
                    | (lbaf >> 4 & 0b11) << 12,
            )
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        let dword = sqe.cdw10();
        Self {
            nsid: sqe.nsid(),
            lbaf: dword as u8 & 0xf | (dword >> 8) as u8 & 0x30,
            extended: dword & 1 << 4 != 0,
            protection: (dword >> 5) as u8 & 0b111,
            protection_first: dword & 1 << 8 != 0,
            erase: SecureErase::from_code((dword >> 9) as u8 & 0b111),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, figure 189: LBAFL 3:0, MSET 4, PI 7:5, PIL 8, SES 11:9, LBAFU 13:12.
    #[test]
    fn fields_lie_where_the_specification_has_them() {
        for (format, dword) in [
            (
                FormatNvm {
                    lbaf: 0x0f,
                    ..FormatNvm::default()
                },
                0x000f,
            ),
            (
                FormatNvm {
                    lbaf: 0x3f,
                    ..FormatNvm::default()
                },
                0x300f,
            ),
            (
                FormatNvm {
                    extended: true,
                    ..FormatNvm::default()
                },
                0x0010,
            ),
            (
                FormatNvm {
                    protection: 3,
                    ..FormatNvm::default()
                },
                0x0060,
            ),
            (
                FormatNvm {
                    protection_first: true,
                    ..FormatNvm::default()
                },
                0x0100,
            ),
            (
                FormatNvm {
                    erase: SecureErase::UserData,
                    ..FormatNvm::default()
                },
                0x0200,
            ),
            (
                FormatNvm {
                    erase: SecureErase::Cryptographic,
                    ..FormatNvm::default()
                },
                0x0400,
            ),
            (
                FormatNvm {
                    erase: SecureErase::Reserved(7),
                    ..FormatNvm::default()
                },
                0x0e00,
            ),
        ] {
            let sqe = FormatNvm {
                nsid: Nsid(9),
                ..format
            }
            .to_sqe();
            assert_eq!(
                (sqe.opcode(), sqe.nsid(), sqe.cdw10()),
                (0x80, Nsid(9), dword)
            );
            assert_eq!(
                FormatNvm::from_sqe(&sqe),
                FormatNvm {
                    nsid: Nsid(9),
                    ..format
                }
            );
        }
    }

    /// A host may send anything.
    #[test]
    fn entries_of_ones_are_read() {
        let format = FormatNvm::from_sqe(&Sqe::from_dwords([!0; 16]));
        assert_eq!((format.lbaf, format.protection), (63, 7));
        assert_eq!(format.erase, SecureErase::Reserved(7));
    }
}
