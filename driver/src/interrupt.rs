//! The interrupt of one queue: its vector, the event that it signals, and the mask before it.
//! Masked while the queue's owner polls anyway; unmasked, and looked behind, before it sleeps.
use crate::dma::rt::Event;
use crate::{Error, Transport, TransportError};
use std::sync::Arc;
use underpin_nvme_spec::Qid;

/// A queue's interrupt.
#[derive(Debug)]
pub(crate) struct Interrupt {
    transport: Arc<dyn Transport>,
    vector: u16,
    event: Event,
    /// Mask it while the owner polls.
    masks: bool,
    masked: bool,
    /// Signals of the event, taken or still to be, that no device has sent.
    own_signals: u64,
}

impl Interrupt {
    /// The vector with the queue's number: each queue has one of its own, for whoever clears a
    /// shared event takes another's wake-up with it.
    pub(crate) fn new(
        transport: &Arc<dyn Transport>,
        qid: Qid,
        masks: bool,
    ) -> Result<Self, Error> {
        let count = transport.interrupt_count();
        if qid.0 >= count {
            return Err(Error::Unsupported {
                device: transport.name(),
                why: format!(
                    "queue {qid} needs interrupt vector {qid} and the device has {count} vectors; use Waiting::Poll, or fewer queues"
                ),
            });
        }
        let event = transport.interrupt(qid.0)?;
        // As an earlier queue of this number may have left it.
        transport.mask(qid.0, false)?;
        Ok(Self {
            transport: Arc::clone(transport),
            vector: qid.0,
            event,
            masks,
            masked: false,
            own_signals: 0,
        })
    }

    pub(crate) const fn vector(&self) -> u16 {
        self.vector
    }

    pub(crate) const fn event(&self) -> &Event {
        &self.event
    }

    /// The owner polls from now on.
    pub(crate) fn mask(&mut self) -> Result<(), TransportError> {
        if self.masks && !self.masked {
            self.transport.mask(self.vector, true)?;
            self.masked = true;
        }
        Ok(())
    }

    /// So many signals of the event are the host's own: to wake the queue's thread for something
    /// else.
    pub(crate) const fn add_own_signals(&mut self, count: u64) {
        self.own_signals += count;
    }

    /// From now on the event tells of completions. What was written before may not be told: the
    /// owner looks again after this call, and only then sleeps.
    ///
    /// Why no wake-up is lost. The owner: unmask (U), clear the event (C), look at the ring (L),
    /// sleep until the event is set. The device: write the completion (W), then, unless masked,
    /// signal (S). If L does not see W, then W is after L, so S is after C, and nothing takes it
    /// back: the sleep ends. And S is not kept behind the mask: U was before L and so before W,
    /// with a full fence on both sides, so the device reads the mask as open; what it had put
    /// off before is delivered by U itself. If S is before C, W was before L, and L sees it.
    ///
    /// Returns how many interrupts were received since the last time.
    pub(crate) fn arm(&mut self) -> Result<u64, TransportError> {
        if self.masked {
            self.transport.mask(self.vector, false)?;
            self.masked = false;
        }
        let signals = self.event.take();
        let own = signals.min(self.own_signals);
        self.own_signals -= own;
        Ok(signals - own)
    }
}
