//! `underpin identify`: all that a controller and its namespaces say of themselves.
mod controller;
mod namespace;
pub(crate) mod rows;

use crate::args::IdentifyArgs;
use crate::failure::Failure;
use crate::output::{Answer, Style};
use crate::{device, text};
use rows::{Context, Form, Row, field_bytes};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::io::{IsTerminal, stdout};
use underpin::nvme::WriteCache;
use underpin::spec::identify::{Field, IdentifyController, IdentifyNamespace};
use underpin::spec::registers::Cap;
use underpin::{Controller, DeviceUrl, Namespace};

pub(crate) fn run(args: &IdentifyArgs) -> Result<(), Failure> {
    if args.raw && stdout().is_terminal() {
        return Err(Failure::usage(
            "--raw writes 4096 bytes that are not text, and this is a terminal",
            "underpin identify URL --raw | xxd",
        ));
    }
    let url = &args.url;
    device::answer(url, |controller| {
        let namespaces = device::namespaces(url, controller)?;
        Ok(if args.raw {
            let page = match (url.nsid, namespaces.first()) {
                (Some(_), Some(namespace)) => namespace.identify().as_bytes(),
                _ => controller.identify().as_bytes(),
            };
            Answer::Bytes(page.to_vec())
        } else if args.json {
            Answer::Json(as_json(url, controller, &namespaces))
        } else {
            Answer::Text(as_text(url, controller, &namespaces, Style::of_stdout()))
        })
    })
}

fn write_cache(state: WriteCache) -> &'static str {
    match state {
        WriteCache::Absent => "absent",
        WriteCache::Enabled => "enabled",
        WriteCache::Disabled => "disabled",
    }
}

/// A page's fields by name, each with the row that shows it.
pub(crate) fn entries<'a>(
    rows: &'static [Row],
    fields: &'static [Field],
    page: &'a [u8],
) -> impl Iterator<Item = (&'static Row, &'a [u8])> {
    rows.iter()
        .zip(fields)
        .map(|(row, &field)| (row, field_bytes(page, field)))
}

fn as_json(url: &DeviceUrl, controller: &Controller, namespaces: &[Namespace]) -> Value {
    let cap = controller.capabilities();
    let mut registers = Map::new();
    for field in Cap::FIELDS {
        registers.insert(field.name.to_owned(), json!(cap_field(cap, field.name)));
    }
    json!({
        "url": url.to_string(),
        "version": controller.version().to_string(),
        "capabilities": registers,
        "as_driven": {
            "max_transfer_bytes": controller.max_transfer_bytes(),
            "io_queues": controller.granted_queues(),
            "shadow_doorbells": controller.has_shadow_doorbells(),
            "write_cache": write_cache(controller.write_cache()),
        },
        "controller": controller_json(controller.identify()),
        "namespaces": namespaces.iter().map(namespace_json).collect::<Vec<_>>(),
    })
}

fn controller_json(page: &IdentifyController) -> Value {
    entries(
        controller::ROWS,
        IdentifyController::FIELDS,
        page.as_bytes(),
    )
    .map(|(row, bytes)| {
        let value = row
            .json(bytes)
            .unwrap_or_else(|| controller::power_states_json(page));
        (row.name.to_owned(), value)
    })
    .collect::<Map<_, _>>()
    .into()
}

fn namespace_json(namespace: &Namespace) -> Value {
    let page = namespace.identify();
    let fields: Map<_, _> = entries(namespace::ROWS, IdentifyNamespace::FIELDS, page.as_bytes())
        .map(|(row, bytes)| {
            let value = row
                .json(bytes)
                .unwrap_or_else(|| namespace::formats_json(page));
            (row.name.to_owned(), value)
        })
        .collect();
    let atomic = namespace.atomic_writes();
    json!({
        "nsid": namespace.nsid().0,
        "len_bytes": namespace.unusable().is_none().then(|| namespace.len_bytes()),
        "lba_bytes": namespace.unusable().is_none().then(|| namespace.lba_bytes()),
        "unusable": namespace.unusable(),
        "atomic_write_blocks": atomic.normal_blocks,
        "atomic_write_power_fail_blocks": atomic.power_fail_blocks,
        "atomic_write_boundary_blocks": atomic.boundary_blocks,
        "identify": fields,
    })
}

/// A field of CAP by the name that the specification crate's table gives it.
fn cap_field(cap: Cap, name: &str) -> u64 {
    let field = Cap::FIELDS.iter().find(|field| field.name == name);
    field.map_or(0, |field| cap.0 >> field.shift & ((1 << field.width) - 1))
}

fn cap_text(cap: Cap) -> String {
    let mut rows = Vec::new();
    for field in Cap::FIELDS {
        let what = match field.name {
            "mqes" => format!("entries of a queue: {}", cap.queue_entries_max()),
            "cqr" => "queues must be contiguous".to_owned(),
            "ams" => "arbitration (bit 0 weighted, bit 1 vendor's)".to_owned(),
            "to" => format!("longest wait for ready: {} ms", cap.timeout_ms()),
            "dstrd" => format!("doorbell stride: {} bytes", cap.doorbell_stride_bytes()),
            "nssrs" => "subsystem reset".to_owned(),
            "css" => "command sets (bit 0 NVM, bit 6 several, bit 7 none)".to_owned(),
            "bps" => "boot partitions".to_owned(),
            "cps" => "power scope".to_owned(),
            "mpsmin" => format!("smallest page: {}", text::size(cap.page_min_bytes().into())),
            "mpsmax" => format!("largest page: {}", text::size(cap.page_max_bytes().into())),
            "pmrs" => "persistent memory region".to_owned(),
            "cmbs" => "controller memory buffer".to_owned(),
            "nsss" => "subsystem shutdown".to_owned(),
            "crms" => "ready modes (bit 0 with media, bit 1 without)".to_owned(),
            _ => String::new(),
        };
        rows.push((field.name, cap_field(cap, field.name), what));
    }
    let mut out = String::new();
    for (name, value, what) in rows {
        let _ = writeln!(out, "  {name:<10} {value:<20}  {what}");
    }
    out
}

fn as_text(
    url: &DeviceUrl,
    controller: &Controller,
    namespaces: &[Namespace],
    style: Style,
) -> String {
    let page = controller.identify();
    let cap = controller.capabilities();
    let mut out = format!(
        "{}\n  {}, serial {}, firmware {}, NVMe {}\n",
        style.heading(&text::escape(&url.to_string())),
        page.mn(),
        page.sn(),
        page.fr(),
        controller.version(),
    );
    let _ = writeln!(
        out,
        "  as driven: transfers to {}, {} I/O queue pairs, shadow doorbells {}, write cache {}",
        text::size(controller.max_transfer_bytes().into()),
        controller.granted_queues(),
        if controller.has_shadow_doorbells() {
            "on"
        } else {
            "off"
        },
        write_cache(controller.write_cache()),
    );
    let _ = writeln!(out, "\n{}", style.heading("Controller capabilities (CAP)"));
    out.push_str(&cap_text(cap));
    let _ = writeln!(out, "\n{}", style.heading("Identify Controller"));
    let context = Context {
        page_bytes: cap.page_min_bytes(),
        lba_bytes: 0,
    };
    for (row, bytes) in entries(
        controller::ROWS,
        IdentifyController::FIELDS,
        page.as_bytes(),
    ) {
        out.push_str(&row.text(bytes, &context));
    }
    let _ = writeln!(out, "\n{}", style.heading("Power states"));
    out.push_str(&controller::power_states_text(page));
    for namespace in namespaces {
        namespace_text(&mut out, namespace, context, style);
    }
    out
}

fn namespace_text(out: &mut String, namespace: &Namespace, context: Context, style: Style) {
    let page = namespace.identify();
    let title = format!("Identify Namespace {}", namespace.nsid());
    let _ = writeln!(out, "\n{}", style.heading(&title));
    match namespace.unusable() {
        Some(why) => {
            let _ = writeln!(out, "  unusable: {}", text::escape(why));
        }
        None => {
            let len_bytes = text::size(namespace.len_bytes().into());
            let lba_bytes = namespace.lba_bytes();
            let _ = writeln!(out, "  {len_bytes} in blocks of {lba_bytes} bytes");
        }
    }
    let context = Context {
        lba_bytes: u64::from(namespace.lba_bytes()),
        ..context
    };
    for (row, bytes) in entries(namespace::ROWS, IdentifyNamespace::FIELDS, page.as_bytes()) {
        match row.form {
            Form::LbaFormats => out.push_str(&namespace::formats_text(page)),
            _ => out.push_str(&row.text(bytes, &context)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No page, however hostile, makes a row panic or puts a control character on the terminal.
    #[test]
    fn hostile_pages_are_shown_without_harm() {
        let context = Context {
            page_bytes: 1 << 27,
            lba_bytes: 65536,
        };
        for byte in [0, 0x1b, 0x7f, 0x80, 0x9b, 0xff] {
            let page = IdentifyController::from_bytes(&[byte; 4096]);
            let mut text = controller::power_states_text(&page);
            for (row, bytes) in entries(
                controller::ROWS,
                IdentifyController::FIELDS,
                page.as_bytes(),
            ) {
                text.push_str(&row.text(bytes, &context));
            }
            text.push_str(&controller_json(&page).to_string());
            let page = IdentifyNamespace::from_bytes(&[byte; 4096]);
            text.push_str(&namespace::formats_text(&page));
            for (row, bytes) in entries(namespace::ROWS, IdentifyNamespace::FIELDS, page.as_bytes())
            {
                text.push_str(&row.text(bytes, &context));
            }
            let bad = text.chars().find(|&c| c.is_control() && c != '\n');
            assert_eq!(bad, None, "page of {byte:#x}");
            assert!(text.is_ascii(), "page of {byte:#x}");
        }
    }

    /// CAP is shown by the same table that its getters are made from.
    #[test]
    fn capabilities_are_all_shown() {
        let cap = Cap(0x0000_0020_0f01_03ff);
        assert_eq!(cap_field(cap, "mqes"), u64::from(cap.mqes()));
        assert_eq!(cap_field(cap, "to"), u64::from(cap.to()));
        for line in cap_text(Cap(u64::MAX)).lines() {
            assert!(
                line.split_whitespace().count() > 2,
                "{line:?} has no meaning"
            );
        }
    }
}
