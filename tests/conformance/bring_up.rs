//! Opening a device, and what it says of itself.
use crate::harness::Verdict::Done;
use crate::harness::{Device, Open, Test, Verdict, lacks};
use underpin::nvme::{Passthrough, PassthroughData};
use underpin::{ControllerOptions, DmaSpace, Error, Nsid};

pub(crate) const TESTS: &[Test] = &[
    ("bring_up::opens_and_closes", opens_and_closes),
    ("bring_up::opens_again_and_again", opens_again_and_again),
    ("bring_up::opens_in_a_used_space", opens_in_a_used_space),
    ("bring_up::limits_make_sense", limits_make_sense),
    (
        "bring_up::controller_identifies_itself",
        controller_identifies_itself,
    ),
    (
        "bring_up::namespaces_identify_themselves",
        namespaces_identify_themselves,
    ),
    ("bring_up::raw_identify_agrees", raw_identify_agrees),
    (
        "bring_up::unknown_namespace_is_refused",
        unknown_namespace_is_refused,
    ),
    ("bring_up::options_are_kept", options_are_kept),
    ("bring_up::shadow_doorbells", shadow_doorbells),
];

fn opens_and_closes(device: &Device) -> Verdict {
    device.open().close().unwrap();
    Done
}

fn opens_again_and_again(device: &Device) -> Verdict {
    let model = device.open().identify().mn().to_string();
    for _ in 0..5 {
        let controller = device.open();
        assert_eq!(controller.failure(), None);
        assert_eq!(controller.identify().mn().to_string(), model);
    }
    Done
}

/// Memory that was there before the device came is reached like any other.
fn opens_in_a_used_space(device: &Device) -> Verdict {
    let space = DmaSpace::new();
    let region = space.region("before", 4 << 20).unwrap();
    let buffer = region.buf(1 << 20, 8192).unwrap();
    let controller = device
        .try_open(&space, ControllerOptions::default())
        .unwrap();
    let namespace = controller.namespace(None).unwrap();
    let mut queue = controller.queue_pair(Default::default()).unwrap();
    let blocks = 8192 / u64::from(namespace.lba_bytes());
    let io = namespace.read(underpin::Lba(0), blocks).unwrap();
    queue.run(io, buffer).unwrap();
    Done
}

fn limits_make_sense(device: &Device) -> Verdict {
    let controller = device.open();
    let capabilities = controller.capabilities();
    assert!(capabilities.mqes() >= 1 && capabilities.mpsmin() <= capabilities.mpsmax());
    let version = controller.version();
    assert!(version.0 >= 0x0001_0000, "{version:?}");
    assert!(controller.granted_queues() >= 1);
    assert!(controller.max_transfer_bytes() >= 4096);
    assert!(!controller.name().is_empty());
    Done
}

fn controller_identifies_itself(device: &Device) -> Verdict {
    let controller = device.open();
    let identify = controller.identify();
    assert!(!identify.sn().to_string().is_empty() && !identify.mn().to_string().is_empty());
    assert_eq!((identify.sqes() & 0xf, identify.cqes() & 0xf), (6, 4));
    assert!(identify.nn() >= 1);
    assert_ne!(identify.sgls() & 0b11, 0b11, "a reserved value");
    Done
}

fn namespaces_identify_themselves(device: &Device) -> Verdict {
    let controller = device.open();
    assert!(!controller.namespaces().is_empty());
    let mut last = 0;
    for namespace in controller.namespaces() {
        assert!(namespace.nsid().0 > last, "in ascending order");
        last = namespace.nsid().0;
        assert_eq!(namespace.unusable(), None);
        assert!(namespace.lba_bytes() >= 512 && namespace.lba_bytes().is_power_of_two());
        let len = namespace.len_bytes();
        assert!(
            len >= 1 << 20,
            "{len} bytes: the tests need 1 MiB of a namespace"
        );
        assert!(namespace.identify().nuse() <= namespace.identify().ncap());
        assert!(namespace.atomic_writes().normal_blocks >= 1);
    }
    Done
}

fn raw_identify_agrees(device: &Device) -> Verdict {
    let controller = device.open();
    let raw = |nsid, cns| {
        let command = Passthrough {
            opcode: 0x06,
            nsid,
            cdw10: cns,
            data: PassthroughData::In(4096),
            ..Passthrough::default()
        };
        controller.admin_passthrough(&command).unwrap().data
    };
    assert!(raw(Nsid(0), 1) == controller.identify().as_bytes());
    for namespace in controller.namespaces() {
        assert!(raw(namespace.nsid(), 0) == namespace.identify().as_bytes());
    }
    Done
}

fn unknown_namespace_is_refused(device: &Device) -> Verdict {
    let controller = device.open();
    let error = controller.namespace(Some(Nsid(0xffff_fff0))).unwrap_err();
    assert!(matches!(error, Error::NoNamespace { .. }), "{error}");
    Done
}

fn options_are_kept(device: &Device) -> Verdict {
    let options = ControllerOptions {
        io_queues: 1,
        max_transfer_bytes: 8192,
        shadow_doorbells: false,
        ..ControllerOptions::default()
    };
    let mut open: Open = Open::with(device, options, Default::default());
    assert!(open.controller.max_transfer_bytes() <= 8192);
    assert_eq!(open.controller.granted_queues(), 1);
    assert!(!open.controller.has_shadow_doorbells());
    let blocks = 40_000 / open.lba_bytes();
    open.write(3, blocks, 1);
    open.expect(3, blocks, 1);
    Done
}

fn shadow_doorbells(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    if open.controller.identify().oacs() & 1 << 8 == 0 {
        return lacks("Doorbell Buffer Config (OACS bit 8)");
    }
    assert!(open.controller.has_shadow_doorbells());
    open.write(0, 1, 2);
    open.expect(0, 1, 2);
    Done
}
