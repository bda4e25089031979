//! Checks of what this process may use: locked memory, its control group's memory and processes.
use super::Check;
use super::user::User;
use crate::machine::Machine;
use crate::{sysfs, text};
use std::path::PathBuf;

/// With less, not even a controller's own queues and a first region of buffers (2 MiB, as all that
/// the driver takes) can be pinned.
const NEEDED_BYTES: u64 = 4 << 20;
/// With less, an ordinary queue depth with large requests does not fit.
const COMFORTABLE_BYTES: u64 = 64 << 20;
/// More threads than a program of ours starts by itself.
const NEEDED_PROCESSES: u64 = 4;
const COMFORTABLE_PROCESSES: u64 = 32;
/// A control group's limit as good as none: what version 1 shows for it is near the highest number.
const UNLIMITED_BYTES: u64 = 1 << 60;
/// Control groups do not nest deeper than this here; a path that does is not followed further.
const DEEPEST: usize = 64;

/// Memory that a device can reach is pinned, and counts against RLIMIT_MEMLOCK.
pub(super) fn memlock(machine: &Machine, user: &User) -> Check {
    let name = "memlock";
    if user.may_lock_any() {
        return Check::ok(name, "any amount of memory may be pinned (CAP_IPC_LOCK)");
    }
    let limit = match user.seems_to_lock_any() {
        true => "RLIMIT_MEMLOCK; CAP_IPC_LOCK does not lift it in a user namespace",
        false => "RLIMIT_MEMLOCK",
    };
    let limits = machine.proc_text("self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"));
    let mut words = line.unwrap_or_default().split_whitespace();
    let mut next = || match words.next()? {
        "unlimited" => Some(None),
        bytes => bytes.parse::<u64>().ok().map(Some),
    };
    let (soft, hard) = (next(), next());
    let Some(soft) = soft else {
        return Check::warn(
            name,
            "the limit cannot be seen: /proc/self/limits does not tell it",
            "`ulimit -l` tells it, in KiB",
        );
    };
    let Some(soft_bytes) = soft else {
        return Check::ok(
            name,
            "any amount of memory may be pinned (no RLIMIT_MEMLOCK)",
        );
    };
    let said = text::size(u128::from(soft_bytes));
    // What the shell may raise by itself.
    let may_raise = match hard.flatten() {
        None if hard.is_some() => true,
        Some(hard_bytes) => hard_bytes >= COMFORTABLE_BYTES,
        None => false,
    };
    let hint = if may_raise {
        "ulimit -l $(ulimit -H -l)"
    } else {
        "`* - memlock unlimited` in /etc/security/limits.d/underpin.conf and a new login; for a \
         service LimitMEMLOCK=infinity; for a container --ulimit memlock=-1"
    };
    if soft_bytes < NEEDED_BYTES {
        let needed = text::size(u128::from(NEEDED_BYTES));
        return Check::fail(
            name,
            format!("{said} may be pinned ({limit}); a device needs {needed} at least"),
            hint,
        );
    }
    if soft_bytes < COMFORTABLE_BYTES {
        return Check::warn(
            name,
            format!("{said} may be pinned ({limit}): a few small buffers"),
            hint,
        );
    }
    Check::ok(name, format!("{said} may be pinned ({limit})"))
}

/// What is pinned counts against the control group's memory, too, and cannot be swapped out.
pub(super) fn cgroup_memory(machine: &Machine) -> Check {
    let name = "cgroup-memory";
    let limits = directories(machine, "memory").into_iter().flat_map(|at| {
        let limit = |file| number(&at.join(file));
        [limit("memory.max"), limit("memory.limit_in_bytes")]
    });
    let limit_bytes = limits
        .flatten()
        .filter(|&bytes| bytes < UNLIMITED_BYTES)
        .min();
    let Some(limit_bytes) = limit_bytes else {
        return Check::ok(name, "no limit");
    };
    let said = text::size(u128::from(limit_bytes));
    let hint = "raise it: MemoryMax= of the service, --memory of the container";
    if limit_bytes < 4 * NEEDED_BYTES {
        return Check::fail(
            name,
            format!("{said} for all processes of the group: too little for a device's buffers"),
            hint,
        );
    }
    if limit_bytes < 2 * COMFORTABLE_BYTES {
        let said = format!("{said} for all processes of the group");
        return Check::warn(name, said, hint);
    }
    Check::ok(name, format!("{said} for all processes of the group"))
}

/// Threads count as processes there.
pub(super) fn cgroup_processes(machine: &Machine) -> Check {
    let name = "cgroup-pids";
    let left = directories(machine, "pids").into_iter().filter_map(|at| {
        let most = number(&at.join("pids.max"))?;
        Some(most.saturating_sub(number(&at.join("pids.current")).unwrap_or(0)))
    });
    let Some(left) = left.min() else {
        return Check::ok(name, "no limit");
    };
    let said = format!("{left} more threads may be started");
    let hint = "raise it: TasksMax= of the service, --pids-limit of the container";
    if left < NEEDED_PROCESSES {
        Check::fail(name, said, hint)
    } else if left < COMFORTABLE_PROCESSES {
        Check::warn(name, said, hint)
    } else {
        Check::ok(name, said)
    }
}

/// They make no difference to whether a device can be driven.
pub(super) fn hugepages(machine: &Machine) -> Check {
    let sizes = sysfs::children(&machine.sys("kernel/mm/hugepages"), |_| true);
    let reserved = sizes.iter().filter_map(|size| {
        let count = number(&size.join("nr_hugepages")).filter(|&count| count > 0)?;
        let name = sysfs::name_of(size);
        let size = name.strip_prefix("hugepages-").unwrap_or(&name);
        Some(format!("{count} of {size}"))
    });
    let reserved: Vec<_> = reserved.collect();
    match reserved.is_empty() {
        true => Check::ok("hugepages", "none reserved, and none needed"),
        false => Check::ok("hugepages", format!("{}; none needed", reserved.join(", "))),
    }
}

/// A file with one number; `max` and whatever else it may hold is none.
fn number(path: &std::path::Path) -> Option<u64> {
    sysfs::attribute(path)?.parse().ok()
}

/// This process's control group for a controller and those around it, in either version.
fn directories(machine: &Machine, controller: &str) -> Vec<PathBuf> {
    let told = machine.proc_text("self/cgroup").unwrap_or_default();
    let mut found = Vec::new();
    for line in told.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let root = if controllers.is_empty() {
            machine.sys("fs/cgroup")
        } else if controllers.split(',').any(|name| name == controller) {
            machine.sys("fs/cgroup").join(controllers)
        } else {
            continue;
        };
        found.push(root.clone());
        let mut at = root;
        for part in path
            .split('/')
            .filter(|part| !part.is_empty())
            .take(DEEPEST)
        {
            // A group outside of what this container sees.
            if part == ".." {
                break;
            }
            at = at.join(part);
            found.push(at.clone());
        }
    }
    found
}
