//! The half of the referee that knows a cache's pages: every byte of DMA against the state word of
//! the frame that it touches (`docs/PINS.md`, R2, R18).
use super::{Command, ViolationKind};
use crate::iommu::Direction;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use underpin_dma::frame::{FRAME_BYTES, Pin, State};
use underpin_dma::rt::sync::{Mutex, RwLock};
use underpin_dma::{FrameStates, Iova};

const FRAME: u64 = FRAME_BYTES as u64;

/// The frames of all caches that the referee has heard of.
///
/// Nobody is blamed for a race between the look at a word and the byte's way. Whatever allows an
/// access holds from before its command is submitted until after its completion is reaped: a count
/// that was granted, FILL, or the flag of the writeback. While it is held, no step of anybody's
/// takes away what is asked for here. A granted write pin keeps the page DIRTY and WRITABLE, or
/// DEAD, since only a writeback that saw no write pins takes the two (I3, I5), and the same goes
/// for WB_DIRECT, which no pin is granted beside (I2). So it makes no difference to the innocent
/// when the word is read within that time. It is one load: all it says is of one moment. A count
/// that is on its way up to be refused may hide a culprit from one look; it accuses nobody.
#[derive(Default)]
pub(super) struct Caches {
    /// By first IOVA.
    ranges: RwLock<BTreeMap<u64, Arc<Range>>>,
    checks: AtomicU64,
    overlaps: AtomicU64,
}

struct Range {
    first: u64,
    end: u64,
    states: FrameStates,
    touched: Mutex<HashMap<u32, Touch>>,
}

/// Who touched a frame last.
#[derive(Clone, Copy)]
struct Touch {
    /// Of the page that it was.
    generation: u16,
    by: Command,
    wrote: bool,
    /// By whom it is being read in: the first to write it in FILL.
    filler: Option<Command>,
}

impl Caches {
    pub(super) fn checks(&self) -> u64 {
        self.checks.load(Ordering::Relaxed)
    }

    pub(super) fn overlaps(&self) -> u64 {
        self.overlaps.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, iova: Iova, len_bytes: u64, states: FrameStates) {
        let first = iova.get();
        let range = Range {
            first,
            end: first.saturating_add(len_bytes),
            states,
            touched: Mutex::new(HashMap::new()),
        };
        self.ranges.write().insert(first, Arc::new(range));
    }

    pub(super) fn remove(&self, iova: Iova) {
        self.ranges.write().remove(&iova.get());
    }

    /// Those commands read nothing in any more.
    pub(super) fn forget(&self, is_it: impl Fn(Command) -> bool) {
        for range in self.ranges.read().values() {
            for touch in range.touched.lock().values_mut() {
                touch.filler = touch.filler.filter(|filler| !is_it(*filler));
            }
        }
    }

    /// Judges an access to the bytes from `iova` to `end`: `blame` hears what is wrong, from which
    /// byte on and for how many of a page.
    pub(super) fn judge(
        &self,
        iova: u64,
        end: u64,
        direction: Direction,
        command: Command,
        mut blame: impl FnMut(ViolationKind, u64, u64),
    ) {
        let mut at = iova;
        while at < end {
            let Some(range) = self.range(at, end) else {
                return;
            };
            at = at.max(range.first);
            let stop = end.min(range.end);
            while at < stop {
                let frame = ((at - range.first) / FRAME) as u32;
                let next = (range.first + (u64::from(frame) + 1) * FRAME).min(stop);
                self.checks.fetch_add(1, Ordering::Relaxed);
                if let Some(kind) = self.judge_frame(&range, frame, direction, command) {
                    blame(kind, at, next - at);
                }
                at = next;
            }
        }
    }

    /// The first range that has a byte from `at` to `end`.
    fn range(&self, at: u64, end: u64) -> Option<Arc<Range>> {
        let ranges = self.ranges.read();
        let before = ranges.range(..=at).next_back();
        let holds = before.filter(|(_, range)| at < range.end);
        let (_, range) = holds.or_else(|| ranges.range(at..end).next())?;
        Some(Arc::clone(range))
    }

    fn judge_frame(
        &self,
        range: &Range,
        frame: u32,
        direction: Direction,
        command: Command,
    ) -> Option<ViolationKind> {
        let writes = direction == Direction::ToHost;
        let mut touched = range.touched.lock();
        // Under the lock, so that of two that touch one page the later sees the later word.
        let state = range.states.state(frame);
        let before = touched.get(&frame).copied();
        let before = before.filter(|before| before.generation == state.generation());
        let filling = state.has(State::FILL);
        // ERR: the fill before this one has failed, for a reason that need not be the device's. So
        // it is another fill, and who did that one says nothing about it.
        let filler = before.and_then(|before| before.filler);
        let filler = filler.filter(|_| filling && !state.has(State::ERR));
        let touch = Touch {
            generation: state.generation(),
            by: command,
            wrote: writes,
            filler: filler.or((filling && writes).then_some(command)),
        };
        touched.insert(frame, touch);
        drop(touched);
        let pins = state.pins(Pin::Write) + state.pins(Pin::Read);
        if let Some(before) = before
            && before.by != command
            && (before.wrote || writes)
            && pins > 1
        {
            self.overlaps.fetch_add(1, Ordering::Relaxed);
        }
        let is_filler = touch.filler == Some(command);
        match direction {
            Direction::ToHost => why_not_written(state, is_filler),
            Direction::FromHost => why_not_read(state, is_filler),
        }
    }
}

/// What is wrong with a device that writes a page in this state.
fn why_not_written(state: State, is_filler: bool) -> Option<ViolationKind> {
    if !state.has(State::OWNED) {
        return Some(ViolationKind::FreeFrame);
    }
    if state.has(State::WB_DIRECT) {
        return Some(ViolationKind::DuringWriteback);
    }
    if state.has(State::FILL) {
        return (!is_filler).then_some(ViolationKind::FilledByAnother);
    }
    if state.pins(Pin::Write) == 0 {
        return Some(ViolationKind::Unpinned);
    }
    let reserved = state.has(State::DIRTY) && state.has(State::WRITABLE);
    (!reserved && !state.has(State::DEAD)).then_some(ViolationKind::NotReserved)
}

/// What is wrong with a device that reads a page in this state. One that writes it may read it,
/// too: a comparison does.
fn why_not_read(state: State, is_filler: bool) -> Option<ViolationKind> {
    if !state.has(State::OWNED) {
        return Some(ViolationKind::FreeFrame);
    }
    if state.has(State::FILL) {
        return (!is_filler).then_some(ViolationKind::FilledByAnother);
    }
    if state.has(State::WB_DIRECT) || state.pins(Pin::Read) + state.pins(Pin::Write) > 0 {
        return None;
    }
    Some(match state.has(State::WB_COPY) {
        true => ViolationKind::CopyBypassed,
        false => ViolationKind::Unpinned,
    })
}

#[cfg(test)]
mod tests;
