//! The report as JSON with the keys of fio 3.33, for the tools that read fio's;
//! json+ adds the histogram bins.

#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

use super::disks::DiskUse;
use super::{Entry, Group, PROGRAM, RunReport, rate, shares};
use crate::clock;
use crate::pins::PinUse;
use crate::stats::{Direction, DirectionStats, JobStats, Latency, Moments, PercentileKinds};
use crate::sys::os;

/// What `eta` is when it is not known.
const NO_ETA: u64 = 2_147_483_647;

const DEPTH_NAMES: [&str; 7] = ["1", "2", "4", "8", "16", "32", ">=64"];
const BATCH_NAMES: [&str; 7] = ["0", "4", "8", "16", "32", "64", ">=64"];
const LATENCY_NAMES: [&str; 12] = [
    "2", "4", "10", "20", "50", "100", "250", "500", "750", "1000", "2000", ">=2000",
];

/// The whole report; `bins` makes it json+.
pub(crate) fn render(report: &RunReport, bins: bool) -> String {
    let (seconds, nanoseconds) = clock::wall_time();
    let jobs: Vec<Value> = report
        .entries
        .iter()
        .map(|entry| entry_json(report, entry, bins))
        .collect();
    let mut root = Map::new();
    root.insert("fio version".to_owned(), json!(PROGRAM));
    root.insert("timestamp".to_owned(), json!(seconds));
    let milliseconds = seconds * 1000 + u64::from(nanoseconds) / 1_000_000;
    root.insert("timestamp_ms".to_owned(), json!(milliseconds));
    root.insert("time".to_owned(), json!(os::local_time_text(seconds)));
    if !report.global_options.is_empty() {
        root.insert("global options".to_owned(), options(&report.global_options));
    }
    root.insert("jobs".to_owned(), Value::Array(jobs));
    let disks = report.disks.iter().map(disk_json).collect();
    root.insert("disk_util".to_owned(), Value::Array(disks));
    let mut text = serde_json::to_string_pretty(&Value::Object(root)).unwrap_or_default();
    text.push('\n');
    text
}

fn options(list: &[(&'static str, String)]) -> Value {
    Value::Object(
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect(),
    )
}

/// Six decimals, as fio prints them.
fn number(value: f64) -> Value {
    json!((value * 1e6).round() / 1e6)
}

fn entry_json(report: &RunReport, entry: &Entry, bins: bool) -> Value {
    let stats = &entry.stats;
    let group = report.groups.get(entry.group as usize);
    let mut job = Map::new();
    let mut put = |key: &str, value: Value| {
        job.insert(key.to_owned(), value);
    };
    put("jobname", json!(entry.spec.name));
    put("groupid", json!(entry.group));
    put(
        "error",
        json!(entry.failure.as_ref().map_or(0, |f| f.errno)),
    );
    put("eta", json!(NO_ETA));
    put("elapsed", json!(report.elapsed_ns.div_ceil(1_000_000_000)));
    if !entry.spec.given.is_empty() {
        put("job options", options(&entry.spec.given));
    }
    for direction in Direction::ALL {
        let key = direction.name();
        put(
            key,
            direction_json(entry, stats.direction(direction), group, direction, bins),
        );
    }
    // Trims are not done here; tools expect the key all the same.
    let none = JobStats::new(PercentileKinds {
        submission: false,
        completion: true,
        total: false,
    });
    let trim = none.direction(Direction::Read);
    put(
        "trim",
        direction_json(entry, trim, None, Direction::Read, bins),
    );
    let sync = json!({
        "total_ios": stats.sync.moments.samples,
        "lat_ns": latency_json(&stats.sync, &entry.spec.percentiles, bins),
    });
    put("sync", sync);
    let runtime_us = (stats.runtime_ns / 1000).max(1) as f64;
    put("job_runtime", json!(stats.runtime_ns / 1_000_000));
    put(
        "usr_cpu",
        number(stats.usage.user_us as f64 * 100.0 / runtime_us),
    );
    put(
        "sys_cpu",
        number(stats.usage.system_us as f64 * 100.0 / runtime_us),
    );
    put("ctx", json!(stats.usage.context_switches));
    put("majf", json!(stats.usage.major_faults));
    put("minf", json!(stats.usage.minor_faults));
    for (key, names, counts) in [
        ("iodepth_level", DEPTH_NAMES, &stats.depth),
        ("iodepth_submit", BATCH_NAMES, &stats.submitted),
        ("iodepth_complete", BATCH_NAMES, &stats.completed),
    ] {
        put(
            key,
            named(&names, &shares(counts, counts.iter().sum(), 0.1)),
        );
    }
    let classes = shares(&stats.latency_classes, stats.total_ios(), 0.01);
    let part = |range: std::ops::Range<usize>| classes.get(range).unwrap_or(&[]);
    put("latency_ns", named(&LATENCY_NAMES, part(0..10)));
    put("latency_us", named(&LATENCY_NAMES, part(10..20)));
    put("latency_ms", named(&LATENCY_NAMES, part(20..32)));
    put("latency_depth", json!(entry.spec.iodepth));
    put("latency_target", json!(0));
    put("latency_percentile", number(100.0));
    put("latency_window", json!(0));
    if !entry.spec.description.is_empty() {
        put("desc", json!(entry.spec.description));
    }
    // fio has nothing like it; one key of our own, so that none clashes.
    let mut own = json!({
        "iops_per_core": stats.iops_per_core().map_or(Value::Null, number),
        "cpu_ns_per_io": stats.cpu_ns_per_io().map_or(Value::Null, number),
    });
    if let (Some(pins), Some(own)) = (&stats.pins, own.as_object_mut()) {
        let pins = pins_json(pins, &entry.spec.percentiles, bins);
        own.insert("pages".to_owned(), pins);
    }
    put("underpin", own);
    Value::Object(job)
}

/// Pins of pages, and the writeback of their files meanwhile.
fn pins_json(pins: &PinUse, list: &[f64], bins: bool) -> Value {
    json!({
        "targets": pins.targets().collect::<Vec<_>>(),
        "pins": pins.write_pins + pins.read_pins,
        "write_pins": pins.write_pins,
        "read_pins": pins.read_pins,
        "pin_unpin_ns": latency_json(&pins.cost, list, bins),
        "put_off": pins.put_off,
        "direct": pins.figure(|stats| stats.direct),
        "copies": pins.figure(|stats| stats.copies_clean + stats.copies_kept),
        "copies_clean": pins.figure(|stats| stats.copies_clean),
        "copies_kept": pins.figure(|stats| stats.copies_kept),
        "copied_bytes": pins.copied_bytes(),
        "skips": pins.figure(|stats| stats.skips),
        "waits": pins.figure(|stats| stats.waits),
        "bounce_waits": pins.figure(|stats| stats.bounce_waits),
        "throttled": pins.figure(|stats| stats.throttled),
        "fills": pins.figure(|stats| stats.fills),
        "evictions": pins.figure(|stats| stats.evictions),
        "flushes": pins.figure(|stats| stats.flushes),
        "written_pages": pins.figure(|stats| stats.written_pages),
        "write_errors": pins.figure(|stats| stats.write_errors),
        "dirty_pages": pins.dirty_pages(),
    })
}

fn named(names: &[&str], shares: &[f64]) -> Value {
    Value::Object(
        names
            .iter()
            .zip(shares)
            .map(|(name, share)| ((*name).to_owned(), number(*share)))
            .collect(),
    )
}

fn direction_json(
    entry: &Entry,
    counts: &DirectionStats,
    group: Option<&Group>,
    direction: Direction,
    bins: bool,
) -> Value {
    let runtime_ms = counts.runtime_ms();
    let bandwidth = rate(counts.bytes, runtime_ms);
    let iops = if runtime_ms == 0 {
        0.0
    } else {
        counts.ios as f64 * 1000.0 / runtime_ms as f64
    };
    let list = &entry.spec.percentiles;
    let series = &counts.bandwidth_kib;
    let whole = group.map_or(0, |g| g.directions[direction as usize].bandwidth());
    let share = if series.samples == 0 {
        0.0
    } else if whole > 1024 {
        (series.mean * 100.0 / (whole as f64 / 1024.0)).min(100.0)
    } else {
        100.0
    };
    json!({
        "io_bytes": counts.bytes,
        "io_kbytes": counts.bytes >> 10,
        "bw_bytes": bandwidth,
        "bw": bandwidth / 1024,
        "iops": number(iops),
        "runtime": runtime_ms,
        "total_ios": counts.ios,
        "short_ios": counts.short_ios,
        "drop_ios": 0,
        "slat_ns": latency_json(&counts.submission, list, bins),
        "clat_ns": latency_json(&counts.completion, list, bins),
        "lat_ns": latency_json(&counts.total, list, bins),
        "bw_min": series.min,
        "bw_max": series.max,
        "bw_agg": number(share),
        "bw_mean": number(series.mean),
        "bw_dev": number(series.deviation()),
        "bw_samples": series.samples,
        "iops_min": counts.iops.min,
        "iops_max": counts.iops.max,
        "iops_mean": number(counts.iops.mean),
        "iops_stddev": number(counts.iops.deviation()),
        "iops_samples": counts.iops.samples,
    })
}

fn latency_json(latency: &Latency, list: &[f64], bins: bool) -> Value {
    let Moments {
        samples, min, max, ..
    } = latency.moments;
    let mut object = Map::new();
    object.insert("min".to_owned(), json!(if samples == 0 { 0 } else { min }));
    object.insert("max".to_owned(), json!(max));
    object.insert("mean".to_owned(), number(latency.moments.mean()));
    object.insert("stddev".to_owned(), number(latency.moments.deviation()));
    object.insert("N".to_owned(), json!(samples));
    let Some(histogram) = latency.histogram.as_ref().filter(|_| samples > 0) else {
        return Value::Object(object);
    };
    let values = histogram.percentiles(list);
    let percentile: Map<String, Value> = list
        .iter()
        .zip(&values)
        .map(|(percentile, value)| (format!("{percentile:.6}"), json!(value)))
        .collect();
    object.insert("percentile".to_owned(), Value::Object(percentile));
    if bins {
        let bins: Map<String, Value> = histogram
            .bins()
            .map(|(value, count)| (value.to_string(), json!(count)))
            .collect();
        object.insert("bins".to_owned(), Value::Object(bins));
    }
    Value::Object(object)
}

fn disk_json(disk: &DiskUse) -> Value {
    json!({
        "name": disk.name,
        "read_ios": disk.ios[0],
        "write_ios": disk.ios[1],
        "read_merges": disk.merges[0],
        "write_merges": disk.merges[1],
        "read_ticks": disk.ticks_ms[0],
        "write_ticks": disk.ticks_ms[1],
        "in_queue": disk.in_queue_ms,
        "util": number(disk.utilization),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::sample;
    use super::*;

    /// Numbers are where readers of fio's JSON look for them.
    #[test]
    fn values_are_under_their_keys() {
        let report = sample(&[&["bs=4k", "rw=randread"]], 2);
        let root: Value = serde_json::from_str(&render(&report, true)).unwrap();
        let job = &root["jobs"][0];
        assert_eq!(job["job options"]["rw"], "randread");
        assert_eq!(job["read"]["iops"], 500.0);
        assert_eq!(job["read"]["clat_ns"]["N"], 1);
        assert_eq!(job["read"]["clat_ns"]["percentile"]["99.000000"], 1496);
        assert_eq!(job["read"]["clat_ns"]["bins"]["1496"], 1);
        assert_eq!(job["read"]["lat_ns"]["mean"], 2000.0);
        assert_eq!(job["write"]["total_ios"], 0);
        assert_eq!(job["write"]["clat_ns"]["min"], 0);
        assert_eq!(job["latency_us"]["2"], 100.0);
        assert_eq!(job["underpin"]["cpu_ns_per_io"], 1000.0);
        let plain: Value = serde_json::from_str(&render(&report, false)).unwrap();
        assert!(plain["jobs"][0]["read"]["clat_ns"]["bins"].is_null());
    }
}
