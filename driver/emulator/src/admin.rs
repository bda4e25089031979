//! Admin commands: which family answers which opcode, and what an answer can be.
//! Every field is the host's and is checked here or in the family.
mod abort;
mod events;
mod features;
mod format;
mod log;
mod queues;

pub use events::Notice;
pub(crate) use events::{ASYNC_EVENTS, Events, NoticeBoard};
pub(crate) use features::Features;

use crate::core::{Cx, Machine};
use crate::intake::Intake;
use crate::job::Reply;
use crate::shadow::ShadowPages;
use std::sync::atomic::Ordering;
use underpin_nvme_spec::admin::{DoorbellBufferConfig, Identify};
use underpin_nvme_spec::{AdminOpcode, Sqe, Status};

/// What becomes of a command once it was looked at.
#[derive(Debug)]
pub(crate) enum Reaction {
    /// It ends with this status and dword 0.
    Done(Status, u32),
    /// Bytes are to be written to the host first.
    Reply(Reply),
    /// Bytes are to be read from the host first; what they are worth is asked with them.
    Take(Intake),
    /// It stays without an end until something happens.
    Held,
}

const INVALID_FIELD: Status = Status::INVALID_FIELD.with_do_not_retry();
const INVALID_OPCODE: Status = Status::INVALID_OPCODE.with_do_not_retry();

impl From<Status> for Reaction {
    fn from(status: Status) -> Self {
        Self::Done(status, 0)
    }
}

impl From<Result<(), Status>> for Reaction {
    fn from(result: Result<(), Status>) -> Self {
        Self::Done(result.err().unwrap_or(Status::SUCCESS), 0)
    }
}

impl Machine {
    /// Executes an admin command, but for the transfer of its answer.
    pub(crate) fn admin(&mut self, cx: &Cx<'_>, sqe: &Sqe) -> Reaction {
        if sqe.fuse() != 0 || sqe.psdt() != 0 {
            return INVALID_FIELD.into();
        }
        match AdminOpcode(sqe.opcode()) {
            AdminOpcode::IDENTIFY => {
                let command = Identify::from_sqe(sqe);
                match self.identity.page(&self.namespaces, &command) {
                    Ok(page) => Reaction::Reply(self.reply(sqe, page.to_vec())),
                    Err(status) => status.into(),
                }
            }
            AdminOpcode::CREATE_IO_CQ => self.create_cq(cx, sqe).into(),
            AdminOpcode::CREATE_IO_SQ => self.create_sq(cx, sqe).into(),
            AdminOpcode::DELETE_IO_SQ => self.delete_sq(cx, sqe).into(),
            AdminOpcode::DELETE_IO_CQ => self.delete_cq(cx, sqe).into(),
            AdminOpcode::SET_FEATURES => self.set_features(sqe),
            AdminOpcode::GET_FEATURES => self.get_features(sqe),
            AdminOpcode::GET_LOG_PAGE => self.log_page(sqe),
            AdminOpcode::ABORT => self.abort(sqe),
            AdminOpcode::ASYNC_EVENT_REQUEST => self.request_event(sqe),
            AdminOpcode::FORMAT_NVM if self.supports.abilities.format => self.format(sqe),
            AdminOpcode::DOORBELL_BUFFER_CONFIG if self.supports.dbbuf => {
                self.doorbell_buffers(cx, sqe).into()
            }
            _ => INVALID_OPCODE.into(),
        }
    }

    /// The data of an admin command have come.
    pub(crate) fn admin_data(&mut self, sqe: &Sqe, bytes: &[u8]) -> Reaction {
        match AdminOpcode(sqe.opcode()) {
            AdminOpcode::SET_FEATURES => self.set_feature_data(sqe, bytes),
            _ => Status::INTERNAL_ERROR.into(),
        }
    }

    pub(crate) fn reply(&self, sqe: &Sqe, bytes: Vec<u8>) -> Reply {
        Reply::new(sqe, bytes, self.limits.page_bytes)
    }

    /// Base 2.0, 5.8. Queues made before it use the pages, too.
    fn doorbell_buffers(&mut self, cx: &Cx<'_>, sqe: &Sqe) -> Result<(), Status> {
        let command = DoorbellBufferConfig::from_sqe(sqe);
        let page_bytes = self.limits.page_bytes;
        if (command.shadow | command.event_idx) & (page_bytes - 1) != 0 {
            return Err(INVALID_FIELD);
        }
        self.shadow = Some(ShadowPages {
            shadow: command.shadow,
            event_idx: command.event_idx,
            page_bytes,
            stride_bytes: cx.shared.bar.cap().doorbell_stride_bytes() as u64,
        });
        self.close_rings();
        cx.shared.bar.shadowed.store(true, Ordering::Relaxed);
        Ok(())
    }
}
