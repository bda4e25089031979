//! Log pages.
use crate::support::Rig;
use std::time::Duration;
use underpin::nvme::{ControllerOptions, Error, LogRequest, Status};
use underpin::spec::admin::LogId;

/// A log page of no whole dwords, or one that the device cannot cut, is not asked for.
#[test]
fn impossible_parts_are_refused() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let smart = LogRequest::new(LogId::SMART, 512);
    let before = rig.emulator.stats().admin;
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
    assert_eq!(rig.emulator.stats().admin, before, "nothing was sent");
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
            admin_timeout: Duration::from_millis(50),
            ..ControllerOptions::default()
        })
        .unwrap();
    rig.inject("drop@op=0x02");
    let error = controller.smart_log().unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error:?}");
    assert!(controller.failure().is_some());
    drop(controller);
}
