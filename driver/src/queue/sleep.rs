//! What a queue's owner asks before it sleeps: is anything there, can anything come, and until
//! when may nobody look.
use super::{PATIENCE, Queue};
use crate::TransportError;
use crate::dma::barrier;
use crate::dma::rt::Instant;
use crate::interrupt::Interrupt;
use crate::slots::SlotState;
use crate::wait::Armed;
use std::time::Duration;

/// After that a sleeper looks whether the device's state, for which it has asked, has come.
const ANSWER: Duration = Duration::from_millis(10);

impl<B> Queue<B> {
    /// True when a poll would find something: a completion, or a failure that is not told yet.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        // Nobody takes what lies in the ring once the controller has failed.
        if self.health.is_failed() {
            return self.is_owed();
        }
        self.completions.has_next()
    }

    /// True when requests are in flight whose end was not told.
    pub(crate) fn is_owed(&self) -> bool {
        let owes = |state: SlotState| state.is_in_flight() || state == SlotState::Ended;
        self.in_flight() > 0 && self.slots.iter().any(|slot| owes(slot.state()))
    }

    /// Makes the interrupt tell of what comes, and looks again.
    pub(crate) fn arm(&mut self, interrupt: &mut Interrupt) -> Armed {
        self.ring();
        match interrupt.arm() {
            Ok(received) => self.stats.interrupts = self.stats.interrupts.wrapping_add(received),
            Err(error) => self.transport_failed(&error),
        }
        barrier::full();
        if self.has_news() {
            return Armed::Ready;
        }
        match self.next_look() {
            // Late commands, or a dead device.
            _ if self.has_news() => Armed::Ready,
            until => Armed::Sleep { until },
        }
    }

    /// Looks at the clock now, as a sleeper's polls are few, and says when that is due again: for
    /// the oldest command's deadline and for the device's state, which a sleeping owner would not
    /// notice. `None` when nothing is in flight.
    pub(crate) fn next_look(&mut self) -> Option<Instant> {
        self.look_at_clock();
        let patience = match self.is_asking {
            true => ANSWER,
            false => PATIENCE,
        };
        let (timeout, patience) = (self.timeout, Instant::now() + patience);
        let flying = self.slots.iter().filter(|slot| slot.state().is_in_flight());
        let late = flying.filter_map(|slot| slot.first_seen().map(|seen| seen + timeout));
        let late = late.min().map(|late| self.patience.earliest(late));
        late.map(|late| late.min(patience))
    }

    #[cold]
    pub(crate) fn transport_failed(&self, error: &TransportError) {
        self.fail(crate::Failure::Transport(error.to_string()));
    }
}
