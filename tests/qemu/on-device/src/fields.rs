//! nvme-cli's JSON beside ours: every field that it prints is one of ours, and equal.
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::Path;

/// What has another name with us.
const NAMES: &[(&str, &str)] = &[
    ("domainid", "domain_id"),
    ("psds", "psd"),
    ("lbafs", "lbaf"),
    (
        "endurance_grp_critical_warning_summary",
        "endu_grp_crit_warn_sumry",
    ),
    ("host_read_commands", "host_reads"),
    ("host_write_commands", "host_writes"),
    ("controller_busy_time", "ctrl_busy_time"),
];

fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{}: {text}", path.display()))
}

pub(crate) fn compare(theirs: &Path, ours: &Path, member: &str) -> Result<()> {
    let theirs = read(theirs)?;
    let ours = read(ours)?;
    let theirs = theirs.as_object().context("theirs is no object")?;
    let ours = ours
        .pointer(member)
        .and_then(Value::as_object)
        .with_context(|| format!("ours has no object {member}"))?;
    let mut differ = Vec::new();
    for (name, value) in theirs {
        let renamed = NAMES.iter().find(|(theirs, _)| theirs == name);
        let our_name = renamed.map_or(name.as_str(), |(_, ours)| ours);
        let other = ours.get(our_name);
        if other.map(|other| plain(name, &in_their_words(name, other))) != Some(plain(name, value))
        {
            let other = other.map_or("missing".to_owned(), Value::to_string);
            differ.push(format!("{name}: {value}, ours {other}"));
        }
    }
    ensure!(differ.is_empty(), "{}", differ.join("; "));
    ensure!(!theirs.is_empty(), "theirs has no fields");
    println!("ok      all {} fields of nvme-cli's {member}", theirs.len());
    Ok(())
}

/// Our lists of structures, as far as nvme-cli prints the same.
fn in_their_words(name: &str, ours: &Value) -> Value {
    let Some(list) = ours.as_array() else {
        return ours.clone();
    };
    let each = |of: fn(&Value) -> Value| Value::Array(list.iter().map(of).collect());
    match name {
        "lbafs" => each(|format| {
            json!({
                "ms": format["metadata_bytes"],
                "ds": format["lbads"],
                "rp": format["relative_performance"],
            })
        }),
        "psds" => each(|state| {
            json!({
                "max_power": state["max_microwatts"].as_u64().map(|power| power / 10_000),
                "entry_lat": state["entry_latency_us"],
                "exit_lat": state["exit_latency_us"],
                "read_tput": state["relative_read_throughput"],
                "read_lat": state["relative_read_latency"],
                "write_tput": state["relative_write_throughput"],
                "write_lat": state["relative_write_latency"],
            })
        }),
        _ => ours.clone(),
    }
}

/// What the two write in ways of their own, in one.
fn plain(name: &str, value: &Value) -> String {
    match (name, value) {
        ("ieee", Value::Number(number)) => format!("{:06x}", number.as_u64().unwrap_or(0)),
        ("fguid" | "nguid", Value::String(text)) => text.replace('-', ""),
        (_, Value::String(text)) => text.trim().to_owned(),
        // Of a power state nvme-cli prints flags and units that we name.
        ("psds", Value::Array(states)) => {
            let kept = |state: &Value| {
                let mut state = state.as_object().cloned().unwrap_or_default();
                let is_ours = |name: &str| {
                    name != "flags" && !name.contains("idle") && !name.contains("active")
                };
                state.retain(|name, _| is_ours(name));
                Value::Object(state).to_string()
            };
            states.iter().map(kept).collect()
        }
        (_, other) => other.to_string(),
    }
}
