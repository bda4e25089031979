//! The cache over a store whose commands end when the test says so: each test is one rule of
//! `docs/PINS.md`, or one promise of the file's calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;

use std::sync::Arc;
use std::time::Duration;
use support::{Kind, Manual, until, within};
use underpin_dma::DmaSpace;
use underpin_dma::frame::ReserveError;
use underpin_dma::pin::Cover;
use underpin_dma::rt::thread;
use underpin_fs::store::{Memory, Store};
use underpin_fs::{Cache, CacheOptions, File, FileError, Policy};
use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions};

const PAGE: u64 = 4096;

fn options() -> CacheOptions {
    CacheOptions {
        frames: 64,
        bounces: 4,
        flusher: false,
        pin_wait: Duration::from_millis(200),
        ..CacheOptions::default()
    }
}

fn cache() -> Cache {
    Cache::new(&DmaSpace::new(), options()).unwrap()
}

fn open(cache: &Cache, store: &Arc<Manual>) -> File {
    cache.open(Arc::clone(store) as Arc<dyn Store>).unwrap()
}

fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    let done = file.read_at(offset, &mut bytes).unwrap();
    bytes.truncate(done);
    bytes
}

/// What is written is read, across pages and past the old end, through a cache that is smaller
/// than the file; and what was never written is zero.
#[test]
fn bytes_come_back_through_a_small_cache() {
    let cache = cache();
    let store = Manual::new(0, 1 << 30);
    let file = open(&cache, &store);
    for at in 0..256_u64 {
        let text = [at as u8; 5000];
        file.write_at(at * 8192 + 4000, &text).unwrap();
    }
    assert_eq!(file.len_bytes(), 255 * 8192 + 9000);
    for at in 0..256_u64 {
        assert_eq!(
            read(&file, at * 8192 + 4000, 5000),
            vec![at as u8; 5000],
            "{at}"
        );
        let gap = read(&file, at * 8192 + 1000, 2000);
        assert!(gap.iter().all(|byte| *byte == 0), "{at}");
    }
    let stats = cache.stats();
    assert!(stats.evictions > 256, "{stats:?}");
    assert!(read(&file, file.len_bytes(), 10).is_empty());
    assert_eq!(read(&file, file.len_bytes() - 3, 10).len(), 3);
}

/// R2, R3: a store without room says so when a page is pinned, and then everything that is dirty
/// can be written all the same; reservations are used or come back, one each.
#[test]
fn a_full_store_refuses_the_pin_and_never_the_writeback() {
    let cache = cache();
    let store = Manual::new(16 * PAGE, 16 * PAGE);
    store.state.lock().room = 3;
    let file = open(&cache, &store);
    let pins: Vec<_> = (0..3)
        .map(|page| file.pin_write(page, Cover::Part).unwrap())
        .collect();
    let refused = file.pin_write(3, Cover::Part).unwrap_err();
    assert!(
        matches!(refused, FileError::Reserve(ReserveError::Full)),
        "{refused}"
    );
    assert_eq!(refused.errno(), libc::ENOSPC);
    file.fsync().unwrap();
    file.fsync().unwrap();
    drop(pins);
    file.fsync().unwrap();
    assert_eq!(file.dirty_pages(), 0);
    // Each of the three was used by the writeback that cleaned its page.
    assert_eq!(store.state.lock().room, 0);
    assert!(
        store
            .state
            .lock()
            .reserved
            .get(&3)
            .is_none_or(|count| *count == 0)
    );
}

/// R16, R19: fsync copies a pinned page and leaves it dirty; what the device writes after the copy
/// is there after the next one.
#[test]
fn a_pinned_page_is_copied_and_stays_dirty() {
    let cache = cache();
    let store = Manual::new(4 * PAGE, 4 * PAGE);
    let file = open(&cache, &store);
    file.write_at(0, b"old").unwrap();
    let pin = file.pin_write(0, Cover::Part).unwrap();
    file.fsync().unwrap();
    let stats = cache.stats();
    assert_eq!((stats.copies_kept, stats.direct), (1, 0), "{stats:?}");
    assert_eq!((store.byte(0), file.dirty_pages()), (b'o', 1));
    // In a device's place.
    file.write_at(0, b"new").unwrap();
    drop(pin);
    file.fsync().unwrap();
    assert_eq!((store.byte(0), file.dirty_pages()), (b'n', 0));
    assert_eq!(cache.stats().direct, 1);
}

/// R7: a pin that meets a direct writeback waits for its end; R8: whoever waits polls, so no other
/// thread has to be awake. One that meets a copy does not wait.
#[test]
fn a_pin_waits_for_a_direct_writeback_and_for_no_copy() {
    for (policy, waits) in [(Policy::Wait, true), (Policy::AlwaysCopy, false)] {
        let cache = cache();
        let store = Manual::new(4 * PAGE, 4 * PAGE);
        let file = cache.open_with(Arc::clone(&store) as _, policy).unwrap();
        file.write_at(0, b"old").unwrap();
        store.hold(true);
        let syncing = file.reopen();
        let sync = thread::spawn("sync", move || syncing.fsync()).unwrap();
        until(|| store.held() > 0);
        let pinning = file.reopen();
        let pin = thread::spawn("pin", move || pinning.pin_write(0, Cover::Part).unwrap()).unwrap();
        if waits {
            thread::sleep(Duration::from_millis(20));
            assert!(!pin.is_finished());
            store.end_one();
        }
        // The copy is in flight still.
        until(|| pin.is_finished());
        assert_eq!(store.byte(0), if waits { b'o' } else { 0 });
        drop(pin.join().unwrap());
        store.hold(false);
        sync.join().unwrap().unwrap();
        assert_eq!(store.byte(0), b'o');
    }
}

/// R25: with one page for copies and many pinned pages, fsync ends.
#[test]
fn one_bounce_is_enough() {
    let options = CacheOptions {
        bounces: 1,
        ..options()
    };
    let cache = Cache::new(&DmaSpace::new(), options).unwrap();
    let store = Manual::new(50 * PAGE, 50 * PAGE);
    let file = open(&cache, &store);
    let pins = file.pin_write_pages(0..50, Cover::Part).unwrap();
    file.fsync().unwrap();
    let stats = cache.stats();
    assert_eq!(
        (stats.copies_kept, stats.written_pages),
        (50, 50),
        "{stats:?}"
    );
    drop(pins);
}

/// R26: a failed writeback leaves the page dirty and its newest bytes readable; every handle that
/// was open is told once, at its next fsync; one that is opened later is not.
#[test]
fn an_error_is_told_to_each_handle_once() {
    let cache = cache();
    let store = Manual::new(4 * PAGE, 4 * PAGE);
    let first = open(&cache, &store);
    let second = first.reopen();
    first.write_at(PAGE, b"precious").unwrap();
    store.state.lock().bad.insert(1);
    let error = first.fsync().unwrap_err();
    assert_eq!(error.errno(), libc::EIO);
    assert!(error.to_string().contains("page 1 is bad"), "{error}");
    assert_eq!(first.dirty_pages(), 1);
    assert_eq!(read(&first, PAGE, 8), b"precious");
    let third = first.reopen();
    store.state.lock().bad.clear();
    third.fsync().unwrap();
    assert!(second.fsync().is_err());
    second.fsync().unwrap();
    first.fsync().unwrap();
    assert_eq!((store.byte(PAGE), first.dirty_pages()), (b'p', 0));
}

/// R6: a device's read into a page that it covers fails: nobody ever sees the frame's former bytes,
/// and nothing is written.
#[test]
fn a_failed_cover_shows_nothing() {
    let cache = cache();
    let store = Manual::new(64 * PAGE, 64 * PAGE);
    let file = open(&cache, &store);
    // Every frame holds a secret that was somebody's.
    let other = open(&cache, &Manual::new(64 * PAGE, 64 * PAGE));
    other.write_at(0, &vec![0x55; 64 * PAGE as usize]).unwrap();
    other.fsync().unwrap();
    let pin = file.pin_write(5, Cover::Whole).unwrap();
    file.fsync().unwrap();
    assert_eq!(store.seen(Kind::Write), [], "not up to date: not written");
    drop(pin);
    file.fsync().unwrap();
    assert_eq!(store.seen(Kind::Write), []);
    assert_eq!(read(&file, 5 * PAGE, 4096), vec![0; 4096]);
    assert!(
        store
            .state
            .lock()
            .reserved
            .values()
            .all(|count| *count == 0)
    );
    assert_eq!(file.dirty_pages(), 0);
}

/// A page that cannot be read in is an error with a cause, each time, and no hang; when it can be
/// again, it is.
#[test]
fn an_unreadable_page_is_an_error_until_it_is_readable() {
    let cache = cache();
    let store = Manual::new(4 * PAGE, 4 * PAGE);
    store.state.lock().bad.insert(2);
    let file = open(&cache, &store);
    for _ in 0..2 {
        let error = file.read_at(2 * PAGE, &mut [0; 1]).unwrap_err();
        assert_eq!(error.errno(), libc::EIO, "{error}");
        let error = file.pin_write(2, Cover::Part).unwrap_err();
        assert!(error.to_string().contains("page 2"), "{error}");
    }
    store.state.lock().bad.clear();
    assert_eq!(read(&file, 2 * PAGE, 1), [0]);
}

/// R24: what lies past the end of the file is zero in what is written, though a device wrote there;
/// and zero again when the file gets longer.
#[test]
fn the_tail_is_zero() {
    let space = DmaSpace::new();
    let cache = Cache::new(&space, options()).unwrap();
    let store = Manual::new(100, 4 * PAGE);
    let file = open(&cache, &store);
    let device = Controller::open("emu:size=1m", &space, ControllerOptions::default()).unwrap();
    let disk = device.namespace(None).unwrap();
    let mut sevens = space.alloc(4096, 4096).unwrap();
    sevens.fill(7);
    let mut queue = device.queue_pair(QueueOptions::default()).unwrap();
    queue.run(disk.write(Lba(0), 8).unwrap(), sevens).unwrap();
    let mut queue = device.queue_pair(QueueOptions::default()).unwrap();
    let pins = file.pin_write_pages(0..1, Cover::Whole).unwrap();
    let pins = queue.run(disk.read(Lba(0), 8).unwrap(), pins).unwrap();
    pins.set_uptodate();
    drop(pins);
    file.fsync().unwrap();
    assert_eq!(
        (store.byte(99), store.byte(100), store.byte(4095)),
        (7, 0, 0)
    );
    assert_eq!(cache.stats().copies_clean, 1);
    file.extend(2 * PAGE).unwrap();
    assert_eq!(read(&file, 98, 4), [7, 7, 0, 0]);
    file.fsync().unwrap();
    assert_eq!(
        (store.byte(99), store.byte(100), store.byte(4095)),
        (7, 0, 0)
    );
    // Shorter: what is cut off is gone, in the store as well.
    file.truncate(50).unwrap();
    file.fsync().unwrap();
    assert_eq!((store.byte(49), store.byte(50)), (7, 0));
    file.truncate(100).unwrap();
    assert_eq!(read(&file, 48, 100)[..4], [7, 7, 0, 0]);
}

/// R28: a page that is cut off while it is written back: its blocks are free only after the end of
/// that; a pin of it lives on; the file made longer again reads zeroes.
#[test]
fn truncate_waits_for_what_is_in_flight_and_for_no_pin() {
    let cache = cache();
    let store = Manual::new(8 * PAGE, 8 * PAGE);
    let file = open(&cache, &store);
    file.write_at(0, &vec![9; 8 * PAGE as usize]).unwrap();
    let pin = file.pin_write(6, Cover::Part).unwrap();
    store.hold(true);
    let syncing = file.reopen();
    let sync = thread::spawn("sync", move || syncing.fsync()).unwrap();
    until(|| store.held() > 0);
    let cutting = file.reopen();
    let cut = thread::spawn("cut", move || cutting.truncate(4 * PAGE)).unwrap();
    until(|| file.len_bytes() == 4 * PAGE);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(store.len_bytes(), 8 * PAGE, "it is in flight still");
    store.hold(false);
    cut.join().unwrap().unwrap();
    sync.join().unwrap().unwrap();
    assert_eq!(store.len_bytes(), 4 * PAGE);
    assert!(matches!(
        file.pin_write(6, Cover::Part),
        Err(FileError::Range { .. })
    ));
    file.extend(8 * PAGE).unwrap();
    assert_eq!(read(&file, 6 * PAGE, 8), [0; 8]);
    drop(pin);
    assert_eq!(read(&file, 6 * PAGE, 8), [0; 8]);
    file.fsync().unwrap();
    assert!(
        store
            .state
            .lock()
            .reserved
            .values()
            .all(|count| *count >= 0)
    );
}

/// R29: a file does not end within a page that is pinned for long.
#[test]
fn shrinking_into_a_long_pin_is_busy() {
    let cache = cache();
    let store = Manual::new(8 * PAGE, 8 * PAGE);
    let file = open(&cache, &store);
    let pin = file.pin_write_long(3).unwrap();
    let error = file.truncate(3 * PAGE + 1).unwrap_err();
    assert_eq!(error.errno(), libc::EBUSY, "{error}");
    assert_eq!(file.len_bytes(), 8 * PAGE);
    drop(pin);
    file.truncate(3 * PAGE + 1).unwrap();
}

/// A hole is zero, whole pages of it go back to the store, and what is around it stays.
#[test]
fn a_punched_hole_is_zero_and_nothing_else_is() {
    let cache = cache();
    let store = Manual::new(8 * PAGE, 8 * PAGE);
    let file = open(&cache, &store);
    let mut model = vec![3_u8; 8 * PAGE as usize];
    file.write_at(0, &model).unwrap();
    file.fsync().unwrap();
    for (offset, len) in [
        (100, 50),
        (4000, 200),
        (9000, 9000),
        (7 * PAGE + 5, 9999),
        (0, 4096),
    ] {
        file.punch(offset, len).unwrap();
        let end = (offset + len).min(8 * PAGE);
        model[offset as usize..end as usize].fill(0);
        assert!(read(&file, 0, model.len()) == model, "{offset} {len}");
    }
    file.fsync().unwrap();
    for (offset, byte) in model.iter().enumerate() {
        assert_eq!(store.byte(offset as u64), *byte, "{offset}");
    }
    assert!(store.state.lock().freed.contains(&(3..4)));
}

/// R20: a page that is being written back is not written a second time until that has ended; an
/// fsync that comes meanwhile takes a new snapshot.
#[test]
fn one_writeback_of_a_page_at_a_time() {
    let cache = cache();
    let store = Manual::new(4 * PAGE, 4 * PAGE);
    let file = cache
        .open_with(Arc::clone(&store) as _, Policy::AlwaysCopy)
        .unwrap();
    file.write_at(0, b"1").unwrap();
    store.hold(true);
    let sync = |file: &File| {
        let file = file.reopen();
        thread::spawn("sync", move || file.fsync()).unwrap()
    };
    let first = sync(&file);
    until(|| store.held() > 0);
    file.write_at(0, b"2").unwrap();
    let second = sync(&file);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(store.seen(Kind::Write), [(0, 1)]);
    store.hold(false);
    first.join().unwrap().unwrap();
    second.join().unwrap().unwrap();
    assert_eq!(store.seen(Kind::Write), [(0, 1), (0, 1)]);
    assert_eq!(store.state.lock().durable[&0][0], b'2');
}

/// Neighbouring pages go out in one command.
#[test]
fn neighbours_share_a_command() {
    let options = CacheOptions {
        frames: 256,
        ..options()
    };
    let cache = Cache::new(&DmaSpace::new(), options).unwrap();
    let store = Manual::new(64 * PAGE, 64 * PAGE);
    let file = open(&cache, &store);
    file.write_at(0, &vec![1; 40 * PAGE as usize]).unwrap();
    file.write_at(50 * PAGE, &[1]).unwrap();
    file.fsync().unwrap();
    assert_eq!(store.seen(Kind::Write), [(0, 32), (32, 8), (50, 1)]);
}

/// When every frame is pinned a call says so, after its bound, and names the limit.
#[test]
fn no_frame_to_be_had_is_an_error_in_words() {
    let cache = cache();
    let store = Manual::new(100 * PAGE, 100 * PAGE);
    let file = open(&cache, &store);
    let pins = file.pin_write_pages(0..64, Cover::Part).unwrap();
    let error = file.read_at(80 * PAGE, &mut [0; 8]).unwrap_err();
    assert!(
        matches!(error, FileError::NoFrames { frames: 64, .. }),
        "{error}"
    );
    drop(pins);
    assert_eq!(read(&file, 80 * PAGE, 8), [0; 8]);
}

/// A page that is pinned to be covered, by whoever forgot it, does not hang a reader.
#[test]
fn a_forgotten_cover_does_not_hang_a_reader() {
    let cache = cache();
    let file = open(&cache, &Manual::new(4 * PAGE, 4 * PAGE));
    std::mem::forget(file.pin_write(1, Cover::Whole).unwrap());
    let error = file.read_at(PAGE, &mut [0; 8]).unwrap_err();
    assert!(matches!(error, FileError::Busy { page: 1, .. }), "{error}");
}

/// The last handle's close gives the store back, with everything durable.
#[test]
fn close_gives_the_store_back() {
    let cache = cache();
    let store = Manual::new(8 * PAGE, 8 * PAGE);
    let file = open(&cache, &store);
    file.write_at(0, b"kept").unwrap();
    let second = file.reopen();
    second.close().unwrap();
    assert_eq!(read(&file, 0, 4), b"kept");
    file.close().unwrap();
    assert_eq!(store.state.lock().durable[&0][..4], *b"kept");
    assert_eq!(Arc::strong_count(&store), 1);
    assert_eq!(cache.stats().free_frames, 64);
}

/// A file that nobody has open any more is written back by the flusher, and its store given back.
#[test]
fn what_was_dropped_without_close_is_written() {
    let options = CacheOptions {
        flusher: true,
        ..options()
    };
    let cache = Cache::new(&DmaSpace::new(), options).unwrap();
    let store = Manual::new(8 * PAGE, 8 * PAGE);
    let file = open(&cache, &store);
    file.write_at(0, b"kept").unwrap();
    drop(file);
    until(|| Arc::strong_count(&store) == 1);
    assert_eq!(store.byte(0), b'k');
}

/// R17: the background leaves a pinned page alone until it has been dirty for too long; then it is
/// copied, and again only after as long.
#[test]
fn an_expired_page_is_copied_by_the_background() {
    let options = CacheOptions {
        flusher: true,
        age: Duration::from_millis(50),
        expiry: Duration::from_secs(3),
        background_percent: 100,
        ..options()
    };
    let cache = Cache::new(&DmaSpace::new(), options).unwrap();
    let store = Manual::new(8 * PAGE, 8 * PAGE);
    let file = open(&cache, &store);
    let pin = file.pin_write(0, Cover::Part).unwrap();
    until(|| cache.stats().copies_kept > 0);
    assert!(cache.stats().skips > 0, "it was left alone before");
    assert_eq!(cache.stats().direct, 0);
    drop(pin);
    until(|| file.dirty_pages() == 0);
    assert_eq!(cache.stats().direct, 1);
}

/// A store in memory serves, and threads that read and write one file agree with a model.
#[test]
fn threads_share_a_file() {
    let options = CacheOptions {
        flusher: true,
        frames: 32,
        ..options()
    };
    let cache = Cache::new(&DmaSpace::new(), options).unwrap();
    let file = Arc::new(cache.open(Arc::new(Memory::new(256 * PAGE))).unwrap());
    let threads: Vec<_> = (0..4_u64)
        .map(|mine| {
            let file = Arc::clone(&file);
            thread::spawn("worker", move || {
                let mut model = vec![0_u8; 64 * PAGE as usize];
                let base = mine * 64 * PAGE;
                let mut rng = underpin_dma::rt::Rng::seeded(mine + 1);
                for round in 0..2000_u32 {
                    let at = rng.below(64 * PAGE - 9000);
                    let len = rng.below(9000) as usize;
                    let range = at as usize..at as usize + len;
                    match rng.below(8) {
                        0..4 => {
                            model[range.clone()].fill(round as u8);
                            file.write_at(base + at, &model[range]).unwrap();
                        }
                        4 => {
                            model[range].fill(0);
                            file.punch(base + at, len as u64).unwrap();
                        }
                        5 if round % 16 == 0 => file.fsync().unwrap(),
                        _ => {
                            let mut bytes = vec![0; len];
                            assert_eq!(file.read_at(base + at, &mut bytes).unwrap(), len);
                            assert!(bytes == model[range], "{mine} {round}");
                        }
                    }
                }
            })
            .unwrap()
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    file.fsync().unwrap();
    let stats = cache.stats();
    assert!(stats.evictions > 0 && stats.direct > 0, "{stats:?}");
}

/// R21: the flush is sent when every data command's end has been seen, and not before.
#[test]
fn flush_comes_behind_the_data() {
    let cache = cache();
    let store = Manual::new(8 * PAGE, 8 * PAGE);
    let file = open(&cache, &store);
    file.write_at(0, &[1; 3]).unwrap();
    file.write_at(4 * PAGE, &[1; 3]).unwrap();
    store.hold(true);
    let syncing = file.reopen();
    let sync = thread::spawn("sync", move || syncing.fsync()).unwrap();
    until(|| store.held() == 2);
    store.end_one();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(store.seen(Kind::Flush), []);
    store.end_one();
    until(|| store.held() == 1);
    assert_eq!(store.seen(Kind::Flush).len(), 1);
    assert!(
        !sync.is_finished(),
        "it is durable only when the flush has ended"
    );
    store.hold(false);
    sync.join().unwrap().unwrap();
}

/// R8: somebody began a fill and a writeback and never looks at them again: others, who want the
/// same pages, finish.
#[test]
fn whoever_waits_polls() {
    let cache = cache();
    let store = Manual::new(32 * PAGE, 32 * PAGE);
    for page in 0..32 {
        store
            .state
            .lock()
            .pages
            .insert(page, vec![page as u8; PAGE as usize]);
    }
    let file = open(&cache, &store);
    file.write_at(20 * PAGE, b"x").unwrap();
    store.hold(true);
    assert_eq!(file.read_ahead(0..8), 8);
    assert_eq!(cache.write_back(), 1);
    assert_eq!(store.held(), 2);
    store.state.lock().polled = true;
    within(move || {
        assert_eq!(read(&file, 3 * PAGE, 1), [3]);
        drop(file.pin_write(5, Cover::Part).unwrap());
        drop(file.pin_write(20, Cover::Part).unwrap());
        file.fsync().unwrap();
        file.truncate(10 * PAGE).unwrap();
    });
}

/// R14: a writer waits while too much is dirty, but not for pages that are dirty because a device
/// has them pinned.
#[test]
fn throttling_does_not_wait_for_pins() {
    let cache = cache();
    let store = Manual::new(64 * PAGE, 64 * PAGE);
    let file = open(&cache, &store);
    let pins = file.pin_write_pages(0..40, Cover::Part).unwrap();
    let writing = file.reopen();
    within(move || writing.write_at(41 * PAGE, b"goes on").unwrap());
    drop(pins);
    assert_eq!(store.seen(Kind::Write), []);
    // The same dirt without pins is written back first.
    file.write_at(42 * PAGE, b"waits").unwrap();
    assert!(!store.seen(Kind::Write).is_empty());
    assert_eq!(cache.stats().throttled, 2);
}

/// R37: pages that the processor writes in place are reserved when they are mapped; a full store is
/// an error of that, and later there is none. They are copied while they are mapped.
#[test]
fn mapped_pages_were_reserved() {
    let cache = cache();
    let store = Manual::new(16 * PAGE, 16 * PAGE);
    store.state.lock().room = 2;
    let file = open(&cache, &store);
    let refused = file.map_write(0..3).unwrap_err();
    assert_eq!(refused.errno(), libc::ENOSPC, "{refused}");
    let mapped = file.map_write(0..2).unwrap();
    mapped.view(1).unwrap().copy_from(8, b"in place").unwrap();
    file.fsync().unwrap();
    assert_eq!(store.byte(PAGE + 8), b'i');
    mapped.view(1).unwrap().copy_from(8, b"on").unwrap();
    assert!(mapped.view(2).is_none());
    drop(mapped);
    file.fsync().unwrap();
    assert_eq!(store.byte(PAGE + 8), b'o');
    assert!(cache.stats().copies_kept >= 1);
}

/// R13: pages pinned for long are a bounded number, and nobody waits for them.
#[test]
fn long_pins_are_bounded() {
    let cache = cache();
    let file = open(&cache, &Manual::new(64 * PAGE, 64 * PAGE));
    let pins: Vec<_> = (0..32)
        .map(|page| file.pin_write_long(page).unwrap())
        .collect();
    let refused = file.pin_write_long(40).unwrap_err();
    assert!(matches!(refused, FileError::LongTerm(_)), "{refused}");
    drop(pins);
    drop(file.pin_write_long(40).unwrap());
}

/// R36: whoever reads a page that was cut off and grew again never sees what was there before, not
/// even while an old pin of it is still held and written.
#[test]
fn nobody_reads_what_was_cut_off() {
    let cache = cache();
    let store = Manual::new(8 * PAGE, 8 * PAGE);
    let file = open(&cache, &store);
    file.write_at(0, &vec![5; 8 * PAGE as usize]).unwrap();
    let old = file.map_write(4..5).unwrap();
    // A long pin of a whole page that goes is not waited for.
    file.truncate(4 * PAGE).unwrap();
    file.extend(8 * PAGE).unwrap();
    old.view(0).unwrap().fill(0, 4096, 6).unwrap();
    assert_eq!(read(&file, 4 * PAGE, 4096), vec![0; 4096]);
    file.write_at(4 * PAGE, b"7").unwrap();
    drop(old);
    file.fsync().unwrap();
    assert_eq!((store.byte(4 * PAGE), store.byte(4 * PAGE + 1)), (b'7', 0));
}

/// R38: a copy by the processor never goes into a page that is being written back from itself.
#[test]
fn the_processor_waits_like_a_device() {
    let cache = cache();
    let store = Manual::new(8 * PAGE, 8 * PAGE);
    let file = open(&cache, &store);
    file.write_at(0, b"one").unwrap();
    store.hold(true);
    assert_eq!(cache.write_back(), 1);
    let writing = file.reopen();
    let write = thread::spawn("write", move || writing.write_at(0, b"two")).unwrap();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(read(&file, 0, 3), b"one", "reading goes on");
    store.hold(false);
    until(|| write.is_finished());
    write.join().unwrap().unwrap();
    assert_eq!((read(&file, 0, 3), store.byte(0)), (b"two".to_vec(), b'o'));
}
