//! What is compared of commands and log pages: identifiers, structures that lie in memory, and
//! those bits of dwords that libnvme's headers have a name for.

use underpin_nvme_spec::admin::{
    AsyncEvent, EventMask, FeatureId, FeatureSelect, LogId, SecureErase, TemperatureThreshold,
};
use underpin_nvme_spec::identify::{Field, IdentifyNvmController};
use underpin_nvme_spec::log::{
    CommandEffects, CommandEffectsLog, CriticalWarning, ErrorLogEntry, FirmwareSlotLog, SmartLog,
};
use underpin_nvme_spec::nvm::{DatasetManagement, DsmRange, ReadWrite, WriteZeroes};
use underpin_nvme_spec::{Lba, Nsid, NvmOpcode};

use crate::values::Values;

/// The header's names of log pages.
const LOG_PAGES: &[(LogId, &str)] = &[
    (LogId::SUPPORTED, "NVME_LOG_LID_SUPPORTED_LOG_PAGES"),
    (LogId::ERROR, "NVME_LOG_LID_ERROR"),
    (LogId::SMART, "NVME_LOG_LID_SMART"),
    (LogId::FIRMWARE, "NVME_LOG_LID_FW_SLOT"),
    (LogId::CHANGED_NAMESPACES, "NVME_LOG_LID_CHANGED_NS"),
    (LogId::COMMAND_EFFECTS, "NVME_LOG_LID_CMD_EFFECTS"),
    (LogId::SELF_TEST, "NVME_LOG_LID_DEVICE_SELF_TEST"),
    (LogId::TELEMETRY_HOST, "NVME_LOG_LID_TELEMETRY_HOST"),
    (LogId::TELEMETRY_CONTROLLER, "NVME_LOG_LID_TELEMETRY_CTRL"),
    (LogId::ENDURANCE_GROUP, "NVME_LOG_LID_ENDURANCE_GROUP"),
    (
        LogId::PREDICTABLE_LATENCY_SET,
        "NVME_LOG_LID_PREDICTABLE_LAT_NVMSET",
    ),
    (
        LogId::PREDICTABLE_LATENCY_EVENTS,
        "NVME_LOG_LID_PREDICTABLE_LAT_AGG",
    ),
    (LogId::ANA, "NVME_LOG_LID_ANA"),
    (LogId::PERSISTENT_EVENTS, "NVME_LOG_LID_PERSISTENT_EVENT"),
    (LogId::LBA_STATUS, "NVME_LOG_LID_LBA_STATUS"),
    (LogId::ENDURANCE_EVENTS, "NVME_LOG_LID_ENDURANCE_GRP_EVT"),
    (LogId::MEDIA_UNIT_STATUS, "NVME_LOG_LID_MEDIA_UNIT_STATUS"),
    (
        LogId::CAPACITY_CONFIGURATIONS,
        "NVME_LOG_LID_SUPPORTED_CAP_CONFIG_LIST",
    ),
    (LogId::FEATURE_EFFECTS, "NVME_LOG_LID_FID_SUPPORTED_EFFECTS"),
    (
        LogId::MI_COMMAND_EFFECTS,
        "NVME_LOG_LID_MI_CMD_SUPPORTED_EFFECTS",
    ),
    (LogId::BOOT_PARTITION, "NVME_LOG_LID_BOOT_PARTITION"),
    (LogId::DISCOVERY, "NVME_LOG_LID_DISCOVER"),
    (LogId::RESERVATION, "NVME_LOG_LID_RESERVATION"),
    (LogId::SANITIZE, "NVME_LOG_LID_SANITIZE"),
];

/// The header's names of feature values to select.
const SELECTS: &[(FeatureSelect, &str)] = &[
    (FeatureSelect::CURRENT, "NVME_GET_FEATURES_SEL_CURRENT"),
    (FeatureSelect::DEFAULT, "NVME_GET_FEATURES_SEL_DEFAULT"),
    (FeatureSelect::SAVED, "NVME_GET_FEATURES_SEL_SAVED"),
    (FeatureSelect::SUPPORTED, "NVME_GET_FEATURES_SEL_SUPPORTED"),
];

const WARNINGS: &[(CriticalWarning, &str)] = &[
    (CriticalWarning::SPARE, "NVME_SMART_CRIT_SPARE"),
    (CriticalWarning::TEMPERATURE, "NVME_SMART_CRIT_TEMPERATURE"),
    (CriticalWarning::RELIABILITY, "NVME_SMART_CRIT_DEGRADED"),
    (CriticalWarning::READ_ONLY, "NVME_SMART_CRIT_MEDIA"),
    (CriticalWarning::BACKUP, "NVME_SMART_CRIT_VOLATILE_MEMORY"),
    (CriticalWarning::PERSISTENT_MEMORY, "NVME_SMART_CRIT_PMR_RO"),
];

const EFFECTS: &[(CommandEffects, &str)] = &[
    (CommandEffects::SUPPORTED, "NVME_CMD_EFFECTS_CSUPP"),
    (CommandEffects::CONTENT, "NVME_CMD_EFFECTS_LBCC"),
    (CommandEffects::NAMESPACE_CAPABILITY, "NVME_CMD_EFFECTS_NCC"),
    (CommandEffects::NAMESPACE_INVENTORY, "NVME_CMD_EFFECTS_NIC"),
    (
        CommandEffects::CONTROLLER_CAPABILITY,
        "NVME_CMD_EFFECTS_CCC",
    ),
    (CommandEffects::UUID_SELECTION, "NVME_CMD_EFFECTS_UUID_SEL"),
];

/// Events by the header's kind and information, and the log page that the specification names.
const EVENTS: &[(&str, AsyncEvent, &str, &str, &str)] = &[
    (
        "invalid doorbell",
        AsyncEvent::INVALID_DOORBELL,
        "NVME_AER_ERROR",
        "NVME_AER_ERROR_INVALID_DB_REG",
        "NVME_LOG_LID_ERROR",
    ),
    (
        "invalid doorbell value",
        AsyncEvent::INVALID_DOORBELL_VALUE,
        "NVME_AER_ERROR",
        "NVME_AER_ERROR_INVALID_DB_VAL",
        "NVME_LOG_LID_ERROR",
    ),
    (
        "reliability",
        AsyncEvent::RELIABILITY,
        "NVME_AER_SMART",
        "NVME_AER_SMART_SUBSYSTEM_RELIABILITY",
        "NVME_LOG_LID_SMART",
    ),
    (
        "temperature",
        AsyncEvent::TEMPERATURE,
        "NVME_AER_SMART",
        "NVME_AER_SMART_TEMPERATURE_THRESHOLD",
        "NVME_LOG_LID_SMART",
    ),
    (
        "spare",
        AsyncEvent::SPARE,
        "NVME_AER_SMART",
        "NVME_AER_SMART_SPARE_THRESHOLD",
        "NVME_LOG_LID_SMART",
    ),
    (
        "namespace changed",
        AsyncEvent::NAMESPACE_CHANGED,
        "NVME_AER_NOTICE",
        "NVME_AER_NOTICE_NS_CHANGED",
        "NVME_LOG_LID_CHANGED_NS",
    ),
    (
        "firmware activation",
        AsyncEvent::FIRMWARE_ACTIVATION,
        "NVME_AER_NOTICE",
        "NVME_AER_NOTICE_FW_ACT_STARTING",
        "NVME_LOG_LID_FW_SLOT",
    ),
];

/// Every field of a page.
fn page(values: &mut Values, name: &str, structure: &str, fields: &[Field], len_bytes: usize) {
    values.push(
        format!("{name}: size"),
        format!("sizeof(struct {structure})"),
        len_bytes as u64,
    );
    for field in fields {
        let member = field.name;
        values.push(
            format!("{name} {member}: offset"),
            format!("offsetof(struct {structure}, {member})"),
            field.offset as u64,
        );
        values.push(
            format!("{name} {member}: size"),
            format!("sizeof(((struct {structure} *)0)->{member})"),
            field.len_bytes as u64,
        );
    }
}

pub(crate) fn compare(values: &mut Values) {
    page(
        values,
        "NVM identify controller",
        "nvme_id_ctrl_nvm",
        IdentifyNvmController::FIELDS,
        4096,
    );
    page(
        values,
        "error log entry",
        "nvme_error_log_page",
        ErrorLogEntry::FIELDS,
        ErrorLogEntry::LEN_BYTES,
    );
    page(values, "SMART log", "nvme_smart_log", SmartLog::FIELDS, 512);
    page(
        values,
        "firmware log",
        "nvme_firmware_slot",
        FirmwareSlotLog::FIELDS,
        512,
    );
    page(
        values,
        "effects log",
        "nvme_cmd_effects_log",
        CommandEffectsLog::FIELDS,
        4096,
    );
    values.named("log page", LogId::ALL, LOG_PAGES, |lid| lid.0.into());
    values.named("select", FeatureSelect::ALL, SELECTS, |sel| sel.0.into());
    values.named("warning", CriticalWarning::ALL, WARNINGS, |one| {
        one.0.into()
    });
    values.named("effect", CommandEffects::ALL, EFFECTS, |one| one.0.into());
    values.push(
        "effects: exclusive",
        "NVME_CMD_EFFECTS_CSE_MASK",
        // The header keeps two of the three bits.
        CommandEffects(0).with_exclusive(0b011).0.into(),
    );
    for (name, event, kind, info, lid) in EVENTS {
        let expression = format!("{kind} | {info} << 8 | {lid} << 16");
        values.push(format!("event {name}"), expression, event.0.into());
    }
    dwords(values);
    ranges(values);
}

/// Bits of dwords.
fn dwords(values: &mut Values) {
    let blocks = ReadWrite::new(NvmOpcode::WRITE, Nsid(1));
    let fua = ReadWrite {
        fua: true,
        ..blocks
    };
    let limited_retry = ReadWrite {
        limited_retry: true,
        ..blocks
    };
    let deallocate = WriteZeroes {
        blocks,
        deallocate: true,
    };
    let dsm = DatasetManagement {
        ranges: 1,
        ..DatasetManagement::default()
    };
    let idr = DatasetManagement {
        integral_read: true,
        ..dsm
    };
    let idw = DatasetManagement {
        integral_write: true,
        ..dsm
    };
    let ad = DatasetManagement {
        deallocate: true,
        ..dsm
    };
    let threshold = |sensor, under| TemperatureThreshold {
        kelvins: 0,
        sensor,
        under,
    };
    for (name, expression, ours) in [
        ("FUA", "(__u32)NVME_IO_FUA << 16", fua.to_sqe().cdw12()),
        (
            "limited retry",
            "(__u32)NVME_IO_LR << 16",
            limited_retry.to_sqe().cdw12(),
        ),
        (
            "DEAC",
            "(__u32)NVME_IO_DEAC << 16",
            deallocate.to_sqe().cdw12(),
        ),
        ("integral read", "NVME_DSMGMT_IDR", idr.to_sqe().cdw11()),
        ("integral write", "NVME_DSMGMT_IDW", idw.to_sqe().cdw11()),
        ("deallocate", "NVME_DSMGMT_AD", ad.to_sqe().cdw11()),
        (
            "the most ranges",
            "NVME_DSM_MAX_RANGES",
            DatasetManagement::MAX_RANGES as u32,
        ),
        (
            "user data erase",
            "NVME_FORMAT_SES_USER_DATA_ERASE",
            SecureErase::UserData.code().into(),
        ),
        (
            "cryptographic erase",
            "NVME_FORMAT_SES_CRYPTO_ERASE",
            SecureErase::Cryptographic.code().into(),
        ),
        (
            "threshold's sensor",
            "1 << NVME_FEAT_TT_TMPSEL_SHIFT",
            threshold(1, false).to_cdw(),
        ),
        (
            "threshold from above",
            "1 << NVME_FEAT_TT_THSEL_SHIFT",
            threshold(0, true).to_cdw(),
        ),
        (
            "namespace notices",
            "1 << NVME_FEAT_AE_NAN_SHIFT",
            EventMask::NAMESPACES.0,
        ),
        (
            "namespace notices offered",
            "NVME_CTRL_OAES_NA",
            EventMask::NAMESPACES.0,
        ),
        (
            "firmware notices",
            "1 << NVME_FEAT_AE_FW_SHIFT",
            EventMask::FIRMWARE.0,
        ),
    ] {
        values.push(name, expression, ours.into());
    }
    let bytes = |id: FeatureId| id.data_len_bytes().unwrap_or(0) as u64;
    values.push(
        "timestamp: size",
        "sizeof(struct nvme_timestamp)",
        bytes(FeatureId::TIMESTAMP),
    );
    values.push(
        "host behavior: size",
        "sizeof(struct nvme_feat_host_behavior)",
        bytes(FeatureId::HOST_BEHAVIOR),
    );
    values.push(
        "LBA ranges: size",
        "sizeof(struct nvme_lba_range_type)",
        bytes(FeatureId::LBA_RANGE_TYPE),
    );
    values.push(
        "autonomous power states: size",
        "sizeof(struct nvme_feat_auto_pst)",
        bytes(FeatureId::AUTONOMOUS_POWER_STATE),
    );
}

/// Where the parts of a range lie.
fn ranges(values: &mut Values) {
    values.push(
        "DSM range: size",
        "sizeof(struct nvme_dsm_range)",
        DsmRange::LEN_BYTES as u64,
    );
    let none = DsmRange::default();
    for (member, range) in [
        (
            "cattr",
            DsmRange {
                attributes: !0,
                ..none
            },
        ),
        ("nlb", DsmRange { blocks: !0, ..none }),
        (
            "slba",
            DsmRange {
                slba: Lba(!0),
                ..none
            },
        ),
    ] {
        let bytes = range.to_bytes();
        let first = bytes.iter().position(|byte| *byte != 0).unwrap();
        let len = bytes.iter().filter(|byte| **byte != 0).count();
        values.push(
            format!("DSM range {member}: offset"),
            format!("offsetof(struct nvme_dsm_range, {member})"),
            first as u64,
        );
        values.push(
            format!("DSM range {member}: size"),
            format!("sizeof(((struct nvme_dsm_range *)0)->{member})"),
            len as u64,
        );
    }
}
