//! Checks of what all devices need: the IOMMU, interrupt remapping, the kernel's VFIO.
use super::Check;
use super::user::{NoAccess, User};
use crate::machine::Machine;
use crate::sysfs;
use std::path::PathBuf;

/// Whether an IOMMU stands before the devices.
pub(super) fn iommu(machine: &Machine) -> Check {
    let name = "iommu";
    let groups = groups(machine);
    if groups > 0 {
        let plural = if groups == 1 { "" } else { "s" };
        return Check::ok(name, format!("on, {groups} group{plural}"));
    }
    let off = "off: there is no IOMMU group, so no device can be kept to its memory";
    Check::fail(name, off, switch_on(machine))
}

fn groups(machine: &Machine) -> usize {
    sysfs::children(&machine.sys("kernel/iommu_groups"), sysfs::is_number).len()
}

/// How an IOMMU is switched on, by what the kernel was told and which processor this is.
fn switch_on(machine: &Machine) -> String {
    let command_line = machine.proc_text("cmdline").unwrap_or_default();
    let words: Vec<&str> = command_line.split_whitespace().collect();
    let off = ["iommu=off", "intel_iommu=off", "amd_iommu=off"];
    if let Some(word) = words.iter().find(|word| off.contains(word)) {
        return format!("take {word} from the kernel's command line, and start again");
    }
    let processor = machine.proc_text("cpuinfo").unwrap_or_default();
    let firmware = |technique: &str| {
        format!(
            "switch {technique} on in the firmware's setup (in a virtual machine: give it an IOMMU)"
        )
    };
    let is_on = |word: &&str| {
        let value = word.strip_prefix("intel_iommu=");
        value.is_some_and(|value| value.split(',').any(|part| part == "on"))
    };
    if processor.contains("GenuineIntel") && !words.iter().any(is_on) {
        return format!(
            "add intel_iommu=on to the kernel's command line and start again; if it is still off, {}",
            firmware("VT-d")
        );
    }
    if processor.contains("GenuineIntel") {
        firmware("VT-d")
    } else if processor.contains("AuthenticAMD") || processor.contains("HygonGenuine") {
        firmware("AMD-Vi (IOMMU)")
    } else {
        firmware("the IOMMU")
    }
}

/// Whether a device can be kept from sending interrupts that are not its own. Without, VFIO refuses
/// the group with EPERM.
pub(super) fn interrupt_remapping(machine: &Machine) -> Check {
    let name = "interrupt-remapping";
    if groups(machine) == 0 {
        return Check::warn(
            name,
            "off with the IOMMU that would do it",
            "see the check `iommu`",
        );
    }
    let Some(interrupts) = machine.proc_text("interrupts") else {
        return Check::warn(
            name,
            "cannot be seen: /proc/interrupts cannot be read",
            "VFIO says when it is missing: it refuses the group with EPERM",
        );
    };
    // The kernel puts IR- before the names of controllers whose interrupts are remapped.
    let chips = || interrupts.lines().flat_map(str::split_whitespace);
    if chips().any(|word| word.starts_with("IR-")) {
        return Check::ok(name, "on");
    }
    let is_plain = |word: &str| word == "IO-APIC" || word.starts_with("PCI-MSI");
    if !chips().any(is_plain) {
        return Check::ok(name, "not a matter of this machine's interrupt controllers");
    }
    // Each of VFIO's two IOMMU interfaces has its own.
    let is_told = |module: &str| {
        let parameter = machine.sys(&format!(
            "module/{module}/parameters/allow_unsafe_interrupts"
        ));
        sysfs::attribute(&parameter).is_some_and(|value| value == "Y")
    };
    if is_told("vfio_iommu_type1") || is_told("iommufd") {
        return Check::warn(
            name,
            "off, and VFIO was told to go on without (allow_unsafe_interrupts)",
            "use only devices and programs that you trust, or switch it on in the firmware's setup",
        );
    }
    let command_line = machine.proc_text("cmdline").unwrap_or_default();
    let off = ["intremap=off", "nointremap"];
    let off = command_line
        .split_whitespace()
        .find(|word| off.contains(word));
    let hint = match off {
        Some(word) => format!("take {word} from the kernel's command line, and start again"),
        None => {
            "switch it on in the firmware's setup (QEMU: intel-iommu,intremap=on); for trusted \
                 devices only: modprobe vfio_iommu_type1 allow_unsafe_interrupts=1 (or iommufd)"
                .to_owned()
        }
    };
    Check::fail(name, "off: VFIO refuses every group with EPERM", hint)
}

/// Whether the driver is there that lets userspace have PCI functions.
pub(super) fn vfio_pci(machine: &Machine) -> Check {
    match machine.sys("bus/pci/drivers/vfio-pci").is_dir() {
        true => Check::ok("vfio-pci", "loaded"),
        false => Check::fail(
            "vfio-pci",
            "the kernel's driver vfio-pci is not loaded",
            "run as root: modprobe vfio-pci (and name it in /etc/modules-load.d to have it at \
             every start)",
        ),
    }
}

/// Whether one of the two ways to map memory for devices is there.
pub(super) fn backend(machine: &Machine) -> Check {
    let name = "vfio-backend";
    let type1 = machine.sys("module/vfio_iommu_type1").is_dir();
    let iommufd = machine.dev("iommu").exists();
    match (type1, iommufd) {
        (true, true) => Check::ok(name, "vfio_iommu_type1 and iommufd"),
        (true, false) => Check::ok(name, "vfio_iommu_type1 (no iommufd, and none is needed)"),
        (false, true) => Check::ok(name, "iommufd"),
        (false, false) => Check::fail(
            name,
            "neither the kernel module vfio_iommu_type1 nor iommufd is loaded",
            "run as root: modprobe vfio_iommu_type1",
        ),
    }
}

/// The nodes with which every program begins: VFIO's container, for groups, and iommufd, for the
/// functions' own nodes.
pub(super) fn nodes(machine: &Machine) -> [PathBuf; 2] {
    [machine.dev("vfio/vfio"), machine.dev("iommu")]
}

/// Whether the node that every VFIO program opens can be opened.
pub(super) fn container_node(machine: &Machine, user: &User) -> Check {
    let name = "vfio-node";
    let nodes = nodes(machine);
    let mut why = None;
    for node in &nodes {
        let shown = machine.shown(node);
        match user.may_use(machine, node) {
            Ok(()) => return Check::ok(name, format!("{user} may use {shown}")),
            // Of two that are there the first one's reason is told.
            Err(NoAccess::Denied(mode)) if why.is_none() => why = Some((shown, mode)),
            Err(_) => {}
        }
    }
    match why {
        Some((node, mode)) => Check::fail(
            name,
            format!("{user} may not use {node} ({mode})"),
            format!("run as root: chmod 666 {node}; it gives access to no device by itself"),
        ),
        None => Check::fail(
            name,
            "there is neither /dev/vfio/vfio nor /dev/iommu",
            "run as root: modprobe vfio; in a container: start it with --device /dev/vfio/vfio",
        ),
    }
}
