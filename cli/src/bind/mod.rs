//! `underpin bind`: takes functions from the kernel's driver for userspace, unless somebody uses
//! what is on them. sysfs is the only state: nothing is kept elsewhere, and to do it twice is to do
//! it once.
mod owner;
mod persist;
pub(crate) mod switch;
#[cfg(test)]
mod tests;
mod unseen;
mod uses;

pub(crate) use owner::{Owner, group_node, nodes, own_node};

use crate::args::pci_address;
use crate::failure::Failure;
use crate::iommu::Group;
use crate::machine::{Doing, Hands, Machine};
use crate::processes;
use crate::sysfs::{self, PciController};
use crate::{output, text};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs::File;
use std::path::PathBuf;
use underpin::nvme::PciAddress;
use uses::Use;

/// `underpin bind`.
#[derive(Debug, clap::Args)]
pub(crate) struct BindArgs {
    /// The functions, as `underpin list` shows them: 0000:01:00.0 or pci:0000:01:00.0
    #[arg(value_name = "ADDRESS", value_parser = pci_address, required = true)]
    pub(crate) addresses: Vec<PciAddress>,
    /// Give the nodes in /dev/vfio to this user, who then needs no root to drive the functions
    #[arg(long, value_name = "UID[:GID]")]
    pub(crate) owner: Option<Owner>,
    /// Take functions whose block devices are in use, too; says first what is lost
    #[arg(long)]
    pub(crate) force: bool,
    /// Print the udev rule and modprobe lines that would do it at every start; installs nothing
    #[arg(long)]
    pub(crate) persist: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Where sys, proc, dev and run are: a tree for tests
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub(crate) sysroot: PathBuf,
}

/// A function that may be bound.
struct Plan {
    function: PciController,
    group: Group,
    uses: Vec<Use>,
    /// What `--force` overrides.
    overridden: Vec<String>,
    /// Kept until the kernel's driver has gone, so that nobody begins to use what was free.
    claims: Vec<File>,
}

/// A function that has been bound.
struct Bound {
    function: PciController,
    group: Group,
    uses: Vec<Use>,
    nodes: Vec<PathBuf>,
}

pub(crate) fn run(args: &BindArgs) -> Result<(), Failure> {
    let machine = Machine::at(&args.sysroot);
    let mut warn = |line: &str| output::complain(&format!("warning: {line}"));
    let bound = bind(&machine, &mut Doing, args, &mut warn)?;
    let functions: Vec<_> = bound.iter().map(|bound| bound.function.clone()).collect();
    let files = match args.persist {
        true => persist::files(&functions, args.owner),
        false => Vec::new(),
    };
    if args.json {
        let functions: Vec<_> = bound
            .iter()
            .map(|bound| as_json(&machine, bound, args))
            .collect();
        return output::json(&json!({ "functions": functions, "persist": files }));
    }
    let mut out: String = bound
        .iter()
        .map(|bound| as_text(&machine, bound, args))
        .collect();
    if args.persist {
        out.push_str(&persist::text(&files));
    }
    output::text(&out)
}

/// Binds every function, or refuses before anything has been changed. What `--force` overrides is
/// told to `warn` before it is done.
fn bind(
    machine: &Machine,
    hands: &mut dyn Hands,
    args: &BindArgs,
    warn: &mut dyn FnMut(&str),
) -> Result<Vec<Bound>, Failure> {
    let mut addresses: Vec<String> = Vec::new();
    for address in args.addresses.iter().map(ToString::to_string) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if !machine.sys("bus/pci/drivers/vfio-pci").is_dir() {
        return Err(Failure::machine(
            "driver",
            "the kernel's driver vfio-pci is not loaded",
            "run as root: modprobe vfio-pci",
        ));
    }
    let mut plans = Vec::new();
    for address in &addresses {
        plans.push(plan(machine, hands, address, &addresses, args.force)?);
    }
    for line in plans.iter().flat_map(|plan| &plan.overridden) {
        warn(line);
    }
    let is_disk = |plan: &Plan| !plan.function.block_devices.is_empty();
    if plans.iter().any(is_disk) && !processes::are_all_seen(machine) {
        warn(
            "processes outside of this PID namespace cannot be seen: one that merely has a disk \
             open, not mounted, swapped on or held with O_EXCL, gets I/O errors",
        );
    }
    let mut bound: Vec<Bound> = Vec::new();
    for plan in plans {
        let done: Vec<&str> = bound
            .iter()
            .map(|bound| bound.function.address.as_str())
            .collect();
        let tell_done = |failure: Failure| match done.is_empty() {
            true => failure,
            false => failure.but(&format!("bound by then: {}", done.join(", "))),
        };
        let address = plan.function.address.clone();
        switch::to_vfio(machine, hands, &address).map_err(tell_done)?;
        drop(plan.claims);
        if let Some(owner) = args.owner {
            owner::give(machine, hands, &address, &plan.group, owner).map_err(tell_done)?;
        }
        bound.push(Bound {
            nodes: nodes(machine, &address, &plan.group),
            function: plan.function,
            group: plan.group,
            uses: plan.uses,
        });
    }
    Ok(bound)
}

/// What is to be known of a function before it is bound; an error if it must not be.
fn plan(
    machine: &Machine,
    hands: &mut dyn Hands,
    address: &str,
    addresses: &[String],
    force: bool,
) -> Result<Plan, Failure> {
    let function = nvme_function(machine, address)?;
    let Some(group) = Group::of(machine, address) else {
        return Err(Failure::machine(
            "iommu",
            format!("{address} has no IOMMU group: no IOMMU that is on stands before it"),
            "underpin doctor says how to switch it on",
        ));
    };
    let mut plan = Plan {
        function,
        group,
        uses: Vec::new(),
        overridden: Vec::new(),
        claims: Vec::new(),
    };
    match plan.function.driver.as_deref() {
        Some(switch::VFIO_PCI) => return Ok(plan),
        None | Some("nvme") => {}
        Some(other) => {
            let said =
                format!("{address} has driver {other}, through which somebody may be using it");
            if !force {
                let hint = "end its user; --force takes it all the same";
                return Err(Failure::machine("in-use", said, hint));
            }
            plan.overridden
                .push(format!("--force takes it, although {said}"));
        }
    }
    let others = || {
        plan.group
            .blocking()
            .filter(|other| !addresses.contains(&other.address))
    };
    if others().next().is_some() {
        let said = format!(
            "{address} shares IOMMU group {} with {}: VFIO gives the group to userspace only as a \
             whole",
            plan.group.number,
            Group::named(others())
        );
        if !force {
            let hint = "free those too (name NVMe functions in the same command), or use a slot \
                        with a group of its own; --force binds without";
            return Err(Failure::machine("iommu", said, hint));
        }
        plan.overridden
            .push(format!("--force takes it, although {said}"));
    }
    let found = uses::of(machine, hands, &plan.function);
    if !found.uses.is_empty() && !force {
        let said = found.uses.iter().map(Use::to_string);
        let said = said.collect::<Vec<_>>().join("; ");
        return Err(Failure::machine(
            "in-use",
            format!("{address} is in use: {said}"),
            "unmount, swapoff, stop or close that first; --force takes the function, and what was \
             not written yet is lost",
        ));
    }
    if let Some(first) = found.unseen.first() {
        let why: Vec<_> = found.unseen.iter().map(|one| one.why.as_str()).collect();
        let why = why.join("; ");
        if !force {
            let said =
                format!("{address}: whether its block devices are in use cannot be seen: {why}");
            return Err(Failure::machine("file", said, first.hint));
        }
        plan.overridden.push(format!(
            "--force takes {address} although it cannot be seen whether its block devices are in \
             use: {why}"
        ));
    }
    let lost = |used: &Use| format!("--force takes {address} although {used}: {}", used.lost());
    plan.overridden.extend(found.uses.iter().map(lost));
    plan.uses = found.uses;
    plan.claims = found.claims;
    Ok(plan)
}

/// The NVMe controller at an address.
pub(crate) fn nvme_function(machine: &Machine, address: &str) -> Result<PciController, Failure> {
    if let Some(function) = sysfs::controller_at(&machine.sys(""), address) {
        return Ok(function);
    }
    let message = match sysfs::attribute(&machine.function(address).join("class")) {
        Some(class) => format!(
            "{address} is no NVMe controller: its class is {}, theirs is {}",
            text::escape(&class),
            underpin::nvme::PciClass::NVME
        ),
        None => format!("there is no PCI function {address}"),
    };
    Err(Failure::machine(
        "address",
        message,
        "underpin list shows the NVMe functions",
    ))
}

fn as_json(machine: &Machine, bound: &Bound, args: &BindArgs) -> Value {
    let shown = |path: &PathBuf| machine.shown(path);
    json!({
        "address": bound.function.address,
        "url": format!("pci:{}", bound.function.address),
        "driver": switch::VFIO_PCI,
        "driver_before": bound.function.driver,
        "iommu_group": bound.group,
        "nodes": bound.nodes.iter().map(shown).collect::<Vec<_>>(),
        "owner": args.owner.map(|owner| owner.to_string()),
        "taken_from": bound.uses,
    })
}

fn as_text(machine: &Machine, bound: &Bound, args: &BindArgs) -> String {
    let address = &bound.function.address;
    let mut out = match bound.function.driver.as_deref() {
        Some(switch::VFIO_PCI) => format!("{address} was bound to vfio-pci already"),
        Some(before) => format!("{address} is bound to vfio-pci, and was to {before}"),
        None => format!("{address} is bound to vfio-pci, and had no driver"),
    };
    let _ = write!(out, "; IOMMU group {}", bound.group.number);
    if let Some(owner) = args.owner {
        let nodes: Vec<_> = bound.nodes.iter().map(|node| machine.shown(node)).collect();
        let _ = write!(out, "; {} given to {owner}", nodes.join(" and "));
    }
    let blocking: Vec<_> = bound.group.blocking().cloned().collect();
    let still = blocking
        .iter()
        .filter(|other| machine.driver(&other.address) == other.driver);
    let still = Group::named(still);
    if !still.is_empty() {
        let _ = write!(
            out,
            "\n  it cannot be opened yet: {still} is in the same group"
        );
    }
    let _ = writeln!(out, "\n  next: underpin identify pci:{address}");
    out
}
