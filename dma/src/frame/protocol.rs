//! A pin from its first count to its last, with the store's reservation and the dirty index in the
//! order that the rules ask for. Knows nothing of who owns the frames but the trait `Owner`.
use super::lot::Lot;
use super::state::{Due, Fast, StateWord};
use super::word::{Blocked, Decision, Pin};

/// Which page of the owner's a frame is now, in the owner's own terms: what it needs to give a
/// reservation back to the right file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageKey(pub u64);

/// Who the frames belong to: a cache. The only name that pins and their release have for it.
///
/// All of it is called without a lock held; it may be called from any thread that pins or unpins.
pub trait Owner: Send + Sync {
    /// Which page the frame is. Asked only while it cannot change hands.
    fn page(&self, frame: u32) -> PageKey;

    /// True when the index still says that the frame of this generation is the page's. Asked with
    /// the count up: the frame cannot be given to another page then (R12).
    fn still_holds(&self, frame: u32, generation: u16) -> bool;

    /// Reserves what the page needs to be written back: space, an index entry (R2). The page is
    /// not dirty yet.
    ///
    /// # Errors
    /// What the store says: this is the only place where it can say that it is full (R3).
    fn reserve(&self, page: PageKey) -> Result<(), ReserveError>;

    /// One reservation is not needed after all.
    fn give_back(&self, page: PageKey);

    /// Puts the page into the index of what is to be written back; it may be there already. Before
    /// the word says dirty, so that who looks for dirty pages misses none.
    fn enter_dirty(&self, frame: u32, page: PageKey);

    /// The frame is nobody's, and the owner's to use again. Exactly once per page.
    fn freed(&self, frame: u32);
}

/// Why the store has no room for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// ENOSPC.
    #[error("the store is full; free space in it, then pin again")]
    Full,
    /// EDQUOT.
    #[error("the quota of this file is used up")]
    Quota,
    /// Anything else, as the operating system numbers it.
    #[error("the store cannot reserve space (errno {0})")]
    Os(i32),
}

/// Why a page was not pinned. Nothing is left of the attempt (R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The page has another frame by now, or none.
    #[error("the page is in another frame by now; look it up again")]
    Moved,
    /// It is not in this state, yet or any more; what to wait for is told.
    #[error("the page cannot be pinned now: {0:?}")]
    Blocked(Blocked),
    /// Its frames are not those of the pins that it was to be added to.
    #[error("the page lies in other frames than the pins that it was to be added to; begin anew")]
    OtherFrames,
    /// Nobody can write it back if it gets dirty.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
}

impl From<Blocked> for PinError {
    fn from(why: Blocked) -> Self {
        match why {
            Blocked::Generation | Blocked::Dead => Self::Moved,
            why => Self::Blocked(why),
        }
    }
}

/// One frame: its word, and those who care for it.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Its state.
    pub word: &'a StateWord,
    /// Its number among the owner's.
    pub frame: u32,
    /// Whose it is.
    pub owner: &'a dyn Owner,
    /// Where its waiters are.
    pub lot: &'a Lot,
}

impl Place<'_> {
    /// The slow half of [`StateWord::pin`] for a write pin: the count is up, the permission is not
    /// there. `whole`: the DMA covers the page.
    ///
    /// # Errors
    /// As [`PinError`] tells; the count is down again.
    #[cold]
    #[inline(never)]
    pub fn grant(self, generation: u16, whole: bool) -> Result<(), PinError> {
        let granted = self.try_grant(generation, whole);
        if granted.is_err() {
            self.undo(Pin::Write);
        }
        granted
    }

    fn try_grant(self, generation: u16, whole: bool) -> Result<(), PinError> {
        // A frame of somebody else's: not even its owner is asked.
        let state = self.word.load();
        if state.generation() != generation {
            return Err(PinError::Moved);
        }
        // It saves a reservation, and is looked at again below.
        state.may_grant_write(generation, whole)?;
        if !self.owner.still_holds(self.frame, generation) {
            return Err(PinError::Moved);
        }
        let page = self.owner.page(self.frame);
        self.owner.reserve(page)?;
        self.owner.enter_dirty(self.frame, page);
        match self.word.grant_write(generation, whole) {
            Ok(before) if before.has(super::word::State::DIRTY) => self.owner.give_back(page),
            Ok(_) => {}
            Err(why) => {
                self.owner.give_back(page);
                return Err(why.into());
            }
        }
        Ok(())
    }

    /// A pin for reading that was not granted at once goes down again.
    ///
    /// # Errors
    /// Always: why it was not.
    #[cold]
    #[inline(never)]
    pub fn refuse_read(self, generation: u16) -> PinError {
        let why = self.word.load().why_not_readable(generation);
        self.undo(Pin::Read);
        why.into()
    }

    /// The same steps as an unpin: it may be the last drop of a dying frame (R5).
    pub fn undo(self, pin: Pin) {
        if self.word.unpin(pin) {
            self.release();
        }
    }

    /// After an [unpin](StateWord::unpin) that asked for it.
    #[cold]
    #[inline(never)]
    pub fn release(self) {
        let (page, due) = self.word.release(|| self.owner.page(self.frame));
        self.settle(due, page);
    }

    /// Does what a step left to be done. `page`: whose reservation goes back, if one does.
    pub fn settle(self, due: Due, page: Option<PageKey>) {
        if let Some(page) = page {
            self.owner.give_back(page);
        }
        if due.wake {
            self.lot.wake(self.frame);
        }
        if due.freed {
            self.owner.freed(self.frame);
        }
    }

    /// The command of a writeback has ended.
    pub fn end_writeback(self, decision: Decision, good: bool) {
        let page = || self.owner.page(self.frame);
        let (page, due) = self.word.end_writeback(decision, good, page);
        self.settle(due, page);
    }

    /// Pins for writing, the fast way or the slow one.
    ///
    /// # Errors
    /// As [`PinError`] tells.
    #[inline(always)]
    pub fn pin_write(self, generation: u16, whole: bool) -> Result<(), PinError> {
        match self.word.pin(Pin::Write, generation) {
            Fast::Granted => Ok(()),
            Fast::Slow(_) => self.grant(generation, whole),
        }
    }

    /// Pins for reading.
    ///
    /// # Errors
    /// As [`PinError`] tells.
    #[inline(always)]
    pub fn pin_read(self, generation: u16) -> Result<(), PinError> {
        match self.word.pin(Pin::Read, generation) {
            Fast::Granted => Ok(()),
            Fast::Slow(_) => Err(self.refuse_read(generation)),
        }
    }

    /// Holds the frame, whatever its bytes: it is not freed and not filled meanwhile.
    ///
    /// # Errors
    /// [`PinError::Moved`] when it is another page's.
    pub fn hold(self, generation: u16) -> Result<(), PinError> {
        if let Fast::Slow(before) = self.word.pin(Pin::Read, generation)
            && let Err(why) = before.may_be_held(generation)
        {
            self.undo(Pin::Read);
            return Err(why.into());
        }
        Ok(())
    }

    /// Cuts the page off its file. `detach` clears its slot in the index; the frame is held
    /// until that is done.
    ///
    /// # Errors
    /// [`PinError::Moved`] when somebody else did, or it is another page's.
    pub fn truncate(self, generation: u16, detach: impl FnOnce()) -> Result<(), PinError> {
        self.hold(generation)?;
        let page = self.owner.page(self.frame);
        let cut = self.word.truncate(generation);
        if let Ok(was_dirty) = cut {
            detach();
            if was_dirty {
                self.owner.give_back(page);
            }
        }
        self.undo(Pin::Read);
        cut.map(drop).map_err(PinError::from)
    }
}
