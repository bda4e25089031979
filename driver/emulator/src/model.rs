//! A device that takes as long as one: a latency for each command, and a bandwidth for all of them
//! together. For measuring what a host makes of a device that is neither infinitely fast nor alike.
use std::time::Duration;
use underpin_dma::rt::Instant;

/// When commands end.
#[derive(Debug)]
pub(crate) struct Model {
    latency: Duration,
    bytes_per_s: Option<u64>,
    /// When the data of all that came before has passed.
    passed_at: Instant,
}

impl Model {
    /// `None` when nothing takes time.
    pub(crate) fn new(latency: Duration, bytes_per_s: Option<u64>) -> Option<Self> {
        let instant = latency.is_zero() && bytes_per_s.is_none();
        (!instant).then_some(Self {
            latency,
            bytes_per_s,
            passed_at: Instant::START,
        })
    }

    /// When a command ends that comes now and transfers so much: its data passes behind that of
    /// those before it, and latencies pass side by side.
    pub(crate) fn end_of(&mut self, now: Instant, len_bytes: u64) -> Instant {
        if let Some(bytes_per_s) = self.bytes_per_s {
            let ns = u128::from(len_bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
            let passes = Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX));
            self.passed_at = self.passed_at.max(now) + passes;
        }
        self.passed_at.max(now) + self.latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Latencies pass side by side, data one behind the other, and idleness earns nothing.
    #[test]
    fn data_queues_and_latency_does_not() {
        let us = Duration::from_micros;
        let mut model = Model::new(us(20), Some(1_000_000_000)).unwrap();
        let now = Instant::START + us(1000);
        assert_eq!(model.end_of(now, 10_000), now + us(30));
        assert_eq!(model.end_of(now, 10_000), now + us(40));
        assert_eq!(model.end_of(now, 0), now + us(40));
        let later = now + us(500);
        assert_eq!(model.end_of(later, 10_000), later + us(30));
        let mut model = Model::new(us(20), None).unwrap();
        assert_eq!(model.end_of(now, 1 << 40), now + us(20));
        assert!(Model::new(Duration::ZERO, None).is_none());
    }
}
