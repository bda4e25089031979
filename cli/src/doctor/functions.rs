//! Checks of each NVMe function: its IOMMU group, and whether the user may open it.
use super::user::{NoAccess, User};
use super::{Check, Verdict};
use crate::bind::nodes;
use crate::bind::switch::VFIO_PCI;
use crate::iommu::Group;
use crate::machine::Machine;
use crate::sysfs::{Bus, PciController};

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

/// Whether a function that is bound can be opened by this user.
fn open(machine: &Machine, user: &User, address: &str, group: &Group) -> Found {
    let nodes = nodes(machine, address, group);
    let mut why = None;
    for node in &nodes {
        match user.may_use(machine, node) {
            Ok(()) => {
                let node = machine.shown(node);
                let said = format!("bound to vfio-pci; {user} may use {node}");
                return Found::Open(Check::ok(address, said));
            }
            Err(NoAccess::Denied(mode)) if why.is_none() => {
                why = Some(format!("{} ({mode})", machine.shown(node)));
            }
            Err(_) => {}
        }
    }
    match why {
        Some(node) => Found::Other(Check::fail(
            address,
            format!("bound to vfio-pci, but {user} may not use {node}"),
            format!(
                "run as root: underpin bind {address} --owner {}",
                user.owner()
            ),
        )),
        None => {
            let node = machine.shown(&machine.dev(&format!("vfio/{}", group.number)));
            Found::Missing(Check::fail(
                address,
                format!("bound to vfio-pci, but there is no {node}"),
                format!("in a container: start it with --device {node}"),
            ))
        }
    }
}
