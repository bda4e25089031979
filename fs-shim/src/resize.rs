//! Pages that come and go: a file made longer or shorter, a hole punched. Permission goes first,
//! then the page, and space is free only when nothing that was begun on it is in flight (R28).
use crate::FileError;
use crate::book::FileState;
use crate::cache::Inner;
use crate::index::Slot;
use crate::page::{At, Attempt, Stop, failure};
use crate::store::StoreError;
use std::ops::Range;
use underpin_dma::frame::{FRAME_BYTES, Pin, State};
use underpin_dma::pin::Cover;
use underpin_dma::rt::Instant;
use underpin_dma::rt::sync::Arc;
use underpin_dma::rt::sync::atomic::Ordering;

const PAGE: u64 = FRAME_BYTES as u64;

/// One at a time changes a file's length.
struct Claim<'a>(&'a FileState);

impl<'a> Claim<'a> {
    fn take(cache: &Inner, file: &'a FileState) -> Result<Self, FileError> {
        cache.wait(file, |_now| {
            match file.resizing.swap(true, Ordering::Acquire) {
                false => Ok(Claim(file)),
                true => Err(Stop::Wait),
            }
        })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        *self.0.inserts.lock() = None;
        self.0.resizing.store(false, Ordering::Release);
    }
}

/// Makes the file at least so long. What is new is zero.
pub(crate) fn extend(
    cache: &Inner,
    file: &Arc<FileState>,
    len_bytes: u64,
) -> Result<(), FileError> {
    if len_bytes <= file.len_bytes() {
        return Ok(());
    }
    let claim = Claim::take(cache, file)?;
    lengthen(cache, file, len_bytes)?;
    drop(claim);
    Ok(())
}

/// Makes the file as long as that.
pub(crate) fn set_len(
    cache: &Inner,
    file: &Arc<FileState>,
    len_bytes: u64,
) -> Result<(), FileError> {
    let claim = Claim::take(cache, file)?;
    if len_bytes < file.len_bytes() {
        shorten(cache, file, len_bytes)?;
    } else {
        lengthen(cache, file, len_bytes)?;
    }
    drop(claim);
    Ok(())
}

fn lengthen(cache: &Inner, file: &Arc<FileState>, len_bytes: u64) -> Result<(), FileError> {
    let old = file.len_bytes();
    if len_bytes <= old {
        return Ok(());
    }
    let max_len_bytes = file.store.max_len_bytes();
    if len_bytes > max_len_bytes {
        return Err(StoreError::TooLong {
            len_bytes,
            max_len_bytes,
        }
        .into());
    }
    // A device may have written past the old end in its page.
    zero(cache, file, old..old.next_multiple_of(PAGE))?;
    file.store.set_len(len_bytes)?;
    let lock = file.inserts.lock();
    file.publish_len(len_bytes);
    drop(lock);
    Ok(())
}

fn shorten(cache: &Inner, file: &Arc<FileState>, len_bytes: u64) -> Result<(), FileError> {
    let tail = len_bytes..len_bytes.next_multiple_of(PAGE).min(file.len_bytes());
    if !tail.is_empty() {
        drain(cache, file, len_bytes / PAGE)?;
        zero(cache, file, tail)?;
    }
    let old_pages = file.pages();
    // From now on no page past the end gets a frame.
    let lock = file.inserts.lock();
    file.publish_len(len_bytes);
    drop(lock);
    detach(cache, file, len_bytes.div_ceil(PAGE)..old_pages)?;
    Ok(file.store.set_len(len_bytes)?)
}

/// Makes a range zero and gives its whole pages back to the store.
pub(crate) fn punch(
    cache: &Inner,
    file: &Arc<FileState>,
    range: Range<u64>,
) -> Result<(), FileError> {
    let claim = Claim::take(cache, file)?;
    let end = range.end.min(file.len_bytes());
    let start = range.start.min(end);
    // The last page goes whole when the range ends with the file.
    let whole_end = match end == file.len_bytes() {
        true => end.div_ceil(PAGE),
        false => end / PAGE,
    };
    let whole = start.div_ceil(PAGE)..whole_end;
    if whole.is_empty() {
        // Within one page, or on both sides of one border.
        let border = start.next_multiple_of(PAGE).min(end);
        zero(cache, file, start..border)?;
        zero(cache, file, border..end)?;
    } else {
        zero(cache, file, start..whole.start * PAGE)?;
        zero(cache, file, (whole.end * PAGE).min(end)..end)?;
        *file.inserts.lock() = Some(whole.clone());
        detach(cache, file, whole.clone())?;
        file.store.free(whole)?;
    }
    drop(claim);
    Ok(())
}

/// Writes zeroes within one page, as the CPU: under a pin, reserved (R38).
fn zero(cache: &Inner, file: &Arc<FileState>, range: Range<u64>) -> Result<(), FileError> {
    if range.is_empty() {
        return Ok(());
    }
    let page = range.start / PAGE;
    if file.index.get(page).is_none() && file.store.is_hole(page) {
        return Ok(());
    }
    let mut attempt = Attempt::default();
    let at = At {
        cache,
        file,
        page,
        end: page + 1,
    };
    let pin = cache.wait(file, |now| at.pin_write(Cover::Part, &mut attempt, || now))?;
    let view = cache.frames.view(pin.frame());
    let offset = (range.start % PAGE) as usize;
    let len_bytes = (range.end - range.start) as usize;
    let zeroed = view.and_then(|view| view.fill(offset, len_bytes, 0));
    zeroed.map_err(|error| StoreError::Device(error.to_string()))?;
    Ok(())
}

/// Waits until nobody has the page pinned for writing, with a bound; one that is pinned for long
/// is not waited for (R29).
fn drain(cache: &Inner, file: &Arc<FileState>, page: u64) -> Result<(), FileError> {
    let waited = cache.options.pin_wait;
    let mut until = None;
    cache.wait(file, |now: Instant| {
        let until = *until.get_or_insert(now + waited);
        let Some(slot) = file.index.get(page) else {
            return Ok(());
        };
        let Some(state) = cache.frames.state(slot.frame) else {
            return Ok(());
        };
        if state.generation() != slot.generation || state.pins(Pin::Write) == 0 {
            return Ok(());
        }
        if state.has(State::LONG) || now >= until {
            return Err(Stop::Fail(FileError::Busy { page, waited }));
        }
        Err(Stop::Wait)
    })
}

/// Cuts pages off, and waits for what is in flight on them: not for pins, whose DMA goes to memory
/// that lives on, but for commands that may still touch their blocks.
pub(crate) fn detach(
    cache: &Inner,
    file: &Arc<FileState>,
    pages: Range<u64>,
) -> Result<(), FileError> {
    let mut busy: Vec<Slot> = Vec::new();
    for (page, slot) in file.index.range(pages.start, pages.end) {
        let frame = cache.frames.frame(slot.frame, slot.generation);
        if frame.truncate(|| file.index.clear(page, slot)).is_ok() && at_work(cache, slot) {
            busy.push(slot);
        }
        file.dirty
            .leave(page, || file.is_clean(&cache.frames, page));
    }
    cache.wait(file, |_now| {
        busy.retain(|slot| at_work(cache, *slot));
        if busy.is_empty() {
            return Ok(());
        }
        failure(&*file.store)?;
        Err(Stop::Wait)
    })
}

fn at_work(cache: &Inner, slot: Slot) -> bool {
    let at_work = State::FILL | State::WB_DIRECT | State::WB_COPY;
    let state = cache.frames.state(slot.frame);
    state.is_some_and(|state| state.generation() == slot.generation && state.has(at_work))
}
