//! Verify.
use crate::bench::{Bench, status};
use underpin::Lba;
use underpin::nvme::{Error, Status};

/// Blocks that can be read are verified without a byte of them moving; those that cannot end with
/// the read's error.
#[test]
fn blocks_are_looked_at_and_not_moved() {
    for more in ["", ",lba=4096", ",step=on"] {
        let mut bench = Bench::on_file(more);
        let moved = bench.rig.emulator.stats().bytes_to_host;
        let all = bench.ns.verify(Lba(0), bench.ns.blocks()).unwrap();
        bench.run_bare(all).unwrap();
        assert_eq!(bench.rig.emulator.stats().bytes_to_host, moved);
        assert_eq!(bench.rig.emulator.stats().verifies, 1);
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
