//! Get Log Page (Base 2.0, 5.16): which page, which part of it, of whom. The pages themselves are
//! in [`crate::log`].

use super::byte_codes;
use crate::{AdminOpcode, Nsid, Sqe};

byte_codes! {
    /// Log page identifier (Base 2.0, 5.16.1).
    ///
    /// ```
    /// use underpin_nvme_spec::admin::LogId;
    ///
    /// assert_eq!(LogId(0x02), LogId::SMART);
    /// assert_eq!(LogId::SMART.to_string(), "SMART / Health Information");
    /// ```
    LogId, "log page";
    SUPPORTED = 0x00, "Supported Log Pages";
    ERROR = 0x01, "Error Information";
    SMART = 0x02, "SMART / Health Information";
    FIRMWARE = 0x03, "Firmware Slot Information";
    CHANGED_NAMESPACES = 0x04, "Changed Namespace List";
    COMMAND_EFFECTS = 0x05, "Commands Supported and Effects";
    SELF_TEST = 0x06, "Device Self-test";
    TELEMETRY_HOST = 0x07, "Telemetry Host-Initiated";
    TELEMETRY_CONTROLLER = 0x08, "Telemetry Controller-Initiated";
    ENDURANCE_GROUP = 0x09, "Endurance Group Information";
    PREDICTABLE_LATENCY_SET = 0x0a, "Predictable Latency Per NVM Set";
    PREDICTABLE_LATENCY_EVENTS = 0x0b, "Predictable Latency Event Aggregate";
    ANA = 0x0c, "Asymmetric Namespace Access";
    PERSISTENT_EVENTS = 0x0d, "Persistent Event Log";
    LBA_STATUS = 0x0e, "LBA Status Information";
    ENDURANCE_EVENTS = 0x0f, "Endurance Group Event Aggregate";
    MEDIA_UNIT_STATUS = 0x10, "Media Unit Status";
    CAPACITY_CONFIGURATIONS = 0x11, "Supported Capacity Configuration List";
    FEATURE_EFFECTS = 0x12, "Feature Identifiers Supported and Effects";
    MI_COMMAND_EFFECTS = 0x13, "NVMe-MI Commands Supported and Effects";
    BOOT_PARTITION = 0x15, "Boot Partition";
    DISCOVERY = 0x70, "Discovery";
    RESERVATION = 0x80, "Reservation Notification";
    SANITIZE = 0x81, "Sanitize Status";
}

/// Get Log Page.
///
/// ```
/// use underpin_nvme_spec::{Nsid, admin::{GetLogPage, LogId}};
///
/// let get = GetLogPage {
///     lid: LogId::SMART,
///     nsid: Nsid::ALL,
///     len_bytes: 512,
///     ..GetLogPage::default()
/// };
/// let sqe = get.to_sqe();
/// // 128 dwords, counted from 0.
/// assert_eq!((sqe.opcode(), sqe.cdw10()), (0x02, 0x007f_0002));
/// assert_eq!(GetLogPage::from_sqe(&sqe), get);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GetLogPage {
    /// Which page.
    pub lid: LogId,
    /// Of which namespace; [`Nsid::ALL`] or 0 for the controller's own.
    pub nsid: Nsid,
    /// Log specific field, seven bits.
    pub lsp: u8,
    /// Retain asynchronous event: the event that told of this page stays masked.
    pub retain: bool,
    /// Bytes to return: a multiple of four, 4 to 2^34. What is left over is cut off.
    pub len_bytes: u64,
    /// Log specific identifier.
    pub lsi: u16,
    /// Where in the page to begin, in bytes, a multiple of four.
    pub offset: u64,
    /// Command set identifier; 0 is the NVM command set.
    pub csi: u8,
    /// First PRP entry of the answer's memory.
    pub prp1: u64,
    /// Second PRP entry.
    pub prp2: u64,
}

impl GetLogPage {
    /// The submission queue entry, without a command identifier.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        // Number of dwords, counted from 0, in two halves.
        let dwords = ((self.len_bytes / 4) as u32).wrapping_sub(1);
        Sqe::new()
            .with_opcode(AdminOpcode::GET_LOG_PAGE.0)
            .with_nsid(self.nsid)
            .with_prp1(self.prp1)
            .with_prp2(self.prp2)
            .with_cdw10(
                dwords << 16
                    | (self.retain as u32) << 15
                    | (self.lsp as u32 & 0x7f) << 8
                    | self.lid.0 as u32,
            )
            .with_cdw11((self.lsi as u32) << 16 | dwords >> 16)
            .with_cdw12(self.offset as u32)
            .with_cdw13((self.offset >> 32) as u32)
            .with_cdw14((self.csi as u32) << 24)
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        let dwords = (sqe.cdw10() >> 16) as u64 | ((sqe.cdw11() & 0xffff) as u64) << 16;
        Self {
            lid: LogId(sqe.cdw10() as u8),
            nsid: sqe.nsid(),
            lsp: (sqe.cdw10() >> 8) as u8 & 0x7f,
            retain: sqe.cdw10() & 1 << 15 != 0,
            len_bytes: (dwords + 1) * 4,
            lsi: (sqe.cdw11() >> 16) as u16,
            offset: sqe.cdw12() as u64 | (sqe.cdw13() as u64) << 32,
            csi: (sqe.cdw14() >> 24) as u8,
            prp1: sqe.prp1(),
            prp2: sqe.prp2(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, 5.16: LID, LSP, RAE and NUMDL in dword 10, NUMDU and LSI in 11, the offset in 12
    /// and 13, CSI on top of 14.
    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let get = GetLogPage {
            lid: LogId::SMART,
            nsid: Nsid::ALL,
            lsp: 0x55,
            retain: true,
            len_bytes: 4 * 0x0003_0201,
            lsi: 0xbeef,
            offset: 0x0102_0304_0506_0708,
            csi: 2,
            prp1: 0x1000,
            prp2: 0x2000,
        };
        let sqe = get.to_sqe();
        assert_eq!((sqe.opcode(), sqe.nsid()), (0x02, Nsid::ALL));
        assert_eq!((sqe.cdw10(), sqe.cdw11()), (0x0200_d502, 0xbeef_0003));
        assert_eq!((sqe.cdw12(), sqe.cdw13()), (0x0506_0708, 0x0102_0304));
        assert_eq!((sqe.cdw14(), sqe.prp1()), (0x0200_0000, 0x1000));
        assert_eq!(GetLogPage::from_sqe(&sqe), get);
    }

    /// The shortest and the longest page; an entry of ones is read.
    #[test]
    fn lengths_are_dwords_from_0() {
        for len_bytes in [4, 512, 4096, 1 << 18, 1 << 34] {
            let get = GetLogPage {
                len_bytes,
                ..GetLogPage::default()
            };
            assert_eq!(GetLogPage::from_sqe(&get.to_sqe()).len_bytes, len_bytes);
        }
        let ones = GetLogPage::from_sqe(&Sqe::from_dwords([!0; 16]));
        assert_eq!((ones.len_bytes, ones.offset), (1 << 34, u64::MAX));
    }

    #[test]
    fn codes_have_the_specification_s_values_and_names() {
        assert_eq!((LogId::ERROR.0, LogId::COMMAND_EFFECTS.0), (1, 5));
        assert_eq!(LogId(0xc0).to_string(), "log page 0xc0");
        assert!(LogId::ALL.is_sorted_by(|a, b| a.0 < b.0));
    }
}
