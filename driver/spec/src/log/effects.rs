//! Commands Supported and Effects, log page 05h (Base 2.0, figures 210 and 211).

use crate::{AdminOpcode, NvmOpcode};

crate::identify::fields::page! {
    /// Which commands a controller has, and what they change.
    ///
    /// ```
    /// use underpin_nvme_spec::{NvmOpcode, log::{CommandEffects, CommandEffectsLog}};
    ///
    /// let mut log = CommandEffectsLog::zeroed();
    /// let writes = CommandEffects::SUPPORTED.with(CommandEffects::CONTENT);
    /// log.set_io(NvmOpcode::WRITE, writes);
    /// assert!(log.io(NvmOpcode::WRITE).contains(CommandEffects::CONTENT));
    /// assert!(!log.io(NvmOpcode::COPY).is_supported());
    /// ```
    CommandEffectsLog [4096] {
        acs set_acs { 1024 } @ 0 "Admin commands supported, one dword for each opcode";
        iocs set_iocs { 1024 } @ 1024 "I/O commands supported, one dword for each opcode";
    }
}

const IO_OFFSET: usize = 1024;

impl CommandEffectsLog {
    const fn read(&self, offset: usize) -> CommandEffects {
        CommandEffects(u32::from_le_bytes(crate::identify::fields::get(
            &self.0, offset,
        )))
    }

    /// What an admin command does.
    #[must_use]
    pub const fn admin(&self, opcode: AdminOpcode) -> CommandEffects {
        self.read(4 * opcode.0 as usize)
    }

    /// What an I/O command does.
    #[must_use]
    pub const fn io(&self, opcode: NvmOpcode) -> CommandEffects {
        self.read(IO_OFFSET + 4 * opcode.0 as usize)
    }

    /// Sets what an admin command does.
    pub const fn set_admin(&mut self, opcode: AdminOpcode, effects: CommandEffects) {
        let offset = 4 * opcode.0 as usize;
        crate::identify::fields::set(&mut self.0, offset, effects.0.to_le_bytes());
    }

    /// Sets what an I/O command does.
    pub const fn set_io(&mut self, opcode: NvmOpcode, effects: CommandEffects) {
        let offset = IO_OFFSET + 4 * opcode.0 as usize;
        crate::identify::fields::set(&mut self.0, offset, effects.0.to_le_bytes());
    }

    /// The admin commands that are supported, in order of opcode.
    pub fn admin_commands(&self) -> impl Iterator<Item = (AdminOpcode, CommandEffects)> + '_ {
        let all = (0..=u8::MAX).map(|opcode| {
            let opcode = AdminOpcode(opcode);
            (opcode, self.admin(opcode))
        });
        all.filter(|(_, effects)| effects.is_supported())
    }

    /// The I/O commands that are supported, in order of opcode.
    pub fn io_commands(&self) -> impl Iterator<Item = (NvmOpcode, CommandEffects)> + '_ {
        let all = (0..=u8::MAX).map(|opcode| {
            let opcode = NvmOpcode(opcode);
            (opcode, self.io(opcode))
        });
        all.filter(|(_, effects)| effects.is_supported())
    }
}

/// What one command does, as bits.
///
/// ```
/// use underpin_nvme_spec::log::CommandEffects;
///
/// let format = CommandEffects::SUPPORTED.with(CommandEffects::CONTENT).with_exclusive(1);
/// assert!(format.is_supported() && format.exclusive() == 1);
/// assert!(format.names().eq(["supported", "changes blocks"]));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct CommandEffects(pub u32);

impl CommandEffects {
    /// The command is supported.
    pub const SUPPORTED: Self = Self(1 << 0);
    /// It may change the content of logical blocks.
    pub const CONTENT: Self = Self(1 << 1);
    /// It may change capabilities of a namespace.
    pub const NAMESPACE_CAPABILITY: Self = Self(1 << 2);
    /// It may change which namespaces there are.
    pub const NAMESPACE_INVENTORY: Self = Self(1 << 3);
    /// It may change capabilities of the controller.
    pub const CONTROLLER_CAPABILITY: Self = Self(1 << 4);
    /// A UUID may select what it does.
    pub const UUID_SELECTION: Self = Self(1 << 19);

    /// Every flag with its name.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (Self::SUPPORTED, "supported"),
        (Self::CONTENT, "changes blocks"),
        (Self::NAMESPACE_CAPABILITY, "changes namespaces"),
        (Self::NAMESPACE_INVENTORY, "adds or removes namespaces"),
        (Self::CONTROLLER_CAPABILITY, "changes the controller"),
        (Self::UUID_SELECTION, "selected by UUID"),
    ];

    /// Whether the command is supported.
    #[must_use]
    pub const fn is_supported(self) -> bool {
        self.contains(Self::SUPPORTED)
    }

    /// Whether all of `other`'s bits are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Command submission and execution, bits 18:16: 0 no restriction, 1 no other command for the
    /// same namespace meanwhile, 2 none for any.
    #[must_use]
    pub const fn exclusive(self) -> u8 {
        (self.0 >> 16) as u8 & 0b111
    }

    /// With another restriction; only its low three bits are kept.
    #[must_use]
    pub const fn with_exclusive(self, exclusive: u8) -> Self {
        Self(self.0 & !(0b111 << 16) | (exclusive as u32 & 0b111) << 16)
    }

    /// The names of the flags that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let set = Self::ALL.iter().filter(move |(one, _)| self.contains(*one));
        set.map(|(_, name)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, figure 210: admin commands from byte 0, I/O commands from byte 1024, a dword each.
    #[test]
    fn each_opcode_has_its_dword() {
        let mut bytes = [0; 4096];
        bytes[4 * 0x80..][..4].copy_from_slice(&[0x07, 0, 1, 0]);
        bytes[1024 + 4 * 0xff] = 1;
        let log = CommandEffectsLog::from_bytes(&bytes);
        let format = log.admin(AdminOpcode::FORMAT_NVM);
        assert_eq!((format.0, format.exclusive()), (0x0001_0007, 1));
        assert!(log.io(NvmOpcode(0xff)).is_supported());
        assert_eq!(log.admin_commands().count(), 1);
        assert_eq!(log.io_commands().count(), 1);
        let mut copy = CommandEffectsLog::zeroed();
        copy.set_admin(AdminOpcode::FORMAT_NVM, format);
        copy.set_io(NvmOpcode(0xff), CommandEffects(1));
        assert_eq!(copy, log);
    }

    #[test]
    fn any_page_is_read_without_panic() {
        let log = CommandEffectsLog::from_bytes(&[0xff; 4096]);
        assert_eq!(log.admin_commands().count(), 256);
        assert_eq!(log.io(NvmOpcode::FLUSH).exclusive(), 7);
        assert_eq!(CommandEffects(0).with_exclusive(0xff).0, 7 << 16);
    }
}
