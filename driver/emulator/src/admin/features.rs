//! Get and Set Features (Base 2.0, 5.15 and 5.27): the number of queues, the write cache, write
//! protection, and values that are only kept. Some can be saved over resets.
use super::{INVALID_FIELD, Reaction};
use crate::abilities::{SAVE, TIMESTAMP};
use crate::core::Machine;
use crate::intake::Intake;
use underpin_nvme_spec::admin::{
    FeatureAbility, FeatureId, FeatureSelect, GetFeatures, QueueCounts, SetFeatures,
    TemperatureThreshold,
};
use underpin_nvme_spec::{Nsid, Sqe, Status};

/// Features whose value is a number that is kept, and whether it can be saved.
const KEPT: [(FeatureId, bool); 8] = [
    (FeatureId::ARBITRATION, false),
    (FeatureId::POWER_MANAGEMENT, false),
    (FeatureId::TEMPERATURE_THRESHOLD, true),
    (FeatureId::ERROR_RECOVERY, true),
    (FeatureId::INTERRUPT_COALESCING, false),
    (FeatureId::INTERRUPT_VECTOR, false),
    (FeatureId::WRITE_ATOMICITY, false),
    (FeatureId::ASYNC_EVENTS, false),
];

/// Bytes of the features whose value lies in memory.
const TIMESTAMP_BYTES: usize = 8;
const HOST_ID_BYTES: usize = 16;

/// Values that can be set; a reset takes them back to what was saved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    /// I/O queues granted, of each kind.
    pub(crate) queues: u16,
    pub(crate) write_cache: bool,
    kept: [u32; KEPT.len()],
    /// Milliseconds as set, with their origin; the clock stands still between sets.
    timestamp: [u8; TIMESTAMP_BYTES],
    host_id: [u8; HOST_ID_BYTES],
    /// What outlives a reset.
    saved: [u32; KEPT.len()],
}

impl Features {
    pub(crate) const fn new(queues: u16, write_cache: bool) -> Self {
        Self {
            queues,
            write_cache,
            kept: [0; KEPT.len()],
            timestamp: [0; TIMESTAMP_BYTES],
            host_id: [0; HOST_ID_BYTES],
            saved: [0; KEPT.len()],
        }
    }

    /// After a reset: what was saved, and the defaults of the rest.
    pub(crate) const fn after_reset(&self, queues: u16, write_cache: bool) -> Self {
        Self {
            kept: self.saved,
            saved: self.saved,
            ..Self::new(queues, write_cache)
        }
    }

    /// The value of a feature that is a number; 0 for others.
    pub(crate) fn kept_value(&self, id: FeatureId) -> u32 {
        kept(id)
            .and_then(|at| self.kept.get(at))
            .copied()
            .unwrap_or(0)
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
    KEPT.iter().position(|(known, _)| *known == id)
}

fn can_be_saved(id: FeatureId) -> bool {
    KEPT.contains(&(id, true))
}

const fn granted(queues: u16) -> u32 {
    let counts = QueueCounts {
        submission: queues,
        completion: queues,
    };
    counts.to_cdw()
}

/// Bytes of a feature's value in memory.
const fn data_bytes(id: FeatureId, cdw11: u32) -> Option<usize> {
    match id {
        FeatureId::TIMESTAMP => Some(TIMESTAMP_BYTES),
        // EXHID chooses between 8 and 16 bytes (Base 2.0, 5.27.1.25).
        FeatureId::HOST_IDENTIFIER if cdw11 & 1 == 0 => Some(HOST_ID_BYTES / 2),
        FeatureId::HOST_IDENTIFIER => Some(HOST_ID_BYTES),
        _ => None,
    }
}

impl Machine {
    pub(super) fn set_features(&mut self, sqe: &Sqe) -> Reaction {
        let command = SetFeatures::from_sqe(sqe);
        if command.save && !can_be_saved(command.fid) {
            return Status::FEATURE_NOT_SAVEABLE.with_do_not_retry().into();
        }
        let abilities = &self.supports.abilities;
        let lacks = command.save && !abilities.has(SAVE)
            || command.fid == FeatureId::TIMESTAMP && !abilities.has(TIMESTAMP);
        if lacks {
            return INVALID_FIELD.into();
        }
        if let Some(len_bytes) = data_bytes(command.fid, command.cdw11) {
            return Reaction::Take(Intake::new(sqe, len_bytes, &self.limits));
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
            FeatureId::WRITE_PROTECTION => self.protect(&command).into(),
            FeatureId::TEMPERATURE_THRESHOLD
                if TemperatureThreshold::from_cdw(command.cdw11).sensor != 0 =>
            {
                // There is no sensor but the composite one.
                INVALID_FIELD.into()
            }
            id => self.keep(id, command.cdw11, command.save),
        }
    }

    fn keep(&mut self, id: FeatureId, number: u32, save: bool) -> Reaction {
        let at = kept(id);
        let Some(value) = at.and_then(|at| self.features.kept.get_mut(at)) else {
            return INVALID_FIELD.into();
        };
        *value = number;
        if save && let Some(saved) = at.and_then(|at| self.features.saved.get_mut(at)) {
            *saved = number;
        }
        if id == FeatureId::TEMPERATURE_THRESHOLD {
            self.weigh_temperature();
        }
        Status::SUCCESS.into()
    }

    /// Namespace Write Protection Config (Base 2.0, 5.27.1.30): states 0 and 1 are there.
    fn protect(&mut self, command: &SetFeatures) -> Result<(), Status> {
        let state = command.cdw11 & 0b111;
        let namespace = self.named_namespace(command.nsid)?;
        match state {
            0 if namespace.read_only => Err(Status::FEATURE_NOT_CHANGEABLE.with_do_not_retry()),
            0 | 1 => {
                if namespace.medium.flush().is_err() {
                    return Err(Status::WRITE_FAULT);
                }
                namespace.medium.protect(state == 1);
                Ok(())
            }
            _ => Err(INVALID_FIELD),
        }
    }

    fn named_namespace(&mut self, nsid: Nsid) -> Result<&mut crate::namespace::Namespace, Status> {
        let mut all = self.namespaces.iter_mut();
        let found = all.find(|namespace| namespace.nsid == nsid.0 && !namespace.gone);
        found.ok_or(Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry())
    }

    /// The value of a feature that lies in memory has come.
    pub(super) fn set_feature_data(&mut self, sqe: &Sqe, bytes: &[u8]) -> Reaction {
        let copy = |to: &mut [u8]| to.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        match SetFeatures::from_sqe(sqe).fid {
            FeatureId::TIMESTAMP => {
                self.features.timestamp = [0; TIMESTAMP_BYTES];
                copy(&mut self.features.timestamp);
                // Six bytes of milliseconds; then the origin, here: a Set Features command.
                let [.., origin, reserved] = &mut self.features.timestamp;
                (*origin, *reserved) = (1 << 1, 0);
            }
            _ => {
                self.features.host_id = [0; HOST_ID_BYTES];
                copy(&mut self.features.host_id);
            }
        }
        Status::SUCCESS.into()
    }

    pub(super) fn get_features(&mut self, sqe: &Sqe) -> Reaction {
        let command = GetFeatures::from_sqe(sqe);
        let id = command.fid;
        let abilities = &self.supports.abilities;
        let lacks = id == FeatureId::VOLATILE_WRITE_CACHE && !self.supports.vwc
            || id == FeatureId::TIMESTAMP && !abilities.has(TIMESTAMP);
        if lacks {
            return INVALID_FIELD.into();
        }
        if command.sel == FeatureSelect::SUPPORTED {
            return self.ability(id);
        }
        if let Some(len_bytes) = data_bytes(id, command.cdw11) {
            let value = match (command.sel, id) {
                (FeatureSelect::CURRENT, FeatureId::TIMESTAMP) => self.features.timestamp.to_vec(),
                (FeatureSelect::CURRENT, _) => self.features.host_id.to_vec(),
                (FeatureSelect::DEFAULT | FeatureSelect::SAVED, _) => vec![0; HOST_ID_BYTES],
                _ => return INVALID_FIELD.into(),
            };
            let value = value.get(..len_bytes).unwrap_or(&[]).to_vec();
            return Reaction::Reply(self.reply(sqe, value));
        }
        if id == FeatureId::WRITE_PROTECTION {
            let current = command.sel == FeatureSelect::CURRENT;
            return match self.named_namespace(command.nsid) {
                Ok(namespace) => {
                    let state = current && namespace.medium.is_protected();
                    Reaction::Done(Status::SUCCESS, u32::from(state))
                }
                Err(status) => status.into(),
            };
        }
        let default = Features::new(self.supports.queues, self.supports.vwc);
        let value = match command.sel {
            FeatureSelect::CURRENT => self.features.value(id),
            FeatureSelect::DEFAULT => default.value(id),
            FeatureSelect::SAVED => match kept(id).filter(|_| can_be_saved(id)) {
                Some(at) => self.features.saved.get(at).copied(),
                // Base 2.0, 5.15.1: without a saved value the default is returned.
                None => default.value(id),
            },
            _ => None,
        };
        match value {
            Some(value) => Reaction::Done(Status::SUCCESS, value),
            None => INVALID_FIELD.into(),
        }
    }

    fn ability(&self, id: FeatureId) -> Reaction {
        let there = self.features.value(id).is_some()
            || data_bytes(id, 0).is_some()
            || id == FeatureId::WRITE_PROTECTION;
        let ability = FeatureAbility {
            saveable: can_be_saved(id),
            per_namespace: id == FeatureId::WRITE_PROTECTION,
            changeable: true,
        };
        match there {
            true => Reaction::Done(Status::SUCCESS, ability.to_dword()),
            false => INVALID_FIELD.into(),
        }
    }
}
