//! Get Features and Set Features (Base 2.0, 5.15 and 5.27), and the values of those features
//! that hold more than a number.

use super::byte_codes;
use crate::{AdminOpcode, Nsid, Sqe};

byte_codes! {
    /// Feature identifier (Base 2.0, 5.27.1; NVM Command Set 1.0, 4.1.3).
    ///
    /// ```
    /// use underpin_nvme_spec::admin::FeatureId;
    ///
    /// assert_eq!(FeatureId::NUMBER_OF_QUEUES.0, 0x07);
    /// assert_eq!(FeatureId(0x07).to_string(), "Number of Queues");
    /// assert_eq!(FeatureId(0xf0).name(), None);
    /// ```
    FeatureId, "feature";
    ARBITRATION = 0x01, "Arbitration";
    POWER_MANAGEMENT = 0x02, "Power Management";
    LBA_RANGE_TYPE = 0x03, "LBA Range Type";
    TEMPERATURE_THRESHOLD = 0x04, "Temperature Threshold";
    ERROR_RECOVERY = 0x05, "Error Recovery";
    VOLATILE_WRITE_CACHE = 0x06, "Volatile Write Cache";
    NUMBER_OF_QUEUES = 0x07, "Number of Queues";
    INTERRUPT_COALESCING = 0x08, "Interrupt Coalescing";
    INTERRUPT_VECTOR = 0x09, "Interrupt Vector Configuration";
    WRITE_ATOMICITY = 0x0a, "Write Atomicity Normal";
    ASYNC_EVENTS = 0x0b, "Asynchronous Event Configuration";
    AUTONOMOUS_POWER_STATE = 0x0c, "Autonomous Power State Transition";
    HOST_MEMORY_BUFFER = 0x0d, "Host Memory Buffer";
    TIMESTAMP = 0x0e, "Timestamp";
    KEEP_ALIVE = 0x0f, "Keep Alive Timer";
    HOST_THERMAL = 0x10, "Host Controlled Thermal Management";
    NON_OPERATIONAL_POWER = 0x11, "Non-Operational Power State Config";
    READ_RECOVERY_LEVEL = 0x12, "Read Recovery Level Config";
    PREDICTABLE_LATENCY_CONFIG = 0x13, "Predictable Latency Mode Config";
    PREDICTABLE_LATENCY_WINDOW = 0x14, "Predictable Latency Mode Window";
    LBA_STATUS_INTERVAL = 0x15, "LBA Status Information Report Interval";
    HOST_BEHAVIOR = 0x16, "Host Behavior Support";
    SANITIZE_CONFIG = 0x17, "Sanitize Config";
    ENDURANCE_EVENTS = 0x18, "Endurance Group Event Configuration";
    COMMAND_SET_PROFILE = 0x19, "I/O Command Set Profile";
    SPINUP_CONTROL = 0x1a, "Spinup Control";
    ENHANCED_CONTROLLER_METADATA = 0x7d, "Enhanced Controller Metadata";
    CONTROLLER_METADATA = 0x7e, "Controller Metadata";
    NAMESPACE_METADATA = 0x7f, "Namespace Metadata";
    SOFTWARE_PROGRESS = 0x80, "Software Progress Marker";
    HOST_IDENTIFIER = 0x81, "Host Identifier";
    RESERVATION_MASK = 0x82, "Reservation Notification Mask";
    RESERVATION_PERSISTENCE = 0x83, "Reservation Persistence";
    WRITE_PROTECTION = 0x84, "Namespace Write Protection Config";
}

impl FeatureId {
    /// How many bytes of memory its value has, beside dword 11 or dword 0; `None` where it has
    /// none, or where that is not known here.
    ///
    /// ```
    /// use underpin_nvme_spec::admin::FeatureId;
    /// assert_eq!(FeatureId::TIMESTAMP.data_len_bytes(), Some(8));
    /// assert_eq!(FeatureId::VOLATILE_WRITE_CACHE.data_len_bytes(), None);
    /// ```
    #[must_use]
    pub const fn data_len_bytes(self) -> Option<usize> {
        match self {
            Self::LBA_RANGE_TYPE => Some(4096),
            Self::AUTONOMOUS_POWER_STATE => Some(256),
            Self::TIMESTAMP => Some(8),
            Self::PREDICTABLE_LATENCY_CONFIG | Self::HOST_BEHAVIOR => Some(512),
            Self::HOST_IDENTIFIER => Some(16),
            _ => None,
        }
    }
}

byte_codes! {
    /// Which of a feature's values Get Features returns (Base 2.0, figure 193).
    ///
    /// ```
    /// use underpin_nvme_spec::admin::FeatureSelect;
    ///
    /// assert_eq!(FeatureSelect::default(), FeatureSelect::CURRENT);
    /// assert_eq!(FeatureSelect::SUPPORTED.to_string(), "supported capabilities");
    /// ```
    FeatureSelect, "SEL";
    CURRENT = 0, "current";
    DEFAULT = 1, "default";
    SAVED = 2, "saved";
    SUPPORTED = 3, "supported capabilities";
}

/// What Get Features answers in dword 0 for [`FeatureSelect::SUPPORTED`] (Base 2.0, figure 194).
///
/// ```
/// use underpin_nvme_spec::admin::FeatureAbility;
///
/// let ability = FeatureAbility::from_dword(0b101);
/// assert!(ability.saveable && ability.changeable && !ability.per_namespace);
/// assert_eq!(ability.to_dword(), 0b101);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FeatureAbility {
    /// A value can be saved over power cycles.
    pub saveable: bool,
    /// Namespaces have values of their own.
    pub per_namespace: bool,
    /// The value can be changed.
    pub changeable: bool,
}

impl FeatureAbility {
    /// The dword on the wire.
    #[must_use]
    pub const fn to_dword(self) -> u32 {
        self.saveable as u32 | (self.per_namespace as u32) << 1 | (self.changeable as u32) << 2
    }

    /// The abilities that a dword tells.
    #[must_use]
    pub const fn from_dword(dword: u32) -> Self {
        Self {
            saveable: dword & 1 != 0,
            per_namespace: dword & 1 << 1 != 0,
            changeable: dword & 1 << 2 != 0,
        }
    }
}

/// The value of [`FeatureId::TEMPERATURE_THRESHOLD`] (Base 2.0, 5.27.1.3).
///
/// ```
/// use underpin_nvme_spec::admin::TemperatureThreshold;
///
/// let threshold = TemperatureThreshold { kelvins: 273 + 70, sensor: 1, under: false };
/// assert_eq!(threshold.to_cdw(), 0x0001_0157);
/// assert_eq!(TemperatureThreshold::from_cdw(0x0001_0157), threshold);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TemperatureThreshold {
    /// The threshold in kelvins.
    pub kelvins: u16,
    /// Which temperature: 0 the composite one, 1 to 8 a sensor, 15 all; four bits.
    pub sensor: u8,
    /// It is crossed from above instead of from below.
    pub under: bool,
}

impl TemperatureThreshold {
    /// Dword 11 of the command.
    #[must_use]
    pub const fn to_cdw(self) -> u32 {
        self.kelvins as u32 | (self.sensor as u32 & 0xf) << 16 | (self.under as u32) << 20
    }

    /// The threshold that a dword holds. Both values of THSEL beyond 1 are reserved.
    #[must_use]
    pub const fn from_cdw(cdw: u32) -> Self {
        Self {
            kelvins: cdw as u16,
            sensor: (cdw >> 16) as u8 & 0xf,
            under: cdw >> 20 & 0b11 == 1,
        }
    }
}

/// Get Features (Base 2.0, 5.15). The value comes back in dword 0 of the completion, and in
/// memory where the feature has a data structure.
///
/// ```
/// use underpin_nvme_spec::admin::{FeatureId, FeatureSelect, GetFeatures};
///
/// let get = GetFeatures {
///     fid: FeatureId::VOLATILE_WRITE_CACHE,
///     sel: FeatureSelect::DEFAULT,
///     ..GetFeatures::default()
/// };
/// let sqe = get.to_sqe();
/// assert_eq!((sqe.opcode(), sqe.cdw10()), (0x0a, 0x106));
/// assert_eq!(GetFeatures::from_sqe(&sqe), get);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GetFeatures {
    /// Which feature.
    pub fid: FeatureId,
    /// Which of its values.
    pub sel: FeatureSelect,
    /// Of which namespace, where the feature has values per namespace.
    pub nsid: Nsid,
    /// What the feature defines.
    pub cdw11: u32,
    /// First PRP entry of the data structure's memory, where there is one.
    pub prp1: u64,
    /// Second PRP entry.
    pub prp2: u64,
}

/// Set Features (Base 2.0, 5.27).
///
/// ```
/// use underpin_nvme_spec::admin::{FeatureId, QueueCounts, SetFeatures};
///
/// let wanted = QueueCounts { submission: 4, completion: 4 };
/// let set = SetFeatures {
///     fid: FeatureId::NUMBER_OF_QUEUES,
///     cdw11: wanted.to_cdw(),
///     ..SetFeatures::default()
/// };
/// let sqe = set.to_sqe();
/// assert_eq!((sqe.opcode(), sqe.cdw10(), sqe.cdw11()), (0x09, 0x07, 0x0003_0003));
/// assert_eq!(SetFeatures::from_sqe(&sqe), set);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SetFeatures {
    /// Which feature.
    pub fid: FeatureId,
    /// Whether the value outlives power cycles and resets.
    pub save: bool,
    /// Of which namespace, where the feature has values per namespace.
    pub nsid: Nsid,
    /// The value, or what the feature defines.
    pub cdw11: u32,
    /// First PRP entry of the data structure's memory, where there is one.
    pub prp1: u64,
    /// Second PRP entry.
    pub prp2: u64,
}

/// The value of [`FeatureId::NUMBER_OF_QUEUES`] (Base 2.0, 5.27.1.5): I/O queues asked for in
/// dword 11 of Set Features, I/O queues granted in dword 0 of its completion.
///
/// ```
/// use underpin_nvme_spec::admin::QueueCounts;
///
/// // Counted from 0 on the wire.
/// let granted = QueueCounts::from_cdw(0x000f_0007);
/// assert_eq!((granted.submission, granted.completion), (8, 16));
/// assert_eq!(granted.to_cdw(), 0x000f_0007);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct QueueCounts {
    /// I/O submission queues, 1 to 65,535.
    pub submission: u16,
    /// I/O completion queues, 1 to 65,535.
    pub completion: u16,
}

impl GetFeatures {
    /// The submission queue entry, without a command identifier. Only the low three bits of
    /// `sel` are kept.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        Sqe::new()
            .with_opcode(AdminOpcode::GET_FEATURES.0)
            .with_nsid(self.nsid)
            .with_prp1(self.prp1)
            .with_prp2(self.prp2)
            .with_cdw10((self.sel.0 as u32 & 0b111) << 8 | self.fid.0 as u32)
            .with_cdw11(self.cdw11)
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            fid: FeatureId(sqe.cdw10() as u8),
            sel: FeatureSelect((sqe.cdw10() >> 8) as u8 & 0b111),
            nsid: sqe.nsid(),
            cdw11: sqe.cdw11(),
            prp1: sqe.prp1(),
            prp2: sqe.prp2(),
        }
    }
}

impl SetFeatures {
    /// The submission queue entry, without a command identifier.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        Sqe::new()
            .with_opcode(AdminOpcode::SET_FEATURES.0)
            .with_nsid(self.nsid)
            .with_prp1(self.prp1)
            .with_prp2(self.prp2)
            .with_cdw10((self.save as u32) << 31 | self.fid.0 as u32)
            .with_cdw11(self.cdw11)
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            fid: FeatureId(sqe.cdw10() as u8),
            save: sqe.cdw10() >> 31 != 0,
            nsid: sqe.nsid(),
            cdw11: sqe.cdw11(),
            prp1: sqe.prp1(),
            prp2: sqe.prp2(),
        }
    }
}

impl QueueCounts {
    /// The dword on the wire: both counts from 0, submission queues in the low half. A count of
    /// 0 cannot be said and becomes 1.
    #[must_use]
    pub const fn to_cdw(self) -> u32 {
        (self.completion.saturating_sub(1) as u32) << 16 | self.submission.saturating_sub(1) as u32
    }

    /// The counts that a dword holds. A half of all ones, which the specification rules out,
    /// reads as 65,535.
    #[must_use]
    pub const fn from_cdw(cdw: u32) -> Self {
        Self {
            submission: (cdw as u16).saturating_add(1),
            completion: ((cdw >> 16) as u16).saturating_add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, 5.15: FID in bits 7:0 and SEL in bits 10:8 of dword 10.
    #[test]
    fn get_features_puts_its_fields_where_the_specification_has_them() {
        let get = GetFeatures {
            fid: FeatureId::VOLATILE_WRITE_CACHE,
            sel: FeatureSelect::SUPPORTED,
            nsid: Nsid::ALL,
            cdw11: 0xdead_beef,
            prp1: 0x1000,
            prp2: 0x2000,
        };
        let sqe = get.to_sqe();
        assert_eq!((sqe.opcode(), sqe.cdw10()), (0x0a, 0x0000_0306));
        assert_eq!((sqe.nsid(), sqe.cdw11()), (Nsid::ALL, 0xdead_beef));
        assert_eq!(GetFeatures::from_sqe(&sqe), get);
        let spilling = GetFeatures {
            sel: FeatureSelect(0xff),
            ..GetFeatures::default()
        };
        assert_eq!(spilling.to_sqe().cdw10(), 0x0700);
    }

    /// Base 2.0, 5.27: FID in bits 7:0 and SV in bit 31 of dword 10.
    #[test]
    fn set_features_puts_its_fields_where_the_specification_has_them() {
        let set = SetFeatures {
            fid: FeatureId::HOST_IDENTIFIER,
            save: true,
            nsid: Nsid(1),
            cdw11: 1,
            prp1: 0x3000,
            prp2: 0,
        };
        let sqe = set.to_sqe();
        assert_eq!((sqe.opcode(), sqe.cdw10()), (0x09, 0x8000_0081));
        assert_eq!((sqe.prp1(), sqe.cdw11()), (0x3000, 1));
        assert_eq!(SetFeatures::from_sqe(&sqe), set);
    }

    /// Base 2.0, 5.27.1.5: NSQR low, NCQR high, both counted from 0.
    #[test]
    fn queue_counts_are_zero_based_halves() {
        let counts = QueueCounts {
            submission: 4,
            completion: 256,
        };
        assert_eq!(counts.to_cdw(), 0x00ff_0003);
        assert_eq!(QueueCounts::from_cdw(0x00ff_0003), counts);
    }

    /// A device may answer anything, and a caller may ask for none.
    #[test]
    fn queue_counts_do_not_wrap() {
        let most = QueueCounts {
            submission: u16::MAX,
            completion: u16::MAX,
        };
        assert_eq!(QueueCounts::from_cdw(!0), most);
        assert_eq!(QueueCounts::from_cdw(most.to_cdw()), most);
        assert_eq!(QueueCounts::default().to_cdw(), 0);
    }

    /// Base 2.0, 5.27.1.3 and figure 194.
    #[test]
    fn values_lie_where_the_specification_has_them() {
        let threshold = TemperatureThreshold {
            kelvins: 0x0157,
            sensor: 3,
            under: true,
        };
        assert_eq!(threshold.to_cdw(), 0x0013_0157);
        assert_eq!(TemperatureThreshold::from_cdw(0x0013_0157), threshold);
        assert!(!TemperatureThreshold::from_cdw(!0).under);
        let ability = FeatureAbility {
            changeable: true,
            ..FeatureAbility::default()
        };
        assert_eq!(ability.to_dword(), 0b100);
        for dword in 0..8 {
            assert_eq!(FeatureAbility::from_dword(dword).to_dword(), dword);
        }
    }

    #[test]
    fn feature_ids_have_the_specification_s_values_and_names() {
        assert_eq!(FeatureId::NUMBER_OF_QUEUES.0, 0x07);
        assert_eq!(FeatureId::WRITE_PROTECTION.0, 0x84);
        assert_eq!(FeatureId::NUMBER_OF_QUEUES.to_string(), "Number of Queues");
        assert_eq!(FeatureId(0xc0).to_string(), "feature 0xc0");
        assert!(
            FeatureId::ALL.is_sorted_by(|a, b| a.0 < b.0),
            "each value once, in order"
        );
    }
}
