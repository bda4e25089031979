//! A region: memory with one IOVA, mapped in every context of its space, and parts of it as
//! buffers.
use crate::buffer::{Home, HomeKind};
use crate::rt::sync::Mutex;
use crate::space::Inner;
use crate::{DmaBuf, Error, Iova, Memory, MemoryWatch, RangeAllocator, SpaceId};
use std::sync::{Arc, Weak};

/// A region: memory with an IOVA, mapped in every context of its space. Unmapped on drop.
///
/// Its IOVA is used again only when every context has proven that no device can reach it any
/// more. Otherwise both the IOVA and the memory are given up for the life of the process, and
/// [`SpaceStats::iova_lost_bytes`](crate::SpaceStats::iova_lost_bytes) counts them.
///
/// ```
/// use underpin_dma::DmaSpace;
///
/// let space = DmaSpace::new();
/// let region = space.region("table", 2 << 20)?;
/// assert_eq!((region.name(), region.len_bytes()), ("table", 2 << 20));
/// assert_eq!(region.space_id(), space.id());
/// // An IOVA is arithmetic: the same offset in the region, on whichever device.
/// region.memory().part(4096, 5)?.copy_from(0, b"hello")?;
/// let buf = region.buf(4096, 4096)?;
/// let mut text = [0; 5];
/// buf.copy_to(0, &mut text)?;
/// assert_eq!(&text, b"hello");
/// assert_eq!(buf.iova(), region.iova().wrapping_add(4096));
/// # Ok::<(), underpin_dma::Error>(())
/// ```
#[derive(Debug)]
pub struct Region {
    name: String,
    iova: Iova,
    memory: Arc<Memory>,
    space: Weak<Inner>,
    space_id: SpaceId,
    share: Share,
}

/// How a region's memory comes to its users.
#[derive(Debug)]
pub(crate) enum Share {
    /// A pool or the heap lends it in pieces, and tells the watcher of each.
    Pieces,
    /// Whoever has the region has all of it, and may take parts as buffers.
    Whole {
        /// The offsets that are in no buffer.
        free: Mutex<RangeAllocator>,
        watch: Option<Arc<dyn MemoryWatch>>,
    },
}

impl Region {
    pub(crate) fn new(
        name: &str,
        iova: Iova,
        memory: Arc<Memory>,
        space: &Arc<Inner>,
        share: Share,
    ) -> Self {
        let region = Self {
            name: name.to_owned(),
            iova,
            memory,
            space: Arc::downgrade(space),
            space_id: space.id(),
            share,
        };
        if let Share::Whole {
            watch: Some(watch), ..
        } = &region.share
        {
            watch.lent(iova, region.len_bytes());
        }
        region
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where devices see it.
    pub const fn iova(&self) -> Iova {
        self.iova
    }

    /// How long it is.
    pub fn len_bytes(&self) -> u64 {
        self.memory.len_bytes() as u64
    }

    /// Its memory.
    pub const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The space it belongs to.
    pub const fn space_id(&self) -> SpaceId {
        self.space_id
    }

    /// The `len_bytes` bytes from `offset` on as a buffer, with what is in them now. The buffer
    /// keeps the region; dropping it makes the bytes free for another buffer. So a caller's own
    /// memory is read and written by a device without a copy:
    ///
    /// ```
    /// # use underpin_dma::{DmaSpace, Error};
    /// let space = DmaSpace::new();
    /// let region = space.region("records", 1 << 20)?;
    /// let head = region.buf(0, 4096)?;
    /// let rest = region.buf(4096, (1 << 20) - 4096)?;
    /// assert_eq!(rest.iova(), region.iova().wrapping_add(4096));
    /// assert!(region.buf(512, 512).is_err(), "it lies in `head`");
    /// drop(head);
    /// assert!(region.buf(512, 512).is_ok());
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::BadRequest`] when the bytes do not lie within the region, are none, are in
    /// another buffer, or the region belongs to a pool or the heap, which lend its pieces.
    pub fn buf(self: &Arc<Self>, offset: usize, len_bytes: usize) -> Result<DmaBuf, Error> {
        let bad = |what: String| Error::BadRequest {
            name: self.name.clone(),
            what,
        };
        let Share::Whole { free, .. } = &self.share else {
            return Err(bad(
                "its buffers come from its pool or heap: allocate there".to_owned(),
            ));
        };
        if len_bytes == 0 || self.memory.part(offset, len_bytes).is_err() {
            return Err(bad(format!(
                "{len_bytes} bytes at offset {offset} do not lie within its {} bytes",
                self.memory.len_bytes()
            )));
        }
        if !free.lock().claim(offset as u64, len_bytes as u64) {
            return Err(bad(format!(
                "some of the {len_bytes} bytes at offset {offset} are in another buffer; drop \
                 that one first"
            )));
        }
        let kind = HomeKind::Region(Arc::clone(self));
        Ok(DmaBuf::new(
            self.iova.wrapping_add(offset as u64),
            Arc::new(Home::new(len_bytes, self.space_id, kind)),
        ))
    }

    /// Who is told of it, unless it belongs to a pool or the heap.
    pub(crate) const fn watch(&self) -> Option<&Arc<dyn MemoryWatch>> {
        match &self.share {
            Share::Whole { watch, .. } => watch.as_ref(),
            Share::Pieces => None,
        }
    }

    /// Takes back the bytes of a buffer that [`buf`](Self::buf) made.
    pub(crate) fn give_back(&self, offset: usize, len_bytes: usize) {
        if let Share::Whole { free, .. } = &self.share {
            free.lock().free(offset as u64, len_bytes as u64);
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Share::Whole {
            watch: Some(watch), ..
        } = &self.share
        {
            watch.returned(self.iova, self.len_bytes());
        }
        // Without a space there are no contexts: an attachment keeps its space alive.
        if let Some(space) = self.space.upgrade() {
            space.remove(self.iova);
        }
    }
}
