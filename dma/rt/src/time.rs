//! Monotonic time as nanoseconds since the process (or the simulation) began.
//! A plain `u64`, so that deadlines are compared and stored without ceremony.
use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in monotonic time, in nanoseconds since an arbitrary start.
///
/// In a simulated build it is virtual time, which moves only when nothing is ready to run.
///
/// ```
/// use std::time::Duration;
/// use underpin_rt::Instant;
///
/// let began = Instant::now();
/// let deadline = began + Duration::from_micros(50);
/// assert_eq!(deadline - began, Duration::from_micros(50));
/// assert_eq!(began.since(deadline), Duration::ZERO);
/// assert_eq!(Instant::from_nanos(7).as_nanos(), 7);
/// assert_eq!(Instant::NEVER + Duration::from_secs(1), Instant::NEVER);
/// assert!(Instant::START <= began);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The first instant there is.
    pub const START: Self = Self(0);
    /// An instant that is never reached (584 years after the start).
    pub const NEVER: Self = Self(u64::MAX);

    /// The time now.
    #[inline]
    pub fn now() -> Self {
        #[cfg(not(underpin_sim))]
        {
            use std::sync::OnceLock;
            static START: OnceLock<std::time::Instant> = OnceLock::new();
            let start = *START.get_or_init(std::time::Instant::now);
            Self(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
        }
        #[cfg(underpin_sim)]
        {
            crate::sim::now()
        }
    }

    /// The instant that lies `nanos` nanoseconds after the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time that has passed since `earlier`; zero when `earlier` lies in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    /// Saturates at [`Instant::NEVER`].
    fn add(self, rhs: Duration) -> Self {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, rhs: Instant) -> Duration {
        self.since(rhs)
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}s",
            self.0 / 1_000_000_000,
            self.0 % 1_000_000_000
        )
    }
}
