//! Abort (Base 2.0, 5.1): a wish, not a command; the controller may be too late or unwilling.

use crate::{AdminOpcode, Cid, Qid, Sqe};

/// Abort. Bit 0 of dword 0 of its completion is set where the command was *not* aborted. Either
/// way it proves nothing of that command's DMA: only the command's own completion does.
///
/// ```
/// use underpin_nvme_spec::{Cid, Qid, admin::Abort};
///
/// let abort = Abort { sqid: Qid(1), cid: Cid(0x20) };
/// assert_eq!((abort.to_sqe().opcode(), abort.to_sqe().cdw10()), (0x08, 0x0020_0001));
/// assert_eq!(Abort::from_sqe(&abort.to_sqe()), abort);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Abort {
    /// The submission queue that the command went to.
    pub sqid: Qid,
    /// The command.
    pub cid: Cid,
}

impl Abort {
    /// The submission queue entry, without a command identifier of its own.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        Sqe::new()
            .with_opcode(AdminOpcode::ABORT.0)
            .with_cdw10((self.cid.0 as u32) << 16 | self.sqid.0 as u32)
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            sqid: Qid(sqe.cdw10() as u16),
            cid: Cid((sqe.cdw10() >> 16) as u16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, 5.1: SQID in the low half of dword 10, CID in the high half.
    #[test]
    fn queue_and_command_share_dword_10() {
        let abort = Abort {
            sqid: Qid(2),
            cid: Cid(0xbeef),
        };
        assert_eq!(
            (abort.to_sqe().opcode(), abort.to_sqe().cdw10()),
            (0x08, 0xbeef_0002)
        );
        assert_eq!(
            abort.to_sqe().cid(),
            Cid(0),
            "its own identifier is the queue's to give"
        );
        assert_eq!(Abort::from_sqe(&abort.to_sqe()), abort);
    }
}
