//! Which blocks a random pattern has done: a bitmap with summaries above it, so
//! that the next free block is found in a few steps however full it is.

#![forbid(unsafe_code)]

/// A set over `0..len`, with "first member that is missing".
#[derive(Debug, Clone)]
pub(crate) struct RandomMap {
    /// `levels[0]` has a bit per block; a bit of `levels[n + 1]` says that a
    /// word of `levels[n]` is full. Bits past the end are set throughout.
    levels: Vec<Vec<u64>>,
    len: u64,
}

impl RandomMap {
    /// Nothing done.
    pub(crate) fn new(len: u64) -> Self {
        let mut levels = Vec::new();
        let mut bits = len;
        loop {
            let words = bits.div_ceil(64);
            let mut level = vec![0u64; usize::try_from(words).unwrap_or(usize::MAX)];
            if let Some(last) = level.last_mut()
                && !bits.is_multiple_of(64)
            {
                *last = !0 << (bits % 64);
            }
            levels.push(level);
            if words <= 1 {
                break;
            }
            bits = words;
        }
        Self { levels, len }
    }

    /// Forgets what was done.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.len);
    }

    /// Marks a block.
    #[inline]
    pub(crate) fn mark(&mut self, block: u64) {
        let mut index = block;
        for level in &mut self.levels {
            let Some(word) = level.get_mut((index / 64) as usize) else {
                return;
            };
            *word |= 1 << (index % 64);
            if *word != !0 {
                return;
            }
            index /= 64;
        }
    }

    /// Whether a block is marked.
    #[inline]
    pub(crate) fn is_marked(&self, block: u64) -> bool {
        self.levels
            .first()
            .and_then(|level| level.get((block / 64) as usize))
            .is_none_or(|word| word >> (block % 64) & 1 == 1)
    }

    /// The first unmarked block after `block`, from the start again if there is
    /// none; None if all are marked.
    pub(crate) fn next_free(&self, block: u64) -> Option<u64> {
        let next = if block + 1 >= self.len { 0 } else { block + 1 };
        self.free_from(next).or_else(|| self.free_from(0))
    }

    fn free_from(&self, start: u64) -> Option<u64> {
        let mut index = start;
        let mut height = 0;
        // Climb until a word has a free bit at or after the place…
        loop {
            let level = self.levels.get(height)?;
            let word = level.get((index / 64) as usize).copied();
            let free = word.map_or(0, |word| !word & (!0 << (index % 64)));
            if free != 0 {
                index = index / 64 * 64 + u64::from(free.trailing_zeros());
                break;
            }
            index = index / 64 + 1;
            height += 1;
        }
        // …then go down to the first free bit below it.
        while height > 0 {
            height -= 1;
            let word = *self.levels.get(height)?.get(index as usize)?;
            index = index * 64 + u64::from((!word).trailing_zeros());
        }
        (index < self.len).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::random::Random;

    /// The same answers as a plain list of booleans, at every filling.
    #[test]
    fn agrees_with_a_list_of_booleans() {
        for len in [1u64, 2, 63, 64, 65, 4095, 4096, 4097, 5000] {
            let mut map = RandomMap::new(len);
            let mut plain = vec![false; len as usize];
            let mut random = Random::new(len);
            for _ in 0..len {
                let block = random.below(len);
                let expected = (block + 1..len)
                    .chain(0..len)
                    .find(|candidate| !plain[*candidate as usize]);
                assert_eq!(map.next_free(block), expected, "{len} {block}");
                let pick = if plain[block as usize] {
                    expected.unwrap()
                } else {
                    block
                };
                assert!(!map.is_marked(pick));
                map.mark(pick);
                plain[pick as usize] = true;
                assert!(map.is_marked(pick));
            }
            assert_eq!(map.next_free(0), None);
            map.clear();
            assert_eq!(map.next_free(len - 1), Some(0));
        }
    }
}
