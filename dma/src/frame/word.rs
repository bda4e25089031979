//! One page's state as a value: the bits of its word and what each step makes of them. Pure, so
//! that the table of `docs/PINS.md` can be read and tried here without an atomic in sight.
use std::fmt;

/// What a [`StateWord`](super::StateWord) held at one moment.
///
/// ```text
///  0-15  write pins (bit 15: saturation)   36 UPTODATE   40 LONG
/// 16-31  read pins  (bit 31: saturation)   37 DEAD       41 ERR
///    32  WRITABLE   33 DIRTY               39 WAIT       42 FILL
///    34  WB_DIRECT  35 WB_COPY  38 OWNED   48-63 generation
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct State(u64);

const WRITE_PIN: u64 = 1;
const READ_PIN: u64 = 1 << 16;
const WRITE_PINS: u64 = 0xffff;
const READ_PINS: u64 = 0xffff << 16;
/// Half of what a count can hold (R10): as many threads may still be on their way up when it is
/// met, and none of them carries into the next field.
const WRITE_SATURATED: u64 = 1 << 15;
const READ_SATURATED: u64 = 1 << 31;
const GENERATION_AT: u32 = 48;
const GENERATION: u64 = 0xffff << GENERATION_AT;

/// A count goes up and down by this much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// The device, or a CPU in its place, writes the page.
    Write,
    /// It reads the page.
    Read,
}

impl Pin {
    #[inline]
    pub(super) const fn one(self) -> u64 {
        match self {
            Self::Write => WRITE_PIN,
            Self::Read => READ_PIN,
        }
    }
    const fn all(self) -> u64 {
        match self {
            Self::Write => WRITE_PINS,
            Self::Read => READ_PINS,
        }
    }
    const fn saturated(self) -> u64 {
        match self {
            Self::Write => WRITE_SATURATED,
            Self::Read => READ_SATURATED,
        }
    }
}

/// Why a step cannot be taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The frame belongs to another page by now: look the page up again.
    Generation,
    /// Truncated: the page is no more.
    Dead,
    /// A command reads the page in.
    Fill,
    /// It has not been read in.
    NotUptodate,
    /// A device reads it for its writeback (R7).
    WritebackDirect,
    /// A writeback of it is in flight (R20).
    Writeback,
    /// It is pinned.
    Pinned,
    /// As many pins as can be counted (R10).
    Saturated,
    /// It is dirty.
    Dirty,
    /// It is clean: there is nothing to write back.
    Clean,
    /// It has been read in already.
    Uptodate,
    /// The frame is a page's already.
    Owned,
}

/// What a new owner's word begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing is known of its bytes: a pin must cover it, or a fill comes.
    Unknown,
    /// A command of the owner's reads it in.
    Fill,
    /// Its bytes are right already, such as zeroes in a hole.
    Uptodate,
}

/// Why a page is written back: decides what becomes of one that is pinned for writing (R16, R17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// To make room some time: a pinned page can wait.
    Background,
    /// It has been dirty for too long: a pinned page is copied.
    Expired,
    /// Somebody waits for it to be durable: a pinned page is copied.
    Integrity,
}

/// How a page is written back. Decided by one atomic step, before any command or checksum exists
/// (R15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// From the page itself: nobody may write it until the end.
    Direct,
    /// From a copy, begun with no write pins: the page is clean from now on.
    CopyClean,
    /// From a copy, begun with write pins: the page stays dirty (R19).
    CopyKeep,
    /// Not now.
    Skip,
}

impl State {
    /// Somebody may write the page without asking the store again.
    pub const WRITABLE: u64 = 1 << 32;
    /// It differs from the store, and owns a reservation there.
    pub const DIRTY: u64 = 1 << 33;
    /// It is being written back from itself.
    pub const WB_DIRECT: u64 = 1 << 34;
    /// It is being written back from a copy.
    pub const WB_COPY: u64 = 1 << 35;
    /// Its bytes are the file's.
    pub const UPTODATE: u64 = 1 << 36;
    /// Truncated; the frame lives on until its last pin.
    pub const DEAD: u64 = 1 << 37;
    /// The frame is a page's, and not on the free list.
    pub const OWNED: u64 = 1 << 38;
    /// Somebody is parked until it changes.
    pub const WAIT: u64 = 1 << 39;
    /// Somebody pins it for long (R13).
    pub const LONG: u64 = 1 << 40;
    /// Its last writeback or fill failed.
    pub const ERR: u64 = 1 << 41;
    /// A command reads it in.
    pub const FILL: u64 = 1 << 42;
    const WRITEBACK: u64 = Self::WB_DIRECT | Self::WB_COPY;

    /// A free frame of this generation.
    #[inline]
    pub const fn free(generation: u16) -> Self {
        Self((generation as u64) << GENERATION_AT)
    }

    #[inline]
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// True when any of the flags is set.
    #[inline]
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags != 0
    }

    /// How many pins of a kind it has, those on their way up or down included.
    #[inline]
    pub const fn pins(self, pin: Pin) -> u64 {
        (self.0 & pin.all()) / pin.one()
    }

    /// Which owner of the frame this is.
    #[inline]
    pub const fn generation(self) -> u16 {
        (self.0 >> GENERATION_AT) as u16
    }

    #[inline]
    const fn with(self, flags: u64) -> Self {
        Self(self.0 | flags)
    }

    #[inline]
    const fn without(self, flags: u64) -> Self {
        Self(self.0 & !flags)
    }

    #[inline]
    const fn is_pinned(self) -> bool {
        self.0 & (WRITE_PINS | READ_PINS) != 0
    }

    /// The word *before* the count went up grants the pin: one masked compare.
    #[inline(always)]
    pub(super) const fn grants(self, pin: Pin, generation: u16) -> bool {
        let (asked, wanted) = Self::asked(pin);
        self.0 & (GENERATION | asked) == Self::free(generation).0 | wanted
    }

    /// The same for whoever still has to compare the generation.
    #[inline(always)]
    pub(super) const fn permits(self, pin: Pin) -> bool {
        let (asked, wanted) = Self::asked(pin);
        self.0 & asked == wanted
    }

    /// Which flags a fast pin looks at, and those of them that must be set.
    #[inline(always)]
    const fn asked(pin: Pin) -> (u64, u64) {
        let wanted = match pin {
            // WRITABLE is the permission that a direct writeback takes away (R18): whoever finds
            // it needs no more than the count.
            Pin::Write => Self::WRITABLE | Self::UPTODATE,
            Pin::Read => Self::UPTODATE,
        };
        (wanted | pin.saturated(), wanted)
    }

    /// Somebody must be told, or the page let go, if the pin counted in this word was the last. That
    /// is seldom so of a page in use: only then its count is worth a look.
    #[inline(always)]
    pub(super) const fn last_unpin_matters(self, pin: Pin) -> bool {
        match pin {
            Pin::Write => self.0 & (Self::WAIT | Self::DEAD | Self::UPTODATE) != Self::UPTODATE,
            Pin::Read => self.has(Self::WAIT | Self::DEAD),
        }
    }

    #[inline]
    const fn of(self, generation: u16) -> Result<Self, Blocked> {
        // A free frame is nobody's, whatever its generation.
        if self.generation() == generation && self.has(Self::OWNED) {
            Ok(self)
        } else {
            Err(Blocked::Generation)
        }
    }

    #[inline]
    const fn not(self, flags: u64, why: Blocked) -> Result<Self, Blocked> {
        if self.has(flags) { Err(why) } else { Ok(self) }
    }

    // The steps. Each gives the word after it, or why it cannot be taken.

    #[inline]
    pub(super) fn begin(self, beginning: Beginning) -> Result<Self, Blocked> {
        let state = self
            .not(Self::OWNED, Blocked::Owned)?
            .at_rest()?
            .with(Self::OWNED);
        Ok(match beginning {
            Beginning::Unknown => state,
            Beginning::Fill => state.with(Self::FILL),
            Beginning::Uptodate => state.with(Self::UPTODATE),
        })
    }

    #[inline]
    pub(super) fn begin_fill(self, generation: u16) -> Result<Self, Blocked> {
        self.of(generation)?
            .not(Self::DEAD, Blocked::Dead)?
            .not(Self::FILL, Blocked::Fill)?
            .not(Self::UPTODATE, Blocked::Uptodate)?
            .not(Self::DIRTY, Blocked::Dirty)?
            .not(WRITE_PINS | READ_PINS, Blocked::Pinned)
            .map(|state| state.with(Self::FILL))
    }

    /// Whether the page may be read in, as things stand. One that is [pinned](Blocked::Pinned) may
    /// be when its pins are gone, and one that is [dirty](Blocked::Dirty) without being up to date
    /// when the last of them has been cancelled: whoever waits for that waits for both (R6).
    ///
    /// # Errors
    /// Why not.
    pub fn may_fill(self, generation: u16) -> Result<(), Blocked> {
        self.begin_fill(generation).map(drop)
    }

    #[inline]
    pub(super) const fn end_fill(self, good: bool) -> Self {
        let ended = self.without(Self::FILL | Self::WAIT);
        match (self.has(Self::DEAD), good) {
            // I6: the dead are not up to date.
            (true, _) => ended,
            (false, true) => ended.with(Self::UPTODATE).without(Self::ERR),
            (false, false) => ended.with(Self::ERR),
        }
    }

    /// By the holder of a pin that covers the page, after its DMA succeeded (R6).
    #[inline]
    pub(super) fn set_uptodate(self) -> Result<Self, Blocked> {
        self.not(Self::DEAD, Blocked::Dead)
            .map(|state| state.with(Self::UPTODATE).without(Self::WAIT))
    }

    /// Whether [`grant_write`](Self::grant_write) would, as things stand.
    #[inline]
    pub(super) fn may_grant_write(self, generation: u16, whole: bool) -> Result<(), Blocked> {
        self.grant_write(generation, whole).map(drop)
    }

    #[inline]
    pub(super) fn may_be_held(self, generation: u16) -> Result<(), Blocked> {
        self.of(generation)?
            .not(READ_SATURATED, Blocked::Saturated)
            .map(drop)
    }

    #[inline]
    pub(super) fn why_not_readable(self, generation: u16) -> Blocked {
        let readable = self
            .of(generation)
            .and_then(|state| state.not(Self::DEAD, Blocked::Dead))
            .and_then(|state| state.not(READ_SATURATED, Blocked::Saturated))
            .and_then(|state| state.not(Self::FILL, Blocked::Fill));
        // One that could be read by now can be pinned again at once: as one that was not then.
        readable.err().unwrap_or(Blocked::NotUptodate)
    }

    /// The fourth part of a slow write pin, whose count is up already.
    #[inline]
    pub(super) fn grant_write(self, generation: u16, whole: bool) -> Result<Self, Blocked> {
        let state = self
            .of(generation)?
            .not(Self::DEAD, Blocked::Dead)?
            .not(WRITE_SATURATED, Blocked::Saturated)?
            .not(Self::FILL, Blocked::Fill)?
            .not(Self::WB_DIRECT, Blocked::WritebackDirect)?;
        if !whole && !state.has(Self::UPTODATE) {
            return Err(Blocked::NotUptodate);
        }
        Ok(state.with(Self::WRITABLE | Self::DIRTY))
    }

    /// The last unpin, or the undo of a failed pin: a page that never got its bytes is clean again
    /// (R6), and those who wait are to look again. Nothing while write pins are left.
    #[inline]
    pub(super) const fn release(self) -> Self {
        if self.has(WRITE_PINS) {
            return self;
        }
        let state = self.without(Self::WAIT);
        if state.is_to_be_cancelled() {
            state.without(Self::DIRTY | Self::WRITABLE)
        } else {
            state
        }
    }

    #[inline]
    const fn is_to_be_cancelled(self) -> bool {
        self.has(Self::DIRTY) && !self.has(Self::UPTODATE | Self::DEAD)
    }

    #[inline]
    pub(super) fn begin_writeback(
        self,
        generation: u16,
        intent: Intent,
        always_copy: bool,
    ) -> Result<(Self, Decision), Blocked> {
        let ready = Self::OWNED | Self::DIRTY | Self::UPTODATE;
        let looked_at = GENERATION | ready | Self::DEAD | Self::FILL | Self::WRITEBACK;
        if self.0 & looked_at != Self::free(generation).0 | ready {
            return Err(self.why_not_written_back(generation));
        }
        let state = self;
        // R18: only a writeback that begins with no write pins cleans, and it takes the permission
        // away in the same step.
        let clean = state.without(Self::DIRTY | Self::WRITABLE);
        Ok(match (state.has(WRITE_PINS), intent, always_copy) {
            (false, _, false) => (clean.with(Self::WB_DIRECT), Decision::Direct),
            (false, _, true) => (clean.with(Self::WB_COPY), Decision::CopyClean),
            (true, Intent::Background, _) => (state, Decision::Skip),
            (true, Intent::Expired | Intent::Integrity, _) => {
                (state.with(Self::WB_COPY), Decision::CopyKeep)
            }
        })
    }

    /// As no writeback may begin: with the pins left out of it.
    #[cold]
    pub(super) fn begin_direct_ignoring_pins(self, generation: u16) -> Result<Self, Blocked> {
        let pins = self.0 & (WRITE_PINS | READ_PINS);
        let unpinned = Self(self.0 & !pins);
        let (state, _) = unpinned.begin_writeback(generation, Intent::Integrity, false)?;
        Ok(state.with(pins))
    }

    #[cold]
    fn why_not_written_back(self, generation: u16) -> Blocked {
        let why = self
            .of(generation)
            .and_then(|state| state.not(Self::DEAD, Blocked::Dead))
            .and_then(|state| state.not(Self::FILL, Blocked::Fill))
            .and_then(|state| state.not(Self::WRITEBACK, Blocked::Writeback));
        match why {
            Err(why) => why,
            Ok(state) if !state.has(Self::DIRTY) => Blocked::Clean,
            Ok(_) => Blocked::NotUptodate,
        }
    }

    #[inline]
    pub(super) const fn end_writeback(self, decision: Decision, good: bool) -> Self {
        let flag = match decision {
            Decision::Direct => Self::WB_DIRECT,
            Decision::CopyClean | Decision::CopyKeep => Self::WB_COPY,
            Decision::Skip => 0,
        };
        let ended = self.without(flag | Self::WAIT);
        let cleaned = matches!(decision, Decision::Direct | Decision::CopyClean);
        match (good, cleaned && !self.has(Self::DEAD)) {
            (true, _) => ended.without(Self::ERR),
            // R26: what it took, it gives back.
            (false, true) => ended.with(Self::ERR | Self::DIRTY),
            (false, false) => ended.with(Self::ERR),
        }
    }

    #[inline]
    pub(super) fn truncate(self, generation: u16) -> Result<Self, Blocked> {
        self.of(generation)?
            .not(Self::DEAD, Blocked::Dead)
            .map(|state| {
                state
                    .without(Self::WRITABLE | Self::DIRTY | Self::UPTODATE)
                    .with(Self::DEAD)
            })
    }

    /// The frame is nobody's, once nothing holds it.
    #[inline]
    pub(super) fn freed(self) -> Option<Self> {
        let dead = self.has(Self::DEAD).then_some(self)?;
        dead.at_rest().ok().map(Self::next)
    }

    #[inline]
    pub(super) fn evict(self, generation: u16) -> Result<Self, Blocked> {
        self.of(generation)?
            .not(Self::DEAD, Blocked::Dead)?
            .not(Self::DIRTY, Blocked::Dirty)?
            .at_rest()
            .map(Self::next)
    }

    /// R30: no pins, no fill, no writeback.
    #[inline]
    fn at_rest(self) -> Result<Self, Blocked> {
        if self.is_pinned() {
            return Err(Blocked::Pinned);
        }
        self.not(Self::FILL, Blocked::Fill)?
            .not(Self::WRITEBACK, Blocked::Writeback)
    }

    #[inline]
    const fn next(self) -> Self {
        Self::free(self.generation().wrapping_add(1))
    }

    #[inline]
    pub(super) const fn with_wait(self) -> Self {
        self.with(Self::WAIT)
    }

    #[inline]
    pub(super) const fn set_long(self, long: bool) -> Self {
        match long {
            true => self.with(Self::LONG),
            false => self.without(Self::LONG),
        }
    }

    /// The invariants that one word can show (I1, I2's flags, I4, I6, I10, I11): the first that
    /// does not hold.
    pub fn broken_invariant(self) -> Option<&'static str> {
        let has = |flags| self.has(flags);
        let rules = [
            (
                "I1: WRITABLE without DIRTY",
                has(Self::WRITABLE) && !has(Self::DIRTY),
            ),
            (
                "I2: WRITABLE under a direct writeback",
                has(Self::WB_DIRECT) && has(Self::WRITABLE),
            ),
            (
                "I4: two writebacks",
                has(Self::WB_DIRECT) && has(Self::WB_COPY),
            ),
            (
                "I6: a dead page that is writable, dirty or up to date",
                has(Self::DEAD) && has(Self::WRITABLE | Self::DIRTY | Self::UPTODATE),
            ),
            (
                "I10: a fill of what is dirty or written back",
                has(Self::FILL) && has(Self::WRITABLE | Self::DIRTY | Self::WRITEBACK),
            ),
            (
                "I11: a writeback of what is neither up to date nor dead",
                has(Self::WRITEBACK) && !has(Self::UPTODATE | Self::DEAD),
            ),
        ];
        rules
            .into_iter()
            .find_map(|(name, broken)| broken.then_some(name))
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "generation {}, {} write pins, {} read pins",
            self.generation(),
            self.pins(Pin::Write),
            self.pins(Pin::Read)
        )?;
        let names = [
            (Self::WRITABLE, "WRITABLE"),
            (Self::DIRTY, "DIRTY"),
            (Self::WB_DIRECT, "WB_DIRECT"),
            (Self::WB_COPY, "WB_COPY"),
            (Self::UPTODATE, "UPTODATE"),
            (Self::DEAD, "DEAD"),
            (Self::OWNED, "OWNED"),
            (Self::WAIT, "WAIT"),
            (Self::LONG, "LONG"),
            (Self::ERR, "ERR"),
            (Self::FILL, "FILL"),
        ];
        for (_, name) in names.into_iter().filter(|(flag, _)| self.has(*flag)) {
            write!(f, ", {name}")?;
        }
        Ok(())
    }
}
