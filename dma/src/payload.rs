//! What a queue's slot can own while a command is in flight: any memory a device may reach.
//! A trait, so that buffers, pins and a caller's own pair of buffer and context all serve.
#![allow(unsafe_code)]
use crate::{DmaBuf, Iova, SpaceId};

/// A contiguous run of IOVAs.
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
/// Until the value is dropped, every span stays mapped at its IOVA in the space named by
/// [`space_id`](Self::space_id), and the memory is not lent to anybody else. The answers do not
/// change when the value is moved.
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
