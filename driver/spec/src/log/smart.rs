//! SMART / Health Information, log page 02h (Base 2.0, figure 202).

crate::identify::fields::page! {
    /// How a controller, or one namespace, is doing.
    ///
    /// ```
    /// use underpin_nvme_spec::log::SmartLog;
    ///
    /// let mut log = SmartLog::zeroed();
    /// log.set_temperature(273 + 40);
    /// log.set_data_units_read(2);
    /// assert_eq!(log.celsius(), Some(40));
    /// assert_eq!(log.data_units_read() * SmartLog::DATA_UNIT_BYTES, 1_024_000);
    /// ```
    SmartLog [512] {
        critical_warning set_critical_warning u8 @ 0 "Critical warning: see [`CriticalWarning`]";
        temperature set_temperature u16 @ 1 "Composite temperature in kelvins; 0 means not reported";
        avail_spare set_avail_spare u8 @ 3 "Available spare in percent";
        spare_thresh set_spare_thresh u8 @ 4 "Available spare threshold in percent";
        percent_used set_percent_used u8 @ 5 "Percentage used of the estimated life; may exceed 100";
        endu_grp_crit_warn_sumry set_endu_grp_crit_warn_sumry u8 @ 6 "Endurance group critical warning summary";
        data_units_read set_data_units_read u128 @ 32 "Data units read by the host: thousands of 512 bytes, rounded up";
        data_units_written set_data_units_written u128 @ 48 "Data units written by the host: thousands of 512 bytes, rounded up";
        host_reads set_host_reads u128 @ 64 "Host read commands completed";
        host_writes set_host_writes u128 @ 80 "Host write commands completed";
        ctrl_busy_time set_ctrl_busy_time u128 @ 96 "Controller busy time in minutes";
        power_cycles set_power_cycles u128 @ 112 "Power cycles";
        power_on_hours set_power_on_hours u128 @ 128 "Power on hours";
        unsafe_shutdowns set_unsafe_shutdowns u128 @ 144 "Unsafe shutdowns";
        media_errors set_media_errors u128 @ 160 "Media and data integrity errors";
        num_err_log_entries set_num_err_log_entries u128 @ 176 "Error information log entries since the controller was made";
        warning_temp_time set_warning_temp_time u32 @ 192 "Warning composite temperature time in minutes";
        critical_comp_time set_critical_comp_time u32 @ 196 "Critical composite temperature time in minutes";
        temp_sensor set_temp_sensor { 16 } @ 200 "Temperature sensors 1 to 8 in kelvins; 0 means not there";
        thm_temp1_trans_count set_thm_temp1_trans_count u32 @ 216 "Thermal management temperature 1 transition count";
        thm_temp2_trans_count set_thm_temp2_trans_count u32 @ 220 "Thermal management temperature 2 transition count";
        thm_temp1_total_time set_thm_temp1_total_time u32 @ 224 "Total time for thermal management temperature 1 in seconds";
        thm_temp2_total_time set_thm_temp2_total_time u32 @ 228 "Total time for thermal management temperature 2 in seconds";
    }
}

const SENSORS_OFFSET: usize = 200;

impl SmartLog {
    /// Bytes of one data unit.
    pub const DATA_UNIT_BYTES: u128 = 512_000;

    /// The composite temperature in degrees Celsius; `None` where it is not reported.
    #[must_use]
    pub fn celsius(&self) -> Option<i32> {
        let kelvins = i32::from(self.temperature());
        (kelvins != 0).then_some(kelvins - 273)
    }

    /// The critical warnings.
    #[must_use]
    pub const fn warnings(&self) -> CriticalWarning {
        CriticalWarning(self.critical_warning())
    }

    /// Temperature sensors 1 to 8 in kelvins; 0 where there is none.
    #[must_use]
    pub fn temperature_sensors(&self) -> [u16; 8] {
        core::array::from_fn(|sensor| {
            u16::from_le_bytes(crate::identify::fields::get(
                &self.0,
                SENSORS_OFFSET + 2 * sensor,
            ))
        })
    }
}

/// The critical warnings of a [`SmartLog`], one bit each.
///
/// ```
/// use underpin_nvme_spec::log::CriticalWarning;
///
/// let warnings = CriticalWarning(0b1001);
/// assert!(warnings.contains(CriticalWarning::SPARE));
/// assert!(warnings.names().eq(["spare below threshold", "media read only"]));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct CriticalWarning(pub u8);

impl CriticalWarning {
    /// The available spare has fallen below its threshold.
    pub const SPARE: Self = Self(1 << 0);
    /// A temperature is beyond a threshold.
    pub const TEMPERATURE: Self = Self(1 << 1);
    /// Reliability is degraded by media or internal errors.
    pub const RELIABILITY: Self = Self(1 << 2);
    /// All media are read only.
    pub const READ_ONLY: Self = Self(1 << 3);
    /// The backup of volatile memory has failed.
    pub const BACKUP: Self = Self(1 << 4);
    /// The persistent memory region is read only or unreliable.
    pub const PERSISTENT_MEMORY: Self = Self(1 << 5);

    /// Every warning with its name.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (Self::SPARE, "spare below threshold"),
        (Self::TEMPERATURE, "temperature beyond threshold"),
        (Self::RELIABILITY, "reliability degraded"),
        (Self::READ_ONLY, "media read only"),
        (Self::BACKUP, "volatile memory backup failed"),
        (
            Self::PERSISTENT_MEMORY,
            "persistent memory read only or unreliable",
        ),
    ];

    /// Whether all of `other`'s bits are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of those that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let set = Self::ALL.iter().filter(move |(one, _)| self.contains(*one));
        set.map(|(_, name)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::fields::testing::holes_in;

    /// Base 2.0, figure 202.
    #[test]
    fn fields_lie_where_the_specification_has_them() {
        assert_eq!(holes_in(SmartLog::FIELDS, 512), [(7, 25), (232, 280)]);
        let bytes = core::array::from_fn(|at| at as u8);
        let log = SmartLog::from_bytes(&bytes);
        assert_eq!((log.critical_warning(), log.temperature()), (0, 0x0201));
        assert_eq!(log.data_units_read().to_le_bytes()[0], 32);
        assert_eq!(log.num_err_log_entries().to_le_bytes()[15], 191);
        assert_eq!(log.temperature_sensors()[7], 0xd7d6);
    }

    /// Any bytes make a page, and nothing in it panics.
    #[test]
    fn any_page_is_read_without_panic() {
        for byte in 0..=u8::MAX {
            let log = SmartLog::from_bytes(&[byte; 512]);
            assert!(format!("{log:?}").contains("power_cycles"));
            assert_eq!(log.celsius().is_none(), byte == 0);
            let names = log.warnings().names().count() as u32;
            assert_eq!(names, (byte & 0x3f).count_ones());
        }
    }
}
