//! A buffer that a device may be given: from a pool, from the space's heap, or the caller's own.
//! It goes back where it came from when dropped; a command in flight owns it, so that cannot be early.
use crate::heap::Piece;
use crate::pool::PoolInner;
use crate::{Iova, MemSlice, Memory, OutOfBounds, Region, SpaceId, View};
use std::sync::Arc;

#[derive(Debug)]
pub(crate) enum Home {
    Pool {
        pool: Arc<PoolInner>,
        index: u32,
    },
    /// Goes back by being dropped.
    Heap(Piece),
    /// A part of a region that its owner shares out, such as registered memory.
    Region(Arc<Region>),
}

/// DMA memory with one owner. Contents are whatever the last owner left, except that memory from
/// [`DmaSpace::alloc`](crate::DmaSpace::alloc) begins as zeroes.
///
/// It keeps all that it needs: its pool or region, their space, and their place in it. So it may
/// outlive every handle to them.
#[derive(Debug)]
pub struct DmaBuf {
    iova: Iova,
    len_bytes: usize,
    space: SpaceId,
    /// Where the bytes lie in their memory.
    offset: usize,
    /// `None` only while it is being dropped.
    home: Option<Home>,
}

impl DmaBuf {
    pub(crate) fn new(
        iova: Iova,
        len_bytes: usize,
        space: SpaceId,
        offset: usize,
        home: Home,
    ) -> Self {
        Self {
            iova,
            len_bytes,
            space,
            offset,
            home: Some(home),
        }
    }

    /// Where devices see it.
    #[inline(always)]
    pub const fn iova(&self) -> Iova {
        self.iova
    }

    /// How long it is.
    #[inline(always)]
    pub const fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The space it belongs to.
    #[inline(always)]
    pub const fn space_id(&self) -> SpaceId {
        self.space
    }

    /// The window on its bytes.
    pub fn view(&self) -> View<'_> {
        // The range was checked when the buffer was made.
        match self
            .memory()
            .and_then(|memory| memory.part(self.offset, self.len_bytes).ok())
        {
            Some(view) => view,
            None => View::new(vm_memory::VolatileSlice::from(&mut [][..])),
        }
    }

    /// Its bytes as a slice that keeps the memory mapped, for rings and doorbells.
    ///
    /// # Errors
    /// [`OutOfBounds`] never in practice: the range was checked when the buffer was made.
    pub fn slice(&self) -> Result<MemSlice, OutOfBounds> {
        match self.memory() {
            Some(memory) => MemSlice::new(memory, self.offset, self.len_bytes),
            None => Err(OutOfBounds {
                offset: 0,
                len_bytes: self.len_bytes,
                available_bytes: 0,
            }),
        }
    }

    /// Copies `src` in, from `offset` on.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not fit.
    pub fn copy_from(&mut self, offset: usize, src: &[u8]) -> Result<(), OutOfBounds> {
        self.view().copy_from(offset, src)
    }

    /// Copies `dst.len()` bytes out, from `offset` on.
    ///
    /// # Errors
    /// [`OutOfBounds`] when they do not lie within.
    pub fn copy_to(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfBounds> {
        self.view().copy_to(offset, dst)
    }

    /// Sets every byte to `byte`.
    pub fn fill(&mut self, byte: u8) {
        let view = self.view();
        let _ = view.fill(0, view.len_bytes(), byte);
    }

    fn memory(&self) -> Option<&Arc<Memory>> {
        match self.home.as_ref()? {
            Home::Pool { pool, .. } => Some(pool.memory()),
            Home::Heap(heap) => Some(heap.memory()),
            Home::Region(region) => Some(region.memory()),
        }
    }
}

impl Drop for DmaBuf {
    #[inline]
    fn drop(&mut self) {
        match self.home.take() {
            Some(Home::Pool { pool, index }) => pool.give_back(index, self.iova),
            Some(Home::Region(region)) => region.give_back(self.offset, self.len_bytes),
            Some(Home::Heap(_)) | None => {}
        }
    }
}
