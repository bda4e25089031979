//! A buffer that a device may be given: from a pool, from the space's heap, or the caller's own.
//! It goes back where it came from when dropped; a command in flight owns it, so that cannot be early.
use crate::heap::Piece;
use crate::pool::PoolInner;
use crate::{Iova, MemSlice, OutOfBounds, Region, SpaceId, View};
use std::sync::Arc;

/// Where a buffer came from and goes back to.
#[derive(Debug)]
pub(crate) enum Home {
    Pool(Arc<PoolInner>),
    /// Goes back by being dropped.
    Heap(Piece),
    /// A part of a region that its owner shares out, such as registered memory.
    Region(Arc<Region>),
}

impl Home {
    fn region(&self) -> &Region {
        match self {
            Self::Pool(pool) => pool.region(),
            Self::Heap(piece) => piece.region(),
            Self::Region(region) => region,
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
    /// Always `Some`.
    home: Option<Arc<Home>>,
    iova: Iova,
    len_bytes: usize,
    space: SpaceId,
    /// Of a pool's buffers.
    index: u32,
}

// It is moved several times a command. No bit pattern of its own is left to mean `None`: such a
// pattern is looked at as a part, then the handle is moved in parts, and reading it whole right
// after costs the processor more than all the rest (a failed store-to-load forwarding).
const _: () = assert!(size_of::<DmaBuf>() == 32 && size_of::<Option<DmaBuf>>() == 40);

impl DmaBuf {
    #[inline]
    pub(crate) fn new(
        iova: Iova,
        len_bytes: usize,
        space: SpaceId,
        home: Arc<Home>,
        index: u32,
    ) -> Self {
        Self {
            home: Some(home),
            iova,
            len_bytes,
            space,
            index,
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
        let view = self.region().and_then(|region| {
            let part = region
                .memory()
                .part(offset_in(region, self.iova), self.len_bytes);
            part.ok()
        });
        view.unwrap_or_else(|| View::new(vm_memory::VolatileSlice::from(&mut [][..])))
    }

    /// Its bytes as a slice that keeps the memory mapped, for rings and doorbells.
    ///
    /// # Errors
    /// [`OutOfBounds`] never in practice: the range was checked when the buffer was made.
    pub fn slice(&self) -> Result<MemSlice, OutOfBounds> {
        match self.region() {
            Some(region) => MemSlice::new(
                region.memory(),
                offset_in(region, self.iova),
                self.len_bytes,
            ),
            None => Err(OutOfBounds {
                offset: 0,
                len_bytes: self.len_bytes,
                available_bytes: 0,
            }),
        }
    }

    fn region(&self) -> Option<&Region> {
        self.home.as_deref().map(Home::region)
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
        match self.home.as_deref() {
            Some(Home::Pool(pool)) => pool.give_back(self.index, self.iova),
            Some(Home::Region(region)) => {
                region.give_back(offset_in(region, self.iova), self.len_bytes);
            }
            Some(Home::Heap(_)) | None => {}
        }
    }
}
