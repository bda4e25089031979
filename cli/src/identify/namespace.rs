//! The rows of the Identify Namespace page (NVM Command Set 1.0, figure 97), and its LBA formats.
use super::rows::meaning::{and_one, blocks, blocks_and_one, blocks_if_any, bytes, reported};
use super::rows::{Context, Form, Row, bit, bits, dec, flags, other};
use crate::text;
use serde_json::{Value, json};
use underpin::spec::identify::IdentifyNamespace;

/// One row per field, in the page's order.
pub(crate) const ROWS: &[Row] = &[
    dec("nsze", "blocks").means(blocks),
    dec("ncap", "blocks that may be allocated").means(blocks),
    dec("nuse", "blocks allocated").means(blocks),
    flags(
        "nsfeat",
        "features",
        &[
            bit(0, "thin provisioning"),
            bit(1, "atomic write units of its own (NSABP)"),
            bit(2, "reading a deallocated block can be an error (DAE)"),
            bit(3, "identifiers are never used again (UIDREUSE)"),
            bit(4, "preferred sizes and alignments are given (OPTPERF)"),
        ],
    ),
    dec("nlbaf", "LBA formats").means(and_one),
    flags(
        "flbas",
        "LBA format in use",
        &[
            bits(0, 4, "format, low bits"),
            bit(4, "metadata follows each block's data"),
            bits(5, 2, "format, high bits"),
        ],
    ),
    flags(
        "mc",
        "metadata",
        &[
            bit(0, "with each block's data"),
            bit(1, "in a buffer of its own"),
        ],
    ),
    flags(
        "dpc",
        "end-to-end protection it can",
        &[
            bit(0, "type 1"),
            bit(1, "type 2"),
            bit(2, "type 3"),
            bit(3, "as the first bytes of metadata"),
            bit(4, "as the last bytes of metadata"),
        ],
    ),
    flags(
        "dps",
        "end-to-end protection it has",
        &[bits(0, 3, "type"), bit(3, "as the first bytes of metadata")],
    ),
    flags(
        "nmic",
        "sharing",
        &[bit(0, "may be attached to several controllers")],
    ),
    flags(
        "rescap",
        "reservations",
        &[
            bit(0, "persist through power loss"),
            bit(1, "write exclusive"),
            bit(2, "exclusive access"),
            bit(3, "write exclusive, registrants only"),
            bit(4, "exclusive access, registrants only"),
            bit(5, "write exclusive, all registrants"),
            bit(6, "exclusive access, all registrants"),
            bit(7, "ignore existing key as of 1.3"),
        ],
    ),
    flags(
        "fpi",
        "progress of a format",
        &[bits(0, 7, "percent that remain"), bit(7, "is told")],
    ),
    flags(
        "dlfeat",
        "deallocated blocks",
        &[
            bits(0, 3, "read as (1 zeroes, 2 ones)"),
            bit(3, "Write Zeroes can deallocate"),
            bit(4, "guard is the CRC of what is read"),
        ],
    ),
    dec("nawun", "atomic write unit").means(blocks_and_one),
    dec("nawupf", "atomic write unit at power failure").means(blocks_and_one),
    dec("nacwu", "atomic compare and write unit").means(blocks_and_one),
    dec("nabsn", "atomic boundary").means(boundary),
    dec("nabo", "first atomic boundary, a block"),
    dec("nabspf", "atomic boundary at power failure").means(boundary),
    dec("noiob", "optimal I/O boundary").means(blocks_if_any),
    dec("nvmcap", "capacity").means(bytes),
    dec("npwg", "preferred write granularity").means(blocks_and_one),
    dec("npwa", "preferred write alignment").means(blocks_and_one),
    dec("npdg", "preferred deallocate granularity").means(blocks_and_one),
    dec("npda", "preferred deallocate alignment").means(blocks_and_one),
    dec("nows", "optimal write size").means(blocks_and_one),
    dec("mssrl", "longest source range of Copy").means(blocks_if_any),
    dec("mcl", "longest Copy").means(blocks_if_any),
    dec("msrc", "source ranges of Copy").means(and_one),
    dec("nulbaf", "LBA formats of unique capability"),
    dec("anagrpid", "ANA group"),
    flags("nsattr", "attributes", &[bit(0, "write protected")]),
    dec("nvmsetid", "NVM set"),
    dec("endgid", "endurance group"),
    other(Form::Bytes, "nguid", "globally unique identifier"),
    other(Form::Bytes, "eui64", "IEEE extended unique identifier"),
    other(Form::LbaFormats, "lbaf", "LBA formats"),
    other(Form::Vendor, "vendor", "vendor's own"),
];

/// Counted from 0, but 0 is none.
fn boundary(number: u128, context: &Context) -> String {
    reported(number, |number| blocks_and_one(number, context))
}

/// The formats that the page says there are: index, format.
fn formats(
    page: &IdentifyNamespace,
) -> impl Iterator<Item = (u8, underpin::spec::identify::LbaFormat)> {
    // NLBAF counts from 0; those of unique capability follow; 64 is all there is room for.
    let count = u16::from(page.nlbaf()) + 1 + u16::from(page.nulbaf());
    (0..64_u8)
        .take(usize::from(count))
        .map(|index| (index, page.lba_format(index)))
}

/// Bytes of a block, unless a device says something that no block has.
fn lba_bytes(lbads: u8) -> Option<u64> {
    (lbads >= 9)
        .then(|| 1_u64.checked_shl(u32::from(lbads)))
        .flatten()
}

/// The LBA formats, the one in use marked.
pub(crate) fn formats_json(page: &IdentifyNamespace) -> Value {
    formats(page)
        .map(|(index, format)| {
            json!({
                "index": index,
                "lbads": format.lbads(),
                "lba_bytes": lba_bytes(format.lbads()),
                "metadata_bytes": format.ms(),
                "relative_performance": format.rp(),
                "in_use": index == page.format_index(),
            })
        })
        .collect()
}

/// The same as lines of a table.
pub(crate) fn formats_text(page: &IdentifyNamespace) -> String {
    let mut rows = vec![
        ["FORMAT", "DATA", "METADATA", "PERFORMANCE", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(formats(page).map(|(index, format)| {
        vec![
            index.to_string(),
            match lba_bytes(format.lbads()) {
                Some(len_bytes) => format!("{len_bytes} bytes"),
                None if format.lbads() == 0 => "not available".to_owned(),
                None => format!("2^{} bytes", format.lbads()),
            },
            format!("{} bytes", format.ms()),
            ["best", "better", "good", "degraded"]
                .get(usize::from(format.rp()))
                .map_or_else(String::new, |&name| name.to_owned()),
            if index == page.format_index() {
                "in use"
            } else {
                ""
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
    use underpin::spec::identify::LbaFormat;

    #[test]
    fn every_field_has_a_row() {
        rows_are_the_fields(ROWS, IdentifyNamespace::FIELDS);
    }

    /// As many formats as the page says, the one in use marked, however large its block.
    #[test]
    fn formats_are_listed_with_the_one_in_use() {
        let mut page = IdentifyNamespace::zeroed();
        page.set_nlbaf(2);
        page.set_lba_format(0, LbaFormat::new(0, 9, 2));
        page.set_lba_format(1, LbaFormat::new(8, 12, 0));
        page.set_lba_format(2, LbaFormat::new(0, 255, 0));
        page.set_format_index(1);
        let formats = formats_json(&page);
        assert_eq!(formats.as_array().unwrap().len(), 3);
        assert_eq!(
            (&formats[0]["lba_bytes"], &formats[0]["in_use"]),
            (&json!(512), &json!(false))
        );
        assert_eq!(
            (&formats[1]["lba_bytes"], &formats[1]["in_use"]),
            (&json!(4096), &json!(true))
        );
        assert_eq!(formats[2]["lba_bytes"], Value::Null);
        assert!(formats_text(&page).contains("2^255 bytes"));
        let hostile = IdentifyNamespace::from_bytes(&[0xff; 4096]);
        assert_eq!(formats_json(&hostile).as_array().unwrap().len(), 64);
    }
}
