//! Which of our values is compared with which C expression, and which ones libnvme's headers
//! do not have.

use std::fmt::Debug;

use underpin_nvme_spec::admin::{Cns, FeatureId};
use underpin_nvme_spec::identify::{Field, IdentifyController, IdentifyNamespace, PAGE_LEN_BYTES};
use underpin_nvme_spec::registers::{Aqa, BitField, Cap, Cc, Crto, Csts, Vs, offset};
use underpin_nvme_spec::{AdminOpcode, Cid, Cqe, Nsid, NvmOpcode, Qid, Sgls, Sqe, Status};

use crate::names::{ADMIN_OPCODES, CNS, FEATURES, NVM_OPCODES, STATUSES};

/// One number of ours and the C expression that is to be worth as much.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// What it is, for the one who reads of a difference.
    pub(crate) name: String,
    /// A constant expression over libnvme's headers.
    pub(crate) expression: String,
    /// Our number.
    pub(crate) ours: u64,
}

/// Everything that is compared.
pub(crate) fn all_values() -> Vec<Value> {
    let mut values = Values(Vec::new());
    values.identify_pages();
    values.namespace_format();
    values.queue_entries();
    values.registers();
    values.status_bits();
    values.sgl_support();
    values.named("admin opcode", AdminOpcode::ALL, ADMIN_OPCODES, |opcode| {
        opcode.0.into()
    });
    values.named("I/O opcode", NvmOpcode::ALL, NVM_OPCODES, |opcode| {
        opcode.0.into()
    });
    let statuses: Vec<(Status, String)> = STATUSES
        .iter()
        .flat_map(|(kind, codes)| {
            codes
                .iter()
                .map(move |(status, code)| (*status, format!("{kind} << NVME_SCT_SHIFT | {code}")))
        })
        .collect();
    values.named("status", Status::ALL, &statuses, |status| status.0.into());
    values.named("feature", FeatureId::ALL, FEATURES, |fid| fid.0.into());
    values.named("CNS", Cns::ALL, CNS, |cns| cns.0.into());
    crate::commands::compare(&mut values);
    values.0
}

/// Controller fields whose name in the header is not ours. It has all of them.
const CONTROLLER_MEMBERS: &[(&str, &str)] = &[("domain_id", "domainid"), ("vendor", "vs")];

/// Namespace fields whose name in the header is not ours.
const NAMESPACE_MEMBERS: &[(&str, &str)] = &[];

/// Fields of identify pages that the header does not have as we do, and why that is.
const ABSENT_FIELDS: &[(&str, &str)] = &[(
    "identify namespace vendor",
    "libnvme has LBSTM in its first 8 bytes; NVM Command Set 1.0 has LBSTM in CNS 05h's page alone",
)];

/// Properties that libnvme 1.3 has no offset of, and why that is.
const ABSENT_OFFSETS: &[(&str, &str)] = &[
    ("CMBEBS", "libnvme 1.3 names no elasticity buffer property"),
    ("CMBSWTP", "libnvme 1.3 names no write throughput property"),
    ("NSSD", "libnvme 1.3 names no NVM Subsystem Shutdown"),
    (
        "DOORBELLS",
        "libnvme rings none: its commands go through the kernel",
    ),
];

/// Property fields that libnvme 1.3 has no mask of, and why that is.
const ABSENT_BITS: &[(&str, &str)] = &[
    ("CAP.CPS", "libnvme 1.3 names no power scope"),
    ("CAP.NSSS", "libnvme 1.3 names no NVM Subsystem Shutdown"),
    ("CSTS.ST", "libnvme 1.3 names no shutdown type"),
];

pub(crate) struct Values(Vec<Value>);

impl Values {
    pub(crate) fn push(
        &mut self,
        name: impl Into<String>,
        expression: impl Into<String>,
        ours: u64,
    ) {
        self.0.push(Value {
            name: name.into(),
            expression: expression.into(),
            ours,
        });
    }

    /// Offset and size of every field in our tables.
    fn identify_pages(&mut self) {
        self.page(
            "identify controller",
            "nvme_id_ctrl",
            IdentifyController::FIELDS,
            CONTROLLER_MEMBERS,
        );
        self.page(
            "identify namespace",
            "nvme_id_ns",
            IdentifyNamespace::FIELDS,
            NAMESPACE_MEMBERS,
        );
        self.push("LBA format: size", "sizeof(struct nvme_lbaf)", 4);
    }

    fn page(&mut self, page: &str, structure: &str, fields: &[Field], renamed: &[(&str, &str)]) {
        self.push(
            format!("{page}: size"),
            format!("sizeof(struct {structure})"),
            PAGE_LEN_BYTES as u64,
        );
        for (name, _) in renamed {
            assert!(
                fields.iter().any(|field| field.name == *name),
                "{page} has no field {name}"
            );
        }
        for field in fields {
            let name = format!("{page} {}", field.name);
            if let Some((_, reason)) = ABSENT_FIELDS.iter().find(|(absent, _)| *absent == name) {
                println!("not compared: {name}: {reason}");
                continue;
            }
            let member = renamed
                .iter()
                .find(|(name, _)| *name == field.name)
                .map_or(field.name, |(_, member)| member);
            self.push(
                format!("{name}: offset"),
                format!("offsetof(struct {structure}, {member})"),
                field.offset as u64,
            );
            self.push(
                format!("{name}: size"),
                format!("sizeof(((struct {structure} *)0)->{member})"),
                field.len_bytes as u64,
            );
        }
    }

    /// Which format FLBAS names, for every byte it can be, where there are formats beyond 16.
    fn namespace_format(&mut self) {
        let mut page = IdentifyNamespace::zeroed();
        page.set_nlbaf(63);
        for flbas in 0..=u8::MAX {
            page.set_flbas(flbas);
            self.push(
                format!("format index of FLBAS {flbas:#04x}"),
                format!("format_index({flbas})"),
                page.format_index() as u64,
            );
        }
    }

    /// The header has no queue entries, but its passthrough command begins as a submission queue
    /// entry does; where PRP 2 lies in one, the other has two lengths. Of a completion queue
    /// entry it has the status field's bits alone.
    fn queue_entries(&mut self) {
        let ones = Sqe::new();
        for (member, entry) in [
            ("opcode", ones.with_opcode(!0)),
            ("nsid", ones.with_nsid(Nsid(!0))),
            ("cdw2", ones.with_cdw2(!0)),
            ("cdw3", ones.with_cdw3(!0)),
            ("metadata", ones.with_mptr(!0)),
            ("addr", ones.with_prp1(!0)),
            ("cdw10", ones.with_cdw10(!0)),
            ("cdw11", ones.with_cdw11(!0)),
            ("cdw12", ones.with_cdw12(!0)),
            ("cdw13", ones.with_cdw13(!0)),
            ("cdw14", ones.with_cdw14(!0)),
            ("cdw15", ones.with_cdw15(!0)),
        ] {
            let bytes = entry.to_bytes();
            let first = bytes.iter().position(|byte| *byte != 0).unwrap();
            let len = bytes.iter().filter(|byte| **byte == 0xff).count();
            self.push(
                format!("submission queue entry {member}: offset"),
                format!("offsetof(struct nvme_passthru_cmd, {member})"),
                first as u64,
            );
            self.push(
                format!("submission queue entry {member}: size"),
                format!("sizeof(((struct nvme_passthru_cmd *)0)->{member})"),
                len as u64,
            );
        }
        let prp2 = ones.with_prp2(!0).to_bytes();
        self.push(
            "submission queue entry PRP 2: offset",
            "offsetof(struct nvme_passthru_cmd, metadata_len)",
            prp2.iter().position(|byte| *byte != 0).unwrap() as u64,
        );
        self.push(
            "submission queue entry: size",
            "offsetof(struct nvme_passthru_cmd, timeout_ms)",
            Sqe::LEN_BYTES as u64,
        );
    }

    fn registers(&mut self) {
        for (name, offset) in offset::ALL {
            if let Some((_, reason)) = ABSENT_OFFSETS.iter().find(|(absent, _)| absent == name) {
                println!("not compared: offset of {name}: {reason}");
                continue;
            }
            self.push(
                format!("{name}: offset"),
                format!("NVME_REG_{name}"),
                *offset as u64,
            );
        }
        self.bits("CAP", Cap::FIELDS);
        self.bits("VS", Vs::FIELDS);
        self.bits("CC", Cc::FIELDS);
        self.bits("CSTS", Csts::FIELDS);
        self.bits("AQA", Aqa::FIELDS);
        self.bits("CRTO", Crto::FIELDS);

        let constant = |name: &str| format!("NVME_{name}");
        for (name, ours) in [
            ("CC_SHN_NONE", Cc::SHN_NONE),
            ("CC_SHN_NORMAL", Cc::SHN_NORMAL),
            ("CC_SHN_ABRUPT", Cc::SHN_ABRUPT),
            ("CSTS_SHST_NORMAL", Csts::SHST_NORMAL),
            ("CSTS_SHST_OCCUR", Csts::SHST_OCCURRING),
            ("CSTS_SHST_CMPLT", Csts::SHST_COMPLETE),
        ] {
            self.push(name, constant(name), ours.into());
        }
        let both = Cap::default().with_crms(0b11);
        let crms = |lost: Cap| u64::from(both.crms() & !lost.crms());
        assert!(both.crwms() && both.crims());
        let without_media = Cap::default().with_crms(0b10);
        assert!(without_media.crims() && !without_media.crwms());
        self.push("CAP.CRMS with media", "NVME_CAP_CRWMS", crms(without_media));
        let with_media = Cap::default().with_crms(0b01);
        assert!(with_media.crwms() && !with_media.crims());
        self.push(
            "CAP.CRMS independent of media",
            "NVME_CAP_CRIMS",
            crms(with_media),
        );
    }

    fn bits(&mut self, property: &str, fields: &[BitField]) {
        for field in fields {
            let name = format!("{property}.{}", field.name.to_uppercase());
            if let Some((_, reason)) = ABSENT_BITS.iter().find(|(absent, _)| *absent == name) {
                println!("not compared: {name}: {reason}");
                continue;
            }
            let header = match name.as_str() {
                "CAP.NSSRS" => "CAP_NSSRC".into(),
                "VS.TERTIARY" => "VS_TER".into(),
                "VS.MINOR" => "VS_MNR".into(),
                "VS.MAJOR" => "VS_MJR".into(),
                _ => name.replace('.', "_"),
            };
            self.push(
                format!("{name}: shift"),
                format!("NVME_{header}_SHIFT"),
                field.shift.into(),
            );
            // Masks of CRTO lie at their fields in the header, all others at bit 0.
            let mask = if property == "CRTO" {
                format!("(__u32)NVME_{header}_MASK >> NVME_{header}_SHIFT")
            } else {
                format!("NVME_{header}_MASK")
            };
            self.push(format!("{name}: mask"), mask, (1 << field.width) - 1);
        }
    }

    /// Identify Controller's SGLS.
    fn sgl_support(&mut self) {
        let granularities = Sgls::BYTE.0 | Sgls::DWORD.0;
        for (name, ours) in [
            ("SUPPORTED", granularities),
            ("BIT_BUCKET", Sgls::BIT_BUCKET),
            ("MPTR_BYTE_ALIGNED", Sgls::BYTE_ALIGNED_METADATA),
            ("OVERSIZE", Sgls::LONGER_THAN_DATA),
            ("MPTR_SGL", Sgls::METADATA_DESCRIPTOR),
            ("OFFSET", Sgls::ADDRESS_AS_OFFSET),
        ] {
            self.push(
                format!("SGLS: {name}"),
                format!("NVME_CTRL_SGLS_{name}"),
                ours.into(),
            );
        }
    }

    fn status_bits(&mut self) {
        for (name, expression, ours) in [
            (
                "status: code",
                "NVME_SCT_MASK << NVME_SCT_SHIFT | NVME_SC_MASK",
                Status::CODE_MASK,
            ),
            (
                "status: retry delay",
                "NVME_SC_CRD",
                Status::RETRY_DELAY_MASK,
            ),
            ("status: more", "NVME_SC_MORE", Status::MORE),
            ("status: do not retry", "NVME_SC_DNR", Status::DO_NOT_RETRY),
        ] {
            self.push(name, expression, ours.into());
        }
        // The header's status has no phase tag either: it is what a driver shifts out.
        let posted = Cqe::new(
            0,
            0,
            0,
            Qid(0),
            Cid(0),
            true,
            Status::SUCCESS.with_do_not_retry(),
        );
        self.push(
            "completion queue entry: do not retry",
            "(__u32)NVME_SC_DNR << 17 | 1 << 16",
            posted.as_dwords()[3].into(),
        );
    }

    /// Every entry of one of our tables by the header's name for it. An entry without one, or a
    /// name for what is no entry, is an error.
    pub(crate) fn named<T: Copy + PartialEq + Debug, S: AsRef<str>>(
        &mut self,
        family: &str,
        all: &[(T, &str)],
        names: &[(T, S)],
        number: fn(T) -> u64,
    ) {
        for (constant, header) in names {
            assert!(
                all.iter().any(|(ours, _)| ours == constant),
                "{family} table has no {constant:?} ({})",
                header.as_ref()
            );
        }
        for (constant, name) in all {
            let (_, header) = names
                .iter()
                .find(|(named, _)| named == constant)
                .unwrap_or_else(|| panic!("{family} {name} has no name of libnvme's in names.rs"));
            let header = header.as_ref();
            self.push(format!("{family} {name}"), header, number(*constant));
        }
    }
}
