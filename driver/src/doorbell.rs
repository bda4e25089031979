//! Tells the device how far a ring has moved: by register, or by shadow doorbell and EventIdx.
//! With shadow doorbells the register is written only when the device asked to be woken.
use crate::dma::{Word32, barrier};
use crate::{Transport, TransportError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use underpin_nvme_spec::{Qid, registers};

/// One doorbell: a submission queue's tail or a completion queue's head.
#[derive(Debug)]
pub(crate) struct Doorbell {
    transport: Arc<dyn Transport>,
    /// Of the register, in BAR0.
    offset: usize,
    shadow: Option<Shadow>,
    /// The register itself, where it can be written without the transport.
    mapped: Option<Word32>,
    /// What was last told.
    told: u16,
    /// Of the ring.
    entries: u16,
    /// How often the register was written.
    pub(crate) register_writes: u64,
}

/// Where the device looks for the doorbell's value, and where it says when to be woken
/// (NVMe Base 2.0, 5.8 and Annex B.5).
#[derive(Debug)]
pub(crate) struct Shadow {
    pub(crate) value: Word32,
    pub(crate) event_idx: Word32,
}

impl Doorbell {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        offset: usize,
        entries: u16,
        shadow: Option<Shadow>,
    ) -> Self {
        // The admin queue's doorbells stay with the transport: an idle device is woken by it.
        let is_admin = offset < registers::doorbell_sq(Qid(1), 0);
        let mapped = match shadow.is_none() && !is_admin {
            true => transport.doorbell_word(offset),
            false => None,
        };
        Self {
            transport,
            offset,
            shadow,
            mapped,
            told: 0,
            entries,
            register_writes: 0,
        }
    }

    /// Entries written before this call are visible to a device that sees the new value.
    #[inline(always)]
    pub(crate) fn ring(&mut self, index: u16) -> Result<(), TransportError> {
        let before = std::mem::replace(&mut self.told, index);
        if let Some(shadow) = &self.shadow {
            // SeqCst on both: the value is out before EventIdx is read, so that either we see the
            // device's wish to be woken or it sees our value when it looks again.
            shadow.value.swap(u32::from(index), Ordering::SeqCst);
            let event_idx = shadow.event_idx.load(Ordering::SeqCst) as u16;
            if !crossed(event_idx, index, before, self.entries) {
                return Ok(());
            }
        }
        self.write_register(index)
    }

    #[cold]
    #[inline(never)]
    fn write_register(&mut self, index: u16) -> Result<(), TransportError> {
        self.register_writes += 1;
        barrier::write();
        if let Some(word) = &self.mapped {
            word.store(u32::from(index), Ordering::Release);
            return Ok(());
        }
        self.transport.ring(self.offset, u32::from(index))
    }
}

/// True when moving from `before` to `now` passes `event_idx` (Annex B.5). Ring indices wrap at
/// the ring's end, not at 2^16, so the specification's modulo 2^16 formula would wake an awake
/// device at every wrap; this asks the same of the ring itself. An `event_idx` that is no index
/// of the ring is never passed: our emulator's way to say that it is awake.
#[inline(always)]
const fn crossed(event_idx: u16, now: u16, before: u16, entries: u16) -> bool {
    if before < now {
        before <= event_idx && event_idx < now
    } else {
        (before <= event_idx && event_idx < entries) || event_idx < now
    }
}

#[cfg(test)]
mod tests {
    use super::crossed;

    /// A device that has seen everything (EventIdx = the old value) is always woken; one whose
    /// EventIdx lies behind or ahead of the move is not; nor is one that says no index at all.
    #[test]
    fn wakes_exactly_a_device_whose_index_is_passed() {
        for entries in [2_u16, 3, 33, 64] {
            for before in 0..entries {
                for step in 1..entries {
                    let now = (before + step) % entries;
                    assert!(crossed(before, now, before, entries), "{before} -> {now}");
                    assert!(
                        !crossed(now, now, before, entries),
                        "it asks for what comes after"
                    );
                    assert!(!crossed(u16::MAX, now, before, entries), "it is awake");
                    let passed = (0..step).map(|at| (before + at) % entries);
                    let count = (0..entries)
                        .filter(|&e| crossed(e, now, before, entries))
                        .count();
                    assert_eq!(
                        count,
                        passed.count(),
                        "each index of the move, and no other"
                    );
                }
            }
        }
    }
}
