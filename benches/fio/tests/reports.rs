//! Reports against stock fio's: keys, buckets, percentiles, and the tool that
//! reads them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::{folder, ours, output, report, stock, succeed, write};
use serde_json::Value;

/// Every path of keys. Bins and the names of options are data, not keys.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, inner) in object {
                let path = format!("{path}/{key}");
                found.insert(path.clone());
                if !matches!(
                    key.as_str(),
                    "bins" | "global options" | "job options" | "disk_util"
                ) {
                    keys(inner, &path, found);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                keys(item, &format!("{path}[]"), found);
            }
        }
        _ => {}
    }
}

const JOB: &str = "[global]\nfilename=k.img\nsize=1m\ndescription=words\n\
    [w]\nrw=randwrite\nfsync=32\n[r]\nstonewall\nrw=randrw\nioengine=io_uring\niodepth=8\n";

/// The same keys, all of them; ours has one more, which fio has nothing like.
#[test]
fn json_keys_are_those_of_fio() {
    for format in ["json", "json+"] {
        let at = folder();
        write(at.path(), "k.fio", JOB);
        let read = |mut command: Command| -> BTreeSet<String> {
            let format = format!("--output-format={format}");
            command.current_dir(at.path()).args([&format, "k.fio"]);
            let value: Value = serde_json::from_str(&succeed(&mut command)).unwrap();
            let mut found = BTreeSet::new();
            keys(&value, "", &mut found);
            found
        };
        let (theirs, mine) = (read(stock()), read(ours()));
        let missing: Vec<_> = theirs.difference(&mine).collect();
        assert!(missing.is_empty(), "{format}: missing {missing:?}");
        let extra: Vec<_> = mine
            .difference(&theirs)
            .filter(|key| !key.starts_with("/jobs[]/underpin") && *key != "/disk_util")
            .collect();
        assert!(extra.is_empty(), "{format}: extra {extra:?}");
    }
}

/// Our percentiles over fio's own bins are fio's percentiles, and every value
/// of its bins is one of our buckets.
#[test]
fn percentiles_over_the_same_bins_are_the_same() {
    let at = folder();
    write(at.path(), "k.fio", JOB);
    let theirs = report(stock(), at.path(), &["k.fio"]);
    let mine = report(ours(), at.path(), &["k.fio"]);
    for report in [&theirs, &mine] {
        for job in report["jobs"].as_array().unwrap() {
            for latency in [
                &job["read"]["clat_ns"],
                &job["write"]["clat_ns"],
                &job["sync"]["lat_ns"],
            ] {
                let Some(bins) = latency["bins"].as_object() else {
                    continue;
                };
                let mut bins: Vec<(u64, u64)> = bins
                    .iter()
                    .map(|(value, count)| (value.parse().unwrap(), count.as_u64().unwrap()))
                    .collect();
                bins.sort_unstable();
                let total: u64 = bins.iter().map(|bin| bin.1).sum();
                assert_eq!(Some(total), latency["N"].as_u64());
                for (value, _) in &bins {
                    assert!(is_bucket(*value), "{value}");
                }
                for (percentile, value) in latency["percentile"].as_object().unwrap() {
                    let share: f64 = percentile.parse().unwrap();
                    let mut seen = 0;
                    let found = bins.iter().find(|(_, count)| {
                        seen += count;
                        seen as f64 * 100.0 >= share * total as f64
                    });
                    assert_eq!(found.map(|bin| bin.0), value.as_u64(), "{percentile}");
                }
            }
        }
    }
}

/// The middles of the 29 × 64 buckets.
fn is_bucket(value: u64) -> bool {
    if value < 128 {
        return true;
    }
    let dropped = value.ilog2() - 6;
    value & ((1 << dropped) - 1) == 1 << (dropped - 1)
}

/// Debian's converter reads our json+.
#[test]
fn fio_jsonplus_clat2csv_reads_our_report() {
    let at = folder();
    write(at.path(), "k.fio", JOB);
    let mut command = ours();
    command
        .current_dir(at.path())
        .args(["--output-format=json+", "--output=r.json", "k.fio"]);
    assert_eq!(succeed(&mut command), "");
    drop(stock());
    succeed(
        Command::new("fio_jsonplus_clat2csv")
            .current_dir(at.path())
            .args(["r.json", "r.csv"]),
    );
    let table = std::fs::read_to_string(at.path().join("r_job1.csv")).unwrap();
    assert!(table.lines().count() > 2, "{table}");
    let head = table.lines().next().unwrap();
    assert!(
        head.starts_with("nsec, ") && head.contains("read_clat_ns_count"),
        "{table}"
    );
}

/// Text and JSON in one run; JSON alone is nothing but JSON.
#[test]
fn formats_can_be_combined() {
    let at = folder();
    let arguments = ["--name=a", "--size=64k", "--rw=write"];
    let mut command = ours();
    command
        .current_dir(at.path())
        .args(arguments)
        .arg("--output-format=normal,json");
    let text = succeed(&mut command);
    assert!(
        text.starts_with("a: (g=0): rw=write, bs=(R) 4096B-4096B"),
        "{text}"
    );
    for line in [
        "IOPS per core: ",
        "CPU per I/O  : ",
        "Run status group 0",
        "\"jobs\"",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let mut command = ours();
    command
        .current_dir(at.path())
        .args(arguments)
        .arg("--output-format=json");
    let text = succeed(&mut command);
    let _: Value = serde_json::from_str(&text).unwrap();
}

/// The text has the lines that fio's has, in the same shape.
#[test]
fn the_text_has_the_lines_of_fio() {
    let at = folder();
    write(at.path(), "k.fio", JOB);
    // Numbers differ; words and punctuation do not. How many percentiles share a row depends on
    // how wide the numbers are, so those are compared one by one.
    let percentiles = |text: &str| -> BTreeSet<String> {
        let rows = text.lines().filter(|line| line.contains("th=["));
        let labels = rows.flat_map(|line| line.split([' ', ',', '|']));
        let labels = labels.filter_map(|word| word.split_once("th").map(|(label, _)| label));
        labels.map(str::to_owned).collect()
    };
    let shape = |text: &str| -> BTreeSet<String> {
        text.lines()
            .filter(|line| !line.contains("th=["))
            .filter(|line| !line.contains("lat (") && !line.contains("Starting"))
            .filter_map(|line| line.split(['=', '[']).next())
            .map(|head| {
                head.trim_end_matches(|c: char| !c.is_alphabetic())
                    .to_owned()
            })
            .filter(|head| head.starts_with(' ') && !head.contains("percentiles") && head.len() > 4)
            .map(|head| head.replace("nsec", "usec").replace("msec", "usec"))
            .collect()
    };
    let theirs = succeed(stock().current_dir(at.path()).arg("k.fio"));
    let mine = succeed(ours().current_dir(at.path()).arg("k.fio"));
    assert!(percentiles(&theirs).contains("99.95"), "{theirs}");
    assert_eq!(percentiles(&theirs), percentiles(&mine));
    let (theirs, mine) = (shape(&theirs), shape(&mine));
    let missing: Vec<_> = theirs.difference(&mine).collect();
    assert!(missing.is_empty(), "missing {missing:?}\nin {mine:?}");
}

/// Without a terminal there is no status line.
#[test]
fn no_status_line_without_a_terminal() {
    let at = folder();
    let mut command = ours();
    command.current_dir(at.path()).args([
        "--name=a",
        "--size=64k",
        "--rw=randread",
        "--time_based",
        "--runtime=1200ms",
    ]);
    let (_, stdout, stderr) = output(&mut command);
    assert!(!stdout.contains("Jobs: ") && !stderr.contains("Jobs: "));
    command.arg("--eta=always");
    let (_, stdout, _) = output(&mut command);
    assert!(stdout.contains("Jobs: 1 (f=1): [r(1)]["), "{stdout}");
    assert!(stdout.contains("IOPS][eta 00m:0"), "{stdout}");
}

/// Reports of a run in progress.
#[test]
fn status_intervals_report_the_run_so_far() {
    let at = folder();
    let mut command = ours();
    command.current_dir(at.path()).args([
        "--name=a",
        "--size=64k",
        "--rw=randread",
        "--time_based",
        "--runtime=700ms",
        "--output-format=json",
        "--status-interval=200ms",
    ]);
    let text = succeed(&mut command);
    let reports: Vec<Value> = serde_json::Deserializer::from_str(&text)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(reports.len() >= 2, "{}", reports.len());
    let ios: Vec<u64> = reports
        .iter()
        .map(|report| report["jobs"][0]["read"]["total_ios"].as_u64().unwrap())
        .collect();
    assert!(ios[0] > 0 && ios.is_sorted(), "{ios:?}");
}
