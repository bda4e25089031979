//! What the device says that it can: which commands, and how much of each at a time. Learnt at
//! bring-up, so that a command it lacks is refused before it is sent.
use underpin_nvme_spec::identify::IdentifyNvmController;
use underpin_nvme_spec::log::CommandEffectsLog;
use underpin_nvme_spec::{AdminOpcode, NvmOpcode};

/// What a controller can.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abilities {
    /// Limits of commands without data; zeroes, which mean none, where it does not say.
    #[allow(dead_code, reason = "for Write Zeroes and its like, which come next")]
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
