//! Files on a range of a device's blocks: what they keep, what they do when the device fails, and
//! that no byte of DMA goes where it may not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;

use std::sync::Arc;
use std::time::Duration;
use support::within;
use underpin_dma::pin::Cover;
use underpin_dma::rt::thread;
use underpin_dma::{DmaSpace, SpaceOptions};
use underpin_emulator::{Emulator, EmulatorConfig, Referee};
use underpin_fs::store::{Extent, ExtentQueue};
use underpin_fs::{Cache, CacheOptions, File};
use underpin_nvme::transport::Embedded;
use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions};

const PAGE: u64 = 4096;

struct Rig {
    space: DmaSpace,
    referee: Arc<Referee>,
    controller: Controller,
    queue: Arc<ExtentQueue>,
    cache: Cache,
}

fn cache_options() -> CacheOptions {
    CacheOptions {
        frames: 64,
        bounces: 4,
        flusher: false,
        pin_wait: Duration::from_secs(5),
        ..CacheOptions::default()
    }
}

fn rig(device: &str, lanes: usize) -> Rig {
    let referee = Referee::new();
    let space = DmaSpace::with_options(SpaceOptions {
        watch: Some(Arc::clone(&referee) as _),
        ..SpaceOptions::default()
    });
    let config: EmulatorConfig = device.parse().unwrap();
    let emulator = Emulator::new(config.with_referee(Arc::clone(&referee))).unwrap();
    let options = ControllerOptions {
        command_timeout: Duration::from_secs(5),
        ..ControllerOptions::default()
    };
    emulator.start_thread().unwrap();
    let transport = Embedded::new("emu", emulator);
    let controller = Controller::with_transport(transport, &space, options).unwrap();
    let queue = ExtentQueue::new(&controller, lanes, QueueOptions::default()).unwrap();
    Rig {
        cache: Cache::new(&space, cache_options()).unwrap(),
        queue: Arc::new(queue),
        space,
        referee,
        controller,
    }
}

impl Rig {
    fn extent(&self, lba: u64, len_bytes: u64) -> Extent {
        let namespace = self.controller.namespace(None).unwrap();
        Extent::blank(&self.queue, &namespace, Lba(lba), len_bytes).unwrap()
    }

    fn file(&self, lba: u64, len_bytes: u64) -> File {
        self.cache
            .open(Arc::new(self.extent(lba, len_bytes)))
            .unwrap()
    }

    fn fair(&self) {
        assert_eq!(self.referee.violations(), []);
        assert!(self.referee.checks() > 0);
    }
}

fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    assert_eq!(file.read_at(offset, &mut bytes).unwrap(), len);
    bytes
}

/// Bytes written through a small cache are on the blocks, on both sizes of them, through one lane
/// or several; and two files on one device do not meet.
#[test]
fn files_keep_their_bytes() {
    for (device, lanes) in [
        ("size=8m", 1),
        ("size=8m,lba=4096", 3),
        ("size=8m,queues=1", 2),
    ] {
        let rig = rig(device, lanes);
        let lba_bytes = u64::from(rig.controller.namespace(None).unwrap().lba_bytes());
        let first = rig.file(0, 2 << 20);
        let second = rig.file((2 << 20) / lba_bytes, 2 << 20);
        for page in 0..512_u64 {
            first.write_at(page * PAGE, &[page as u8; 4096]).unwrap();
            second
                .write_at(page * PAGE + 9, &[!page as u8; 300])
                .unwrap();
        }
        for page in 0..512_u64 {
            assert_eq!(
                read(&first, page * PAGE, 4096),
                [page as u8; 4096],
                "{page}"
            );
            assert_eq!(
                read(&second, page * PAGE + 8, 302)[1..301],
                [!page as u8; 300]
            );
            assert_eq!(read(&second, page * PAGE, 9), [0; 9]);
        }
        first.close().unwrap();
        second.close().unwrap();
        // Somebody else, who knows nothing of the cache.
        let namespace = rig.controller.namespace(None).unwrap();
        let blocks = PAGE / lba_bytes;
        let mut queue = match rig.controller.queue_pair(QueueOptions::default()) {
            Ok(queue) => queue,
            // One queue was granted, and it is taken.
            Err(_) => continue,
        };
        let page = rig.space.alloc(4096, 4096).unwrap();
        let page = queue
            .run(namespace.read(Lba(77 * blocks), blocks).unwrap(), page)
            .unwrap();
        let mut bytes = [0; 4096];
        page.copy_to(0, &mut bytes).unwrap();
        assert_eq!(bytes, [77; 4096]);
        rig.fair();
    }
}

/// What was on the blocks is an existing file's, and nothing of it is a blank one's; nor is a page
/// that was cut off, or punched.
#[test]
fn holes_are_zero_and_what_was_there_is_read() {
    let rig = rig("size=4m", 1);
    rig.file(0, 1 << 20).write_at(0, &[7; 64 * 1024]).unwrap();
    rig.cache.sync().unwrap();
    let namespace = rig.controller.namespace(None).unwrap();
    let existing = Extent::existing(&rig.queue, &namespace, Lba(0), 1 << 20).unwrap();
    let existing = rig.cache.open(Arc::new(existing)).unwrap();
    assert_eq!(read(&existing, 0, 65_536), [7; 65_536]);
    let blank = rig.file(0, 1 << 20);
    assert_eq!(read(&blank, 0, 65_536), [0; 65_536]);
    existing.truncate(3 * PAGE).unwrap();
    existing.extend(16 * PAGE).unwrap();
    existing.punch(0, PAGE).unwrap();
    assert_eq!(read(&existing, 0, 4096), [0; 4096]);
    assert_eq!(read(&existing, PAGE, 8192), [7; 8192]);
    assert_eq!(read(&existing, 3 * PAGE, 4096), [0; 4096]);
    // A device that was to cover a hole failed: the hole is read, and is zero.
    drop(existing.pin_write(9, Cover::Whole).unwrap());
    assert_eq!(read(&existing, 9 * PAGE, 4096), [0; 4096]);
    rig.fair();
}

/// R35: a device writes one block of a page: the bytes around it survive, in memory and on the
/// medium; two such writes are two pins.
#[test]
fn a_part_leaves_the_rest() {
    let rig = rig("size=4m,queues=4", 1);
    let file = rig.file(0, 1 << 20);
    file.write_at(0, &[b'x'; 8192]).unwrap();
    file.fsync().unwrap();
    let disk = rig.controller.namespace(None).unwrap();
    let mut sevens = rig.space.alloc(512, 512).unwrap();
    sevens.fill(7);
    let mut plain = rig.controller.queue_pair(QueueOptions::default()).unwrap();
    plain
        .run(disk.write(Lba(4096), 1).unwrap(), sevens)
        .unwrap();
    // Not in memory any more: it must be read in before a part of it is written.
    file.close().unwrap();
    let namespace = rig.controller.namespace(None).unwrap();
    let existing = Extent::existing(&rig.queue, &namespace, Lba(0), 1 << 20).unwrap();
    let file = rig.cache.open(Arc::new(existing)).unwrap();
    let (first, second) = (
        file.pin_write(1, Cover::Part).unwrap(),
        file.pin_write(1, Cover::Part).unwrap(),
    );
    let mut pinned = rig.controller.queue_pair(QueueOptions::default()).unwrap();
    drop(pinned.run(disk.read(Lba(4096), 1).unwrap(), first).unwrap());
    drop(second);
    let mut expected = [b'x'; 4096];
    expected[..512].fill(7);
    assert_eq!(read(&file, 4096, 4096), expected);
    file.fsync().unwrap();
    let page = rig.space.alloc(4096, 4096).unwrap();
    let page = plain.run(disk.read(Lba(8), 8).unwrap(), page).unwrap();
    let mut medium = [0; 4096];
    page.copy_to(0, &mut medium).unwrap();
    assert_eq!(medium, expected);
    rig.fair();
}

/// Ranges that cannot be a file are refused in words.
#[test]
fn what_cannot_be_a_file_is_refused() {
    let rig = rig("size=1m", 1);
    let namespace = rig.controller.namespace(None).unwrap();
    for (lba, len_bytes) in [
        (0, 0),
        (0, 4095),
        (0, 2 << 20),
        (2047, PAGE),
        (u64::MAX, PAGE),
    ] {
        let refused = Extent::blank(&rig.queue, &namespace, Lba(lba), len_bytes).unwrap_err();
        assert!(refused.to_string().contains("whole pages"), "{refused}");
    }
    let other = Cache::new(&DmaSpace::new(), cache_options()).unwrap();
    let refused = other.open(Arc::new(rig.extent(0, 1 << 20))).unwrap_err();
    assert!(refused.to_string().contains("DmaSpace"), "{refused}");
    let namespace = rig.controller.namespace(None).unwrap();
    assert!(Extent::blank(&rig.queue, &namespace, Lba(0), 1 << 20).is_ok());
}

/// A command that fails is an error with the device's own words, told by fsync; the page stays
/// dirty and goes out the next time.
#[test]
fn a_failed_write_is_told_and_tried_again() {
    let rig = rig("size=1m,fault=status:0x281@op=write+nth=1", 1);
    let file = rig.file(0, 1 << 20);
    file.write_at(0, b"again").unwrap();
    let error = file.fsync().unwrap_err();
    assert_eq!(error.errno(), libc::EIO);
    assert!(error.to_string().contains("Write"), "{error}");
    assert_eq!(file.dirty_pages(), 1);
    file.fsync().unwrap();
    assert_eq!(file.dirty_pages(), 0);
    file.close().unwrap();
    let namespace = rig.controller.namespace(None).unwrap();
    let existing = Extent::existing(&rig.queue, &namespace, Lba(0), 1 << 20).unwrap();
    let existing = rig.cache.open(Arc::new(existing)).unwrap();
    assert_eq!(read(&existing, 0, 5), b"again");
    rig.fair();
}

/// A device that goes away under I/O: every call ends with an error, none hangs, and other files of
/// the cache go on.
#[test]
fn a_dead_device_is_an_error_and_no_hang() {
    let rig = rig("size=1m,fault=removed@op=write+nth=2", 2);
    let file = rig.file(0, 1 << 20);
    file.write_at(0, &[1; 3 * PAGE as usize]).unwrap();
    let memory = rig
        .cache
        .open(Arc::new(underpin_fs::store::Memory::new(1 << 20)))
        .unwrap();
    memory.write_at(0, b"goes on").unwrap();
    let Rig { cache, .. } = within(move || {
        file.fsync().unwrap();
        file.write_at(5 * PAGE, b"lost").unwrap();
        let error = file.fsync().unwrap_err();
        assert_eq!(error.errno(), libc::EIO, "{error}");
        assert!(file.fsync().is_err());
        // What is in memory can be read, what is not cannot.
        assert_eq!(read(&file, 0, 1), [1]);
        drop(file);
        memory.fsync().unwrap();
        assert_eq!(read(&memory, 0, 7), b"goes on");
        rig
    });
    drop(cache);
}

/// A cache that is dropped with commands in flight, or with some of them in quarantine, keeps
/// neither its device nor its memory: what is in flight ends, and the controller's end is the proof
/// for the rest.
#[test]
fn what_is_in_flight_keeps_nothing_alive() {
    for fault in ["delay:20ms@op=write+count=all", "removed@op=write"] {
        let rig = rig(&format!("size=1m,fault={fault}"), 1);
        let file = rig.file(0, 64 << 10);
        file.write_at(0, &[7; 8192]).unwrap();
        assert_eq!(rig.cache.write_back(), 1);
        let Rig {
            space,
            queue,
            controller,
            cache,
            ..
        } = rig;
        drop((file, cache, queue, controller));
        let stats = space.stats();
        assert_eq!((stats.contexts, stats.heap_used_bytes), (0, 0), "{fault}");
        assert_eq!(stats.region_bytes, 2 << 20, "the heap's own: {fault}");
    }
}

/// Threads that write, read, sync, and devices that read into pinned pages meanwhile: bytes are
/// right, and the referee objects to none.
#[test]
fn threads_and_devices_share_files() {
    let rig = Arc::new(rig("size=16m,queues=4", 2));
    let file = Arc::new(rig.file(0, 4 << 20));
    let disk = rig.controller.namespace(None).unwrap();
    // Blocks behind the file, each full of its page's number.
    let mut queue = rig.controller.queue_pair(QueueOptions::default()).unwrap();
    for page in 0..256_u64 {
        let mut buffer = rig.space.alloc(4096, 4096).unwrap();
        buffer.fill(page as u8);
        let lba = Lba((8 << 20) / 512 + page * 8);
        queue.run(disk.write(lba, 8).unwrap(), buffer).unwrap();
    }
    drop(queue);
    let device = {
        let (rig, file, disk) = (Arc::clone(&rig), Arc::clone(&file), disk.clone());
        thread::spawn("device", move || {
            let mut queue = rig.controller.queue_pair(QueueOptions::default()).unwrap();
            for round in 0..600_u64 {
                let page = 512 + round % 256;
                let cover = [Cover::Whole, Cover::Part][(round % 2) as usize];
                let pin = file.pin_write(page, cover).unwrap();
                let lba = Lba((8 << 20) / 512 + (round % 256) * 8);
                let pin = queue.run(disk.read(lba, 8).unwrap(), pin).unwrap();
                pin.set_uptodate();
            }
        })
        .unwrap()
    };
    let syncer = {
        let file = Arc::clone(&file);
        thread::spawn("syncer", move || {
            for _ in 0..40 {
                file.fsync().unwrap();
            }
        })
        .unwrap()
    };
    for round in 0..600_u64 {
        let page = round % 300;
        file.write_at(page * PAGE + 1, &[round as u8; 4000])
            .unwrap();
        assert_eq!(read(&file, page * PAGE + 1, 4000), [round as u8; 4000]);
    }
    device.join().unwrap();
    syncer.join().unwrap();
    file.fsync().unwrap();
    for page in 0..256_u64 {
        assert_eq!(
            read(&file, (512 + page) * PAGE, 4096),
            [page as u8; 4096],
            "{page}"
        );
    }
    rig.fair();
    let stats = rig.cache.stats();
    assert!(stats.direct > 0 && stats.evictions > 0, "{stats:?}");
}
