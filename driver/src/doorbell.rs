//! Tells the device how far a ring has moved: by register, or by shadow doorbell and EventIdx.
//! With shadow doorbells the register is written only when the device asked to be woken.
use crate::dma::{Word32, barrier};
use crate::{Transport, TransportError};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One doorbell: a submission queue's tail or a completion queue's head.
#[derive(Debug)]
pub(crate) struct Doorbell {
    transport: Arc<dyn Transport>,
    /// Of the register, in BAR0.
    offset: usize,
    shadow: Option<Shadow>,
    /// What was last told.
    told: u16,
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
        shadow: Option<Shadow>,
    ) -> Self {
        Self {
            transport,
            offset,
            shadow,
            told: 0,
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
            if !crossed(event_idx, index, before) {
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
        self.transport.write32(self.offset, u32::from(index))
    }
}

/// True when moving from `before` to `now` passes `event_idx`: the rule of Annex B.5, in modulo
/// 2^16 arithmetic. At the ring's wrap it may say yes needlessly, never no wrongly.
#[inline(always)]
const fn crossed(event_idx: u16, now: u16, before: u16) -> bool {
    now.wrapping_sub(event_idx).wrapping_sub(1) < now.wrapping_sub(before)
}

#[cfg(test)]
mod tests {
    use super::crossed;

    /// A device that has seen everything (EventIdx = the old value) is always woken; one that
    /// lags is not, unless the ring wraps.
    #[test]
    fn wakes_exactly_a_device_that_has_seen_all() {
        for size in [2_u16, 3, 32, 1024] {
            for before in 0..size {
                for step in 1..size {
                    let now = (before + step) % size;
                    assert!(crossed(before, now, before), "{before} -> {now} of {size}");
                }
            }
        }
        assert!(!crossed(3, 10, 5), "it lags behind: it is awake");
        assert!(crossed(7, 10, 5), "it asked to be woken on the way");
        assert!(!crossed(10, 10, 5), "it asks for what comes after");
    }
}
