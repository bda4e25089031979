//! What a run says: results gathered as fio gathers them, then printed as text
//! or JSON.

#![forbid(unsafe_code)]

pub(crate) mod disks;
pub(crate) mod json;
pub(crate) mod normal;
pub(crate) mod number;
pub(crate) mod status;

use std::sync::Arc;

use crate::job::JobSpec;
use crate::plan::PlannedThread;
use crate::run::{Failure, Outcome};
use crate::stats::{Direction, JobStats};
use disks::DiskUse;

/// Name and version in reports.
pub(crate) const PROGRAM: &str = concat!("underpin-fio-", env!("CARGO_PKG_VERSION"));

/// One thread with what it did.
#[derive(Debug, Clone)]
pub(crate) struct ThreadResult {
    pub(crate) planned: PlannedThread,
    pub(crate) outcome: Outcome,
}

/// One entry of the report: a thread, or several with `group_reporting`.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) group: u32,
    pub(crate) members: u32,
    pub(crate) tid: u32,
    pub(crate) failure: Option<Failure>,
    pub(crate) stats: JobStats,
}

/// One direction of a group of jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct GroupDirection {
    pub(crate) bytes: u64,
    pub(crate) min_runtime_ms: u64,
    pub(crate) max_runtime_ms: u64,
    /// Bytes per second of the slowest and the fastest entry.
    pub(crate) min_bandwidth: u64,
    pub(crate) max_bandwidth: u64,
}

impl GroupDirection {
    /// Bytes per second of the whole group.
    pub(crate) fn bandwidth(&self) -> u64 {
        rate(self.bytes, self.max_runtime_ms)
    }
}

/// All jobs with one group number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) directions: [GroupDirection; 2],
}

/// Everything there is to report.
#[derive(Debug, Clone)]
pub(crate) struct RunReport {
    pub(crate) entries: Vec<Entry>,
    pub(crate) groups: Vec<Group>,
    pub(crate) disks: Vec<DiskUse>,
    pub(crate) global_options: Vec<(&'static str, String)>,
    pub(crate) elapsed_ns: u64,
}

impl RunReport {
    /// Gathers the results of threads (in order of their numbers).
    pub(crate) fn new(
        results: Vec<ThreadResult>,
        disks: Vec<DiskUse>,
        global_options: Vec<(&'static str, String)>,
        elapsed_ns: u64,
    ) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for ThreadResult { planned, outcome } in results {
            let joins = planned.spec.group_reporting;
            match entries.last_mut() {
                Some(last) if joins && last.group == planned.group => {
                    last.stats.merge(&outcome.stats);
                    last.members += 1;
                    last.failure = last.failure.take().or(outcome.failure);
                }
                _ => entries.push(Entry {
                    spec: planned.spec,
                    group: planned.group,
                    members: 1,
                    tid: outcome.tid,
                    failure: outcome.failure,
                    stats: outcome.stats,
                }),
            }
        }
        let groups = groups_of(&entries);
        Self {
            entries,
            groups,
            disks,
            global_options,
            elapsed_ns,
        }
    }

    /// Whether any job failed.
    pub(crate) fn failed(&self) -> bool {
        self.entries.iter().any(|entry| entry.failure.is_some())
    }
}

fn groups_of(entries: &[Entry]) -> Vec<Group> {
    let count = entries.last().map_or(0, |entry| entry.group as usize + 1);
    let mut groups = vec![Group::default(); count];
    for entry in entries {
        let Some(group) = groups.get_mut(entry.group as usize) else {
            continue;
        };
        for direction in Direction::ALL {
            let counts = entry.stats.direction(direction);
            let runtime_ms = counts.runtime_ms();
            if runtime_ms == 0 {
                continue;
            }
            let bandwidth = rate(counts.bytes, runtime_ms);
            let sum = &mut group.directions[direction as usize];
            let first = sum.max_runtime_ms == 0;
            sum.min_runtime_ms = if first {
                runtime_ms
            } else {
                sum.min_runtime_ms.min(runtime_ms)
            };
            sum.min_bandwidth = if first {
                bandwidth
            } else {
                sum.min_bandwidth.min(bandwidth)
            };
            sum.max_runtime_ms = sum.max_runtime_ms.max(runtime_ms);
            sum.max_bandwidth = sum.max_bandwidth.max(bandwidth);
            sum.bytes += counts.bytes;
        }
    }
    groups
}

/// `count` in so many milliseconds, per second.
pub(crate) fn rate(count: u64, milliseconds: u64) -> u64 {
    if milliseconds == 0 {
        return 0;
    }
    (u128::from(count) * 1000 / u128::from(milliseconds)) as u64
}

/// Shares in percent; what is there at all shows as at least `least`.
pub(crate) fn shares<const N: usize>(counts: &[u64; N], total: u64, least: f64) -> [f64; N] {
    counts.map(|count| {
        if total == 0 || count == 0 {
            return 0.0;
        }
        (count as f64 / total as f64 * 100.0).max(least)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::job::resolve;
    use crate::options::ini::entry_from;
    use crate::options::{Origin, Section};
    use crate::plan::Plan;

    /// A report of jobs given as option lists, each thread with one 4 KiB read
    /// of 1.5 µs and `runtime_ms` of time.
    pub(crate) fn sample(jobs: &[&[&str]], runtime_ms: u64) -> RunReport {
        let origin = Origin::Argument { index: 1 };
        let sections: Vec<Section> = jobs
            .iter()
            .map(|lines| Section {
                name: "j".to_owned(),
                global: false,
                entries: lines
                    .iter()
                    .map(|l| entry_from(l, origin.clone()))
                    .collect(),
                origin: origin.clone(),
                source: 1,
            })
            .collect();
        #[allow(clippy::unwrap_used)]
        let plan = Plan::new(resolve(&sections, &[], &|_| None).unwrap().specs);
        let results = plan
            .threads()
            .map(|planned| {
                let mut stats = JobStats::new(planned.spec.percentile_kinds);
                stats.record_io(Direction::Read, 0, 500, 2000, true);
                stats.depth[0] = 1;
                stats.submitted[1] = 1;
                stats.completed[1] = 1;
                stats.usage.cpu_ns = 1000;
                let counts = stats.direction_mut(Direction::Read);
                counts.bytes = 4096;
                counts.runtime_ns = runtime_ms * 1_000_000;
                stats.runtime_ns = runtime_ms * 1_000_000;
                ThreadResult {
                    planned: planned.clone(),
                    outcome: Outcome {
                        stats,
                        failure: None,
                        tid: 1,
                    },
                }
            })
            .collect();
        RunReport::new(results, Vec::new(), Vec::new(), runtime_ms * 1_000_000)
    }

    /// Clones are one entry with `group_reporting`, else one each; groups sum.
    #[test]
    fn entries_and_groups() {
        let apart = sample(&[&["numjobs=3"], &["stonewall"]], 4);
        assert_eq!(apart.entries.len(), 4);
        assert_eq!(apart.groups.len(), 2);
        assert_eq!(apart.groups[0].directions[0].bytes, 3 * 4096);
        assert_eq!(apart.groups[0].directions[0].bandwidth(), 3 * 4096 * 250);
        let together = sample(&[&["numjobs=3", "group_reporting"], &["stonewall"]], 4);
        assert_eq!(together.entries.len(), 2);
        assert_eq!(together.entries[0].members, 3);
        assert_eq!(together.entries[0].stats.total_ios(), 3);
        assert_eq!(together.entries[0].stats.cpu_ns_per_io(), Some(1000.0));
    }

    /// What happened shows, however rare it was.
    #[test]
    fn rare_things_show() {
        let shown = shares(&[1, 99_999, 0], 100_000, 0.1);
        assert_eq!((shown[0], shown[2]), (0.1, 0.0));
        assert_eq!(shares(&[0, 0], 0, 0.1), [0.0, 0.0]);
    }
}
