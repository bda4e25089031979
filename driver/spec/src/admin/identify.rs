//! The Identify command (Base 2.0, 5.17): which page is asked for, of whom. The pages themselves
//! are in [`crate::identify`].

use super::byte_codes;
use crate::{AdminOpcode, Nsid, Sqe};

byte_codes! {
    /// Controller or Namespace Structure: which page Identify returns (Base 2.0, 5.17.1).
    ///
    /// ```
    /// use underpin_nvme_spec::admin::Cns;
    ///
    /// assert_eq!(Cns::default(), Cns::NAMESPACE);
    /// assert_eq!(Cns(0x01).to_string(), "Identify Controller");
    /// assert_eq!(Cns(0xee).to_string(), "CNS 0xee");
    /// ```
    Cns, "CNS";
    NAMESPACE = 0x00, "Identify Namespace";
    CONTROLLER = 0x01, "Identify Controller";
    ACTIVE_NAMESPACES = 0x02, "Active Namespace ID list";
    DESCRIPTORS = 0x03, "Namespace Identification Descriptor list";
    NVM_SETS = 0x04, "NVM Set List";
    COMMAND_SET_NAMESPACE = 0x05, "I/O Command Set specific Identify Namespace";
    COMMAND_SET_CONTROLLER = 0x06, "I/O Command Set specific Identify Controller";
    COMMAND_SET_ACTIVE_NAMESPACES = 0x07, "I/O Command Set specific Active Namespace ID list";
    INDEPENDENT_NAMESPACE = 0x08, "I/O Command Set Independent Identify Namespace";
    ALLOCATED_NAMESPACES = 0x10, "Allocated Namespace ID list";
    ALLOCATED_NAMESPACE = 0x11, "Identify Namespace of an allocated Namespace ID";
    NAMESPACE_CONTROLLERS = 0x12, "Controller List of those attached to a namespace";
    CONTROLLERS = 0x13, "Controller List of the NVM subsystem";
    PRIMARY_CONTROLLER = 0x14, "Primary Controller Capabilities";
    SECONDARY_CONTROLLERS = 0x15, "Secondary Controller list";
    GRANULARITY = 0x16, "Namespace Granularity List";
    UUIDS = 0x17, "UUID List";
    DOMAINS = 0x18, "Domain List";
    ENDURANCE_GROUPS = 0x19, "Endurance Group List";
    COMMAND_SET_ALLOCATED_NAMESPACES = 0x1a, "I/O Command Set specific Allocated Namespace ID list";
    COMMAND_SET_ALLOCATED_NAMESPACE = 0x1b, "I/O Command Set specific Identify Namespace of an allocated Namespace ID";
    COMMAND_SETS = 0x1c, "Identify I/O Command Set";
}

/// Identify (Base 2.0, 5.17). The answer is always 4096 bytes.
///
/// ```
/// use underpin_nvme_spec::{Nsid, admin::{Cns, Identify}};
///
/// let identify = Identify {
///     cns: Cns::ACTIVE_NAMESPACES,
///     nsid: Nsid(0),
///     prp1: 0x1_0000_0000,
///     ..Identify::default()
/// };
/// let sqe = identify.to_sqe();
/// assert_eq!((sqe.opcode(), sqe.cdw10(), sqe.prp1()), (0x06, 0x02, 0x1_0000_0000));
/// assert_eq!(Identify::from_sqe(&sqe), identify);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identify {
    /// Which page.
    pub cns: Cns,
    /// Of which namespace, or after which one a list begins; 0 where neither is meant.
    pub nsid: Nsid,
    /// Of which controller; 0 where none is meant.
    pub cntid: u16,
    /// Command set identifier; 0 is the NVM command set.
    pub csi: u8,
    /// First PRP entry of the answer's memory.
    pub prp1: u64,
    /// Second PRP entry; 0 where the answer lies within one memory page.
    pub prp2: u64,
}

impl Identify {
    /// The submission queue entry, without a command identifier.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        Sqe::new()
            .with_opcode(AdminOpcode::IDENTIFY.0)
            .with_nsid(self.nsid)
            .with_prp1(self.prp1)
            .with_prp2(self.prp2)
            .with_cdw10((self.cntid as u32) << 16 | self.cns.0 as u32)
            .with_cdw11((self.csi as u32) << 24)
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            cns: Cns(sqe.cdw10() as u8),
            nsid: sqe.nsid(),
            cntid: (sqe.cdw10() >> 16) as u16,
            csi: (sqe.cdw11() >> 24) as u8,
            prp1: sqe.prp1(),
            prp2: sqe.prp2(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, 5.17.1: CNS and CNTID in dword 10, CSI on top of dword 11.
    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let identify = Identify {
            cns: Cns::COMMAND_SETS,
            nsid: Nsid(0x0a0b_0c0d),
            cntid: 0x1234,
            csi: 2,
            prp1: 0x1000,
            prp2: 0x9000,
        };
        let sqe = identify.to_sqe();
        assert_eq!(sqe.opcode(), 0x06);
        assert_eq!(sqe.cdw10(), 0x1234_001c);
        assert_eq!(sqe.cdw11(), 0x0200_0000);
        assert_eq!((sqe.prp1(), sqe.prp2()), (0x1000, 0x9000));
        assert_eq!(sqe.nsid(), Nsid(0x0a0b_0c0d));
        assert_eq!(Identify::from_sqe(&sqe), identify);
    }

    #[test]
    fn codes_have_the_specification_s_values_and_names() {
        assert_eq!((Cns::NAMESPACE.0, Cns::CONTROLLER.0), (0, 1));
        assert_eq!((Cns::ACTIVE_NAMESPACES.0, Cns::DESCRIPTORS.0), (2, 3));
        assert_eq!(Cns::CONTROLLER.to_string(), "Identify Controller");
        assert_eq!(Cns(0x7f).to_string(), "CNS 0x7f");
        assert!(
            Cns::ALL.is_sorted_by(|a, b| a.0 < b.0),
            "each value once, in order"
        );
    }
}
