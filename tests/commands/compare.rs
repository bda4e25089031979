//! Compare.
use crate::bench::{Bench, status};
use crate::support::{finish, stamped};
use underpin::Lba;
use underpin::nvme::Status;

/// What is the same is the same; one bit that differs anywhere fails it, by name; nothing is
/// changed either way.
#[test]
fn one_bit_makes_the_difference() {
    for more in ["", ",lba=4096", ",step=on,chunk=512", ",mdts=1"] {
        let mut bench = Bench::on_file(more);
        let lba = bench.ns.lba_bytes() as usize;
        for (first, blocks) in [(0, 1), (2, 8), (40, 48)] {
            let len_bytes = blocks * lba;
            let held = stamped(1 << 20, 1)[first * lba..][..len_bytes].to_vec();
            let compare = bench.ns.compare(Lba(first as u64), blocks as u64).unwrap();
            let mut buffer = bench.rig.space.alloc(len_bytes, 512).unwrap();
            buffer.copy_from(0, &held).unwrap();
            let mut buffer = bench.run(compare, buffer);
            for at in [0, len_bytes / 2, len_bytes - 1] {
                buffer.copy_from(at, &[held[at] ^ 0x10]).unwrap();
                let token = bench.queue.submit(compare, buffer).unwrap();
                let ended = finish(&mut bench.queue, token);
                assert_eq!(
                    status(ended.result),
                    Status::COMPARE_FAILURE,
                    "{more}: byte {at}"
                );
                buffer = ended.buffer.unwrap();
                buffer.copy_from(at, &[held[at]]).unwrap();
            }
        }
        assert!(bench.medium() == Bench::filling());
        bench.end();
    }
}

/// The failure's text says what it is, and of which blocks.
#[test]
fn a_difference_is_told_in_words() {
    let mut bench = Bench::in_memory("");
    let page = bench.rig.space.alloc(4096, 4096).unwrap();
    let compare = bench.ns.compare(Lba(16), 8).unwrap();
    let error = bench.queue.run(compare, page).unwrap_err().to_string();
    for part in [
        "Compare of namespace 1",
        "LBA 16",
        "4096 bytes",
        "Compare Failure",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let errors = bench.controller.error_log().unwrap();
    assert_eq!(errors[0].status().code(), Status::COMPARE_FAILURE.code());
    assert_eq!(errors[0].first_lba(), Lba(16));
    bench.end();
}
