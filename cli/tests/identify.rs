//! `underpin identify`: every field by name, one namespace or all, and the page as it is.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod support;

use serde_json::{Value, json};
use std::process::Stdio;
use support::{command, run};
use underpin::spec::identify::{Field, IdentifyController, IdentifyNamespace};

fn names(object: &Value) -> Vec<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

fn field_names(fields: &[Field]) -> Vec<&'static str> {
    fields.iter().map(|field| field.name).collect()
}

#[test]
fn json_has_every_field_of_the_specification_in_order() {
    let found = run(["identify", "emu:size=64m,mdts=6,awun=7", "--json"])
        .ends(0)
        .json();
    let controller = &found["controller"];
    assert_eq!(names(controller), field_names(IdentifyController::FIELDS));
    assert_eq!(
        (&controller["mdts"], &controller["awun"]),
        (&json!(6), &json!(7))
    );
    assert_eq!(
        (&controller["sqes"], &controller["cqes"]),
        (&json!(0x66), &json!(0x44))
    );
    assert!(!controller["mn"].as_str().unwrap().is_empty());
    assert_eq!(found["version"], "2.0.0");
    assert_eq!(found["as_driven"]["max_transfer_bytes"], 256 << 10);
    assert_eq!(found["capabilities"]["mqes"], 1023);
    let namespace = &found["namespaces"][0];
    assert_eq!(
        names(&namespace["identify"]),
        field_names(IdentifyNamespace::FIELDS)
    );
    assert_eq!(namespace["len_bytes"], 64 << 20);
    assert_eq!(namespace["identify"]["nsze"], (64 << 20) / 512);
    assert_eq!(namespace["atomic_write_blocks"], 8);
    let in_use: Vec<_> = namespace["identify"]["lbaf"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|format| format["in_use"] == true)
        .collect();
    assert_eq!(in_use.len(), 1);
    assert_eq!(in_use[0]["lba_bytes"], 512);
}

#[test]
fn text_has_every_field_by_name_and_says_what_it_means() {
    let text = run(["identify", "emu:size=64m,lba=4096,mdts=6"])
        .ends(0)
        .stdout;
    let lines = |name: &str| {
        text.lines()
            .filter(|line| line.split_whitespace().next() == Some(name))
            .count()
    };
    for field in IdentifyController::FIELDS
        .iter()
        .chain(IdentifyNamespace::FIELDS)
    {
        let is_table = ["psd", "lbaf"].contains(&field.name);
        assert!(
            is_table || lines(field.name) > 0,
            "{} is not shown",
            field.name
        );
    }
    for meaning in [
        "longest transfer: 256 KiB",
        "64 MiB in blocks of 4096 bytes",
        "[8] Doorbell Buffer Config",
        "version of the specification: 2.0.0",
        "smallest page: 4 KiB",
    ] {
        assert!(text.contains(meaning), "{meaning} in\n{text}");
    }
    assert!(
        !text.contains('\x1b'),
        "standard output is not a terminal here"
    );
}

#[test]
fn a_namespace_in_the_url_is_shown_alone() {
    let all = run(["identify", "emu:ns=3,size=4m,ns2.lba=4096", "--json"])
        .ends(0)
        .json();
    let nsids: Vec<_> = all["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ns| &ns["nsid"])
        .collect();
    assert_eq!(nsids, [1, 2, 3]);
    let one = run(["identify", "emu:ns=3,size=4m,ns2.lba=4096?ns=2", "--json"])
        .ends(0)
        .json();
    assert_eq!(one["namespaces"].as_array().unwrap().len(), 1);
    assert_eq!(
        (
            &one["namespaces"][0]["nsid"],
            &one["namespaces"][0]["lba_bytes"]
        ),
        (&json!(2), &json!(4096))
    );
    let none = run(["identify", "emu:ns=3,size=4m?ns=9", "--json"]).ends(1);
    let error = &none.json()["error"];
    assert_eq!(error["code"], "no-namespace");
    assert!(error["hint"].as_str().unwrap().contains("?ns="));
    assert!(
        none.stderr.contains("1, 2, 3") && none.stderr.contains("try: "),
        "{}",
        none.stderr
    );
}

/// The raw page is the page: its fields are where the specification has them.
#[test]
fn raw_is_the_page_itself() {
    let raw = |url| {
        let output = command(["identify", url, "--raw"]).output().unwrap();
        assert!(output.status.success());
        <[u8; 4096]>::try_from(output.stdout).expect("4096 bytes")
    };
    let page = IdentifyController::from_bytes(&raw("emu:size=4m,mdts=3"));
    assert_eq!(page.mdts(), 3);
    let page = IdentifyNamespace::from_bytes(&raw("emu:size=4m,lba=4096?ns=1"));
    assert_eq!((page.nsze(), page.format().lbads()), (1024, 12));
}

/// What cannot be meant is refused before anything is opened, with what could have been.
#[test]
fn a_bad_url_is_refused_with_the_way_out() {
    for (url, hint) in [
        ("emu:szie=1g", "`size`"),
        ("emu:size=1g?ns=0", "from 1 up"),
        ("emu:size=1g,fault=dorp", "`drop`"),
        ("nvme0n1", "no kind in front"),
        ("pci:nvme0n1", "not a PCI address"),
        ("floppy:a", "no kind of device"),
        ("", "no kind in front"),
    ] {
        let run = run(["identify", url]).ends(2);
        assert!(run.stdout.is_empty(), "{}", run.stdout);
        assert!(run.stderr.contains(hint), "{url}: {}", run.stderr);
        assert!(run.stderr.contains("Device URLs:"), "{url}: {}", run.stderr);
    }
    for args in [&[][..], &["identify"], &["lst"]] {
        let run = run(args).ends(2);
        assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{args:?}");
    }
}

/// Whoever asks for JSON gets one object whatever goes wrong, with a word for programs, and the same
/// status and message on standard error as anybody else.
#[test]
fn errors_are_json_too() {
    for (url, status, code) in [
        ("emu:szie=1g", 2, "url"),
        ("nvme0n1", 2, "url"),
        ("emu:size=1g,size=2g", 2, "url"),
        ("emu:size=4m?ns=2", 1, "no-namespace"),
        ("emu:file=/nonexistent/dir/disk,size=4m", 1, "file"),
        ("emu:size=4m,to_ms=500,fault=never-ready", 1, "timeout"),
        ("emu:size=4m,fault=removed@op=identify", 1, "failed"),
        ("emu:size=4m,fault=status:0x006@op=identify", 1, "status"),
    ] {
        for command in ["identify", "list"] {
            let run = run([command, url, "--json"]).ends(status);
            let found = run.json();
            let error = match status {
                1 if command == "list" => &found["devices"][0]["error"],
                _ => &found["error"],
            };
            assert_eq!(error["code"], code, "{command} {url}: {found}");
            for part in ["message", "hint"] {
                let text = error[part].as_str().unwrap();
                assert!(
                    !text.is_empty() && run.stderr.contains(text),
                    "{found} {}",
                    run.stderr
                );
            }
            if code == "status" {
                assert_eq!(error["status"]["code"], 6);
                assert!(error["status"]["name"].is_string(), "{found}");
            }
        }
    }
    for args in [
        &["identify", "emu:", "--raw", "--json"][..],
        &["identify", "--json"],
        &["--json"],
        &["lst", "--json"],
    ] {
        assert_eq!(
            run(args).ends(2).json()["error"]["code"],
            "usage",
            "{args:?}"
        );
    }
    let no_sysfs = run(["list", "--json", "--sysfs", "/nonexistent"]).ends(2);
    assert_eq!(no_sysfs.json()["error"]["code"], "usage");
}

/// A device that fails ends the command with status 1 and a next step, not with a panic.
#[test]
fn a_device_that_fails_is_told() {
    for fault in ["status:0x006@op=identify", "cfs", "removed"] {
        let run = run(["identify", &format!("emu:size=4m,to_ms=500,fault={fault}")]).ends(1);
        assert!(run.stdout.is_empty(), "{fault}: {}", run.stdout);
        assert!(
            run.stderr.contains("error: emu:"),
            "{fault}: {}",
            run.stderr
        );
        assert!(run.stderr.contains("  try: "), "{fault}: {}", run.stderr);
        assert!(!run.stderr.contains("panicked"), "{fault}: {}", run.stderr);
    }
}

/// Whatever a device writes into its pages, it is shown or refused, and cannot control a terminal.
#[test]
fn pages_of_garbage_are_shown_or_refused() {
    let mut shown = 0;
    for seed in 0..40 {
        // The second Identify is that of a namespace or of the list of them.
        let nth = 1 + seed % 3;
        let fault = format!("garbage-identify@op=identify+nth={nth}");
        let run = run([
            "identify",
            &format!("emu:size=4m,seed={seed},fault={fault}"),
        ]);
        assert!([0, 1].contains(&run.status), "seed {seed}: {}", run.stderr);
        assert!(
            !run.stderr.contains("panicked"),
            "seed {seed}: {}",
            run.stderr
        );
        shown += usize::from(run.status == 0);
        let text = run.stdout + &run.stderr;
        let bad = text.chars().find(|&c| c.is_control() && c != '\n');
        assert_eq!(bad, None, "seed {seed}: {text}");
    }
    assert!(
        shown > 0,
        "garbage in a namespace's page leaves its controller usable"
    );
}

#[test]
fn help_and_version_are_on_standard_output() {
    let help = run(["identify", "--help"]).ends(0).stdout;
    for word in ["emu:KEY=VALUE", "Examples:", "--json", "?ns=N"] {
        assert!(help.contains(word), "{word} in\n{help}");
    }
    assert!(run(["--help"]).ends(0).stdout.contains("Exit status:"));
    let version = run(["--version"]).ends(0).stdout;
    support::is_version(version.trim(), "underpin ");
}

/// `RUST_LOG` shows the driver's doings on standard error and leaves standard output alone.
#[test]
fn the_log_goes_to_standard_error_when_asked_for() {
    let quiet = run(["identify", "emu:size=4m", "--json"]).ends(0);
    assert_eq!(quiet.stderr, "");
    let output = command(["identify", "emu:size=4m", "--json"])
        .env("RUST_LOG", "info")
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(
        log.contains("controller up") && !log.contains('\x1b'),
        "{log}"
    );
    assert_eq!(output.stdout, quiet.stdout.as_bytes());
    let output = command(["identify", "emu:size=4m"])
        .env("RUST_LOG", "a=b=c")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("RUST_LOG=a=b=c")
    );
}

/// `underpin identify | head -1` is nobody's failure.
#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let mut child = command(["identify", "emu:size=4m", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
