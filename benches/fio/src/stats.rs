//! What is counted while a job runs: moments, histograms, depth and latency
//! classes. Recording costs a few adds; all divisions wait for the report.

#![forbid(unsafe_code)]

use crate::histogram::Histogram;
use crate::pins::PinUse;
use crate::sys::os::Usage;

/// Count, extremes, and exact sums for mean and deviation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moments {
    pub(crate) samples: u64,
    pub(crate) min: u64,
    pub(crate) max: u64,
    sum: u128,
    sum_of_squares: u128,
}

impl Default for Moments {
    fn default() -> Self {
        Self {
            samples: 0,
            min: u64::MAX,
            max: 0,
            sum: 0,
            sum_of_squares: 0,
        }
    }
}

impl Moments {
    /// Counts one sample.
    #[inline]
    pub(crate) fn record(&mut self, value: u64) {
        self.samples += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += u128::from(value);
        self.sum_of_squares += u128::from(value) * u128::from(value);
    }

    /// Adds the samples of another thread.
    pub(crate) fn merge(&mut self, other: &Moments) {
        self.samples += other.samples;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.sum_of_squares += other.sum_of_squares;
    }

    /// Average, 0 without samples.
    pub(crate) fn mean(&self) -> f64 {
        if self.samples == 0 {
            return 0.0;
        }
        self.sum as f64 / self.samples as f64
    }

    /// Sample standard deviation, 0 below two samples.
    pub(crate) fn deviation(&self) -> f64 {
        if self.samples < 2 {
            return 0.0;
        }
        self.squared_deviations().max(0.0).sqrt() / ((self.samples - 1) as f64).sqrt()
    }

    /// Sum of squared distances from the mean.
    fn squared_deviations(&self) -> f64 {
        let n = u128::from(self.samples);
        let exact = n
            .checked_mul(self.sum_of_squares)
            .zip(self.sum.checked_mul(self.sum))
            .map(|(left, right)| left.saturating_sub(right) as f64 / n as f64);
        exact.unwrap_or_else(|| {
            let mean = self.mean();
            self.sum_of_squares as f64 - mean * mean * n as f64
        })
    }
}

/// A series of rates (one sample every half second). Rates of threads that run
/// side by side add up, so merging sums them instead of pooling them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct RateSeries {
    pub(crate) samples: u64,
    pub(crate) min: u64,
    pub(crate) max: u64,
    pub(crate) mean: f64,
    squared_deviations: f64,
}

impl From<&Moments> for RateSeries {
    fn from(moments: &Moments) -> Self {
        if moments.samples == 0 {
            return Self::default();
        }
        Self {
            samples: moments.samples,
            min: moments.min,
            max: moments.max,
            mean: moments.mean(),
            squared_deviations: moments.squared_deviations(),
        }
    }
}

impl RateSeries {
    /// Adds a thread that ran at the same time.
    pub(crate) fn add(&mut self, other: &RateSeries) {
        self.samples += other.samples;
        self.min += other.min;
        self.max += other.max;
        self.mean += other.mean;
        self.squared_deviations += other.squared_deviations;
    }

    /// Standard deviation of the summed series.
    pub(crate) fn deviation(&self) -> f64 {
        if self.samples < 2 {
            return 0.0;
        }
        (self.squared_deviations.max(0.0) / (self.samples - 1) as f64).sqrt()
    }
}

/// Direction of an I/O; also the index into per-direction arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read = 0,
    Write = 1,
}

impl Direction {
    /// Both, in the order of reports.
    pub(crate) const ALL: [Direction; 2] = [Direction::Read, Direction::Write];

    /// Name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Direction::Read => "read",
            Direction::Write => "write",
        }
    }
}

/// Latencies of one kind: moments always, the histogram if percentiles of this
/// kind are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latency {
    pub(crate) moments: Moments,
    pub(crate) histogram: Option<Histogram>,
}

impl Latency {
    /// With a histogram if `percentiles` are to be reported.
    pub(crate) fn new(percentiles: bool) -> Self {
        Self {
            moments: Moments::default(),
            histogram: percentiles.then(Histogram::default),
        }
    }

    /// Counts one latency.
    #[inline]
    pub(crate) fn record(&mut self, ns: u64) {
        self.moments.record(ns);
        if let Some(histogram) = &mut self.histogram {
            histogram.record(ns);
        }
    }

    /// Adds another thread's latencies.
    pub(crate) fn merge(&mut self, other: &Latency) {
        self.moments.merge(&other.moments);
        match (&mut self.histogram, &other.histogram) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine @ None, Some(theirs)) => *mine = Some(theirs.clone()),
            (_, None) => {}
        }
    }

    pub(crate) fn reset(&mut self) {
        self.moments = Moments::default();
        if let Some(histogram) = &mut self.histogram {
            histogram.reset();
        }
    }
}

/// Everything counted for one direction.
#[derive(Debug, Clone, Default)]
pub(crate) struct DirectionStats {
    pub(crate) bytes: u64,
    pub(crate) ios: u64,
    pub(crate) short_ios: u64,
    /// Time during which this direction was measured.
    pub(crate) runtime_ns: u64,
    /// From taking the unit to having handed it to the engine.
    pub(crate) submission: Latency,
    /// From having handed it over to its completion.
    pub(crate) completion: Latency,
    /// Both together.
    pub(crate) total: Latency,
    pub(crate) bandwidth_kib: RateSeries,
    pub(crate) iops: RateSeries,
}

impl DirectionStats {
    /// Runtime in milliseconds, rounded up.
    pub(crate) fn runtime_ms(&self) -> u64 {
        self.runtime_ns.div_ceil(1_000_000)
    }
}

/// Shares of depth, submit and completion batch sizes: 1, 2, 4, … ≥ 64.
pub(crate) type SizeClasses = [u64; 7];

/// Which percentiles a job wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PercentileKinds {
    pub(crate) submission: bool,
    pub(crate) completion: bool,
    pub(crate) total: bool,
}

/// Everything counted for one thread, or for a group of them.
#[derive(Debug, Clone)]
pub(crate) struct JobStats {
    pub(crate) directions: [DirectionStats; 2],
    /// Flushes issued because of `fsync=`, `fdatasync=`, `end_fsync`.
    pub(crate) sync: Latency,
    pub(crate) depth: SizeClasses,
    pub(crate) submitted: SizeClasses,
    pub(crate) completed: SizeClasses,
    pub(crate) latency_classes: [u64; LATENCY_CLASSES],
    pub(crate) usage: Usage,
    /// Where I/O goes to pinned pages.
    pub(crate) pins: Option<PinUse>,
    /// From the start (or the end of the ramp) to the end of the job.
    pub(crate) runtime_ns: u64,
}

impl JobStats {
    /// Nothing counted yet.
    pub(crate) fn new(kinds: PercentileKinds) -> Self {
        let direction = || DirectionStats {
            submission: Latency::new(kinds.submission),
            completion: Latency::new(kinds.completion),
            total: Latency::new(kinds.total),
            ..DirectionStats::default()
        };
        Self {
            directions: [direction(), direction()],
            sync: Latency::new(true),
            depth: [0; 7],
            submitted: [0; 7],
            completed: [0; 7],
            latency_classes: [0; LATENCY_CLASSES],
            usage: Usage::default(),
            pins: None,
            runtime_ns: 0,
        }
    }

    /// One direction's counts.
    pub(crate) fn direction(&self, direction: Direction) -> &DirectionStats {
        &self.directions[direction as usize]
    }

    /// One direction's counts, to add to.
    #[inline]
    pub(crate) fn direction_mut(&mut self, direction: Direction) -> &mut DirectionStats {
        &mut self.directions[direction as usize]
    }

    /// I/Os of both directions.
    pub(crate) fn total_ios(&self) -> u64 {
        self.directions.iter().map(|d| d.ios).sum()
    }

    /// Counts one finished I/O whose times (in ns since the clock's origin) are
    /// given; `submission` is false for engines that complete within `queue`.
    #[inline]
    pub(crate) fn record_io(
        &mut self,
        direction: Direction,
        start_ns: u64,
        issue_ns: u64,
        done_ns: u64,
        submission: bool,
    ) {
        let completion_ns = done_ns.saturating_sub(issue_ns);
        self.latency_classes[latency_class(completion_ns)] += 1;
        let counts = self.direction_mut(direction);
        counts.ios += 1;
        if submission {
            counts.submission.record(issue_ns.saturating_sub(start_ns));
        }
        counts.completion.record(completion_ns);
        counts.total.record(done_ns.saturating_sub(start_ns));
    }

    /// Forgets everything: the ramp is over.
    pub(crate) fn reset(&mut self) {
        for counts in &mut self.directions {
            counts.bytes = 0;
            counts.ios = 0;
            counts.short_ios = 0;
            counts.runtime_ns = 0;
            counts.submission.reset();
            counts.completion.reset();
            counts.total.reset();
        }
        self.sync.reset();
        self.depth = [0; 7];
        self.submitted = [0; 7];
        self.completed = [0; 7];
        self.latency_classes = [0; LATENCY_CLASSES];
    }

    /// Adds another thread of the same reporting group.
    pub(crate) fn merge(&mut self, other: &JobStats) {
        for (mine, theirs) in self.directions.iter_mut().zip(&other.directions) {
            mine.bytes += theirs.bytes;
            mine.ios += theirs.ios;
            mine.short_ios += theirs.short_ios;
            mine.runtime_ns = mine.runtime_ns.max(theirs.runtime_ns);
            mine.submission.merge(&theirs.submission);
            mine.completion.merge(&theirs.completion);
            mine.total.merge(&theirs.total);
            mine.bandwidth_kib.add(&theirs.bandwidth_kib);
            mine.iops.add(&theirs.iops);
        }
        self.sync.merge(&other.sync);
        let pairs = [
            (&mut self.depth, &other.depth),
            (&mut self.submitted, &other.submitted),
            (&mut self.completed, &other.completed),
        ];
        for (mine, theirs) in pairs {
            for (a, b) in mine.iter_mut().zip(theirs) {
                *a += b;
            }
        }
        for (a, b) in self.latency_classes.iter_mut().zip(&other.latency_classes) {
            *a += b;
        }
        self.usage.add(&other.usage);
        match (&mut self.pins, &other.pins) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine @ None, theirs) => mine.clone_from(theirs),
            (Some(_), None) => {}
        }
        self.runtime_ns += other.runtime_ns;
    }

    /// Nanoseconds of the job threads' CPU per I/O, if anything was done.
    pub(crate) fn cpu_ns_per_io(&self) -> Option<f64> {
        let ios = self.total_ios();
        (ios > 0).then(|| self.usage.cpu_ns as f64 / ios as f64)
    }

    /// I/Os per second that one fully used core would give at this cost.
    pub(crate) fn iops_per_core(&self) -> Option<f64> {
        self.cpu_ns_per_io()
            .filter(|cost| *cost > 0.0)
            .map(|cost| 1e9 / cost)
    }
}

/// Class of a queue depth: 1, 2-3, 4-7, 8-15, 16-31, 32-63, ≥ 64.
#[inline]
pub(crate) fn depth_class(depth: u32) -> usize {
    (depth.max(1).ilog2() as usize).min(6)
}

/// Class of a batch: 0, 1-4, 5-8, 9-16, 17-32, 33-64, above.
#[inline]
pub(crate) fn batch_class(count: u32) -> usize {
    match count {
        0 => 0,
        1..=4 => 1,
        5..=8 => 2,
        9..=16 => 3,
        17..=32 => 4,
        33..=64 => 5,
        _ => 6,
    }
}

/// Latency classes of the report: ten of nanoseconds, ten of microseconds,
/// twelve of milliseconds.
pub(crate) const LATENCY_CLASSES: usize = 32;

/// First nanosecond that no longer belongs to the class.
const CLASS_ENDS_NS: [u64; LATENCY_CLASSES] = {
    const STEPS: [u64; 10] = [2, 4, 10, 20, 50, 100, 250, 500, 750, 1000];
    let mut ends = [u64::MAX; LATENCY_CLASSES];
    let mut step = 0;
    while step < STEPS.len() {
        ends[step] = STEPS[step];
        ends[step + 10] = STEPS[step] * 1_000;
        ends[step + 20] = STEPS[step] * 1_000_000;
        step += 1;
    }
    ends[30] = 2_000_000_000;
    ends
};

/// First class that can hold a value whose highest bit is the index.
const CLASS_HINTS: [u8; 64] = {
    let mut hints = [0u8; 64];
    let mut bit = 0;
    while bit < 64 {
        let mut class = 0;
        while CLASS_ENDS_NS[class] <= 1u64 << bit && class < LATENCY_CLASSES - 1 {
            class += 1;
        }
        hints[bit] = class as u8;
        bit += 1;
    }
    hints
};

/// Class of a latency: a table lookup by the highest bit, then at most two steps.
#[inline]
pub(crate) fn latency_class(ns: u64) -> usize {
    let highest_bit = 63 - (ns | 1).leading_zeros();
    let mut class = usize::from(CLASS_HINTS[highest_bit as usize]);
    while class < LATENCY_CLASSES - 1 && ns >= CLASS_ENDS_NS[class] {
        class += 1;
    }
    class
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and deviation agree with the two-pass definition.
    #[test]
    fn moments_agree_with_the_definition() {
        let values = [3u64, 1_000_003, 7, 500, 500, 12];
        let mut moments = Moments::default();
        for value in values {
            moments.record(value);
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<u64>() as f64 / n;
        let squares: f64 = values.iter().map(|v| (*v as f64 - mean).powi(2)).sum();
        assert!((moments.mean() - mean).abs() < 1e-6);
        assert!((moments.deviation() - (squares / (n - 1.0)).sqrt()).abs() < 1e-3);
        assert_eq!((moments.min, moments.max), (3, 1_000_003));
    }

    /// A long run of equal latencies has no deviation, however large they are.
    #[test]
    fn equal_samples_have_no_deviation() {
        let mut moments = Moments::default();
        for _ in 0..100_000 {
            moments.record(3_999_999_999);
        }
        assert_eq!(moments.deviation(), 0.0);
    }

    /// Pooling two threads gives what one thread with all samples has.
    #[test]
    fn merged_moments_are_those_of_all_samples() {
        let (mut a, mut b, mut all) = (Moments::default(), Moments::default(), Moments::default());
        for value in 0..1000u64 {
            let part = if value % 3 == 0 { &mut a } else { &mut b };
            part.record(value * value);
            all.record(value * value);
        }
        a.merge(&b);
        assert_eq!(a, all);
    }

    /// The hints only save steps: every class edge is where the table says.
    #[test]
    fn latency_classes_change_at_their_edges() {
        for (class, end) in CLASS_ENDS_NS.iter().enumerate().take(LATENCY_CLASSES - 1) {
            assert_eq!(latency_class(end - 1), class, "below {end}");
            assert_eq!(latency_class(*end), class + 1, "at {end}");
        }
        assert_eq!(latency_class(0), 0);
        assert_eq!(latency_class(u64::MAX), LATENCY_CLASSES - 1);
    }

    /// The depth and batch classes of fio's tables.
    #[test]
    fn depth_and_batch_classes() {
        let depths = [
            (1, 0),
            (2, 1),
            (3, 1),
            (4, 2),
            (31, 4),
            (32, 5),
            (64, 6),
            (999, 6),
        ];
        for (depth, class) in depths {
            assert_eq!(depth_class(depth), class, "{depth}");
        }
        for (batch, class) in [(0, 0), (1, 1), (4, 1), (5, 2), (64, 5), (65, 6)] {
            assert_eq!(batch_class(batch), class, "{batch}");
        }
    }

    /// Threads side by side: their rates add.
    #[test]
    fn rates_of_parallel_threads_add() {
        let mut moments = Moments::default();
        moments.record(100);
        moments.record(200);
        let mut group = RateSeries::from(&moments);
        group.add(&RateSeries::from(&moments));
        assert_eq!((group.min, group.max, group.samples), (200, 400, 4));
        assert_eq!(group.mean, 300.0);
    }
}
