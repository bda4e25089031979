//! A small seeded generator (SplitMix64), for schedules, faults and sequence starts.
//! Not for secrets.

/// A seeded random number generator; the same seed gives the same numbers for ever.
///
/// ```
/// use underpin_rt::Rng;
///
/// let (mut one, mut other) = (Rng::seeded(7), Rng::seeded(7));
/// assert_eq!(one.next_u64(), other.next_u64());
/// assert!(one.below(10) < 10);
/// assert!(one.chance(1, 1) && !one.chance(0, 100));
/// assert!(one.pick(&["a", "b"]).is_some());
/// assert_eq!(one.pick::<u8>(&[]), None);
/// assert_ne!(Rng::from_world().next_u64(), Rng::from_world().next_u64());
/// ```
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that starts from `seed`.
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator seeded from the world: the operating system's randomness, or in a simulated
    /// build the simulation's own seed.
    pub fn from_world() -> Self {
        #[cfg(not(underpin_sim))]
        {
            use std::hash::{BuildHasher, RandomState};
            Self(RandomState::new().hash_one(0x5eed_u64))
        }
        #[cfg(underpin_sim)]
        {
            Self(crate::sim::random_u64())
        }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // Lemire's multiply-shift; its bias is below 2^-32 for the small bounds used here.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True `numerator` times out of `denominator` on average.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// One of `items`, or `None` when there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let index = usize::try_from(self.below(items.len() as u64)).ok()?;
        items.get(index)
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn same_seed_same_numbers_and_bounds_hold() {
        let (mut a, mut b) = (Rng::seeded(7), Rng::seeded(7));
        for _ in 0..1000 {
            assert_eq!(a.next_u64(), b.next_u64());
        }
        let mut seen = [false; 5];
        for _ in 0..1000 {
            seen[usize::try_from(a.below(5)).unwrap_or(99)] = true;
        }
        assert_eq!(seen, [true; 5], "every value below the bound turns up");
        assert_eq!(a.below(0), 0);
        assert_eq!(a.pick::<u8>(&[]), None);
    }
}
