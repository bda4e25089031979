//! A buffer that a device may be given: from a pool, from the space's heap, or the caller's own.
//! It goes back where it came from when dropped; a command in flight owns it, so that cannot be early.
use crate::heap::Piece;
use crate::pool::PoolInner;
use crate::{Iova, MemSlice, MemoryWatch, OutOfBounds, Region, SpaceId, View};
use std::sync::Arc;

/// Where a buffer came from and goes back to, and what it need not carry itself: all buffers of a
/// pool have one home.
#[derive(Debug)]
pub(crate) struct Home {
    len_bytes: usize,
    space: SpaceId,
    kind: HomeKind,
}

#[derive(Debug)]
pub(crate) enum HomeKind {
    Pool(Arc<PoolInner>),
    /// Goes back by being dropped.
    Heap(Piece),
    /// A part of a region that its owner shares out, such as registered memory.
    Region(Arc<Region>),
}

impl Home {
    pub(crate) const fn new(len_bytes: usize, space: SpaceId, kind: HomeKind) -> Self {
        Self {
            len_bytes,
            space,
            kind,
        }
    }

    fn region(&self) -> &Region {
        match &self.kind {
            HomeKind::Pool(pool) => pool.region(),
            HomeKind::Heap(piece) => piece.region(),
            HomeKind::Region(region) => region,
        }
    }
}

/// DMA memory with one owner. Contents are whatever the last owner left, except that memory from
/// [`DmaSpace::alloc`](crate::DmaSpace::alloc) begins as zeroes.
///
/// It keeps all that it needs: its pool or region, their space, and their place in it. So it may
/// outlive every handle to them.
///
/// ```
/// use underpin_dma::DmaSpace;
///
/// let space = DmaSpace::new();
/// let mut buf = space.alloc(4096, 4096)?;
/// assert_eq!((buf.len_bytes(), buf.space_id()), (4096, space.id()));
/// assert!(buf.iova().is_aligned(4096));
///
/// buf.fill(b'-');
/// buf.copy_from(1, b"record")?;
/// let mut text = [0; 8];
/// buf.copy_to(0, &mut text)?;
/// assert_eq!(&text, b"-record-");
///
/// // It keeps what it needs.
/// drop(space);
/// buf.view().copy_to(0, &mut text)?;
/// let words = buf.slice()?;
/// assert_eq!(words.len_bytes(), 4096);
/// # Ok::<(), underpin_dma::Error>(())
/// ```
#[derive(Debug)]
pub struct DmaBuf {
    home: Arc<Home>,
    iova: Iova,
}

// It is moved several times a command: as two registers, and so is an `Option` of it. Anything
// longer goes through memory at every step.
const _: () = assert!(size_of::<DmaBuf>() == 16 && size_of::<Option<DmaBuf>>() == 16);

impl DmaBuf {
    #[inline(always)]
    pub(crate) const fn new(iova: Iova, home: Arc<Home>) -> Self {
        Self { home, iova }
    }

    /// Where devices see it.
    #[inline(always)]
    pub const fn iova(&self) -> Iova {
        self.iova
    }

    /// How long it is.
    #[inline(always)]
    pub fn len_bytes(&self) -> usize {
        self.home.len_bytes
    }

    /// The space it belongs to.
    #[inline(always)]
    pub fn space_id(&self) -> SpaceId {
        self.home.space
    }

    /// Who is told of its memory, if anybody is.
    pub(crate) fn watch(&self) -> Option<&Arc<dyn MemoryWatch>> {
        match &self.home.kind {
            HomeKind::Pool(pool) => pool.watch(),
            HomeKind::Heap(piece) => piece.watch(),
            HomeKind::Region(region) => region.watch(),
        }
    }

    /// The window on its bytes.
    pub fn view(&self) -> View<'_> {
        let region = self.home.region();
        let offset = offset_in(region, self.iova);
        // The range was checked when the buffer was made.
        let view = region.memory().part(offset, self.len_bytes());
        view.unwrap_or_else(|_| View::new(vm_memory::VolatileSlice::from(&mut [][..])))
    }

    /// Its bytes as a slice that keeps the memory mapped, for rings and doorbells.
    ///
    /// # Errors
    /// [`OutOfBounds`] never in practice: the range was checked when the buffer was made.
    pub fn slice(&self) -> Result<MemSlice, OutOfBounds> {
        let region = self.home.region();
        let offset = offset_in(region, self.iova);
        MemSlice::new(region.memory(), offset, self.len_bytes())
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
}

/// A region's IOVAs and its memory's offsets run side by side.
fn offset_in(region: &Region, iova: Iova) -> usize {
    (iova.get() - region.iova().get()) as usize
}

impl Drop for DmaBuf {
    #[inline]
    fn drop(&mut self) {
        match &self.home.kind {
            HomeKind::Pool(pool) => pool.give_back(self.iova),
            HomeKind::Region(region) => {
                region.give_back(offset_in(region, self.iova), self.len_bytes());
            }
            HomeKind::Heap(_) => {}
        }
    }
}
