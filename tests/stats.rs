//! What is counted is what was done: on queues, controllers, spaces and pools.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use underpin::nvme::QueueStats;
use underpin::spec::Status;
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, PoolOptions, Qid, QueueOptions, QueuePair,
};

fn open(url: &str) -> (Controller, DmaSpace) {
    let space = DmaSpace::new();
    let controller = Controller::open(url, &space, ControllerOptions::default()).unwrap();
    (controller, space)
}

fn queue(controller: &Controller) -> QueuePair<DmaBuf> {
    controller.queue_pair(QueueOptions::default()).unwrap()
}

/// Every kind of request is counted once, with its bytes, however many commands it becomes and
/// whichever way it takes through the driver.
#[test]
fn requests_are_counted_by_kind() {
    let (controller, space) = open("emu:size=8m,mdts=1");
    let namespace = controller.namespace(None).unwrap();
    let mut queue = queue(&controller);
    let buffer = |len| space.alloc(len, 4096).unwrap();
    queue
        .run(namespace.write(Lba(0), 8).unwrap(), buffer(4096))
        .unwrap();
    // Four commands: MDTS allows two pages.
    queue
        .run(namespace.write(Lba(0), 64).unwrap(), buffer(32 << 10))
        .unwrap();
    for _ in 0..3 {
        queue
            .run(namespace.read(Lba(0), 8).unwrap(), buffer(4096))
            .unwrap();
    }
    queue.flush(&namespace).unwrap();
    let stats = queue.stats();
    assert_eq!((stats.writes, stats.written_bytes), (2, 36 << 10));
    assert_eq!((stats.reads, stats.read_bytes), (3, 12 << 10));
    assert_eq!((stats.flushes, stats.others, stats.compares), (1, 0, 0));
    assert_eq!((stats.commands, stats.completions, stats.errors), (9, 9, 0));
    // What is refused is not counted.
    let far = namespace.read(Lba(0), 64).unwrap();
    assert!(queue.submit(far, buffer(512)).is_err());
    assert_eq!(queue.stats().reads, 3);
}

/// The controller knows what queues of other threads have done, also of those that are gone, and
/// errors by their status.
#[test]
fn a_controller_sums_its_queues() {
    let (controller, space) = open("emu:size=8m,fault=status:0x4281@op=read+nth=2");
    let namespace = controller.namespace(None).unwrap();
    let before = controller.stats();
    assert!(before.admin.commands > 0 && before.io == QueueStats::default());
    let mut first = queue(&controller);
    let mut second = queue(&controller);
    let buffer = || space.alloc(4096, 4096).unwrap();
    first
        .run(namespace.read(Lba(0), 8).unwrap(), buffer())
        .unwrap();
    first
        .run(namespace.read(Lba(0), 8).unwrap(), buffer())
        .unwrap_err();
    second
        .run(namespace.write(Lba(0), 8).unwrap(), buffer())
        .unwrap();
    let stats = controller.stats();
    assert_eq!(
        (stats.io.reads, stats.io.writes, stats.io.errors),
        (2, 1, 1)
    );
    let qids: Vec<Qid> = stats.queues.iter().map(|(qid, _)| *qid).collect();
    assert_eq!(qids, [first.qid(), second.qid()]);
    assert_eq!(stats.queues[0].1, first.stats());
    let [error] = stats.errors[..] else {
        panic!("{:?}", stats.errors);
    };
    // Without Do Not Retry, which is no other error.
    assert_eq!((error.status, error.count), (Status(0x281), 1));
    let sum = stats.io;
    drop(first);
    let stats = controller.stats();
    assert_eq!((stats.io, stats.counts.open_queues), (sum, 1));
    assert_eq!(stats.errors, [error]);
}

/// A controller that has failed says why, and how much memory it keeps.
#[test]
fn quarantine_is_counted_in_bytes() {
    let (controller, space) = open("emu:size=8m,fault=removed@op=write");
    let namespace = controller.namespace(None).unwrap();
    let mut queue = queue(&controller);
    let page = space.alloc(4096, 4096).unwrap();
    queue
        .run(namespace.write(Lba(0), 8).unwrap(), page)
        .unwrap_err();
    assert_eq!(controller.stats().counts.quarantined_bytes, 0);
    drop(queue);
    let stats = controller.stats();
    assert!(stats.failure.is_some());
    assert_eq!(stats.counts.quarantined_queues, 1);
    assert!(stats.counts.quarantined_bytes > 4096, "{stats:?}");
    assert!(stats.io.errors == 1 && stats.io.writes == 1, "{stats:?}");
}

/// A space says what is mapped and what was at most; a pool that some had to wait.
#[test]
fn spaces_and_pools_are_counted() {
    let (controller, space) = open("emu:size=8m");
    let before = space.stats();
    assert_eq!(before.contexts, 1);
    let options = PoolOptions {
        buf_bytes: 4096,
        count: 512,
    };
    let pool = space.pool("pages", options).unwrap();
    let with = space.stats();
    assert_eq!(with.region_bytes, before.region_bytes + (2 << 20));
    let out: Vec<_> = (0..512).map(|_| pool.alloc().unwrap()).collect();
    assert!(pool.try_alloc().is_none() && pool.alloc().is_err());
    assert_eq!((pool.stats().in_use, pool.stats().exhausted), (512, 2));
    drop((out, pool));
    let after = space.stats();
    assert_eq!(
        (after.region_bytes, after.peak_region_bytes),
        (before.region_bytes, with.region_bytes)
    );
    assert_eq!(after.iova_used_bytes, after.region_bytes);
    drop(controller);
    assert_eq!(space.stats().contexts, 0);
}
