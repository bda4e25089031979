//! Pins as values: whoever drops what, in whatever order, each count comes down once, each
//! reservation is where it belongs, and memory goes when nobody holds a frame of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use underpin_dma::frame::{
    Beginning, Blocked, Decision, Frames, Intent, Owner, PageKey, Pin, PinError, ReserveError,
    State,
};
use underpin_dma::pin::{Cover, LongPinError, WritePins};
use underpin_dma::rt::{sync::Mutex, thread};
use underpin_dma::{DmaSpace, Payload};

/// A cache that holds every page and counts.
#[derive(Debug)]
struct Store {
    reserved: AtomicI64,
    room: AtomicI64,
    dirtied: AtomicU64,
    freed: AtomicU64,
    /// Panics where it would be full.
    panics: AtomicBool,
}

impl Store {
    fn with_room(room: i64) -> Arc<Self> {
        Arc::new(Self {
            reserved: AtomicI64::new(0),
            room: AtomicI64::new(room),
            dirtied: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            panics: AtomicBool::new(false),
        })
    }
    fn reserved(&self) -> i64 {
        self.reserved.load(SeqCst)
    }
}

impl Owner for Store {
    fn page(&self, frame: u32) -> PageKey {
        PageKey(u64::from(frame))
    }
    fn still_holds(&self, _frame: u32, _generation: u16) -> bool {
        true
    }
    fn reserve(&self, _page: PageKey) -> Result<(), ReserveError> {
        if self.room.fetch_sub(1, SeqCst) <= 0 {
            self.room.fetch_add(1, SeqCst);
            assert!(!self.panics.load(SeqCst), "the store has a fault");
            return Err(ReserveError::Full);
        }
        self.reserved.fetch_add(1, SeqCst);
        Ok(())
    }
    fn give_back(&self, _page: PageKey) {
        self.room.fetch_add(1, SeqCst);
        self.reserved.fetch_sub(1, SeqCst);
    }
    fn enter_dirty(&self, _frame: u32, _page: PageKey) {
        self.dirtied.fetch_add(1, SeqCst);
    }
    fn freed(&self, _frame: u32) {
        self.freed.fetch_add(1, SeqCst);
    }
}

fn frames(count: usize, store: &Arc<Store>) -> (DmaSpace, Frames) {
    let space = DmaSpace::new();
    let memory = space.alloc(count * 4096, 4096).unwrap();
    let store: Arc<dyn Owner> = Arc::<Store>::clone(store);
    (space, Frames::new(memory, store).unwrap())
}

/// R2, R4: a first pin reserves, dirties and enters the index; later ones only count. The IOVA is
/// the frame's.
#[test]
fn a_pin_reserves_and_dirties_first() {
    let store = Store::with_room(8);
    let (space, frames) = frames(4, &store);
    let generation = frames.alloc(2, Beginning::Uptodate).unwrap();
    let frame = frames.frame(2, generation);
    let first = frame.pin_write(Cover::Part).unwrap();
    let second = frame.pin_write(Cover::Part).unwrap();
    assert_eq!((store.reserved(), store.dirtied.load(SeqCst)), (1, 1));
    assert_eq!(first.space_id(), space.id());
    assert_eq!(first.iova(), second.iova());
    assert_eq!(first.span(0).iova, first.iova());
    let state = frames.state(2).unwrap();
    assert_eq!(state.pins(Pin::Write), 2);
    assert!(state.has(State::DIRTY) && state.has(State::WRITABLE));
    drop((first, second));
    assert_eq!(frames.state(2).unwrap().pins(Pin::Write), 0);
    // Dirty it stays, until a writeback.
    let writeback = frame
        .begin_writeback(Intent::Background, false)
        .unwrap()
        .unwrap();
    assert_eq!(writeback.decision(), Decision::Direct);
    assert_eq!(
        frame.pin_write(Cover::Part).unwrap_err(),
        PinError::Blocked(Blocked::WritebackDirect)
    );
    writeback.end(true);
    assert!(!frames.state(2).unwrap().has(State::DIRTY));
}

/// R3: a store that is full says so at the pin, and all is as before.
#[test]
fn a_full_store_is_the_pins_error() {
    let store = Store::with_room(1);
    let (_space, frames) = frames(2, &store);
    let pages: Vec<_> = (0..2)
        .map(|n| (n, frames.alloc(n, Beginning::Uptodate).unwrap()))
        .collect();
    let mut pins = WritePins::with_capacity(2);
    let refused = pins.pin(&frames, &pages, Cover::Part).unwrap_err();
    assert_eq!(refused, (1, PinError::Reserve(ReserveError::Full)));
    // R5: the first is unpinned again. It is dirty, and will be written back in vain.
    assert!(pins.is_empty());
    for frame in 0..2 {
        assert_eq!(frames.state(frame).unwrap().pins(Pin::Write), 0);
    }
    assert_eq!(store.reserved(), 1);
}

/// R5, R12: of many pages one is another's by now: none stays pinned, not even those behind it
/// whose counts went up with the same batch; what was pinned before stays.
#[test]
fn many_pins_with_a_page_that_moved() {
    let store = Store::with_room(100);
    let (_space, frames) = frames(80, &store);
    let alloc = |n| (n, frames.alloc(n, Beginning::Uptodate).unwrap());
    let mut pages: Vec<_> = (0..80).map(alloc).collect();
    // All of them fast pins from now on.
    for &(frame, generation) in &pages {
        drop(
            frames
                .frame(frame, generation)
                .pin_write(Cover::Part)
                .unwrap(),
        );
    }
    let mut pins = WritePins::with_capacity(80);
    pins.pin(&frames, &pages[..3], Cover::Part).unwrap();
    pages[45].1 = pages[45].1.wrapping_add(1);
    let refused = pins.pin(&frames, &pages[3..], Cover::Part).unwrap_err();
    assert_eq!(refused, (42, PinError::Moved));
    assert_eq!(pins.frames(), [0, 1, 2]);
    for frame in 0..80 {
        let count = frames.state(frame).unwrap().pins(Pin::Write);
        assert_eq!(count, u64::from(frame < 3), "frame {frame}");
    }
    drop(pins);
    assert_eq!(frames.state(0).unwrap().pins(Pin::Write), 0);
}

/// R5: a store that panics in the middle of many pins leaves those before it pinned and listed, and
/// no other.
#[test]
fn many_pins_and_a_store_that_panics() {
    let store = Store::with_room(40);
    let (_space, frames) = frames(50, &store);
    let alloc = |n| (n, frames.alloc(n, Beginning::Uptodate).unwrap());
    let pages: Vec<_> = (0..50).map(alloc).collect();
    store.panics.store(true, SeqCst);
    let mut pins = WritePins::with_capacity(50);
    let pin = std::panic::AssertUnwindSafe(|| pins.pin(&frames, &pages, Cover::Part));
    assert!(std::panic::catch_unwind(pin).is_err());
    assert_eq!(pins.len(), 40);
    for frame in 0..40 {
        assert_eq!(frames.state(frame).unwrap().pins(Pin::Write), 1);
    }
    drop(pins);
    // The count of the page whose store panicked stays up: nobody knows what it was given.
    for frame in (0..50).filter(|&frame| frame != 40) {
        let count = frames.state(frame).unwrap().pins(Pin::Write);
        assert_eq!(count, 0, "frame {frame}");
    }
    // So their table is for ever, too: where a leak checker finds it.
    static KEPT: Mutex<Vec<Frames>> = Mutex::new(Vec::new());
    KEPT.lock().push(frames);
}

/// A writeback and a fill that are dropped have failed; nothing stays in flight.
#[test]
fn what_is_dropped_has_failed() {
    let store = Store::with_room(8);
    let (_space, frames) = frames(1, &store);
    let generation = frames.alloc(0, Beginning::Unknown).unwrap();
    let frame = frames.frame(0, generation);
    drop(frame.begin_fill().unwrap());
    let state = frames.state(0).unwrap();
    assert!(state.has(State::ERR) && !state.has(State::UPTODATE | State::FILL));
    frame.begin_fill().unwrap().end(true);
    drop(frame.pin_write(Cover::Part).unwrap());
    drop(
        frame
            .begin_writeback(Intent::Integrity, true)
            .unwrap()
            .unwrap(),
    );
    let state = frames.state(0).unwrap();
    assert!(
        state.has(State::DIRTY) && state.has(State::ERR),
        "{state:?}"
    );
    assert_eq!(store.reserved(), 1);
}

/// R6: a pin that covers the page and is dropped without success leaves nothing.
#[test]
fn a_failed_cover_leaves_nothing() {
    let store = Store::with_room(8);
    let (_space, frames) = frames(1, &store);
    let generation = frames.alloc(0, Beginning::Unknown).unwrap();
    let frame = frames.frame(0, generation);
    assert_eq!(
        frame.pin_write(Cover::Part).unwrap_err(),
        PinError::Blocked(Blocked::NotUptodate)
    );
    drop(frame.pin_write(Cover::Whole).unwrap());
    assert!(!frames.state(0).unwrap().has(State::DIRTY));
    assert_eq!(store.reserved(), 0);
    let pin = frame.pin_write(Cover::Whole).unwrap();
    pin.set_uptodate();
    drop(pin);
    assert!(frames.state(0).unwrap().has(State::DIRTY));
}

/// R28, R32: pins outlive the cache. Memory and owner go with the last of them, on any thread.
#[test]
fn memory_lives_as_long_as_a_pin() {
    let store = Store::with_room(8);
    let (space, frames) = frames(3, &store);
    for n in 0..3 {
        frames.alloc(n, Beginning::Uptodate).unwrap();
    }
    let write = frames.frame(0, frames.state(0).unwrap().generation());
    let write = write.pin_write(Cover::Part).unwrap();
    let read = frames
        .frame(1, frames.state(1).unwrap().generation())
        .pin_read()
        .unwrap();
    let used = space.stats().region_bytes;
    drop(frames);
    // The third was free at once, and the reservation of the first is back.
    assert_eq!((store.freed.load(SeqCst), store.reserved()), (1, 0));
    assert_eq!(space.stats().region_bytes, used);
    thread::spawn("unpins", move || drop(write))
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(store.freed.load(SeqCst), 2);
    assert!(Arc::strong_count(&store) > 1, "the owner is needed still");
    drop(read);
    assert_eq!(store.freed.load(SeqCst), 3);
    assert_eq!(Arc::strong_count(&store), 1, "the owner is let go");
}

/// Words are used again, and whoever was looked up under the last owner gets nothing.
#[test]
fn a_table_is_used_again() {
    let count = 37; // No other test's.
    let old = {
        let store = Store::with_room(8);
        let (_space, frames) = frames(count, &store);
        frames.alloc(5, Beginning::Uptodate).unwrap()
    };
    let store = Store::with_room(8);
    let (_space, frames) = frames(count, &store);
    let new = frames.alloc(5, Beginning::Uptodate).unwrap();
    assert_eq!(new, old.wrapping_add(1));
    assert_eq!(
        frames.frame(5, old).pin_write(Cover::Part).unwrap_err(),
        PinError::Moved
    );
    assert_eq!(
        frames.frame(5, old).pin_read().unwrap_err(),
        PinError::Moved
    );
    assert_eq!(frames.state(5).unwrap().pins(Pin::Write), 0);
    assert_eq!(frames.alloc(5, Beginning::Fill), Err(Blocked::Owned));
    assert_eq!(frames.frame(99, 0).pin_read().unwrap_err(), PinError::Moved);
}

/// R10: the last count that fits is refused before it wraps, and nothing of it is left.
#[test]
fn saturation_is_refused() {
    let store = Store::with_room(8);
    let (_space, frames) = frames(1, &store);
    let frame = frames.frame(0, frames.alloc(0, Beginning::Uptodate).unwrap());
    let mut writers = Vec::new();
    let refused = loop {
        match frame.pin_write(Cover::Part) {
            Ok(pin) if writers.len() < 1 << 16 => writers.push(pin),
            Ok(_) => panic!("the count has wrapped"),
            Err(why) => break why,
        }
    };
    assert_eq!(
        (refused, writers.len()),
        (PinError::Blocked(Blocked::Saturated), 1 << 15)
    );
    let mut readers = Vec::new();
    let refused = loop {
        match frame.pin_read() {
            Ok(pin) if readers.len() < 1 << 16 => readers.push(pin),
            Ok(_) => panic!("the count has wrapped"),
            Err(why) => break why,
        }
    };
    assert_eq!(
        (refused, readers.len()),
        (PinError::Blocked(Blocked::Saturated), 1 << 15)
    );
    drop((readers, writers));
    let state = frames.state(0).unwrap();
    assert_eq!((state.pins(Pin::Write), state.pins(Pin::Read)), (0, 0));
    assert_eq!(store.reserved(), 1);
}

/// R13: long-term pins are bounded, flagged while there is one, and never taken on a page without
/// its bytes.
#[test]
fn long_term_pins_are_bounded() {
    let store = Store::with_room(8);
    let (_space, frames) = frames(4, &store);
    frames.set_long_term_limit(2);
    let frame = frames.frame(0, frames.alloc(0, Beginning::Uptodate).unwrap());
    let unknown = frames.frame(1, frames.alloc(1, Beginning::Unknown).unwrap());
    let why = LongPinError::Pin(PinError::Blocked(Blocked::NotUptodate));
    assert_eq!(unknown.pin_write_long().unwrap_err(), why);
    let pins = [
        frame.pin_write_long().unwrap(),
        frame.pin_write_long().unwrap(),
    ];
    assert!(matches!(
        frame.pin_write_long(),
        Err(LongPinError::Limit(_))
    ));
    assert_eq!(frames.state(0).unwrap().pins(Pin::Write), 2);
    let [first, second] = pins;
    drop(first);
    assert!(frames.state(0).unwrap().has(State::LONG), "one is left");
    drop(second);
    assert!(!frames.state(0).unwrap().has(State::LONG));
    assert_eq!(frames.state(0).unwrap().pins(Pin::Write), 0);
}

/// R30: only a clean page that nothing holds is evicted, and its frame is free only after its slot.
#[test]
fn evict_asks_for_everything() {
    let store = Store::with_room(8);
    let (_space, frames) = frames(1, &store);
    let frame = frames.frame(0, frames.alloc(0, Beginning::Uptodate).unwrap());
    let read = frame.pin_read().unwrap();
    assert_eq!(frame.evict(|| panic!("pinned")), Err(Blocked::Pinned));
    drop(read);
    drop(frame.pin_write(Cover::Part).unwrap());
    assert_eq!(frame.evict(|| panic!("dirty")), Err(Blocked::Dirty));
    frame
        .begin_writeback(Intent::Background, false)
        .unwrap()
        .unwrap()
        .end(true);
    frame
        .evict(|| assert_eq!(store.freed.load(SeqCst), 0))
        .unwrap();
    assert_eq!(store.freed.load(SeqCst), 1);
    assert_eq!(frame.evict(|| panic!("gone")), Err(Blocked::Generation));
}

/// Memory that does not consist of pages is refused in words.
#[test]
fn only_whole_pages_are_frames() {
    let space = DmaSpace::new();
    let store: Arc<dyn Owner> = Store::with_room(1);
    let refused = Frames::new(space.alloc(5000, 4096).unwrap(), store).unwrap_err();
    assert!(refused.to_string().contains("5000"), "{refused}");
}
