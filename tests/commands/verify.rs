//! Verify.
use crate::bench::{Bench, status};
use crate::support::Rig;
use crate::support::overheard::{Overheard, dword};
use underpin::nvme::{Error, Status};
use underpin::{Controller, ControllerOptions, DmaBuf, Lba, QueueOptions, QueuePair};

/// Blocks that can be read are verified without a byte of them moving; those that cannot end with
/// the read's error.
#[test]
fn blocks_are_looked_at_and_not_moved() {
    for more in ["", ",lba=4096", ",step=on"] {
        let mut bench = Bench::on_file(more);
        bench.rig.until("the filling", |stats| stats.flushes == 1);
        let moved = bench.rig.emulator.stats().bytes_to_host;
        let all = bench.ns.verify(Lba(0), bench.ns.blocks()).unwrap();
        bench.run_bare(all).unwrap();
        bench.rig.until("a Verify", |stats| stats.verifies == 1);
        assert_eq!(bench.rig.emulator.stats().bytes_to_host, moved);
        bench.rig.inject("status:0x281@op=0x0c");
        let some = bench.ns.verify(Lba(3), 2).unwrap();
        let ended = status(bench.run_bare(some));
        assert_eq!(ended, Status::UNRECOVERED_READ_ERROR);
        let health = bench.controller.smart_log().unwrap();
        assert_eq!(health.media_errors(), 1);
        assert_eq!(
            health.data_units_read(),
            3,
            "1 MiB, in units of 512,000 bytes"
        );
        bench.end();
    }
}

#[test]
fn blocks_that_are_not_there_are_refused() {
    let bench = Bench::in_memory("");
    let error = bench.ns.verify(Lba(2047), 2).unwrap_err();
    assert!(matches!(error, Error::OutOfRange { .. }), "{error:?}");
    bench.end();
}

/// NVM Command Set 1.0, 3.2.1 and 3.2.5: Compare is 05h, Verify 0Ch; both have their first block in
/// dwords 10 and 11 and their count from 0 in dword 12, with FUA in bit 30; Verify has no data.
#[test]
fn entries_are_as_the_specification_has_them() {
    let rig = Rig::new("size=1m");
    let (transport, seen) = Overheard::new(&rig.transport);
    let options = ControllerOptions::default();
    let controller = Controller::with_transport(transport, &rig.space, options).unwrap();
    let ns = controller.namespace(None).unwrap();
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default()).unwrap();
    let page = rig.space.alloc(4096, 4096).unwrap();
    let iova = page.iova().get();
    let compare = ns.compare(Lba(16), 8).unwrap().force_unit_access();
    drop(queue.run(compare, page).unwrap());
    let token = queue.submit_bare(ns.verify(Lba(3), 2).unwrap()).unwrap();
    queue.wait_for(token).result.unwrap();
    let (ring, _) = seen.io_ring(queue.qid().0);
    let wanted = [(0x05, 16, 0x4000_0007, iova), (0x0c, 3, 1, 0)];
    for (index, (opcode, lba, cdw12, prp1)) in wanted.into_iter().enumerate() {
        let entry = seen.entry(ring, index);
        assert_eq!((entry[0], dword(&entry, 1)), (opcode, 1));
        let place = (dword(&entry, 10), dword(&entry, 11), dword(&entry, 12));
        assert_eq!(place, (lba, 0, cdw12), "{opcode:#x}");
        let data = u64::from(dword(&entry, 6)) | u64::from(dword(&entry, 7)) << 32;
        assert_eq!(data, prp1, "{opcode:#x}");
    }
    drop((queue, ns, controller));
    rig.end();
}
