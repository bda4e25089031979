//! The report as text, in the layout that fio's users know, and two lines that
//! fio lacks: I/Os per second and core, and CPU time per I/O.

#![forbid(unsafe_code)]

use std::fmt::Write;

use super::number::{both, short};
use super::{Entry, Group, RunReport, rate, shares};
use crate::clock;
use crate::job::JobSpec;
use crate::pins::PinUse;
use crate::stats::{Direction, Latency, Moments, RateSeries, SizeClasses};
use crate::sys::os;

/// Widest line of percentiles.
const LINE_WIDTH: usize = 80;
/// Latency classes of the report: limits of ten steps, and two more for ms.
const STEPS: [&str; 12] = [
    "2=", "4=", "10=", "20=", "50=", "100=", "250=", "500=", "750=", "1000=", "2000=", ">=2000=",
];

/// The line that announces a job before the run.
pub(crate) fn announcement(spec: &JobSpec, group: u32) -> String {
    let block = |direction| short(u64::from(spec.block(direction)), 4, true, "B");
    let (read, write) = (block(Direction::Read), block(Direction::Write));
    format!(
        "{}: (g={group}): rw={}, bs=(R) {read}-{read}, (W) {write}-{write}, (T) {read}-{read}, \
         ioengine={}, iodepth={}",
        spec.name,
        spec.pattern.name(),
        spec.engine.name(),
        spec.iodepth
    )
}

/// The whole report.
pub(crate) fn render(report: &RunReport) -> String {
    let mut text = String::from("\n");
    for entry in &report.entries {
        let group = report.groups.get(entry.group as usize);
        entry_text(&mut text, entry, group);
    }
    for (number, group) in report.groups.iter().enumerate() {
        let binary = report
            .entries
            .iter()
            .find(|entry| entry.group as usize == number)
            .is_none_or(|entry| entry.spec.kb_base.is_binary());
        group_text(&mut text, number, group, binary);
    }
    if !report.disks.is_empty() {
        text.push_str("\nDisk stats (read/write):\n");
        for disk in &report.disks {
            let _ = writeln!(
                text,
                "  {}: ios={}/{}, merge={}/{}, ticks={}/{}, in_queue={}, util={:.2}%",
                disk.name,
                disk.ios[0],
                disk.ios[1],
                disk.merges[0],
                disk.merges[1],
                disk.ticks_ms[0],
                disk.ticks_ms[1],
                disk.in_queue_ms,
                disk.utilization
            );
        }
    }
    text
}

fn entry_text(text: &mut String, entry: &Entry, group: Option<&Group>) {
    let stats = &entry.stats;
    if stats.total_ios() == 0 && entry.failure.is_none() {
        return;
    }
    let error = match &entry.failure {
        None => " 0".to_owned(),
        Some(failure) => format!("{:2} ({})", failure.errno, failure.text),
    };
    let _ = writeln!(
        text,
        "{}: (groupid={}, jobs={}): err={error}: pid={}: {}",
        entry.spec.name,
        entry.group,
        entry.members,
        entry.tid,
        os::local_time_text(clock::wall_time().0)
    );
    if !entry.spec.description.is_empty() {
        let _ = writeln!(text, "  Description  : [{}]", entry.spec.description);
    }
    if stats.total_ios() == 0 {
        return;
    }
    for direction in Direction::ALL {
        direction_text(text, entry, direction, group);
    }
    latency_classes(text, entry);
    if stats.sync.moments.samples > 0 {
        text.push_str("  fsync/fdatasync/sync_file_range:\n");
        moments_line(text, "sync", &stats.sync.moments);
        percentiles(text, "sync", &stats.sync, &entry.spec.percentiles);
    }
    let runtime_us = (stats.runtime_ns / 1000).max(1) as f64;
    let _ = writeln!(
        text,
        "  cpu          : usr={:.2}%, sys={:.2}%, ctx={}, majf={}, minf={}",
        stats.usage.user_us as f64 * 100.0 / runtime_us,
        stats.usage.system_us as f64 * 100.0 / runtime_us,
        stats.usage.context_switches,
        stats.usage.major_faults,
        stats.usage.minor_faults
    );
    if let (Some(cost_ns), Some(per_core)) = (stats.cpu_ns_per_io(), stats.iops_per_core()) {
        let _ = writeln!(
            text,
            "  IOPS per core: {} (at the CPU time that the job's own threads used)",
            short(per_core as u64, 4, false, "")
        );
        let _ = writeln!(text, "  CPU per I/O  : {cost_ns:.0} ns");
    }
    if let Some(pins) = &stats.pins {
        pin_lines(text, pins);
    }
    depth_lines(text, entry);
}

fn direction_text(text: &mut String, entry: &Entry, direction: Direction, group: Option<&Group>) {
    let counts = entry.stats.direction(direction);
    let runtime_ms = counts.runtime_ms();
    if counts.bytes == 0 || runtime_ms == 0 {
        return;
    }
    let binary = entry.spec.kb_base.is_binary();
    let _ = writeln!(
        text,
        "  {}: IOPS={}, BW={}({}/{}msec)",
        direction.name(),
        short(rate(counts.ios, runtime_ms), 4, false, ""),
        both(rate(counts.bytes, runtime_ms), binary, "B/s"),
        short(counts.bytes, 4, binary, "B"),
        runtime_ms
    );
    moments_line(text, "slat", &counts.submission.moments);
    moments_line(text, "clat", &counts.completion.moments);
    moments_line(text, " lat", &counts.total.moments);
    let list = &entry.spec.percentiles;
    percentiles(text, "slat", &counts.submission, list);
    percentiles(text, "clat", &counts.completion, list);
    percentiles(text, "lat", &counts.total, list);
    let whole = group.map_or(0, |group| group.directions[direction as usize].bandwidth());
    rate_lines(text, &counts.bandwidth_kib, &counts.iops, whole);
}

/// Whether values are shown in ns, µs or ms: the divisor and the name.
fn scale(min: u64, max: u64, deviation: f64) -> (u64, &'static str) {
    if min > 2_000_000 && max > 99_999_999 && deviation > 1_000_000.0 {
        (1_000_000, "msec")
    } else if min > 2_000 && max > 99_999 && deviation > 1_000.0 {
        (1_000, "usec")
    } else {
        (1, "nsec")
    }
}

fn moments_line(text: &mut String, name: &str, moments: &Moments) {
    if moments.samples == 0 {
        return;
    }
    let (divisor, unit) = scale(moments.min, moments.max, moments.deviation());
    let _ = writeln!(
        text,
        "    {name} ({unit}): min={}, max={}, avg={:5.2}, stdev={:5.2}",
        short(moments.min / divisor, 6, false, ""),
        short(moments.max / divisor, 6, false, ""),
        moments.mean() / divisor as f64,
        moments.deviation() / divisor as f64
    );
}

fn percentiles(text: &mut String, name: &str, latency: &Latency, list: &[f64]) {
    let Some(histogram) = &latency.histogram else {
        return;
    };
    let values = histogram.percentiles(list);
    let (Some(first), Some(last)) = (values.first(), values.last()) else {
        return;
    };
    let (divisor, unit) = scale(*first, *last, f64::INFINITY);
    let width = (last / divisor)
        .checked_ilog10()
        .map_or(1, |log| log as usize + 1)
        .max(5);
    let per_line = (LINE_WIDTH - 7) / (width + 12);
    let _ = writeln!(text, "    {name} percentiles ({unit}):");
    for (index, (percentile, value)) in list.iter().zip(&values).enumerate() {
        if index % per_line == 0 {
            text.push_str("     |");
        }
        let _ = write!(
            text,
            " {percentile:5.2}th=[{:width$}]",
            value.div_ceil(divisor)
        );
        if index + 1 == values.len() || index % per_line == per_line - 1 {
            text.push_str(if index + 1 == values.len() {
                "\n"
            } else {
                ",\n"
            });
        } else {
            text.push(',');
        }
    }
}

fn rate_lines(text: &mut String, bandwidth: &RateSeries, iops: &RateSeries, whole: u64) {
    if bandwidth.samples > 0 {
        let share = if whole > 1024 {
            (bandwidth.mean * 100.0 / (whole as f64 / 1024.0)).min(100.0)
        } else {
            100.0
        };
        let (divisor, unit) = if bandwidth.mean > 1024.0 * 1024.0 {
            (1024, "MiB")
        } else {
            (1, "KiB")
        };
        let _ = writeln!(
            text,
            "   bw ({unit:>5}/s): min={:5}, max={:5}, per={share:.2}%, avg={:5.2}, stdev={:5.2}, samples={}",
            bandwidth.min / divisor,
            bandwidth.max / divisor,
            bandwidth.mean / divisor as f64,
            bandwidth.deviation() / divisor as f64,
            bandwidth.samples
        );
    }
    if iops.samples > 0 {
        let _ = writeln!(
            text,
            "   iops        : min={:5}, max={:5}, avg={:5.2}, stdev={:5.2}, samples={}",
            iops.min,
            iops.max,
            iops.mean,
            iops.deviation(),
            iops.samples
        );
    }
}

fn latency_classes(text: &mut String, entry: &Entry) {
    let stats = &entry.stats;
    let all = shares(&stats.latency_classes, stats.total_ios(), 0.01);
    for (unit, range) in [("nsec", 0..10), ("usec", 10..20), ("msec", 20..32)] {
        let shown: Vec<String> = all
            .get(range)
            .unwrap_or(&[])
            .iter()
            .zip(STEPS)
            .filter(|(share, _)| **share > 0.0)
            .map(|(share, step)| format!("{step}{share:.2}%"))
            .collect();
        for line in shown.chunks(5) {
            let _ = writeln!(text, "  lat ({unit})   : {}", line.join(", "));
        }
    }
}

/// What the job's pages went through: pins, and writeback beside them.
fn pin_lines(text: &mut String, pins: &PinUse) {
    for target in pins.targets() {
        let _ = writeln!(text, "  target       : {target}");
    }
    let cost = match &pins.cost.moments {
        moments if moments.samples == 0 => "cost not measured".to_owned(),
        moments => {
            let histogram = pins.cost.histogram.as_ref();
            let median = histogram.and_then(|of| of.percentiles(&[50.0]).first().copied());
            format!(
                "pin+unpin of a page: median={} ns, avg={:.1} ns ({} I/Os timed)",
                median.unwrap_or(0),
                moments.mean(),
                moments.samples
            )
        }
    };
    let _ = writeln!(
        text,
        "  pins         : written by device={}, read by device={}; {cost}",
        pins.write_pins, pins.read_pins
    );
    let _ = writeln!(
        text,
        "  writeback    : direct={}, copies={} (clean={}, kept={}, {}), skips={}, dirty={}",
        pins.figure(|stats| stats.direct),
        pins.figure(|stats| stats.copies_clean + stats.copies_kept),
        pins.figure(|stats| stats.copies_clean),
        pins.figure(|stats| stats.copies_kept),
        short(pins.copied_bytes(), 4, true, "B"),
        pins.figure(|stats| stats.skips),
        pins.dirty_pages()
    );
    let _ = writeln!(
        text,
        "  page waits   : waits={}, bounce={}, throttled={}, put off={}; flushes={}, errors={}",
        pins.figure(|stats| stats.waits),
        pins.figure(|stats| stats.bounce_waits),
        pins.figure(|stats| stats.throttled),
        pins.put_off,
        pins.figure(|stats| stats.flushes),
        pins.figure(|stats| stats.write_errors)
    );
}

fn depth_lines(text: &mut String, entry: &Entry) {
    let stats = &entry.stats;
    let mut line = |head: &str, names: [&str; 7], counts: &SizeClasses, total: u64| {
        let parts: Vec<String> = shares(counts, total, 0.1)
            .iter()
            .zip(names)
            .map(|(share, name)| format!("{name}={share:.1}%"))
            .collect();
        let _ = writeln!(text, "{head}: {}", parts.join(", "));
    };
    let depths = ["1", "2", "4", "8", "16", "32", ">=64"];
    let batches = ["0", "4", "8", "16", "32", "64", ">=64"];
    line(
        "  IO depths    ",
        depths,
        &stats.depth,
        stats.depth.iter().sum(),
    );
    line(
        "     submit    ",
        batches,
        &stats.submitted,
        stats.submitted.iter().sum(),
    );
    line(
        "     complete  ",
        batches,
        &stats.completed,
        stats.completed.iter().sum(),
    );
    let [read, write] = &stats.directions;
    let _ = writeln!(
        text,
        "     issued rwts: total={},{},0,{} short={},{},0,0 dropped=0,0,0,0",
        read.ios, write.ios, stats.sync.moments.samples, read.short_ios, write.short_ios
    );
    let _ = writeln!(
        text,
        "     latency   : target=0, window=0, percentile=100.00%, depth={}",
        entry.spec.iodepth
    );
}

fn group_text(text: &mut String, number: usize, group: &Group, binary: bool) {
    let _ = writeln!(text, "\nRun status group {number} (all jobs):");
    for (name, sum) in ["   READ", "  WRITE"].iter().zip(&group.directions) {
        if sum.max_runtime_ms == 0 {
            continue;
        }
        let span = |binary: bool| {
            format!(
                "{}-{}",
                short(sum.min_bandwidth, 4, binary, "B/s"),
                short(sum.max_bandwidth, 4, binary, "B/s")
            )
        };
        let _ = writeln!(
            text,
            "{name}: bw={}, {} ({}), io={}, run={}-{}msec",
            both(sum.bandwidth(), binary, "B/s"),
            span(binary),
            span(!binary),
            both(sum.bytes, binary, "B"),
            sum.min_runtime_ms,
            sum.max_runtime_ms
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    /// The lines that people and scripts look for.
    #[test]
    fn the_text_has_the_known_lines_and_the_two_new_ones() {
        let report = sample(&[&["description=hello", "iodepth=8"]], 2);
        let text = render(&report);
        for line in [
            "j: (groupid=0, jobs=1): err= 0: pid=1: ",
            "  Description  : [hello]",
            "  read: IOPS=500, BW=2000KiB/s (2048kB/s)(4096B/2msec)",
            "    slat (nsec): min=500, max=500, avg=500.00, stdev= 0.00",
            "    clat (nsec): min=1500, max=1500, avg=1500.00, stdev= 0.00",
            "     lat (nsec): min=2000, max=2000, avg=2000.00, stdev= 0.00",
            "    clat percentiles (nsec):",
            "  lat (usec)   : 2=100.00%",
            "  cpu          : usr=0.00%",
            "  IOPS per core: 1000k",
            "  CPU per I/O  : 1000 ns",
            "  IO depths    : 1=100.0%, 2=0.0%",
            "     submit    : 0=0.0%, 4=100.0%",
            "     issued rwts: total=1,0,0,0 short=0,0,0,0 dropped=0,0,0,0",
            "Run status group 0 (all jobs):",
            "   READ: bw=2000KiB/s (2048kB/s), 2000KiB/s-2000KiB/s (2048kB/s-2048kB/s), io=4096B (4096B), run=2-2msec",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("write: IOPS"));
        assert!(text.lines().all(|line| line.len() < 130));
    }

    /// Percentiles fill lines of 80 characters and end in a line feed.
    #[test]
    fn percentiles_are_laid_out_in_columns() {
        let mut latency = Latency::new(true);
        for value in 1..=1000u64 {
            latency.record(value * 1000);
        }
        let mut text = String::new();
        percentiles(&mut text, "clat", &latency, &[1.0, 50.0, 90.0, 99.0, 99.99]);
        let expected = "    clat percentiles (usec):
     |  1.00th=[   11], 50.00th=[  502], 90.00th=[  898], 99.00th=[  988],
     | 99.99th=[ 1004]
";
        assert_eq!(text, expected);
    }
}
