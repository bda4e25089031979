//! libnvme's names for the entries of our tables, paired by what the specification says each
//! means; what numbers they have is for the compiler to tell.

use underpin_nvme_spec::admin::{Cns, FeatureId};
use underpin_nvme_spec::{AdminOpcode, NvmOpcode, Status};

/// The header's names of admin opcodes.
pub(crate) const ADMIN_OPCODES: &[(AdminOpcode, &str)] = &[
    (AdminOpcode::DELETE_IO_SQ, "nvme_admin_delete_sq"),
    (AdminOpcode::CREATE_IO_SQ, "nvme_admin_create_sq"),
    (AdminOpcode::GET_LOG_PAGE, "nvme_admin_get_log_page"),
    (AdminOpcode::DELETE_IO_CQ, "nvme_admin_delete_cq"),
    (AdminOpcode::CREATE_IO_CQ, "nvme_admin_create_cq"),
    (AdminOpcode::IDENTIFY, "nvme_admin_identify"),
    (AdminOpcode::ABORT, "nvme_admin_abort_cmd"),
    (AdminOpcode::SET_FEATURES, "nvme_admin_set_features"),
    (AdminOpcode::GET_FEATURES, "nvme_admin_get_features"),
    (AdminOpcode::ASYNC_EVENT_REQUEST, "nvme_admin_async_event"),
    (AdminOpcode::NAMESPACE_MANAGEMENT, "nvme_admin_ns_mgmt"),
    (AdminOpcode::FIRMWARE_COMMIT, "nvme_admin_fw_commit"),
    (
        AdminOpcode::FIRMWARE_IMAGE_DOWNLOAD,
        "nvme_admin_fw_download",
    ),
    (AdminOpcode::DEVICE_SELF_TEST, "nvme_admin_dev_self_test"),
    (AdminOpcode::NAMESPACE_ATTACHMENT, "nvme_admin_ns_attach"),
    (AdminOpcode::KEEP_ALIVE, "nvme_admin_keep_alive"),
    (AdminOpcode::DIRECTIVE_SEND, "nvme_admin_directive_send"),
    (AdminOpcode::DIRECTIVE_RECEIVE, "nvme_admin_directive_recv"),
    (
        AdminOpcode::VIRTUALIZATION_MANAGEMENT,
        "nvme_admin_virtual_mgmt",
    ),
    (AdminOpcode::NVME_MI_SEND, "nvme_admin_nvme_mi_send"),
    (AdminOpcode::NVME_MI_RECEIVE, "nvme_admin_nvme_mi_recv"),
    (AdminOpcode::CAPACITY_MANAGEMENT, "nvme_admin_capacity_mgmt"),
    (AdminOpcode::LOCKDOWN, "nvme_admin_lockdown"),
    (AdminOpcode::DOORBELL_BUFFER_CONFIG, "nvme_admin_dbbuf"),
    (AdminOpcode::FABRICS, "nvme_admin_fabrics"),
    (AdminOpcode::FORMAT_NVM, "nvme_admin_format_nvm"),
    (AdminOpcode::SECURITY_SEND, "nvme_admin_security_send"),
    (AdminOpcode::SECURITY_RECEIVE, "nvme_admin_security_recv"),
    (AdminOpcode::SANITIZE, "nvme_admin_sanitize_nvm"),
    (AdminOpcode::GET_LBA_STATUS, "nvme_admin_get_lba_status"),
];

/// The header's names of I/O opcodes.
pub(crate) const NVM_OPCODES: &[(NvmOpcode, &str)] = &[
    (NvmOpcode::FLUSH, "nvme_cmd_flush"),
    (NvmOpcode::WRITE, "nvme_cmd_write"),
    (NvmOpcode::READ, "nvme_cmd_read"),
    (NvmOpcode::WRITE_UNCORRECTABLE, "nvme_cmd_write_uncor"),
    (NvmOpcode::COMPARE, "nvme_cmd_compare"),
    (NvmOpcode::WRITE_ZEROES, "nvme_cmd_write_zeroes"),
    (NvmOpcode::DATASET_MANAGEMENT, "nvme_cmd_dsm"),
    (NvmOpcode::VERIFY, "nvme_cmd_verify"),
    (NvmOpcode::RESERVATION_REGISTER, "nvme_cmd_resv_register"),
    (NvmOpcode::RESERVATION_REPORT, "nvme_cmd_resv_report"),
    (NvmOpcode::RESERVATION_ACQUIRE, "nvme_cmd_resv_acquire"),
    (NvmOpcode::RESERVATION_RELEASE, "nvme_cmd_resv_release"),
    (NvmOpcode::COPY, "nvme_cmd_copy"),
];

/// The header's names of features.
pub(crate) const FEATURES: &[(FeatureId, &str)] = &[
    (FeatureId::ARBITRATION, "NVME_FEAT_FID_ARBITRATION"),
    (FeatureId::POWER_MANAGEMENT, "NVME_FEAT_FID_POWER_MGMT"),
    (FeatureId::LBA_RANGE_TYPE, "NVME_FEAT_FID_LBA_RANGE"),
    (
        FeatureId::TEMPERATURE_THRESHOLD,
        "NVME_FEAT_FID_TEMP_THRESH",
    ),
    (FeatureId::ERROR_RECOVERY, "NVME_FEAT_FID_ERR_RECOVERY"),
    (FeatureId::VOLATILE_WRITE_CACHE, "NVME_FEAT_FID_VOLATILE_WC"),
    (FeatureId::NUMBER_OF_QUEUES, "NVME_FEAT_FID_NUM_QUEUES"),
    (
        FeatureId::INTERRUPT_COALESCING,
        "NVME_FEAT_FID_IRQ_COALESCE",
    ),
    (FeatureId::INTERRUPT_VECTOR, "NVME_FEAT_FID_IRQ_CONFIG"),
    (FeatureId::WRITE_ATOMICITY, "NVME_FEAT_FID_WRITE_ATOMIC"),
    (FeatureId::ASYNC_EVENTS, "NVME_FEAT_FID_ASYNC_EVENT"),
    (FeatureId::AUTONOMOUS_POWER_STATE, "NVME_FEAT_FID_AUTO_PST"),
    (FeatureId::HOST_MEMORY_BUFFER, "NVME_FEAT_FID_HOST_MEM_BUF"),
    (FeatureId::TIMESTAMP, "NVME_FEAT_FID_TIMESTAMP"),
    (FeatureId::KEEP_ALIVE, "NVME_FEAT_FID_KATO"),
    (FeatureId::HOST_THERMAL, "NVME_FEAT_FID_HCTM"),
    (FeatureId::NON_OPERATIONAL_POWER, "NVME_FEAT_FID_NOPSC"),
    (FeatureId::READ_RECOVERY_LEVEL, "NVME_FEAT_FID_RRL"),
    (
        FeatureId::PREDICTABLE_LATENCY_CONFIG,
        "NVME_FEAT_FID_PLM_CONFIG",
    ),
    (
        FeatureId::PREDICTABLE_LATENCY_WINDOW,
        "NVME_FEAT_FID_PLM_WINDOW",
    ),
    (
        FeatureId::LBA_STATUS_INTERVAL,
        "NVME_FEAT_FID_LBA_STS_INTERVAL",
    ),
    (FeatureId::HOST_BEHAVIOR, "NVME_FEAT_FID_HOST_BEHAVIOR"),
    (FeatureId::SANITIZE_CONFIG, "NVME_FEAT_FID_SANITIZE"),
    (
        FeatureId::ENDURANCE_EVENTS,
        "NVME_FEAT_FID_ENDURANCE_EVT_CFG",
    ),
    (FeatureId::COMMAND_SET_PROFILE, "NVME_FEAT_FID_IOCS_PROFILE"),
    (FeatureId::SPINUP_CONTROL, "NVME_FEAT_FID_SPINUP_CONTROL"),
    (
        FeatureId::ENHANCED_CONTROLLER_METADATA,
        "NVME_FEAT_FID_ENH_CTRL_METADATA",
    ),
    (
        FeatureId::CONTROLLER_METADATA,
        "NVME_FEAT_FID_CTRL_METADATA",
    ),
    (FeatureId::NAMESPACE_METADATA, "NVME_FEAT_FID_NS_METADATA"),
    (FeatureId::SOFTWARE_PROGRESS, "NVME_FEAT_FID_SW_PROGRESS"),
    (FeatureId::HOST_IDENTIFIER, "NVME_FEAT_FID_HOST_ID"),
    (FeatureId::RESERVATION_MASK, "NVME_FEAT_FID_RESV_MASK"),
    (
        FeatureId::RESERVATION_PERSISTENCE,
        "NVME_FEAT_FID_RESV_PERSIST",
    ),
    (FeatureId::WRITE_PROTECTION, "NVME_FEAT_FID_WRITE_PROTECT"),
];

/// The header's names of identify pages.
pub(crate) const CNS: &[(Cns, &str)] = &[
    (Cns::NAMESPACE, "NVME_IDENTIFY_CNS_NS"),
    (Cns::CONTROLLER, "NVME_IDENTIFY_CNS_CTRL"),
    (Cns::ACTIVE_NAMESPACES, "NVME_IDENTIFY_CNS_NS_ACTIVE_LIST"),
    (Cns::DESCRIPTORS, "NVME_IDENTIFY_CNS_NS_DESC_LIST"),
    (Cns::NVM_SETS, "NVME_IDENTIFY_CNS_NVMSET_LIST"),
    (Cns::COMMAND_SET_NAMESPACE, "NVME_IDENTIFY_CNS_CSI_NS"),
    (Cns::COMMAND_SET_CONTROLLER, "NVME_IDENTIFY_CNS_CSI_CTRL"),
    (
        Cns::COMMAND_SET_ACTIVE_NAMESPACES,
        "NVME_IDENTIFY_CNS_CSI_NS_ACTIVE_LIST",
    ),
    (
        Cns::INDEPENDENT_NAMESPACE,
        "NVME_IDENTIFY_CNS_CSI_INDEPENDENT_ID_NS",
    ),
    (
        Cns::ALLOCATED_NAMESPACES,
        "NVME_IDENTIFY_CNS_ALLOCATED_NS_LIST",
    ),
    (Cns::ALLOCATED_NAMESPACE, "NVME_IDENTIFY_CNS_ALLOCATED_NS"),
    (Cns::NAMESPACE_CONTROLLERS, "NVME_IDENTIFY_CNS_NS_CTRL_LIST"),
    (Cns::CONTROLLERS, "NVME_IDENTIFY_CNS_CTRL_LIST"),
    (
        Cns::PRIMARY_CONTROLLER,
        "NVME_IDENTIFY_CNS_PRIMARY_CTRL_CAP",
    ),
    (
        Cns::SECONDARY_CONTROLLERS,
        "NVME_IDENTIFY_CNS_SECONDARY_CTRL_LIST",
    ),
    (Cns::GRANULARITY, "NVME_IDENTIFY_CNS_NS_GRANULARITY"),
    (Cns::UUIDS, "NVME_IDENTIFY_CNS_UUID_LIST"),
    (Cns::DOMAINS, "NVME_IDENTIFY_CNS_DOMAIN_LIST"),
    (
        Cns::ENDURANCE_GROUPS,
        "NVME_IDENTIFY_CNS_ENDURANCE_GROUP_ID",
    ),
    (
        Cns::COMMAND_SET_ALLOCATED_NAMESPACES,
        "NVME_IDENTIFY_CNS_CSI_ALLOCATED_NS_LIST",
    ),
    (
        Cns::COMMAND_SET_ALLOCATED_NAMESPACE,
        "NVME_IDENTIFY_CNS_CSI_ID_NS_DATA_STRUCTURE",
    ),
    (Cns::COMMAND_SETS, "NVME_IDENTIFY_CNS_COMMAND_SET_STRUCTURE"),
];

/// Names of status codes, below the name of their type.
pub(crate) const STATUSES: &[(&str, &[(Status, &str)])] = &[
    (
        "NVME_SCT_GENERIC",
        &[
            (Status::SUCCESS, "NVME_SC_SUCCESS"),
            (Status::INVALID_OPCODE, "NVME_SC_INVALID_OPCODE"),
            (Status::INVALID_FIELD, "NVME_SC_INVALID_FIELD"),
            (Status::COMMAND_ID_CONFLICT, "NVME_SC_CMDID_CONFLICT"),
            (Status::DATA_TRANSFER_ERROR, "NVME_SC_DATA_XFER_ERROR"),
            (Status::ABORTED_POWER_LOSS, "NVME_SC_POWER_LOSS"),
            (Status::INTERNAL_ERROR, "NVME_SC_INTERNAL"),
            (Status::ABORT_REQUESTED, "NVME_SC_ABORT_REQ"),
            (Status::ABORTED_SQ_DELETION, "NVME_SC_ABORT_QUEUE"),
            (Status::ABORTED_FAILED_FUSED, "NVME_SC_FUSED_FAIL"),
            (Status::ABORTED_MISSING_FUSED, "NVME_SC_FUSED_MISSING"),
            (Status::INVALID_NAMESPACE_OR_FORMAT, "NVME_SC_INVALID_NS"),
            (Status::COMMAND_SEQUENCE_ERROR, "NVME_SC_CMD_SEQ_ERROR"),
            (
                Status::INVALID_SGL_SEGMENT_DESCRIPTOR,
                "NVME_SC_SGL_INVALID_LAST",
            ),
            (
                Status::INVALID_SGL_DESCRIPTOR_COUNT,
                "NVME_SC_SGL_INVALID_COUNT",
            ),
            (Status::DATA_SGL_LENGTH_INVALID, "NVME_SC_SGL_INVALID_DATA"),
            (
                Status::METADATA_SGL_LENGTH_INVALID,
                "NVME_SC_SGL_INVALID_METADATA",
            ),
            (
                Status::SGL_DESCRIPTOR_TYPE_INVALID,
                "NVME_SC_SGL_INVALID_TYPE",
            ),
            (Status::INVALID_USE_OF_CMB, "NVME_SC_CMB_INVALID_USE"),
            (Status::PRP_OFFSET_INVALID, "NVME_SC_PRP_INVALID_OFFSET"),
            (Status::ATOMIC_WRITE_UNIT_EXCEEDED, "NVME_SC_AWU_EXCEEDED"),
            (Status::OPERATION_DENIED, "NVME_SC_OP_DENIED"),
            (Status::SGL_OFFSET_INVALID, "NVME_SC_SGL_INVALID_OFFSET"),
            (Status::HOST_ID_INCONSISTENT_FORMAT, "NVME_SC_HOSTID_FORMAT"),
            (Status::KEEP_ALIVE_TIMER_EXPIRED, "NVME_SC_KAT_EXPIRED"),
            (Status::KEEP_ALIVE_TIMEOUT_INVALID, "NVME_SC_KAT_INVALID"),
            (
                Status::ABORTED_PREEMPT_AND_ABORT,
                "NVME_SC_CMD_ABORTED_PREMEPT",
            ),
            (Status::SANITIZE_FAILED, "NVME_SC_SANITIZE_FAILED"),
            (Status::SANITIZE_IN_PROGRESS, "NVME_SC_SANITIZE_IN_PROGRESS"),
            (
                Status::SGL_DATA_BLOCK_GRANULARITY_INVALID,
                "NVME_SC_SGL_INVALID_GRANULARITY",
            ),
            (
                Status::NOT_SUPPORTED_FOR_QUEUE_IN_CMB,
                "NVME_SC_CMD_IN_CMBQ_NOT_SUPP",
            ),
            (
                Status::NAMESPACE_WRITE_PROTECTED,
                "NVME_SC_NS_WRITE_PROTECTED",
            ),
            (Status::COMMAND_INTERRUPTED, "NVME_SC_CMD_INTERRUPTED"),
            (
                Status::TRANSIENT_TRANSPORT_ERROR,
                "NVME_SC_TRAN_TPORT_ERROR",
            ),
            (
                Status::PROHIBITED_BY_LOCKDOWN,
                "NVME_SC_PROHIBITED_BY_CMD_AND_FEAT",
            ),
            (
                Status::ADMIN_MEDIA_NOT_READY,
                "NVME_SC_ADMIN_CMD_MEDIA_NOT_READY",
            ),
            (Status::LBA_OUT_OF_RANGE, "NVME_SC_LBA_RANGE"),
            (Status::CAPACITY_EXCEEDED, "NVME_SC_CAP_EXCEEDED"),
            (Status::NAMESPACE_NOT_READY, "NVME_SC_NS_NOT_READY"),
            (Status::RESERVATION_CONFLICT, "NVME_SC_RESERVATION_CONFLICT"),
            (Status::FORMAT_IN_PROGRESS, "NVME_SC_FORMAT_IN_PROGRESS"),
        ],
    ),
    (
        "NVME_SCT_CMD_SPECIFIC",
        &[
            (Status::COMPLETION_QUEUE_INVALID, "NVME_SC_CQ_INVALID"),
            (Status::INVALID_QUEUE_ID, "NVME_SC_QID_INVALID"),
            (Status::INVALID_QUEUE_SIZE, "NVME_SC_QUEUE_SIZE"),
            (Status::ABORT_LIMIT_EXCEEDED, "NVME_SC_ABORT_LIMIT"),
            (Status::ASYNC_EVENT_LIMIT_EXCEEDED, "NVME_SC_ASYNC_LIMIT"),
            (Status::INVALID_FIRMWARE_SLOT, "NVME_SC_FIRMWARE_SLOT"),
            (Status::INVALID_FIRMWARE_IMAGE, "NVME_SC_FIRMWARE_IMAGE"),
            (Status::INVALID_INTERRUPT_VECTOR, "NVME_SC_INVALID_VECTOR"),
            (Status::INVALID_LOG_PAGE, "NVME_SC_INVALID_LOG_PAGE"),
            (Status::INVALID_FORMAT, "NVME_SC_INVALID_FORMAT"),
            (
                Status::FIRMWARE_NEEDS_CONVENTIONAL_RESET,
                "NVME_SC_FW_NEEDS_CONV_RESET",
            ),
            (Status::INVALID_QUEUE_DELETION, "NVME_SC_INVALID_QUEUE"),
            (Status::FEATURE_NOT_SAVEABLE, "NVME_SC_FEATURE_NOT_SAVEABLE"),
            (
                Status::FEATURE_NOT_CHANGEABLE,
                "NVME_SC_FEATURE_NOT_CHANGEABLE",
            ),
            (
                Status::FEATURE_NOT_NAMESPACE_SPECIFIC,
                "NVME_SC_FEATURE_NOT_PER_NS",
            ),
            (
                Status::FIRMWARE_NEEDS_SUBSYSTEM_RESET,
                "NVME_SC_FW_NEEDS_SUBSYS_RESET",
            ),
            (
                Status::FIRMWARE_NEEDS_CONTROLLER_RESET,
                "NVME_SC_FW_NEEDS_RESET",
            ),
            (
                Status::FIRMWARE_NEEDS_MAXIMUM_TIME,
                "NVME_SC_FW_NEEDS_MAX_TIME",
            ),
            (
                Status::FIRMWARE_ACTIVATION_PROHIBITED,
                "NVME_SC_FW_ACTIVATE_PROHIBITED",
            ),
            (Status::OVERLAPPING_RANGE, "NVME_SC_OVERLAPPING_RANGE"),
            (
                Status::NAMESPACE_INSUFFICIENT_CAPACITY,
                "NVME_SC_NS_INSUFFICIENT_CAP",
            ),
            (
                Status::NAMESPACE_ID_UNAVAILABLE,
                "NVME_SC_NS_ID_UNAVAILABLE",
            ),
            (
                Status::NAMESPACE_ALREADY_ATTACHED,
                "NVME_SC_NS_ALREADY_ATTACHED",
            ),
            (Status::NAMESPACE_IS_PRIVATE, "NVME_SC_NS_IS_PRIVATE"),
            (Status::NAMESPACE_NOT_ATTACHED, "NVME_SC_NS_NOT_ATTACHED"),
            (
                Status::THIN_PROVISIONING_NOT_SUPPORTED,
                "NVME_SC_THIN_PROV_NOT_SUPP",
            ),
            (Status::CONTROLLER_LIST_INVALID, "NVME_SC_CTRL_LIST_INVALID"),
            (
                Status::SELF_TEST_IN_PROGRESS,
                "NVME_SC_SELF_TEST_IN_PROGRESS",
            ),
            (
                Status::BOOT_PARTITION_WRITE_PROHIBITED,
                "NVME_SC_BP_WRITE_PROHIBITED",
            ),
            (Status::INVALID_CONTROLLER_ID, "NVME_SC_INVALID_CTRL_ID"),
            (
                Status::INVALID_SECONDARY_CONTROLLER_STATE,
                "NVME_SC_INVALID_SEC_CTRL_STATE",
            ),
            (
                Status::INVALID_CONTROLLER_RESOURCE_COUNT,
                "NVME_SC_INVALID_CTRL_RESOURCES",
            ),
            (Status::INVALID_RESOURCE_ID, "NVME_SC_INVALID_RESOURCE_ID"),
            (
                Status::SANITIZE_PROHIBITED_PMR_ENABLED,
                "NVME_SC_PMR_SAN_PROHIBITED",
            ),
            (Status::ANA_GROUP_ID_INVALID, "NVME_SC_ANA_GROUP_ID_INVALID"),
            (Status::ANA_ATTACH_FAILED, "NVME_SC_ANA_ATTACH_FAILED"),
            (Status::INSUFFICIENT_CAPACITY, "NVME_SC_INSUFFICIENT_CAP"),
            (
                Status::NAMESPACE_ATTACHMENT_LIMIT_EXCEEDED,
                "NVME_SC_NS_ATTACHMENT_LIMIT_EXCEEDED",
            ),
            (
                Status::PROHIBITION_NOT_SUPPORTED,
                "NVME_SC_PROHIBIT_CMD_EXEC_NOT_SUPPORTED",
            ),
            (
                Status::IO_COMMAND_SET_NOT_SUPPORTED,
                "NVME_SC_IOCS_NOT_SUPPORTED",
            ),
            (
                Status::IO_COMMAND_SET_NOT_ENABLED,
                "NVME_SC_IOCS_NOT_ENABLED",
            ),
            (
                Status::IO_COMMAND_SET_COMBINATION_REJECTED,
                "NVME_SC_IOCS_COMBINATION_REJECTED",
            ),
            (Status::INVALID_IO_COMMAND_SET, "NVME_SC_INVALID_IOCS"),
            (Status::ID_UNAVAILABLE, "NVME_SC_ID_UNAVAILABLE"),
            (Status::CONFLICTING_ATTRIBUTES, "NVME_SC_BAD_ATTRIBUTES"),
            (Status::INVALID_PROTECTION_INFORMATION, "NVME_SC_INVALID_PI"),
            (Status::WRITE_TO_READ_ONLY_RANGE, "NVME_SC_READ_ONLY"),
            (
                Status::COMMAND_SIZE_LIMIT_EXCEEDED,
                "NVME_SC_CMD_SIZE_LIMIT_EXCEEDED",
            ),
        ],
    ),
    (
        "NVME_SCT_MEDIA",
        &[
            (Status::WRITE_FAULT, "NVME_SC_WRITE_FAULT"),
            (Status::UNRECOVERED_READ_ERROR, "NVME_SC_READ_ERROR"),
            (Status::GUARD_CHECK_ERROR, "NVME_SC_GUARD_CHECK"),
            (Status::APPLICATION_TAG_CHECK_ERROR, "NVME_SC_APPTAG_CHECK"),
            (Status::REFERENCE_TAG_CHECK_ERROR, "NVME_SC_REFTAG_CHECK"),
            (Status::COMPARE_FAILURE, "NVME_SC_COMPARE_FAILED"),
            (Status::ACCESS_DENIED, "NVME_SC_ACCESS_DENIED"),
            (Status::DEALLOCATED_OR_UNWRITTEN, "NVME_SC_UNWRITTEN_BLOCK"),
            (Status::STORAGE_TAG_CHECK_ERROR, "NVME_SC_STORAGE_TAG_CHECK"),
        ],
    ),
    (
        "NVME_SCT_PATH",
        &[
            (
                Status::INTERNAL_PATH_ERROR,
                "NVME_SC_ANA_INTERNAL_PATH_ERROR",
            ),
            (Status::ANA_PERSISTENT_LOSS, "NVME_SC_ANA_PERSISTENT_LOSS"),
            (Status::ANA_INACCESSIBLE, "NVME_SC_ANA_INACCESSIBLE"),
            (Status::ANA_TRANSITION, "NVME_SC_ANA_TRANSITION"),
            (Status::CONTROLLER_PATHING_ERROR, "NVME_SC_CTRL_PATH_ERROR"),
            (Status::HOST_PATHING_ERROR, "NVME_SC_HOST_PATH_ERROR"),
            (Status::ABORTED_BY_HOST, "NVME_SC_CMD_ABORTED_BY_HOST"),
        ],
    ),
];
