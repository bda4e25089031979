//! The status field of a completion queue entry (Base 2.0, 3.3.3.2.1): its bits, and a constant
//! and a name for each code of Base 2.0 and NVM Command Set 1.0.

use core::fmt;

/// The 15-bit status field, without the phase tag: status code in bits 7:0, status code type in
/// 10:8, command retry delay in 12:11, more in 13, do not retry in 14.
///
/// Two statuses are equal when all their bits are; compare [`code`](Self::code)s to ask whether
/// they mean the same.
///
/// ```
/// use underpin_nvme_spec::Status;
///
/// let status = Status::UNRECOVERED_READ_ERROR.with_do_not_retry();
/// assert_eq!(status.code(), Status::UNRECOVERED_READ_ERROR.code());
/// assert_eq!(
///     status.to_string(),
///     "media error: Unrecovered Read Error (0x281), do not retry",
/// );
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Status(pub u16);

/// Status code type, bits 10:8.
///
/// ```
/// use underpin_nvme_spec::{Status, StatusType};
///
/// assert_eq!(Status::UNRECOVERED_READ_ERROR.kind(), StatusType::MediaAndIntegrity);
/// assert_eq!(Status(0x0370).kind().to_string(), "path error");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusType {
    /// Codes any command may end with; success is one of them.
    Generic,
    /// Codes whose meaning belongs to the command.
    CommandSpecific,
    /// The medium failed, or protected data did not match.
    MediaAndIntegrity,
    /// The path between host and namespace failed.
    Path,
    /// A type the specification reserves.
    Reserved,
    /// The vendor's own.
    VendorSpecific,
}

impl fmt::Display for StatusType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Generic => "generic",
            Self::CommandSpecific => "command specific",
            Self::MediaAndIntegrity => "media error",
            Self::Path => "path error",
            Self::Reserved => "reserved type",
            Self::VendorSpecific => "vendor specific",
        })
    }
}

impl Status {
    /// Bits of the status code and its type: what [`code`](Self::code) returns.
    pub const CODE_MASK: u16 = 0x07ff;
    /// Bits of the command retry delay index.
    pub const RETRY_DELAY_MASK: u16 = 0x1800;
    /// The bit that tells of more information in the Error Information log page.
    pub const MORE: u16 = 0x2000;
    /// The bit that tells a retry of the same command is expected to fail.
    pub const DO_NOT_RETRY: u16 = 0x4000;

    /// Whether status code and status code type are both zero; the other bits do not count.
    #[inline(always)]
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 & Self::CODE_MASK == 0
    }

    /// Status code type and status code as one number: `SCT << 8 | SC`.
    #[inline]
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0 & Self::CODE_MASK
    }

    /// Status code type.
    #[must_use]
    pub const fn kind(self) -> StatusType {
        match self.0 >> 8 & 0b111 {
            0 => StatusType::Generic,
            1 => StatusType::CommandSpecific,
            2 => StatusType::MediaAndIntegrity,
            3 => StatusType::Path,
            7 => StatusType::VendorSpecific,
            _ => StatusType::Reserved,
        }
    }

    /// Command retry delay: 0 for none, else which of Identify Controller's CRDT1 to CRDT3 (in
    /// units of 100 ms) the host is to wait before it retries.
    #[must_use]
    pub const fn retry_delay_index(self) -> u8 {
        (self.0 >> 11) as u8 & 0b11
    }

    /// Whether the Error Information log page holds more about this command.
    #[must_use]
    pub const fn more(self) -> bool {
        self.0 & Self::MORE != 0
    }

    /// Whether the same command, sent again, is expected to fail.
    #[inline]
    #[must_use]
    pub const fn do_not_retry(self) -> bool {
        self.0 & Self::DO_NOT_RETRY != 0
    }

    /// With do not retry set.
    #[must_use]
    pub const fn with_do_not_retry(self) -> Self {
        Self(self.0 | Self::DO_NOT_RETRY)
    }

    /// With more set.
    #[must_use]
    pub const fn with_more(self) -> Self {
        Self(self.0 | Self::MORE)
    }

    /// With another command retry delay index; only its low two bits are kept.
    #[must_use]
    pub const fn with_retry_delay_index(self, index: u8) -> Self {
        Self(self.0 & !Self::RETRY_DELAY_MASK | (index as u16 & 0b11) << 11)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({:#x})", self.kind(), self.name(), self.code())?;
        if self.do_not_retry() {
            f.write_str(", do not retry")?;
        }
        Ok(())
    }
}

/// Constants, names and list of all codes from one table.
macro_rules! statuses {
    ($($const:ident = $code:literal, $name:literal;)*) => {
        impl Status {
            $(
                #[doc = concat!("`", stringify!($code), "`: ", $name, ".")]
                pub const $const: Self = Self($code);
            )*

            /// Every code above with its name, in order of value.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$const, $name),)*];

            /// Name in the specification, whatever the retry bits; "unknown status" for a
            /// reserved or a vendor's code.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.code() {
                    $($code => $name,)*
                    _ => "unknown status",
                }
            }
        }
    };
}

// Codes 180h to 1BFh mean one thing to the NVM command set and others to Fabrics and Zoned
// Namespaces; the table has the NVM command set's, the only one this stack speaks.
statuses! {
    SUCCESS = 0x000, "Successful Completion";
    INVALID_OPCODE = 0x001, "Invalid Command Opcode";
    INVALID_FIELD = 0x002, "Invalid Field in Command";
    COMMAND_ID_CONFLICT = 0x003, "Command ID Conflict";
    DATA_TRANSFER_ERROR = 0x004, "Data Transfer Error";
    ABORTED_POWER_LOSS = 0x005, "Commands Aborted due to Power Loss Notification";
    INTERNAL_ERROR = 0x006, "Internal Error";
    ABORT_REQUESTED = 0x007, "Command Abort Requested";
    ABORTED_SQ_DELETION = 0x008, "Command Aborted due to SQ Deletion";
    ABORTED_FAILED_FUSED = 0x009, "Command Aborted due to Failed Fused Command";
    ABORTED_MISSING_FUSED = 0x00a, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE_OR_FORMAT = 0x00b, "Invalid Namespace or Format";
    COMMAND_SEQUENCE_ERROR = 0x00c, "Command Sequence Error";
    INVALID_SGL_SEGMENT_DESCRIPTOR = 0x00d, "Invalid SGL Segment Descriptor";
    INVALID_SGL_DESCRIPTOR_COUNT = 0x00e, "Invalid Number of SGL Descriptors";
    DATA_SGL_LENGTH_INVALID = 0x00f, "Data SGL Length Invalid";
    METADATA_SGL_LENGTH_INVALID = 0x010, "Metadata SGL Length Invalid";
    SGL_DESCRIPTOR_TYPE_INVALID = 0x011, "SGL Descriptor Type Invalid";
    INVALID_USE_OF_CMB = 0x012, "Invalid Use of Controller Memory Buffer";
    PRP_OFFSET_INVALID = 0x013, "PRP Offset Invalid";
    ATOMIC_WRITE_UNIT_EXCEEDED = 0x014, "Atomic Write Unit Exceeded";
    OPERATION_DENIED = 0x015, "Operation Denied";
    SGL_OFFSET_INVALID = 0x016, "SGL Offset Invalid";
    HOST_ID_INCONSISTENT_FORMAT = 0x018, "Host Identifier Inconsistent Format";
    KEEP_ALIVE_TIMER_EXPIRED = 0x019, "Keep Alive Timer Expired";
    KEEP_ALIVE_TIMEOUT_INVALID = 0x01a, "Keep Alive Timeout Invalid";
    ABORTED_PREEMPT_AND_ABORT = 0x01b, "Command Aborted due to Preempt and Abort";
    SANITIZE_FAILED = 0x01c, "Sanitize Failed";
    SANITIZE_IN_PROGRESS = 0x01d, "Sanitize In Progress";
    SGL_DATA_BLOCK_GRANULARITY_INVALID = 0x01e, "SGL Data Block Granularity Invalid";
    NOT_SUPPORTED_FOR_QUEUE_IN_CMB = 0x01f, "Command Not Supported for Queue in CMB";
    NAMESPACE_WRITE_PROTECTED = 0x020, "Namespace is Write Protected";
    COMMAND_INTERRUPTED = 0x021, "Command Interrupted";
    TRANSIENT_TRANSPORT_ERROR = 0x022, "Transient Transport Error";
    PROHIBITED_BY_LOCKDOWN = 0x023, "Command Prohibited by Command and Feature Lockdown";
    ADMIN_MEDIA_NOT_READY = 0x024, "Admin Command Media Not Ready";
    LBA_OUT_OF_RANGE = 0x080, "LBA Out of Range";
    CAPACITY_EXCEEDED = 0x081, "Capacity Exceeded";
    NAMESPACE_NOT_READY = 0x082, "Namespace Not Ready";
    RESERVATION_CONFLICT = 0x083, "Reservation Conflict";
    FORMAT_IN_PROGRESS = 0x084, "Format In Progress";
    COMPLETION_QUEUE_INVALID = 0x100, "Completion Queue Invalid";
    INVALID_QUEUE_ID = 0x101, "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = 0x102, "Invalid Queue Size";
    ABORT_LIMIT_EXCEEDED = 0x103, "Abort Command Limit Exceeded";
    ASYNC_EVENT_LIMIT_EXCEEDED = 0x105, "Asynchronous Event Request Limit Exceeded";
    INVALID_FIRMWARE_SLOT = 0x106, "Invalid Firmware Slot";
    INVALID_FIRMWARE_IMAGE = 0x107, "Invalid Firmware Image";
    INVALID_INTERRUPT_VECTOR = 0x108, "Invalid Interrupt Vector";
    INVALID_LOG_PAGE = 0x109, "Invalid Log Page";
    INVALID_FORMAT = 0x10a, "Invalid Format";
    FIRMWARE_NEEDS_CONVENTIONAL_RESET = 0x10b, "Firmware Activation Requires Conventional Reset";
    INVALID_QUEUE_DELETION = 0x10c, "Invalid Queue Deletion";
    FEATURE_NOT_SAVEABLE = 0x10d, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = 0x10e, "Feature Not Changeable";
    FEATURE_NOT_NAMESPACE_SPECIFIC = 0x10f, "Feature Not Namespace Specific";
    FIRMWARE_NEEDS_SUBSYSTEM_RESET = 0x110, "Firmware Activation Requires NVM Subsystem Reset";
    FIRMWARE_NEEDS_CONTROLLER_RESET = 0x111, "Firmware Activation Requires Controller Level Reset";
    FIRMWARE_NEEDS_MAXIMUM_TIME = 0x112, "Firmware Activation Requires Maximum Time Violation";
    FIRMWARE_ACTIVATION_PROHIBITED = 0x113, "Firmware Activation Prohibited";
    OVERLAPPING_RANGE = 0x114, "Overlapping Range";
    NAMESPACE_INSUFFICIENT_CAPACITY = 0x115, "Namespace Insufficient Capacity";
    NAMESPACE_ID_UNAVAILABLE = 0x116, "Namespace Identifier Unavailable";
    NAMESPACE_ALREADY_ATTACHED = 0x118, "Namespace Already Attached";
    NAMESPACE_IS_PRIVATE = 0x119, "Namespace Is Private";
    NAMESPACE_NOT_ATTACHED = 0x11a, "Namespace Not Attached";
    THIN_PROVISIONING_NOT_SUPPORTED = 0x11b, "Thin Provisioning Not Supported";
    CONTROLLER_LIST_INVALID = 0x11c, "Controller List Invalid";
    SELF_TEST_IN_PROGRESS = 0x11d, "Device Self-test In Progress";
    BOOT_PARTITION_WRITE_PROHIBITED = 0x11e, "Boot Partition Write Prohibited";
    INVALID_CONTROLLER_ID = 0x11f, "Invalid Controller Identifier";
    INVALID_SECONDARY_CONTROLLER_STATE = 0x120, "Invalid Secondary Controller State";
    INVALID_CONTROLLER_RESOURCE_COUNT = 0x121, "Invalid Number of Controller Resources";
    INVALID_RESOURCE_ID = 0x122, "Invalid Resource Identifier";
    SANITIZE_PROHIBITED_PMR_ENABLED = 0x123, "Sanitize Prohibited While Persistent Memory Region is Enabled";
    ANA_GROUP_ID_INVALID = 0x124, "ANA Group Identifier Invalid";
    ANA_ATTACH_FAILED = 0x125, "ANA Attach Failed";
    INSUFFICIENT_CAPACITY = 0x126, "Insufficient Capacity";
    NAMESPACE_ATTACHMENT_LIMIT_EXCEEDED = 0x127, "Namespace Attachment Limit Exceeded";
    PROHIBITION_NOT_SUPPORTED = 0x128, "Prohibition of Command Execution Not Supported";
    IO_COMMAND_SET_NOT_SUPPORTED = 0x129, "I/O Command Set Not Supported";
    IO_COMMAND_SET_NOT_ENABLED = 0x12a, "I/O Command Set Not Enabled";
    IO_COMMAND_SET_COMBINATION_REJECTED = 0x12b, "I/O Command Set Combination Rejected";
    INVALID_IO_COMMAND_SET = 0x12c, "Invalid I/O Command Set";
    ID_UNAVAILABLE = 0x12d, "Identifier Unavailable";
    CONFLICTING_ATTRIBUTES = 0x180, "Conflicting Attributes";
    INVALID_PROTECTION_INFORMATION = 0x181, "Invalid Protection Information";
    WRITE_TO_READ_ONLY_RANGE = 0x182, "Attempted Write to Read Only Range";
    COMMAND_SIZE_LIMIT_EXCEEDED = 0x183, "Command Size Limit Exceeded";
    WRITE_FAULT = 0x280, "Write Fault";
    UNRECOVERED_READ_ERROR = 0x281, "Unrecovered Read Error";
    GUARD_CHECK_ERROR = 0x282, "End-to-end Guard Check Error";
    APPLICATION_TAG_CHECK_ERROR = 0x283, "End-to-end Application Tag Check Error";
    REFERENCE_TAG_CHECK_ERROR = 0x284, "End-to-end Reference Tag Check Error";
    COMPARE_FAILURE = 0x285, "Compare Failure";
    ACCESS_DENIED = 0x286, "Access Denied";
    DEALLOCATED_OR_UNWRITTEN = 0x287, "Deallocated or Unwritten Logical Block";
    STORAGE_TAG_CHECK_ERROR = 0x288, "End-to-End Storage Tag Check Error";
    INTERNAL_PATH_ERROR = 0x300, "Internal Path Error";
    ANA_PERSISTENT_LOSS = 0x301, "Asymmetric Access Persistent Loss";
    ANA_INACCESSIBLE = 0x302, "Asymmetric Access Inaccessible";
    ANA_TRANSITION = 0x303, "Asymmetric Access Transition";
    CONTROLLER_PATHING_ERROR = 0x360, "Controller Pathing Error";
    HOST_PATHING_ERROR = 0x370, "Host Pathing Error";
    ABORTED_BY_HOST = 0x371, "Command Aborted By Host";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, 3.3.3.2.1: each part of the field in its own bits.
    #[test]
    fn parts_lie_where_the_specification_has_them() {
        let status = Status(0b101_1010_1000_0001);
        assert_eq!(status.code(), 0x281);
        assert_eq!(status.kind(), StatusType::MediaAndIntegrity);
        assert_eq!(status.retry_delay_index(), 0b11);
        assert!(!status.more());
        assert!(status.do_not_retry());
        assert_eq!(
            Status::UNRECOVERED_READ_ERROR
                .with_retry_delay_index(0xff)
                .with_do_not_retry(),
            status
        );
        assert_eq!(status.with_more(), Status(0x7a81));
        assert_eq!(status.with_retry_delay_index(0), Status(0x4281));
    }

    /// Success is a matter of code and type alone: a controller may set the retry bits.
    #[test]
    fn success_ignores_the_retry_bits() {
        assert!(Status::SUCCESS.is_success());
        assert!(Status(!Status::CODE_MASK).is_success());
        for bit in 0..11 {
            assert!(!Status(1 << bit).is_success(), "bit {bit}");
        }
    }

    #[test]
    fn every_type_has_its_kind() {
        let kinds = [
            StatusType::Generic,
            StatusType::CommandSpecific,
            StatusType::MediaAndIntegrity,
            StatusType::Path,
            StatusType::Reserved,
            StatusType::Reserved,
            StatusType::Reserved,
            StatusType::VendorSpecific,
        ];
        for (sct, kind) in (0u16..).zip(kinds) {
            assert_eq!(Status(sct << 8).kind(), kind);
        }
    }

    /// The table is in order, without repeats, and each code keeps its name under retry bits.
    #[test]
    fn table_is_ordered_and_named() {
        for pair in Status::ALL.windows(2) {
            assert!(
                pair[0].0.0 < pair[1].0.0,
                "{} before {}",
                pair[0].1,
                pair[1].1
            );
        }
        for (status, name) in Status::ALL {
            assert_eq!(status.with_do_not_retry().with_more().name(), *name);
        }
    }

    /// A device may post any 15 bits; each of them has a text.
    #[test]
    fn any_field_displays() {
        assert_eq!(
            Status::LBA_OUT_OF_RANGE.to_string(),
            "generic: LBA Out of Range (0x80)"
        );
        assert_eq!(
            Status(0x7c1).to_string(),
            "vendor specific: unknown status (0x7c1)"
        );
        for bits in 0..=u16::MAX {
            assert!(!Status(bits).to_string().is_empty());
        }
    }
}
