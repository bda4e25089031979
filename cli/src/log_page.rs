//! `underpin log`: what a controller remembers and counts.
use crate::args::{DEVICE_URLS, device_url};
use crate::failure::Failure;
use crate::identify::entries;
use crate::identify::rows::{
    Context, Form, Row, bit, dec, flags, hexadecimal, json_number, meaning, other,
};
use crate::number::number;
use crate::output::Answer;
use crate::{device, text};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use underpin::nvme::LogRequest;
use underpin::spec::admin::LogId;
use underpin::spec::log::{CommandEffects, ErrorLogEntry, SmartLog};
use underpin::{Controller, DeviceUrl, Error, Nsid};

#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// Which page
    #[arg(required_unless_present = "raw", conflicts_with = "raw")]
    page: Option<Page>,
    /// The device; with ?ns=N that namespace's own page, where there is one
    #[arg(
        value_name = "URL",
        value_parser = device_url,
        required = true,
        long_help = format!(
            "The device; with ?ns=N that namespace's own page, where there is one\n\n{DEVICE_URLS}"
        )
    )]
    url: DeviceUrl,
    /// Any page, by its number: bytes, not meaning
    #[arg(long, value_name = "ID", value_parser = number::<u8>, requires = "len_bytes")]
    raw: Option<u8>,
    /// How many bytes of the page that --raw names
    #[arg(long = "len", value_name = "BYTES", value_parser = number::<usize>, requires = "raw")]
    len_bytes: Option<usize>,
    /// Where in it to begin
    #[arg(long, value_name = "BYTES", value_parser = number::<u64>, default_value = "0", requires = "raw")]
    offset: u64,
    /// Log specific field
    #[arg(long, value_name = "N", value_parser = number::<u8>, default_value = "0", requires = "raw")]
    lsp: u8,
    /// Log specific identifier
    #[arg(long, value_name = "N", value_parser = number::<u16>, default_value = "0", requires = "raw")]
    lsi: u16,
    /// Leave an event that told of the page pending; with --raw
    #[arg(long, requires = "raw")]
    retain: bool,
    /// Write the bytes of --raw as they are
    #[arg(long, requires = "raw", conflicts_with = "json")]
    binary: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Page {
    /// Errors that the controller remembers, newest first
    Error,
    /// Health: temperature, spare, wear, what was read and written
    Smart,
    /// Firmware slots
    Firmware,
    /// Namespaces that changed since this was last read
    ChangedNs,
    /// Which commands the controller has, and what they change
    Effects,
}

impl Page {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Smart => "smart",
            Self::Firmware => "firmware",
            Self::ChangedNs => "changed-ns",
            Self::Effects => "effects",
        }
    }
}

/// A page in both forms: JSON without the part that all pages share.
struct Shown {
    text: String,
    json: Map<String, Value>,
}

pub(crate) fn run(args: &LogArgs) -> Result<(), Failure> {
    if let Some(id) = args.raw {
        return raw(args, id);
    }
    let Some(page) = args.page else {
        return Err(Failure::usage(
            "which log page is not said",
            "underpin log smart URL",
        ));
    };
    if args.url.nsid.is_some() && !matches!(page, Page::Smart) {
        return Err(Failure::usage(
            format!("the {} log is the controller's", page.name()),
            "leave ?ns= out of the URL",
        ));
    }
    device::answer(&args.url, |controller| {
        let shown = match page {
            Page::Error => errors(&controller.error_log()?),
            Page::Smart => smart(&match args.url.nsid {
                Some(nsid) => controller.smart_log_of(nsid)?,
                None => controller.smart_log()?,
            }),
            Page::Firmware => firmware(controller)?,
            Page::ChangedNs => changed_namespaces(controller)?,
            Page::Effects => effects(controller)?,
        };
        if !args.json {
            return Ok(Answer::Text(shown.text));
        }
        let mut object = Map::new();
        object.insert("url".to_owned(), json!(args.url.to_string()));
        object.insert("log".to_owned(), json!(page.name()));
        object.extend(shown.json);
        Ok(Answer::Json(object.into()))
    })
}

fn raw(args: &LogArgs, id: u8) -> Result<(), Failure> {
    let id = LogId(id);
    let request = LogRequest {
        nsid: args.url.nsid.unwrap_or(Nsid::ALL),
        lsp: args.lsp,
        lsi: args.lsi,
        offset: args.offset,
        retain_event: args.retain,
        ..LogRequest::new(id, args.len_bytes.unwrap_or(0))
    };
    device::answer(&args.url, |controller| {
        let bytes = controller.log_page(&request)?;
        Ok(if args.binary {
            Answer::Bytes(bytes)
        } else if args.json {
            Answer::Json(json!({
                "url": args.url.to_string(),
                "log": id.0,
                "name": id.to_string(),
                "offset": args.offset,
                "data": hexadecimal(bytes.iter()),
            }))
        } else {
            Answer::Text(text::dump(&bytes))
        })
    })
}

fn errors(log: &[ErrorLogEntry]) -> Shown {
    let mut text = String::new();
    if log.is_empty() {
        text.push_str("No error is remembered.\n");
    }
    let mut list = Vec::new();
    for entry in log {
        let status = entry.status();
        let whose = match (entry.queue(), entry.command()) {
            (Some(queue), Some(command)) => format!("queue {queue}, command {:#06x}", command.0),
            (Some(queue), None) => format!("queue {queue}"),
            _ => "no queue".to_owned(),
        };
        let _ = writeln!(
            text,
            "error {}: {status}; {whose}, namespace {}, {}",
            entry.error_count(),
            entry.namespace(),
            entry.first_lba(),
        );
        list.push(json!({
            "error_count": entry.error_count(),
            "status": { "code": status.code(), "name": status.name() },
            "qid": entry.queue().map(|queue| queue.0),
            "cid": entry.command().map(|command| command.0),
            "parameter_error_location": entry.parm_error_location(),
            "lba": entry.lba(),
            "nsid": entry.nsid(),
            "vendor_log": entry.vs(),
            "command_specific": entry.cs(),
        }));
    }
    let json = Map::from_iter([("entries".to_owned(), json!(list))]);
    Shown { text, json }
}

fn data_units(number: u128, _: &Context) -> String {
    text::size(number.saturating_mul(SmartLog::DATA_UNIT_BYTES))
}

fn percent(number: u128, _: &Context) -> String {
    format!("{number} %")
}

fn seconds(number: u128, _: &Context) -> String {
    format!("{number} s")
}

fn minutes(number: u128, _: &Context) -> String {
    format!("{number} min")
}

fn hours(number: u128, _: &Context) -> String {
    format!("{number} h")
}

/// The fields of the SMART / Health Information page (NVMe Base 2.0, figure 202).
const SMART_ROWS: &[Row] = &[
    flags(
        "critical_warning",
        "critical warning",
        &[
            bit(0, "spare is below its threshold"),
            bit(1, "temperature is beyond a threshold"),
            bit(2, "reliability is degraded"),
            bit(3, "media are read only"),
            bit(4, "the backup of volatile memory failed"),
            bit(5, "persistent memory is read only or unreliable"),
        ],
    ),
    dec("temperature", "composite temperature").means(meaning::kelvins),
    dec("avail_spare", "spare left").means(percent),
    dec("spare_thresh", "warned of below").means(percent),
    dec("percent_used", "life used").means(percent),
    flags(
        "endu_grp_crit_warn_sumry",
        "endurance groups' warnings",
        &[
            bit(0, "spare is below its threshold"),
            bit(2, "reliability is degraded"),
            bit(3, "media are read only"),
        ],
    ),
    dec("data_units_read", "read by the host").means(data_units),
    dec("data_units_written", "written by the host").means(data_units),
    dec("host_reads", "read commands"),
    dec("host_writes", "write commands"),
    dec("ctrl_busy_time", "busy").means(minutes),
    dec("power_cycles", "power cycles"),
    dec("power_on_hours", "powered").means(hours),
    dec("unsafe_shutdowns", "power lost without shutdown"),
    dec("media_errors", "media and integrity errors"),
    dec("num_err_log_entries", "errors since it was made"),
    dec("warning_temp_time", "above the warning temperature").means(minutes),
    dec("critical_comp_time", "above the critical temperature").means(minutes),
    other(
        Form::Bytes,
        "temp_sensor",
        "sensors 1 to 8, two bytes each, in kelvins",
    ),
    dec("thm_temp1_trans_count", "times in the first thermal state"),
    dec("thm_temp2_trans_count", "times in the second thermal state"),
    dec("thm_temp1_total_time", "in the first thermal state").means(seconds),
    dec("thm_temp2_total_time", "in the second thermal state").means(seconds),
];

fn smart(log: &SmartLog) -> Shown {
    let context = Context {
        page_bytes: 4096,
        lba_bytes: 512,
    };
    let mut text = String::new();
    let mut json = Map::new();
    for (row, bytes) in entries(SMART_ROWS, SmartLog::FIELDS, log.as_bytes()) {
        text.push_str(&row.text_after(24, bytes, &context));
        let value = match row.name {
            "temp_sensor" => json!(log.temperature_sensors()),
            _ => row.json(bytes).unwrap_or(Value::Null),
        };
        json.insert(row.name.to_owned(), value);
    }
    Shown { text, json }
}

fn firmware(controller: &Controller) -> Result<Shown, Error> {
    let log = controller.firmware_log()?;
    let (active, next) = (log.active_slot(), log.next_slot());
    let mut text = String::new();
    let mut slots = Vec::new();
    for slot in 1..=7 {
        let Some(revision) = log.revision(slot) else {
            continue;
        };
        let note = match (slot == active, Some(slot) == next) {
            (true, _) => ", runs",
            (false, true) => ", runs after the next reset",
            (false, false) => "",
        };
        let _ = writeln!(text, "slot {slot}: {revision}{note}");
        slots.push(json!({ "slot": slot, "revision": revision.to_string() }));
    }
    let json = [
        ("active_slot", json!(active)),
        ("next_slot", json!(next)),
        ("slots", json!(slots)),
    ];
    let json = json.map(|(name, value)| (name.to_owned(), value));
    Ok(Shown {
        text,
        json: Map::from_iter(json),
    })
}

fn changed_namespaces(controller: &Controller) -> Result<Shown, Error> {
    let log = controller.changed_namespaces()?;
    let nsids: Vec<u32> = log.iter().map(|nsid| nsid.0).collect();
    // All ones alone: more than the page has room for (Base 2.0, 5.16.1.5).
    let too_many = nsids.first() == Some(&Nsid::ALL.0);
    let text = match (too_many, nsids.as_slice()) {
        (true, _) => "More namespaces changed than the page can name.\n".to_owned(),
        (false, []) => "No namespace has changed since this was last read.\n".to_owned(),
        (false, nsids) => nsids.iter().fold(String::new(), |mut text, nsid| {
            let _ = writeln!(text, "namespace {nsid}");
            text
        }),
    };
    let named = if too_many { Vec::new() } else { nsids };
    let json = [("nsids", json!(named)), ("too_many", json!(too_many))];
    let json = json.map(|(name, value)| (name.to_owned(), value));
    Ok(Shown {
        text,
        json: Map::from_iter(json),
    })
}

fn effects(controller: &Controller) -> Result<Shown, Error> {
    let log = controller.command_effects()?;
    let mut rows = Vec::new();
    let mut show = |set: &str, opcode: u8, name: String, effects: CommandEffects| {
        let names: Vec<_> = effects.names().collect();
        rows.push(vec![
            set.to_owned(),
            format!("{opcode:#04x}"),
            name.clone(),
            names.get(1..).unwrap_or_default().join(", "),
        ]);
        json!({
            "opcode": opcode,
            "name": name,
            "effects": names,
            "exclusive": effects.exclusive(),
            "value": json_number(u128::from(effects.0)),
        })
    };
    let admin: Vec<_> = log
        .admin_commands()
        .map(|(opcode, effects)| show("admin", opcode.0, opcode.to_string(), effects))
        .collect();
    let io: Vec<_> = log
        .io_commands()
        .map(|(opcode, effects)| show("I/O", opcode.0, opcode.to_string(), effects))
        .collect();
    let json = [("admin", json!(admin)), ("io", json!(io))];
    let json = json.map(|(name, value)| (name.to_owned(), value));
    Ok(Shown {
        text: text::columns("", &rows),
        json: Map::from_iter(json),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::rows::testing::rows_are_the_fields;

    #[test]
    fn every_field_of_the_health_page_is_shown() {
        rows_are_the_fields(SMART_ROWS, SmartLog::FIELDS);
    }

    /// No page, however hostile, makes a row panic or puts a control character on the terminal.
    #[test]
    fn hostile_pages_are_shown_without_harm() {
        for byte in [0, 0x1b, 0x7f, 0x80, 0xff] {
            let health = smart(&SmartLog::from_bytes(&[byte; 512]));
            let entry = ErrorLogEntry::from_bytes(&[byte; 64]);
            let text = health.text + &errors(&[entry]).text;
            let bad = text.chars().find(|&c| c.is_control() && c != '\n');
            assert_eq!(bad, None, "page of {byte:#x}");
        }
    }
}
