//! What a power cut takes away: writes since the last flush, kept here until they are safe.
//! Kept only while a `power-cut` fault may fire; undone and partly redone when it does.
use crate::faults::PowerLoss;
use crate::media::{Medium, MediumError};
use crate::namespace::Namespace;
use std::collections::{BTreeMap, VecDeque};
use underpin_dma::rt::Rng;

/// Bytes of writes that the cache holds; what is older has reached the medium by itself.
const CACHE_BYTES: usize = 64 << 20;

/// A piece of a write, as it was before and after.
#[derive(Debug)]
struct Piece {
    write: u64,
    at: u64,
    old: Vec<u8>,
    new: Vec<u8>,
}

/// One write.
#[derive(Clone, Copy, Debug)]
struct Write {
    at: u64,
    len_bytes: u64,
    /// Force Unit Access: on the medium, whatever happens.
    durable: bool,
    /// Bytes that have reached the cache.
    done: u64,
}

/// The volatile write cache of one namespace.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    pieces: VecDeque<Piece>,
    /// By number: as they began.
    writes: BTreeMap<u64, Write>,
    next: u64,
    held_bytes: usize,
}

impl Cache {
    /// A write of `len_bytes` bytes at byte `at` of the medium begins. Gives its number.
    pub(crate) fn begin(&mut self, at: u64, len_bytes: u64) -> u64 {
        let number = self.next;
        self.next += 1;
        let write = Write {
            at,
            len_bytes,
            durable: false,
            done: 0,
        };
        self.writes.insert(number, write);
        number
    }

    /// A piece of the write is on the medium, which held `old` there before.
    pub(crate) fn note(&mut self, write: u64, at: u64, old: Vec<u8>, new: Vec<u8>) {
        // A flush may have come between its pieces: what was before it is safe.
        if let Some(known) = self.writes.get_mut(&write) {
            known.done += new.len() as u64;
        }
        self.held_bytes += new.len();
        self.pieces.push_back(Piece {
            write,
            at,
            old,
            new,
        });
        while self.held_bytes > CACHE_BYTES {
            let Some(oldest) = self.pieces.pop_front() else {
                break;
            };
            self.held_bytes -= oldest.new.len();
        }
    }

    /// The write has completed and was asked to be durable.
    pub(crate) fn harden(&mut self, write: u64) {
        if let Some(known) = self.writes.get_mut(&write) {
            known.durable = true;
        }
    }

    /// All that was written so far is safe. Writes under way stay known.
    pub(crate) fn flush(&mut self) {
        self.pieces.clear();
        self.held_bytes = 0;
        self.writes.retain(|_, write| write.done < write.len_bytes);
    }

    /// Power fails: brings the medium to what is left.
    fn cut(
        &mut self,
        medium: &Medium,
        block_bytes: u64,
        is_atomic: impl Fn(&Write) -> bool,
        loss: PowerLoss,
        rng: &mut Rng,
    ) -> Result<(), MediumError> {
        for piece in self.pieces.iter().rev() {
            medium.write_bytes(piece.at, &piece.old)?;
        }
        // A block of which only a part had arrived is not written.
        let mut arrived: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for piece in &self.pieces {
            for (block, range) in blocks(piece, block_bytes) {
                *arrived.entry((piece.write, block)).or_default() += range.len() as u64;
            }
        }
        let known: Vec<u64> = self.writes.keys().copied().collect();
        let torn_at = known.get(rng.below(known.len().max(1) as u64) as usize);
        let torn_at = torn_at.copied().unwrap_or(0);
        let mut kept: BTreeMap<(u64, u64), bool> = BTreeMap::new();
        for (&(number, block), &bytes) in &arrived {
            // A write unknown here began before the cache did, or lost its beginning to a flush.
            let write = self.writes.get(&number);
            let durable = write.is_some_and(|write| write.durable);
            let whole = bytes >= block_bytes;
            let keep = match loss {
                _ if durable => true,
                _ if !whole => false,
                PowerLoss::Any | PowerLoss::Lost => false,
                PowerLoss::Torn => number < torn_at || (number == torn_at && rng.chance(1, 2)),
                PowerLoss::Reordered => rng.chance(1, 2),
            };
            kept.insert((number, block), keep);
        }
        for (&number, write) in &self.writes {
            if write.durable || !is_atomic(write) {
                continue;
            }
            let mine = (number, 0)..=(number, u64::MAX);
            let all = write.done == write.len_bytes
                && kept
                    .range(mine.clone())
                    .next()
                    .is_some_and(|(_, &keep)| keep);
            kept.range_mut(mine).for_each(|(_, keep)| *keep = all);
        }
        for piece in &self.pieces {
            for (block, range) in blocks(piece, block_bytes) {
                if kept.get(&(piece.write, block)) == Some(&true) {
                    let at = piece.at + range.start as u64;
                    medium.write_bytes(at, piece.new.get(range).unwrap_or(&[]))?;
                }
            }
        }
        *self = Self {
            next: self.next,
            ..Self::default()
        };
        Ok(())
    }
}

/// The blocks that a piece touches, and which of its bytes lie in each.
fn blocks(piece: &Piece, block_bytes: u64) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let (begin, len) = (piece.at, piece.new.len() as u64);
    let end = begin + len;
    (begin / block_bytes..end.div_ceil(block_bytes)).map(move |block| {
        let from = (block * block_bytes).max(begin) - begin;
        let to = ((block + 1) * block_bytes).min(end) - begin;
        (block, from as usize..to as usize)
    })
}

impl Namespace {
    /// Remembers what is not flushed from now on, or no longer.
    pub(crate) fn cache_writes(&mut self, wanted: bool) {
        if wanted != self.cache.is_some() {
            self.cache = wanted.then(Box::default);
        }
    }

    /// Power fails: what is left of writes that were not flushed is as `loss` has it.
    pub(crate) fn cut_power(&mut self, loss: PowerLoss, rng: &mut Rng) -> Result<(), MediumError> {
        let Some(mut cache) = self.cache.take() else {
            return Ok(());
        };
        let block_bytes = 1 << self.lba_shift;
        let (most, boundary) = (self.power_fail_blocks, self.atomic_boundary);
        let is_atomic = |write: &Write| {
            let blocks = write.len_bytes / block_bytes;
            let first = write.at / block_bytes;
            let crosses = boundary != 0 && {
                let size = u64::from(boundary) + 1;
                first / size != (first + blocks.max(1) - 1) / size
            };
            blocks <= most && !crosses
        };
        cache.cut(&self.medium, block_bytes, is_atomic, loss, rng)
    }
}
