//! What a queue's slot can own while a command is in flight: any memory a device may reach, in one
//! piece or several. A trait, so that buffers, pins and a caller's pair of buffer and context serve.
#![allow(unsafe_code)]
use crate::{DmaBuf, DmaSpace, Iova, OutOfBounds, SpaceId, View};
use std::ops::Range;

/// A contiguous run of IOVAs, or bytes that go [nowhere](Span::discarded).
///
/// ```
/// use underpin_dma::{Iova, Span};
///
/// let span = Span { iova: Iova::new(0x1_0000_0000), len_bytes: 4096 };
/// let tail = span.part(4000, 96);
/// assert_eq!((tail.iova.get(), tail.len_bytes), (0x1_0000_0fa0, 96));
/// assert!(Span::discarded(512).is_discarded() && !tail.is_discarded());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub iova: Iova,
    /// How long it is.
    pub len_bytes: usize,
}

/// Memory that a command transfers to or from, owned by the queue's slot while it is in flight.
///
/// # Safety
/// Until the value is dropped, every span that is not discarded stays mapped at its IOVA in the space named by
/// [`space_id`](Self::space_id), and the memory is nobody's who would take it for ordinary memory:
/// a buffer has one owner, and a page that several pins share is DMA memory to all of them. The
/// answers do not change when the value is moved.
///
/// A buffer with a context of the caller's own need no implementation: a pair is one, and so is a
/// [`Vectored`].
///
/// ```
/// use underpin_dma::{DmaBuf, DmaSpace, Payload, Span};
///
/// let space = DmaSpace::new();
/// let job: (DmaBuf, String) = (space.alloc(4096, 4096)?, "job 7".to_owned());
/// assert_eq!((job.space_id(), job.span_count()), (space.id(), 1));
/// assert_eq!(job.span(0), Span { iova: job.0.iova(), len_bytes: 4096 });
/// # Ok::<(), underpin_dma::Error>(())
/// ```
pub unsafe trait Payload: Send + 'static {
    /// The space in which the IOVAs mean this memory.
    fn space_id(&self) -> SpaceId;

    /// How many contiguous runs of IOVAs it has.
    #[inline(always)]
    fn span_count(&self) -> usize {
        1
    }

    /// Run `index`, counted from 0 in transfer order.
    fn span(&self, index: usize) -> Span;
}

// SAFETY: a DmaBuf owns its range of a mapped region until it is dropped; moving the handle does
// not move the memory.
unsafe impl Payload for DmaBuf {
    #[inline(always)]
    fn space_id(&self) -> SpaceId {
        DmaBuf::space_id(self)
    }
    #[inline(always)]
    fn span(&self, _index: usize) -> Span {
        Span {
            iova: self.iova(),
            len_bytes: self.len_bytes(),
        }
    }
}

// SAFETY: everything is the first field's.
unsafe impl<P: Payload, T: Send + 'static> Payload for (P, T) {
    #[inline(always)]
    fn space_id(&self) -> SpaceId {
        self.0.space_id()
    }
    #[inline(always)]
    fn span_count(&self) -> usize {
        self.0.span_count()
    }
    #[inline(always)]
    fn span(&self, index: usize) -> Span {
        self.0.span(index)
    }
}

impl Span {
    /// Bytes of a read that go nowhere: the device drops them. Not every device can (NVMe Base
    /// 2.0, 4.1.2: bit bucket descriptors), and none can in a write.
    pub const fn discarded(len_bytes: usize) -> Self {
        Self {
            iova: NOWHERE,
            len_bytes,
        }
    }

    /// True when its bytes go nowhere.
    #[inline]
    pub const fn is_discarded(self) -> bool {
        self.iova.get() == NOWHERE.get()
    }

    /// `len_bytes` bytes of it, from `offset` on. They are the caller's to keep within it.
    #[inline]
    #[must_use]
    pub const fn part(self, offset: usize, len_bytes: usize) -> Self {
        let iova = match self.is_discarded() {
            true => NOWHERE,
            false => self.iova.wrapping_add(offset as u64),
        };
        Self { iova, len_bytes }
    }
}

/// The last address there is: no region has it, and neither a PRP nor a dword can begin there.
const NOWHERE: Iova = Iova::new(u64::MAX);

/// Several buffers as the memory of one transfer, in order: `preadv` and `pwritev` for a device.
/// A read may also skip bytes, so that a part of a range of blocks is read and the rest dropped.
///
/// It keeps its vector when it is [`clear`](Self::clear)ed, so that one that came back with a
/// completion can be filled again without an allocation.
///
/// ```
/// use underpin_dma::{DmaSpace, Payload, Vectored};
///
/// let space = DmaSpace::new();
/// let mut parts = Vectored::new(&space);
/// parts.skip(512);
/// parts.push(space.alloc(1024, 512)?)?;
/// parts.push_part(space.alloc(4096, 4096)?, 256, 512)?;
/// assert_eq!((parts.len_bytes(), parts.memory_bytes(), parts.span_count()), (2048, 1536, 3));
///
/// parts.copy_from(1000, b"across the two buffers of it")?;
/// let mut text = [0; 7];
/// parts.copy_to(1016, &mut text)?;
/// assert_eq!(&text, b"uffers ");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Vectored {
    space: SpaceId,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    /// `offset` and `len_bytes` lie within the buffer.
    Memory {
        buffer: DmaBuf,
        offset: usize,
        len_bytes: usize,
    },
    Skipped(usize),
}

impl Part {
    const fn len_bytes(&self) -> usize {
        match self {
            Self::Memory { len_bytes, .. } | Self::Skipped(len_bytes) => *len_bytes,
        }
    }
}

/// A buffer that could not be added to a [`Vectored`]: why, and the buffer back.
///
/// ```
/// use underpin_dma::{DmaSpace, NotAddedReason, Vectored};
///
/// let (here, elsewhere) = (DmaSpace::new(), DmaSpace::new());
/// let mut parts = Vectored::new(&here);
/// let not_added = parts.push(elsewhere.alloc(512, 512)?).unwrap_err();
/// assert!(matches!(not_added.why, NotAddedReason::OtherSpace));
/// assert_eq!(not_added.buffer.space_id(), elsewhere.id());
/// # Ok::<(), underpin_dma::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[error("the buffer cannot be added: {why}")]
pub struct NotAdded {
    /// Why.
    pub why: NotAddedReason,
    /// The caller's buffer.
    pub buffer: DmaBuf,
}

/// Why a buffer could not be added to a [`Vectored`].
///
/// ```
/// use underpin_dma::{DmaSpace, NotAddedReason, Vectored};
///
/// let space = DmaSpace::new();
/// let not_added = Vectored::new(&space).push_part(space.alloc(512, 512)?, 500, 100).unwrap_err();
/// match not_added.why {
///     NotAddedReason::OutOfBounds(error) => assert_eq!(error.available_bytes, 512),
///     other => panic!("{other}"),
/// }
/// # Ok::<(), underpin_dma::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAddedReason {
    /// A device sees one space at a time.
    #[error("it belongs to another DmaSpace than the others; allocate it from theirs")]
    OtherSpace,
    /// The part does not lie within the buffer.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
}

impl Vectored {
    /// Without memory still.
    pub fn new(space: &DmaSpace) -> Self {
        Self {
            space: space.id(),
            parts: Vec::new(),
        }
    }

    /// Adds a whole buffer.
    ///
    /// # Errors
    /// [`NotAdded`] gives the buffer back: it belongs to another space.
    #[allow(clippy::result_large_err, reason = "it gives the buffer back")]
    pub fn push(&mut self, buffer: DmaBuf) -> Result<(), NotAdded> {
        let len_bytes = buffer.len_bytes();
        self.push_part(buffer, 0, len_bytes)
    }

    /// Adds `len_bytes` bytes of a buffer, from `offset` on.
    ///
    /// # Errors
    /// [`NotAdded`] gives the buffer back: the part does not lie within it, or it belongs to
    /// another space.
    #[allow(clippy::result_large_err, reason = "it gives the buffer back")]
    pub fn push_part(
        &mut self,
        buffer: DmaBuf,
        offset: usize,
        len_bytes: usize,
    ) -> Result<(), NotAdded> {
        let available_bytes = buffer.len_bytes();
        let fits = offset
            .checked_add(len_bytes)
            .is_some_and(|end| end <= available_bytes);
        let why = if !fits {
            NotAddedReason::OutOfBounds(OutOfBounds {
                offset,
                len_bytes,
                available_bytes,
            })
        } else if buffer.space_id() != self.space {
            NotAddedReason::OtherSpace
        } else {
            self.parts.push(Part::Memory {
                buffer,
                offset,
                len_bytes,
            });
            return Ok(());
        };
        Err(NotAdded { why, buffer })
    }

    /// Skips `len_bytes` bytes of what is read. A write with them is refused, and a read is by a
    /// device without bit buckets.
    pub fn skip(&mut self, len_bytes: usize) {
        self.parts.push(Part::Skipped(len_bytes));
    }

    /// How many bytes a transfer over all of it has; [`usize::MAX`] when what is skipped is more.
    pub fn len_bytes(&self) -> usize {
        let lengths = self.parts.iter().map(Part::len_bytes);
        lengths.fold(0, usize::saturating_add)
    }

    /// The same without what is skipped.
    pub fn memory_bytes(&self) -> usize {
        self.views().map(|view| view.len_bytes()).sum()
    }

    /// Copies `src` in, from byte `offset` of its memory on; what is skipped does not count.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not fit; nothing is copied then.
    pub fn copy_from(&mut self, offset: usize, src: &[u8]) -> Result<(), OutOfBounds> {
        self.pieces(offset, src.len(), |view, at, range| {
            view.copy_from(at, src.get(range).unwrap_or(&[]))
        })
    }

    /// Copies `dst.len()` bytes out, from byte `offset` of its memory on; what is skipped does not
    /// count.
    ///
    /// # Errors
    /// [`OutOfBounds`] when they do not lie within; nothing is copied then.
    pub fn copy_to(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfBounds> {
        self.pieces(offset, dst.len(), |view, at, range| {
            view.copy_to(at, dst.get_mut(range).unwrap_or(&mut []))
        })
    }

    /// Its buffers, in order, whole.
    pub fn buffers(&self) -> impl Iterator<Item = &DmaBuf> {
        self.parts.iter().filter_map(|part| match part {
            Part::Memory { buffer, .. } => Some(buffer),
            Part::Skipped(_) => None,
        })
    }

    /// Takes out its buffers, in order, whole, and keeps its vector.
    ///
    /// ```
    /// use underpin_dma::{DmaSpace, Vectored};
    ///
    /// let space = DmaSpace::new();
    /// let mut parts = Vectored::from(space.alloc(512, 512)?);
    /// parts.push(space.alloc(1024, 512)?)?;
    /// assert!(parts.buffers().map(|buffer| buffer.len_bytes()).eq([512, 1024]));
    /// let back: Vec<_> = parts.clear().collect();
    /// assert_eq!((back.len(), parts.len_bytes()), (2, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clear(&mut self) -> impl Iterator<Item = DmaBuf> {
        self.parts.drain(..).filter_map(|part| match part {
            Part::Memory { buffer, .. } => Some(buffer),
            Part::Skipped(_) => None,
        })
    }

    fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.parts.iter().filter_map(|part| match part {
            Part::Memory {
                buffer,
                offset,
                len_bytes,
            } => buffer.view().part(*offset, *len_bytes).ok(),
            Part::Skipped(_) => None,
        })
    }

    /// Passes a range of its memory to `each`, part by part: the view, where in it, and which of
    /// the range's bytes.
    fn pieces(
        &self,
        offset: usize,
        len_bytes: usize,
        mut each: impl FnMut(View<'_>, usize, Range<usize>) -> Result<(), OutOfBounds>,
    ) -> Result<(), OutOfBounds> {
        let available_bytes = self.memory_bytes();
        let fits = offset
            .checked_add(len_bytes)
            .is_some_and(|end| end <= available_bytes);
        if !fits {
            return Err(OutOfBounds {
                offset,
                len_bytes,
                available_bytes,
            });
        }
        let (mut skip, mut done) = (offset, 0);
        for view in self.views() {
            let Some(available) = view.len_bytes().checked_sub(skip) else {
                skip -= view.len_bytes();
                continue;
            };
            let take = available.min(len_bytes - done);
            each(view, skip, done..done + take)?;
            done += take;
            skip = 0;
        }
        Ok(())
    }
}

impl From<DmaBuf> for Vectored {
    fn from(buffer: DmaBuf) -> Self {
        Self {
            space: buffer.space_id(),
            parts: vec![Part::Memory {
                offset: 0,
                len_bytes: buffer.len_bytes(),
                buffer,
            }],
        }
    }
}

// SAFETY: every span that is memory lies within a buffer of `parts` (checked by `push_part`), of
// this space, owned until it is taken out, which needs the value itself; a move does not move the
// memory. `copy_from` and `clear` need `&mut self`, which nobody has while a queue owns it.
unsafe impl Payload for Vectored {
    fn space_id(&self) -> SpaceId {
        self.space
    }
    fn span_count(&self) -> usize {
        self.parts.len()
    }
    fn span(&self, index: usize) -> Span {
        match self.parts.get(index) {
            Some(Part::Memory {
                buffer,
                offset,
                len_bytes,
            }) => Span {
                iova: buffer.iova().wrapping_add(*offset as u64),
                len_bytes: *len_bytes,
            },
            Some(Part::Skipped(len_bytes)) => Span::discarded(*len_bytes),
            None => Span::discarded(0),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A buffer of another space, or a part that is not there, is given back and nothing added.
    #[test]
    fn what_does_not_belong_is_given_back() {
        let (space, other) = (DmaSpace::new(), DmaSpace::new());
        let mut parts = Vectored::new(&space);
        let refused = parts.push(other.alloc(4096, 4096).unwrap()).unwrap_err();
        assert_eq!(refused.why, NotAddedReason::OtherSpace);
        assert_eq!(refused.buffer.space_id(), other.id());
        for (offset, len) in [(1, 4096), (4097, 0), (usize::MAX, 2)] {
            let buffer = space.alloc(4096, 4096).unwrap();
            let refused = parts.push_part(buffer, offset, len).unwrap_err();
            assert!(matches!(refused.why, NotAddedReason::OutOfBounds(_)));
            assert!(refused.to_string().contains("4096"), "{refused}");
        }
        assert_eq!((parts.span_count(), parts.len_bytes()), (0, 0));
    }

    /// Copies run through the parts of buffers alone, to the byte, and stop at their end.
    #[test]
    fn copies_go_through_all_parts() {
        let space = DmaSpace::new();
        let mut parts = Vectored::new(&space);
        for (offset, len) in [(0, 10), (5, 1), (7, 0), (4000, 96)] {
            parts.skip(3);
            let buffer = space.alloc(4096, 4096).unwrap();
            parts.push_part(buffer, offset, len).unwrap();
        }
        assert_eq!((parts.memory_bytes(), parts.len_bytes()), (107, 119));
        let content: Vec<u8> = (0..107).collect();
        parts.copy_from(0, &content).unwrap();
        for offset in 0..=107 {
            for len in 0..=107 - offset {
                let mut read = vec![0xee; len];
                parts.copy_to(offset, &mut read).unwrap();
                assert_eq!(read, content[offset..offset + len]);
            }
        }
        assert!(parts.copy_to(107, &mut [0]).is_err());
        assert!(parts.copy_from(100, &[0; 8]).is_err());
        assert!(parts.copy_from(usize::MAX, &[0; 8]).is_err());
        let mut third = [0; 96];
        let last = parts.buffers().nth(3).unwrap();
        last.copy_to(4000, &mut third).unwrap();
        assert_eq!(third, content[11..]);
        assert_eq!(parts.clear().count(), 4);
        assert_eq!(parts.span_count(), 0);
    }

    /// Nobody can skip so much that lengths begin at zero again.
    #[test]
    fn lengths_stop_at_the_end() {
        let mut parts = Vectored::new(&DmaSpace::new());
        parts.skip(usize::MAX);
        parts.skip(2);
        assert_eq!(parts.len_bytes(), usize::MAX);
    }

    /// A part of what goes nowhere goes nowhere.
    #[test]
    fn parts_of_a_span_stay_what_they_are() {
        let memory = Span {
            iova: Iova::new(0x1000),
            len_bytes: 512,
        };
        assert_eq!(memory.part(4, 8).iova, Iova::new(0x1004));
        assert!(!memory.is_discarded() && !memory.part(4, 8).is_discarded());
        assert_eq!(Span::discarded(512).part(4, 8), Span::discarded(8));
        assert!(Span::discarded(0).is_discarded());
    }
}
