//! Asynchronous events.
use crate::support::{Rig, within_limit};
use std::time::Duration;
use underpin::emulator::Notice;
use underpin::nvme::{ControllerOptions, Error, Events};
use underpin::spec::Nsid;
use underpin::spec::admin::{AsyncEvent, EventMask};
use underpin::spec::log::CriticalWarning;

const ALL: EventMask = EventMask::CRITICAL_WARNINGS.with(EventMask::NAMESPACES);

#[track_caller]
fn next(events: &Events) -> AsyncEvent {
    within_limit("an event", || events.poll().unwrap())
}

/// A warning and a change of a namespace come to who asks; the log pages that they name say more,
/// and reading them lets the next of the kind through.
#[test]
fn events_are_told_and_their_log_pages_say_more() {
    for config in ["size=1m,ns=3", "size=1m,ns=3,step=on"] {
        let rig = Rig::new(config);
        let controller = rig.controller();
        let events = controller.events(ALL).unwrap();
        assert_eq!(events.poll().unwrap(), None);
        rig.emulator.notify(Notice::NamespaceChanged(2));
        assert_eq!(next(&events), AsyncEvent::NAMESPACE_CHANGED);
        // Masked until its page is read, which tells of both.
        rig.emulator.notify(Notice::NamespaceChanged(3));
        rig.emulator
            .notify(Notice::Warnings(CriticalWarning::SPARE));
        assert_eq!(next(&events), AsyncEvent::SPARE);
        let changed: Vec<Nsid> = controller.changed_namespaces().unwrap().iter().collect();
        assert_eq!(changed, [Nsid(2), Nsid(3)]);
        assert_eq!(controller.changed_namespaces().unwrap().iter().count(), 0);
        rig.emulator.notify(Notice::NamespaceChanged(1));
        assert_eq!(next(&events), AsyncEvent::NAMESPACE_CHANGED);
        let health = controller.smart_log().unwrap();
        assert_eq!(health.warnings(), CriticalWarning::SPARE);
        rig.emulator.notify(Notice::Temperature(400));
        assert_eq!(next(&events), AsyncEvent::TEMPERATURE);
        assert_eq!(events.poll().unwrap(), None);
        assert_eq!(events.lost(), 0);
        rig.until("four events", |stats| stats.events == 4);
        drop((events, controller));
        rig.end();
    }
}

/// Requests that wait are no late commands: the controller works long after the admin deadline.
#[test]
fn a_request_that_waits_is_not_late() {
    let rig = Rig::new("size=1m");
    let options = ControllerOptions {
        // Long enough for a busy machine, short of the wait below.
        admin_timeout: Duration::from_secs(1),
        ..ControllerOptions::default()
    };
    let controller = rig.open(options).unwrap();
    let events = controller.events(ALL).unwrap();
    assert_eq!(events.wait(Duration::from_millis(2500)).unwrap(), None);
    controller.smart_log().unwrap();
    assert_eq!(controller.failure(), None);
    rig.emulator
        .notify(Notice::Warnings(CriticalWarning::READ_ONLY));
    let told = events.wait(Duration::from_secs(20)).unwrap();
    assert_eq!(told, Some(AsyncEvent::RELIABILITY));
    drop((events, controller));
    rig.end();
}

/// What was not asked for is not told, and stands in its log page all the same.
#[test]
fn events_that_are_not_wanted_are_not_told() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let events = controller.events(EventMask::NAMESPACES).unwrap();
    rig.emulator
        .notify(Notice::Warnings(CriticalWarning::BACKUP));
    within_limit("the warning", || {
        let health = controller.smart_log().unwrap();
        (health.warnings() == CriticalWarning::BACKUP).then_some(())
    });
    assert_eq!(events.poll().unwrap(), None);
    drop((events, controller));
    rig.end();
}

/// A device that answers requests with errors, with garbage, or at once and for ever, is told of in
/// a typed error or in events; it holds nobody up.
#[test]
fn hostile_answers_do_no_harm() {
    let rig = Rig::new("size=1m,fault=status:0x1@op=0x0c+count=all");
    let controller = rig.controller();
    let events = controller.events(ALL).unwrap();
    let error = within_limit("an error", || events.poll().err());
    assert!(matches!(error, Error::Admin { .. }), "{error:?}");
    controller.smart_log().unwrap();
    drop((events, controller));
    rig.end();
    // An event (a success with Do Not Retry set) for every request, as soon as it comes: each poll posts no more than it may.
    let rig = Rig::new("size=1m,fault=status:0x4000@op=0x0c+count=all");
    let controller = rig.controller();
    let events = controller.events(ALL).unwrap();
    for _ in 0..200 {
        assert_eq!(next(&events), AsyncEvent(0));
    }
    controller.smart_log().unwrap();
    assert_eq!(controller.failure(), None);
    drop((events, controller));
    rig.end();
}

/// Where the queues have two entries a waiting request would leave no room for anything else.
#[test]
fn short_queues_have_no_events() {
    let rig = Rig::new("size=1m,mqes=2");
    let controller = rig.controller();
    let error = controller.events(ALL).unwrap_err();
    assert!(matches!(error, Error::NotSupported { .. }), "{error:?}");
    controller.smart_log().unwrap();
    drop(controller);
    rig.end();
}
