//! The word itself: every step of `docs/PINS.md` as one atomic read-modify-write, never a store.
//! All steps of a page have one order by that, and one atomic is enough.
use super::sync::{AtomicU64, Ordering, fence};
use super::word::{Beginning, Blocked, Decision, Intent, Pin, State};

/// The state of one page. `repr(transparent)`, so that an array of them is an array of words.
#[derive(Debug)]
#[repr(transparent)]
pub struct StateWord(AtomicU64);

/// What a fast pin met. In every case the count is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fast {
    /// The pin is granted.
    Granted,
    /// It is not, or not yet: [`StateWord::grant_write`] or [`StateWord::unpin`].
    Slow(State),
}

/// What is left to be done after a pin went down, or after another step that may let the frame go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "what is due is the caller's to do"]
pub struct Due {
    /// Those who are parked are to look again.
    pub wake: bool,
    /// The frame is free: nobody else will say so.
    pub freed: bool,
}

impl StateWord {
    /// A free frame's.
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// What it holds now; tomorrow's decisions are made of it only by a step that looks again.
    #[inline]
    pub fn load(&self) -> State {
        State::from_bits(self.0.load(Ordering::Acquire))
    }

    /// A frame off the free list begins to be a page's. What the owner wrote about it before this
    /// is seen by whoever sees the word after it. Gives its generation.
    ///
    /// # Errors
    /// [`Blocked::Pinned`] while somebody who looked the last owner up is still on the way out.
    pub fn alloc(&self, beginning: Beginning) -> Result<u16, Blocked> {
        self.try_step(|state| state.begin(beginning))
            .map(State::generation)
    }

    /// Takes a step that may be refused. The word before it.
    #[inline]
    fn try_step<E>(&self, mut step: impl FnMut(State) -> Result<State, E>) -> Result<State, E> {
        // Acquire, in both places where `step` gets a word: it may look at what belongs to it.
        let mut old = self.0.load(Ordering::Acquire);
        loop {
            let new = step(State::from_bits(old))?;
            // Acquire: what the others did to the page before their step is over. Release: what
            // we did is, for those who come after.
            let (done, seen) = (Ordering::AcqRel, Ordering::Acquire);
            match self.0.compare_exchange_weak(old, new.bits(), done, seen) {
                Ok(_) => return Ok(State::from_bits(old)),
                Err(now) => old = now,
            }
        }
    }

    #[inline]
    fn step(&self, mut step: impl FnMut(State) -> State) -> State {
        match self.try_step(|state| Ok::<_, std::convert::Infallible>(step(state))) {
            Ok(old) => old,
            Err(never) => match never {},
        }
    }

    /// Counts a pin, and says whether that grants it: the word before it has the permission and
    /// the generation, all in one atomic add. A count that is not granted stays up: it keeps the
    /// frame from being reused (R12) and, for a write pin, its writeback from being direct (R11).
    #[inline(always)]
    pub fn pin(&self, pin: Pin, generation: u16) -> Fast {
        let old = self.count(pin);
        match old.grants(pin, generation) {
            true => Fast::Granted,
            false => Fast::Slow(old),
        }
    }

    /// As [`pin`](Self::pin), but whether it is still that page's frame the caller has to see from
    /// the word before: for many pages together, as a compare of the generation between two locked
    /// steps was seen to cost 8 % of a pin and unpin. `None`: the flags do not grant it.
    #[inline(always)]
    pub fn pin_whichever(&self, pin: Pin) -> Option<State> {
        let old = self.count(pin);
        old.permits(pin).then_some(old)
    }

    #[inline(always)]
    fn count(&self, pin: Pin) -> State {
        // Acquire: the bytes that a fill brought, and the end of a direct writeback's reading.
        State::from_bits(self.0.fetch_add(pin.one(), Ordering::Acquire))
    }

    /// Gives a write pin whose count is up its permission. The word before: if it was dirty
    /// already, the caller's reservation is one too many.
    ///
    /// `whole`: the DMA covers the page, so that it need not have been read in.
    #[inline]
    pub fn grant_write(&self, generation: u16, whole: bool) -> Result<State, Blocked> {
        self.try_step(|state| state.grant_write(generation, whole))
    }

    /// The pin goes down. True when more is due: [`release`](Self::release), at once.
    ///
    /// # Panics
    /// When it was not up: a pin was given back twice, and no count can be believed any more (R10).
    #[inline(always)]
    pub fn unpin(&self, pin: Pin) -> bool {
        // Release: the bytes that a device wrote under the pin, for whoever finds none.
        let old = State::from_bits(self.0.fetch_sub(pin.one(), Ordering::Release));
        old.last_unpin_matters(pin) && self.is_last_unpin(old, pin)
    }

    #[cold]
    #[inline(never)]
    fn is_last_unpin(&self, old: State, pin: Pin) -> bool {
        assert!(
            old.pins(pin) > 0,
            "a {pin:?} pin was given back twice ({old:?})"
        );
        if old.pins(pin) > 1 {
            return false;
        }
        // What was done under other pins is over, too.
        fence(Ordering::Acquire);
        true
    }

    /// After an [`unpin`](Self::unpin) that asked for it: cancels a page that never got its bytes
    /// (R6) and says who waits. When a reservation is to go back: whose it is, as `page` told while
    /// the page could not change hands: once the step is done, it can.
    pub fn release<P>(&self, mut page: impl FnMut() -> P) -> (Option<P>, Due) {
        let mut whose = None;
        let old = self.step(|state| {
            let after = state.release();
            let cancelled = state.has(State::DIRTY) && !after.has(State::DIRTY);
            whose = cancelled.then(&mut page);
            after
        });
        let due = Due {
            wake: old.has(State::WAIT) && !old.release().has(State::WAIT),
            ..Due::default()
        };
        (whose, due.and(self.try_free()))
    }

    /// Frees the frame of a page that is no more, if nothing holds it. Exactly one caller succeeds.
    #[inline]
    pub fn try_free(&self) -> Due {
        match self.try_step(|state| state.freed().ok_or(())) {
            Ok(old) => Due {
                wake: old.has(State::WAIT),
                freed: true,
            },
            Err(()) => Due::default(),
        }
    }

    /// A command begins to read the page in: from now on nobody pins it, until the end.
    #[inline]
    pub fn begin_fill(&self, generation: u16) -> Result<(), Blocked> {
        self.try_step(|state| state.begin_fill(generation))
            .map(drop)
    }

    /// The command that read it in has ended.
    #[inline]
    pub fn end_fill(&self, good: bool) -> Due {
        let old = self.step(|state| state.end_fill(good));
        let told = Due {
            wake: old.has(State::WAIT),
            ..Due::default()
        };
        told.and(self.try_free())
    }

    /// The DMA of a pin that covers the page succeeded; before its unpin.
    #[inline]
    pub fn set_uptodate(&self) -> Result<Due, Blocked> {
        let old = self.try_step(State::set_uptodate)?;
        Ok(Due {
            wake: old.has(State::WAIT),
            ..Due::default()
        })
    }

    /// Decides how the page is written back, and begins it.
    #[inline]
    pub fn begin_writeback(
        &self,
        generation: u16,
        intent: Intent,
        always_copy: bool,
    ) -> Result<Decision, Blocked> {
        let decide = |state: State| state.begin_writeback(generation, intent, always_copy);
        let old = self.try_step(|state| decide(state).map(|(new, _)| new))?;
        decide(old).map(|(_, decision)| decision)
    }

    /// A direct writeback of a page that is pinned: the fault that the race referee is there to see.
    #[doc(hidden)]
    pub fn begin_direct_ignoring_pins(&self, generation: u16) -> Result<Decision, Blocked> {
        self.try_step(|state| state.begin_direct_ignoring_pins(generation))
            .map(|_| Decision::Direct)
    }

    /// The command of a writeback has ended; `decision` is what began it. When a reservation is to
    /// go back: whose it is, as `page` told while the page could not change hands.
    #[inline]
    pub fn end_writeback<P>(
        &self,
        decision: Decision,
        good: bool,
        mut page: impl FnMut() -> P,
    ) -> (Option<P>, Due) {
        let owned = matches!(decision, Decision::Direct | Decision::CopyClean);
        let mut whose = None;
        let old = self.step(|state| {
            // A good one has used its reservation, unless the page went away meanwhile. A failed
            // one keeps it as the dirty page's, unless that has one by now.
            let give_back = owned && (state.has(State::DEAD) || !good && state.has(State::DIRTY));
            whose = give_back.then(&mut page);
            state.end_writeback(decision, good)
        });
        let told = Due {
            wake: old.has(State::WAIT),
            freed: false,
        };
        // Who cuts the page off after this step frees it, too.
        match old.has(State::DEAD) {
            true => (whose, told.and(self.try_free())),
            false => (whose, told),
        }
    }

    /// The page is cut off its file. The caller holds a pin of either kind until its slot in the
    /// index is cleared, so that the frame is not free before that.
    /// True when it was dirty: its reservation goes back.
    pub fn truncate(&self, generation: u16) -> Result<bool, Blocked> {
        let old = self.try_step(|state| state.truncate(generation))?;
        Ok(old.has(State::DIRTY))
    }

    /// Takes a clean page that nothing holds away from its owner (R30). The frame is the caller's,
    /// who clears its slot in the index before it frees it.
    pub fn evict(&self, generation: u16) -> Result<Due, Blocked> {
        let old = self.try_step(|state| state.evict(generation))?;
        Ok(Due {
            wake: old.has(State::WAIT),
            freed: true,
        })
    }

    /// Says that somebody waits, as long as `blocked` holds of the word; under the lock of the
    /// parking lot only.
    pub(super) fn set_wait(&self, blocked: impl Fn(State) -> bool) -> bool {
        self.try_step(|state| match blocked(state) {
            true => Ok(state.with_wait()),
            false => Err(()),
        })
        .is_ok()
    }

    /// Says that a long-term pin holds the page, or that the last one went; under the class's lock.
    pub fn set_long(&self, long: bool) {
        self.step(|state| state.set_long(long));
    }
}

impl Default for StateWord {
    fn default() -> Self {
        Self::new()
    }
}

impl Due {
    /// Both.
    #[inline]
    fn and(self, then: Self) -> Self {
        Self {
            wake: self.wake || then.wake,
            freed: self.freed || then.freed,
        }
    }
}
