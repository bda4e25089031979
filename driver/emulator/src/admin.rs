//! Admin commands: which family answers which opcode, and what an answer can be.
//! Every field is the host's and is checked here or in the family.
mod features;
mod queues;

pub(crate) use features::Features;

use crate::core::{Cx, Machine};
use crate::job::Reply;
use crate::shadow::ShadowPages;
use std::sync::atomic::Ordering;
use underpin_nvme_spec::admin::{Abort, DoorbellBufferConfig, Identify};
use underpin_nvme_spec::{AdminOpcode, Sqe, Status};

/// Asynchronous Event Requests that can be outstanding.
pub(crate) const ASYNC_EVENTS: u8 = 4;

/// What becomes of a command once it was looked at.
#[derive(Debug)]
pub(crate) enum Reaction {
    /// It ends with this status and dword 0.
    Done(Status, u32),
    /// Bytes are to be written to the host first.
    Reply(Reply),
    /// It stays without an end until something happens that never does here.
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
            AdminOpcode::ASYNC_EVENT_REQUEST => {
                if self.async_events == ASYNC_EVENTS {
                    return Status::ASYNC_EVENT_LIMIT_EXCEEDED
                        .with_do_not_retry()
                        .into();
                }
                self.async_events += 1;
                Reaction::Held
            }
            AdminOpcode::DOORBELL_BUFFER_CONFIG if self.supports.dbbuf => {
                self.doorbell_buffers(cx, sqe).into()
            }
            _ => INVALID_OPCODE.into(),
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

    /// Base 2.0, 5.1: a command that waits is aborted; one that does not is too far.
    fn abort(&mut self, sqe: &Sqe) -> Reaction {
        self.stats.aborts += 1;
        let Abort { sqid, cid } = Abort::from_sqe(sqe);
        let aborted = self.abort_job(sqid.0, cid.0, Status::ABORT_REQUESTED);
        // Bit 0: the command was not aborted.
        Reaction::Done(Status::SUCCESS, u32::from(!aborted))
    }

    /// Base 2.0, 5.16. Errors, health and firmware slots: nothing is to be said of them.
    fn log_page(&mut self, sqe: &Sqe) -> Reaction {
        const LENGTHS: [(u8, usize); 3] = [(0x01, 64), (0x02, 512), (0x03, 512)];
        let lid = sqe.cdw10() as u8;
        let Some(&(_, length)) = LENGTHS.iter().find(|(known, _)| *known == lid) else {
            return Status::INVALID_LOG_PAGE.with_do_not_retry().into();
        };
        // Number of dwords, counted from 0, in two halves; an offset leads past the page's end.
        let dwords = u64::from(sqe.cdw10() >> 16) | u64::from(sqe.cdw11() & 0xffff) << 16;
        let len_bytes = (dwords + 1) * 4;
        if sqe.cdw12() != 0 || sqe.cdw13() != 0 || len_bytes > length as u64 {
            return INVALID_FIELD.into();
        }
        Reaction::Reply(self.reply(sqe, vec![0; len_bytes as usize]))
    }
}
