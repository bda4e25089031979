//! What would bind a function at every start of the machine: text for files that the user installs.
use super::Owner;
use crate::sysfs::PciController;
use serde::Serialize;
use std::fmt::Write;

/// A file that could be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ConfigFile {
    pub(crate) path: &'static str,
    pub(crate) text: String,
}

/// The files for these functions.
pub(crate) fn files(functions: &[PciController], owner: Option<Owner>) -> Vec<ConfigFile> {
    let mut rules = "# Written by `underpin bind --persist`: functions for userspace.\n".to_owned();
    for function in functions {
        let address = &function.address;
        // To choose a driver asks none to look again: vfio-pci may have been loaded before.
        let _ = writeln!(
            rules,
            "ACTION==\"add\", SUBSYSTEM==\"pci\", KERNEL==\"{address}\", \
             ATTR{{driver_override}}=\"vfio-pci\", RUN{{builtin}}+=\"kmod load vfio-pci\", \
             RUN+=\"/bin/sh -c 'echo {address} >/sys/bus/pci/drivers_probe'\""
        );
        if let Some(owner) = owner {
            // The number of a group may be another one at the next start.
            let _ = writeln!(
                rules,
                "ACTION==\"bind\", SUBSYSTEM==\"pci\", KERNEL==\"{address}\", \
                 DRIVER==\"vfio-pci\", RUN+=\"/bin/sh -c 'chown {owner} \
                 /dev/vfio/$$(basename $$(readlink /sys$devpath/iommu_group))'\""
            );
            let _ = writeln!(
                rules,
                "SUBSYSTEM==\"vfio-dev\", KERNELS==\"{address}\", {}",
                owner.udev()
            );
        }
    }
    vec![
        ConfigFile {
            path: "/etc/udev/rules.d/70-underpin.rules",
            text: rules,
        },
        ConfigFile {
            path: "/etc/modprobe.d/underpin.conf",
            text: "# vfio-pci first, so that the rule finds it; nvme then leaves the function alone.\n\
                   softdep nvme pre: vfio-pci\n"
                .to_owned(),
        },
        ConfigFile {
            path: "/etc/modules-load.d/underpin.conf",
            text: "vfio-pci\n".to_owned(),
        },
    ]
}

/// What the files do not do.
pub(crate) const LIMITS: &str = "\
Nothing was installed. If nvme is built into the kernel or loaded from the initramfs, it has the
function before udev runs: then run `underpin bind` from a unit at start instead.";

/// The files as text to be read and copied.
pub(crate) fn text(files: &[ConfigFile]) -> String {
    let mut out = String::new();
    for file in files {
        let _ = write!(out, "\n# {}\n{}", file.path, file.text);
    }
    let _ = writeln!(out, "\n{LIMITS}");
    out
}
