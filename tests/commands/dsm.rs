//! Dataset Management: deallocation.
use crate::bench::{Bench, status};
use crate::support::overheard::{Overheard, dword};
use crate::support::{Rig, finish};
use underpin::nvme::{BlockRange, Error, Status};
use underpin::{Controller, ControllerOptions, DmaBuf, Lba, QueueOptions, QueuePair};

fn range(lba: u64, blocks: u64) -> BlockRange {
    BlockRange {
        lba: Lba(lba),
        blocks,
    }
}

/// Deallocated blocks read as zeroes, as DLFEAT promises, their neighbours are as they were, and
/// the file gives its room back.
#[test]
fn ranges_are_given_back() {
    for more in ["", ",lba=4096", ",step=on,chunk=8", ",vwc=off"] {
        let mut bench = Bench::on_file(more);
        let lba = bench.ns.lba_bytes() as usize;
        assert_eq!(bench.ns.identify().dlfeat() & 0b111, 1, "zeroes");
        let mut wanted = Bench::filling();
        let ranges = [(0, 3), (9, 1), (64, 100)];
        let request: Vec<_> = ranges.iter().map(|&(at, len)| range(at, len)).collect();
        let request = bench.ns.deallocate(&request).unwrap();
        bench.queue.deallocate(&request).unwrap();
        for (at, len) in ranges {
            let (at, len) = (at as usize * lba, len as usize * lba);
            wanted[at..at + len].fill(0);
        }
        assert!(bench.medium() == wanted, "{more}");
        assert!(bench.read_all() == wanted, "{more}");
        let before = bench.room();
        let all = bench.ns.deallocate(&[range(0, bench.ns.blocks())]).unwrap();
        bench.queue.deallocate(&all).unwrap();
        assert!(bench.room() < before, "{} of {before} bytes", bench.room());
        assert!(bench.read_all().iter().all(|&byte| byte == 0));
        bench.end();
    }
}

/// Many at once, each with its own ranges: none sees another's, and memory is used again once its
/// command has ended.
#[test]
fn each_command_has_ranges_of_its_own() {
    let mut bench = Bench::in_memory("");
    let mut wanted = Bench::filling();
    let heap = bench.rig.space.stats().heap_used_bytes;
    for round in 0..4_u64 {
        let mut tokens = Vec::new();
        for nth in 0..32_u64 {
            let first = round * 512 + nth * 16;
            let request = bench
                .ns
                .deallocate(&[range(first, 2), range(first + 5, 1)])
                .unwrap();
            tokens.push(bench.queue.submit_deallocate(&request).unwrap());
            for at in [first, first + 1, first + 5] {
                wanted[at as usize * 512..][..512].fill(0);
            }
        }
        let full = bench.ns.deallocate(&[range(0, 1)]).unwrap();
        let error = bench.queue.submit_deallocate(&full).unwrap_err();
        assert!(matches!(error, Error::QueueFull { .. }), "{error:?}");
        for token in tokens {
            bench.queue.wait_for(token).result.unwrap();
        }
        let used = bench.rig.space.stats().heap_used_bytes - heap;
        assert_eq!(
            used,
            32 * 4096,
            "round {round}: a page for each in flight, and no more"
        );
    }
    assert!(bench.read_all() == wanted);
    bench.end();
}

/// A range that leaves the namespace spoils the whole command: nothing is deallocated. (The driver
/// does not send such a one; a raw command does.)
#[test]
fn a_range_beyond_the_end_spoils_all() {
    let mut bench = Bench::on_file("");
    let mut page = bench.rig.space.alloc(4096, 4096).unwrap();
    for (nth, (blocks, lba)) in [(8_u32, 0_u64), (2, 2047)].into_iter().enumerate() {
        page.copy_from(nth * 16 + 4, &blocks.to_le_bytes()).unwrap();
        page.copy_from(nth * 16 + 8, &lba.to_le_bytes()).unwrap();
    }
    let command = underpin::nvme::Passthrough {
        opcode: 0x09,
        cdw10: 1,
        cdw11: 1 << 2,
        ..Default::default()
    };
    let raw = bench.ns.passthrough(&command, 32).unwrap();
    let token = bench.queue.submit_raw(raw, page).unwrap();
    let ended = finish(&mut bench.queue, token);
    assert_eq!(status(ended.result), Status::LBA_OUT_OF_RANGE);
    drop(ended.buffer);
    assert!(bench.medium() == Bench::filling());
    let too_short = bench.ns.passthrough(&command, 31).unwrap_err();
    assert!(matches!(too_short, Error::Request(_)), "{too_short:?}");
    bench.end();
}

/// No ranges, too many, and those that do not lie within the namespace are refused in words.
#[test]
fn what_cannot_be_is_refused() {
    let bench = Bench::in_memory("");
    let one = range(0, 1);
    for (ranges, what) in [(vec![], "no ranges"), (vec![one; 257], "257 ranges")] {
        let error = bench.ns.deallocate(&ranges).unwrap_err();
        assert!(matches!(error, Error::Request(_)), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
    }
    assert!(bench.ns.deallocate(&vec![one; 256]).is_ok());
    for bad in [range(0, 0), range(2048, 1), range(u64::MAX, 2)] {
        let error = bench.ns.deallocate(&[one, bad]).unwrap_err();
        assert!(matches!(error, Error::OutOfRange { .. }), "{error:?}");
    }
    bench.end();
}

/// NVM Command Set 1.0, 3.2.3: opcode 09h, ranges from 0 in dword 10, AD in dword 11, PRP1 on the
/// ranges: attributes, length, first block.
#[test]
fn the_command_is_as_the_specification_has_it() {
    let rig = Rig::new("size=1m");
    let (transport, seen) = Overheard::new(&rig.transport);
    let options = ControllerOptions::default();
    let controller = Controller::with_transport(transport, &rig.space, options).unwrap();
    let ns = controller.namespace(None).unwrap();
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default()).unwrap();
    let request = ns.deallocate(&[range(7, 9), range(100, 1)]).unwrap();
    queue.deallocate(&request).unwrap();
    let (ring, _) = seen.io_ring(queue.qid().0);
    let entry = seen.entry(ring, 0);
    assert_eq!((entry[0], dword(&entry, 1)), (0x09, 1));
    assert_eq!((dword(&entry, 10), dword(&entry, 11)), (1, 4));
    let prp1 = u64::from(dword(&entry, 6)) | u64::from(dword(&entry, 7)) << 32;
    assert_eq!(prp1 % 4096, 0);
    let mut bytes = [0; 32];
    assert!(seen.read(prp1, &mut bytes));
    let mut wanted = [0; 32];
    (wanted[4], wanted[8], wanted[20], wanted[24]) = (9, 7, 1, 100);
    assert_eq!(bytes, wanted);
    drop((queue, ns, controller));
    rig.end();
}

/// A device that takes few ranges gets no more (DMRL).
#[test]
fn the_device_s_limit_is_kept() {
    let mut bench = Bench::in_memory(",dmrl=3");
    let four = [range(0, 1), range(2, 1), range(4, 1), range(6, 1)];
    let error = bench.ns.deallocate(&four).unwrap_err();
    assert!(error.to_string().contains("here, 3"), "{error}");
    let three = bench.ns.deallocate(&four[..3]).unwrap();
    bench.queue.deallocate(&three).unwrap();
    assert_eq!(bench.read_all()[..512], [0; 512]);
    bench.end();
}
