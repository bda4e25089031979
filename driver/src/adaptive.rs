//! When to poll on and when to sleep: a budget of time without news, counted from the last.
use crate::dma::rt::Instant;
use std::time::Duration;

/// Waits in a row that found something without sleeping, before the interrupt is masked: masking
/// is a system call or a message on some transports, and pays only for a queue that stays busy.
const BUSY_WAITS: u32 = 16;

/// How a queue's owner has fared lately.
#[derive(Debug)]
pub(crate) struct Pace {
    spin: Duration,
    /// Since when nothing was found.
    idle_since: Option<Instant>,
    busy_waits: u32,
}

impl Pace {
    pub(crate) const fn new(spin: Duration) -> Self {
        Self {
            spin,
            idle_since: None,
            busy_waits: 0,
        }
    }

    /// Something was found. True when that has gone on for so long that it may go on.
    pub(crate) fn busy(&mut self) -> bool {
        self.idle_since = None;
        self.busy_waits = self.busy_waits.saturating_add(1);
        self.busy_waits >= BUSY_WAITS
    }

    /// Nothing was found. Until when to go on looking; in the past when it is time to sleep.
    pub(crate) fn idle(&mut self, now: Instant) -> Instant {
        *self.idle_since.get_or_insert(now) + self.spin
    }

    /// The owner slept.
    pub(crate) fn slept(&mut self) {
        self.idle_since = None;
        self.busy_waits = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The budget runs from the last find, not from the last look; only a row of finds is busy.
    #[test]
    fn the_budget_is_of_time_without_news() {
        let at = |us| Instant::START + Duration::from_micros(us);
        let mut pace = Pace::new(Duration::from_micros(50));
        assert_eq!(pace.idle(at(10)), at(60));
        assert_eq!(pace.idle(at(59)), at(60));
        assert!(!pace.busy());
        assert_eq!(pace.idle(at(100)), at(150));
        for _ in 2..BUSY_WAITS {
            assert!(!pace.busy());
        }
        assert!(pace.busy() && pace.busy());
        pace.slept();
        assert!(!pace.busy(), "a sleep ends the row");
    }
}
