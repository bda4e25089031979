//! What the driver makes of a device: formats, namespaces, limits, errors, reopening; each rule
//! over a real bring-up of an emulator made to measure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;
use support::overheard::{Overheard, dword};
use support::{Rig, bytes, finish, is_stamped, stamp, stamped, within_limit};
use underpin::dma::rt;
use underpin::nvme::{AtomicWrites, CommandError, Failure, Status, WriteCache};
use underpin::spec::registers::{Aqa, Cc, offset};
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Error, Io, Lba, Namespace, Nsid, Pool,
    PoolOptions, QueueOptions, QueuePair,
};

type Queue = QueuePair<DmaBuf>;

fn pool(space: &DmaSpace, buf_bytes: usize, count: usize) -> Pool {
    let options = PoolOptions { buf_bytes, count };
    space.pool("test", options).unwrap()
}

fn queue(controller: &Controller) -> Queue {
    controller.queue_pair(QueueOptions::default()).unwrap()
}

#[track_caller]
fn run(queue: &mut Queue, io: Io, buffer: DmaBuf) -> DmaBuf {
    let token = queue.submit(io, buffer).unwrap();
    let ended = finish(queue, token);
    ended.result.unwrap();
    ended.buffer.unwrap()
}

/// Writes stamps of various lengths all over a namespace, and reads them back.
#[track_caller]
fn exercise(space: &DmaSpace, queue: &mut Queue, ns: &Namespace) {
    let pool = pool(space, 64 << 10, 4);
    let lba = u64::from(ns.lba_bytes());
    let most = (64 << 10) / lba;
    let lengths = [1, 2, 7, most / 2, most - 1, most];
    let places = [0, 1, ns.blocks() / 2 + 3, ns.blocks() - most];
    for (nth, &blocks) in lengths.iter().enumerate() {
        for (at, &first) in places.iter().enumerate() {
            let tag = (nth * 100 + at) as u64 ^ u64::from(ns.nsid().0) << 32;
            let mut buffer = pool.alloc().unwrap();
            stamp(&mut buffer, tag);
            let mut buffer = run(queue, ns.write(Lba(first), blocks).unwrap(), buffer);
            buffer.fill(0x11);
            let buffer = run(queue, ns.read(Lba(first), blocks).unwrap(), buffer);
            let len = (blocks * lba) as usize;
            let read = bytes(&buffer);
            let (read, beyond) = read.split_at(len);
            let wanted = &stamped(64 << 10, tag)[..len];
            assert!(read == wanted, "{blocks} blocks at {first}");
            assert!(
                beyond.iter().all(|&byte| byte == 0x11),
                "written past the end"
            );
        }
    }
    queue.flush(ns).unwrap();
}

/// Every kind of device that is not the default one is driven: block sizes, page sizes, doorbell
/// strides, plain doorbells, queues of two entries, short transfers, slow starters.
#[test]
fn devices_of_every_shape_are_driven() {
    for config in [
        "size=16m",
        "size=16m,lba=4096",
        "size=16m,dbbuf=off",
        "size=16m,dstrd=1",
        "size=16m,dstrd=3,dbbuf=off",
        "size=16m,dstrd=4,queues=2",
        "size=16m,mpsmin=1,mpsmax=1",
        "size=16m,mpsmin=3,mpsmax=4,lba=4096",
        "size=16m,mqes=2",
        "size=16m,mqes=2,dbbuf=off",
        "size=16m,mqes=3,lba=4096",
        "size=16m,mqes=65536",
        "size=16m,mdts=1",
        "size=16m,mdts=0",
        "size=16m,queues=1",
        "size=16m,vwc=off",
        "size=16m,enable=30ms",
        "size=16m,step=on,chunk=64",
    ] {
        println!("{config}");
        let rig = Rig::new(config);
        let controller = rig.controller();
        let ns = controller.namespace(None).unwrap();
        let options = QueueOptions {
            depth: 16,
            ..QueueOptions::default()
        };
        let mut queue = controller.queue_pair(options).unwrap();
        let needed = 65_536_u64.div_ceil(controller.max_transfer_bytes());
        if needed <= queue.depth() as u64 {
            exercise(&rig.space, &mut queue, &ns);
        } else {
            // One command a request is what such a queue can do.
            let pool = pool(&rig.space, 4096, 2);
            let mut buffer = pool.alloc().unwrap();
            stamp(&mut buffer, 3);
            let blocks = 4096 / u64::from(ns.lba_bytes());
            let mut buffer = run(&mut queue, ns.write(Lba(0), blocks).unwrap(), buffer);
            buffer.fill(0);
            let buffer = run(&mut queue, ns.read(Lba(0), blocks).unwrap(), buffer);
            assert!(is_stamped(&buffer, 3));
        }
        assert_eq!(
            controller.has_shadow_doorbells(),
            !config.contains("dbbuf=off")
        );
        drop((queue, ns, controller));
        assert_eq!(
            rig.space.stats().heap_used_bytes,
            0,
            "{config}: the heap leaks"
        );
        rig.end();
    }
}

/// Queues are cut to what CAP.MQES allows, and rings turn over without a mistake.
#[test]
fn short_rings_turn_over() {
    for (mqes, wanted, depth) in [
        (2, 8, 1),
        (3, 8, 2),
        (5, 8, 4),
        (9, 8, 8),
        (1024, 8, 8),
        (64, 0, 1),
    ] {
        let rig = Rig::new(&format!("size=1m,mqes={mqes}"));
        let options = ControllerOptions {
            admin_timeout: Duration::from_secs(3),
            ..ControllerOptions::default()
        };
        let controller = rig.open(options).unwrap();
        let ns = controller.namespace(None).unwrap();
        let options = QueueOptions {
            depth: wanted,
            ..QueueOptions::default()
        };
        let mut queue: Queue = controller.queue_pair(options).unwrap();
        assert_eq!(queue.depth(), depth, "MQES {mqes}");
        let pool = pool(&rig.space, 4096, depth + 1);
        let (mut sent, mut ended) = (0_u64, 0_u64);
        while ended < 1000 {
            while sent < 1000 && queue.free() > 0 {
                let io = ns.read(Lba(sent % 100), 8).unwrap();
                queue.submit(io, pool.alloc().unwrap()).unwrap();
                sent += 1;
            }
            within_limit("one of 1000 requests", || {
                let before = ended;
                queue.poll(usize::MAX, |completion| {
                    completion.result.unwrap();
                    ended += 1;
                });
                (ended > before).then_some(())
            });
        }
        assert_eq!(
            (queue.stats().commands, queue.stats().completions),
            (1000, 1000)
        );
        drop((queue, ns, controller));
        rig.end();
    }
}

/// Namespaces are told apart: each has its own blocks, format and size.
#[test]
fn namespaces_are_told_apart() {
    let rig = Rig::new("size=8m,ns=3,ns2.size=4m,ns2.lba=4096,ns3.size=1m");
    let controller = rig.controller();
    let shapes: Vec<_> = controller
        .namespaces()
        .iter()
        .map(|ns| (ns.nsid().0, ns.lba_bytes(), ns.blocks()))
        .collect();
    assert_eq!(shapes, [(1, 512, 16384), (2, 4096, 1024), (3, 512, 2048)]);
    let mut queue = queue(&controller);
    let pool = pool(&rig.space, 4096, 3);
    for ns in controller.namespaces() {
        let mut buffer = pool.alloc().unwrap();
        stamp(&mut buffer, u64::from(ns.nsid().0));
        let blocks = 4096 / u64::from(ns.lba_bytes());
        run(&mut queue, ns.write(Lba(0), blocks).unwrap(), buffer);
    }
    for ns in controller.namespaces() {
        let blocks = 4096 / u64::from(ns.lba_bytes());
        let io = ns.read(Lba(0), blocks).unwrap();
        let buffer = run(&mut queue, io, pool.alloc().unwrap());
        assert!(is_stamped(&buffer, u64::from(ns.nsid().0)), "{ns}");
    }
    for ns in controller.namespaces() {
        exercise(&rig.space, &mut queue, ns);
    }
    assert_eq!(controller.namespace(None).unwrap().nsid(), Nsid(1));
    let error = controller.namespace(Some(Nsid(9))).unwrap_err();
    assert!(matches!(error, Error::NoNamespace { nsid: Nsid(9), .. }));
    assert!(error.to_string().contains("1, 2, 3"), "{error}");
    drop((queue, controller));
    rig.end();
}

/// Flush and Force Unit Access reach the device as commands and bits, and nowhere else.
#[test]
fn flush_and_force_unit_access_reach_the_device() {
    let rig = Rig::new("size=1m");
    let (transport, seen) = Overheard::new(&rig.transport);
    let options = ControllerOptions::default();
    let controller = Controller::with_transport(transport, &rig.space, options).unwrap();
    let ns = controller.namespace(None).unwrap();
    let mut queue = queue(&controller);
    let pool = pool(&rig.space, 4096, 1);
    let requests = [
        (ns.write(Lba(1), 8).unwrap(), 0x01, 0),
        (ns.write(Lba(2), 8).unwrap().force_unit_access(), 0x01, 1),
        (ns.read(Lba(3), 8).unwrap(), 0x02, 0),
        (ns.read(Lba(4), 8).unwrap().force_unit_access(), 0x02, 1),
        (ns.flush(), 0x00, 0),
        (ns.flush().force_unit_access(), 0x00, 0),
    ];
    for (io, ..) in requests {
        run(&mut queue, io, pool.alloc().unwrap());
    }
    let (ring, _) = seen.io_ring(queue.qid().0);
    for (index, (_, opcode, fua)) in requests.into_iter().enumerate() {
        let entry = seen.entry(ring, index);
        let seen = (entry[0], dword(&entry, 1), dword(&entry, 12) >> 30 & 1);
        assert_eq!(seen, (opcode, 1, fua), "command {index}");
    }
    assert_eq!(rig.emulator.stats().flushes, 2);
    // A flush without a buffer is the usual one; a transfer without a buffer is none.
    queue.flush(&ns).unwrap();
    assert_eq!(rig.emulator.stats().flushes, 3);
    let error = queue.submit_bare(ns.read(Lba(0), 1).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Buffer(_)), "{error:?}");
    drop((queue, ns, controller));
    rig.end();
}

/// What the device promises of write cache and atomicity is in the interface.
#[test]
fn write_cache_and_atomic_units_are_reported() {
    for (config, cache, atomic) in [
        ("size=1m,vwc=off", WriteCache::Absent, (1, 1, None)),
        (
            "size=1m,vwc=on,awun=7,awupf=3",
            WriteCache::Enabled,
            (8, 4, None),
        ),
        (
            "size=1m,awun=7,awupf=3,nawun=15,nawupf=1",
            WriteCache::Enabled,
            (16, 2, None),
        ),
        (
            "size=1m,nawun=15,nawupf=1,boundary=31",
            WriteCache::Enabled,
            (16, 2, Some(32)),
        ),
    ] {
        let rig = Rig::new(config);
        let controller = rig.controller();
        assert_eq!(controller.write_cache(), cache, "{config}");
        let (normal_blocks, power_fail_blocks, boundary_blocks) = atomic;
        let wanted = AtomicWrites {
            normal_blocks,
            power_fail_blocks,
            boundary_blocks,
        };
        assert_eq!(
            controller.namespaces()[0].atomic_writes(),
            wanted,
            "{config}"
        );
        drop(controller);
        rig.end();
    }
}

/// The longest transfer of one command is what device and caller both allow.
#[test]
fn the_longest_transfer_is_the_smaller_of_two_limits() {
    for (mdts, wanted, got) in [
        (5, 1 << 20, 128 << 10),
        (5, 64 << 10, 64 << 10),
        (5, 1000, 4096),
        (1, 1 << 20, 8 << 10),
        (0, 1 << 20, 1 << 20),
        (0, u64::MAX, 32 << 20),
        (16, 3 << 20, 3 << 20),
    ] {
        let rig = Rig::new(&format!("size=1m,mdts={mdts}"));
        let options = ControllerOptions {
            max_transfer_bytes: wanted,
            ..ControllerOptions::default()
        };
        let controller = rig.open(options).unwrap();
        assert_eq!(
            controller.max_transfer_bytes(),
            got,
            "MDTS {mdts}, {wanted} wanted"
        );
        drop(controller);
        rig.end();
    }
}

/// A request that does not lie within its namespace is refused before it gets anywhere.
#[test]
fn requests_beyond_the_end_are_refused() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let ns = controller.namespace(None).unwrap();
    for (lba, blocks) in [
        (0, 0),
        (0, 2049),
        (2048, 1),
        (2047, 2),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (1, u64::MAX),
    ] {
        for made in [ns.read(Lba(lba), blocks), ns.write(Lba(lba), blocks)] {
            let Err(Error::OutOfRange {
                namespace_blocks: 2048,
                ..
            }) = made
            else {
                panic!("{blocks} blocks from {lba}: {made:?}");
            };
        }
    }
    assert!(ns.read(Lba(2047), 1).is_ok() && ns.read(Lba(0), 2048).is_ok());
    drop((ns, controller));
    rig.end();
}

/// Whatever is refused at `submit` comes back: the caller's buffer, the same one.
#[test]
fn refusals_give_the_buffer_back() {
    let rig = Rig::new("size=16m,mdts=1,queues=2");
    let other = Rig::joining("size=16m", &rig.space, &rig.referee);
    let (controller, elsewhere) = (rig.controller(), other.controller());
    let ns = controller.namespace(None).unwrap();
    let mut queue: Queue = controller
        .queue_pair(QueueOptions {
            depth: 4,
            ..QueueOptions::default()
        })
        .unwrap();
    let pool = pool(&rig.space, 64 << 10, 8);

    let refused = |queue: &mut Queue, io: Io, buffer: DmaBuf| -> Error {
        let (iova, commands) = (buffer.iova(), queue.stats().commands);
        let refused = queue.submit(io, buffer).unwrap_err();
        assert_eq!(refused.buffer.iova(), iova);
        assert_eq!(queue.stats().commands, commands, "something was submitted");
        refused.error
    };

    // Another controller's namespace, another space's memory, too little memory.
    let foreign = elsewhere.namespace(None).unwrap();
    for io in [foreign.read(Lba(0), 8).unwrap(), foreign.flush()] {
        let error = refused(&mut queue, io, pool.alloc().unwrap());
        assert!(matches!(error, Error::WrongController), "{error:?}");
        assert!(matches!(
            queue.submit_bare(foreign.flush()),
            Err(Error::WrongController)
        ));
    }
    let stranger = DmaSpace::new().alloc(4096, 4096).unwrap();
    let error = refused(&mut queue, ns.read(Lba(0), 8).unwrap(), stranger);
    assert!(matches!(error, Error::Buffer(_)), "{error:?}");
    let small = rig.space.alloc(4095, 4096).unwrap();
    let error = refused(&mut queue, ns.read(Lba(0), 8).unwrap(), small);
    assert!(
        error.to_string().contains("4095") && error.to_string().contains("4096"),
        "{error}"
    );

    // More commands than the queue could ever hold, and more than it holds now.
    let error = refused(
        &mut queue,
        ns.read(Lba(0), 80).unwrap(),
        pool.alloc().unwrap(),
    );
    let Error::TooLong {
        len_bytes: 40_960,
        max_bytes: 32_768,
    } = error
    else {
        panic!("{error:?}");
    };
    rig.inject("hold@op=read+count=all");
    for _ in 0..3 {
        queue
            .submit(ns.read(Lba(0), 8).unwrap(), pool.alloc().unwrap())
            .unwrap();
    }
    assert_eq!((queue.in_flight(), queue.free()), (3, 1));
    let error = refused(
        &mut queue,
        ns.read(Lba(0), 32).unwrap(),
        pool.alloc().unwrap(),
    );
    assert!(
        matches!(
            error,
            Error::QueueFull {
                depth: 4,
                needed: 2
            }
        ),
        "{error:?}"
    );
    queue
        .submit(ns.read(Lba(0), 8).unwrap(), pool.alloc().unwrap())
        .unwrap();
    let error = refused(
        &mut queue,
        ns.read(Lba(0), 8).unwrap(),
        pool.alloc().unwrap(),
    );
    assert!(
        matches!(
            error,
            Error::QueueFull {
                depth: 4,
                needed: 1
            }
        ),
        "{error:?}"
    );
    assert!(matches!(
        queue.submit_bare(ns.flush()),
        Err(Error::QueueFull { .. })
    ));
    assert_eq!(pool.free_count(), 4);

    // There is room again when something has ended.
    queue.ring();
    rig.until_fired(4);
    rig.emulator.release_held();
    let mut ended = 0;
    within_limit("four completions", || {
        ended += queue.poll(4, |completion| completion.result.unwrap());
        (ended == 4).then_some(())
    });
    assert_eq!((queue.free(), pool.free_count()), (4, 8));
    drop((queue, ns, foreign, controller, elsewhere));
    other.end();
    rig.end();
}

/// The budget of `poll` is kept, and `run` keeps others' completions for the next `poll`.
#[test]
fn no_completion_is_lost_between_run_and_poll() {
    let rig = Rig::new("size=16m");
    let controller = rig.controller();
    let ns = controller.namespace(None).unwrap();
    let mut queue = queue(&controller);
    let pool = pool(&rig.space, 4096, 16);
    let mut waiting = Vec::new();
    for lba in 0..8 {
        let io = ns.read(Lba(lba), 8).unwrap();
        waiting.push(queue.submit(io, pool.alloc().unwrap()).unwrap());
    }
    // One queue's commands end in order here, so all eight have ended when this one has.
    run_through(
        &mut queue,
        ns.write(Lba(100), 8).unwrap(),
        pool.alloc().unwrap(),
    );
    let mut told = Vec::new();
    within_limit("the eight others", || {
        let before = told.len();
        let ended = queue.poll(3, |completion| told.push(completion.token));
        assert!(ended <= 3 && told.len() == before + ended);
        (told.len() == 8).then_some(())
    });
    told.sort_unstable();
    assert_eq!(told, waiting);
    assert_eq!(queue.poll(usize::MAX, |_| ()), 0);
    // A token that was told already ends as lost, and hangs nobody.
    let ended = queue.wait_for(waiting[0]);
    assert!(
        matches!(ended.result, Err(CommandError::Lost(_))),
        "{:?}",
        ended.result
    );
    drop((ended, queue, ns, controller));
    rig.end();
}

#[track_caller]
fn run_through(queue: &mut Queue, io: Io, buffer: DmaBuf) -> DmaBuf {
    queue.run(io, buffer).unwrap()
}

/// As many queues as the device grants, and each identifier again as soon as its queue is gone.
#[test]
fn queues_are_granted_counted_and_used_again() {
    let rig = Rig::new("size=16m,queues=3");
    let controller = rig.controller();
    assert_eq!(controller.granted_queues(), 3);
    let ns = controller.namespace(None).unwrap();
    let mut queues: Vec<Queue> = (0..3).map(|_| queue(&controller)).collect();
    let mut qids: Vec<u16> = queues.iter().map(|queue| queue.qid().0).collect();
    qids.sort_unstable();
    assert_eq!(qids, [1, 2, 3]);
    let none = controller
        .queue_pair::<DmaBuf>(QueueOptions::default())
        .unwrap_err();
    assert!(
        matches!(none, Error::NoQueue { granted: 3, .. }),
        "{none:?}"
    );
    let gone = queues.remove(1).qid();
    let again = queue(&controller);
    assert_eq!(again.qid(), gone);
    queues.push(again);
    let pool = pool(&rig.space, 4096, 4);
    for queue in &mut queues {
        run(queue, ns.read(Lba(0), 8).unwrap(), pool.alloc().unwrap());
    }
    drop(queues);
    let before = rig.space.stats();
    for round in 0..1000 {
        let options = QueueOptions {
            depth: 1 + round % 40,
            ..QueueOptions::default()
        };
        let mut queue = controller.queue_pair(options).unwrap();
        let mut buffer = pool.alloc().unwrap();
        stamp(&mut buffer, u64::from(round));
        let buffer = run(&mut queue, ns.write(Lba(8), 8).unwrap(), buffer);
        let buffer = run(&mut queue, ns.read(Lba(8), 8).unwrap(), buffer);
        assert!(is_stamped(&buffer, u64::from(round)));
    }
    assert_eq!(rig.space.stats(), before, "queues leave nothing behind");
    drop((ns, controller));
    rig.end();
}

/// A queue that the device refuses in part leaves nothing behind, and where the device refuses
/// to take back its part as well, the memory stays away until it does.
#[test]
fn a_queue_that_is_refused_is_taken_back() {
    // Opcodes 00h and 01h delete and create a submission queue, 04h and 05h a completion queue.
    for (refused, kept) in [
        (&["0x05"][..], 0),
        (&["0x01"], 0),
        (&["0x01", "0x04"], 1),
        (&["0x04"], 1),
        (&["0x00"], 1),
    ] {
        let rig = Rig::new("size=1m,queues=2");
        let controller = rig.controller();
        let used = rig.space.stats().heap_used_bytes;
        for opcode in refused {
            rig.inject(&format!("status:0x6@op={opcode}+q=0"));
        }
        match controller.queue_pair::<DmaBuf>(QueueOptions::default()) {
            Ok(queue) => drop(queue),
            Err(error) => {
                let internal = |status: Status| status.code() == Status::INTERNAL_ERROR.code();
                assert!(
                    matches!(error, Error::Admin { status, .. } if internal(status)),
                    "{error:?}"
                );
            }
        }
        rig.until_fired(refused.len() as u64);
        assert_eq!(controller.quarantined_queues(), kept, "{refused:?}");
        let still = rig.space.stats().heap_used_bytes;
        assert_eq!(still > used, kept > 0, "{refused:?}");
        // Asked again, the device answers: all that it grants can be had.
        let queues: Vec<Queue> = (0..2).map(|_| queue(&controller)).collect();
        assert_eq!(controller.quarantined_queues(), 0);
        drop(queues);
        assert_eq!(rig.space.stats().heap_used_bytes, used, "{refused:?}");
        drop(controller);
        rig.end();
    }
}

/// Queues come and go with commands in flight: every buffer is back when the queue is gone.
#[test]
fn queues_are_dropped_with_commands_in_flight() {
    for config in ["size=16m,queues=4", "size=16m,queues=4,dbbuf=off,step=on"] {
        let rig = Rig::new(config);
        let controller = rig.controller();
        let ns = controller.namespace(None).unwrap();
        let pool = pool(&rig.space, 16 << 10, 32);
        for round in 0..200 {
            let mut queue = queue(&controller);
            for nth in 0..32 {
                let io = match nth % 2 {
                    0 => ns.read(Lba(32 * nth), 32),
                    _ => ns.write(Lba(32 * nth), 32),
                };
                queue.submit(io.unwrap(), pool.alloc().unwrap()).unwrap();
            }
            match round % 3 {
                0 => {}
                1 => queue.ring(),
                _ => {
                    queue.poll(3, drop);
                }
            }
            drop(queue);
            assert_eq!(pool.free_count(), 32, "round {round}");
            assert_eq!(controller.quarantined_queues(), 0);
        }
        assert_eq!(controller.failure(), None);
        drop((ns, controller));
        rig.end();
    }
}

/// A device's error reaches the caller with its name and numbers; the buffer comes back and the
/// controller works on.
#[test]
fn error_statuses_are_told_by_name() {
    let rig = Rig::new("size=16m");
    let controller = rig.controller();
    let ns = controller.namespace(None).unwrap();
    let mut queue = queue(&controller);
    let pool = pool(&rig.space, 4096, 2);
    for (injected, name) in [
        ("status:0x281", "Unrecovered Read Error"),
        ("status:0x280", "Write Fault"),
        ("status:0x80", "LBA Out of Range"),
        ("status:0x4006", "Internal Error"),
        ("status:0x286", "Access Denied"),
        ("status:0x7c5", "vendor"),
        ("status:0x3fe", ""),
    ] {
        rig.inject(&format!("{injected}@op=io+lba=4660"));
        let io = ns.write(Lba(4660), 8).unwrap();
        let token = queue.submit(io, pool.alloc().unwrap()).unwrap();
        let ended = finish(&mut queue, token);
        let error = ended.result.unwrap_err();
        let CommandError::Status {
            status,
            opcode,
            nsid,
            lba,
            len_bytes,
        } = &error
        else {
            panic!("{error:?}");
        };
        let code = u16::from_str_radix(&injected[9..], 16).unwrap();
        assert_eq!((status.0, opcode.0, nsid.0), (code, 1, 1));
        assert_eq!((*lba, *len_bytes), (Lba(4660), 4096));
        let text = error.to_string();
        let code = format!("{:#x}", code & 0x7ff);
        for part in [name, "Write", "4660", "4096", &code] {
            assert!(
                text.to_lowercase().contains(&part.to_lowercase()),
                "{text:?}: no {part:?}"
            );
        }
        assert!(ended.buffer.is_some());
    }
    assert_eq!(queue.stats().errors, 7);
    assert_eq!(controller.failure(), None);
    run(
        &mut queue,
        ns.write(Lba(4660), 8).unwrap(),
        pool.alloc().unwrap(),
    );
    rig.inject("status:0x4@op=flush");
    let error = queue.flush(&ns).unwrap_err();
    let Error::Command(CommandError::Status { status, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(status.code(), Status::DATA_TRANSFER_ERROR.code());
    drop((queue, ns, controller));
    rig.end();
}

/// What a device does wrong in its completions fails the controller, in words, with every
/// waiter told.
#[test]
fn broken_completions_fail_the_controller() {
    for (fault, word) in [
        ("corrupt-cid@op=io", "not in flight"),
        ("corrupt-sqid@op=io", "names queue"),
        ("corrupt-sqhd@op=io", "SQ head"),
        ("duplicate@op=io", "not in flight"),
        ("corrupt-phase@op=io", "not completed within"),
        ("drop@op=io", "not completed within"),
        ("cfs@op=io", "fatal status"),
        ("removed@op=io", "device is gone"),
    ] {
        let rig = Rig::new("size=1m");
        let options = ControllerOptions {
            command_timeout: Duration::from_millis(300),
            ..ControllerOptions::default()
        };
        let controller = rig.open(options).unwrap();
        let ns = controller.namespace(None).unwrap();
        let mut queue = queue(&controller);
        let pool = pool(&rig.space, 4096, 4);
        rig.inject(fault);
        let io = ns.write(Lba(0), 8).unwrap();
        let (mut told, mut lost) = (0, 0);
        within_limit(fault, || {
            // The duplicate of the last completion is seen at the next look into the ring.
            if controller.failure().is_none() && queue.in_flight() == 0 {
                queue.submit(io, pool.alloc().unwrap()).unwrap();
            }
            queue.poll(8, |ended| {
                told += 1;
                match ended.result {
                    Ok(()) => assert!(ended.buffer.is_some()),
                    Err(CommandError::Lost(_)) => lost += 1,
                    Err(other) => panic!("{other}"),
                }
            });
            assert!(told < 8, "{fault}: nobody minds");
            let failed = controller.failure().is_some();
            (failed && told as u64 == queue.stats().commands).then_some(())
        });
        let failure = controller.failure().unwrap();
        assert!(failure.to_string().contains(word), "{fault}: {failure}");
        assert!(
            told - lost <= 1 + usize::from(fault.starts_with("dup")),
            "{fault}"
        );
        let refused = queue.submit(io, pool.alloc().unwrap()).unwrap_err();
        assert!(matches!(refused.error, Error::Failed(_)), "{fault}");
        drop(refused);
        drop((queue, ns, controller));
        assert_eq!(pool.free_count(), 4, "{fault}: closed with proof");
        assert_eq!(
            rig.space.stats().heap_used_bytes,
            0,
            "{fault}: the heap leaks"
        );
        drop(rig);
    }
}

/// Completions that wait in the ring are not late, however late their host takes them.
#[test]
fn a_host_that_is_late_does_not_blame_the_device() {
    let rig = Rig::new("size=1m");
    let options = ControllerOptions {
        command_timeout: Duration::from_millis(900),
        ..ControllerOptions::default()
    };
    let controller = rig.open(options).unwrap();
    let ns = controller.namespace(None).unwrap();
    let mut queue: Queue = controller
        .queue_pair(QueueOptions {
            depth: 8,
            ..QueueOptions::default()
        })
        .unwrap();
    let pool = pool(&rig.space, 4096, 8);
    // The ring is left near its end, so that what waits lies on both sides of it.
    for _ in 0..14 {
        run(
            &mut queue,
            ns.read(Lba(0), 8).unwrap(),
            pool.alloc().unwrap(),
        );
    }
    let completions = rig.emulator.stats().completions;
    for lba in 0..8 {
        let io = ns.read(Lba(lba), 8).unwrap();
        queue.submit(io, pool.alloc().unwrap()).unwrap();
    }
    // Polls with no budget look at the clock, and see all eight in flight.
    (0..256).for_each(|_| assert_eq!(queue.poll(0, drop), 0));
    rig.until("eight completions", |stats| {
        stats.completions >= completions + 8
    });
    // It looks all the time, and takes nothing: not a host that was away.
    let late = rt::Instant::now() + Duration::from_millis(1000);
    while rt::Instant::now() < late {
        assert_eq!(queue.poll(0, drop), 0);
    }
    let mut ended = 0;
    for _ in 0..8 {
        (0..256).for_each(|_| assert_eq!(queue.poll(0, drop), 0));
        assert_eq!(controller.failure(), None);
        ended += queue.poll(1, |completion| completion.result.unwrap());
    }
    assert_eq!((ended, queue.in_flight()), (8, 0));
    // One that the device has really lost is still late, with others waiting in the ring.
    rig.inject("drop@op=read");
    for lba in 0..4 {
        let io = ns.read(Lba(lba), 8).unwrap();
        queue.submit(io, pool.alloc().unwrap()).unwrap();
    }
    queue.ring();
    rig.until("three completions", |stats| {
        stats.completions >= completions + 11
    });
    within_limit("the deadline", || {
        queue.poll(0, drop);
        controller.failure()
    });
    drop((queue, ns, controller));
    assert_eq!(pool.free_count(), 8);
    rig.end();
}

/// A device that cannot be brought up is an error in words, within the time it gives itself, and
/// leaves nothing behind.
#[test]
fn what_cannot_be_brought_up_is_refused_in_words() {
    type Is = fn(&Error) -> bool;
    let cases: [(&str, Is); 9] = [
        ("fault=never-ready", |e| {
            matches!(e, Error::NotInTime { state: "ready", .. })
        }),
        ("enable=20s", |e| {
            matches!(e, Error::NotInTime { state: "ready", .. })
        }),
        ("fault=cfs@op=enable", |e| {
            matches!(e, Error::Failed(Failure::Fatal { .. }))
        }),
        ("fault=removed@op=enable", |e| {
            matches!(e, Error::Failed(Failure::Gone { .. }))
        }),
        (
            "fault=status:0x6@op=identify",
            |e| matches!(e, Error::Admin { status, .. } if status.code() == 6),
        ),
        ("fault=short-identify:0@op=identify", |e| {
            matches!(e, Error::BadAnswer { .. })
        }),
        ("fault=drop@op=identify+nth=2", |e| {
            matches!(e, Error::Failed(Failure::Timeout { .. }))
        }),
        ("fault=corrupt-cid@op=admin", |e| {
            matches!(e, Error::Failed(Failure::Protocol { .. }))
        }),
        ("fault=removed@op=admin+nth=3", |e| {
            matches!(e, Error::Failed(Failure::Gone { .. }))
        }),
    ];
    for (config, expected) in cases {
        let rig = Rig::new(&format!("size=1m,to_ms=500,crto_ms=500,{config}"));
        let options = ControllerOptions {
            admin_timeout: Duration::from_millis(300),
            ..ControllerOptions::default()
        };
        let error = rig.open(options).unwrap_err();
        assert!(expected(&error), "{config}: {error:?}");
        println!("{config}: {error}");
        let stats = rig.space.stats();
        assert_eq!((stats.contexts, stats.heap_used_bytes), (0, 0), "{config}");
    }
}

/// The time to become ready is CRTO's where the device has it: longer than CAP.TO, and kept.
#[test]
fn ready_may_take_as_long_as_crto_says() {
    let rig = Rig::new("size=1m,to_ms=500,crto_ms=5000,enable=800ms");
    let controller = rig.controller();
    drop(controller);
    rig.end();
}

/// A controller that was closed is opened again, with what was written to it, any number of
/// times; also by somebody who finds it enabled.
#[test]
fn a_device_is_opened_again() {
    let rig = Rig::new("size=16m,queues=2");
    for round in 0..20 {
        let controller = rig.controller();
        let ns = controller.namespace(None).unwrap();
        let mut queue = queue(&controller);
        let pool = pool(&rig.space, 4096, 2);
        if round > 0 {
            let io = ns.read(Lba(round - 1), 8).unwrap();
            let buffer = run(&mut queue, io, pool.alloc().unwrap());
            assert!(is_stamped(&buffer, round - 1));
        }
        let mut buffer = pool.alloc().unwrap();
        stamp(&mut buffer, round);
        run(&mut queue, ns.write(Lba(round), 8).unwrap(), buffer);
        drop((queue, ns, controller));
        if round % 5 == 4 {
            // Somebody else had it and left it enabled, with rings that nobody has any more.
            rig.emulator
                .write32(offset::AQA, Aqa::default().with_asqs(7).with_acqs(7).0);
            rig.emulator.write64(offset::ASQ, 0x10_0000);
            rig.emulator.write64(offset::ACQ, 0x11_0000);
            let cc = Cc::default().with_iosqes(6).with_iocqes(4).with_en(true);
            rig.emulator.write32(offset::CC, cc.0);
            within_limit("an answer to CC.EN", || {
                (rig.emulator.read32(offset::CSTS) != 0).then_some(())
            });
        }
    }
    rig.end();
}

/// A namespace on a file is the file: block n lies at n blocks, and outlives the device.
#[test]
fn a_file_keeps_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("medium");
    let url = format!("emu:file={},size=4m", path.display());
    let space = DmaSpace::new();
    let pool = pool(&space, 4096, 2);
    let open = || Controller::open(&url, &space, ControllerOptions::default()).unwrap();
    for round in 0..3_u64 {
        let controller = open();
        let ns = controller.namespace(None).unwrap();
        let mut queue = queue(&controller);
        let mut buffer = pool.alloc().unwrap();
        stamp(&mut buffer, round);
        let buffer = run(
            &mut queue,
            ns.write(Lba(100 + 8 * round), 8).unwrap(),
            buffer,
        );
        drop(buffer);
        queue.flush(&ns).unwrap();
    }
    let on_disk = std::fs::read(&path).unwrap();
    assert_eq!(on_disk.len(), 4 << 20);
    let controller = open();
    let ns = controller.namespace(None).unwrap();
    let mut queue = queue(&controller);
    for round in 0..3_u64 {
        let io = ns.read(Lba(100 + 8 * round), 8).unwrap();
        let buffer = run(&mut queue, io, pool.alloc().unwrap());
        assert!(is_stamped(&buffer, round));
        let at = 512 * (100 + 8 * round as usize);
        assert_eq!(on_disk[at..at + 4096], stamped(4096, round));
    }
    // The length is the file's where none is given.
    drop((queue, ns, controller));
    let url = format!("emu:file={}", path.display());
    let controller = Controller::open(&url, &space, ControllerOptions::default()).unwrap();
    assert_eq!(controller.namespaces()[0].len_bytes(), 4 << 20);
}

/// Mistakes in a URL are told where they are, with what was probably meant.
#[test]
fn urls_that_mean_nothing_say_what_is_wrong() {
    let space = DmaSpace::new();
    for (url, word) in [
        ("emu:szie=1g", "size"),
        ("emu:size=1g,lba=513", "512"),
        ("emu:fault=dorp", "drop"),
        (
            "emu:file=/nonexistent/folder/medium,size=1m",
            "/nonexistent/folder/medium",
        ),
        ("nvme0n1", "emu:"),
    ] {
        let error = Controller::open(url, &space, ControllerOptions::default()).unwrap_err();
        assert!(error.to_string().contains(word), "{url}: {error}");
    }
    assert_eq!(space.stats().contexts, 0);
}

/// A space that holds only rings and pools serves a device like any other.
#[test]
fn an_isolated_space_is_enough() {
    let space = DmaSpace::isolated();
    let options = ControllerOptions::default();
    let controller = Controller::open("emu:size=16m", &space, options).unwrap();
    let ns = controller.namespace(None).unwrap();
    let mut queue = queue(&controller);
    exercise(&space, &mut queue, &ns);
}
