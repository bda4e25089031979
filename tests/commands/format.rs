//! Format NVM, and identifying namespaces anew.
use crate::bench::{Bench, Counter, status};
use crate::support::{Rig, is_stamped, stamp};
use std::time::Duration;
use underpin::emulator::Notice;
use underpin::nvme::{Error, Status};
use underpin::spec::Nsid;
use underpin::spec::admin::{FormatNvm, SecureErase};
use underpin::{DmaBuf, Lba, QueueOptions, QueuePair};

const MINUTE: Duration = Duration::from_secs(60);

fn format(nsid: u32, lbaf: u8) -> FormatNvm {
    FormatNvm {
        nsid: Nsid(nsid),
        lbaf,
        ..FormatNvm::default()
    }
}

/// A format gives blocks of another size and takes what they held; the namespace is identified
/// anew, and the other is as it was.
#[test]
fn blocks_get_another_size() {
    let rig = Rig::new("size=1m,ns=2");
    let controller = rig.controller();
    let old = controller.namespace(None).unwrap();
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default()).unwrap();
    for ns in controller.namespaces() {
        let mut page = rig.space.alloc(4096, 4096).unwrap();
        stamp(&mut page, u64::from(ns.nsid().0));
        queue.run(ns.write(Lba(0), 8).unwrap(), page).unwrap();
    }
    let sent = Counter::new(&rig, "op=0x80");
    // Requests of the old size may be in flight, or come.
    let error = controller.format(&format(1, 1), MINUTE).unwrap_err();
    assert!(
        matches!(error, Error::QueuesInUse { queues: 1, .. }),
        "{error:?}"
    );
    assert_eq!(sent.count(&rig), 0);
    drop(queue);
    controller.format(&format(1, 1), MINUTE).unwrap();
    let ns = controller.namespace(None).unwrap();
    assert_eq!((ns.lba_bytes(), ns.blocks()), (4096, 256));
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default()).unwrap();
    let page = rig.space.alloc(4096, 4096).unwrap();
    let mut page = queue.run(ns.read(Lba(0), 1).unwrap(), page).unwrap();
    let mut bytes = [1; 4096];
    page.copy_to(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4096], "what was there is gone");
    // The old handle's requests would be of the wrong size: no queue takes them.
    let refused = queue
        .submit(old.read(Lba(0), 8).unwrap(), page)
        .unwrap_err();
    assert!(matches!(refused.error, Error::WrongController), "{refused}");
    page = refused.buffer;
    let other = controller.namespace(Some(Nsid(2))).unwrap();
    assert_eq!(other.lba_bytes(), 512);
    let page = queue.run(other.read(Lba(0), 8).unwrap(), page).unwrap();
    assert!(is_stamped(&page, 2), "the other namespace");
    drop((queue, page, old, ns, other, controller));
    rig.end();
}

/// Erasures leave zeroes, on the medium too.
#[test]
fn erased_blocks_are_zeroes() {
    for erase in [
        SecureErase::None,
        SecureErase::UserData,
        SecureErase::Cryptographic,
    ] {
        let bench = Bench::on_file("");
        let Bench {
            queue, controller, ..
        } = &bench;
        assert_eq!(queue.in_flight(), 0);
        let command = FormatNvm {
            erase,
            ..format(1, 0)
        };
        let error = controller.format(&command, MINUTE).unwrap_err();
        assert!(matches!(error, Error::QueuesInUse { .. }), "{error:?}");
        let bench = bench.formatted(&command);
        assert!(bench.medium().iter().all(|&byte| byte == 0), "{erase:?}");
        bench.end();
    }
}

/// What the namespace or the device does not have is refused; what only the device can refuse ends
/// with its status, and leaves the namespace as it was.
#[test]
fn what_cannot_be_is_refused() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let sent = Counter::new(&rig, "op=0x80");
    let error = controller.format(&format(1, 2), MINUTE).unwrap_err();
    assert!(matches!(error, Error::Request(_)), "{error:?}");
    let error = controller.format(&format(7, 0), MINUTE).unwrap_err();
    assert!(matches!(error, Error::NoNamespace { .. }), "{error:?}");
    assert_eq!(sent.count(&rig), 0);
    let protected = FormatNvm {
        protection: 1,
        ..format(1, 0)
    };
    let error = controller.format(&protected, MINUTE).unwrap_err();
    assert!(
        matches!(&error, Error::Admin { status, .. } if status.code() == Status::INVALID_FORMAT.code()),
        "{error:?}"
    );
    controller.set_write_protection(Nsid(1), true).unwrap();
    let error = controller.format(&format(1, 1), MINUTE).unwrap_err();
    assert!(error.to_string().contains("Write Protected"), "{error}");
    assert_eq!(controller.namespace(None).unwrap().lba_bytes(), 512);
    // Queues can be made again, all of them.
    let granted = controller.granted_queues();
    let queues: Vec<QueuePair<DmaBuf>> = (0..granted)
        .map(|_| controller.queue_pair(QueueOptions::default()).unwrap())
        .collect();
    drop((queues, controller));
    rig.end();
}

/// A rescan sees what has changed without a format, and old handles stay good while blocks have
/// the same size.
#[test]
fn a_rescan_sees_changes() {
    let mut bench = Bench::in_memory("");
    let nsid = bench.ns.nsid();
    let protected = |bench: &Bench| {
        let ns = bench.controller.namespace(None).unwrap();
        ns.identify().nsattr() & 1 != 0
    };
    bench.controller.set_write_protection(nsid, true).unwrap();
    bench.rig.emulator.notify(Notice::NamespaceChanged(1));
    assert!(!protected(&bench));
    bench.controller.rescan().unwrap();
    assert!(protected(&bench));
    assert!(bench.read_all() == Bench::filling(), "with the old handle");
    let page = bench.rig.space.alloc(4096, 4096).unwrap();
    let token = bench
        .queue
        .submit(bench.ns.write(Lba(0), 8).unwrap(), page)
        .unwrap();
    let ended = bench.queue.wait_for(token);
    assert_eq!(status(ended.result), Status::NAMESPACE_WRITE_PROTECTED);
    drop(ended.buffer);
    bench.end();
}

/// A format that the device refuses leaves namespaces that can be used: those that the controller
/// gives afterwards are taken by its queues.
#[test]
fn a_refused_format_leaves_namespaces_that_work() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    controller.set_write_protection(Nsid(1), true).unwrap();
    let error = controller.format(&format(1, 1), MINUTE).unwrap_err();
    assert!(error.to_string().contains("Write Protected"), "{error}");
    let ns = controller.namespace(None).unwrap();
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default()).unwrap();
    let page = rig.space.alloc(4096, 4096).unwrap();
    let page = queue.run(ns.read(Lba(0), 8).unwrap(), page).unwrap();
    drop((queue, page, ns, controller));
    rig.end();
}
