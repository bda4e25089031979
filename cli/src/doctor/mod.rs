//! `underpin doctor`: whether this machine lets this user drive NVMe devices from userspace, and
//! for each thing that is missing the next step. It reads, and changes nothing.
mod functions;
mod limits;
mod machine_wide;
mod user;

use crate::failure::Failure;
use crate::machine::Machine;
use crate::{output, sysfs};
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;
use std::path::PathBuf;
use user::User;

/// `underpin doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Where sys, proc and dev are: a tree for tests
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub(crate) sysroot: PathBuf,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It works, but perhaps not as well as it could, or not for long.
    Warn,
    /// Devices cannot be opened.
    Fail,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    /// One word for programs, or an address.
    check: String,
    verdict: Verdict,
    message: String,
    /// The next step.
    hint: Option<String>,
}

impl Check {
    fn ok(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            verdict: Verdict::Ok,
            message: message.into(),
            hint: None,
        }
    }

    fn warn(check: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warn,
            hint: Some(hint.into()),
            ..Self::ok(check, message)
        }
    }

    fn fail(check: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            hint: Some(hint.into()),
            ..Self::ok(check, message)
        }
    }
}

pub(crate) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let machine = Machine::at(&args.sysroot);
    if !machine.sys("").is_dir() || !machine.proc("").is_dir() {
        return Err(Failure::machine(
            "file",
            "sys or proc cannot be looked at here",
            "mount sysfs and proc; both are there by default",
        ));
    }
    let checks = examine(&machine);
    let is_fine = checks.iter().all(|check| check.verdict != Verdict::Fail);
    if args.json {
        output::json(&json!({ "fine": is_fine, "checks": checks }))?;
    } else {
        output::text(&as_text(&checks))?;
    }
    match is_fine {
        true => Ok(()),
        // What is wrong is the answer.
        false => Err(Failure::Reported),
    }
}

/// Every check, the machine's first.
fn examine(machine: &Machine) -> Vec<Check> {
    let user = User::read(machine);
    let bus = sysfs::bus(&machine.sys(""));
    let mut checks = vec![
        machine_wide::iommu(machine),
        machine_wide::interrupt_remapping(machine),
        machine_wide::vfio_pci(machine),
        machine_wide::backend(machine),
        machine_wide::container_node(machine, &user),
    ];
    checks.extend(functions::all(machine, &user, &bus));
    checks.push(limits::memlock(machine, &user));
    checks.push(limits::cgroup_memory(machine));
    checks.push(limits::cgroup_processes(machine));
    checks.push(limits::hugepages(machine));
    checks
}

fn as_text(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let _ = writeln!(out, "{verdict}  {}: {}", check.check, check.message);
        if let Some(hint) = &check.hint {
            let _ = writeln!(out, "        try: {hint}");
        }
    }
    let count = |verdict| {
        checks
            .iter()
            .filter(|check| check.verdict == verdict)
            .count()
    };
    let _ = writeln!(
        out,
        "\n{} checks: {} ok, {} to know about, {} to put right",
        checks.len(),
        count(Verdict::Ok),
        count(Verdict::Warn),
        count(Verdict::Fail)
    );
    out
}
