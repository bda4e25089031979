//! Every fault does what it says, at the command it is meant for, and reports that it did.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod common;

use common::*;
use std::time::Duration;
use underpin_dma::rt::{Instant, Rng};
use underpin_emulator::{Emulator, Fault, FaultKind, Referee, ViolationKind};
use underpin_nvme_spec::admin::{Abort, Cns, DeleteIoSq};
use underpin_nvme_spec::registers::offset;
use underpin_nvme_spec::{Cid, Qid, Sqe, Status};

fn fired(emu: &Emulator) -> Vec<u64> {
    emu.faults().iter().map(|report| report.fired).collect()
}

/// A host with one queue pair and a page of data, and the fault injected once that is there.
fn rig(fault: &str, mode: Mode) -> (Host, Pair, underpin_dma::DmaBuf) {
    // Stepped, commands overtake each other: what these tests say of their order is lost.
    let mut host = Host::up(config("size=1m,step=off"), mode);
    let pair = host.create(1, 8);
    let buf = host.space.alloc(4096, 4096).unwrap();
    Fault::parse_list(fault)
        .unwrap()
        .into_iter()
        .for_each(|fault| host.emu.inject(fault));
    (host, pair, buf)
}

fn submit(host: &Host, pair: &mut Pair, sqe: Sqe) -> Cid {
    let cid = pair.push(sqe);
    pair.ring(&host.emu, host.dstrd);
    cid
}

#[test]
fn a_status_ends_the_command_unexecuted() {
    let (host, mut pair, buf) = rig(
        "status:0x280@op=write+nth=2;status:0x4281@op=read",
        Mode::Thread,
    );
    buf.view().copy_from(0, &[1; 4096]).unwrap();
    let mut go = |sqe: Sqe| host.io(&mut pair, sqe.with_prp1(buf.iova().get())).status();
    assert_eq!(go(write(1, 0, 1)), Status::SUCCESS);
    assert_eq!(go(write(1, 1, 1)), Status::WRITE_FAULT);
    assert_eq!(go(write(1, 2, 1)), Status::SUCCESS);
    let status = go(read(1, 0, 1));
    assert_eq!(status, Status::UNRECOVERED_READ_ERROR.with_do_not_retry());
    assert_eq!(go(read(1, 0, 3)), Status::SUCCESS);
    let mut bytes = [9; 1536];
    buf.copy_to(0, &mut bytes).unwrap();
    assert_eq!(
        (bytes[0], bytes[512], bytes[1024]),
        (1, 0, 1),
        "block 1 was not written"
    );
    assert_eq!(fired(&host.emu), [1, 1]);
}

#[test]
fn a_delay_holds_one_command_and_no_other() {
    for mode in [Mode::Thread, Mode::Local, Mode::Inline] {
        let (host, mut pair, buf) = rig("delay:30ms@op=read+lba=7", mode);
        let begin = Instant::now();
        let late = submit(&host, &mut pair, read(1, 7, 1).with_prp1(buf.iova().get()));
        let early = submit(&host, &mut pair, read(1, 8, 1).with_prp1(buf.iova().get()));
        assert_eq!(host.complete(&mut pair).unwrap().cid(), early);
        assert_eq!(host.complete(&mut pair).unwrap().cid(), late);
        assert!(Instant::now().since(begin) >= Duration::from_millis(30));
        assert_eq!(fired(&host.emu), [1]);
    }
}

/// Dropped: executed, never completed. Others go on.
#[test]
fn a_dropped_completion_never_comes() {
    let (host, mut pair, buf) = rig("drop@op=write", Mode::Thread);
    buf.view().copy_from(0, &[5; 512]).unwrap();
    submit(&host, &mut pair, write(1, 0, 1).with_prp1(buf.iova().get()));
    let sqe = read(1, 0, 1).with_prp1(buf.iova().get() + 512);
    let next = submit(&host, &mut pair, sqe);
    assert_eq!(host.complete(&mut pair).unwrap().cid(), next);
    host.pass(Duration::from_millis(3));
    assert!(pair.pop().is_none());
    let mut bytes = [0; 512];
    buf.copy_to(512, &mut bytes).unwrap();
    assert_eq!(bytes, [5; 512], "it was executed");
    assert_eq!(fired(&host.emu), [1]);
}

#[test]
fn corrupted_completions() {
    let (host, mut pair, buf) = rig("duplicate@op=read", Mode::Thread);
    let cid = submit(&host, &mut pair, read(1, 0, 1).with_prp1(buf.iova().get()));
    assert_eq!(host.complete(&mut pair).unwrap().cid(), cid);
    assert_eq!(host.complete(&mut pair).unwrap().cid(), cid, "twice");
    assert_eq!(fired(&host.emu), [1]);

    for seed in 0..8 {
        let mut config = config("size=1m");
        config.seed = seed;
        let mut host = Host::up(config, Mode::Inline);
        let mut pair = host.create(1, 8);
        for (fault, check) in [
            ("corrupt-cid@op=flush", 0),
            ("corrupt-sqid@op=flush", 1),
            ("corrupt-sqhd@op=flush", 2),
        ] {
            host.emu.inject(fault.parse().unwrap());
            let sqe = underpin_nvme_spec::nvm::Flush {
                nsid: underpin_nvme_spec::Nsid(1),
            };
            let cid = submit(&host, &mut pair, sqe.to_sqe());
            let cqe = host.complete(&mut pair).unwrap();
            let wrong = [cqe.cid() != cid, cqe.sqid() != Qid(1), cqe.sqhd() >= 8];
            let wanted: Vec<bool> = (0..3).map(|at| at == check).collect();
            assert_eq!(wrong.to_vec(), wanted, "{fault}: {cqe:?}");
        }
        host.emu.inject("corrupt-phase@op=flush".parse().unwrap());
        let before = host.emu.stats().completions;
        submit(
            &host,
            &mut pair,
            underpin_nvme_spec::nvm::Flush {
                nsid: underpin_nvme_spec::Nsid(1),
            }
            .to_sqe(),
        );
        host.wait(|| (host.emu.stats().completions > before).then_some(()))
            .unwrap();
        assert!(pair.pop().is_none(), "written, but with the old phase");
        assert_eq!(fired(&host.emu), [1; 4]);
    }
}

/// Held: neither data nor completion until the release; then both, in this order.
#[test]
fn a_held_command_waits_for_its_release() {
    for mode in [Mode::Thread, Mode::Local, Mode::Inline] {
        let (host, mut pair, buf) = rig("hold@op=read+count=2", mode);
        buf.view().copy_from(0, &[0xaa; 4096]).unwrap();
        let one = submit(&host, &mut pair, read(1, 0, 8).with_prp1(buf.iova().get()));
        let two = submit(&host, &mut pair, read(1, 0, 1).with_prp1(buf.iova().get()));
        assert_eq!(host.flush(&mut pair, 1), Status::SUCCESS, "others go on");
        host.pass(Duration::from_millis(2));
        let mut bytes = [0; 4096];
        buf.copy_to(0, &mut bytes).unwrap();
        assert!(pair.pop().is_none() && bytes == [0xaa; 4096], "nothing yet");
        host.emu.release_held();
        let mut cids = [one, two].map(|_| host.complete(&mut pair).unwrap().cid());
        cids.sort();
        assert_eq!(cids, [one, two]);
        buf.copy_to(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4096]);
    }
}

/// A held command is ended by an Abort, and by the deletion of its queue: with the right status,
/// and without any DMA afterwards, though it be released.
#[test]
fn ended_while_held() {
    let referee = Referee::new();
    let mut config = config("size=1m,fault=hold@op=read+count=all");
    config.referee = Some(referee.clone());
    let mut host = Host::up(config, Mode::Thread);
    let mut pair = host.create(1, 8);
    let buf = host.space.alloc(4096, 4096).unwrap();
    buf.view().copy_from(0, &[0xaa; 4096]).unwrap();
    let sqe = read(1, 0, 8).with_prp1(buf.iova().get());
    let first = submit(&host, &mut pair, sqe);
    let others = [(); 3].map(|()| submit(&host, &mut pair, sqe));
    host.wait(|| (host.emu.stats().sqes >= 7).then_some(()))
        .unwrap();
    let abort = Abort {
        sqid: Qid(1),
        cid: first,
    };
    assert_eq!(host.admin(abort.to_sqe()).dw0() & 1, 0, "aborted");
    let cqe = host.complete(&mut pair).unwrap();
    assert_eq!((cqe.cid(), cqe.status()), (first, Status::ABORT_REQUESTED));
    let delete = DeleteIoSq { qid: Qid(1) };
    assert_eq!(host.admin(delete.to_sqe()).status(), Status::SUCCESS);
    for cid in others {
        let cqe = pair.pop().expect("written before the deletion completed");
        assert_eq!(
            (cqe.cid(), cqe.status()),
            (cid, Status::ABORTED_SQ_DELETION)
        );
    }
    let canary = host.space.alloc(4096, 4096).unwrap();
    drop(buf);
    host.emu.release_held();
    host.pass(Duration::from_millis(3));
    let mut bytes = [1; 4096];
    canary.copy_to(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4096]);
    assert_eq!(referee.violations(), []);
}

/// Late DMA happens after the completion, and the referee sees it; unless a reset came first.
#[test]
fn late_dma_is_late_and_seen() {
    let referee = Referee::new();
    let mut config = config("size=1m");
    config.referee = Some(referee.clone());
    let mut host = Host::up(config, Mode::Thread);
    let mut pair = host.create(1, 8);
    let buf = host.space.alloc(4096, 4096).unwrap();
    buf.view().copy_from(0, &[0xaa; 4096]).unwrap();
    let sqe = read(1, 0, 8).with_prp1(buf.iova().get());
    let untouched = |buf: &underpin_dma::DmaBuf| {
        let mut bytes = [0; 4096];
        buf.copy_to(0, &mut bytes).unwrap();
        bytes == [0xaa; 4096]
    };
    host.emu.inject("late-dma:20ms@op=read".parse().unwrap());
    assert_eq!(host.io(&mut pair, sqe).status(), Status::SUCCESS);
    assert!(untouched(&buf) && referee.violation_count() == 0);
    host.wait(|| (!untouched(&buf)).then_some(())).unwrap();
    host.wait(|| (referee.violation_count() > 0).then_some(()))
        .unwrap();
    let violations = referee.violations();
    assert!(
        violations
            .iter()
            .all(|v| v.kind == ViolationKind::AfterCompletion && v.qid == 1)
    );
    assert_eq!(violations[0].iova, buf.iova());
    // A reset ends even that.
    host.emu.inject("late-dma:20ms@op=read".parse().unwrap());
    host.io(&mut pair, sqe);
    buf.view().copy_from(0, &[0xaa; 4096]).unwrap();
    assert!(host.disable());
    host.pass(Duration::from_millis(40));
    assert!(untouched(&buf));
    assert_eq!(fired(&host.emu), [1, 1]);
}

#[test]
fn never_ready_and_never_disabled() {
    let mut host = Host::new(
        config("size=1m,fault=never-ready;never-disabled"),
        Mode::Thread,
    );
    host.enable();
    host.wait(|| (fired(&host.emu) == [1, 0]).then_some(()))
        .unwrap();
    host.pass(Duration::from_millis(5));
    assert!(!host.csts().rdy() && !host.csts().cfs());
    // This clearing of EN is ignored, so the controller stays where it was.
    host.emu.write32(offset::CC, host.cc(false).0);
    host.wait(|| (fired(&host.emu) == [1, 1]).then_some(()))
        .unwrap();
    // The next is not.
    host.emu.write32(offset::CC, host.cc(true).0);
    host.emu.write32(offset::CC, host.cc(false).0);
    host.wait(|| (host.emu.stats().resets == 0).then_some(()))
        .unwrap();
    host.enable();
    assert!(host.wait_for(|csts| csts.rdy()));
    host.emu.inject("never-disabled".parse().unwrap());
    host.emu.write32(offset::CC, host.cc(false).0);
    host.pass(Duration::from_millis(5));
    assert!(host.csts().rdy());
    host.identify(Cns::CONTROLLER, 0).unwrap();
    assert_eq!(fired(&host.emu), [1, 1, 1]);
}

#[test]
fn fatal_status_stops_everything_until_a_reset() {
    let (mut host, mut pair, _buf) = rig("cfs@op=flush", Mode::Thread);
    submit(
        &host,
        &mut pair,
        underpin_nvme_spec::nvm::Flush {
            nsid: underpin_nvme_spec::Nsid(1),
        }
        .to_sqe(),
    );
    assert!(host.wait_for(|csts| csts.cfs()));
    host.pass(Duration::from_millis(2));
    assert!(pair.pop().is_none());
    assert!(host.disable());
    host.enable();
    assert!(host.wait_for(|csts| csts.rdy() && !csts.cfs()));
    host.identify(Cns::CONTROLLER, 0).unwrap();
    // At an enable, too.
    host.emu.inject("cfs@op=enable".parse().unwrap());
    assert!(host.disable());
    host.enable();
    assert!(host.wait_for(|csts| csts.cfs() && !csts.rdy()));
    assert_eq!(fired(&host.emu), [1, 1]);
}

#[test]
fn a_removed_device_is_gone_for_ever() {
    let (host, mut pair, buf) = rig("removed@op=read", Mode::Thread);
    submit(&host, &mut pair, read(1, 0, 1).with_prp1(buf.iova().get()));
    host.wait(|| (host.emu.read32(offset::CSTS) == u32::MAX).then_some(()))
        .unwrap();
    assert_eq!(host.emu.read64(offset::CAP), u64::MAX);
    host.emu.write32(offset::CC, 0);
    host.pass(Duration::from_millis(2));
    assert!(pair.pop().is_none());
    assert_eq!(host.emu.read32(offset::CSTS), u32::MAX);
    assert_eq!(fired(&host.emu), [1]);
    host.emu.stop().unwrap();
}

/// A device that is pulled while it works: gone at once, and others are not disturbed.
#[test]
fn a_device_is_pulled_while_it_works() {
    for mode in [Mode::Thread, Mode::Local, Mode::Inline] {
        let (host, mut pair, buf) = rig("delay:1s@op=read", mode);
        submit(&host, &mut pair, read(1, 0, 1).with_prp1(buf.iova().get()));
        host.emu.remove();
        assert_eq!(host.emu.read64(offset::CAP), u64::MAX);
        host.pass(Duration::from_millis(2));
        assert!(pair.pop().is_none());
        host.emu.stop().unwrap();
    }
}

#[test]
fn spoiled_identify_pages() {
    let mut host = Host::up(config("size=1m,fault=short-identify:100"), Mode::Thread);
    let short = host.identify(Cns::CONTROLLER, 0).unwrap();
    let whole = host.identify(Cns::CONTROLLER, 0).unwrap();
    assert!(short[..100] == whole[..100] && short[100..].iter().all(|&byte| byte == 0));
    host.emu.inject("garbage-identify@nth=2".parse().unwrap());
    assert!(host.identify(Cns::CONTROLLER, 0).unwrap() == whole);
    let garbage = host.identify(Cns::CONTROLLER, 0).unwrap();
    let same = garbage.iter().zip(&whole).filter(|(a, b)| a == b).count();
    assert!(same < 200, "{same} bytes are as they were");
    assert_eq!(fired(&host.emu), [1, 1]);
}

/// Random faults against a small workload, in every mode: each kind fires, nothing panics, and
/// the controller can always be stopped.
#[test]
fn random_faults_all_fire() {
    let mut rng = Rng::seeded(2);
    let mut count = [0_u32; FaultKind::COUNT];
    for round in 0..640 {
        let mut config = config("size=1m");
        let fault = Fault::random(&mut rng);
        config.faults.push(fault);
        config.seed = round;
        config.stepped = round % 2 == 0;
        let mut host = Host::new(config, Mode::Inline);
        host.hurry = true;
        workload(&mut host);
        host.emu.stop().unwrap();
        let report = &host.emu.faults()[0];
        if report.fired > 0 {
            count[fault.kind.ordinal()] += 1;
            assert!(report.first_fired <= report.last_fired);
        }
        assert!(report.fired > 0, "{report}");
    }
    assert!(count.iter().all(|&count| count >= 5), "{count:?}");
}

/// Brings a controller up, does a dozen transfers and takes it down, whatever it answers.
fn workload(host: &mut Host) {
    host.enable();
    if host.wait(|| host.csts().rdy().then_some(())).is_some() {
        for _ in 0..4 {
            host.try_admin(
                underpin_nvme_spec::admin::Identify {
                    cns: Cns::CONTROLLER,
                    prp1: host.admin.sq_buf.iova().get() + 0x800,
                    ..Default::default()
                }
                .to_sqe(),
            );
        }
        host.try_admin(
            Sqe::new()
                .with_opcode(0x02)
                .with_cdw10(0x7f_0002)
                .with_prp1(host.admin.sq_buf.iova().get() + 0x800),
        );
        let mut pair = host.pair(1, 32);
        host.try_admin(Host::create_cq_of(&pair).to_sqe());
        host.try_admin(Host::create_sq_of(&pair).to_sqe());
        let buf = host.space.alloc(4096, 4096).unwrap();
        for nth in 0..8 {
            for sqe in [write(1, nth, 1), read(1, nth, 1)] {
                submit(host, &mut pair, sqe.with_prp1(buf.iova().get()));
                let _ = host.complete(&mut pair);
            }
        }
    }
    let cc = host.cc(true).with_shn(1);
    host.emu.write32(offset::CC, cc.0);
    let _ = host.wait(|| (host.csts().shst() == 2).then_some(()));
    host.emu.write32(offset::CC, host.cc(false).0);
    let _ = host.wait(|| (!host.csts().rdy()).then_some(()));
}
