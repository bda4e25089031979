//! Which commands the driver refuses to send: those that the device says it lacks, and those that
//! would change the device behind the driver's back.
use crate::Error;
use crate::controller::Inner;
use underpin_nvme_spec::admin::{FeatureId, SetFeatures};
use underpin_nvme_spec::{AdminOpcode, Sqe};

/// Why the driver would not know its device any more after this admin command.
pub(crate) fn harm(sqe: &Sqe) -> Option<&'static str> {
    Some(match AdminOpcode(sqe.opcode()) {
        AdminOpcode::CREATE_IO_SQ
        | AdminOpcode::CREATE_IO_CQ
        | AdminOpcode::DELETE_IO_SQ
        | AdminOpcode::DELETE_IO_CQ => {
            "the driver makes and deletes queues itself (Controller::queue_pair)"
        }
        AdminOpcode::DOORBELL_BUFFER_CONFIG => "the driver's queues ring the doorbells",
        AdminOpcode::ASYNC_EVENT_REQUEST => {
            "it would not end in time; the driver keeps some itself (Controller::events)"
        }
        AdminOpcode::FORMAT_NVM => {
            "it may change the size of blocks under requests that are made (Controller::format does it right)"
        }
        AdminOpcode::NAMESPACE_MANAGEMENT | AdminOpcode::NAMESPACE_ATTACHMENT => {
            "it changes which namespaces there are (Controller::rescan afterwards)"
        }
        AdminOpcode::VIRTUALIZATION_MANAGEMENT => "it may take queues away",
        AdminOpcode::FABRICS => "it has no meaning on this transport",
        AdminOpcode::SET_FEATURES => return harm_of_feature(SetFeatures::from_sqe(sqe).fid),
        _ => return None,
    })
}

fn harm_of_feature(id: FeatureId) -> Option<&'static str> {
    Some(match id {
        FeatureId::NUMBER_OF_QUEUES => "the number of queues is agreed at bring-up",
        FeatureId::HOST_MEMORY_BUFFER => "it gives the device memory that nobody keeps for it",
        FeatureId::COMMAND_SET_PROFILE => "it changes which commands the device has",
        FeatureId::ASYNC_EVENTS => "the driver asks for the events (Controller::events)",
        _ => return None,
    })
}

impl Inner {
    /// Refuses what [`harm`]s.
    pub(crate) fn refuse_harm(&self, sqe: &Sqe) -> Result<(), Error> {
        match harm(sqe) {
            None => Ok(()),
            Some(why) => Err(Error::WouldBreakDriver {
                device: self.transport.name(),
                command: AdminOpcode(sqe.opcode()).to_string(),
                why,
            }),
        }
    }

    /// Refuses a command that the device does not have.
    pub(crate) fn need(&self, has: bool, command: &str, why: &'static str) -> Result<(), Error> {
        match has {
            true => Ok(()),
            false => Err(Error::NotSupported {
                device: self.transport.name(),
                command: command.to_owned(),
                why: why.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reading is harmless; what makes or unmakes queues, namespaces and doorbells is not.
    #[test]
    fn what_the_driver_relies_on_is_not_changed() {
        for (opcode, cdw10, harms) in [
            (AdminOpcode::IDENTIFY, 1, false),
            (AdminOpcode::GET_LOG_PAGE, 0x07, false),
            (AdminOpcode::GET_FEATURES, 0x07, false),
            (AdminOpcode::SET_FEATURES, 0x04, false),
            (AdminOpcode::ABORT, 0, false),
            (AdminOpcode(0xc0), 0, false),
            (AdminOpcode::DELETE_IO_SQ, 1, true),
            (AdminOpcode::CREATE_IO_CQ, 1, true),
            (AdminOpcode::DOORBELL_BUFFER_CONFIG, 0, true),
            (AdminOpcode::ASYNC_EVENT_REQUEST, 0, true),
            (AdminOpcode::FORMAT_NVM, 0, true),
            (AdminOpcode::SET_FEATURES, 0x07, true),
            (AdminOpcode::SET_FEATURES, 0x8000_000d, true),
        ] {
            let sqe = Sqe::new().with_opcode(opcode.0).with_cdw10(cdw10);
            assert_eq!(harm(&sqe).is_some(), harms, "{opcode} {cdw10:#x}");
        }
    }
}
