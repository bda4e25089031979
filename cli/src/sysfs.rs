//! The NVMe controllers on the PCI bus, as the kernel shows them in sysfs. Read only.
//! What reads proc, too, reads it by the same few functions.
//! Anything may be missing, unreadable or nonsense, and may go while it is being read.
use serde::Serialize;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use underpin::nvme::PciClass;
use underpin::spec::identify::Ascii;

/// An attribute is a page at most.
const ATTRIBUTE_BYTES: u64 = 4096;
/// The kernel counts a block device's size in these, whatever its blocks are.
const SECTOR_BYTES: u64 = 512;

/// What was found on the bus.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Bus {
    /// The directory that was looked through.
    pub(crate) directory: PathBuf,
    /// In ascending order of address.
    pub(crate) controllers: Vec<PciController>,
    /// Why the bus could not be looked at, if it could not.
    pub(crate) problem: Option<String>,
}

/// An NVMe controller on the PCI bus. What sysfs does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PciController {
    /// Domain, bus, device and function: `0000:01:00.0`.
    pub(crate) address: String,
    /// Class, subclass and interface: `0x010802`.
    pub(crate) class: String,
    pub(crate) vendor_id: Option<String>,
    pub(crate) device_id: Option<String>,
    /// Model, serial and firmware as the kernel's NVMe driver read them, when it is bound.
    pub(crate) model: Option<String>,
    pub(crate) serial: Option<String>,
    pub(crate) firmware: Option<String>,
    /// The kernel driver that is bound.
    pub(crate) driver: Option<String>,
    /// `None`: the device is behind no IOMMU that is on.
    pub(crate) iommu_group: Option<String>,
    pub(crate) numa_node: Option<u32>,
    pub(crate) block_devices: Vec<BlockDevice>,
}

/// A block device that the kernel made of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BlockDevice {
    pub(crate) name: String,
    pub(crate) len_bytes: Option<u64>,
    /// Its directory in sysfs.
    #[serde(skip)]
    pub(crate) path: PathBuf,
}

/// Looks through the PCI bus of the sysfs at `root`.
pub(crate) fn bus(root: &Path) -> Bus {
    let directory = root.join("bus/pci/devices");
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) => {
            let problem = match error.kind() {
                ErrorKind::NotFound => "there is no PCI bus here".to_owned(),
                _ => error.to_string(),
            };
            return Bus {
                directory,
                problem: Some(problem),
                ..Bus::default()
            };
        }
    };
    // A device that goes while its directory is read is not there: nothing to tell.
    let mut devices: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    devices.sort();
    let controllers = devices
        .iter()
        .filter_map(|device| controller(root, device))
        .collect();
    Bus {
        directory,
        controllers,
        problem: None,
    }
}

/// The controller at an address, if there is a device and it is an NVMe controller.
pub(crate) fn controller_at(root: &Path, address: &str) -> Option<PciController> {
    controller(root, &root.join("bus/pci/devices").join(address))
}

/// The device, if it is an NVMe controller.
fn controller(root: &Path, device: &Path) -> Option<PciController> {
    let class = class(device).filter(|class| class.is_nvme())?;
    let id = |name| {
        Some(format!(
            "{:#06x}",
            u16::try_from(hex(&device.join(name))?).ok()?
        ))
    };
    let mut found = PciController {
        address: name_of(device),
        class: class.to_string(),
        vendor_id: id("vendor"),
        device_id: id("device"),
        driver: link(&device.join("driver")),
        iommu_group: link(&device.join("iommu_group")),
        // -1 means that the machine has no such notion.
        numa_node: attribute(&device.join("numa_node")).and_then(|node| node.parse().ok()),
        ..PciController::default()
    };
    for host in children(&device.join("nvme"), is_controller) {
        found.model = found.model.or_else(|| attribute(&host.join("model")));
        found.serial = found.serial.or_else(|| attribute(&host.join("serial")));
        found.firmware = found
            .firmware
            .or_else(|| attribute(&host.join("firmware_rev")));
        found.block_devices.extend(block_devices(root, &host));
    }
    Some(found)
}

/// The block devices of the kernel's controller `host`: below itself, or, where the kernel has
/// NVMe multipath, below the subsystem that it is a path of.
fn block_devices(root: &Path, host: &Path) -> Vec<BlockDevice> {
    let mut places = vec![host.to_owned()];
    let host_name = host.file_name().unwrap_or_default();
    let subsystems = children(&root.join("class/nvme-subsystem"), |_| true);
    places.extend(
        subsystems
            .into_iter()
            .filter(|subsystem| subsystem.join(host_name).exists()),
    );
    let mut found: Vec<BlockDevice> = Vec::new();
    for place in places {
        for path in children(&place, is_namespace) {
            let name = name_of(&path);
            if found.iter().all(|device| device.name != name) {
                let sectors =
                    attribute(&path.join("size")).and_then(|size| size.parse::<u64>().ok());
                let len_bytes = sectors.and_then(|sectors| sectors.checked_mul(SECTOR_BYTES));
                found.push(BlockDevice {
                    name,
                    len_bytes,
                    path,
                });
            }
        }
    }
    found
}

/// `nvme` and a number.
fn is_controller(name: &str) -> bool {
    name.strip_prefix("nvme").is_some_and(is_number)
}

/// `nvme0n1`, but neither a partition of it nor a path to it (`nvme0c0n1`).
fn is_namespace(name: &str) -> bool {
    let numbers = name
        .strip_prefix("nvme")
        .and_then(|rest| rest.split_once('n'));
    numbers.is_some_and(|(controller, namespace)| is_number(controller) && is_number(namespace))
}

pub(crate) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What lies in a directory under a name that is wanted, in order; nothing if it is no directory.
pub(crate) fn children(directory: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

/// An attribute's text, fit for a terminal; `None` if it is missing, unreadable or empty.
pub(crate) fn attribute(path: &Path) -> Option<String> {
    // Opening anything else than a file could wait for ever.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(ATTRIBUTE_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    let text = Ascii::new(bytes.trim_ascii()).to_string();
    (!text.is_empty()).then_some(text)
}

/// An attribute such as `0x010802`.
pub(crate) fn hex(path: &Path) -> Option<u32> {
    let text = attribute(path)?;
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// What a PCI function says that it is.
pub(crate) fn class(device: &Path) -> Option<PciClass> {
    attribute(&device.join("class"))?.parse().ok()
}

/// The last part of what a link points to, whether or not that exists.
pub(crate) fn link(path: &Path) -> Option<String> {
    Some(name_of(&fs::read_link(path).ok()?))
}

pub(crate) fn name_of(path: &Path) -> String {
    crate::text::escape(&path.file_name().unwrap_or_default().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert!(is_controller("nvme12") && !is_controller("nvme") && !is_controller("nvme0n1"));
        assert!(is_namespace("nvme0n1") && is_namespace("nvme10n22"));
        for name in [
            "nvme0",
            "nvme0c0n1",
            "nvme0n1p1",
            "ng0n1",
            "nvmen1",
            "nvme0n",
        ] {
            assert!(!is_namespace(name), "{name}");
        }
    }

    /// A device that is gone reads as nothing at all.
    #[test]
    fn what_is_not_there_is_none() {
        let nowhere = Path::new("/nonexistent");
        assert_eq!(controller(nowhere, nowhere), None);
        assert!(
            bus(nowhere)
                .problem
                .is_some_and(|problem| problem.contains("no PCI bus"))
        );
    }
}
