//! Abort.
use crate::bench::{Bench, status};
use crate::support::{finish, within_limit};
use underpin::Lba;
use underpin::nvme::{Aborted, Status};

/// A command that the device holds is aborted: it ends with that status and gives its buffer back.
#[test]
fn a_held_command_is_aborted() {
    for more in ["", ",step=on"] {
        let mut bench = Bench::in_memory(more);
        bench.rig.inject("hold@op=write");
        let page = bench.rig.space.alloc(4096, 4096).unwrap();
        let write = bench.ns.write(Lba(0), 8).unwrap();
        let token = bench.queue.submit(write, page).unwrap();
        bench.queue.ring();
        bench.rig.until_fired(1);
        let outcome = bench.queue.abort(token).unwrap();
        let all = Aborted {
            commands: 1,
            aborted: 1,
        };
        assert_eq!(outcome, all, "{more}");
        let ended = finish(&mut bench.queue, token);
        assert_eq!(status(ended.result), Status::ABORT_REQUESTED);
        assert_eq!(ended.buffer.unwrap().len_bytes(), 4096);
        assert!(bench.read_all() == Bench::filling(), "nothing was written");
        // It has ended: there is nothing to abort.
        assert_eq!(bench.queue.abort(token).unwrap(), Aborted::default());
        bench.end();
    }
}

/// A request of several commands has an Abort for each; those that are done stay done.
#[test]
fn every_part_is_asked_for() {
    let mut bench = Bench::in_memory(",mdts=1");
    bench.rig.inject("hold@op=read+nth=2+count=2");
    let buffer = bench.rig.space.alloc(32 << 10, 4096).unwrap();
    let read = bench.ns.read(Lba(0), 64).unwrap();
    let token = bench.queue.submit(read, buffer).unwrap();
    bench.queue.ring();
    bench.rig.until_fired(2);
    // The other two have ended once the driver has seen so.
    within_limit("the parts that are not held", || {
        bench.queue.poll(1, |_| panic!("it has not ended"));
        (bench.queue.in_flight() == 3).then_some(())
    });
    let outcome = bench.queue.abort(token).unwrap();
    let both = Aborted {
        commands: 2,
        aborted: 2,
    };
    assert_eq!(outcome, both);
    let ended = finish(&mut bench.queue, token);
    assert_eq!(status(ended.result), Status::ABORT_REQUESTED);
    drop(ended.buffer);
    bench.rig.until("two aborts", |stats| stats.aborts == 2);
    bench.end();
}

/// One that the device is through with cannot be aborted, and the device says so; it ends as it
/// would have.
#[test]
fn a_command_that_is_done_is_not_aborted() {
    let mut bench = Bench::in_memory("");
    let page = bench.rig.space.alloc(4096, 4096).unwrap();
    let token = bench
        .queue
        .submit(bench.ns.read(Lba(0), 8).unwrap(), page)
        .unwrap();
    bench.queue.ring();
    let reads = bench.rig.emulator.stats().reads;
    bench
        .rig
        .until("the read", |stats| stats.reads > reads || stats.reads == 1);
    let outcome = bench.queue.abort(token).unwrap();
    assert_eq!((outcome.commands, outcome.aborted), (1, 0));
    finish(&mut bench.queue, token).result.unwrap();
    bench.end();
}
