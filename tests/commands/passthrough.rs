//! Commands that the driver does not know.
use crate::bench::Counter;
use crate::support::{Rig, bytes, is_stamped, stamp};
use std::time::Duration;
use underpin::nvme::{ControllerOptions, Error, Failure, Passthrough, PassthroughData};
use underpin::{DmaBuf, Lba, QueueOptions, QueuePair};

fn admin(opcode: u8, cdw10: u32, data: PassthroughData) -> Passthrough {
    Passthrough {
        opcode,
        cdw10,
        data,
        ..Passthrough::default()
    }
}

/// Identify, sent raw, answers as the driver's own did.
#[test]
fn an_admin_command_brings_data_and_dword_0() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let identify = admin(0x06, 1, PassthroughData::In(4096));
    let answer = controller.admin_passthrough(&identify).unwrap();
    assert_eq!(answer.data, controller.identify().as_bytes());
    let queues = admin(0x0a, 0x07, PassthroughData::None);
    let answer = controller.admin_passthrough(&queues).unwrap();
    assert_eq!(answer.dw0 & 0xffff, 15, "16 queues, counted from 0");
    let mut call = controller.begin_admin_passthrough(&identify).unwrap();
    let polled = crate::support::within_limit("an answer", || call.poll());
    assert_eq!(polled.unwrap().data.len(), 4096);
    assert!(call.poll().is_none(), "an answer is given once");
    drop(controller);
    rig.end();
}

/// What would change queues, doorbells or blocks under the driver is refused with a reason, unless
/// it is overruled; so are data that go the wrong way.
#[test]
fn what_would_break_the_driver_is_refused() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let sent = Counter::new(&rig, "op=admin");
    for (opcode, cdw10) in [
        (0x00, 1),
        (0x01, 1),
        (0x04, 1),
        (0x05, 1),
        (0x09, 0x07),
        (0x0c, 0),
        (0x7c, 0),
        (0x80, 0),
    ] {
        let command = admin(opcode, cdw10, PassthroughData::None);
        let error = controller.admin_passthrough(&command).unwrap_err();
        assert!(matches!(error, Error::WouldBreakDriver { .. }), "{error:?}");
        assert!(error.to_string().contains("overrule_driver"), "{error}");
    }
    let wrong = admin(0x06, 1, PassthroughData::Out(vec![0; 4096]));
    let error = controller.admin_passthrough(&wrong).unwrap_err();
    assert!(matches!(error, Error::Request(_)), "{error:?}");
    let long = admin(0x06, 1, PassthroughData::In(1 << 30));
    let error = controller.admin_passthrough(&long).unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }), "{error:?}");
    assert_eq!(sent.count(&rig), 0);
    // Deleting a queue that is not there is harmless, and the caller insists.
    let command = Passthrough {
        overrule_driver: true,
        ..admin(0x00, 9, PassthroughData::None)
    };
    let error = controller.admin_passthrough(&command).unwrap_err();
    assert!(matches!(error, Error::Admin { .. }), "{error:?}");
    assert_eq!(sent.count(&rig), 1);
    drop(controller);
    rig.end();
}

/// A command with a time of its own is late by that, not by the controller's; one that is given
/// longer has longer.
#[test]
fn a_command_has_its_own_deadline() {
    let rig = Rig::new("size=1m");
    let controller = rig
        .open(ControllerOptions {
            admin_timeout: Duration::from_secs(1),
            ..ControllerOptions::default()
        })
        .unwrap();
    rig.inject("delay:2500ms@op=0x06");
    let patient = Passthrough {
        timeout_ms: Some(20_000),
        ..admin(0x06, 1, PassthroughData::In(4096))
    };
    controller.admin_passthrough(&patient).unwrap();
    drop(controller);
    let controller = rig.controller();
    rig.inject("drop@op=0x06");
    let hasty = Passthrough {
        timeout_ms: Some(30),
        ..patient
    };
    let error = controller.admin_passthrough(&hasty).unwrap_err();
    let Error::Failed(Failure::Timeout { timeout, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(timeout, Duration::from_millis(30));
    drop(controller);
    rig.end();
}

/// Write and Read, sent raw, move the buffer's bytes: over one page, two, and a list.
#[test]
fn an_io_command_moves_the_buffer() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let ns = controller.namespace(None).unwrap();
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default()).unwrap();
    for blocks in [1_u32, 8, 16, 17, 128] {
        let len_bytes = u64::from(blocks) * 512;
        let command = |opcode| Passthrough {
            opcode,
            cdw10: 100,
            cdw12: blocks - 1,
            ..Passthrough::default()
        };
        let mut buffer = rig.space.alloc(len_bytes as usize, 512).unwrap();
        stamp(&mut buffer, u64::from(blocks));
        let write = ns.passthrough(&command(0x01), len_bytes).unwrap();
        let (mut buffer, dw0) = queue.run_raw(write, buffer).unwrap();
        assert_eq!(dw0, 0);
        buffer.fill(0);
        let buffer = queue
            .run(ns.read(Lba(100), u64::from(blocks)).unwrap(), buffer)
            .unwrap();
        assert!(is_stamped(&buffer, u64::from(blocks)), "{blocks}");
        let read = ns.passthrough(&command(0x02), len_bytes).unwrap();
        let fresh = rig.space.alloc(len_bytes as usize, 512).unwrap();
        let (fresh, _) = queue.run_raw(read, fresh).unwrap();
        assert_eq!(bytes(&fresh), bytes(&buffer));
    }
    // Flush has no data.
    let flush = Passthrough::default();
    let token = queue
        .submit_raw_bare(ns.passthrough(&flush, 0).unwrap())
        .unwrap();
    queue.wait_for(token).result.unwrap();
    rig.until("a flush", |stats| stats.flushes == 1);
    drop((queue, ns, controller));
    rig.end();
}

/// A read that would run over its buffer, a buffer that is too short, and another controller's
/// request are refused; the buffer comes back.
#[test]
fn an_io_command_never_exceeds_its_buffer() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let other = Rig::new("size=1m");
    let stranger = other.controller().namespace(None).unwrap();
    let ns = controller.namespace(None).unwrap();
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default()).unwrap();
    let read = Passthrough {
        opcode: 0x02,
        cdw12: 8,
        ..Passthrough::default()
    };
    let error = ns.passthrough(&read, 4096).unwrap_err();
    assert!(matches!(error, Error::Request(_)), "{error:?}");
    let good = ns.passthrough(&read, 9 * 512).unwrap();
    let short = rig.space.alloc(4096, 4096).unwrap();
    let refused = queue.submit_raw(good, short).unwrap_err();
    assert!(matches!(refused.error, Error::Buffer(_)), "{refused}");
    assert_eq!(refused.buffer.len_bytes(), 4096);
    let theirs = stranger.passthrough(&read, 9 * 512).unwrap();
    let long = rig.space.alloc(8192, 4096).unwrap();
    let refused = queue.submit_raw(theirs, long).unwrap_err();
    assert!(matches!(refused.error, Error::WrongController));
    let long = ns.passthrough(&Passthrough::default(), 64 << 20).unwrap();
    let error = queue.submit_raw_bare(long).unwrap_err();
    assert!(matches!(error, Error::Buffer(_)), "{error:?}");
    assert_eq!((queue.in_flight(), queue.free()), (0, queue.depth()));
    drop((queue, ns, controller));
    rig.end();
}
