//! The latency histogram: fio's 29 groups of 64 buckets, so that percentiles,
//! json+ bins and the tools that read them agree to the bucket.

#![forbid(unsafe_code)]

/// Bits of a value that choose the bucket within its group.
const INDEX_BITS: u32 = 6;
/// Buckets per group.
const GROUP_LEN: usize = 1 << INDEX_BITS;
/// Groups: the last one takes everything from 2^33 ns (8.6 s) up.
const GROUPS: usize = 29;
/// All buckets.
pub(crate) const BUCKETS: usize = GROUPS * GROUP_LEN;

/// Counts of latencies in nanoseconds. A bucket's value is off by at most 1/128.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Box<[u64; BUCKETS]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
        }
    }
}

impl Histogram {
    /// Counts one latency.
    #[inline]
    pub(crate) fn record(&mut self, ns: u64) {
        self.counts[bucket_of(ns)] += 1;
    }

    /// Adds another thread's counts.
    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine += theirs;
        }
    }

    /// Forgets everything (the end of the ramp).
    pub(crate) fn reset(&mut self) {
        self.counts.fill(0);
    }

    /// The buckets in use as `(value, count)`, ascending.
    pub(crate) fn bins(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (value_of(bucket), *count))
    }

    /// The value below which `percentiles[i]` percent of the samples lie, for
    /// each of the (ascending) percentiles; empty when there are no samples.
    pub(crate) fn percentiles(&self, percentiles: &[f64]) -> Vec<u64> {
        let total: u64 = self.counts.iter().sum();
        let mut values = Vec::with_capacity(percentiles.len());
        if total == 0 {
            return values;
        }
        let mut wanted = percentiles.iter();
        let mut next = wanted.next();
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            while let Some(percentile) = next {
                if !reaches(seen, *percentile, total) {
                    break;
                }
                values.push(value_of(bucket));
                next = wanted.next();
            }
        }
        values
    }
}

/// Whether `seen` of `total` samples are at least `percentile` percent. Exact:
/// 99.9 is a little more than 99.9 in binary, and fio, which computes this
/// with 64-bit mantissas, lets that decide when counts meet it on the spot.
fn reaches(seen: u64, percentile: f64, total: u64) -> bool {
    if seen >= total {
        return true;
    }
    let bits = percentile.to_bits();
    let exponent = i32::try_from((bits >> 52) & 0x7ff).unwrap_or(0) - 1075;
    let mantissa = u128::from((bits & ((1 << 52) - 1)) | (1 << 52));
    // percentile = mantissa * 2^exponent, and is in (0, 100], so -exponent is
    // between 46 and, for anything a person would ask, 70.
    let left = u128::from(seen)
        .checked_mul(100)
        .and_then(|value| value.checked_shl(u32::try_from(-exponent).unwrap_or(u32::MAX)));
    match (left, mantissa.checked_mul(u128::from(total))) {
        (Some(left), Some(right)) if -exponent < 80 => left >= right,
        _ => seen as f64 >= percentile / 100.0 * total as f64,
    }
}

/// Bucket of a latency: values below 128 have their own; above, the group is
/// the position of the highest bit and the next six bits choose in the group.
#[inline]
fn bucket_of(ns: u64) -> usize {
    let highest_bit = 63 - (ns | 1).leading_zeros();
    if highest_bit <= INDEX_BITS {
        return ns as usize;
    }
    let dropped_bits = highest_bit - INDEX_BITS;
    let group_start = ((dropped_bits as usize) + 1) << INDEX_BITS;
    let within = (ns >> dropped_bits) as usize & (GROUP_LEN - 1);
    (group_start + within).min(BUCKETS - 1)
}

/// The value that stands for a bucket: the middle of its range.
fn value_of(bucket: usize) -> u64 {
    if bucket < 2 * GROUP_LEN {
        return bucket as u64;
    }
    let dropped_bits = (bucket >> INDEX_BITS) as u32 - 1;
    let group_start = 1u64 << (dropped_bits + INDEX_BITS);
    let within = (bucket % GROUP_LEN) as u64;
    group_start + (within << dropped_bits) + (1 << dropped_bits) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documented precision: a bucket's value is within 1/128 of every
    /// sample in it, and buckets never go backwards.
    #[test]
    fn a_bucket_is_within_a_128th_of_its_samples() {
        let mut last = 0;
        let mut ns = 1u64;
        while ns < 1 << 34 {
            for sample in [ns - 1, ns, ns + 1, ns + ns / 3] {
                if sample >= 1 << 34 {
                    continue;
                }
                let bucket = bucket_of(sample);
                let error = value_of(bucket).abs_diff(sample);
                assert!(error * 128 <= sample.max(1), "{sample}: {error}");
            }
            let bucket = bucket_of(ns);
            assert!(bucket >= last);
            last = bucket;
            ns += 1 + ns / 100;
        }
    }

    /// Values seen in json+ files written by fio 3.33.
    #[test]
    fn bucket_values_are_those_of_fio() {
        for (sample, value) in [
            (0, 0),
            (127, 127),
            (721, 724),
            (1_448, 1_448),
            (61_251, 61_184),
            (151_725, 152_576),
            (269_304, 268_288),
        ] {
            assert_eq!(value_of(bucket_of(sample)), value, "{sample}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    /// Percentiles count samples, they do not interpolate.
    #[test]
    fn percentiles_are_the_buckets_where_the_share_is_reached() {
        let mut histogram = Histogram::default();
        for ns in 1..=100 {
            histogram.record(ns);
        }
        assert_eq!(
            histogram.percentiles(&[1.0, 50.0, 99.0, 99.9, 100.0]),
            vec![1, 50, 99, 100, 100]
        );
        assert!(Histogram::default().percentiles(&[50.0]).is_empty());
    }

    /// 999 of 1000 samples are 99.9 %, but 99.9 in binary is above 99.9.
    #[test]
    fn a_share_met_on_the_spot_follows_the_binary_value() {
        assert!(!reaches(999, 99.9, 1000));
        assert!(reaches(1000, 99.9, 1000));
        assert!(reaches(500, 50.0, 1000));
        assert!(reaches(10, 1.0, 1000));
    }

    /// Group reports add histograms.
    #[test]
    fn merging_adds_counts() {
        let mut a = Histogram::default();
        let mut b = Histogram::default();
        a.record(5);
        b.record(5);
        b.record(1000);
        a.merge(&b);
        assert_eq!(a.bins().collect::<Vec<_>>(), vec![(5, 2), (1004, 1)]);
        a.reset();
        assert_eq!(a.bins().count(), 0);
    }
}
