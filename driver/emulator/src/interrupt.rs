//! Interrupt vectors, as MSI-X has them: an event each, a mask, and what waits behind the mask.
//! The controller raises; whoever serves the host gives the events and masks.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use underpin_dma::rt::Event;
use underpin_dma::rt::sync::Mutex;

/// One vector.
#[derive(Debug, Default)]
struct Vector {
    event: Mutex<Option<Event>>,
    masked: AtomicBool,
    /// It was raised while masked: its bit in MSI-X's pending bit array.
    pending: AtomicBool,
}

impl Vector {
    fn signal(&self) -> bool {
        let event = self.event.lock();
        event.as_ref().inspect(|event| event.signal()).is_some()
    }
}

/// The vectors of one controller.
#[derive(Debug)]
pub(crate) struct Vectors {
    vectors: Vec<Vector>,
    /// Events signalled.
    pub(crate) raised: AtomicU64,
}

impl Vectors {
    pub(crate) fn new(count: u16) -> Self {
        Self {
            vectors: (0..count).map(|_| Vector::default()).collect(),
            raised: AtomicU64::new(0),
        }
    }

    pub(crate) fn count(&self) -> u16 {
        self.vectors.len() as u16
    }

    fn get(&self, vector: u16) -> Option<&Vector> {
        self.vectors.get(usize::from(vector))
    }

    /// False when there is no such vector.
    pub(crate) fn set(&self, vector: u16, event: Option<Event>) -> bool {
        let Some(vector) = self.get(vector) else {
            return false;
        };
        let old = std::mem::replace(&mut *vector.event.lock(), event);
        // Not under the lock: closing a descriptor is a system call.
        drop(old);
        true
    }

    /// False when there is no such vector.
    pub(crate) fn mask(&self, vector: u16, masked: bool) -> bool {
        let Some(vector) = self.get(vector) else {
            return false;
        };
        vector.masked.store(masked, Ordering::SeqCst);
        // What was raised meanwhile is delivered now.
        if !masked && vector.pending.swap(false, Ordering::SeqCst) {
            self.count_signal(vector.signal());
        }
        true
    }

    /// Signals the vector's event, or remembers to do so when it is unmasked. Completions written
    /// before are seen by a host that unmasks and then looks, or is signalled.
    #[cold]
    pub(crate) fn raise(&self, vector: u16) {
        let Some(vector) = self.get(vector) else {
            return;
        };
        // The host unmasks, fences, and looks for completions; here they were written, and then
        // the mask is read. With full fences between, one of the two sees the other.
        fence(Ordering::SeqCst);
        if vector.masked.load(Ordering::SeqCst) {
            vector.pending.store(true, Ordering::SeqCst);
            // Unmasked since: whoever takes the bit signals.
            let unmasked = !vector.masked.load(Ordering::SeqCst);
            if !unmasked || !vector.pending.swap(false, Ordering::SeqCst) {
                return;
            }
        }
        self.count_signal(vector.signal());
    }

    fn count_signal(&self, signalled: bool) {
        self.raised
            .fetch_add(u64::from(signalled), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Nothing is signalled while masked; what was raised then comes with the unmasking, once.
    #[test]
    fn what_is_raised_behind_the_mask_is_delivered_at_its_end() {
        let vectors = Vectors::new(2);
        let event = Event::new().unwrap();
        assert!(vectors.set(1, Some(event.clone())));
        vectors.raise(1);
        assert!(event.clear());
        assert!(vectors.mask(1, true));
        vectors.raise(1);
        vectors.raise(1);
        assert!(!event.is_set());
        assert!(vectors.mask(1, false));
        assert!(event.clear());
        assert!(vectors.mask(1, true) && vectors.mask(1, false));
        assert!(!event.is_set(), "it was delivered already");
        assert_eq!(vectors.raised.load(Ordering::Relaxed), 2);
    }

    /// A vector without an event, or that does not exist, is nobody's business.
    #[test]
    fn nobody_need_listen() {
        let vectors = Vectors::new(1);
        vectors.raise(0);
        vectors.raise(7);
        assert!(!vectors.set(1, None) && !vectors.mask(1, true));
        assert!(vectors.set(0, None));
        assert_eq!(vectors.raised.load(Ordering::Relaxed), 0);
    }
}
