//! The space's heap: pieces of regions for rings, lists and identify pages. Control path only.
//! Each region is carved by itself: neighbours in IOVA space are no neighbours in memory.
use crate::space::Inner;
use crate::{Iova, MemoryWatch, RangeAllocator, Region};
use std::sync::Arc;

/// The heap grows by this much at a time, so that it stays a handful of mappings.
pub(crate) const GROWTH_BYTES: u64 = 2 << 20;

/// Pieces are whole cache lines, so that two never share one.
pub(crate) const GRAIN_BYTES: u64 = 64;

/// The regions that the heap is made of, and what is free in them.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    parts: Vec<Part>,
    used_bytes: u64,
}

#[derive(Debug)]
struct Part {
    region: Arc<Region>,
    /// Offsets in the region.
    free: RangeAllocator,
}

/// A place in the heap: what a [`DmaBuf`](crate::DmaBuf) from it goes back to.
#[derive(Debug)]
pub(crate) struct Piece {
    space: Arc<Inner>,
    region: Arc<Region>,
    offset: u64,
    len_bytes: u64,
}

impl Heap {
    /// Bytes handed out.
    pub(crate) const fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Takes a piece, or nothing when no region has room.
    pub(crate) fn take(&mut self, len_bytes: u64, align: u64) -> Option<(Arc<Region>, u64)> {
        for part in &mut self.parts {
            if let Some(offset) = part.free.alloc(len_bytes, align) {
                self.used_bytes += len_bytes;
                return Some((Arc::clone(&part.region), offset));
            }
        }
        None
    }

    /// Adds a region and takes a piece of it in one step, so that nobody else can take the room
    /// that the region was made for.
    pub(crate) fn grow(
        &mut self,
        region: Arc<Region>,
        len_bytes: u64,
        align: u64,
    ) -> Option<(Arc<Region>, u64)> {
        let last = region.len_bytes().checked_sub(1)?;
        let mut free = RangeAllocator::new(0..=last);
        let offset = free.alloc(len_bytes, align);
        self.parts.push(Part {
            region: Arc::clone(&region),
            free,
        });
        self.used_bytes += offset.map_or(0, |_| len_bytes);
        Some((region, offset?))
    }

    fn give_back(&mut self, region: &Arc<Region>, offset: u64, len_bytes: u64) {
        let owner = |part: &&mut Part| Arc::ptr_eq(&part.region, region);
        if let Some(part) = self.parts.iter_mut().find(owner) {
            part.free.free(offset, len_bytes);
            self.used_bytes -= len_bytes;
        }
    }
}

impl Piece {
    pub(crate) fn new(space: Arc<Inner>, region: Arc<Region>, offset: u64, len_bytes: u64) -> Self {
        let piece = Self {
            space,
            region,
            offset,
            len_bytes,
        };
        if let Some(watch) = piece.space.watch() {
            watch.lent(piece.iova(), len_bytes);
        }
        piece
    }

    pub(crate) fn iova(&self) -> Iova {
        self.region.iova().wrapping_add(self.offset)
    }

    pub(crate) fn watch(&self) -> Option<&Arc<dyn MemoryWatch>> {
        self.space.watch()
    }

    pub(crate) const fn region(&self) -> &Arc<Region> {
        &self.region
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(watch) = self.space.watch() {
            watch.returned(self.iova(), self.len_bytes);
        }
        let mut heap = self.space.heap.lock();
        heap.give_back(&self.region, self.offset, self.len_bytes);
    }
}
