//! The rows of the Identify Controller page (Base 2.0, figure 275), and its power states.
use super::rows::meaning::{
    and_one, blocks_and_one, bytes, entry_size, hundred_ms, kelvins, microseconds, pages_of_4_kib,
    pages_of_64_kib, reported, version, zero_no_limit,
};
use super::rows::{Context, Form, Row, bit, bits, dec, flags, hex, number, other};
use crate::text;
use serde_json::{Value, json};
use underpin::spec::identify::IdentifyController;

/// One row per field, in the page's order.
pub(crate) const ROWS: &[Row] = &[
    hex("vid", "PCI vendor"),
    hex("ssvid", "PCI subsystem vendor"),
    other(Form::Text, "sn", "serial number"),
    other(Form::Text, "mn", "model number"),
    other(Form::Text, "fr", "firmware revision"),
    dec("rab", "recommended arbitration burst").means(commands),
    other(Form::Reversed, "ieee", "IEEE OUI of the vendor"),
    flags(
        "cmic",
        "multi-path and sharing",
        &[
            bit(0, "more than one port"),
            bit(1, "more than one controller"),
            bit(2, "an SR-IOV virtual function"),
            bit(3, "reports asymmetric namespace access"),
        ],
    ),
    dec("mdts", "longest transfer").means(longest_transfer),
    dec("cntlid", "controller identifier"),
    hex("ver", "version of the specification").means(version),
    dec("rtd3r", "latency of resuming from runtime D3").means(microseconds),
    dec("rtd3e", "latency of entering runtime D3").means(microseconds),
    flags(
        "oaes",
        "asynchronous events, optional ones",
        &[
            bit(8, "namespace attributes changed"),
            bit(9, "firmware activation starts"),
            bit(11, "asymmetric namespace access changed"),
            bit(12, "predictable latency aggregate log changed"),
            bit(13, "LBA status information"),
            bit(14, "endurance group aggregate log changed"),
            bit(15, "normal subsystem shutdown"),
            bit(27, "zone descriptor changed"),
            bit(31, "discovery log changed"),
        ],
    ),
    flags(
        "ctratt",
        "controller attributes",
        &[
            bit(0, "128-bit host identifier"),
            bit(1, "non-operational power state permissive mode"),
            bit(2, "NVM sets"),
            bit(3, "read recovery levels"),
            bit(4, "endurance groups"),
            bit(5, "predictable latency mode"),
            bit(6, "traffic based keep alive"),
            bit(7, "namespace granularity"),
            bit(8, "submission queue associations"),
            bit(9, "UUID list"),
            bit(10, "several domains"),
            bit(11, "fixed capacity management"),
            bit(12, "variable capacity management"),
            bit(13, "delete endurance group"),
            bit(14, "delete NVM set"),
            bit(15, "extended LBA formats"),
        ],
    ),
    hex("rrls", "read recovery levels, one bit each"),
    dec("cntrltype", "controller type").means(controller_type),
    other(Form::Bytes, "fguid", "FRU identifier"),
    dec("crdt1", "command retry delay 1").means(hundred_ms),
    dec("crdt2", "command retry delay 2").means(hundred_ms),
    dec("crdt3", "command retry delay 3").means(hundred_ms),
    flags(
        "nvmsr",
        "NVM subsystem",
        &[
            bit(0, "part of a storage device"),
            bit(1, "part of an enclosure"),
        ],
    ),
    flags(
        "vwci",
        "vital product data write cycles",
        &[
            bits(0, 7, "remaining"),
            bit(7, "the remaining count is valid"),
        ],
    ),
    flags(
        "mec",
        "management endpoints",
        &[bit(0, "on SMBus or I2C"), bit(1, "on PCIe")],
    ),
    flags(
        "oacs",
        "admin commands, optional ones",
        &[
            bit(0, "Security Send and Receive"),
            bit(1, "Format NVM"),
            bit(2, "Firmware Commit and Image Download"),
            bit(3, "Namespace Management and Attachment"),
            bit(4, "Device Self-test"),
            bit(5, "Directives"),
            bit(6, "NVMe-MI Send and Receive"),
            bit(7, "Virtualization Management"),
            bit(8, "Doorbell Buffer Config"),
            bit(9, "Get LBA Status"),
            bit(10, "Command and Feature Lockdown"),
        ],
    ),
    dec("acl", "Abort commands at once").means(and_one),
    dec("aerl", "asynchronous event requests at once").means(and_one),
    flags(
        "frmw",
        "firmware updates",
        &[
            bit(0, "slot 1 is read-only"),
            bits(1, 3, "slots"),
            bit(4, "activation without a reset"),
            bit(5, "overlapping updates are detected"),
        ],
    ),
    flags(
        "lpa",
        "log pages",
        &[
            bit(0, "SMART per namespace"),
            bit(1, "commands supported and effects"),
            bit(2, "extended data for Get Log Page"),
            bit(3, "telemetry"),
            bit(4, "persistent events"),
            bit(
                5,
                "supported log pages, features, MI commands and their effects",
            ),
            bit(6, "telemetry data area 4"),
        ],
    ),
    dec("elpe", "entries of the error log").means(and_one),
    dec("npss", "power states").means(and_one),
    flags(
        "avscc",
        "vendor's admin commands",
        &[bit(0, "are of the standard format")],
    ),
    flags(
        "apsta",
        "autonomous power state transitions",
        &[bit(0, "supported")],
    ),
    dec("wctemp", "warning temperature").means(kelvins),
    dec("cctemp", "critical temperature").means(kelvins),
    dec("mtfa", "longest firmware activation").means(hundred_ms),
    dec("hmpre", "host memory buffer, preferred").means(pages_of_4_kib),
    dec("hmmin", "host memory buffer, least").means(pages_of_4_kib),
    dec("tnvmcap", "capacity").means(bytes),
    dec("unvmcap", "capacity not allocated").means(bytes),
    flags(
        "rpmbs",
        "replay protected memory blocks",
        &[
            bits(0, 3, "units"),
            bits(3, 3, "authentication method"),
            bits(16, 8, "size in 128 KiB, counted from 0"),
            bits(24, 8, "access size in 512 bytes, counted from 0"),
        ],
    ),
    dec("edstt", "minutes of an extended self-test"),
    flags(
        "dsto",
        "self-tests",
        &[bit(0, "one at a time in the subsystem")],
    ),
    dec("fwug", "firmware update granularity").means(firmware_granularity),
    dec("kas", "keep alive granularity").means(hundred_ms),
    flags(
        "hctma",
        "host controlled thermal management",
        &[bit(0, "supported")],
    ),
    dec("mntmt", "lowest thermal management temperature").means(kelvins),
    dec("mxtmt", "highest thermal management temperature").means(kelvins),
    flags(
        "sanicap",
        "sanitize",
        &[
            bit(0, "crypto erase"),
            bit(1, "block erase"),
            bit(2, "overwrite"),
            bit(29, "No-Deallocate After Sanitize is inhibited"),
            bits(30, 2, "what No-Deallocate does to the media"),
        ],
    ),
    dec("hmminds", "host memory buffer, smallest descriptor").means(pages_of_4_kib),
    dec("hmmaxd", "host memory buffer, descriptors").means(zero_no_limit),
    dec("nsetidmax", "highest NVM set"),
    dec("endgidmax", "highest endurance group"),
    dec("anatt", "seconds of an ANA transition at most"),
    flags(
        "anacap",
        "asymmetric namespace access",
        &[
            bit(0, "optimized"),
            bit(1, "non-optimized"),
            bit(2, "inaccessible"),
            bit(3, "persistent loss"),
            bit(4, "change"),
            bit(6, "a namespace's group does not change while attached"),
            bit(7, "groups can be chosen in Namespace Management"),
        ],
    ),
    dec("anagrpmax", "highest ANA group"),
    dec("nanagrpid", "ANA groups"),
    dec("pels", "persistent event log").means(pages_of_64_kib),
    dec("domain_id", "domain"),
    dec("megcap", "largest endurance group").means(bytes),
    hex("sqes", "submission queue entry").means(entry_size),
    hex("cqes", "completion queue entry").means(entry_size),
    dec("maxcmd", "commands outstanding on a queue").means(zero_no_limit),
    dec("nn", "highest namespace identifier"),
    flags(
        "oncs",
        "NVM commands, optional ones",
        &[
            bit(0, "Compare"),
            bit(1, "Write Uncorrectable"),
            bit(2, "Dataset Management"),
            bit(3, "Write Zeroes"),
            bit(4, "saved and selected features"),
            bit(5, "reservations"),
            bit(6, "timestamp"),
            bit(7, "Verify"),
            bit(8, "Copy"),
        ],
    ),
    flags("fuses", "fused operations", &[bit(0, "Compare and Write")]),
    flags(
        "fna",
        "Format NVM",
        &[
            bit(0, "formats every namespace"),
            bit(1, "secure erase erases every namespace"),
            bit(2, "cryptographic erase"),
            bit(3, "does not take the broadcast namespace"),
        ],
    ),
    flags(
        "vwc",
        "volatile write cache",
        &[
            bit(0, "present: a completed write lasts only after a flush"),
            bits(1, 2, "Flush of all namespaces (2 no, 3 yes)"),
        ],
    ),
    dec("awun", "atomic write unit").means(blocks_and_one),
    dec("awupf", "atomic write unit at power failure").means(blocks_and_one),
    flags(
        "icsvscc",
        "vendor's I/O commands",
        &[bit(0, "are of the standard format")],
    ),
    flags(
        "nwpc",
        "namespace write protection",
        &[
            bit(0, "can be set and taken away"),
            bit(1, "until power cycle"),
            bit(2, "for ever"),
        ],
    ),
    dec("acwu", "atomic compare and write unit").means(blocks_and_one),
    flags(
        "ocfs",
        "formats of Copy",
        &[bit(0, "format 0"), bit(1, "format 1")],
    ),
    flags(
        "sgls",
        "scatter gather lists",
        &[
            bits(0, 2, "supported (1 any alignment, 2 dwords)"),
            bit(2, "keyed"),
            bits(8, 8, "recommended descriptors at most"),
            bit(16, "bit bucket"),
            bit(17, "byte-aligned metadata"),
            bit(18, "longer than the data"),
            bit(19, "for metadata too"),
            bit(20, "address as an offset"),
            bit(21, "transport data blocks"),
        ],
    ),
    dec("mnan", "namespaces at most").means(as_nn),
    dec("maxdna", "attachments in a domain").means(zero_no_limit),
    dec("maxcna", "attachments of a controller").means(zero_no_limit),
    other(Form::Text, "subnqn", "subsystem NQN"),
    dec("ioccsz", "fabrics: command capsule in 16 bytes"),
    dec("iorcsz", "fabrics: response capsule in 16 bytes"),
    dec("icdoff", "fabrics: data offset in 16 bytes"),
    flags(
        "fcatt",
        "fabrics: controller",
        &[bit(0, "of the static model")],
    ),
    dec("msdbd", "fabrics: data block descriptors").means(zero_no_limit),
    flags(
        "ofcs",
        "fabrics: optional commands",
        &[bit(0, "Disconnect")],
    ),
    dec("dctype", "discovery controller type"),
    other(Form::PowerStates, "psd", "power states"),
    other(Form::Vendor, "vendor", "vendor's own"),
];

fn commands(number: u128, _: &Context) -> String {
    match 1_u128.checked_shl(u32::try_from(number).unwrap_or(u32::MAX)) {
        Some(1) => "1 command".to_owned(),
        Some(burst) => format!("{burst} commands"),
        None => "more than any queue holds".to_owned(),
    }
}

fn longest_transfer(number: u128, context: &Context) -> String {
    let pages = u32::try_from(number)
        .ok()
        .and_then(|power| 1_u128.checked_shl(power));
    match pages.and_then(|pages| pages.checked_mul(u128::from(context.page_bytes))) {
        _ if number == 0 => "no limit".to_owned(),
        Some(len_bytes) => text::size(len_bytes),
        None => "more than any memory".to_owned(),
    }
}

fn controller_type(number: u128, _: &Context) -> String {
    match number {
        0 => "not reported",
        1 => "I/O",
        2 => "discovery",
        3 => "administrative",
        _ => "reserved",
    }
    .to_owned()
}

fn firmware_granularity(number: u128, context: &Context) -> String {
    match number {
        0xff => "no restriction".to_owned(),
        number => pages_of_4_kib(number, context),
    }
}

fn as_nn(number: u128, _: &Context) -> String {
    reported(number, |number| number.to_string()).replace("none", "as nn")
}

/// A power state descriptor (Base 2.0, figure 276).
struct PowerState<'a>(&'a [u8; 32]);

impl PowerState<'_> {
    fn number(&self, at: usize, len_bytes: usize) -> u64 {
        number(self.0.get(at..at + len_bytes).unwrap_or_default()) as u64
    }

    /// Power in units that a scale chooses: 1 is 0.0001 W, 2 is 0.01 W.
    fn microwatts(&self, at: usize, scale: u64) -> Option<u64> {
        let unit = match scale {
            1 => 100,
            2 => 10_000,
            _ => return None,
        };
        Some(self.number(at, 2) * unit)
    }

    fn max_microwatts(&self) -> Option<u64> {
        // MXPS: set for 0.0001 W, clear for 0.01 W; a power of zero is not reported.
        let scale = if self.number(3, 1) & 1 == 1 { 1 } else { 2 };
        self.microwatts(0, scale).filter(|&power| power != 0)
    }

    fn idle_microwatts(&self) -> Option<u64> {
        self.microwatts(16, self.number(18, 1) >> 6)
    }

    fn active_microwatts(&self) -> Option<u64> {
        self.microwatts(20, self.number(22, 1) >> 6)
    }

    fn is_operational(&self) -> bool {
        self.number(3, 1) & 2 == 0
    }
}

fn power_states(page: &IdentifyController) -> impl Iterator<Item = (u8, PowerState<'_>)> {
    (0..32).map_while(|state| Some((state, PowerState(page.power_state(state)?))))
}

/// The power states that NPSS says there are.
pub(crate) fn power_states_json(page: &IdentifyController) -> Value {
    power_states(page)
        .map(|(state, descriptor)| {
            json!({
                "state": state,
                "max_microwatts": descriptor.max_microwatts(),
                "operational": descriptor.is_operational(),
                "entry_latency_us": descriptor.number(4, 4),
                "exit_latency_us": descriptor.number(8, 4),
                "relative_read_throughput": descriptor.number(12, 1) & 0x1f,
                "relative_read_latency": descriptor.number(13, 1) & 0x1f,
                "relative_write_throughput": descriptor.number(14, 1) & 0x1f,
                "relative_write_latency": descriptor.number(15, 1) & 0x1f,
                "idle_microwatts": descriptor.idle_microwatts(),
                "active_microwatts": descriptor.active_microwatts(),
                "active_workload": descriptor.number(22, 1) & 0b111,
            })
        })
        .collect()
}

/// The same as lines of a table.
pub(crate) fn power_states_text(page: &IdentifyController) -> String {
    let watts = |power: Option<u64>| match power {
        None => "-".to_owned(),
        Some(power) => format!("{}.{:04} W", power / 1_000_000, power % 1_000_000 / 100),
    };
    let mut rows = vec![
        ["STATE", "AT MOST", "IDLE", "ACTIVE", "ENTRY", "EXIT", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(power_states(page).map(|(state, descriptor)| {
        vec![
            state.to_string(),
            watts(descriptor.max_microwatts()),
            watts(descriptor.idle_microwatts()),
            watts(descriptor.active_microwatts()),
            format!("{} us", descriptor.number(4, 4)),
            format!("{} us", descriptor.number(8, 4)),
            if descriptor.is_operational() {
                ""
            } else {
                "not operational"
            }
            .to_owned(),
        ]
    }));
    text::columns("  ", &rows)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::rows::testing::rows_are_the_fields;
    use super::*;

    #[test]
    fn every_field_has_a_row() {
        rows_are_the_fields(ROWS, IdentifyController::FIELDS);
    }

    /// MDTS counts in pages of CAP.MPSMIN, and no byte of it makes the sum overflow.
    #[test]
    fn the_longest_transfer_depends_on_the_page() {
        let context = |page_bytes| Context {
            page_bytes,
            lba_bytes: 0,
        };
        assert_eq!(longest_transfer(5, &context(4096)), "128 KiB");
        assert_eq!(longest_transfer(5, &context(8192)), "256 KiB");
        assert_eq!(longest_transfer(0, &context(4096)), "no limit");
        for mdts in 0..=255 {
            let _ = (
                longest_transfer(mdts, &context(1 << 27)),
                commands(mdts, &context(4096)),
            );
        }
    }

    /// Figure 276 by bytes: power with its scales, latencies, and whether I/O is processed.
    #[test]
    fn a_power_state_is_decoded() {
        let mut bytes = [0; 4096];
        bytes[263] = 1;
        let first = 2048;
        bytes[first..first + 4].copy_from_slice(&[0x58, 0x02, 0, 0]);
        let second = first + 32;
        bytes[second..second + 4].copy_from_slice(&[0x32, 0, 0, 0b11]);
        bytes[second + 4..second + 8].copy_from_slice(&2000_u32.to_le_bytes());
        bytes[second + 8..second + 12].copy_from_slice(&1200_u32.to_le_bytes());
        bytes[second + 16..second + 19].copy_from_slice(&[50, 0, 0b0100_0000]);
        bytes[second + 20..second + 23].copy_from_slice(&[9, 0, 0b1000_0010]);
        let states = power_states_json(&IdentifyController::from_bytes(&bytes));
        assert_eq!(states.as_array().unwrap().len(), 2);
        assert_eq!(states[0]["max_microwatts"], 6_000_000);
        assert_eq!(states[0]["operational"], true);
        assert_eq!(states[0]["idle_microwatts"], Value::Null);
        assert_eq!(states[1]["max_microwatts"], 5_000);
        assert_eq!(states[1]["operational"], false);
        assert_eq!(
            (
                &states[1]["entry_latency_us"],
                &states[1]["exit_latency_us"]
            ),
            (&json!(2000), &json!(1200))
        );
        assert_eq!(states[1]["idle_microwatts"], 5_000);
        assert_eq!(
            (
                &states[1]["active_microwatts"],
                &states[1]["active_workload"]
            ),
            (&json!(90_000), &json!(2))
        );
    }
}
