//! Get and Set Features (Base 2.0, 5.15 and 5.27): the number of queues, the write cache, and a
//! few values that are only kept.
use super::{INVALID_FIELD, Reaction};
use crate::core::Machine;
use underpin_nvme_spec::admin::{FeatureId, GetFeatures, QueueCounts, SetFeatures};
use underpin_nvme_spec::{Sqe, Status};

/// Features that are kept and given back without meaning anything here.
const KEPT: [FeatureId; 8] = [
    FeatureId::ARBITRATION,
    FeatureId::POWER_MANAGEMENT,
    FeatureId::TEMPERATURE_THRESHOLD,
    FeatureId::ERROR_RECOVERY,
    FeatureId::INTERRUPT_COALESCING,
    FeatureId::INTERRUPT_VECTOR,
    FeatureId::WRITE_ATOMICITY,
    FeatureId::ASYNC_EVENTS,
];

/// Values that can be set; a reset takes them back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    /// I/O queues granted, of each kind.
    pub(crate) queues: u16,
    pub(crate) write_cache: bool,
    kept: [u32; KEPT.len()],
}

impl Features {
    pub(crate) const fn new(queues: u16, write_cache: bool) -> Self {
        Self {
            queues,
            write_cache,
            kept: [0; KEPT.len()],
        }
    }

    fn value(&self, id: FeatureId) -> Option<u32> {
        match id {
            FeatureId::NUMBER_OF_QUEUES => Some(granted(self.queues)),
            FeatureId::VOLATILE_WRITE_CACHE => Some(u32::from(self.write_cache)),
            id => self.kept.get(kept(id)?).copied(),
        }
    }
}

fn kept(id: FeatureId) -> Option<usize> {
    KEPT.iter().position(|known| *known == id)
}

const fn granted(queues: u16) -> u32 {
    let counts = QueueCounts {
        submission: queues,
        completion: queues,
    };
    counts.to_cdw()
}

impl Machine {
    pub(super) fn set_features(&mut self, sqe: &Sqe) -> Reaction {
        let command = SetFeatures::from_sqe(sqe);
        if command.save {
            return Status::FEATURE_NOT_SAVEABLE.with_do_not_retry().into();
        }
        match command.fid {
            FeatureId::NUMBER_OF_QUEUES => {
                // Base 2.0, 5.27.1.5: before any I/O queue exists; 65,535 cannot be asked for.
                if self.has_io_queues() {
                    return Status::COMMAND_SEQUENCE_ERROR.with_do_not_retry().into();
                }
                if command.cdw11 & 0xffff == 0xffff || command.cdw11 >> 16 == 0xffff {
                    return INVALID_FIELD.into();
                }
                let asked = QueueCounts::from_cdw(command.cdw11);
                let queues = asked.submission.min(asked.completion);
                self.features.queues = queues.min(self.supports.queues);
                Reaction::Done(Status::SUCCESS, granted(self.features.queues))
            }
            FeatureId::VOLATILE_WRITE_CACHE => {
                if !self.supports.vwc {
                    return INVALID_FIELD.into();
                }
                self.features.write_cache = command.cdw11 & 1 != 0;
                self.limits.write_through = !self.features.write_cache;
                // What the cache held becomes durable when it is switched off.
                match self.features.write_cache {
                    true => Status::SUCCESS.into(),
                    false => self.flush_all().into(),
                }
            }
            id => match kept(id).and_then(|at| self.features.kept.get_mut(at)) {
                Some(value) => {
                    *value = command.cdw11;
                    Status::SUCCESS.into()
                }
                None => INVALID_FIELD.into(),
            },
        }
    }

    pub(super) fn get_features(&mut self, sqe: &Sqe) -> Reaction {
        const CURRENT: u8 = 0;
        const DEFAULT: u8 = 1;
        const SAVED: u8 = 2;
        const SUPPORTED: u8 = 3;
        /// Changeable, neither saveable nor per namespace.
        const CHANGEABLE: u32 = 1 << 2;
        let command = GetFeatures::from_sqe(sqe);
        if command.fid == FeatureId::VOLATILE_WRITE_CACHE && !self.supports.vwc {
            return INVALID_FIELD.into();
        }
        let Some(current) = self.features.value(command.fid) else {
            return INVALID_FIELD.into();
        };
        let default = Features::new(self.supports.queues, self.supports.vwc);
        let value = match command.sel.0 {
            CURRENT => current,
            DEFAULT | SAVED => default.value(command.fid).unwrap_or(0),
            SUPPORTED => CHANGEABLE,
            _ => return INVALID_FIELD.into(),
        };
        Reaction::Done(Status::SUCCESS, value)
    }
}
