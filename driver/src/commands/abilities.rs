//! What the device says that it can: which commands, and how much of each at a time. Learnt at
//! bring-up, so that a command it lacks is refused before it is sent.
use crate::{Error, Namespace};
use underpin_nvme_spec::identify::IdentifyNvmController;
use underpin_nvme_spec::log::CommandEffectsLog;
use underpin_nvme_spec::{AdminOpcode, NvmOpcode};

/// Bits of ONCS, Optional NVM Command Support (Base 2.0, figure 275).
pub(crate) mod oncs {
    pub(crate) const COMPARE: u16 = 1 << 0;
    pub(crate) const DATASET_MANAGEMENT: u16 = 1 << 2;
    pub(crate) const WRITE_ZEROES: u16 = 1 << 3;
    pub(crate) const SAVE: u16 = 1 << 4;
    pub(crate) const TIMESTAMP: u16 = 1 << 6;
    pub(crate) const VERIFY: u16 = 1 << 7;
}

/// What a controller can.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abilities {
    /// Optional NVM Command Support, as identified.
    pub(crate) oncs: u16,
    /// The smallest memory page, in which limits are counted (CAP.MPSMIN).
    pub(crate) page_bytes: u64,
    /// Limits of commands without data; zeroes, which mean none, where it does not say.
    pub(crate) limits: Option<Box<IdentifyNvmController>>,
    /// Which commands it has; `None` where it does not say.
    pub(crate) effects: Option<Box<CommandEffectsLog>>,
}

impl Abilities {
    /// False where the device says that it has no such admin command.
    pub(crate) fn has_admin(&self, opcode: AdminOpcode) -> bool {
        let effects = self.effects.as_ref();
        effects.is_none_or(|log| log.admin(opcode).is_supported())
    }

    /// False where the device says that it has no such I/O command.
    pub(crate) fn has_io(&self, opcode: NvmOpcode) -> bool {
        let effects = self.effects.as_ref();
        effects.is_none_or(|log| log.io(opcode).is_supported())
    }
}

impl Namespace {
    /// Refuses a command that the device does not have, by ONCS or by its effects log.
    pub(super) fn need(&self, bit: u16, opcode: NvmOpcode) -> Result<(), Error> {
        let abilities = self.abilities();
        let why = if abilities.oncs & bit == 0 {
            format!("bit {} of ONCS is 0", bit.trailing_zeros())
        } else if !abilities.has_io(opcode) {
            "its Commands Supported and Effects log has no such I/O command".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::NotSupported {
            device: self.to_string(),
            command: opcode.to_string(),
            why,
        })
    }

    /// How many blocks a command without data may name, as a power of two: by a limit of the
    /// device, and by the sixteen bits of a block count.
    pub(super) fn limit(&self, of: fn(&IdentifyNvmController) -> u8) -> u8 {
        const MOST: u32 = 16;
        let abilities = self.abilities();
        let told = abilities.limits.as_deref().map_or(0, of);
        if told == 0 {
            return MOST as u8;
        }
        let shift = abilities.page_bytes.max(1).ilog2() + u32::from(told);
        let blocks = shift.saturating_sub(self.lba_bytes().ilog2());
        blocks.min(MOST) as u8
    }
}
