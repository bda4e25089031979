//! What the controller remembers of its own state: the errors of commands, and what its SMART log
//! says. Nothing of it is looked at by commands that go well.
use crate::bus::Bus;
use crate::core::Machine;
use crate::stats::EmulatorStats;
use std::collections::VecDeque;
use underpin_nvme_spec::log::{CriticalWarning, ErrorLogEntry, SmartLog};
use underpin_nvme_spec::{Sqe, Status, StatusType};

/// Entries of the error log.
pub(crate) const ERROR_ENTRIES: usize = 128;
/// Degrees that are comfortable, and those that are too many, in kelvins.
const COMFORTABLE: u16 = 313;
pub(crate) const TOO_WARM: u16 = 343;

/// The controller's health.
#[derive(Debug)]
pub(crate) struct Health {
    /// Newest first.
    errors: VecDeque<ErrorLogEntry>,
    /// Errors since the controller was made.
    error_count: u64,
    media_errors: u64,
    pub(crate) warnings: CriticalWarning,
    pub(crate) kelvins: u16,
    /// Blocks read by commands that move none of them to the host.
    pub(crate) looked_at_bytes: u64,
    pub(crate) power_cycles: u64,
    pub(crate) unsafe_shutdowns: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            errors: VecDeque::new(),
            error_count: 0,
            media_errors: 0,
            warnings: CriticalWarning(0),
            kelvins: COMFORTABLE,
            looked_at_bytes: 0,
            power_cycles: 1,
            unsafe_shutdowns: 0,
        }
    }
}

impl Health {
    /// The error log, newest first; entries that are not used are zeroes.
    pub(crate) fn error_log(&self) -> Vec<u8> {
        let mut page = vec![0; ERROR_ENTRIES * ErrorLogEntry::LEN_BYTES];
        let (entries, _) = page.as_chunks_mut::<{ ErrorLogEntry::LEN_BYTES }>();
        for (to, from) in entries.iter_mut().zip(&self.errors) {
            *to = *from.as_bytes();
        }
        page
    }

    /// The SMART log.
    pub(crate) fn smart_log(&self, stats: &EmulatorStats, bus: &Bus) -> SmartLog {
        let units = |bytes: u64| u128::from(bytes).div_ceil(SmartLog::DATA_UNIT_BYTES);
        let to_host = bus.bytes_to_host.saturating_sub(bus.overhead_to_host);
        let from_host = bus.bytes_from_host.saturating_sub(bus.overhead_from_host);
        let mut log = SmartLog::zeroed();
        log.set_critical_warning(self.warnings.0);
        log.set_temperature(self.kelvins);
        log.set_avail_spare(100);
        log.set_spare_thresh(10);
        // Read, Compare and Verify count; Write Zeroes does not (NVM Command Set 1.0, 4.1.4.2).
        log.set_data_units_read(units(to_host.saturating_add(self.looked_at_bytes)));
        log.set_data_units_written(units(from_host));
        log.set_host_reads(u128::from(stats.reads + stats.compares));
        log.set_host_writes(u128::from(stats.writes));
        log.set_power_cycles(u128::from(self.power_cycles));
        log.set_unsafe_shutdowns(u128::from(self.unsafe_shutdowns));
        log.set_media_errors(u128::from(self.media_errors));
        log.set_num_err_log_entries(u128::from(self.error_count));
        log
    }
}

impl Machine {
    /// Notes that a command has failed.
    #[cold]
    #[inline(never)]
    pub(crate) fn note_error(&mut self, qid: u16, sqe: &Sqe, status: Status) {
        self.bus.command_failed(Some(qid), Some(sqe.cid().0));
        let health = &mut self.health;
        health.error_count += 1;
        let comparison = status.code() == Status::COMPARE_FAILURE.code();
        if status.kind() == StatusType::MediaAndIntegrity && !comparison {
            health.media_errors += 1;
        }
        let mut entry = ErrorLogEntry::zeroed();
        entry.set_error_count(health.error_count);
        entry.set_sqid(qid);
        entry.set_cmdid(sqe.cid().0);
        entry.set_status(status);
        // Which field was wrong is not told.
        entry.set_parm_error_location(u16::MAX);
        entry.set_nsid(sqe.nsid().0);
        if qid != 0 {
            entry.set_lba(u64::from(sqe.cdw10()) | u64::from(sqe.cdw11()) << 32);
        }
        health.errors.push_front(entry);
        health.errors.truncate(ERROR_ENTRIES);
    }
}
