//! An extent by itself, without a cache: what it has no room for, where it ends, and when a page of
//! it stops being a hole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;

use std::sync::Arc;
use std::time::Duration;
use support::until;
use underpin_dma::rt::sync::Mutex;
use underpin_dma::rt::thread;
use underpin_dma::{DmaSpace, PageRun};
use underpin_fs::store::{Done, Extent, ExtentQueue, Store, StoreError, Work};
use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions};

const PAGE: u64 = 4096;

/// How commands ended, in order.
#[derive(Debug, Default)]
struct Ends(Mutex<Vec<(u64, Result<(), StoreError>)>>);

impl Ends {
    fn count(&self) -> usize {
        self.0.lock().len()
    }
    fn last(&self) -> Result<(), StoreError> {
        self.0.lock().last().unwrap().1.clone()
    }
}

impl Done for Ends {
    fn done(&self, first_page: u64, _pages: u64, result: Result<(), StoreError>) {
        self.0.lock().push((first_page, result));
    }
}

struct Rig {
    space: DmaSpace,
    controller: Controller,
    queue: Arc<ExtentQueue>,
    ends: Arc<Ends>,
}

/// Two lanes, of few commands each.
fn rig(device: &str) -> Rig {
    let space = DmaSpace::new();
    let options = ControllerOptions {
        command_timeout: Duration::from_millis(500),
        ..ControllerOptions::default()
    };
    let controller = Controller::open(&format!("emu:{device}"), &space, options).unwrap();
    let options = QueueOptions {
        depth: 4,
        ..QueueOptions::default()
    };
    let queue = Arc::new(ExtentQueue::new(&controller, 2, options).unwrap());
    Rig {
        space,
        controller,
        queue,
        ends: Arc::new(Ends::default()),
    }
}

impl Rig {
    fn extent(&self, lba: u64, pages: u64) -> Arc<Extent> {
        let namespace = self.controller.namespace(None).unwrap();
        Arc::new(Extent::blank(&self.queue, &namespace, Lba(lba), pages * PAGE).unwrap())
    }

    /// A write of `pages` pages full of `byte`.
    fn work(&self, first_page: u64, pages: u64, byte: u8) -> Work {
        let mut run = PageRun::default();
        for _ in 0..pages {
            let mut page = self.space.alloc(4096, 4096).unwrap();
            page.fill(byte);
            run.push_plain(page).unwrap();
        }
        Work::new(first_page, run, Arc::clone(&self.ends) as _)
    }

    /// Writes, and waits for the end.
    fn write(&self, extent: &Extent, first_page: u64, byte: u8) -> Result<(), StoreError> {
        let before = self.ends.count();
        extent.write(self.work(first_page, 1, byte));
        until(|| {
            extent.poll();
            self.ends.count() > before
        });
        self.ends.last()
    }

    /// What is on the medium, as somebody sees it who knows nothing of extents.
    fn byte_at(&self, lba: u64) -> u8 {
        let namespace = self.controller.namespace(None).unwrap();
        let mut queue = self.controller.queue_pair(QueueOptions::default()).unwrap();
        let page = self.space.alloc(4096, 4096).unwrap();
        let page = queue.run(namespace.read(Lba(lba), 8).unwrap(), page);
        let mut byte = [0];
        page.unwrap().copy_to(0, &mut byte).unwrap();
        byte[0]
    }
}

/// R8: one thread begins more than the queue holds and never looks again; another polls, and every
/// one of them ends well, once, with its bytes on the medium.
#[test]
fn what_has_no_room_is_kept_until_somebody_polls() {
    let rig = Arc::new(rig("size=1m,queues=4,fault=delay:2ms@op=write+count=all"));
    let extent = rig.extent(0, 64);
    let (beginning, from) = (Arc::clone(&extent), Arc::clone(&rig));
    let beginner = thread::spawn("beginner", move || {
        for page in 0..64 {
            beginning.write(from.work(page, 1, page as u8 + 1));
        }
    });
    beginner.unwrap().join().unwrap();
    until(|| {
        extent.poll();
        rig.ends.count() == 64
    });
    let mut ends: Vec<_> = rig.ends.0.lock().clone();
    assert!(ends.iter().all(|end| end.1.is_ok()), "{ends:?}");
    ends.sort_by_key(|end| end.0);
    assert!(ends.iter().map(|end| end.0).eq(0..64));
    for page in 0..64 {
        assert_eq!(rig.byte_at(page * 8), page as u8 + 1);
    }
}

/// When the device is gone, what it has not been given ends at once; what it has stays with it until
/// the controller's end is the proof that its DMA has ended, and is told then.
#[test]
fn what_is_kept_ends_with_the_device() {
    let rig = rig("size=1m,fault=removed@op=write");
    let extent = rig.extent(0, 64);
    for page in 0..64 {
        extent.write(rig.work(page, 1, 1));
    }
    until(|| {
        extent.poll();
        extent.failure().is_some() && rig.ends.count() >= 64 - 2 * 4
    });
    let device = |end: &(u64, Result<(), StoreError>)| matches!(end.1, Err(StoreError::Device(_)));
    assert!(rig.ends.0.lock().iter().all(device));
    assert!(rig.ends.count() < 64, "the device may still read some");
    extent.write(rig.work(0, 1, 1));
    assert!(matches!(rig.ends.last(), Err(StoreError::Device(_))));
    let Rig {
        queue,
        controller,
        ends,
        ..
    } = rig;
    drop((extent, queue, controller));
    assert_eq!(ends.count(), 65);
    assert_eq!(ends.last(), Err(StoreError::Closed));
}

/// Work that does not lie within the extent is refused, and the blocks beside it keep their bytes.
#[test]
fn what_lies_outside_is_refused() {
    let rig = rig("size=1m,queues=4");
    let (extent, neighbour) = (rig.extent(0, 8), rig.extent(64, 8));
    rig.write(&neighbour, 0, b'n').unwrap();
    for (first, pages) in [(8, 1), (7, 2), (0, 9), (u64::MAX, 1), (u64::MAX / 8, 1)] {
        extent.write(rig.work(first, pages, b'x'));
        until(|| {
            extent.poll();
            rig.queue.in_flight() == 0
        });
        let ended = rig.ends.last();
        assert!(matches!(ended, Err(StoreError::TooLong { .. })), "{first}");
        assert_eq!(rig.byte_at(64), b'n');
    }
    assert_eq!(rig.byte_at(56), 0, "nor was a part of it written");
}

/// A page is a hole until a write of it ends well, and again when it is freed or cut off: what was
/// on its blocks before is never read.
#[test]
fn a_hole_is_one_until_a_write_ends_well() {
    let rig = rig("size=1m,fault=status:0x281@op=write+nth=1");
    let extent = rig.extent(0, 16);
    assert!(extent.is_hole(3));
    rig.write(&extent, 3, 1).unwrap_err();
    assert!(extent.is_hole(3), "nobody knows what is on its blocks");
    rig.write(&extent, 3, 1).unwrap();
    assert!(!extent.is_hole(3) && extent.is_hole(2) && extent.is_hole(4));
    extent.free(3..4).unwrap();
    assert!(extent.is_hole(3));
    rig.write(&extent, 3, 1).unwrap();
    rig.write(&extent, 4, 1).unwrap();
    extent.set_len(4 * PAGE - 1).unwrap();
    assert!(!extent.is_hole(3) && extent.is_hole(4));
    extent.set_len(16 * PAGE).unwrap();
    assert!(extent.is_hole(4), "growing brings nothing back");
}
