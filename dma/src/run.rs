//! Pages of a cache as the memory of one command: read in, written back from themselves, or from a
//! copy. It carries what was begun for each of them, so that its end is theirs.
#![allow(unsafe_code)]
use crate::frame::{Decision, FRAME_BYTES, Frames};
use crate::pin::{Fill, Writeback};
use crate::{Direction, DmaBuf, OutOfBounds, Payload, SpaceId, Span, View};
use std::sync::Arc;

/// One page of a [`PageRun`].
#[derive(Debug)]
enum Page {
    /// Read in.
    Fill(Fill),
    /// Written back from itself.
    Direct(Writeback),
    /// Written back from what it held when it was copied.
    Copy { writeback: Writeback, copy: DmaBuf },
    /// Some bytes of nobody's: zeroes for a hole, say.
    Plain(DmaBuf),
}

/// Neighbouring pages of a file in one command, in order, 4 KiB each.
///
/// Dropped without [`end`](Self::end), as by a queue that has proof that the device is done with a
/// failed command, all of them have failed: pages that were being read in are not up to date, pages
/// that were being written back are dirty again (R26).
///
/// ```
/// use std::sync::Arc;
/// use underpin_dma::frame::{Beginning, Frames, Intent, Owner, PageKey, ReserveError, State};
/// use underpin_dma::{DmaSpace, PageRun, Payload, pin::Cover};
///
/// # struct Cache;
/// # impl Owner for Cache {
/// #     fn page(&self, frame: u32) -> PageKey { PageKey(frame.into()) }
/// #     fn still_holds(&self, _: u32, _: u16) -> bool { true }
/// #     fn reserve(&self, _: PageKey) -> Result<(), ReserveError> { Ok(()) }
/// #     fn give_back(&self, _: PageKey) {}
/// #     fn enter_dirty(&self, _: u32, _: PageKey) {}
/// #     fn freed(&self, _: u32) {}
/// # }
/// let space = DmaSpace::new();
/// let frames = Frames::new(space.alloc(4 * 4096, 4096)?, Arc::new(Cache))?;
/// let page = frames.frame(2, frames.alloc(2, Beginning::Fill).expect("it is free"));
///
/// // A device reads it in.
/// let mut run = PageRun::with_capacity(1);
/// run.push_fill(page.begun_fill().expect("so it began"));
/// assert_eq!((run.len(), run.span(0).len_bytes), (1, 4096));
/// run.end(true);
///
/// // A device writes it, and it is written back meanwhile: from a copy.
/// let pin = page.pin_write(Cover::Part)?;
/// let writeback = page.begin_writeback(Intent::Integrity, false).expect("dirty").expect("copied");
/// let mut run = PageRun::with_capacity(1);
/// run.push_copy(&frames, writeback, space.alloc(4096, 4096)?, 4096)?;
/// assert_ne!(run.span(0).iova, pin.iova());
/// run.end(true);
/// assert!(frames.state(2).expect("it is there").has(State::DIRTY), "the pin may write on");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
#[must_use = "a run that is dropped has failed"]
pub struct PageRun {
    pages: Vec<Page>,
}

impl PageRun {
    /// None yet; takes so many without an allocation.
    pub fn with_capacity(pages: usize) -> Self {
        Self {
            pages: Vec::with_capacity(pages),
        }
    }

    /// How many pages.
    pub const fn len(&self) -> usize {
        self.pages.len()
    }

    /// True when there are none.
    pub const fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// True when its pages are read in, false when they are written back, or when there are none.
    pub fn is_read(&self) -> bool {
        matches!(self.pages.first(), Some(Page::Fill(_)))
    }

    /// How many of them are written from copies.
    pub fn copies(&self) -> usize {
        let copied = |page: &&Page| matches!(page, Page::Copy { .. });
        self.pages.iter().filter(copied).count()
    }

    /// A page that is read in.
    pub fn push_fill(&mut self, fill: Fill) {
        self.pages.push(Page::Fill(fill));
    }

    /// A page that is written back from itself.
    ///
    /// # Errors
    /// The writeback again when it was [decided](Writeback::decision) to copy.
    pub fn push_direct(&mut self, writeback: Writeback) -> Result<(), Writeback> {
        match writeback.decision() {
            Decision::Direct => {
                self.pages.push(Page::Direct(writeback));
                Ok(())
            }
            _ => Err(writeback),
        }
    }

    /// A page that is written back from `copy`, into which its first `valid_bytes` bytes are copied
    /// now; the rest of it is zero (R24). Each byte is what it was at some moment of the copy (R22).
    ///
    /// # Errors
    /// [`OutOfBounds`] when `copy` is no page, or `valid_bytes` more than one, or the page none of
    /// `frames`; the writeback has failed then.
    pub fn push_copy(
        &mut self,
        frames: &Frames,
        writeback: Writeback,
        copy: DmaBuf,
        valid_bytes: usize,
    ) -> Result<(), OutOfBounds> {
        if !writeback.is_of(frames) {
            return Err(no_page(writeback.frame() as usize, 0));
        }
        let page = frames.view(writeback.frame())?.part(0, valid_bytes)?;
        let to = copy.view().part(0, FRAME_BYTES)?;
        to.copy_from_view(0, page)?;
        to.fill(valid_bytes, FRAME_BYTES - valid_bytes, 0)?;
        self.pages.push(Page::Copy { writeback, copy });
        Ok(())
    }

    /// A page's length of bytes that are no page's: zeroes that are written over a hole.
    ///
    /// # Errors
    /// The buffer again when it is shorter than a page.
    pub fn push_plain(&mut self, bytes: DmaBuf) -> Result<(), DmaBuf> {
        match bytes.len_bytes() >= FRAME_BYTES {
            true => {
                self.pages.push(Page::Plain(bytes));
                Ok(())
            }
            false => Err(bytes),
        }
    }

    /// Copies the bytes of page `index` out, from `offset` on: what a command writes, for a store
    /// that does not do it by DMA.
    ///
    /// # Errors
    /// [`OutOfBounds`] when they do not lie within one of its pages.
    pub fn copy_to(&self, index: usize, offset: usize, dst: &mut [u8]) -> Result<(), OutOfBounds> {
        self.look(index, |page| page.copy_to(offset, dst))
    }

    /// Copies `src` into page `index`, from `offset` on: what a command reads, for a store that does
    /// not do it by DMA.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not fit, and for a page that is written back, not read in.
    pub fn copy_from(
        &mut self,
        index: usize,
        offset: usize,
        src: &[u8],
    ) -> Result<(), OutOfBounds> {
        match self.pages.get(index) {
            Some(Page::Fill(_)) => self.look(index, |page| page.copy_from(offset, src)),
            _ => Err(no_page(index, 0)),
        }
    }

    /// Where this process has each of its pages, in order, 4 KiB each: for a store that has the
    /// host's kernel move the bytes. The addresses are good until the run [ends](Self::end) or is
    /// dropped. Others, devices among them, may be reading or writing there at the same time, so
    /// they are for nothing but such a request: no reference may be made of them.
    ///
    /// ```
    /// use underpin_dma::{DmaSpace, PageRun};
    ///
    /// let mut run = PageRun::with_capacity(1);
    /// run.push_plain(DmaSpace::new().alloc(4096, 4096)?).expect("a page");
    /// assert!(run.host_pages().all(|page| page.is_aligned() && !page.is_null()));
    /// assert_eq!(run.host_pages().count(), 1);
    /// # Ok::<(), underpin_dma::Error>(())
    /// ```
    pub fn host_pages(&self) -> impl Iterator<Item = *mut u8> {
        self.pages.iter().map(|page| match page {
            Page::Fill(fill) => fill.host(),
            Page::Direct(writeback) => writeback.host(),
            Page::Copy { copy, .. } | Page::Plain(copy) => copy.view().host_pointer(),
        })
    }

    /// Tells who watches the memory, if anybody does, that something other than an emulator
    /// touches it: when a request is made, and again before its end is told
    /// ([`MemoryWatch::dma`](crate::MemoryWatch::dma)).
    pub fn tell_watch(&self, direction: Direction) {
        for (index, page) in self.pages.iter().enumerate() {
            let watch = match page {
                Page::Fill(fill) => fill.watch(),
                Page::Direct(writeback) => writeback.watch(),
                Page::Copy { copy, .. } | Page::Plain(copy) => copy.watch().map(Arc::clone),
            };
            let Some(watch) = watch else {
                // A space has a watcher or has none.
                return;
            };
            let Span { iova, len_bytes } = self.span(index);
            watch.dma(iova, len_bytes as u64, direction);
        }
    }

    fn look<T>(
        &self,
        index: usize,
        look: impl FnOnce(View<'_>) -> Result<T, OutOfBounds>,
    ) -> Result<T, OutOfBounds> {
        match self.pages.get(index) {
            Some(Page::Fill(fill)) => fill.look(look),
            Some(Page::Direct(writeback)) => writeback.look(look),
            Some(Page::Copy { copy, .. } | Page::Plain(copy)) => {
                look(copy.view().part(0, FRAME_BYTES)?)
            }
            None => Err(no_page(index, self.pages.len())),
        }
    }

    /// The command has ended, for all of them.
    pub fn end(self, good: bool) {
        for page in self.pages {
            match page {
                Page::Fill(fill) => fill.end(good),
                // The copy goes back to its pool before the page may be copied again.
                Page::Copy { writeback, copy } => {
                    drop(copy);
                    writeback.end(good);
                }
                Page::Direct(writeback) => writeback.end(good),
                Page::Plain(bytes) => drop(bytes),
            }
        }
    }
}

const fn no_page(offset: usize, available_bytes: usize) -> OutOfBounds {
    OutOfBounds {
        offset,
        len_bytes: 1,
        available_bytes,
    }
}

// SAFETY: a fill and a writeback keep their frame from being freed until their end, as a pin does
// (FILL and WB_* of the state word), and a table keeps its memory mapped while a frame of it is not
// free; a buffer owns its memory. Pages are added only with `&mut self`, which nobody has while a
// queue owns the run.
unsafe impl Payload for PageRun {
    fn space_id(&self) -> SpaceId {
        match self.pages.first() {
            Some(Page::Fill(fill)) => fill.space_id(),
            Some(Page::Direct(writeback)) => writeback.space(),
            Some(Page::Copy { copy, .. } | Page::Plain(copy)) => copy.space_id(),
            None => SpaceId::NONE,
        }
    }
    fn span_count(&self) -> usize {
        self.pages.len()
    }
    fn span(&self, index: usize) -> Span {
        match self.pages.get(index) {
            Some(Page::Fill(fill)) => fill.span(0),
            Some(Page::Direct(writeback)) => writeback.span(),
            Some(Page::Copy { copy, .. } | Page::Plain(copy)) => Span {
                iova: copy.iova(),
                len_bytes: FRAME_BYTES,
            },
            None => Span::discarded(0),
        }
    }
}
