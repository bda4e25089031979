//! The controller's life: registers, enabling, identify, queues, features, reset, shutdown, stop.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod common;

use common::*;
use std::time::Duration;
use underpin_emulator::{Emulator, EmulatorError};
use underpin_nvme_spec::admin::{
    Abort, Cns, DeleteIoCq, DeleteIoSq, FeatureId, FeatureSelect, GetFeatures, QueueCounts,
    SetFeatures,
};
use underpin_nvme_spec::identify::{
    Descriptor, IdentifyController, IdentifyNamespace, NamespaceDescriptors, NamespaceList,
};
use underpin_nvme_spec::registers::{Aqa, Cap, Cc, Crto, Csts, offset};
use underpin_nvme_spec::{AdminOpcode, Cid, Nsid, Qid, Sqe, Status};

#[test]
fn registers_say_what_is_configured() {
    let text = "size=1m,mqes=64,dstrd=2,mpsmin=1,mpsmax=3,to_ms=2100,crto_ms=10000";
    let emu = Emulator::new(config(text)).unwrap();
    let cap = Cap(emu.read64(offset::CAP));
    assert_eq!(
        (cap.queue_entries_max(), cap.dstrd(), cap.timeout_ms()),
        (64, 2, 2500)
    );
    assert_eq!((cap.page_min_bytes(), cap.page_max_bytes()), (8192, 32768));
    assert!(cap.cqr() && cap.crwms() && cap.css() == 1);
    assert_eq!(
        Crto(emu.read32(offset::CRTO)).with_media_timeout_ms(),
        10_000
    );
    assert_eq!(emu.read32(offset::VS), 0x0002_0000);
    assert_eq!(emu.read32(offset::CAP + 4), (cap.0 >> 32) as u32);
}

#[test]
fn identify_pages_say_what_is_configured() {
    let text =
        "size=1m,awun=7,awupf=1,mdts=3,ns3.lba=4096,ns2.size=3m,ns2.nawun=15,ns2.boundary=31";
    let mut host = Host::up(config(text), Mode::Thread);
    let page = IdentifyController::from_bytes(&host.identify(Cns::CONTROLLER, 0).unwrap());
    assert_eq!(
        (page.mdts(), page.nn(), page.awun(), page.awupf()),
        (3, 3, 7, 1)
    );
    assert_eq!(
        (page.sqes(), page.cqes(), page.ver(), page.vwc()),
        (0x66, 0x44, 0x2_0000, 7)
    );
    assert_eq!(page.oacs() & 1 << 8, 1 << 8, "Doorbell Buffer Config");
    assert!(!page.sn().as_bytes().is_empty());
    let mut ids = Vec::new();
    for (nsid, blocks, shift) in [(1, 2048, 9), (2, 6144, 9), (3, 256, 12)] {
        let page = IdentifyNamespace::from_bytes(&host.identify(Cns::NAMESPACE, nsid).unwrap());
        assert_eq!(
            (page.nsze(), page.ncap(), page.format().lbads()),
            (blocks, blocks, shift)
        );
        let atomic = (
            page.nsfeat() >> 1 & 1,
            page.nawun(),
            page.nawupf(),
            page.nabsn(),
        );
        let own = if nsid == 2 {
            (1, 15, 1, 31)
        } else {
            (0, 0, 0, 0)
        };
        assert_eq!(atomic, own);
        let list = host.identify(Cns::DESCRIPTORS, nsid).unwrap();
        let list = NamespaceDescriptors::from_bytes(&list);
        let kinds: Vec<u8> = list.iter().map(|descriptor| descriptor.nidt).collect();
        assert_eq!(
            kinds,
            [Descriptor::EUI64, Descriptor::NGUID, Descriptor::CSI]
        );
        assert_eq!(list.iter().nth(1).unwrap().nid, page.nguid());
        ids.push(page.nguid());
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3, "namespaces are told apart");
    for (after, left) in [(0, vec![1, 2, 3]), (1, vec![2, 3]), (3, vec![])] {
        let list = host.identify(Cns::ACTIVE_NAMESPACES, after).unwrap();
        let list: Vec<u32> = NamespaceList::from_bytes(&list)
            .iter()
            .map(|n| n.0)
            .collect();
        assert_eq!(list, left);
    }
    let no_namespace = Status::INVALID_NAMESPACE_OR_FORMAT.code();
    for (cns, nsid, code) in [
        (Cns::NAMESPACE, 0, no_namespace),
        (Cns::NAMESPACE, 4, no_namespace),
        (Cns::NAMESPACE, !0, no_namespace),
        (Cns::DESCRIPTORS, 4, no_namespace),
        (Cns::ACTIVE_NAMESPACES, 0xffff_fffe, no_namespace),
        (Cns(0x77), 0, Status::INVALID_FIELD.code()),
    ] {
        assert_eq!(
            host.identify(cns, nsid).unwrap_err().code(),
            code,
            "{cns} {nsid}"
        );
    }
    assert!(host.identify(Cns::COMMAND_SET_NAMESPACE, 1).is_ok());
    assert!(host.identify(Cns::COMMAND_SET_CONTROLLER, 0).is_ok());
}

/// Each thing that must be right before CC.EN is set, made wrong, ends in fatal status; a reset
/// clears it, and the controller can be brought up after all.
#[test]
fn enabling_with_nonsense_is_fatal_until_a_reset() {
    let mut host = Host::new(config("size=1m,mpsmin=0,mpsmax=1"), Mode::Thread);
    let good = host.cc(true);
    let asq = host.admin.sq_buf.iova().get();
    let aqa = Aqa(0).with_asqs(63).with_acqs(63);
    for (cc, aqa, asq, why) in [
        (good.with_mps(2), aqa, asq, "a page larger than MPSMAX"),
        (good.with_css(1), aqa, asq, "a command set that is not"),
        (good.with_ams(1), aqa, asq, "an arbitration that is not"),
        (good.with_iosqes(5), aqa, asq, "entries too small"),
        (good.with_iocqes(5), aqa, asq, "completions too large"),
        (good.with_crime(true), aqa, asq, "a ready mode that is not"),
        (good, aqa.with_asqs(0), asq, "a ring of one entry"),
        (good, aqa.with_acqs(0), asq, "a ring of one entry"),
        (good, aqa, asq + 512, "a ring that begins within a page"),
        (
            good.with_mps(1),
            aqa,
            asq + 4096,
            "a ring that begins within a larger page",
        ),
    ] {
        host.emu.write32(offset::AQA, aqa.0);
        host.emu.write64(offset::ASQ, asq);
        host.emu
            .write64(offset::ACQ, host.admin.cq_buf.iova().get());
        host.emu.write32(offset::CC, cc.0);
        assert!(host.wait_for(|csts| csts.cfs() && !csts.rdy()), "{why}");
        host.emu.write32(offset::CC, 0);
        assert!(host.wait_for(|csts| csts == Csts(0)), "{why}");
    }
    host.enable();
    assert!(host.wait_for(|csts| csts.rdy()));
    host.identify(Cns::CONTROLLER, 0).unwrap();
}

#[test]
fn an_enable_takes_its_time() {
    let mut host = Host::new(config("size=1m,enable=30ms"), Mode::Thread);
    let begin = underpin_dma::rt::Instant::now();
    host.enable();
    assert!(host.wait_for(|csts| csts.rdy()));
    assert!(underpin_dma::rt::Instant::now().since(begin) >= Duration::from_millis(30));
}

/// What the commands that make and delete queues refuse, with the status of Base 2.0, 5.4 to 5.7.
#[test]
fn queues_that_cannot_be() {
    let mut host = Host::up(config("size=1m,queues=3,mqes=64"), Mode::Thread);
    let one = host.create(1, 8);
    let two = host.pair(2, 8);
    let cq = Host::create_cq_of(&two);
    let sq = Host::create_sq_of(&two);
    let on_one = |mut sq: underpin_nvme_spec::admin::CreateIoSq| {
        sq.cqid = Qid(1);
        sq.to_sqe()
    };
    let with = |mut cq: underpin_nvme_spec::admin::CreateIoCq, qid, entries| {
        (cq.qid, cq.entries) = (Qid(qid), entries);
        cq.to_sqe()
    };
    // Dword 10 holds the identifier below and the size, counted from 0, above.
    let sized = |sqe: Sqe, entries: u32| sqe.with_cdw10(sqe.cdw10() & 0xffff | (entries - 1) << 16);
    for (sqe, status, why) in [
        (
            with(cq, 0, 8),
            Status::INVALID_QUEUE_ID,
            "queue 0 is the admin queue",
        ),
        (
            with(cq, 4, 8),
            Status::INVALID_QUEUE_ID,
            "more than granted",
        ),
        (with(cq, 1, 8), Status::INVALID_QUEUE_ID, "it exists"),
        (
            with(cq, 2, 65),
            Status::INVALID_QUEUE_SIZE,
            "more entries than MQES",
        ),
        (
            sized(cq.to_sqe(), 1),
            Status::INVALID_QUEUE_SIZE,
            "one entry",
        ),
        (
            cq.to_sqe().with_cdw11(0),
            Status::INVALID_FIELD,
            "not contiguous",
        ),
        (
            cq.to_sqe().with_prp1(cq.prp1 + 64),
            Status::PRP_OFFSET_INVALID,
            "not a page",
        ),
        (
            sq.to_sqe(),
            Status::COMPLETION_QUEUE_INVALID,
            "no completion queue 2",
        ),
        (
            sq.to_sqe().with_cdw11(1),
            Status::INVALID_QUEUE_ID,
            "completions to the admin queue",
        ),
        (
            sq.to_sqe().with_cdw11(9 << 16 | 1),
            Status::INVALID_QUEUE_ID,
            "no such queue ever",
        ),
        (
            on_one(Host::create_sq_of(&one)),
            Status::INVALID_QUEUE_ID,
            "it exists",
        ),
        (
            sized(on_one(sq), 1),
            Status::INVALID_QUEUE_SIZE,
            "one entry",
        ),
        (
            on_one(sq).with_cdw11(1 << 16),
            Status::INVALID_FIELD,
            "not contiguous",
        ),
        (
            DeleteIoSq { qid: Qid(0) }.to_sqe(),
            Status::INVALID_QUEUE_ID,
            "the admin queue",
        ),
        (
            DeleteIoSq { qid: Qid(2) }.to_sqe(),
            Status::INVALID_QUEUE_ID,
            "there is none",
        ),
        (
            DeleteIoCq { qid: Qid(2) }.to_sqe(),
            Status::INVALID_QUEUE_ID,
            "there is none",
        ),
        (
            DeleteIoCq { qid: Qid(1) }.to_sqe(),
            Status::INVALID_QUEUE_DELETION,
            "still in use",
        ),
        (
            Sqe::new().with_opcode(0x7e),
            Status::INVALID_OPCODE,
            "unknown",
        ),
        (
            Sqe::new().with_opcode(0x06).with_psdt(1),
            Status::INVALID_FIELD,
            "no SGLs",
        ),
    ] {
        assert_eq!(host.admin(sqe).status().code(), status.code(), "{why}");
    }
    // Two submission queues on one completion queue; it goes last.
    assert_eq!(host.admin(on_one(sq)).status(), Status::SUCCESS);
    let mut go = |sqe: Sqe| host.admin(sqe).status().code();
    assert_eq!(go(DeleteIoSq { qid: Qid(1) }.to_sqe()), 0);
    let last = DeleteIoCq { qid: Qid(1) }.to_sqe();
    assert_eq!(go(last), Status::INVALID_QUEUE_DELETION.code());
    assert_eq!(go(DeleteIoSq { qid: Qid(2) }.to_sqe()), 0);
    assert_eq!(go(last), 0);
}

#[test]
fn features() {
    let mut host = Host::up(config("size=1m,queues=3"), Mode::Thread);
    let counts = |submission, completion| {
        QueueCounts {
            submission,
            completion,
        }
        .to_cdw()
    };
    let set = |fid, cdw11| {
        SetFeatures {
            fid,
            cdw11,
            ..SetFeatures::default()
        }
        .to_sqe()
    };
    let get = |fid, sel| {
        GetFeatures {
            fid,
            sel: FeatureSelect(sel),
            ..GetFeatures::default()
        }
        .to_sqe()
    };
    let number = FeatureId::NUMBER_OF_QUEUES;
    for (asked, granted) in [(counts(9, 9), counts(3, 3)), (counts(2, 5), counts(2, 2))] {
        let cqe = host.admin(set(number, asked));
        assert_eq!((cqe.status(), cqe.dw0()), (Status::SUCCESS, granted));
        assert_eq!(host.admin(get(number, 0)).dw0(), granted);
    }
    assert_eq!(
        host.admin(get(number, 1)).dw0(),
        counts(3, 3),
        "the default"
    );
    let mut code = |sqe| host.admin(sqe).status().code();
    assert_eq!(code(set(number, 0xffff_0000)), Status::INVALID_FIELD.code());
    let save = SetFeatures {
        fid: FeatureId::VOLATILE_WRITE_CACHE,
        save: true,
        ..SetFeatures::default()
    };
    assert_eq!(code(save.to_sqe()), Status::FEATURE_NOT_SAVEABLE.code());
    assert_eq!(code(set(FeatureId(0xf0), 1)), Status::INVALID_FIELD.code());
    assert_eq!(code(get(FeatureId(0xf0), 0)), Status::INVALID_FIELD.code());
    assert_eq!(code(set(FeatureId::VOLATILE_WRITE_CACHE, 0)), 0);
    assert_eq!(host.admin(get(FeatureId::VOLATILE_WRITE_CACHE, 0)).dw0(), 0);
    assert_eq!(host.admin(get(FeatureId::VOLATILE_WRITE_CACHE, 1)).dw0(), 1);
    let _pair = host.create(1, 4);
    let late = host.admin(set(number, counts(3, 3))).status();
    assert_eq!(late.code(), Status::COMMAND_SEQUENCE_ERROR.code());
    // Without a cache there is none to switch.
    let mut host = Host::up(config("size=1m,vwc=off"), Mode::Thread);
    let status = host.admin(get(FeatureId::VOLATILE_WRITE_CACHE, 0)).status();
    assert_eq!(status.code(), Status::INVALID_FIELD.code());
}

/// Event requests wait, up to their limit, and an Abort ends one of them.
#[test]
fn events_wait_and_aborts_are_answered() {
    let mut host = Host::up(config("size=1m"), Mode::Thread);
    let event = Sqe::new().with_opcode(AdminOpcode::ASYNC_EVENT_REQUEST.0);
    let requests: Vec<Cid> = (0..4).map(|_| host.admin.push(event)).collect();
    let status = host.admin(event).status();
    assert_eq!(status.code(), Status::ASYNC_EVENT_LIMIT_EXCEEDED.code());
    let abort = Abort {
        sqid: Qid(0),
        cid: requests[2],
    };
    let cqe = host.admin(abort.to_sqe());
    assert_eq!((cqe.status(), cqe.dw0() & 1), (Status::SUCCESS, 0));
    let mut admin = std::mem::replace(&mut host.admin, common::Pair::new(&host.space, 0, 2, 4096));
    let ended = host.wait(|| admin.pop()).unwrap();
    host.admin = admin;
    assert_eq!(ended.cid(), requests[2]);
    assert_eq!(ended.status(), Status::ABORT_REQUESTED);
    // Gone: there is nothing to abort any more.
    let cqe = host.admin(abort.to_sqe());
    assert_eq!((cqe.status(), cqe.dw0() & 1), (Status::SUCCESS, 1));
    let counted = host.wait(|| (host.emu.stats().aborts == 2).then_some(()));
    assert!(counted.is_some(), "both aborts");
}

/// A log page that the specification wants is there, and others are not.
#[test]
fn log_pages() {
    let mut host = Host::up(config("size=1m"), Mode::Thread);
    let buf = host.space.alloc(4096, 4096).unwrap();
    buf.view().copy_from(0, &[0xee; 4096]).unwrap();
    let log = |lid: u32, dwords: u32| {
        Sqe::new()
            .with_opcode(AdminOpcode::GET_LOG_PAGE.0)
            .with_nsid(Nsid::ALL)
            .with_cdw10((dwords - 1) << 16 | lid)
            .with_prp1(buf.iova().get())
    };
    assert_eq!(host.admin(log(2, 128)).status(), Status::SUCCESS);
    let mut bytes = [0; 520];
    buf.copy_to(0, &mut bytes).unwrap();
    assert_eq!((bytes[511], bytes[512]), (0, 0xee));
    let mut code = |sqe| host.admin(sqe).status().code();
    assert_eq!(code(log(2, 129)), Status::INVALID_FIELD.code());
    assert_eq!(code(log(0x70, 1)), Status::INVALID_LOG_PAGE.code());
}

/// A reset takes queues, doorbells and shadow pages away; afterwards all can be made anew.
#[test]
fn a_reset_forgets_everything() {
    for mode in [Mode::Thread, Mode::Local, Mode::Inline] {
        let mut host = Host::up(config("size=1m"), mode);
        for round in 1..=20 {
            let mut pair = host.create(1, 4);
            for _ in 0..9 {
                assert_eq!(host.flush(&mut pair, 1), Status::SUCCESS);
            }
            assert!(host.disable());
            // A doorbell of a queue that is gone is counted and heard by nobody.
            let before = host.emu.stats().invalid_doorbells;
            host.emu.write32(0x1008, 1);
            assert_eq!(host.emu.stats().invalid_doorbells, before + 1);
            host.enable();
            assert!(host.wait_for(|csts| csts.rdy()), "round {round}");
            if round % 2 == 0 {
                host.shadow_doorbells();
            }
        }
        host.identify(Cns::CONTROLLER, 0).unwrap();
        assert_eq!(host.emu.stats().resets, 20);
    }
}

/// Values outside the ring are counted and ignored; the queue goes on.
#[test]
fn doorbells_out_of_range() {
    let mut host = Host::up(config("size=1m,dbbuf=off"), Mode::Thread);
    let mut pair = host.create(1, 4);
    for value in [4, 0xffff, u32::MAX] {
        let before = host.emu.stats().invalid_doorbells;
        host.emu.write32(0x1008, value);
        host.wait(|| (host.emu.stats().invalid_doorbells > before).then_some(()))
            .unwrap();
    }
    assert_eq!(host.flush(&mut pair, 1), Status::SUCCESS);
    assert_eq!(host.csts(), Csts(0).with_rdy(true));
}

#[test]
fn a_shutdown_completes_and_ends_processing() {
    let mut host = Host::up(config("size=1m"), Mode::Thread);
    let mut pair = host.create(1, 4);
    host.emu
        .write32(offset::CC, host.cc(true).with_shn(Cc::SHN_NORMAL).0);
    assert!(host.wait_for(|csts| csts.shst() == Csts::SHST_COMPLETE && csts.rdy()));
    pair.push(underpin_nvme_spec::nvm::Flush { nsid: Nsid(1) }.to_sqe());
    pair.ring(&host.emu, host.dstrd);
    host.pass(Duration::from_millis(2));
    assert!(pair.pop().is_none());
    assert!(host.disable());
    assert_eq!(host.csts(), Csts(0));
}

/// After `stop` the device is gone: registers read all ones, and no command is executed.
#[test]
fn stop_is_the_end() {
    for mode in [Mode::Thread, Mode::Local, Mode::Inline] {
        let mut host = Host::up(config("size=1m"), mode);
        let mut pair = host.create(1, 4);
        host.emu.stop().unwrap();
        assert_eq!(host.emu.read32(offset::CSTS), u32::MAX);
        assert_eq!(host.emu.read64(offset::CAP), u64::MAX);
        pair.push(underpin_nvme_spec::nvm::Flush { nsid: Nsid(1) }.to_sqe());
        pair.ring(&host.emu, host.dstrd);
        host.pass(Duration::from_millis(2));
        assert!(pair.pop().is_none());
        assert!(host.emu.stop().is_ok(), "a second stop changes nothing");
        assert!(matches!(
            host.emu.start_thread(),
            Err(EmulatorError::Started)
        ));
    }
}

/// The last handle that is dropped joins the thread: nothing hangs, nothing is left.
#[test]
fn dropping_the_last_handle_stops_the_controller() {
    for _ in 0..50 {
        let emu = Emulator::new(config("size=1m")).unwrap();
        let other = emu.clone();
        emu.start_thread().unwrap();
        drop(emu);
        assert_ne!(other.read32(offset::VS), u32::MAX);
    }
}
