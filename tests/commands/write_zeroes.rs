//! Write Zeroes.
use crate::bench::{Bench, status};
use crate::support::Rig;
use crate::support::overheard::{Overheard, dword};
use underpin::nvme::{Error, Status};
use underpin::{Controller, ControllerOptions, DmaBuf, Lba, QueueOptions, QueuePair};

/// The blocks named read as zeroes, on the medium and through a read, and their neighbours are as
/// they were; on every kind of device.
#[test]
fn blocks_become_zeroes_and_others_do_not() {
    for more in ["", ",lba=4096", ",step=on,chunk=64", ",vwc=off"] {
        for deallocate in [false, true] {
            let mut bench = Bench::on_file(more);
            let lba = bench.ns.lba_bytes() as usize;
            let mut wanted = Bench::filling();
            for (first, blocks) in [
                (0, 1),
                (3, 5),
                (16, 100),
                (bench.ns.blocks() as usize - 2, 2),
            ] {
                let mut zeroes = bench
                    .ns
                    .write_zeroes(Lba(first as u64), blocks as u64)
                    .unwrap();
                if deallocate {
                    zeroes = zeroes.may_deallocate();
                }
                assert_eq!(zeroes.len_bytes(), 0, "no data moves");
                bench.run_bare(zeroes.force_unit_access()).unwrap();
                wanted[first * lba..(first + blocks) * lba].fill(0);
                assert!(
                    bench.medium() == wanted,
                    "{more}: {blocks} blocks at {first}"
                );
            }
            assert!(bench.read_all() == wanted);
            bench.rig.until("all four", |stats| stats.write_zeroes == 4);
            bench.end();
        }
    }
}

/// In memory as well, where whole pages are given back.
#[test]
fn memory_becomes_zeroes() {
    for deallocate in [false, true] {
        let mut bench = Bench::in_memory("");
        let mut wanted = Bench::filling();
        for (first, blocks) in [(1, 1), (7, 18), (100, 1000)] {
            let mut zeroes = bench
                .ns
                .write_zeroes(Lba(first as u64), blocks as u64)
                .unwrap();
            if deallocate {
                zeroes = zeroes.may_deallocate();
            }
            bench.run_bare(zeroes).unwrap();
            wanted[first * 512..(first + blocks) * 512].fill(0);
            assert!(bench.read_all() == wanted, "{blocks} blocks at {first}");
        }
        bench.end();
    }
}

/// NVM Command Set 1.0, 3.2.8: opcode 08h, blocks from 0 in dword 12, DEAC bit 25, FUA bit 30, no
/// data pointer; more than 65,536 blocks are several commands.
#[test]
fn commands_are_as_the_specification_has_them() {
    let rig = Rig::new("size=80m");
    let (transport, seen) = Overheard::new(&rig.transport);
    let options = ControllerOptions::default();
    let controller = Controller::with_transport(transport, &rig.space, options).unwrap();
    let ns = controller.namespace(None).unwrap();
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default()).unwrap();
    let all = ns.write_zeroes(Lba(0), ns.blocks()).unwrap();
    for io in [
        all,
        ns.write_zeroes(Lba(5), 1)
            .unwrap()
            .may_deallocate()
            .force_unit_access(),
    ] {
        let token = queue.submit_bare(io).unwrap();
        queue.wait_for(token).result.unwrap();
    }
    assert_eq!((queue.stats().commands, queue.in_flight()), (4, 0));
    let (ring, _) = seen.io_ring(queue.qid().0);
    for (index, (lba, cdw12)) in [
        (0, 0xffff),
        (65_536, 0xffff),
        (131_072, 0x7fff),
        (5, 0x4200_0000),
    ]
    .into_iter()
    .enumerate()
    {
        let entry = seen.entry(ring, index);
        assert_eq!((entry[0], dword(&entry, 1)), (0x08, 1));
        assert_eq!(
            (dword(&entry, 10), dword(&entry, 12)),
            (lba, cdw12),
            "{index}"
        );
        assert!((4..10).all(|index| dword(&entry, index) == 0), "no data");
    }
    drop((queue, ns, controller));
    rig.end();
}

/// What does not lie in the namespace, and more parts than the queue has room for, are refused
/// before anything is sent.
#[test]
fn what_cannot_be_is_refused() {
    let rig = Rig::new("size=1g,media=null");
    let controller = rig.controller();
    let ns = controller.namespace(None).unwrap();
    let options = QueueOptions {
        depth: 4,
        ..QueueOptions::default()
    };
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(options).unwrap();
    let error = ns.write_zeroes(Lba(1), ns.blocks()).unwrap_err();
    assert!(matches!(error, Error::OutOfRange { .. }), "{error:?}");
    let all = ns.write_zeroes(Lba(0), ns.blocks()).unwrap();
    let error = queue.submit_bare(all).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLong {
                max_bytes: 134_217_728,
                ..
            }
        ),
        "{error:?}"
    );
    let token = queue
        .submit_bare(ns.write_zeroes(Lba(0), 65_536 * 3).unwrap())
        .unwrap();
    let error = queue
        .submit_bare(ns.write_zeroes(Lba(0), 65_537).unwrap())
        .unwrap_err();
    assert!(
        matches!(error, Error::QueueFull { needed: 2, .. }),
        "{error:?}"
    );
    queue.wait_for(token).result.unwrap();
    assert_eq!((queue.stats().commands, queue.free()), (3, 4));
    // A buffer may travel with it, as with a flush.
    let page = rig.space.alloc(4096, 4096).unwrap();
    let page = queue
        .run(ns.write_zeroes(Lba(0), 1).unwrap(), page)
        .unwrap();
    assert_eq!(page.len_bytes(), 4096);
    drop((queue, page, ns, controller));
    rig.end();
}

/// A write-protected namespace stays as it is.
#[test]
fn protected_blocks_stay() {
    let mut bench = Bench::on_file("");
    let nsid = bench.ns.nsid();
    bench.controller.set_write_protection(nsid, true).unwrap();
    let zeroes = bench.ns.write_zeroes(Lba(0), 8).unwrap();
    let ended = status(bench.run_bare(zeroes));
    assert_eq!(ended, Status::NAMESPACE_WRITE_PROTECTED);
    assert!(bench.medium() == Bench::filling());
    bench.controller.rescan().unwrap();
    let again = bench.controller.namespace(None).unwrap();
    assert_eq!(again.identify().nsattr() & 1, 1);
    bench.controller.set_write_protection(nsid, false).unwrap();
    let zeroes = bench.ns.write_zeroes(Lba(0), 8).unwrap();
    bench.run_bare(zeroes).unwrap();
    assert_eq!(bench.medium()[..4096], [0; 4096]);
    bench.end();
}

/// One part that fails makes the whole request fail, once.
#[test]
fn a_part_that_fails_fails_the_request() {
    let mut bench = Bench::new("size=80m");
    bench.rig.inject("status:0x280@op=0x08+nth=2");
    let all = bench.ns.write_zeroes(Lba(0), bench.ns.blocks()).unwrap();
    assert_eq!(status(bench.run_bare(all)), Status::WRITE_FAULT);
    assert_eq!(bench.queue.in_flight(), 0);
    bench.end();
}

/// A device that takes few blocks at a time gets few at a time (WZSL), and all of them in the end.
#[test]
fn the_device_s_limit_is_kept() {
    for (more, commands) in [(",wzsl=1", 128), (",wzsl=3,lba=4096", 32), (",wzsl=9", 1)] {
        let mut bench = Bench::on_file(more);
        let options = QueueOptions {
            depth: 256,
            ..QueueOptions::default()
        };
        bench.queue = bench.controller.queue_pair(options).unwrap();
        let all = bench.ns.write_zeroes(Lba(0), bench.ns.blocks()).unwrap();
        bench.run_bare(all).unwrap();
        assert_eq!(bench.queue.stats().commands, commands, "{more}");
        assert!(bench.medium().iter().all(|&byte| byte == 0));
        bench.end();
    }
}
