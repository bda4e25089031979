//! Queues: full, wrapped, batched, many at once; and several controllers in one space.
use crate::harness::Verdict::Done;
use crate::harness::{Device, Open, Test, Verdict, contents, lacks, pattern};
use std::collections::HashMap;
use underpin::dma::rt::{self, thread};
use underpin::nvme::Refused;
use underpin::{ControllerOptions, DmaBuf, Error, Lba, PoolOptions, QueueOptions, QueuePair};

pub(crate) const TESTS: &[Test] = &[
    ("queues::fill_and_drain", fill_and_drain),
    ("queues::one_ring_for_a_batch", one_ring_for_a_batch),
    ("queues::rings_wrap", rings_wrap),
    ("queues::the_smallest", the_smallest),
    ("queues::the_deepest", the_deepest),
    ("queues::polled_one_by_one", polled_one_by_one),
    ("queues::no_more_than_granted", no_more_than_granted),
    ("queues::made_and_dropped_again", made_and_dropped_again),
    ("queues::see_each_others_writes", see_each_others_writes),
    ("queues::a_thread_for_each", a_thread_for_each),
    ("queues::figures_agree", figures_agree),
    (
        "queues::two_controllers_in_one_space",
        two_controllers_in_one_space,
    ),
    (
        "queues::requests_know_their_controller",
        requests_know_their_controller,
    ),
];

fn of_depth(depth: u16) -> QueueOptions {
    QueueOptions {
        depth,
        ..QueueOptions::default()
    }
}

/// Polls until nothing is in flight; every request has ended well. Gives how many ended.
fn drain(queue: &mut QueuePair<DmaBuf>, mut each: impl FnMut(underpin::Token, DmaBuf)) -> usize {
    let mut ended = 0;
    let _ = rt::wait(None, |_now| {
        ended += queue.poll(usize::MAX, |completion| {
            completion.result.unwrap();
            each(completion.token, completion.buffer.unwrap());
        });
        (queue.in_flight() == 0).then_some(())
    });
    ended
}

fn fill_and_drain(device: &Device) -> Verdict {
    let mut open: Open = Open::with(device, ControllerOptions::default(), of_depth(32));
    let depth = open.queue.depth();
    for round in 0..3 {
        for nth in 0..depth {
            let io = open.namespace.read(Lba(nth as u64), 1).unwrap();
            let buffer = open.blocks(1);
            open.queue.submit(io, buffer).unwrap();
        }
        assert_eq!((open.queue.free(), open.queue.in_flight()), (0, depth));
        let buffer = open.blocks(1);
        let iova = buffer.iova();
        let io = open.namespace.read(Lba(0), 1).unwrap();
        let Refused { error, buffer } = open.queue.submit(io, buffer).unwrap_err();
        assert!(matches!(error, Error::QueueFull { .. }), "{error}");
        assert_eq!(buffer.iova(), iova);
        let flush = open.queue.submit_bare(open.namespace.flush()).unwrap_err();
        assert!(matches!(flush, Error::QueueFull { .. }));
        assert_eq!(drain(&mut open.queue, |_, _| ()), depth, "round {round}");
        assert_eq!(open.queue.free(), depth);
    }
    Done
}

fn one_ring_for_a_batch(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let before = open.queue.stats();
    let mut tokens = HashMap::new();
    for nth in 0..24_u64 {
        let mut buffer = open.blocks(1);
        buffer
            .copy_from(0, &pattern(buffer.len_bytes(), nth))
            .unwrap();
        let io = open.namespace.write(Lba(nth), 1).unwrap();
        tokens.insert(open.queue.submit(io, buffer).unwrap(), nth);
        // Of a long batch the device is told sixteen by sixteen, before the next is submitted.
        let rings = open.queue.stats().rings - before.rings;
        assert_eq!(rings, nth / 16, "after {} commands", nth + 1);
    }
    open.queue.ring();
    open.queue.ring();
    let after = open.queue.stats();
    assert_eq!(
        (after.commands - before.commands, after.rings - before.rings),
        (24, 2)
    );
    assert_eq!(tokens.len(), 24, "tokens are unique");
    let ended = drain(&mut open.queue, |token, _| {
        assert!(tokens.remove(&token).is_some())
    });
    assert_eq!((ended, tokens.len()), (24, 0));
    for nth in 0..24 {
        open.expect(nth, 1, nth);
    }
    Done
}

fn rings_wrap(device: &Device) -> Verdict {
    for depth in [3, 7, 16] {
        let mut open: Open = Open::with(device, ControllerOptions::default(), of_depth(depth));
        let mut submitted = 0_u64;
        for round in 0..u64::from(depth) * 20 {
            for _ in 0..=round % u64::from(depth) {
                let io = open.namespace.read(Lba(submitted % 100), 1).unwrap();
                let buffer = open.blocks(1);
                open.queue.submit(io, buffer).unwrap();
                submitted += 1;
            }
            drain(&mut open.queue, |_, _| ());
        }
        assert_eq!(open.queue.stats().completions, submitted);
    }
    Done
}

fn the_smallest(device: &Device) -> Verdict {
    let mut open: Open = Open::with(device, ControllerOptions::default(), of_depth(1));
    assert_eq!(open.queue.depth(), 1);
    for tag in 0..20 {
        open.write(tag, 1, tag);
        open.expect(tag, 1, tag);
    }
    Done
}

fn the_deepest(device: &Device) -> Verdict {
    let mut open: Open = Open::with(device, ControllerOptions::default(), of_depth(u16::MAX));
    let most = usize::from(open.controller.capabilities().mqes());
    let depth = open.queue.depth();
    assert_eq!(
        depth,
        most.min(usize::from(u16::MAX) - 1),
        "CAP.MQES is {most}"
    );
    let options = PoolOptions {
        buf_bytes: 4096,
        count: depth.min(4096),
    };
    let pool = open.space.pool("deep", options).unwrap();
    let blocks = 4096 / open.lba_bytes() as u64;
    for nth in 0..options.count as u64 {
        let io = open.namespace.read(Lba(nth % 64 * blocks), blocks).unwrap();
        open.queue.submit(io, pool.alloc().unwrap()).unwrap();
    }
    assert_eq!(drain(&mut open.queue, |_, _| ()), options.count);
    Done
}

fn polled_one_by_one(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    for nth in 0..10 {
        let io = open.namespace.read(Lba(nth), 1).unwrap();
        let buffer = open.blocks(1);
        open.queue.submit(io, buffer).unwrap();
    }
    let mut ended = 0;
    let _ = rt::wait(None, |_now| {
        let told = open.queue.poll(1, |completion| completion.result.unwrap());
        assert!(told <= 1);
        ended += told;
        (ended == 10).then_some(())
    });
    assert_eq!(open.queue.poll(0, |_| panic!("nothing was asked for")), 0);
    assert_eq!(open.queue.poll(9, |_| panic!("nothing is left")), 0);
    Done
}

fn no_more_than_granted(device: &Device) -> Verdict {
    let options = ControllerOptions {
        io_queues: 4,
        ..ControllerOptions::default()
    };
    let controller = device.open_with(options);
    let granted = controller.granted_queues();
    assert!((1..=4).contains(&granted));
    let make = || controller.queue_pair::<DmaBuf>(of_depth(4));
    let mut queues: Vec<_> = (0..granted).map(|_| make().unwrap()).collect();
    let error = make().unwrap_err();
    assert!(matches!(error, Error::NoQueue { .. }), "{error}");
    let namespace = controller.namespace(None).unwrap();
    for queue in &mut queues {
        let buffer = controller.space().alloc(4096, 4096).unwrap();
        queue
            .run(namespace.read(Lba(0), 1).unwrap(), buffer)
            .unwrap();
    }
    queues.pop();
    make().unwrap();
    Done
}

fn made_and_dropped_again(device: &Device) -> Verdict {
    let controller = device.open();
    let namespace = controller.namespace(None).unwrap();
    for round in 0..40_u16 {
        let mut queue = controller.queue_pair(of_depth(1 + round)).unwrap();
        let buffer = controller.space().alloc(4096, 4096).unwrap();
        queue
            .run(namespace.read(Lba(u64::from(round)), 1).unwrap(), buffer)
            .unwrap();
    }
    assert_eq!(controller.quarantined_queues(), 0);
    Done
}

fn see_each_others_writes(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    if open.controller.granted_queues() < 2 {
        return lacks("two queues");
    }
    let mut other: QueuePair<DmaBuf> = open.controller.queue_pair(of_depth(8)).unwrap();
    assert_ne!(other.qid(), open.queue.qid());
    for tag in 0..50 {
        open.write(tag % 7, 3, tag);
        let io = open.namespace.read(Lba(tag % 7), 3).unwrap();
        let read = contents(&other.run(io, open.blocks(3)).unwrap());
        assert!(read == pattern(read.len(), tag));
        std::mem::swap(&mut other, &mut open.queue);
    }
    Done
}

fn a_thread_for_each(device: &Device) -> Verdict {
    let open: Open = Open::new(device);
    let count = u64::from(open.controller.granted_queues()).min(4) - 1;
    if count == 0 {
        return lacks("two queues");
    }
    let lba = open.lba_bytes();
    let threads: Vec<_> = (0..count)
        .map(|nth| {
            let mut queue = open.controller.queue_pair::<DmaBuf>(of_depth(16)).unwrap();
            let (namespace, space) = (open.namespace.clone(), open.space.clone());
            let body = move || {
                let at = Lba(1000 * (nth + 1));
                for tag in 0..100 {
                    let mut buffer = space.alloc(5 * lba, 4096).unwrap();
                    buffer.copy_from(0, &pattern(5 * lba, tag)).unwrap();
                    let buffer = queue.run(namespace.write(at, 5).unwrap(), buffer).unwrap();
                    let buffer = queue.run(namespace.read(at, 5).unwrap(), buffer).unwrap();
                    assert!(contents(&buffer) == pattern(5 * lba, tag));
                }
            };
            thread::spawn("host", body).unwrap()
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    Done
}

fn figures_agree(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    for tag in 0..17 {
        open.write(tag, 2, tag);
    }
    open.queue.flush(&open.namespace).unwrap();
    let stats = open.queue.stats();
    assert_eq!(
        (stats.commands, stats.completions, stats.errors),
        (18, 18, 0)
    );
    assert!(stats.rings >= 1 && stats.rings <= 18 && stats.register_writes <= 2 * 18 + 2);
    Done
}

/// One buffer is the target of one device and the source of the other: nothing is translated.
fn two_controllers_in_one_space(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let Some(second) = device.open_second(&open.space) else {
        return lacks("another device (UNDERPIN_TEST_DEVICE_2)");
    };
    let namespace = second.namespace(None).unwrap();
    let mut queue = second.queue_pair(of_depth(8)).unwrap();
    let lba = open.lba_bytes().max(namespace.lba_bytes() as usize);
    let blocks = |of: &underpin::Namespace| (8 * lba) as u64 / u64::from(of.lba_bytes());
    for tag in 0..20 {
        open.write(0, blocks(&open.namespace) as usize, tag);
        let buffer = open.space.alloc(8 * lba, 4096).unwrap();
        let io = open
            .namespace
            .read(Lba(0), blocks(&open.namespace))
            .unwrap();
        let buffer = open.queue.run(io, buffer).unwrap();
        let io = namespace.write(Lba(0), blocks(&namespace)).unwrap();
        let mut buffer = queue.run(io, buffer).unwrap();
        buffer.fill(0);
        let io = namespace.read(Lba(0), blocks(&namespace)).unwrap();
        let buffer = queue.run(io, buffer).unwrap();
        assert!(contents(&buffer) == pattern(8 * lba, tag));
    }
    Done
}

fn requests_know_their_controller(device: &Device) -> Verdict {
    let first: Open = Open::new(device);
    let io = first.namespace.read(Lba(0), 1).unwrap();
    drop(first);
    let mut open: Open = Open::new(device);
    let buffer = open.blocks(1);
    let Refused { error, .. } = open.queue.submit(io, buffer).unwrap_err();
    assert!(matches!(error, Error::WrongController), "{error}");
    Done
}
