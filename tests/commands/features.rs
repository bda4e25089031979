//! Features.
use crate::bench::Counter;
use crate::support::Rig;
use underpin::nvme::{Error, FeatureRequest, Passthrough, SetFeature, Status, WriteCache};
use underpin::spec::admin::{FeatureId, FeatureSelect, TemperatureThreshold};
use underpin::spec::{AdminOpcode, Nsid};

/// What is set is what is got, and the default is still known.
#[test]
fn a_value_that_is_set_is_the_current_one() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let id = FeatureId::ERROR_RECOVERY;
    let set = SetFeature::new(id, 0x1234);
    controller.set_feature(&set).unwrap();
    let current = FeatureRequest::new(id);
    assert_eq!(controller.feature(&current).unwrap().dword, 0x1234);
    let default = FeatureRequest {
        select: FeatureSelect::DEFAULT,
        ..current
    };
    assert_eq!(controller.feature(&default).unwrap().dword, 0);
    let ability = controller.feature_ability(id, Default::default()).unwrap();
    assert!(ability.changeable && !ability.per_namespace);
    drop(controller);
    rig.end();
}

/// The write cache that is switched off is known to be off.
#[test]
fn the_write_cache_is_as_it_was_set() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    assert_eq!(controller.write_cache(), WriteCache::Enabled);
    controller.set_write_cache(false).unwrap();
    assert_eq!(controller.write_cache(), WriteCache::Disabled);
    let request = FeatureRequest::new(FeatureId::VOLATILE_WRITE_CACHE);
    assert_eq!(controller.feature(&request).unwrap().dword, 0);
    drop(controller);
    rig.end();
    let rig = Rig::new("size=1m,vwc=off");
    let controller = rig.controller();
    let error = controller.set_write_cache(true).unwrap_err();
    assert!(matches!(error, Error::NotSupported { .. }), "{error:?}");
    assert!(error.to_string().contains("VWC bit 0"), "{error}");
    drop(controller);
    rig.end();
}

/// Features that are the driver's own business are not set behind its back.
#[test]
fn the_driver_s_own_features_are_refused() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let sent = Counter::new(&rig, "op=admin");
    for id in [
        FeatureId::NUMBER_OF_QUEUES,
        FeatureId::HOST_MEMORY_BUFFER,
        FeatureId::COMMAND_SET_PROFILE,
    ] {
        let error = controller.set_feature(&SetFeature::new(id, 0)).unwrap_err();
        assert!(matches!(error, Error::WouldBreakDriver { .. }), "{error:?}");
    }
    assert_eq!(sent.count(&rig), 0);
    drop(controller);
    rig.end();
}

/// A feature that the device does not know ends with its status.
#[test]
fn an_unknown_feature_ends_with_the_device_s_status() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let error = controller
        .feature(&FeatureRequest::new(FeatureId(0xc0)))
        .unwrap_err();
    assert!(
        matches!(&error, Error::Admin { status, .. } if status.code() == Status::INVALID_FIELD.code()),
        "{error:?}"
    );
    drop(controller);
    rig.end();
}

/// Thresholds are set and got by sensor and side.
#[test]
fn a_temperature_threshold_comes_back() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let threshold = TemperatureThreshold {
        kelvins: 350,
        sensor: 0,
        under: false,
    };
    controller.set_temperature_threshold(threshold).unwrap();
    assert_eq!(
        controller.temperature_threshold(0, false).unwrap(),
        threshold
    );
    drop(controller);
    rig.end();
}

/// A saved value outlives a reset of the controller, one that is not saved does not; what cannot
/// be saved is refused by the device.
#[test]
fn saved_values_outlive_a_reset() {
    let rig = Rig::new("size=1m");
    let id = FeatureId::ERROR_RECOVERY;
    for (save, after) in [(true, 77), (false, 77), (true, 77)] {
        let controller = rig.controller();
        let value = if save { 77 } else { 5 };
        let set = SetFeature {
            save,
            ..SetFeature::new(id, value)
        };
        controller.set_feature(&set).unwrap();
        let current = controller.feature(&FeatureRequest::new(id)).unwrap();
        assert_eq!(current.dword, value);
        drop(controller);
        let controller = rig.controller();
        let current = controller.feature(&FeatureRequest::new(id)).unwrap();
        assert_eq!(current.dword, after, "after a reset");
        let saved = FeatureRequest {
            select: FeatureSelect::SAVED,
            ..FeatureRequest::new(id)
        };
        assert_eq!(controller.feature(&saved).unwrap().dword, 77);
        assert!(controller.feature_ability(id, Nsid(0)).unwrap().saveable);
        let set = SetFeature {
            save: true,
            ..SetFeature::new(FeatureId::ARBITRATION, 0)
        };
        let error = controller.set_feature(&set).unwrap_err();
        assert!(error.to_string().contains("Not Saveable"), "{error}");
        drop(controller);
    }
    rig.end();
}

/// Values that lie in memory go both ways.
#[test]
fn values_in_memory_go_both_ways() {
    for config in ["size=1m", "size=1m,step=on,chunk=4"] {
        let rig = Rig::new(config);
        let controller = rig.controller();
        let id: Vec<u8> = (1..=16).collect();
        let set = SetFeature {
            data: id.clone(),
            ..SetFeature::new(FeatureId::HOST_IDENTIFIER, 1)
        };
        controller.set_feature(&set).unwrap();
        let request = FeatureRequest {
            cdw11: 1,
            ..FeatureRequest::new(FeatureId::HOST_IDENTIFIER)
        };
        assert_eq!(controller.feature(&request).unwrap().data, id);
        let set = SetFeature {
            data: vec![1, 2, 3, 4, 5, 6, 0, 0],
            ..SetFeature::new(FeatureId::TIMESTAMP, 0)
        };
        controller.set_feature(&set).unwrap();
        let timestamp = controller.feature(&FeatureRequest::new(FeatureId::TIMESTAMP));
        assert_eq!(timestamp.unwrap().data, [1, 2, 3, 4, 5, 6, 2, 0]);
        drop(controller);
        rig.end();
    }
}

/// Write protection is of one namespace, and can be seen and taken back.
#[test]
fn write_protection_is_of_one_namespace() {
    let rig = Rig::new("size=1m,ns=2");
    let controller = rig.controller();
    controller.set_write_protection(Nsid(2), true).unwrap();
    let state = |nsid| {
        let request = FeatureRequest {
            nsid: Nsid(nsid),
            ..FeatureRequest::new(FeatureId::WRITE_PROTECTION)
        };
        controller.feature(&request).unwrap().dword
    };
    assert_eq!((state(1), state(2)), (0, 1));
    controller.set_write_protection(Nsid(2), false).unwrap();
    assert_eq!(state(2), 0);
    assert!(controller.set_write_protection(Nsid(3), true).is_err());
    drop(controller);
    rig.end();
}

/// However the write cache is switched on, nobody is told that it is off: not when the command was
/// sent as it is, not when nobody fetched its answer.
#[test]
fn a_write_cache_that_may_be_on_is_not_told_to_be_off() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let sent_raw = |on: u32| Passthrough {
        opcode: AdminOpcode::SET_FEATURES.0,
        cdw10: u32::from(FeatureId::VOLATILE_WRITE_CACHE.0),
        cdw11: on,
        ..Passthrough::default()
    };
    controller.admin_passthrough(&sent_raw(0)).unwrap();
    assert_eq!(controller.write_cache(), WriteCache::Disabled);
    controller.admin_passthrough(&sent_raw(1)).unwrap();
    assert_eq!(controller.write_cache(), WriteCache::Enabled);
    controller.set_write_cache(false).unwrap();
    let on = SetFeature::new(FeatureId::VOLATILE_WRITE_CACHE, 1);
    let mut detached = controller.begin_set_feature(&on).unwrap();
    let _ = detached.poll();
    drop(detached);
    let current = FeatureRequest::new(FeatureId::VOLATILE_WRITE_CACHE);
    assert_eq!(controller.feature(&current).unwrap().dword, 1);
    assert_eq!(controller.write_cache(), WriteCache::Enabled);
    drop(controller);
    rig.end();
}

/// An answer waits for whoever asked, however many others were asked for meanwhile and left.
#[test]
fn an_answer_waits_for_who_asked() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let request = FeatureRequest::new(FeatureId::ERROR_RECOVERY);
    let mut first = controller.begin_feature(&request).unwrap();
    // It may answer at once: then there is nothing to wait for.
    let at_once = first.poll();
    for _ in 0..600 {
        let mut left = controller.begin_feature(&request).unwrap();
        let _ = left.poll();
        drop(left);
        controller.feature(&request).unwrap();
    }
    let answer = at_once.or_else(|| (0..1_000_000).find_map(|_| first.poll()));
    assert_eq!(answer.expect("the answer was lost").unwrap().dword, 0);
    drop(first);
    drop(controller);
    rig.end();
}
