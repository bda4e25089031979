//! Whose fault it is that a command is late: a host that was away itself (a stopped process, a
//! suspended machine) may have had its device away with it, and gives it one moment more.
use super::PATIENCE;
use crate::dma::rt::Instant;
use std::time::Duration;

/// Between two looks at the clock.
#[derive(Debug)]
pub(super) struct Patience {
    /// A host that did not look for longer was away; and so long it waits when it is back.
    grace: Duration,
    last_look: Option<Instant>,
    was_away: bool,
    /// Until when late commands are pardoned. One pardon for all that are late together: a host
    /// that always looks seldom is not for ever patient.
    pardon: Option<Instant>,
}

impl Patience {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            // A sleeper looks once in PATIENCE by itself.
            grace: (timeout / 2).min(2 * PATIENCE),
            last_look: None,
            was_away: false,
            pardon: None,
        }
    }

    /// The clock is looked at.
    pub(super) fn look(&mut self, now: Instant) {
        let last = self.last_look.replace(now);
        self.was_away = last.is_some_and(|last| now.since(last) > self.grace);
    }

    /// No command is late.
    pub(super) fn none_late(&mut self) {
        self.pardon = None;
    }

    /// Asked when commands are late: whether that is the device's fault by now.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        match self.pardon {
            Some(until) => now >= until,
            None if self.was_away => {
                self.pardon = Some(now + self.grace);
                false
            }
            None => true,
        }
    }

    /// When a command that is late at `late` can first be held against the device.
    pub(super) fn earliest(&self, late: Instant) -> Instant {
        self.pardon.map_or(late, |until| late.max(until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Who looked all the time blames at once; who was away pardons once, for a moment.
    #[test]
    fn one_pardon_for_a_host_that_was_away() {
        let start = Instant::now();
        let mut patience = Patience::new(1000 * MS);
        patience.look(start);
        patience.look(start + 150 * MS);
        assert!(patience.is_over(start + 150 * MS), "it looked");
        patience.look(start + 5000 * MS);
        assert!(!patience.is_over(start + 5000 * MS), "it was away");
        assert_eq!(patience.earliest(start), start + 5200 * MS);
        patience.look(start + 5100 * MS);
        assert!(!patience.is_over(start + 5100 * MS));
        patience.look(start + 9000 * MS);
        assert!(patience.is_over(start + 9000 * MS), "a second pardon");
        patience.none_late();
        patience.look(start + 19_000 * MS);
        assert!(!patience.is_over(start + 19_000 * MS), "another time");
    }

    /// A deadline is never more than half as long again, however short.
    #[test]
    fn a_pardon_is_shorter_than_the_deadline() {
        let start = Instant::now();
        let mut patience = Patience::new(20 * MS);
        patience.look(start);
        patience.look(start + 30 * MS);
        assert!(!patience.is_over(start + 30 * MS));
        assert!(patience.is_over(start + 40 * MS));
    }
}
