//! Holds every number of this crate against the C headers of libnvme, which were written by
//! others from the same specification: offsets, sizes, masks, opcodes, codes and identifiers.
//!
//! A C program that prints the header's values is generated from our own tables, so that a field
//! added here is compared without anyone remembering to.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "libnvme/commands.rs"]
mod commands;
#[path = "libnvme/compiler.rs"]
mod compiler;
#[path = "libnvme/names.rs"]
mod names;
#[path = "libnvme/values.rs"]
mod values;

use compiler::{Toolchain, evaluate};
use values::{Value, all_values};

/// Fewer than this means that a table was emptied or a family is no longer compared.
const COMPARED_MIN: usize = 1000;

/// One line for each value that differs from what the header says.
fn differences(values: &[Value], header: &[u64]) -> Vec<String> {
    assert_eq!(values.len(), header.len(), "one answer for each value");
    values
        .iter()
        .zip(header)
        .filter(|(value, header)| value.ours != **header)
        .map(|(value, header)| {
            format!(
                "{}: ours {:#x}, libnvme's {:#x} ({})",
                value.name, value.ours, header, value.expression
            )
        })
        .collect()
}

/// The crate and libnvme's headers agree on every value both have.
#[test]
fn agrees_with_libnvme() {
    let values = all_values();
    let header =
        evaluate(&Toolchain::default(), "agree", &values).unwrap_or_else(|e| panic!("{e}"));
    let differences = differences(&values, &header);
    assert!(
        differences.is_empty(),
        "{} of {} values differ:\n{}",
        differences.len(),
        values.len(),
        differences.join("\n")
    );
    println!("compared {} values with libnvme's headers", values.len());
    assert!(
        values.len() >= COMPARED_MIN,
        "only {} values compared, {COMPARED_MIN} are to be",
        values.len()
    );
}

/// The comparison can fail: each value, when wrong, is reported by name, alone, with both numbers.
#[test]
fn reports_a_wrong_value() {
    let mut values = all_values();
    let header =
        evaluate(&Toolchain::default(), "wrong", &values).unwrap_or_else(|e| panic!("{e}"));
    for i in 0..values.len() {
        values[i].ours += 1;
        let found = differences(&values, &header);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&values[i].name), "{found:?}");
        values[i].ours -= 1;
    }
    let mdts = values
        .iter_mut()
        .find(|value| value.name == "identify controller mdts: offset")
        .expect("the table has MDTS");
    mdts.ours = 78;
    assert_eq!(
        differences(&values, &header),
        [
            "identify controller mdts: offset: ours 0x4e, libnvme's 0x4d \
             (offsetof(struct nvme_id_ctrl, mdts))"
        ]
    );
}

/// A field that the header does not know stops the program from compiling; it is not skipped.
#[test]
fn reports_an_unknown_name() {
    let values = [Value {
        name: "invented".into(),
        expression: "offsetof(struct nvme_id_ctrl, invented)".into(),
        ours: 0,
    }];
    let error = evaluate(&Toolchain::default(), "unknown", &values).unwrap_err();
    assert!(error.contains("invented"), "{error}");
    assert!(!error.contains("apt-get"), "{error}");
}

/// Without compiler or headers the test fails and says what to install; it never passes unrun.
#[test]
fn missing_tools_are_named() {
    let no_compiler = Toolchain {
        cc: "cc-that-is-not-installed",
        ..Toolchain::default()
    };
    let no_header = Toolchain {
        header: "libnvme-that-is-not-installed.h",
        ..Toolchain::default()
    };
    for (toolchain, part) in [
        (no_compiler, "cc-that-is-not-installed"),
        (no_header, "libnvme-that-is-not-installed.h"),
    ] {
        let error = evaluate(&toolchain, "missing", &all_values()).unwrap_err();
        assert!(error.contains(part), "{error}");
        assert!(error.contains("apt-get install libnvme-dev gcc"), "{error}");
    }
}
