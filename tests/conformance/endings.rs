//! How things end: owners that forget, drop or leave early, and devices that begin anew.
use crate::harness::Verdict::Done;
use crate::harness::{Device, Open, Test, Verdict, pattern};
use underpin::{ControllerOptions, DmaBuf, Error, Lba, QueueOptions};

pub(crate) const TESTS: &[Test] = &[
    ("endings::queue_dropped_in_flight", queue_dropped_in_flight),
    (
        "endings::tokens_and_completions_forgotten",
        tokens_and_completions_forgotten,
    ),
    (
        "endings::queue_outlives_controller",
        queue_outlives_controller,
    ),
    (
        "endings::buffer_outlives_everything",
        buffer_outlives_everything,
    ),
    ("endings::owner_panics", owner_panics),
    (
        "endings::controller_dropped_in_flight",
        controller_dropped_in_flight,
    ),
    (
        "endings::close_wants_to_be_the_last",
        close_wants_to_be_the_last,
    ),
    ("endings::memory_comes_back", memory_comes_back),
];

/// Submits `count` writes of blocks of their own and rings.
fn in_flight(open: &mut Open, count: u64) {
    for nth in 0..count {
        let mut buffer = open.blocks(4);
        buffer
            .copy_from(0, &pattern(buffer.len_bytes(), nth))
            .unwrap();
        let io = open.namespace.write(Lba(4 * nth), 4).unwrap();
        open.queue.submit(io, buffer).unwrap();
    }
    open.queue.ring();
}

fn queue_dropped_in_flight(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    for round in 0..10 {
        in_flight(&mut open, 1 + 3 * round);
        open.queue = {
            let replaced = open.controller.queue_pair(QueueOptions::default());
            // With one queue granted, the old one must go first.
            match replaced {
                Ok(queue) => queue,
                Err(Error::NoQueue { .. }) => return Done,
                Err(error) => panic!("{error}"),
            }
        };
    }
    assert_eq!(open.controller.quarantined_queues(), 0);
    open.write(0, 9, 1);
    open.expect(0, 9, 1);
    Done
}

fn tokens_and_completions_forgotten(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    in_flight(&mut open, 20);
    while open.queue.wait(None) {
        open.queue.poll(usize::MAX, std::mem::forget);
    }
    assert_eq!(open.queue.in_flight(), 0);
    for nth in 0..20 {
        open.expect(4 * nth, 4, nth);
    }
    Done
}

fn queue_outlives_controller(device: &Device) -> Verdict {
    let open: Open = Open::new(device);
    let Open {
        mut queue,
        namespace,
        controller,
        space,
    } = open;
    drop(controller);
    let buffer = space.alloc(4096, 4096).unwrap();
    queue
        .run(namespace.read(Lba(0), 1).unwrap(), buffer)
        .unwrap();
    Done
}

fn buffer_outlives_everything(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let mut buffer = open.blocks(2);
    buffer
        .copy_from(0, &pattern(buffer.len_bytes(), 3))
        .unwrap();
    let io = open.namespace.write(Lba(0), 2).unwrap();
    let buffer: DmaBuf = open.queue.run(io, buffer).unwrap();
    drop(open);
    assert!(crate::harness::contents(&buffer) == pattern(buffer.len_bytes(), 3));
    Done
}

/// Unwinding drops the queue like any owner would.
fn owner_panics(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    in_flight(&mut open, 16);
    let Open {
        queue,
        namespace,
        controller,
        space,
    } = open;
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _queue = queue;
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    assert!(ended.is_err());
    let queue = controller.queue_pair(QueueOptions::default()).unwrap();
    let mut open = Open {
        queue,
        namespace,
        controller,
        space,
    };
    open.write(0, 5, 6);
    open.expect(0, 5, 6);
    assert_eq!(open.controller.quarantined_queues(), 0);
    Done
}

/// The device is opened again right after, and works.
fn controller_dropped_in_flight(device: &Device) -> Verdict {
    for _ in 0..5 {
        let mut open: Open = Open::new(device);
        in_flight(&mut open, 30);
        drop(open);
    }
    let mut open: Open = Open::new(device);
    open.write(0, 5, 7);
    open.expect(0, 5, 7);
    Done
}

fn close_wants_to_be_the_last(device: &Device) -> Verdict {
    let open: Open = Open::new(device);
    let Open {
        queue,
        namespace,
        controller,
        space,
    } = open;
    let error = controller.clone().close().unwrap_err();
    assert!(matches!(error, Error::InUse { others: 2, .. }), "{error}");
    drop((queue, namespace, space));
    controller.close().unwrap();
    Done
}

/// Opened and closed with I/O in flight again and again: the space holds no more than at first.
fn memory_comes_back(device: &Device) -> Verdict {
    let space = underpin::DmaSpace::new();
    let mut held = Vec::new();
    for _ in 0..6 {
        let controller = device
            .try_open(&space, ControllerOptions::default())
            .unwrap();
        let namespace = controller.namespace(None).unwrap();
        let queue = controller.queue_pair(QueueOptions::default()).unwrap();
        let mut open = Open {
            queue,
            namespace,
            controller,
            space: space.clone(),
        };
        in_flight(&mut open, 20);
        drop(open);
        held.push(space.stats().heap_used_bytes);
    }
    assert!(
        held.last() <= held.get(1),
        "bytes held after each round: {held:?}"
    );
    Done
}
