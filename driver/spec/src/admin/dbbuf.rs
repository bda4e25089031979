//! Doorbell Buffer Config (Base 2.0, 5.8): doorbells written to memory, for controllers in
//! software to which a register write is dear.

use crate::{AdminOpcode, Sqe};

/// Doorbell Buffer Config. Both buffers are one memory page each, laid out as the doorbells are
/// from 0x1000 on, and stay in use until the controller is reset.
///
/// ```
/// use underpin_nvme_spec::admin::DoorbellBufferConfig;
///
/// let config = DoorbellBufferConfig { shadow: 0x1000, event_idx: 0x2000 };
/// let sqe = config.to_sqe();
/// assert_eq!((sqe.opcode(), sqe.prp1(), sqe.prp2()), (0x7c, 0x1000, 0x2000));
/// assert_eq!(DoorbellBufferConfig::from_sqe(&sqe), config);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DoorbellBufferConfig {
    /// IOVA of the shadow doorbells, which the host writes; page aligned.
    pub shadow: u64,
    /// IOVA of the event indices, which the controller writes: beyond them the host has to ring
    /// the doorbell register too; page aligned.
    pub event_idx: u64,
}

impl DoorbellBufferConfig {
    /// The submission queue entry, without a command identifier.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        Sqe::new()
            .with_opcode(AdminOpcode::DOORBELL_BUFFER_CONFIG.0)
            .with_prp1(self.shadow)
            .with_prp2(self.event_idx)
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            shadow: sqe.prp1(),
            event_idx: sqe.prp2(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, 5.8: shadow doorbells are PRP1, event indices PRP2.
    #[test]
    fn buffers_are_the_two_prps() {
        let config = DoorbellBufferConfig {
            shadow: 0x1000,
            event_idx: 0xffff_0000_0000_2000,
        };
        let sqe = config.to_sqe();
        assert_eq!(sqe.opcode(), 0x7c);
        assert_eq!((sqe.prp1(), sqe.prp2()), (0x1000, 0xffff_0000_0000_2000));
        assert_eq!(DoorbellBufferConfig::from_sqe(&sqe), config);
    }
}
