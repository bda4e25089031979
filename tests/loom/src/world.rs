//! One page, two frames that it may live in, and all that the rules speak of: an index slot, a
//! dirty index, reservations, a disk. What is not ours to prove is loom's, too, so that it orders
//! nothing that the words do not.
use crate::frame::{
    Beginning, Blocked, Decision, Intent, Lot, Owner, PageKey, Pin, PinError, Place, ReserveError,
    State, StateWord,
};
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use loom::sync::{Arc, Mutex};
use std::sync::atomic::AtomicU64 as Plain;

/// The only page of the models' file.
const PAGE: PageKey = PageKey(7);

/// What is durable of the page, and what a writeback is about to make durable.
#[derive(Debug)]
pub struct Disk {
    /// The bytes, as one number.
    pub bytes: AtomicU64,
    /// Writes that were begun and have not ended: never two (R20).
    pub writing: AtomicU64,
}

/// Everything around the words.
#[derive(Debug)]
pub struct World {
    /// The states of the two frames.
    pub words: [StateWord; 2],
    /// What is in them, as one number each. Relaxed: only the words may order.
    pub bytes: [AtomicU64; 2],
    /// The index: which frame and generation the page has, plus one; 0 is none.
    slot: AtomicU64,
    /// Reservations that are held.
    reserved: AtomicU64,
    /// How many may be held.
    limit: u64,
    /// The page is in the dirty index.
    dirty_index: Mutex<bool>,
    /// The page's place on the store.
    pub disk: Disk,
    /// The same bytes once more, for the models of order.
    cell: crate::cell::Watched,
    lot: Lot,
    /// How often each frame became free.
    pub freed: [AtomicU64; 2],
}

impl Owner for World {
    fn page(&self, _frame: u32) -> PageKey {
        PAGE
    }
    fn still_holds(&self, frame: u32, generation: u16) -> bool {
        // Relaxed: the count, not this load, keeps the frame from changing hands.
        self.slot.load(Relaxed) == slot_of(frame, generation)
    }
    fn reserve(&self, page: PageKey) -> Result<(), ReserveError> {
        assert_eq!(page, PAGE);
        let taken = self.reserved.fetch_update(SeqCst, SeqCst, |held| {
            (held < self.limit).then_some(held + 1)
        });
        taken.map(drop).map_err(|_| ReserveError::Full)
    }
    fn give_back(&self, page: PageKey) {
        assert_eq!(page, PAGE);
        let before = self.reserved.fetch_sub(1, SeqCst);
        assert!(before > 0, "a reservation was given back that nobody held");
    }
    fn enter_dirty(&self, _frame: u32, _page: PageKey) {
        *self.dirty_index.lock().unwrap() = true;
    }
    fn freed(&self, frame: u32) {
        self.freed[frame as usize].fetch_add(1, SeqCst);
    }
}

fn slot_of(frame: u32, generation: u16) -> u64 {
    1 + (u64::from(generation) << 32 | u64::from(frame))
}

impl World {
    /// The page is in frame 0, generation 0.
    pub fn new(beginning: Beginning) -> Arc<Self> {
        Self::with_limit(beginning, 8)
    }

    /// With room for so many reservations.
    pub fn with_limit(beginning: Beginning, limit: u64) -> Arc<Self> {
        let world = Self {
            words: [StateWord::new(), StateWord::new()],
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
            slot: AtomicU64::new(slot_of(0, 0)),
            reserved: AtomicU64::new(0),
            limit,
            dirty_index: Mutex::new(false),
            disk: Disk {
                bytes: AtomicU64::new(0),
                writing: AtomicU64::new(0),
            },
            cell: crate::cell::Watched::new(),
            lot: Lot::with_shards(1),
            freed: [AtomicU64::new(0), AtomicU64::new(0)],
        };
        world.words[0].alloc(beginning).unwrap();
        Arc::new(world)
    }

    /// One frame with its neighbourhood.
    pub fn place(&self, frame: u32) -> Place<'_> {
        Place {
            word: &self.words[frame as usize],
            frame,
            owner: self,
            lot: &self.lot,
        }
    }

    /// Makes the page dirty, with `value` in it, before the threads begin.
    pub fn dirty(&self, value: u64) {
        assert!(self.device_write(0, value).is_ok());
    }

    /// Pins the page's frame 0 of this generation as a device that writes `value` would, and
    /// unpins it. What the referee asks of each DMA is asked here (R2).
    pub fn device_write(&self, generation: u16, value: u64) -> Result<(), PinError> {
        self.place(0).pin_write(generation, false)?;
        self.dma(0, value);
        self.place(0).undo(Pin::Write);
        Ok(())
    }

    /// DMA into a frame whose write pin is granted.
    pub fn dma(&self, frame: usize, value: u64) {
        let state = self.words[frame].load();
        assert!(state.pins(Pin::Write) > 0, "DMA without a pin: {state:?}");
        assert!(state.has(State::DIRTY | State::DEAD), "I3: {state:?}");
        assert!(!state.has(State::WB_DIRECT), "I2: {state:?}");
        assert!(!state.has(State::FILL), "DMA during a fill: {state:?}");
        self.bytes[frame].store(value, Relaxed);
        let state = self.words[frame].load();
        assert_eq!(state.broken_invariant(), None, "{state:?}");
        assert!(state.has(State::DIRTY | State::DEAD), "I3: {state:?}");
        assert!(!state.has(State::WB_DIRECT), "I2: {state:?}");
    }

    /// One writeback of frame 0: decided, carried out, ended. What was decided.
    pub fn writeback(
        &self,
        generation: u16,
        intent: Intent,
        always_copy: bool,
        good: bool,
    ) -> Result<Decision, Blocked> {
        let decision = self.words[0].begin_writeback(generation, intent, always_copy)?;
        if decision != Decision::Skip {
            self.write_out(decision, good);
        }
        Ok(decision)
    }

    /// The command of a writeback, from its begin to its end.
    pub fn write_out(&self, decision: Decision, good: bool) {
        assert_eq!(
            self.disk.writing.fetch_add(1, Relaxed),
            0,
            "R20: two writes to one LBA"
        );
        let first = self.bytes[0].load(Relaxed);
        if decision == Decision::Direct {
            loom::thread::yield_now();
            let second = self.bytes[0].load(Relaxed);
            assert_eq!(
                first, second,
                "O1: the page changed while the device read it"
            );
        }
        if good {
            self.disk.bytes.store(first, Relaxed);
        }
        assert_eq!(self.disk.writing.fetch_sub(1, Relaxed), 1);
        self.end_writeback(decision, good);
    }

    /// The end alone.
    pub fn end_writeback(&self, decision: Decision, good: bool) {
        let (page, due) = self.words[0].end_writeback(decision, good, || PAGE);
        let cleans = matches!(decision, Decision::Direct | Decision::CopyClean);
        if cleans && good && page.is_none() {
            // Used up: the store has the block now.
            self.give_back(PAGE);
        }
        self.place(0).settle(due, page);
        // I9: out of the index only under its lock, with nothing left to be written.
        let mut entry = self.dirty_index.lock().unwrap();
        let state = self.words[0].load();
        if !state.has(State::DIRTY | State::WB_DIRECT | State::WB_COPY)
            && state.pins(Pin::Write) == 0
        {
            *entry = false;
        }
    }

    /// What fsync does: looks the page up in the dirty index, waits for an older writeback, writes
    /// it back. False when there was nothing to do.
    pub fn fsync(&self, generation: u16) -> bool {
        if !*self.dirty_index.lock().unwrap() {
            return false;
        }
        loop {
            match self.writeback(generation, Intent::Integrity, false, true) {
                Ok(_) => return true,
                Err(Blocked::Writeback) => loom::thread::yield_now(),
                Err(_) => return false,
            }
        }
    }

    /// A command reads `value` into frame 0. False when it may not.
    pub fn fill(&self, generation: u16, value: u64, good: bool) -> bool {
        if self.words[0].begin_fill(generation).is_err() {
            return false;
        }
        self.finish_fill(value, good);
        true
    }

    /// The rest of a fill that has begun.
    pub fn finish_fill(&self, value: u64, good: bool) {
        assert_eq!(
            self.bytes[0].load(Relaxed),
            0,
            "somebody wrote into a page that is being read in"
        );
        if good {
            self.bytes[0].store(value, Relaxed);
        }
        let due = self.words[0].end_fill(good);
        self.place(0).settle(due, None);
    }

    /// Truncates the page, slot and all.
    pub fn truncate(&self, generation: u16) -> bool {
        let detach = || self.slot.store(0, SeqCst);
        self.place(0).truncate(generation, detach).is_ok()
    }

    /// The page's slot no longer says frame 0.
    pub fn detach(&self) {
        self.slot.store(0, SeqCst);
    }

    /// What fsync looks at.
    pub fn is_in_dirty_index(&self) -> bool {
        *self.dirty_index.lock().unwrap()
    }

    /// The slot names frame 0.
    pub fn is_attached(&self) -> bool {
        self.slot.load(SeqCst) != 0
    }

    /// It did, when its generation was still the one that the slot says.
    pub fn is_attached_to_a_living_frame(&self) -> bool {
        let generation = self.words[0].load().generation();
        generation == 0 || self.slot.load(SeqCst) == 0
    }

    /// DMA into a cell that loom watches: nobody else may touch it without an order.
    pub fn write_cell(&self) {
        self.cell.write();
    }

    /// DMA or a copy out of it.
    pub fn read_cell(&self) {
        self.cell.read();
    }

    /// Evicts it, and gives the frame to a new owner with `value` in it.
    pub fn evict_and_reuse(&self, generation: u16, value: u64) -> bool {
        let Ok(due) = self.words[0].evict(generation) else {
            return false;
        };
        self.slot.store(0, SeqCst);
        self.place(0).settle(due, None);
        // A new page, unless a stranger is still on the way out.
        if self.words[0].alloc(Beginning::Uptodate).is_ok() {
            self.bytes[0].store(value, Relaxed);
        }
        true
    }

    /// Parks until `blocked` no longer holds of frame 0, as a thread would.
    pub fn wait_while(&self, blocked: impl Fn(State) -> bool + Copy) {
        let notify = std::sync::Arc::new(Notice(loom::sync::Notify::new()));
        let waker = std::task::Waker::from(std::sync::Arc::clone(&notify));
        while self.lot.park(0, &self.words[0], blocked, &waker) {
            notify.0.wait();
        }
    }

    /// When all threads are done: nothing is held, and one more fsync makes the last bytes durable.
    pub fn settle(&self, generation: u16) {
        let state = self.words[0].load();
        self.check_rest(state);
        if state.generation() == generation && state.has(State::DIRTY) {
            assert!(
                *self.dirty_index.lock().unwrap(),
                "I9: dirty and not in the index: {state:?}"
            );
            let decision = self.writeback(generation, Intent::Integrity, false, true);
            assert_eq!(decision, Ok(Decision::Direct), "{state:?}");
            self.check_rest(self.words[0].load());
        }
        let state = self.words[0].load();
        if state.generation() == generation && state.has(State::UPTODATE) && !state.has(State::DEAD)
        {
            assert_eq!(
                self.disk.bytes.load(SeqCst),
                self.bytes[0].load(SeqCst),
                "the last bytes are not on the disk: {state:?}"
            );
        }
    }

    fn check_rest(&self, state: State) {
        assert_eq!(
            (state.pins(Pin::Write), state.pins(Pin::Read)),
            (0, 0),
            "{state:?}"
        );
        assert!(
            !state.has(State::FILL | State::WB_DIRECT | State::WB_COPY),
            "{state:?}"
        );
        assert!(
            !state.has(State::DEAD),
            "dead with nothing that holds it: {state:?}"
        );
        assert_eq!(state.broken_invariant(), None, "{state:?}");
        assert_eq!(
            self.reserved.load(SeqCst),
            u64::from(state.has(State::DIRTY)),
            "I7: reservations held, {state:?}"
        );
    }
}

struct Notice(loom::sync::Notify);

impl std::task::Wake for Notice {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.notify();
    }
}

/// Runs a model under every interleaving with up to three preemptions, and prints how many those were.
pub fn explore(name: &str, model: impl Fn() + Sync + Send + 'static) {
    let runs = std::sync::Arc::new(Plain::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.max_branches = 100_000;
    let count = std::sync::Arc::clone(&runs);
    builder.check(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    println!(
        "{name}: {} executions",
        runs.load(std::sync::atomic::Ordering::Relaxed)
    );
}
