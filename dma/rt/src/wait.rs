//! The one blocking loop: polls a state machine until it answers or its deadline has passed.
//! Spins at most 2 us, then yields, then sleeps in growing steps, so one CPU is enough.
use crate::{Instant, local};
#[cfg(not(underpin_sim))]
use std::time::Duration;

/// The deadline passed before the answer came.
///
/// ```
/// use underpin_rt::{Elapsed, Instant, wait};
///
/// // Asked once, though the deadline has passed.
/// assert_eq!(wait(Some(Instant::START), |_now| None::<()>), Err(Elapsed));
/// assert_eq!(wait(Some(Instant::START), |_now| Some(7)), Ok(7));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the deadline passed before the answer came")
    }
}

impl std::error::Error for Elapsed {}

/// How long a waiter spins before it yields the processor.
#[cfg(not(underpin_sim))]
pub(crate) const SPIN: Duration = Duration::from_micros(2);
/// How long a waiter yields before it sleeps.
#[cfg(not(underpin_sim))]
const YIELD: Duration = Duration::from_micros(500);
/// The longest sleep between two polls: half a percent of a core.
#[cfg(not(underpin_sim))]
const LONGEST_SLEEP: Duration = Duration::from_millis(1);

/// Calls `poll` with the time now until it answers, or until `deadline` has passed.
///
/// Between two polls it steps the tasks that this thread carries (see
/// [`spawn_local`](crate::spawn_local)); in a simulated build it runs the scheduler, and virtual
/// time moves when nothing is ready. `poll` is always asked once more at or after the deadline,
/// so an answer that is there is never missed.
///
/// # Errors
/// [`Elapsed`] when the deadline passed first.
///
/// ```
/// use std::time::Duration;
/// use underpin_rt::{Instant, wait};
///
/// // Anything that has a `poll(now)` can be waited for.
/// let began = Instant::now();
/// let ready_at = began + Duration::from_micros(100);
/// let at = wait(None, |now| (now >= ready_at).then_some(now))?;
/// assert!(at >= ready_at);
/// # Ok::<(), underpin_rt::Elapsed>(())
/// ```
pub fn wait<T>(
    deadline: Option<Instant>,
    mut poll: impl FnMut(Instant) -> Option<T>,
) -> Result<T, Elapsed> {
    #[cfg(not(underpin_sim))]
    let mut idle_since = Instant::now();
    loop {
        let now = Instant::now();
        if let Some(answer) = poll(now) {
            return Ok(answer);
        }
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Elapsed);
        }
        #[cfg(underpin_sim)]
        local::turn(deadline);
        #[cfg(not(underpin_sim))]
        {
            let turn = local::turn();
            if turn.busy {
                idle_since = now;
                continue;
            }
            let waited = now.since(idle_since);
            if waited < SPIN {
                std::hint::spin_loop();
            } else if waited < YIELD {
                std::thread::yield_now();
            } else {
                // A sixteenth of what was waited so far: late by 6 % at worst, and no burnt core.
                let events = deadline.into_iter().chain(turn.next);
                let event = events.min().unwrap_or(Instant::NEVER).since(now);
                std::thread::sleep((waited / 16).min(LONGEST_SLEEP).min(event));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_at_the_deadline_is_not_missed() {
        // The first poll happens even when the deadline has passed already.
        assert_eq!(wait(Some(Instant::START), |_| Some(1)), Ok(1));
        assert_eq!(wait::<()>(Some(Instant::START), |_| None), Err(Elapsed));
    }

    #[test]
    fn time_passes_while_waiting() {
        let until = Instant::now() + std::time::Duration::from_millis(3);
        assert_eq!(wait(None, |now| (now >= until).then_some(())), Ok(()));
        assert!(Instant::now() >= until);
    }
}
