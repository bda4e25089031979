//! Opcodes: admin commands (Base 2.0, chapter 5) and I/O commands, Base 2.0's (chapter 7) and the
//! NVM command set's (NVM Command Set 1.0, chapter 3).

use core::fmt;

/// Newtype, constants, names and list of one queue's opcodes, all from one table.
macro_rules! opcodes {
    ($(#[$meta:meta])* $type:ident { $($const:ident = $value:literal, $name:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $type(pub u8);

        impl $type {
            $(
                #[doc = concat!("`", stringify!($value), "`: ", $name, ".")]
                pub const $const: Self = Self($value);
            )*

            /// Every opcode above with its name, in order of value.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$const, $name),)*];

            /// Name in the specification; `None` for a reserved or a vendor's opcode.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($name),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, "opcode {:#04x}", self.0),
                }
            }
        }
    };
}

opcodes! {
    /// Opcode of a command on the Admin Submission Queue.
    ///
    /// ```
    /// use underpin_nvme_spec::AdminOpcode;
    /// assert_eq!(AdminOpcode::IDENTIFY.to_string(), "Identify");
    /// assert_eq!(AdminOpcode(0x7e).to_string(), "opcode 0x7e");
    /// ```
    AdminOpcode {
        DELETE_IO_SQ = 0x00, "Delete I/O Submission Queue";
        CREATE_IO_SQ = 0x01, "Create I/O Submission Queue";
        GET_LOG_PAGE = 0x02, "Get Log Page";
        DELETE_IO_CQ = 0x04, "Delete I/O Completion Queue";
        CREATE_IO_CQ = 0x05, "Create I/O Completion Queue";
        IDENTIFY = 0x06, "Identify";
        ABORT = 0x08, "Abort";
        SET_FEATURES = 0x09, "Set Features";
        GET_FEATURES = 0x0a, "Get Features";
        ASYNC_EVENT_REQUEST = 0x0c, "Asynchronous Event Request";
        NAMESPACE_MANAGEMENT = 0x0d, "Namespace Management";
        FIRMWARE_COMMIT = 0x10, "Firmware Commit";
        FIRMWARE_IMAGE_DOWNLOAD = 0x11, "Firmware Image Download";
        DEVICE_SELF_TEST = 0x14, "Device Self-test";
        NAMESPACE_ATTACHMENT = 0x15, "Namespace Attachment";
        KEEP_ALIVE = 0x18, "Keep Alive";
        DIRECTIVE_SEND = 0x19, "Directive Send";
        DIRECTIVE_RECEIVE = 0x1a, "Directive Receive";
        VIRTUALIZATION_MANAGEMENT = 0x1c, "Virtualization Management";
        NVME_MI_SEND = 0x1d, "NVMe-MI Send";
        NVME_MI_RECEIVE = 0x1e, "NVMe-MI Receive";
        CAPACITY_MANAGEMENT = 0x20, "Capacity Management";
        LOCKDOWN = 0x24, "Lockdown";
        DOORBELL_BUFFER_CONFIG = 0x7c, "Doorbell Buffer Config";
        FABRICS = 0x7f, "Fabrics Commands";
        FORMAT_NVM = 0x80, "Format NVM";
        SECURITY_SEND = 0x81, "Security Send";
        SECURITY_RECEIVE = 0x82, "Security Receive";
        SANITIZE = 0x84, "Sanitize";
        GET_LBA_STATUS = 0x86, "Get LBA Status";
    }
}

opcodes! {
    /// Opcode of a command on an I/O Submission Queue.
    ///
    /// ```
    /// use underpin_nvme_spec::NvmOpcode;
    /// assert_eq!(NvmOpcode::READ.to_string(), "Read");
    /// ```
    NvmOpcode {
        FLUSH = 0x00, "Flush";
        WRITE = 0x01, "Write";
        READ = 0x02, "Read";
        WRITE_UNCORRECTABLE = 0x04, "Write Uncorrectable";
        COMPARE = 0x05, "Compare";
        WRITE_ZEROES = 0x08, "Write Zeroes";
        DATASET_MANAGEMENT = 0x09, "Dataset Management";
        VERIFY = 0x0c, "Verify";
        RESERVATION_REGISTER = 0x0d, "Reservation Register";
        RESERVATION_REPORT = 0x0e, "Reservation Report";
        RESERVATION_ACQUIRE = 0x11, "Reservation Acquire";
        RESERVATION_RELEASE = 0x15, "Reservation Release";
        COPY = 0x19, "Copy";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every listed opcode has its name, and the tables are in order without repeats.
    #[test]
    fn tables_are_ordered_and_named() {
        for pair in AdminOpcode::ALL.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} before {}", pair[0].1, pair[1].1);
        }
        for pair in NvmOpcode::ALL.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} before {}", pair[0].1, pair[1].1);
        }
        for (opcode, name) in AdminOpcode::ALL {
            assert_eq!(opcode.name(), Some(*name));
        }
        for (opcode, name) in NvmOpcode::ALL {
            assert_eq!(opcode.name(), Some(*name));
        }
    }

    /// Bits 1:0 of an opcode tell the direction of its data (Base 2.0, 3.3.3.1): 01 to the
    /// controller, 10 from it.
    #[test]
    fn opcodes_carry_their_data_direction() {
        for opcode in [NvmOpcode::WRITE, NvmOpcode::COMPARE, NvmOpcode::COPY] {
            assert_eq!(opcode.0 & 0b11, 0b01, "{opcode}");
        }
        for opcode in [AdminOpcode::IDENTIFY, AdminOpcode::GET_LOG_PAGE] {
            assert_eq!(opcode.0 & 0b11, 0b10, "{opcode}");
        }
        for opcode in [NvmOpcode::FLUSH, NvmOpcode::WRITE_ZEROES] {
            assert_eq!(opcode.0 & 0b11, 0b00, "{opcode}");
        }
    }

    /// A device or a peer may send any byte; each of them has a text.
    #[test]
    fn any_byte_displays() {
        assert_eq!(NvmOpcode(0x7f).to_string(), "opcode 0x7f");
        assert_eq!(NvmOpcode(0x03).to_string(), "opcode 0x03");
        for byte in 0..=u8::MAX {
            assert!(!AdminOpcode(byte).to_string().is_empty());
            assert!(!NvmOpcode(byte).to_string().is_empty());
        }
    }
}
