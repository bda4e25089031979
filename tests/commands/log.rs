//! Log pages.
use crate::bench::Counter;
use crate::support::Rig;
use std::time::Duration;
use underpin::nvme::{ControllerOptions, Error, FeatureRequest, LogRequest, Status};
use underpin::spec::admin::{FeatureId, LogId};
use underpin::spec::{Nsid, NvmOpcode};

/// A log page of no whole dwords, or one that the device cannot cut, is not asked for.
#[test]
fn impossible_parts_are_refused() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let smart = LogRequest::new(LogId::SMART, 512);
    let sent = Counter::new(&rig, "op=admin");
    for (len_bytes, offset) in [(0, 0), (3, 0), (510, 0), (4, 2)] {
        let request = LogRequest {
            len_bytes,
            offset,
            ..smart
        };
        let error = controller.log_page(&request).unwrap_err();
        assert!(matches!(error, Error::Request(_)), "{error:?}");
    }
    let error = controller.log_page(&LogRequest::new(LogId::SMART, 65 << 20));
    assert!(matches!(error, Err(Error::TooLong { .. })), "{error:?}");
    assert_eq!(sent.count(&rig), 0);
    drop(controller);
    rig.end();
}

/// A page that the device does not have ends with its status, which names command and status.
#[test]
fn unknown_pages_end_with_the_device_s_status() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let error = controller
        .log_page(&LogRequest::new(LogId(0xc7), 512))
        .unwrap_err();
    let Error::Admin { status, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(status.code(), Status::INVALID_LOG_PAGE.code());
    assert!(error.to_string().contains("Get Log Page"), "{error}");
    assert_eq!(controller.failure(), None);
    drop(controller);
    rig.end();
}

/// A log page that never comes fails the controller at the admin deadline.
#[test]
fn a_page_that_never_comes_is_late() {
    let rig = Rig::new("size=1m");
    let controller = rig
        .open(ControllerOptions {
            admin_timeout: Duration::from_secs(1),
            ..ControllerOptions::default()
        })
        .unwrap();
    rig.inject("drop@op=0x02");
    let error = controller.smart_log().unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error:?}");
    assert!(controller.failure().is_some());
    drop(controller);
}

/// The typed pages say what the emulator knows of itself.
#[test]
fn typed_pages_are_read() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    assert_eq!(controller.error_log().unwrap(), []);
    let health = controller.smart_log().unwrap();
    assert_eq!((health.celsius(), health.avail_spare()), (Some(40), 100));
    assert_eq!((health.host_reads(), health.power_cycles()), (0, 1));
    let firmware = controller.firmware_log().unwrap();
    let revision = firmware.revision(firmware.active_slot()).unwrap();
    assert_eq!(revision.to_string(), controller.identify().fr().to_string());
    assert_eq!(controller.changed_namespaces().unwrap().iter().count(), 0);
    let effects = controller.command_effects().unwrap();
    assert!(effects.io(NvmOpcode::COMPARE).is_supported());
    assert!(!effects.io(NvmOpcode::COPY).is_supported());
    let error = controller.smart_log_of(Nsid(1)).unwrap_err();
    assert!(matches!(error, Error::NotSupported { .. }), "{error:?}");
    drop(controller);
    rig.end();
}

/// A part of a page is that part, wherever it lies, and a page in pieces is the page.
#[test]
fn parts_of_a_page_are_its_bytes() {
    for config in ["size=1m", "size=1m,mdts=1", "size=1m,step=on"] {
        let rig = Rig::new(config);
        let controller = rig.controller();
        let whole = LogRequest::new(LogId::COMMAND_EFFECTS, 4096);
        let page = controller.log_page(&whole).unwrap();
        for (offset, len_bytes) in [(0, 4), (1024, 1024), (4, 4000), (4092, 4)] {
            let part = LogRequest {
                offset,
                len_bytes,
                ..whole
            };
            let part = controller.log_page(&part).unwrap();
            assert_eq!(part, page[offset as usize..][..len_bytes], "{offset}");
        }
        let beyond = LogRequest { offset: 4, ..whole };
        assert!(controller.log_page(&beyond).is_err());
        drop(controller);
        rig.end();
    }
}

/// Whatever bytes a device gives for a log page, they are only read: no page panics, and the
/// controller goes on.
#[test]
fn garbage_is_read_as_it_is() {
    for seed in 0..20 {
        let rig = Rig::new(&format!("size=1m,seed={seed}"));
        let controller = rig.controller();
        rig.inject("garbage-log@op=log+count=all");
        let errors = controller.error_log().unwrap();
        let health = controller.smart_log().unwrap();
        let firmware = controller.firmware_log().unwrap();
        let changed = controller.changed_namespaces().unwrap();
        let effects = controller.command_effects().unwrap();
        let text = format!("{errors:?}{health:?}{firmware:?}{changed:?}{effects:?}");
        assert!(text.len() > 1000);
        assert!(health.warnings().names().count() <= 6);
        assert_eq!(controller.failure(), None);
        drop(controller);
        rig.end();
    }
}

/// A log that is longer than a transfer is read in pieces, and only the last of them lets the next
/// event through.
#[test]
fn a_long_log_is_read_in_pieces() {
    let rig = Rig::new("size=1m");
    let options = ControllerOptions {
        max_transfer_bytes: 4096,
        ..ControllerOptions::default()
    };
    let controller = rig.open(options).unwrap();
    let unknown = FeatureRequest::new(FeatureId(0xc0));
    for _ in 0..100 {
        controller.feature(&unknown).unwrap_err();
    }
    let sent = Counter::new(&rig, "op=log");
    let errors = controller.error_log().unwrap();
    assert_eq!(sent.count(&rig), 2, "8 KiB in two pieces");
    let counts: Vec<u64> = errors.iter().map(|entry| entry.error_count()).collect();
    assert_eq!(counts, (1..=100).rev().collect::<Vec<u64>>());
    drop(controller);
    rig.end();
}
