//! The order of the run: jobs become threads, stonewalls divide them into waves,
//! and reporting groups are numbered as fio numbers them.

#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::job::JobSpec;

/// One thread to run.
#[derive(Debug, Clone)]
pub(crate) struct PlannedThread {
    /// 1, 2, … over the whole run; seeds depend on it.
    pub(crate) number: u32,
    /// Which clone of its job: 0, 1, …
    pub(crate) clone: u32,
    /// Reporting group.
    pub(crate) group: u32,
    pub(crate) spec: Arc<JobSpec>,
}

/// All threads, in waves that run one after the other.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) waves: Vec<Vec<PlannedThread>>,
}

impl Plan {
    /// Puts the jobs in order.
    pub(crate) fn new(specs: Vec<JobSpec>) -> Self {
        let mut waves: Vec<Vec<PlannedThread>> = Vec::new();
        let mut group = 0;
        let mut number = 0;
        for (index, spec) in specs.into_iter().enumerate() {
            if index > 0 && (spec.stonewall || spec.new_group) {
                group += 1;
            }
            if index == 0 || spec.stonewall {
                waves.push(Vec::new());
            }
            let spec = Arc::new(spec);
            for clone in 0..spec.numjobs {
                number += 1;
                let thread = PlannedThread {
                    number,
                    clone,
                    group,
                    spec: Arc::clone(&spec),
                };
                if let Some(wave) = waves.last_mut() {
                    wave.push(thread);
                }
            }
        }
        Self { waves }
    }

    /// All threads in order.
    pub(crate) fn threads(&self) -> impl Iterator<Item = &PlannedThread> {
        self.waves.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::job::resolve;
    use crate::options::ini::entry_from;
    use crate::options::{Origin, Section};

    fn plan(jobs: &[(&str, &[&str])]) -> Plan {
        let sections: Vec<Section> = jobs
            .iter()
            .map(|(name, lines)| Section {
                name: (*name).to_owned(),
                global: false,
                entries: lines
                    .iter()
                    .map(|line| entry_from(line, Origin::Argument { index: 1 }))
                    .collect(),
                origin: Origin::Argument { index: 1 },
                source: 1,
            })
            .collect();
        Plan::new(resolve(&sections, &[], &|_| None).unwrap().specs)
    }

    /// A stonewall starts a wave and a group; the first job's is meaningless.
    #[test]
    fn stonewalls_divide_waves_and_groups() {
        let plan = plan(&[
            ("a", &["stonewall"]),
            ("b", &["numjobs=3"]),
            ("c", &["new_group"]),
            ("d", &["stonewall"]),
        ]);
        let seen: Vec<Vec<_>> = plan
            .waves
            .iter()
            .map(|wave| {
                wave.iter()
                    .map(|t| (t.spec.name.as_str(), t.clone, t.group))
                    .collect()
            })
            .collect();
        assert_eq!(
            seen,
            vec![
                vec![
                    ("a", 0, 0),
                    ("b", 0, 0),
                    ("b", 1, 0),
                    ("b", 2, 0),
                    ("c", 0, 1)
                ],
                vec![("d", 0, 2)]
            ]
        );
        let numbers: Vec<u32> = plan.threads().map(|t| t.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    }
}
