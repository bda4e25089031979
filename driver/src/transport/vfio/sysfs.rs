//! What stands between a user and a function, as the system's files show it: is it there, whose is
//! it, is there an IOMMU, may its group be opened. Each fault is one message with the next step.
use crate::{PciAddress, PciClass, is_vfio_driver, shares_group_with_vfio};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Where the system keeps its files; a test has its own.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) sys: PathBuf,
    pub(super) dev: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            sys: PathBuf::from("/sys"),
            dev: PathBuf::from("/dev"),
        }
    }
}

/// A function that VFIO may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) address: PciAddress,
    pub(super) group: u32,
    /// Its own node, where the kernel has VFIO's character devices.
    pub(super) node: Option<PathBuf>,
    /// The NUMA node that it is attached to.
    pub(super) numa_node: Option<u32>,
}

/// How a function is opened.
#[derive(Debug)]
pub(super) enum Way {
    /// `/dev/iommu`, with the function's own node, which is opened anew by each attempt: a file of
    /// it can be bound once in its life.
    Iommufd { iommufd: File, node: PathBuf },
    /// The group in a container of type 1.
    Group,
}

impl Places {
    fn function(&self, address: PciAddress) -> PathBuf {
        self.sys.join("bus/pci/devices").join(address.to_string())
    }

    pub(super) fn group_node(&self, group: u32) -> PathBuf {
        self.dev.join("vfio").join(group.to_string())
    }

    /// Looks at everything that can be known without opening anything.
    pub(super) fn examine(&self, address: PciAddress) -> Result<Function, String> {
        let folder = self.function(address);
        if !folder.is_dir() {
            return Err(
                "there is no such function on the PCI bus; `underpin list` shows the NVMe controllers"
                    .to_owned(),
            );
        }
        if let Some(class) = class(&folder)
            && !class.is_nvme()
        {
            return Err(format!(
                "it is no NVMe controller: its class is {class}, and {} is wanted",
                PciClass::NVME
            ));
        }
        // Before its driver: without an IOMMU, binding it to VFIO would not help.
        let Some(group) = link(&folder.join("iommu_group")).and_then(|name| name.parse().ok())
        else {
            return Err(
                "it has no IOMMU group, so nothing could hold its DMA: switch the IOMMU on in the \
                 firmware's setup (VT-d, AMD-Vi) and boot with intel_iommu=on (AMD's needs no option)"
                    .to_owned(),
            );
        };
        match link(&folder.join("driver")).as_deref() {
            Some(driver) if is_vfio_driver(driver) => {}
            Some(other) => {
                return Err(format!(
                    "it belongs to the driver {other}; `underpin bind pci:{address}` (as root) gives it to VFIO"
                ));
            }
            None => {
                return Err(format!(
                    "no driver has it; `underpin bind pci:{address}` (as root) gives it to VFIO"
                ));
            }
        }
        self.check_viable(&folder, group)?;
        Ok(Function {
            address,
            group,
            node: self.node(&folder),
            numa_node: read(&folder.join("numa_node")).and_then(|text| text.parse().ok()),
        })
    }

    /// A group can be opened when no other driver has one of its devices, but for those that do
    /// no DMA. Bridges are let pass: kernels before 5.19 never counted them, later ones go by the
    /// driver, and then the kernel says so itself.
    fn check_viable(&self, folder: &Path, group: u32) -> Result<(), String> {
        let others = self.others(folder, |driver, class| {
            !shares_group_with_vfio(driver) && !class.is_some_and(PciClass::is_bridge)
        });
        match others.is_empty() {
            true => Ok(()),
            false => Err(not_viable(group, &others)),
        }
    }

    /// Why the kernel finds the group not viable: whoever has one of its devices.
    pub(super) fn not_viable(&self, function: &Function) -> String {
        let folder = self.function(function.address);
        let others = self.others(&folder, |driver, _class| !shares_group_with_vfio(driver));
        not_viable(function.group, &others)
    }

    /// The devices of a function's group with such a driver, and the driver.
    fn others(&self, folder: &Path, which: impl Fn(&str, Option<PciClass>) -> bool) -> Vec<String> {
        let Ok(devices) = std::fs::read_dir(folder.join("iommu_group/devices")) else {
            return Vec::new();
        };
        let mut others: Vec<_> = devices
            .flatten()
            .filter_map(|device| {
                let driver = link(&device.path().join("driver"))?;
                let name = device.file_name().to_string_lossy().into_owned();
                which(&driver, class(&device.path())).then(|| format!("{name} (driver {driver})"))
            })
            .collect();
        others.sort();
        others
    }

    fn node(&self, folder: &Path) -> Option<PathBuf> {
        let mut names = std::fs::read_dir(folder.join("vfio-dev")).ok()?.flatten();
        let name = names.next()?.file_name();
        Some(self.dev.join("vfio/devices").join(name))
    }

    /// Chooses how to open it by what the kernel offers and this user may use.
    pub(super) fn choose(&self, function: &Function) -> Result<Way, String> {
        let group = self.group_node(function.group);
        let Some(node) = &function.node else {
            return self.may_open(function, &group).map(|()| Way::Group);
        };
        let iommu = self.dev.join("iommu");
        let refused = match open(&iommu) {
            Ok(iommufd) => match open(node) {
                Ok(_) => {
                    let node = node.clone();
                    return Ok(Way::Iommufd { iommufd, node });
                }
                Err(error) => refusal(node, &error, function.address),
            },
            Err(error) => refusal(&iommu, &error, function.address),
        };
        // The other way may be open all the same.
        match group.exists() {
            true => self.may_open(function, &group).map(|()| Way::Group),
            false => Err(refused),
        }
    }

    /// Both nodes of the group's way, tried; a group can be open only once, so it is closed again.
    fn may_open(&self, function: &Function, group: &Path) -> Result<(), String> {
        for node in [&self.dev.join("vfio/vfio"), group] {
            match open(node) {
                Ok(_) => {}
                // By this process, perhaps: another function of the group.
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {}
                Err(error) => return Err(refusal(node, &error, function.address)),
            }
        }
        Ok(())
    }
}

fn not_viable(group: u32, others: &[String]) -> String {
    format!(
        "its IOMMU group {group} also holds {}: a group can only be had whole; give these to VFIO, \
         too (`underpin bind` for NVMe), or unbind them",
        match others {
            [] => "a device of another driver".to_owned(),
            some => some.join(", "),
        }
    )
}

/// A function's class, where there is one to be read.
fn class(folder: &Path) -> Option<PciClass> {
    read(&folder.join("class"))?.parse().ok()
}

/// Why a node cannot be opened, and what to do.
pub(super) fn refusal(node: &Path, error: &io::Error, address: PciAddress) -> String {
    let shown = node.display();
    match error.kind() {
        ErrorKind::NotFound if node.ends_with("vfio/vfio") => format!(
            "{shown} is missing: load VFIO with `modprobe vfio_iommu_type1`, or give it to the \
             container with --device {shown}"
        ),
        ErrorKind::NotFound if node.ends_with("dev/iommu") => format!(
            "{shown} is missing: load it with `modprobe iommufd`, or give it to the container with \
             --device {shown}"
        ),
        ErrorKind::NotFound => format!(
            "{shown} is missing: `underpin bind pci:{address}` makes it; a container needs \
             --device {shown}"
        ),
        ErrorKind::PermissionDenied => format!(
            "{shown} may not be opened by user {user}: `sudo underpin bind --owner {user} \
             pci:{address}` grants it",
            user = rustix::process::getuid().as_raw()
        ),
        ErrorKind::ResourceBusy => format!(
            "{shown} is open already: another process has this device, or one of its group; end \
             it (`fuser {shown}` names it)"
        ),
        _ => format!("{shown} cannot be opened: {error}"),
    }
}

pub(super) fn open(node: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(node)
}

/// The last name of what a link leads to.
fn link(path: &Path) -> Option<String> {
    let target = std::fs::read_link(path).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

fn read(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use tempfile::TempDir;

    const ADDRESS: &str = "0000:00:04.0";

    /// A system on which everything is as it should be.
    struct System {
        root: TempDir,
    }

    impl System {
        fn new() -> Self {
            let system = Self {
                root: TempDir::new().unwrap(),
            };
            for folder in [
                "sys/bus/pci/drivers/vfio-pci",
                "sys/bus/pci/drivers/e1000e",
                "sys/kernel/iommu_groups/7/devices",
                "dev/vfio/devices",
            ] {
                std::fs::create_dir_all(system.path(folder)).unwrap();
            }
            system.function(ADDRESS, Some("vfio-pci"));
            for node in ["dev/vfio/vfio", "dev/vfio/7"] {
                std::fs::write(system.path(node), "").unwrap();
            }
            system
        }

        fn path(&self, path: &str) -> PathBuf {
            self.root.path().join(path)
        }

        fn function(&self, address: &str, driver: Option<&str>) {
            let folder = self.path("sys/bus/pci/devices").join(address);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("class"), "0x010802\n").unwrap();
            std::fs::write(folder.join("numa_node"), "-1\n").unwrap();
            let group = self.path("sys/kernel/iommu_groups/7");
            symlink(&group, folder.join("iommu_group")).unwrap();
            symlink(&folder, group.join("devices").join(address)).unwrap();
            if let Some(driver) = driver {
                let driver = self.path("sys/bus/pci/drivers").join(driver);
                symlink(driver, folder.join("driver")).unwrap();
            }
        }

        fn file(&self, name: &str) -> PathBuf {
            self.path("sys/bus/pci/devices").join(ADDRESS).join(name)
        }

        fn places(&self) -> Places {
            Places {
                sys: self.path("sys"),
                dev: self.path("dev"),
            }
        }

        fn open(&self) -> Result<Way, String> {
            let places = self.places();
            places.choose(&places.examine(ADDRESS.parse().unwrap())?)
        }
    }

    #[test]
    fn a_function_of_vfio_pci_is_opened_by_its_group() {
        let system = System::new();
        let function = system.places().examine(ADDRESS.parse().unwrap()).unwrap();
        assert_eq!((function.group, function.node.clone()), (7, None));
        assert_eq!(function.numa_node, None, "-1 is none");
        assert!(matches!(system.open(), Ok(Way::Group)));
    }

    /// iommufd where the kernel has it and the user may; the group where not.
    #[test]
    fn iommufd_is_preferred_where_it_can_be_opened() {
        let system = System::new();
        std::fs::create_dir_all(system.file("vfio-dev/vfio3")).unwrap();
        assert!(matches!(system.open(), Ok(Way::Group)), "no nodes yet");
        std::fs::write(system.path("dev/iommu"), "").unwrap();
        std::fs::write(system.path("dev/vfio/devices/vfio3"), "").unwrap();
        let node = system.path("dev/vfio/devices/vfio3");
        let way = system.open().unwrap();
        assert!(matches!(&way, Way::Iommufd { node: chosen, .. } if *chosen == node));
        // A file of it that is bound once could not be bound to another iommufd.
        let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let open = |file: std::fs::DirEntry| std::fs::read_link(file.path()).ok();
        let held = files.filter_map(open).filter(|held| *held == node);
        assert_eq!(held.count(), 0, "the node is held open");
        drop(way);
        std::fs::remove_file(system.path("dev/iommu")).unwrap();
        std::fs::remove_file(system.path("dev/vfio/7")).unwrap();
        let refused = system.open().unwrap_err();
        assert!(refused.contains("dev/iommu is missing"), "{refused}");
        assert!(refused.contains("`modprobe iommufd`"), "{refused}");
    }

    /// One thing wrong at a time: the message names it and the command that helps.
    #[test]
    fn each_fault_is_one_message_with_the_next_step() {
        type Spoil = fn(&System);
        let faults: [(&str, Spoil, &str); 9] = [
            (
                "no such function",
                |s| std::fs::remove_dir_all(s.file("")).unwrap(),
                "`underpin list`",
            ),
            (
                "another class",
                |s| std::fs::write(s.file("class"), "0x020000\n").unwrap(),
                "no NVMe controller",
            ),
            (
                "no IOMMU",
                |s| std::fs::remove_file(s.file("iommu_group")).unwrap(),
                "intel_iommu=on",
            ),
            (
                "no driver",
                |s| std::fs::remove_file(s.file("driver")).unwrap(),
                "`underpin bind pci:0000:00:04.0`",
            ),
            (
                "the kernel's driver",
                |s| {
                    std::fs::remove_file(s.file("driver")).unwrap();
                    symlink("../drivers/nvme", s.file("driver")).unwrap();
                },
                "driver nvme; `underpin bind pci:0000:00:04.0`",
            ),
            (
                "a neighbour",
                |s| s.function("0000:00:04.1", Some("e1000e")),
                "0000:00:04.1 (driver e1000e)",
            ),
            (
                "no container",
                |s| std::fs::remove_file(s.path("dev/vfio/vfio")).unwrap(),
                "modprobe vfio_iommu_type1",
            ),
            (
                "no group",
                |s| std::fs::remove_file(s.path("dev/vfio/7")).unwrap(),
                "--device",
            ),
            (
                "bytes that are no text",
                |s| {
                    std::fs::write(s.file("class"), [0xff, 0xfe]).unwrap();
                    std::fs::remove_file(s.file("iommu_group")).unwrap();
                    symlink("nowhere/x", s.file("iommu_group")).unwrap();
                },
                "no IOMMU group",
            ),
        ];
        for (what, spoil, words) in faults {
            let system = System::new();
            spoil(&system);
            let message = system.open().unwrap_err();
            assert!(message.contains(words), "{what}: {message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
        // A neighbour without a driver, with VFIO's, or that is a bridge, is in nobody's way.
        let system = System::new();
        system.function("0000:00:04.1", None);
        system.function("0000:00:04.2", Some("vfio-pci"));
        system.function("0000:00:04.3", Some("mlx5_vfio_pci"));
        system.function("0000:00:05.0", Some("pcieport"));
        system.function("0000:00:06.0", Some("shpchp"));
        let class = system.path("sys/bus/pci/devices/0000:00:06.0/class");
        std::fs::write(class, "0x060400\n").unwrap();
        system.open().unwrap();
        // Where the kernel thinks otherwise, it is that one.
        let places = system.places();
        let function = places.examine(ADDRESS.parse().unwrap()).unwrap();
        let said = places.not_viable(&function);
        assert!(said.contains("0000:00:06.0 (driver shpchp)"), "{said}");
        assert!(
            !said.contains("pcieport") && !said.contains("04."),
            "{said}"
        );
    }

    /// Flash with other registers is no NVMe controller.
    #[test]
    fn other_interfaces_are_no_nvme() {
        for class in ["0x010800", "0x010801", "0x018002"] {
            let system = System::new();
            std::fs::write(system.file("class"), format!("{class}\n")).unwrap();
            let message = system.open().unwrap_err();
            assert!(message.contains(class), "{message}");
        }
    }

    /// Permissions: root may open all, so the words are looked at by themselves.
    #[test]
    fn a_refusal_names_the_command_that_grants() {
        let address: PciAddress = ADDRESS.parse().unwrap();
        let said = |kind: ErrorKind, node: &str| refusal(Path::new(node), &kind.into(), address);
        let denied = said(ErrorKind::PermissionDenied, "/dev/vfio/7");
        assert!(denied.contains("underpin bind --owner") && denied.contains("pci:0000:00:04.0"));
        assert!(said(ErrorKind::ResourceBusy, "/dev/vfio/7").contains("another process"));
        let system = System::new();
        let none = std::fs::Permissions::from_mode(0o000);
        std::fs::set_permissions(system.path("dev/vfio/7"), none).unwrap();
        if !rustix::process::geteuid().is_root() {
            assert!(system.open().unwrap_err().contains("--owner"));
        }
    }
}
