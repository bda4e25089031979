//! Files of the host's file system as stores: each test is one promise of the store, kept by
//! io_uring and by system calls, past the host's page cache and through it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use underpin_dma::frame::{Beginning, Frames, Intent, Owner, PageKey, ReserveError, State};
use underpin_dma::pin::Cover;
use underpin_dma::rt::sync::Mutex;
use underpin_dma::rt::{self, thread};
use underpin_dma::{Direction, DmaSpace, Iova, MemoryWatch, PageRun, SpaceOptions};
use underpin_emulator::Referee;
use underpin_fs::store::{
    Direct, Done, Engine, EngineChoice, HostFile, HostFileError, HostFileOptions, NotFirm,
    Reservation, Store, StoreError, Work,
};
use underpin_fs::{Cache, CacheOptions};

const PAGE: usize = 4096;

#[derive(Debug)]
struct Anything;

impl Owner for Anything {
    fn page(&self, frame: u32) -> PageKey {
        PageKey(u64::from(frame))
    }
    fn still_holds(&self, _frame: u32, _generation: u16) -> bool {
        true
    }
    fn reserve(&self, _page: PageKey) -> Result<(), ReserveError> {
        Ok(())
    }
    fn give_back(&self, _page: PageKey) {}
    fn enter_dirty(&self, _frame: u32, _page: PageKey) {}
    fn freed(&self, _frame: u32) {}
}

/// Frames that are in use from the beginning, and commands of them.
struct Pages {
    frames: Frames,
    generations: Vec<u16>,
}

impl Pages {
    fn new(count: usize) -> Self {
        Self::of(&DmaSpace::new(), count)
    }

    fn of(space: &DmaSpace, count: usize) -> Self {
        let memory = space.alloc(count * PAGE, PAGE).unwrap();
        let frames = Frames::new(memory, Arc::new(Anything)).unwrap();
        let generations = (0..count as u32)
            .map(|frame| frames.alloc(frame, Beginning::Unknown).unwrap())
            .collect();
        Self {
            frames,
            generations,
        }
    }

    fn frame(&self, frame: usize) -> underpin_dma::frame::Frame<'_> {
        self.frames.frame(frame as u32, self.generations[frame])
    }

    /// Bytes from the beginning of a frame on.
    fn put(&self, frame: usize, bytes: &[u8]) {
        let view = self.frames.view(frame as u32).unwrap();
        view.copy_from(0, bytes).unwrap();
    }

    fn fill(&self, frame: usize, byte: u8) {
        self.put(frame, &[byte; PAGE]);
    }

    fn bytes(&self, frame: usize) -> Vec<u8> {
        let mut bytes = vec![0; PAGE];
        let view = self.frames.view(frame as u32).unwrap();
        view.copy_to(0, &mut bytes).unwrap();
        bytes
    }

    fn state(&self, frame: usize) -> State {
        self.frames.state(frame as u32).unwrap()
    }

    /// The frames are read in.
    fn to_read(&self, frames: std::ops::Range<usize>) -> PageRun {
        let mut run = PageRun::with_capacity(frames.len());
        for frame in frames {
            run.push_fill(self.frame(frame).begin_fill().unwrap());
        }
        run
    }

    /// The frames are written back.
    fn to_write(&self, frames: std::ops::Range<usize>) -> PageRun {
        let mut run = PageRun::with_capacity(frames.len());
        for frame in frames {
            let frame = self.frame(frame);
            let pin = frame.pin_write(Cover::Whole).unwrap();
            pin.set_uptodate();
            drop(pin);
            let writeback = frame.begin_writeback(Intent::Background, false).unwrap();
            run.push_direct(writeback.unwrap()).unwrap();
        }
        run
    }
}

type End = (u64, u64, Result<(), StoreError>);

/// What ended, in the order in which it was told.
#[derive(Debug, Default)]
struct Ends(Mutex<Vec<End>>);

impl Done for Ends {
    fn done(&self, first_page: u64, pages: u64, result: Result<(), StoreError>) {
        self.0.lock().push((first_page, pages, result));
    }
}

/// Waits for something, polling a store or not.
fn until(what: &str, store: Option<&HostFile>, mut seen: impl FnMut() -> bool) {
    // Mutants that hang need not hang for long.
    let hang_s = std::env::var("UNDERPIN_HANG_S").ok();
    let hang_s = hang_s.and_then(|text| text.parse().ok()).unwrap_or(60);
    let limit = rt::Instant::now() + Duration::from_secs(hang_s);
    let waited = rt::wait(Some(limit), |_| {
        store.map(Store::poll);
        seen().then_some(())
    });
    waited.unwrap_or_else(|_| panic!("{what} never happened"));
}

/// Begins one command, and waits for its end.
fn now(
    store: &HostFile,
    begin: impl FnOnce(Work),
    first_page: u64,
    run: PageRun,
) -> Result<(), StoreError> {
    let ends = Arc::new(Ends::default());
    begin(Work::new(first_page, run, Arc::clone(&ends) as _));
    until("the end of a command", Some(store), || {
        !ends.0.lock().is_empty()
    });
    let mut ended = ends.0.lock();
    assert_eq!(ended.len(), 1, "told twice");
    ended.pop().unwrap().2
}

fn read(store: &HostFile, first_page: u64, run: PageRun) -> Result<(), StoreError> {
    now(store, |work| store.read(work), first_page, run)
}

fn write(store: &HostFile, first_page: u64, run: PageRun) -> Result<(), StoreError> {
    now(store, |work| store.write(work), first_page, run)
}

fn flush(store: &HostFile) -> Result<(), StoreError> {
    now(store, |work| store.flush(work), 0, PageRun::default())
}

/// A folder, and a file's name in it.
fn folder() -> (tempfile::TempDir, PathBuf) {
    // On a file system of the machine's disk, if the build is there: /tmp may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("file");
    (folder, path)
}

fn created(len_bytes: u64) -> HostFileOptions {
    HostFileOptions {
        create: true,
        len_bytes: Some(len_bytes),
        ..HostFileOptions::default()
    }
}

/// Both engines, with the host's page cache and without.
fn each_way(len_bytes: u64, test: impl Fn(&Path, &HostFileOptions)) {
    for engine in [EngineChoice::IoUring, EngineChoice::Calls] {
        for direct in [Direct::IfPossible, Direct::Never] {
            let (_folder, path) = folder();
            let options = HostFileOptions {
                engine,
                direct,
                ..created(len_bytes)
            };
            println!("{engine:?}, {direct:?}");
            test(&path, &options);
        }
    }
}

fn blocks(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// What is written is read again, by the page and by many at a time, by this store and by whoever
/// opens the file.
#[test]
fn what_is_written_is_read() {
    each_way(64 * PAGE as u64, |path, options| {
        let store = HostFile::open(path, options).unwrap();
        assert_eq!(
            store.engine() == Engine::Calls,
            options.engine == EngineChoice::Calls
        );
        assert!(options.direct == Direct::IfPossible || !store.is_direct());
        let pages = Pages::new(64);
        for frame in 0..32 {
            pages.fill(frame, frame as u8 + 1);
        }
        write(&store, 0, pages.to_write(0..1)).unwrap();
        write(&store, 33, pages.to_write(1..32)).unwrap();
        assert!(!pages.state(5).has(State::DIRTY), "written back");
        flush(&store).unwrap();
        read(&store, 33, pages.to_read(33..64)).unwrap();
        for frame in 33..64 {
            assert!(pages.state(frame).has(State::UPTODATE));
            assert_eq!(pages.bytes(frame), [frame as u8 - 31; PAGE], "{frame}");
        }
        drop(store);
        let host = std::fs::read(path).unwrap();
        assert_eq!(host.len(), 64 * PAGE);
        assert_eq!(host[..PAGE], [1; PAGE]);
        assert_eq!(host[PAGE..33 * PAGE], [0; 32 * PAGE]);
        assert_eq!(host[63 * PAGE..], [32; PAGE]);
    });
}

/// A command of more pages than the kernel takes in one list.
#[test]
fn long_commands_go_in_parts() {
    let (_folder, path) = folder();
    for engine in [EngineChoice::IoUring, EngineChoice::Calls] {
        let options = HostFileOptions {
            engine,
            ..created(0)
        };
        let store = HostFile::open(&path, &options).unwrap();
        let pages = Pages::new(2500);
        for frame in 0..2500 {
            pages.put(frame, &(frame as u32 + 7).to_le_bytes());
        }
        write(&store, 3, pages.to_write(0..2500)).unwrap();
        for frame in 0..2500 {
            pages.fill(frame, 0xee);
        }
        let again = Pages::new(2500);
        read(&store, 3, again.to_read(0..2500)).unwrap();
        for frame in 0..2500 {
            assert_eq!(again.bytes(frame)[..4], (frame as u32 + 7).to_le_bytes());
        }
    }
}

/// R24, and the length: a write of the last page makes the host's file too long for a while, by
/// zeroes; a flush, a new length and the store's drop put it right, and nothing else is cut.
#[test]
fn the_hosts_length_is_put_right() {
    each_way(10_000, |path, options| {
        let len = || std::fs::metadata(path).unwrap().len();
        let store = HostFile::open(path, options).unwrap();
        assert_eq!((store.len_bytes(), len()), (10_000, 10_000));
        let pages = Pages::new(3);
        for frame in 0..2 {
            pages.fill(frame, b'a');
        }
        pages.put(2, &[b'z'; 10_000 - 2 * PAGE]);
        write(&store, 0, pages.to_write(0..3)).unwrap();
        assert_eq!((store.len_bytes(), len()), (10_000, 12_288));
        flush(&store).unwrap();
        assert_eq!(len(), 10_000);
        let text = [vec![b'a'; 2 * PAGE], vec![b'z'; 10_000 - 2 * PAGE]].concat();
        assert_eq!(std::fs::read(path).unwrap(), text);
        // Longer: then nothing is too long, and nothing is cut off.
        store.set_len(20_000).unwrap();
        write(&store, 2, pages.to_write(2..3)).unwrap();
        flush(&store).unwrap();
        assert_eq!((store.len_bytes(), len()), (20_000, 20_000));
        store.set_len(9_000).unwrap();
        write(&store, 2, pages.to_write(2..3)).unwrap();
        drop(store);
        assert_eq!(len(), 9_000);
        let refused = HostFile::open(path, &HostFileOptions::default()).unwrap();
        let error = refused.set_len(1 << 45).unwrap_err();
        assert!(matches!(error, StoreError::TooLong { .. }), "{error}");
    });
}

/// What lies past the end of the host's file is read as zeroes, whatever the memory held before;
/// also when the file ends within a page.
#[test]
fn past_the_end_is_zero() {
    each_way(0, |path, options| {
        std::fs::write(path, vec![b'x'; 5_000]).unwrap();
        let options = HostFileOptions {
            len_bytes: None,
            ..options.clone()
        };
        let store = HostFile::open(path, &options).unwrap();
        assert_eq!(store.len_bytes(), 5_000);
        let pages = Pages::new(4);
        for frame in 0..4 {
            pages.fill(frame, 0xee);
        }
        read(&store, 0, pages.to_read(0..3)).unwrap();
        read(&store, 700, pages.to_read(3..4)).unwrap();
        let bytes: Vec<_> = (0..4).flat_map(|frame| pages.bytes(frame)).collect();
        assert_eq!(bytes[..5_000], [b'x'; 5_000]);
        assert!(bytes[5_000..].iter().all(|byte| *byte == 0));
    });
}

/// A page is a hole as long as nothing was written there or past it: before the end as well, when
/// the file was made longer. None that may have bytes ever is.
#[test]
fn holes_are_known_and_nothing_else() {
    each_way(0, |path, options| {
        std::fs::write(path, [1; PAGE + 1]).unwrap();
        let options = HostFileOptions {
            len_bytes: None,
            ..options.clone()
        };
        let store = HostFile::open(path, &options).unwrap();
        let holes = || (0..6).map(|page| store.is_hole(page)).collect::<Vec<_>>();
        assert_eq!(holes(), [false, false, true, true, true, true]);
        store.set_len(5 * PAGE as u64).unwrap();
        assert_eq!(holes(), [false, false, true, true, true, true]);
        let pages = Pages::new(1);
        write(&store, 3, pages.to_write(0..1)).unwrap();
        assert_eq!(holes(), [false, false, false, false, true, true]);
        store.free(2..5).unwrap();
        assert_eq!(holes(), [false, false, true, true, true, true]);
        store.set_len(7).unwrap();
        assert_eq!(holes(), [false, true, true, true, true, true]);
    });
}

/// Pages that are freed are zero, and their space is the host's again; their neighbours stay.
#[test]
fn freed_pages_are_zero_and_give_their_space_back() {
    each_way(256 * PAGE as u64, |path, options| {
        let store = HostFile::open(path, options).unwrap();
        let pages = Pages::new(256);
        for frame in 0..256 {
            pages.fill(frame, 9);
        }
        write(&store, 0, pages.to_write(0..256)).unwrap();
        flush(&store).unwrap();
        let before = blocks(path);
        store.free(1..255).unwrap();
        flush(&store).unwrap();
        assert!(blocks(path) + 200 * PAGE as u64 <= before, "{before}");
        let again = Pages::new(256);
        read(&store, 0, again.to_read(0..256)).unwrap();
        for frame in 0..256 {
            let byte = if frame == 0 || frame == 255 { 9 } else { 0 };
            assert_eq!(again.bytes(frame), [byte; PAGE], "{frame}");
        }
    });
}

/// R28: what was cut off does not come back when the file is made longer again.
#[test]
fn what_is_cut_off_is_gone() {
    each_way(4 * PAGE as u64, |path, options| {
        let store = HostFile::open(path, options).unwrap();
        let pages = Pages::new(4);
        for frame in 0..4 {
            pages.fill(frame, 3);
        }
        write(&store, 0, pages.to_write(0..4)).unwrap();
        store.set_len(2 * PAGE as u64).unwrap();
        store.set_len(4 * PAGE as u64).unwrap();
        let again = Pages::new(4);
        read(&store, 0, again.to_read(0..4)).unwrap();
        for (frame, byte) in [(0, 3), (1, 3), (2, 0), (3, 0)] {
            assert_eq!(again.bytes(frame), [byte; PAGE], "{frame}");
        }
    });
}

/// More commands than the ring has places, from two threads, while a third does nothing but poll:
/// each ends once, well, and with its own bytes.
#[test]
fn a_full_ring_keeps_what_it_is_given() {
    const COMMANDS: usize = 200;
    for (engine, queue_depth) in [
        (EngineChoice::IoUring, 1),
        (EngineChoice::IoUring, 4),
        (EngineChoice::Calls, 4),
    ] {
        let (_folder, path) = folder();
        let options = HostFileOptions {
            engine,
            queue_depth,
            ..created(0)
        };
        let store = Arc::new(HostFile::open(&path, &options).unwrap());
        let ends = Arc::new(Ends::default());
        let threads: Vec<_> = (0..2_u64)
            .map(|half| {
                let (store, ends) = (Arc::clone(&store), Arc::clone(&ends));
                thread::spawn("writer", move || {
                    let pages = Pages::new(2 * COMMANDS);
                    for at in 0..COMMANDS {
                        let first = half * 1_000 + 2 * at as u64;
                        pages.put(2 * at, &first.to_le_bytes());
                        pages.put(2 * at + 1, &(first + 1).to_le_bytes());
                        let run = pages.to_write(2 * at..2 * at + 2);
                        store.write(Work::new(first, run, Arc::clone(&ends) as _));
                        if at % 16 == 0 {
                            store.poll();
                        }
                    }
                })
                .unwrap()
            })
            .collect();
        until("the end of all of them", Some(&store), || {
            ends.0.lock().len() >= 2 * COMMANDS
        });
        for thread in threads {
            thread.join().unwrap();
        }
        let mut firsts: Vec<_> = ends
            .0
            .lock()
            .drain(..)
            .map(|(first, pages, result)| {
                result.unwrap();
                assert_eq!(pages, 2);
                first
            })
            .collect();
        firsts.sort_unstable();
        let all: Vec<_> = (0..2_u64)
            .flat_map(|half| (0..COMMANDS as u64).map(move |at| half * 1_000 + 2 * at))
            .collect();
        assert_eq!(firsts, all);
        let host = std::fs::read(&path).unwrap();
        for number in all.into_iter().flat_map(|first| [first, first + 1]) {
            let at = number as usize * PAGE;
            assert_eq!(host[at..at + 8], number.to_le_bytes(), "{number}");
        }
        assert_eq!(store.poll(), 0);
        assert_eq!(store.failure(), None);
    }
}

/// R8: a thread that begins commands and then sleeps, or ends, or never makes another system
/// call, holds nobody up: whoever polls sees them end.
#[test]
fn whoever_began_a_command_is_not_needed_for_its_end() {
    let (_folder, path) = folder();
    let options = HostFileOptions {
        engine: EngineChoice::IoUring,
        ..created(1 << 20)
    };
    let store = Arc::new(HostFile::open(&path, &options).unwrap());
    for round in 0..60 {
        let ends = Arc::new(Ends::default());
        let pages = Arc::new(Pages::new(64));
        let stop = Arc::new(AtomicU64::new(0));
        let thread = {
            let (store, ends) = (Arc::clone(&store), Arc::clone(&ends));
            let (pages, stop) = (Arc::clone(&pages), Arc::clone(&stop));
            thread::spawn("beginner", move || {
                let begun = |run| Work::new(0, run, Arc::clone(&ends) as _);
                store.write(begun(pages.to_write(0..32)));
                store.read(begun(pages.to_read(32..64)));
                // Two that go to the kernel's workers, which end with this thread.
                store.flush(Work::flush(Arc::clone(&ends) as _));
                store.flush(Work::flush(Arc::clone(&ends) as _));
                match round % 3 {
                    0 => {}
                    1 => {
                        while stop.load(Ordering::Acquire) == 0 {
                            std::hint::spin_loop();
                        }
                    }
                    _ => until("the stop", None, || stop.load(Ordering::Acquire) != 0),
                }
            })
            .unwrap()
        };
        until("the end of another's commands", Some(&store), || {
            ends.0.lock().len() == 4
        });
        for (_, _, result) in ends.0.lock().drain(..) {
            result.unwrap();
        }
        stop.store(1, Ordering::Release);
        thread.join().unwrap();
    }
}

/// What the file system refuses is told with the file's name and its errno, the pages are dirty
/// again, and the store goes on.
#[test]
fn an_error_is_told_and_the_pages_are_dirty_again() {
    each_way(0, |path, options| {
        let options = HostFileOptions {
            max_len_bytes: i64::MAX as u64,
            ..options.clone()
        };
        let store = HostFile::open(path, &options).unwrap();
        let pages = Pages::new(1);
        // No file system's file is so long (and what follows fits in no offset at all).
        let far = i64::MAX as u64 / PAGE as u64 - 1;
        let error = write(&store, far, pages.to_write(0..1)).unwrap_err();
        let StoreError::Os { what, errno } = &error else {
            panic!("{error}");
        };
        assert!(what.contains(path.to_str().unwrap()), "{error}");
        assert!(
            [libc::EFBIG, libc::EINVAL, libc::EOVERFLOW].contains(errno),
            "{error}"
        );
        assert!(pages.state(0).has(State::DIRTY | State::ERR));
        let error = write(&store, u64::MAX / 2, pages.to_write(0..1)).unwrap_err();
        assert!(matches!(error, StoreError::TooLong { .. }), "{error}");
        assert_eq!(store.failure(), None);
        write(&store, 0, pages.to_write(0..1)).unwrap();
        assert!(!pages.state(0).has(State::DIRTY));
        // Its end counts for nothing, since it was never written.
        let error = store.set_len(u64::MAX).unwrap_err();
        assert!(matches!(error, StoreError::TooLong { .. }), "{error}");
        flush(&store).unwrap();
        assert_eq!(std::fs::metadata(path).unwrap().len(), 0);
    });
}

/// R2: a page that is reserved has space; and what a truncation, also one to the same length, or a
/// hole gives back to the file system is reserved anew.
#[test]
fn a_reservation_is_space() {
    each_way(0, |path, options| {
        let options = HostFileOptions {
            reserve_bytes: 1 << 20,
            max_len_bytes: 10 << 20,
            ..options.clone()
        };
        let store = HostFile::open(path, &options).unwrap();
        println!("{:?}", store.reservation());
        let no_space_ahead = Reservation::BestEffort(NotFirm::NoPreallocation);
        assert_ne!(
            store.reservation(),
            no_space_ahead,
            "needs a file system with fallocate"
        );
        store.set_len(8 << 20).unwrap();
        store.reserve(3).unwrap();
        assert!(blocks(path) >= 1 << 20, "a step at a time");
        let one = blocks(path);
        for page in 0..256 {
            store.reserve(page).unwrap();
        }
        assert_eq!(blocks(path), one, "it is remembered");
        store.reserve(256).unwrap();
        assert!(blocks(path) >= one + (1 << 20));
        // Cut within the second step, and made longer again.
        store.set_len((1 << 20) + 4096).unwrap();
        assert!(blocks(path) < one + (1 << 19));
        store.set_len(8 << 20).unwrap();
        store.reserve(300).unwrap();
        assert!(blocks(path) >= one + (1 << 20), "reserved in vain");
        store.free(0..128).unwrap();
        assert!(blocks(path) <= one + (1 << 19));
        store.reserve(100).unwrap();
        assert!(blocks(path) >= one + (1 << 20), "reserved in vain");
        // Past the end, and a flush that cuts a tail off.
        store.set_len(100).unwrap();
        store.reserve(0).unwrap();
        let pages = Pages::new(1);
        write(&store, 0, pages.to_write(0..1)).unwrap();
        flush(&store).unwrap();
        store.set_len(1 << 20).unwrap();
        store.reserve(200).unwrap();
        assert!(blocks(path) >= 1 << 20, "reserved in vain");
        assert_eq!(store.reserve(10 << 8), Err(ReserveError::Full));
        // What is left past the end goes when the file is closed.
        store.set_len(100).unwrap();
        store.reserve(0).unwrap();
        drop(store);
        assert!(blocks(path) <= 1 << 16);
    });
}

/// One owner at a time, until it is dropped; and what is no regular file is none.
#[test]
fn a_file_has_one_owner() {
    let (folder, path) = folder();
    let store = HostFile::open(&path, &created(1)).unwrap();
    let error = HostFile::open(&path, &created(5)).unwrap_err();
    assert!(matches!(error, HostFileError::InUse { .. }), "{error}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1, "untouched");
    drop(store);
    assert_eq!(HostFile::open(&path, &created(5)).unwrap().len_bytes(), 5);
    let open = |path: &Path| HostFile::open(path, &HostFileOptions::default()).unwrap_err();
    let error = open(Path::new("/dev/full"));
    assert!(matches!(error, HostFileError::NotAFile { .. }), "{error}");
    let error = open(&folder.path().join("missing"));
    assert!(error.to_string().contains("missing: opening"), "{error}");
    for options in [
        HostFileOptions {
            queue_depth: 0,
            ..created(0)
        },
        HostFileOptions {
            queue_depth: 5000,
            ..created(0)
        },
        HostFileOptions {
            max_len_bytes: 4,
            ..created(5)
        },
        HostFileOptions {
            max_len_bytes: 4,
            len_bytes: None,
            ..created(0)
        },
        HostFileOptions {
            max_len_bytes: u64::MAX,
            ..created(5)
        },
    ] {
        let error = HostFile::open(&path, &options).unwrap_err();
        assert!(matches!(error, HostFileError::Option(_)), "{error}");
    }
}

/// A store that is dropped waits for what the kernel has, so that nobody's memory is written
/// afterwards, and what it had kept has failed: each command is told of its end, and no page is
/// left in flight.
#[test]
fn a_dropped_store_leaves_nothing_in_flight() {
    for _ in 0..20 {
        let (_folder, path) = folder();
        let options = HostFileOptions {
            engine: EngineChoice::IoUring,
            queue_depth: 2,
            ..created(64 * PAGE as u64)
        };
        let store = HostFile::open(&path, &options).unwrap();
        let pages = Pages::new(64);
        let ends = Arc::new(Ends::default());
        for frame in 0..64 {
            let run = pages.to_write(frame..frame + 1);
            store.write(Work::new(frame as u64, run, Arc::clone(&ends) as _));
        }
        drop(store);
        let ended = ends.0.lock();
        assert_eq!(ended.len(), 64);
        let mut good = 0;
        for (page, _, result) in &*ended {
            let state = pages.state(*page as usize);
            assert!(!state.has(State::WB_DIRECT), "{page}: {state:?}");
            match result {
                Ok(()) => {
                    good += 1;
                    assert!(!state.has(State::DIRTY));
                }
                Err(StoreError::Closed) => assert!(state.has(State::DIRTY)),
                Err(other) => panic!("{other}"),
            }
        }
        assert!(good >= 2, "what was in flight ended well");
    }
}

/// Whoever watches the memory is told of each page that the kernel touches, before and after, and
/// which way.
#[test]
fn the_watcher_is_told() {
    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<(u64, u64, Direction)>>);
    impl MemoryWatch for Told {
        fn lent(&self, _iova: Iova, _len_bytes: u64) {}
        fn returned(&self, _iova: Iova, _len_bytes: u64) {}
        fn dma(&self, iova: Iova, len_bytes: u64, direction: Direction) {
            self.0.lock().push((iova.get(), len_bytes, direction));
        }
    }
    each_way(PAGE as u64 * 2, |path, options| {
        let told = Arc::new(Told::default());
        let space = DmaSpace::with_options(SpaceOptions {
            watch: Some(Arc::clone(&told) as _),
            ..SpaceOptions::default()
        });
        let pages = Pages::of(&space, 4);
        let store = HostFile::open(path, options).unwrap();
        let run = pages.to_write(0..2);
        let first = underpin_dma::Payload::span(&run, 0).iova.get();
        write(&store, 0, run).unwrap();
        let page = |at: u64, direction| (first + at * 4096, 4096, direction);
        let out = [0, 1, 0, 1].map(|at| page(at, Direction::FromHost));
        assert_eq!(std::mem::take(&mut *told.0.lock()), out);
        read(&store, 0, pages.to_read(2..4)).unwrap();
        let back = [2, 3, 2, 3].map(|at| page(at, Direction::ToHost));
        assert_eq!(*told.0.lock(), back);
    });
}

/// All of it under the cache: what is written, cut and punched is in the host's file after fsync,
/// byte for byte.
#[test]
fn a_cache_on_a_host_file() {
    each_way(0, |path, options| {
        let cache = CacheOptions {
            frames: 64,
            ..CacheOptions::default()
        };
        let cache = Cache::new(&DmaSpace::new(), cache).unwrap();
        let store = Arc::new(HostFile::open(path, options).unwrap());
        let file = cache.open(Arc::clone(&store) as Arc<dyn Store>).unwrap();
        let mut model = Vec::new();
        for at in 0..200_usize {
            let text = vec![at as u8; 5_000];
            let offset = at * 3_333;
            if model.len() < offset + text.len() {
                model.resize(offset + text.len(), 0);
            }
            model[offset..offset + text.len()].copy_from_slice(&text);
            file.write_at(offset as u64, &text).unwrap();
            if at % 50 == 49 {
                file.fsync().unwrap();
                assert!(std::fs::read(path).unwrap() == model, "{at}");
            }
        }
        let cut = model.len() - 7_777;
        file.truncate(cut as u64).unwrap();
        model.truncate(cut);
        file.fsync().unwrap();
        assert!(std::fs::read(path).unwrap() == model);
        let mut bytes = vec![0; model.len()];
        assert_eq!(file.read_at(0, &mut bytes).unwrap(), model.len());
        assert!(bytes == model);
    });
}

/// The race referee judges what the kernel does to a cache's pages as it judges a device, and has
/// nothing to object to: threads write, read, sync, cut and punch a file that is larger than the
/// cache, and a device writes pages that are pinned. With the pin check off it has.
#[test]
fn the_referee_has_no_objections() {
    for (pins_are_ignored, engine) in [
        (false, EngineChoice::IoUring),
        (false, EngineChoice::Calls),
        (true, EngineChoice::IoUring),
    ] {
        let (_folder, path) = folder();
        let referee = Referee::new();
        let space = DmaSpace::with_options(SpaceOptions {
            watch: Some(Arc::clone(&referee) as _),
            ..SpaceOptions::default()
        });
        let options = CacheOptions {
            frames: 64,
            ..CacheOptions::default()
        };
        let cache = Cache::new(&space, options).unwrap();
        cache.ignore_pins(pins_are_ignored);
        let options = HostFileOptions {
            engine,
            queue_depth: 8,
            ..created(256 * PAGE as u64)
        };
        let store = Arc::new(HostFile::open(&path, &options).unwrap());
        let file = Arc::new(cache.open(store as Arc<dyn Store>).unwrap());
        let threads: Vec<_> = (0..2_u64)
            .map(|own| {
                let (file, referee) = (Arc::clone(&file), Arc::clone(&referee));
                thread::spawn("user", move || {
                    let mut bytes = vec![0; 3 * PAGE];
                    for round in 0..300_u64 {
                        let page = (round * 37 + own * 101) % 250;
                        let pin = file.pin_write(page, Cover::Part).unwrap();
                        file.write_at(page * 4096 + 100, &[round as u8; 9000])
                            .unwrap();
                        file.read_at((page * 7 % 250) * 4096, &mut bytes).unwrap();
                        match round % 25 {
                            3 | 13 => file.fsync().unwrap(),
                            5 => file.punch((page * 3 % 250) * 4096, 20_000).unwrap(),
                            _ => {}
                        }
                        // A device, as far as the referee can tell.
                        MemoryWatch::dma(&*referee, pin.iova(), 4096, Direction::ToHost);
                        drop(pin);
                    }
                })
                .unwrap()
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        file.fsync().unwrap();
        println!("{referee:?}");
        assert!(referee.checks() > 2_000);
        match pins_are_ignored {
            false => assert_eq!(referee.violations(), []),
            true => assert!(referee.violation_count() > 0),
        }
    }
}
