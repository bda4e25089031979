//! The generator of fio's sequences: L'Ecuyer's combined Tausworthe (taus88,
//! Mathematics of Computation 65, 1996), seeded as fio seeds it. With the same
//! job, both tools touch the same blocks in the same order, so each can replay
//! what the other wrote (`verify_only`).

#![forbid(unsafe_code)]

/// Multiplier of fio's repeatable seeds.
const REPEATABLE: u64 = 0xb189_9bed;
/// Multiplier that spreads the seeds of one job's generators.
const SPREAD: u64 = 0x9e37_0001;
/// Seed when the job gives none.
const DEFAULT_SEED: u64 = 0x89;

/// taus88: three shift registers, period about 2^88.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Random {
    state: [u32; 3],
}

impl Random {
    /// From a seed, of which the low 32 bits count.
    pub(crate) fn new(seed: u64) -> Self {
        let seed = seed as u32;
        // Below these a register would fall into its zero cycle.
        let at_least = |value: u32, min: u32| {
            if value < min { value + min } else { value }
        };
        let step = |value: u32| value.wrapping_mul(69_069) ^ seed;
        let first = at_least(step(53), 1);
        let second = at_least(step(first), 7);
        let third = at_least(step(second), 15);
        let mut random = Self {
            state: [first, second, third],
        };
        for _ in 0..6 {
            random.next_u32();
        }
        random
    }

    /// The next 32 bits.
    #[inline]
    pub(crate) fn next_u32(&mut self) -> u32 {
        let [a, b, c] = &mut self.state;
        *a = ((*a & !1) << 12) ^ (((*a << 13) ^ *a) >> 19);
        *b = ((*b & !7) << 4) ^ (((*b << 2) ^ *b) >> 25);
        *c = ((*c & !15) << 17) ^ (((*c << 3) ^ *c) >> 11);
        *a ^ *b ^ *c
    }

    /// The product of two draws: the seed of a verify header.
    #[inline]
    pub(crate) fn next_seed(&mut self) -> u64 {
        u64::from(self.next_u32()).wrapping_mul(u64::from(self.next_u32()))
    }

    /// Uniform in `0..count`.
    #[inline]
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        if count <= 1 << 32 {
            let share = f64::from(self.next_u32()) / 4_294_967_296.0;
            ((count as f64 * share) as u64).min(count.saturating_sub(1))
        } else {
            let wide = u64::from(self.next_u32()) << 32 | u64::from(self.next_u32());
            ((u128::from(wide) * u128::from(count)) >> 64) as u64
        }
    }

    /// Uniform in 1..=100.
    #[inline]
    pub(crate) fn percent(&mut self) -> u32 {
        1 + (100.0 * (f64::from(self.next_u32()) / 4_294_967_296.0)) as u32
    }
}

/// Seeds of one job thread's generators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seeds {
    pub(crate) offsets: u64,
    pub(crate) mix: u64,
    pub(crate) verify: u64,
}

/// Places of the generators in fio's table of seeds.
const VERIFY_PLACE: u64 = 3;
const MIX_PLACE: u64 = 4;
const OFFSETS_PLACE: u64 = 6;

impl Seeds {
    /// Seeds for thread `number`. `entropy` is used when nothing is to repeat.
    pub(crate) fn new(
        number: u32,
        rand_seed: Option<u64>,
        repeat: bool,
        repeat_all: bool,
        entropy: u64,
    ) -> Self {
        let number = u64::from(number);
        let base = match (rand_seed, repeat) {
            (Some(seed), _) => seed,
            (None, true) => DEFAULT_SEED,
            (None, false) => entropy,
        };
        let mut spread = base;
        for _ in 0..4 {
            spread = spread.wrapping_mul(SPREAD);
        }
        let from_table = |place: u64| {
            let mut seed = spread;
            for _ in 0..place {
                seed = seed.wrapping_mul(SPREAD);
            }
            seed.wrapping_mul(number).wrapping_add(place)
        };
        let from_number = |place: u64| REPEATABLE.wrapping_mul(number).wrapping_add(place);
        let seed = |place| {
            if repeat_all {
                from_number(place)
            } else {
                from_table(place)
            }
        };
        Self {
            offsets: if repeat && rand_seed.is_none() {
                from_number(0)
            } else {
                seed(OFFSETS_PLACE)
            },
            mix: seed(MIX_PLACE),
            verify: seed(VERIFY_PLACE),
        }
    }
}

/// Fills `bytes` with data that does not compress, from a seed (splitmix64,
/// several GB/s).
pub(crate) fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed;
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let word = mixed.to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thread 1's offsets are the first draws fio 3.33 makes with its default
    /// seeds (seen with `--debug=random`).
    #[test]
    fn the_sequence_is_that_of_fio() {
        let seeds = Seeds::new(1, None, true, false, 0);
        let mut random = Random::new(seeds.offsets);
        let draws: Vec<u32> = (0..4).map(|_| random.next_u32()).collect();
        assert_eq!(draws, FIO_DRAWS);
    }

    const FIO_DRAWS: [u32; 4] = [259_043_585, 3_179_521_932, 3_621_444_214, 2_018_697_059];

    /// Clones must not do the same I/O in step.
    #[test]
    fn threads_have_their_own_seeds() {
        let one = Seeds::new(1, None, true, false, 0);
        let two = Seeds::new(2, None, true, false, 0);
        assert!(one.offsets != two.offsets && one.mix != two.mix && one.verify != two.verify);
        let again = Seeds::new(1, None, true, false, 99);
        assert_eq!(one, again);
        assert_ne!(one, Seeds::new(1, Some(7), true, false, 0));
        assert_ne!(
            Seeds::new(1, None, false, false, 1),
            Seeds::new(1, None, false, false, 2)
        );
    }

    /// Draws stay in range and reach all of it.
    #[test]
    fn draws_are_in_range_and_reach_all_of_it() {
        let mut random = Random::new(1);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[random.below(10) as usize] = true;
            assert!((1..=100).contains(&random.percent()));
            assert!(random.below(1 << 40) < 1 << 40);
            assert_eq!(random.below(1), 0);
        }
        assert!(seen.iter().all(|hit| *hit));
    }

    /// Different seeds, different data; and no zero blocks.
    #[test]
    fn filled_data_depends_on_the_seed() {
        let (mut a, mut b) = ([0u8; 37], [0u8; 37]);
        fill(&mut a, 1);
        fill(&mut b, 2);
        assert_ne!(a, b);
        assert!(a.iter().any(|byte| *byte != 0));
        fill(&mut b, 1);
        assert_eq!(a, b);
    }
}
