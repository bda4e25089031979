//! Checks of each NVMe function: its IOMMU group, and whether the user may open it.
use super::user::{NoAccess, User};
use super::{Check, Verdict, machine_wide};
use crate::bind::switch::VFIO_PCI;
use crate::bind::{group_node, own_node};
use crate::iommu::Group;
use crate::machine::Machine;
use crate::sysfs::{Bus, PciController};
use std::path::PathBuf;

/// A line for each function; one line if there is none.
pub(super) fn all(machine: &Machine, user: &User, bus: &Bus) -> Vec<Check> {
    if let Some(problem) = &bus.problem {
        let directory = machine.shown(&bus.directory);
        return vec![Check::warn(
            "functions",
            format!("the PCI bus cannot be looked at: {directory}: {problem}"),
            "emu: and vfio-user: devices need none",
        )];
    }
    if bus.controllers.is_empty() {
        return vec![Check::warn(
            "functions",
            "there is no NVMe function on the PCI bus",
            "emu: and vfio-user: devices need none: underpin identify emu:size=1g",
        )];
    }
    let mut checks: Vec<Check> = Vec::new();
    let mut missing: Vec<usize> = Vec::new();
    let mut can_open = false;
    for function in &bus.controllers {
        let found = one(machine, user, function);
        match found {
            Found::Open(_) => can_open = true,
            Found::Missing(_) => missing.push(checks.len()),
            Found::Other(_) => {}
        }
        let (Found::Open(check) | Found::Missing(check) | Found::Other(check)) = found;
        checks.push(check);
    }
    // A container sees every function of the host, and gets the nodes of its own only.
    for check in checks
        .iter_mut()
        .enumerate()
        .filter(|(at, _)| missing.contains(at))
    {
        if can_open {
            check.1.verdict = Verdict::Warn;
        }
    }
    checks
}

/// What a function is to this user.
enum Found {
    /// It can be opened.
    Open(Check),
    /// It is bound, and there is no node of it here.
    Missing(Check),
    Other(Check),
}

fn one(machine: &Machine, user: &User, function: &PciController) -> Found {
    let address = function.address.as_str();
    let Some(group) = Group::of(machine, address) else {
        return Found::Other(Check::fail(
            address,
            "it has no IOMMU group: no IOMMU that is on stands before it",
            "see the check `iommu`; where other devices have a group, this slot is behind no IOMMU",
        ));
    };
    let number = &group.number;
    let is_alone = group.blocking().next().is_none();
    let blocking = Group::named(group.blocking());
    let check = match function.driver.as_deref() {
        Some(VFIO_PCI) if is_alone => return open(machine, user, address, &group),
        Some(VFIO_PCI) => Check::fail(
            address,
            format!("IOMMU group {number} is not viable: it also holds {blocking}"),
            "give those to vfio-pci, too, or to no driver; or use a slot with a group of its own",
        ),
        Some(driver) if !is_alone => Check::warn(
            address,
            format!(
                "with the kernel's driver {driver}; its IOMMU group {number} also holds {blocking}"
            ),
            "before it can be used from userspace those must be freed, too",
        ),
        Some(driver) => Check::ok(
            address,
            format!(
                "with the kernel's driver {driver}, IOMMU group {number}; `underpin bind {address}` \
                 would take it for userspace"
            ),
        ),
        None => Check::warn(
            address,
            format!("no driver has it; IOMMU group {number}"),
            format!(
                "run as root: underpin bind {address} --owner {}",
                user.owner()
            ),
        ),
    };
    Found::Other(check)
}

/// Whether a function that is bound can be opened by this user: its group through VFIO's container,
/// or its own node through iommufd. A node of one with a node of the other is of no use.
fn open(machine: &Machine, user: &User, address: &str, group: &Group) -> Found {
    let group_node = group_node(machine, group);
    let [container, iommufd] = machine_wide::nodes(machine);
    let can = |node: &PathBuf| user.may_use(machine, node);
    let has_neither = can(&container).is_err() && can(&iommufd).is_err();
    let mut ways = vec![(group_node.clone(), container)];
    ways.extend(own_node(machine, address).map(|own| (own, iommufd)));
    for (node, with) in &ways {
        if can(node).is_ok() && can(with).is_ok() {
            let node = machine.shown(node);
            let said = format!("bound to vfio-pci; {user} may use {node}");
            return Found::Open(Check::ok(address, said));
        }
    }
    let give = format!(
        "run as root: underpin bind {address} --owner {}",
        user.owner()
    );
    let half = ways.iter().find(|(node, _)| can(node).is_ok());
    if let Some((node, with)) = half {
        // Told once for all, by the check of these nodes.
        if has_neither {
            let said = format!("bound to vfio-pci; {user} may use {}", machine.shown(node));
            return Found::Other(Check::ok(address, said));
        }
        return Found::Other(unpaired(machine, user, address, &ways, (node, with), give));
    }
    let denied = ways.iter().find_map(|(node, _)| match can(node) {
        Err(NoAccess::Denied(mode)) => Some(format!("{} ({mode})", machine.shown(node))),
        _ => None,
    });
    match denied {
        Some(node) => Found::Other(Check::fail(
            address,
            format!("bound to vfio-pci, but {user} may not use {node}"),
            give,
        )),
        None => {
            let usable = ways.iter().find(|(_, with)| can(with).is_ok());
            let node = machine.shown(usable.map_or(&group_node, |(node, _)| node));
            Found::Missing(Check::fail(
                address,
                format!("bound to vfio-pci, but there is no {node}"),
                format!("in a container: start it with --device {node}"),
            ))
        }
    }
}

/// The user may use a node of the function, but not the one that it is opened with, and the other
/// way round: what each pair lacks, and how the pair is had of which half is there.
fn unpaired(
    machine: &Machine,
    user: &User,
    address: &str,
    ways: &[(PathBuf, PathBuf)],
    half: (&PathBuf, &PathBuf),
    give: String,
) -> Check {
    let lacks = |path: &PathBuf| match user.may_use(machine, path) {
        Ok(()) => None,
        Err(NoAccess::Missing) => Some(format!("{} is missing", machine.shown(path))),
        Err(NoAccess::Denied(mode)) => Some(format!(
            "{user} may not use {} ({mode})",
            machine.shown(path)
        )),
    };
    let pairs = ways.iter().map(|(node, with)| {
        let missing: Vec<_> = [lacks(with), lacks(node)].into_iter().flatten().collect();
        format!(
            "{} with {}: {}",
            machine.shown(with),
            machine.shown(node),
            missing.join(" and ")
        )
    });
    let pairs: Vec<_> = pairs.collect();
    // Either what this node is opened with, or the node that fits what can be opened with.
    let fitting = ways
        .iter()
        .find(|(_, with)| user.may_use(machine, with).is_ok());
    let (mut steps, mut devices) = (Vec::new(), Vec::new());
    for (path, step) in fitting.map(|(node, _)| (node, give)).into_iter().chain([(
        half.1,
        format!("run as root: chmod 666 {}", machine.shown(half.1)),
    )]) {
        match user.may_use(machine, path) {
            Err(NoAccess::Denied(_)) => steps.push(step),
            _ => devices.push(format!("--device {}", machine.shown(path))),
        }
    }
    if !devices.is_empty() {
        steps.push(format!(
            "in a container: start it with {}",
            devices.join(" or ")
        ));
    }
    Check::fail(
        address,
        format!(
            "bound to vfio-pci, but the nodes that {user} may use do not go together; {}",
            pairs.join("; ")
        ),
        steps.join("; or "),
    )
}
