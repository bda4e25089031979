//! Features.
use crate::support::Rig;
use underpin::nvme::{Error, FeatureRequest, SetFeature, Status, WriteCache};
use underpin::spec::admin::{FeatureId, FeatureSelect, TemperatureThreshold};

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
    let before = rig.emulator.stats().admin;
    for id in [
        FeatureId::NUMBER_OF_QUEUES,
        FeatureId::HOST_MEMORY_BUFFER,
        FeatureId::COMMAND_SET_PROFILE,
    ] {
        let error = controller.set_feature(&SetFeature::new(id, 0)).unwrap_err();
        assert!(matches!(error, Error::WouldBreakDriver { .. }), "{error:?}");
    }
    assert_eq!(rig.emulator.stats().admin, before, "nothing was sent");
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
