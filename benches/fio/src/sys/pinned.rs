//! Pinned pages of a file as the memory of one command: the device writes them, or reads them.

use underpin::Payload;
use underpin::dma::pin::{ReadPin, WritePin, WritePins};
use underpin::dma::{SpaceId, Span};

/// Pages pinned for one command, in order. It keeps its room when it is cleared, so that pinning
/// allocates nothing.
#[derive(Debug)]
pub(crate) struct Pinned {
    space: SpaceId,
    write: WritePins,
    read: Vec<ReadPin>,
}

impl Pinned {
    /// None yet; room for so many.
    pub(crate) fn with_capacity(space: SpaceId, pages: usize) -> Self {
        Self {
            space,
            write: WritePins::with_capacity(pages),
            read: Vec::with_capacity(pages),
        }
    }

    /// Adds a page that the device writes. False, and the pin is gone, if it is one of another
    /// space or cache.
    #[inline]
    pub(crate) fn push_write(&mut self, pin: WritePin) -> bool {
        pin.space_id() == self.space && self.write.push(pin).is_ok()
    }

    /// Adds a page that the device reads. False, and the pin is gone, if it is one of another
    /// space.
    #[inline]
    pub(crate) fn push_read(&mut self, pin: ReadPin) -> bool {
        let fits = pin.space_id() == self.space;
        if fits {
            self.read.push(pin);
        }
        fits
    }

    /// The device has written all of the pages that it was to write.
    #[inline]
    pub(crate) fn set_uptodate(&self) {
        self.write.set_uptodate();
    }

    /// Pages pinned.
    pub(crate) fn len(&self) -> usize {
        self.write.len() + self.read.len()
    }

    /// Unpins all.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.write.clear();
        self.read.clear();
    }
}

// SAFETY: every span is that of a pin which is held until this is dropped or cleared, which takes
// `&mut self` that nobody has while a queue owns it; the pins are all of `space`, as `push_write`
// and `push_read` see to.
unsafe impl Payload for Pinned {
    #[inline]
    fn space_id(&self) -> SpaceId {
        self.space
    }

    #[inline]
    fn span_count(&self) -> usize {
        self.len()
    }

    #[inline]
    fn span(&self, index: usize) -> Span {
        match index.checked_sub(self.write.len()) {
            None => self.write.span(index),
            Some(index) => match self.read.get(index) {
                Some(pin) => pin.span(0),
                None => Span::discarded(0),
            },
        }
    }
}
