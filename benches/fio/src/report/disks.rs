//! What the block devices below the files did meanwhile, from sysfs.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::job::JobSpec;

/// Use of one disk during the run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DiskUse {
    pub(crate) name: String,
    /// Reads, writes.
    pub(crate) ios: [u64; 2],
    pub(crate) merges: [u64; 2],
    /// Milliseconds that I/Os took in sum.
    pub(crate) ticks_ms: [u64; 2],
    pub(crate) in_queue_ms: u64,
    /// Percent of the time that the disk was busy.
    pub(crate) utilization: f64,
}

/// The fields of `/sys/block/*/stat` that a report shows.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    ios: [u64; 2],
    merges: [u64; 2],
    ticks_ms: [u64; 2],
    busy_ms: u64,
    in_queue_ms: u64,
}

/// The disks under the jobs' files, with their counters at the start.
#[derive(Debug, Default)]
pub(crate) struct DiskWatch {
    disks: BTreeMap<String, (PathBuf, Counters)>,
}

impl DiskWatch {
    /// Looks up the disks and reads their counters.
    pub(crate) fn start<'a>(jobs: impl Iterator<Item = (&'a JobSpec, u32)>) -> Self {
        let mut watch = Self::default();
        for (spec, clone) in jobs {
            if spec.engine.takes_device() {
                continue;
            }
            for target in spec.targets(clone) {
                let Some((name, stat)) = disk_under(Path::new(&target)) else {
                    continue;
                };
                if let Some(counters) = read(&stat) {
                    watch.disks.entry(name).or_insert((stat, counters));
                }
            }
        }
        watch
    }

    /// What happened since, `elapsed_ns` after the start of the run.
    pub(crate) fn since_start(&self, elapsed_ns: u64) -> Vec<DiskUse> {
        let elapsed_ms = (elapsed_ns / 1_000_000).max(1) as f64;
        self.disks
            .iter()
            .filter_map(|(name, (stat, before))| {
                let after = read(stat)?;
                let pair = |after: [u64; 2], before: [u64; 2]| {
                    [
                        after[0].saturating_sub(before[0]),
                        after[1].saturating_sub(before[1]),
                    ]
                };
                let busy = after.busy_ms.saturating_sub(before.busy_ms) as f64;
                Some(DiskUse {
                    name: name.clone(),
                    ios: pair(after.ios, before.ios),
                    merges: pair(after.merges, before.merges),
                    ticks_ms: pair(after.ticks_ms, before.ticks_ms),
                    in_queue_ms: after.in_queue_ms.saturating_sub(before.in_queue_ms),
                    utilization: (busy * 100.0 / elapsed_ms).min(100.0),
                })
            })
            .collect()
    }
}

/// Name and statistics file of the disk that holds a file (or its folder).
fn disk_under(path: &Path) -> Option<(String, PathBuf)> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let metadata = std::fs::metadata(path)
        .or_else(|_| std::fs::metadata(folder))
        .ok()?;
    let device = if metadata.file_type().is_block_device() {
        metadata.rdev()
    } else {
        metadata.dev()
    };
    let link = format!(
        "/sys/dev/block/{}:{}",
        libc::major(device),
        libc::minor(device)
    );
    let mut folder = std::fs::canonicalize(link).ok()?;
    // A partition's counters leave out what goes to its neighbours.
    if folder.join("partition").exists() {
        folder.pop();
    }
    let name = folder.file_name()?.to_str()?.to_owned();
    Some((name, folder.join("stat")))
}

fn read(stat: &Path) -> Option<Counters> {
    let text = std::fs::read_to_string(stat).ok()?;
    let fields: Vec<u64> = text
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let field = |index: usize| fields.get(index).copied();
    Some(Counters {
        ios: [field(0)?, field(4)?],
        merges: [field(1)?, field(5)?],
        ticks_ms: [field(3)?, field(7)?],
        busy_ms: field(9)?,
        in_queue_ms: field(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is not there is left out of the report instead of failing it.
    #[test]
    fn unknown_disks_are_left_out() {
        assert_eq!(disk_under(Path::new("/nonexistent/folder/file")), None);
        assert!(read(Path::new("/proc/self/cmdline")).is_none());
        assert!(DiskWatch::default().since_start(0).is_empty());
    }
}
