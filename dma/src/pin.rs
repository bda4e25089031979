//! Pins, fills and writebacks as values: each holds its frame, knows its IOVA, and ends what it
//! began when it is dropped, by whomever. None keeps more than a reference to a table that is
//! never unmapped, so taking and dropping a pin is one atomic each.
#![allow(unsafe_code)]
use crate::frame::{
    Blocked, Decision, Due, FRAME_BYTES, Fast, Frame, Frames, Intent, LongTermLimit, PageKey, Pin,
    PinError, State, StateWord, Table,
};
use crate::{Iova, MemoryWatch, OutOfBounds, Payload, SpaceId, Span, View, barrier};
use std::mem::ManuallyDrop;

/// How much of a page a write pin's DMA covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// All of it: it need not have been read in.
    Whole,
    /// A part: what is around it stays (R35).
    Part,
}

/// What all of them hold.
#[derive(Debug)]
struct Held {
    table: &'static Table,
    frame: u32,
}

impl Held {
    #[inline(always)]
    fn iova(&self) -> Iova {
        self.table.iova(self.frame)
    }

    #[inline(always)]
    fn span(&self) -> Span {
        Span {
            iova: self.iova(),
            len_bytes: FRAME_BYTES,
        }
    }

    fn look<T>(
        &self,
        look: impl FnOnce(View<'_>) -> Result<T, OutOfBounds>,
    ) -> Result<T, OutOfBounds> {
        self.table.look(self.frame, look)
    }

    #[inline(always)]
    fn unpin(&self, pin: Pin) {
        // The word is there: it was when the pin was taken, and tables only live on.
        if let Some(word) = self.table.word(self.frame)
            && word.unpin(pin)
        {
            release(self.table, self.frame);
        }
    }

    /// Which page it is; asked while that cannot change.
    #[cold]
    #[inline(never)]
    fn page(&self) -> Option<PageKey> {
        self.table
            .with(self.frame, |place| place.owner.page(self.frame))
    }

    /// Does what a step left to be done, which is seldom anything.
    #[inline(always)]
    fn settle(&self, due: Due, page: Option<PageKey>) {
        if due != Due::default() || page.is_some() {
            self.do_settle(due, page);
        }
    }

    #[cold]
    #[inline(never)]
    fn do_settle(&self, due: Due, page: Option<PageKey>) {
        self.table.with(self.frame, |place| place.settle(due, page));
    }
}

/// The last pin of a page has gone, and somebody waits for that or the page is no more. By value, so
/// that no pin is put into memory for a call that is seldom made.
#[cold]
#[inline(never)]
fn release(table: &'static Table, frame: u32) {
    table.with(frame, |place| place.release());
}

/// A page that a device may write, until this is dropped.
///
/// It was reserved and made dirty before it was granted (R2, R4), so its writeback never needs
/// anything that may fail; and no writeback reads it from itself while it is held (R18).
#[derive(Debug)]
#[must_use = "a pin that is dropped is gone"]
pub struct WritePin(Held);

/// A page that a device may read, until this is dropped.
#[derive(Debug)]
#[must_use = "a pin that is dropped is gone"]
pub struct ReadPin(Held);

/// A [`WritePin`] that may be held for as long as one likes (R13): one of a bounded number.
#[derive(Debug)]
#[must_use = "a pin that is dropped is gone"]
pub struct LongPin {
    pin: WritePin,
}

/// A command that reads a page in. Dropped without [`end`](Self::end), it failed.
#[derive(Debug)]
#[must_use = "a fill that is dropped has failed"]
pub struct Fill(Held);

/// A writeback that was decided on. Dropped without [`end`](Self::end), it failed, and the page is
/// dirty as before (R26).
#[derive(Debug)]
#[must_use = "a writeback that is dropped has failed"]
pub struct Writeback {
    held: Held,
    decision: Decision,
}

impl Frame<'_> {
    /// Pins the page for a device that writes it.
    ///
    /// # Errors
    /// [`PinError`]: nothing is left of the attempt.
    #[inline(always)]
    pub fn pin_write(&self, cover: Cover) -> Result<WritePin, PinError> {
        self.count_write(cover)?;
        Ok(WritePin(self.held()))
    }

    #[inline(always)]
    fn count_write(&self, cover: Cover) -> Result<(), PinError> {
        let word = self.frames.table.word(self.frame).ok_or(PinError::Moved)?;
        match word.pin(Pin::Write, self.generation) {
            Fast::Granted => Ok(()),
            Fast::Slow(_) => self.grant(cover),
        }
    }

    #[cold]
    #[inline(never)]
    fn grant(&self, cover: Cover) -> Result<(), PinError> {
        let whole = cover == Cover::Whole;
        let granted = self
            .frames
            .with(self.frame, |place| place.grant(self.generation, whole));
        granted.unwrap_or(Err(PinError::Moved))
    }

    /// Pins the page for a device that reads it.
    ///
    /// # Errors
    /// [`PinError`]: nothing is left of the attempt.
    #[inline(always)]
    pub fn pin_read(&self) -> Result<ReadPin, PinError> {
        let table = self.frames.table;
        let word = table.word(self.frame).ok_or(PinError::Moved)?;
        if let Fast::Slow(_) = word.pin(Pin::Read, self.generation) {
            return Err(self.refuse());
        }
        Ok(ReadPin(self.held()))
    }

    #[cold]
    #[inline(never)]
    fn refuse(&self) -> PinError {
        let why = self
            .frames
            .with(self.frame, |place| place.refuse_read(self.generation));
        why.unwrap_or(PinError::Moved)
    }

    /// Pins the page for as long as one likes: for a mapping, for memory that a device keeps.
    /// Never granted on a page that is not up to date.
    ///
    /// # Errors
    /// [`LongPinError`]: the limit, or what a short pin may meet.
    pub fn pin_write_long(&self) -> Result<LongPin, LongPinError> {
        let pin = self.pin_write(Cover::Part)?;
        self.frames.table.take_long(self.frame)?;
        Ok(LongPin { pin })
    }

    /// Begins to read the page in. Until its end nobody pins it.
    ///
    /// # Errors
    /// What is in the way.
    pub fn begin_fill(&self) -> Result<Fill, Blocked> {
        let word = self
            .frames
            .table
            .word(self.frame)
            .ok_or(Blocked::Generation)?;
        word.begin_fill(self.generation)?;
        Ok(Fill(self.held()))
    }

    /// The fill that [`Beginning::Fill`](crate::frame::Beginning::Fill) began, as a value.
    ///
    /// # Errors
    /// [`Blocked::Generation`] when the page is not being read in.
    pub fn begun_fill(&self) -> Result<Fill, Blocked> {
        let state = self.frames.state(self.frame).ok_or(Blocked::Generation)?;
        if state.generation() != self.generation || !state.has(State::FILL) {
            return Err(Blocked::Generation);
        }
        Ok(Fill(self.held()))
    }

    /// Decides how the page is written back, and begins it; `None` when it is pinned and can wait
    /// ([`Decision::Skip`]). `always_copy`: the file's checksums want bytes that nobody writes.
    ///
    /// # Errors
    /// What is in the way, or that there is nothing to write.
    #[inline]
    pub fn begin_writeback(
        &self,
        intent: Intent,
        always_copy: bool,
    ) -> Result<Option<Writeback>, Blocked> {
        let word = self
            .frames
            .table
            .word(self.frame)
            .ok_or(Blocked::Generation)?;
        let mut decision = word.begin_writeback(self.generation, intent, always_copy)?;
        if matches!(decision, Decision::Skip | Decision::CopyKeep)
            && self.frames.table.ignores_pins()
        {
            decision = self.write_back_ignoring_pins(word, decision)?;
        }
        Ok((decision != Decision::Skip).then(|| Writeback {
            held: self.held(),
            decision,
        }))
    }

    /// With the pin check off: the page is pinned, and is written back from itself all the same.
    #[cold]
    #[inline(never)]
    fn write_back_ignoring_pins(
        &self,
        word: &StateWord,
        decision: Decision,
    ) -> Result<Decision, Blocked> {
        if decision == Decision::CopyKeep {
            let (_, due) = word.end_writeback(decision, true, || ());
            self.held().settle(due, None);
        }
        word.begin_direct_ignoring_pins(self.generation)
    }

    #[inline(always)]
    const fn held(&self) -> Held {
        Held {
            table: self.frames.table,
            frame: self.frame,
        }
    }
}

/// Why a page was not pinned for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LongPinError {
    /// As a short pin.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// There are as many as there may be.
    #[error(transparent)]
    Limit(#[from] LongTermLimit),
}

impl WritePin {
    /// Where the device sees the page.
    #[inline(always)]
    pub fn iova(&self) -> Iova {
        self.0.iova()
    }

    /// The frame's number.
    pub const fn frame(&self) -> u32 {
        self.0.frame
    }

    /// The DMA of a pin that covers the page has succeeded: its bytes are the file's (R6). A pin
    /// that is dropped without this leaves a page that was not read in as it was.
    pub fn set_uptodate(&self) {
        if let Some(word) = self.0.table.word(self.0.frame)
            && let Ok(due) = word.set_uptodate()
        {
            self.0.settle(due, None);
        }
    }
}

impl ReadPin {
    /// Where the device sees the page.
    #[inline(always)]
    pub fn iova(&self) -> Iova {
        self.0.iova()
    }

    /// The frame's number.
    pub const fn frame(&self) -> u32 {
        self.0.frame
    }
}

impl LongPin {
    /// The pin itself.
    pub const fn pin(&self) -> &WritePin {
        &self.pin
    }
}

impl Fill {
    /// The frame's number.
    pub const fn frame(&self) -> u32 {
        self.0.frame
    }

    /// Where the device that reads it in sees the page.
    pub fn iova(&self) -> Iova {
        self.0.iova()
    }

    pub(crate) fn look<T>(
        &self,
        look: impl FnOnce(View<'_>) -> Result<T, OutOfBounds>,
    ) -> Result<T, OutOfBounds> {
        self.0.look(look)
    }

    pub(crate) fn host(&self) -> *mut u8 {
        self.0.table.host(self.0.frame)
    }

    pub(crate) fn watch(&self) -> Option<std::sync::Arc<dyn MemoryWatch>> {
        self.0.table.watch()
    }

    /// The command has ended.
    pub fn end(self, good: bool) {
        ManuallyDrop::new(self).finish(good);
    }

    fn finish(&self, good: bool) {
        if let Some(word) = self.0.table.word(self.0.frame) {
            self.0.settle(word.end_fill(good), None);
        }
    }
}

impl Writeback {
    /// Which way was decided on; never [`Decision::Skip`].
    pub const fn decision(&self) -> Decision {
        self.decision
    }

    /// The frame's number.
    pub const fn frame(&self) -> u32 {
        self.held.frame
    }

    pub(crate) fn is_of(&self, frames: &Frames) -> bool {
        std::ptr::eq(self.held.table, frames.table)
    }

    pub(crate) fn space(&self) -> SpaceId {
        self.held.table.space()
    }

    pub(crate) fn span(&self) -> Span {
        self.held.span()
    }

    pub(crate) fn look<T>(
        &self,
        look: impl FnOnce(View<'_>) -> Result<T, OutOfBounds>,
    ) -> Result<T, OutOfBounds> {
        self.held.look(look)
    }

    pub(crate) fn host(&self) -> *mut u8 {
        self.held.table.host(self.held.frame)
    }

    pub(crate) fn watch(&self) -> Option<std::sync::Arc<dyn MemoryWatch>> {
        self.held.table.watch()
    }

    /// The command has ended.
    #[inline]
    pub fn end(self, good: bool) {
        ManuallyDrop::new(self).finish(good);
    }

    #[inline(always)]
    fn finish(&self, good: bool) {
        if let Some(word) = self.held.table.word(self.held.frame) {
            let page = || self.held.page();
            let (page, due) = word.end_writeback(self.decision, good, page);
            self.held.settle(due, page.flatten());
        }
    }
}

impl Drop for WritePin {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.unpin(Pin::Write);
    }
}

impl Drop for ReadPin {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.unpin(Pin::Read);
    }
}

impl Drop for LongPin {
    fn drop(&mut self) {
        self.pin.0.table.give_long(self.pin.0.frame);
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.finish(false);
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        self.finish(false);
    }
}

// SAFETY: the count of a pin keeps its frame from being freed, evicted or filled, and a table
// keeps its memory mapped at its IOVA while a frame of it is not free. Who else has the page pinned
// is a matter between devices (R9), not of memory: nobody has it as anything but DMA memory.
unsafe impl Payload for WritePin {
    #[inline(always)]
    fn space_id(&self) -> SpaceId {
        self.0.table.space()
    }
    #[inline(always)]
    fn span(&self, _index: usize) -> Span {
        self.0.span()
    }
}

// SAFETY: as for a write pin.
unsafe impl Payload for ReadPin {
    #[inline(always)]
    fn space_id(&self) -> SpaceId {
        self.0.table.space()
    }
    #[inline(always)]
    fn span(&self, _index: usize) -> Span {
        self.0.span()
    }
}

// SAFETY: the flag FILL keeps the frame as a count does.
unsafe impl Payload for Fill {
    #[inline(always)]
    fn space_id(&self) -> SpaceId {
        self.0.table.space()
    }
    #[inline(always)]
    fn span(&self, _index: usize) -> Span {
        self.0.span()
    }
}

/// How many words are fetched ahead of their pins.
const BATCH: usize = 32;

/// Several pages of a device's write, all pinned or none (R5). They are pages of one [`Frames`].
#[derive(Debug, Default)]
#[must_use = "pins that are dropped are gone"]
pub struct WritePins {
    table: Option<&'static Table>,
    frames: Vec<u32>,
}

impl WritePins {
    /// None yet; pins so many without an allocation.
    pub fn with_capacity(pages: usize) -> Self {
        Self {
            table: None,
            frames: Vec::with_capacity(pages),
        }
    }

    /// Pins all of `pages`, each a frame and its generation, behind those that are pinned already.
    /// Their words are fetched before the first is pinned, so that a page which nobody used lately
    /// costs little more than a hot one.
    ///
    /// # Errors
    /// Why one of them could not be pinned, and which; those before it are unpinned again.
    #[inline]
    pub fn pin(
        &mut self,
        frames: &Frames,
        pages: &[(u32, u16)],
        cover: Cover,
    ) -> Result<(), (usize, PinError)> {
        let table = frames.table;
        match self.table {
            Some(mine) if !std::ptr::eq(mine, table) && !self.frames.is_empty() => {
                return Err((0, PinError::OtherFrames));
            }
            _ => self.table = Some(table),
        }
        let had = self.frames.len();
        // Listed before they are pinned: between the locked steps nothing else is to be written.
        self.frames.extend(pages.iter().map(|(frame, _)| frame));
        let words = table.words();
        let mut before = [State::free(0); BATCH];
        for (part, first) in pages.chunks(BATCH).zip((0..).step_by(BATCH)) {
            for (frame, _) in part {
                if let Some(word) = words.get(*frame as usize) {
                    barrier::prefetch_to_write(word);
                }
            }
            for ((at, &(frame, generation)), before) in part.iter().enumerate().zip(&mut before) {
                let word = words.get(frame as usize);
                *before = match word.and_then(|word| word.pin_whichever(Pin::Write)) {
                    Some(state) => state,
                    None => {
                        self.grant(frames, had, pages, first + at, cover)?;
                        State::free(generation)
                    }
                };
            }
            // R12: a frame that is another page's by now was only kept from being reused meanwhile.
            let mut both = part.iter().zip(&before);
            if let Some(at) = both.position(|(page, before)| before.generation() != page.1) {
                self.frames.truncate(had + first + part.len());
                self.unpin_from(had);
                return Err((first + at, PinError::Moved));
            }
        }
        Ok(())
    }

    /// Pins the page at `at` the long way. Foreign code may run: whatever that does, the list holds
    /// no page that is not pinned.
    #[cold]
    #[inline(never)]
    fn grant(
        &mut self,
        frames: &Frames,
        had: usize,
        pages: &[(u32, u16)],
        at: usize,
        cover: Cover,
    ) -> Result<(), (usize, PinError)> {
        self.frames.truncate(had + at);
        let rest = pages.get(at..).unwrap_or_default();
        if let Some(&(frame, generation)) = rest.first()
            && let Err(why) = frames.frame(frame, generation).grant(cover)
        {
            self.unpin_from(had);
            return Err((at, why));
        }
        self.frames.extend(rest.iter().map(|(frame, _)| frame));
        Ok(())
    }

    /// Adds a pin that is held already.
    ///
    /// # Errors
    /// The pin again when its page is one of other [`Frames`].
    pub fn push(&mut self, pin: WritePin) -> Result<(), WritePin> {
        match self.table {
            Some(mine) if !std::ptr::eq(mine, pin.0.table) && !self.frames.is_empty() => {
                return Err(pin);
            }
            _ => self.table = Some(pin.0.table),
        }
        self.frames.push(pin.0.frame);
        // Its count is this one's from now on.
        std::mem::forget(pin);
        Ok(())
    }

    /// The DMA of pins that cover their pages has succeeded: as
    /// [`WritePin::set_uptodate`], for all of them.
    pub fn set_uptodate(&self) {
        let Some(table) = self.table else {
            return;
        };
        for &frame in &self.frames {
            ManuallyDrop::new(WritePin(Held { table, frame })).set_uptodate();
        }
    }

    /// How many pages.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The pinned frames, in order.
    pub fn frames(&self) -> &[u32] {
        &self.frames
    }

    /// Unpins all of them, and keeps room for as many.
    #[inline]
    pub fn clear(&mut self) {
        self.unpin_from(0);
    }

    #[inline]
    fn unpin_from(&mut self, at: usize) {
        let Some(table) = self.table else {
            return;
        };
        // Taken out of the list first: a waker is foreign code, and none may be unpinned twice.
        let mut frames = std::mem::take(&mut self.frames);
        let words = table.words();
        for &frame in frames.get(at..).unwrap_or_default() {
            if let Some(word) = words.get(frame as usize)
                && word.unpin(Pin::Write)
            {
                release(table, frame);
            }
        }
        frames.truncate(at);
        self.frames = frames;
    }
}

impl Drop for WritePins {
    fn drop(&mut self) {
        self.clear();
    }
}

// SAFETY: as for each of its pins; `pin` and `clear` need `&mut self`, which nobody has while a
// queue owns it.
unsafe impl Payload for WritePins {
    fn space_id(&self) -> SpaceId {
        self.table.map_or(SpaceId::NONE, Table::space)
    }
    fn span_count(&self) -> usize {
        self.frames.len()
    }
    fn span(&self, index: usize) -> Span {
        match (self.table, self.frames.get(index)) {
            (Some(table), Some(&frame)) => Held { table, frame }.span(),
            _ => Span::discarded(0),
        }
    }
}
