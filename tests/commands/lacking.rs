//! Commands that the device says it lacks: refused by name, before they are sent.
use crate::bench::{Bench, Counter};
use std::time::Duration;
use underpin::Lba;
use underpin::nvme::{BlockRange, Error, FeatureRequest, Passthrough, SetFeature};
use underpin::spec::Nsid;
use underpin::spec::admin::{FeatureId, FormatNvm};

/// The error names the command and where the device says so.
#[track_caller]
fn lacks<T: std::fmt::Debug>(made: Result<T, Error>, command: &str, place: &str) {
    let error = made.unwrap_err();
    assert!(matches!(error, Error::NotSupported { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(command) && text.contains(place), "{text}");
}

/// ONCS, OACS and the effects log are believed.
#[test]
fn what_is_not_there_is_refused_by_name() {
    let bench = Bench::in_memory(",oncs=0,format=off");
    let Bench { ns, controller, .. } = &bench;
    let sent = Counter::new(&bench.rig, "op=any");
    lacks(ns.compare(Lba(0), 1), "Compare", "bit 0 of ONCS");
    lacks(ns.write_zeroes(Lba(0), 1), "Write Zeroes", "bit 3 of ONCS");
    lacks(ns.verify(Lba(0), 1), "Verify", "bit 7 of ONCS");
    let range = BlockRange {
        lba: Lba(0),
        blocks: 1,
    };
    let made = ns.deallocate(&[range]);
    lacks(made, "Dataset Management", "bit 2 of ONCS");
    let format = FormatNvm {
        nsid: Nsid(1),
        ..FormatNvm::default()
    };
    let made = controller.format(&format, Duration::from_secs(1));
    lacks(made, "Format NVM", "OACS bit 1");
    let timestamp = FeatureRequest::new(FeatureId::TIMESTAMP);
    lacks(controller.feature(&timestamp), "Timestamp", "ONCS bit 6");
    let saved = SetFeature {
        save: true,
        ..SetFeature::new(FeatureId::ERROR_RECOVERY, 0)
    };
    let made = controller.set_feature(&saved);
    lacks(made, "Error Recovery", "ONCS bit 4");
    let security = Passthrough {
        opcode: 0x82,
        ..Passthrough::default()
    };
    let made = controller.admin_passthrough(&security);
    lacks(made, "Security Receive", "Effects");
    let copy = Passthrough {
        opcode: 0x19,
        ..Passthrough::default()
    };
    lacks(ns.passthrough(&copy, 0), "Copy", "Effects");
    assert_eq!(sent.count(&bench.rig), 0);
    bench.end();
}

/// A device that says nothing of its commands is asked: it answers.
#[test]
fn a_device_that_does_not_say_is_asked() {
    let bench = Bench::in_memory(",effects=off");
    lacks(bench.controller.command_effects(), "Effects", "LPA bit 1");
    let security = Passthrough {
        opcode: 0x82,
        ..Passthrough::default()
    };
    let error = bench.controller.admin_passthrough(&security).unwrap_err();
    assert!(
        error.to_string().contains("Invalid Command Opcode"),
        "{error}"
    );
    bench.end();
}
