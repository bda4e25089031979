//! Get Log Page (Base 2.0, 5.16): errors, health, firmware slots, changed namespaces, and which
//! commands there are.
use super::{INVALID_FIELD, Reaction};
use crate::core::Machine;
use underpin_nvme_spec::admin::{GetLogPage, LogId};
use underpin_nvme_spec::log::{CommandEffects, CommandEffectsLog, FirmwareSlotLog};
use underpin_nvme_spec::{AdminOpcode, Nsid, NvmOpcode, Sqe, Status};

const READS: CommandEffects = CommandEffects::SUPPORTED;
const WRITES: CommandEffects = READS.with(CommandEffects::CONTENT);

/// The admin commands that there are, but for those that are configured.
const ADMIN: &[(AdminOpcode, CommandEffects)] = &[
    (AdminOpcode::DELETE_IO_SQ, READS),
    (AdminOpcode::CREATE_IO_SQ, READS),
    (AdminOpcode::GET_LOG_PAGE, READS),
    (AdminOpcode::DELETE_IO_CQ, READS),
    (AdminOpcode::CREATE_IO_CQ, READS),
    (AdminOpcode::IDENTIFY, READS),
    (AdminOpcode::ABORT, READS),
    (AdminOpcode::SET_FEATURES, READS),
    (AdminOpcode::GET_FEATURES, READS),
    (AdminOpcode::ASYNC_EVENT_REQUEST, READS),
];

const FORMATS: CommandEffects = WRITES
    .with(CommandEffects::NAMESPACE_CAPABILITY)
    .with_exclusive(1);

/// The I/O commands that there are.
const IO: &[(NvmOpcode, CommandEffects)] = &[
    (NvmOpcode::FLUSH, READS),
    (NvmOpcode::WRITE, WRITES),
    (NvmOpcode::READ, READS),
    (NvmOpcode::COMPARE, READS),
    (NvmOpcode::WRITE_ZEROES, WRITES),
    (NvmOpcode::DATASET_MANAGEMENT, WRITES),
    (NvmOpcode::VERIFY, READS),
];

impl Machine {
    pub(super) fn log_page(&mut self, sqe: &Sqe) -> Reaction {
        let command = GetLogPage::from_sqe(sqe);
        let page = match command.lid {
            LogId::ERROR => self.health.error_log(),
            LogId::SMART => {
                let log = self.health.smart_log(&self.stats, &self.bus);
                log.as_bytes().to_vec()
            }
            LogId::FIRMWARE => firmware().as_bytes().to_vec(),
            LogId::CHANGED_NAMESPACES => self.changed_namespaces().as_bytes().to_vec(),
            LogId::COMMAND_EFFECTS if self.supports.abilities.effects => {
                self.effects().as_bytes().to_vec()
            }
            _ => return Status::INVALID_LOG_PAGE.with_do_not_retry().into(),
        };
        // All of them are the controller's, and none is a namespace's.
        if command.nsid != Nsid::ALL && command.nsid != Nsid(0) {
            return INVALID_FIELD.into();
        }
        let end = command.offset.checked_add(command.len_bytes);
        let in_page = end.is_some_and(|end| end <= page.len() as u64);
        if !in_page || command.offset & 3 != 0 || command.len_bytes > self.limits.max_bytes {
            return INVALID_FIELD.into();
        }
        if !command.retain {
            self.page_was_read(command.lid);
        }
        let from = command.offset as usize;
        let part = page.get(from..from + command.len_bytes as usize);
        Reaction::Reply(self.reply(sqe, part.unwrap_or(&[]).to_vec()))
    }

    fn effects(&self) -> CommandEffectsLog {
        let mut log = CommandEffectsLog::zeroed();
        for &(opcode, effects) in ADMIN {
            log.set_admin(opcode, effects);
        }
        if self.supports.dbbuf {
            log.set_admin(AdminOpcode::DOORBELL_BUFFER_CONFIG, READS);
        }
        let abilities = &self.supports.abilities;
        if abilities.format {
            log.set_admin(AdminOpcode::FORMAT_NVM, FORMATS);
        }
        for &(opcode, effects) in IO.iter().filter(|(opcode, _)| abilities.has_io(*opcode)) {
            log.set_io(opcode, effects);
        }
        log
    }
}

/// One slot, whose firmware is this program.
fn firmware() -> FirmwareSlotLog {
    let mut log = FirmwareSlotLog::zeroed();
    log.set_afi(1);
    log.set_revision(1, env!("CARGO_PKG_VERSION"));
    log
}
