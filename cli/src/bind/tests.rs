//! `bind` and `unbind` on trees that look like sysfs, with a kernel that records what is written to
//! it, does it, or fails at a step.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;
use crate::unbind::{UnbindArgs, unbind};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

const DISK: &str = "0000:01:00.0";
const FUNCTION: &str = "sys/bus/pci/devices/0000:01:00.0";
const BLOCK: &str = "sys/bus/pci/devices/0000:01:00.0/nvme/nvme0/nvme0n1";

/// A machine with two NVMe functions that the kernel drives, each in a group of its own.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(TempDir::new().unwrap());
        tree.function(DISK, "12", "nvme", "0x010802").function(
            "0000:02:00.0",
            "13",
            "nvme",
            "0x010802",
        );
        for (path, text) in [
            ("sys/bus/pci/drivers/nvme/unbind", ""),
            ("sys/bus/pci/drivers/vfio-pci/unbind", ""),
            ("sys/bus/pci/drivers_probe", ""),
            (
                "proc/self/mountinfo",
                "22 1 0:21 / /proc rw - proc proc rw\n",
            ),
            ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"),
            ("dev/vfio/12", ""),
            ("dev/vfio/13", ""),
            ("dev/nvme0n1", "block 259:0"),
            ("dev/nvme0n1p1", "block 259:1"),
        ] {
            tree.write(path, text);
        }
        tree.write(&format!("{BLOCK}/dev"), "259:0\n")
            .write(&format!("{BLOCK}/size"), "2048\n")
            .write(&format!("{BLOCK}/nvme0n1p1/partition"), "1\n")
            .write(&format!("{BLOCK}/nvme0n1p1/dev"), "259:1\n");
        tree
    }

    fn function(&self, address: &str, group: &str, driver: &str, class: &str) -> &Self {
        let at = format!("sys/bus/pci/devices/{address}");
        self.write(&format!("{at}/class"), &format!("{class}\n"))
            .write(&format!("{at}/driver_override"), "(null)\n")
            .link(
                &format!("{at}/iommu_group"),
                &format!("../../../../kernel/iommu_groups/{group}"),
            )
            .link(
                &format!("sys/kernel/iommu_groups/{group}/devices/{address}"),
                &format!("../../../../bus/pci/devices/{address}"),
            );
        if !driver.is_empty() {
            self.link(&format!("{at}/driver"), &format!("../../drivers/{driver}"));
        }
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
        self
    }

    fn machine(&self) -> Machine {
        Machine::at(self.0.path())
    }

    fn driver(&self, address: &str) -> Option<String> {
        self.machine().driver(address)
    }

    fn chosen(&self, address: &str) -> String {
        let path = format!("sys/bus/pci/devices/{address}/driver_override");
        fs::read_to_string(self.path(&path)).unwrap()
    }
}

/// A kernel behind the tree: does what is written to it, and keeps a list.
#[derive(Default)]
struct Kernel<'a> {
    tree: Option<&'a Tree>,
    done: Vec<String>,
    /// The write with this number, from 0, fails.
    fails_at: Option<usize>,
    /// And every later one.
    fails_on: bool,
    /// No driver takes a function that is probed.
    refuses_vfio: bool,
    /// Nodes that somebody has claimed.
    claimed: Vec<&'static str>,
    /// How often it was waited for udev.
    pauses: u32,
    /// What a claim fails with otherwise.
    claim_fails: Option<i32>,
}

impl<'a> Kernel<'a> {
    fn of(tree: &'a Tree) -> Self {
        Self {
            tree: Some(tree),
            ..Self::default()
        }
    }

    fn writes(&self) -> Vec<&str> {
        self.done.iter().map(String::as_str).collect()
    }

    fn probe(&self, address: &str) {
        let tree = self.tree.unwrap();
        let link = format!("sys/bus/pci/devices/{address}/driver");
        let chosen = tree.chosen(address);
        match chosen.trim() {
            "vfio-pci" if self.refuses_vfio => {}
            "vfio-pci" => {
                tree.link(&link, "../../drivers/vfio-pci");
            }
            "" | "(null)" => {
                tree.link(&link, "../../drivers/nvme");
            }
            _ => {}
        }
    }
}

impl Hands for Kernel<'_> {
    fn write(&mut self, attribute: &Path, text: &str) -> io::Result<()> {
        let tree = self.tree.unwrap();
        let shown = attribute.strip_prefix(tree.path("sys/bus/pci")).unwrap();
        let shown = shown.display().to_string();
        let number = self.done.len();
        self.done.push(format!("{shown} <- {}", text.trim_end()));
        let fails = self
            .fails_at
            .is_some_and(|at| number == at || (self.fails_on && number > at));
        if fails {
            return Err(io::Error::from_raw_os_error(
                rustix::io::Errno::NODEV.raw_os_error(),
            ));
        }
        assert!(
            !text.is_empty(),
            "the kernel does not notice an empty write"
        );
        if shown.ends_with("driver_override") {
            fs::write(attribute, text).unwrap();
        } else if shown.ends_with("unbind") {
            fs::remove_file(tree.path(&format!("sys/bus/pci/devices/{text}/driver"))).unwrap();
        } else {
            self.probe(text);
        }
        Ok(())
    }

    /// What stands for a node says in the tree what it is: `block 259:0`, `char 1:3`.
    fn number(&mut self, node: &Path) -> io::Result<Option<(u32, u32)>> {
        let text = fs::read_to_string(node)?;
        let number = text.strip_prefix("block ").map(|number| {
            let (major, minor) = number.split_once(':').unwrap();
            (major.parse().unwrap(), minor.parse().unwrap())
        });
        Ok(number)
    }

    fn claim(&mut self, node: &Path) -> io::Result<File> {
        let name = node.file_name().unwrap().to_str().unwrap();
        if let Some(number) = self.claim_fails {
            return Err(io::Error::from_raw_os_error(number));
        }
        match self.claimed.contains(&name) {
            true => Err(io::Error::from_raw_os_error(
                rustix::io::Errno::BUSY.raw_os_error(),
            )),
            false => File::open(node),
        }
    }

    fn chown(&mut self, node: &Path, uid: u32, gid: Option<u32>) -> io::Result<()> {
        let node = node.strip_prefix(self.tree.unwrap().path("dev")).unwrap();
        self.done
            .push(format!("{} to {uid} {gid:?}", node.display()));
        Ok(())
    }

    fn pause(&mut self, _: std::time::Duration) {
        self.pauses += 1;
        if self.pauses == 3 {
            let _ = fs::remove_file(self.tree.unwrap().path("run/udev/queue"));
            self.done.push("udev is done".to_owned());
        }
    }
}

fn args(words: &[&str]) -> BindArgs {
    use clap::Parser;
    #[derive(Debug, Parser)]
    struct Whole {
        #[command(flatten)]
        bind: BindArgs,
    }
    Whole::try_parse_from([&["bind"], words].concat())
        .unwrap()
        .bind
}

fn unbind_args(words: &[&str]) -> UnbindArgs {
    use clap::Parser;
    #[derive(Debug, Parser)]
    struct Whole {
        #[command(flatten)]
        unbind: UnbindArgs,
    }
    Whole::try_parse_from([&["unbind"], words].concat())
        .unwrap()
        .unbind
}

/// Binds; what was warned of comes back, too.
fn bound(kernel: &mut Kernel<'_>, words: &[&str]) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    let machine = kernel.tree.unwrap().machine();
    let mut warn = |line: &str| warnings.push(line.to_owned());
    match bind(&machine, kernel, &args(words), &mut warn) {
        Ok(_) => Ok(warnings),
        Err(Failure::Told(problem)) => Err(format!("{}: {}", problem.code, problem.message)),
        Err(other) => panic!("{other:?}"),
    }
}

fn returned(kernel: &mut Kernel<'_>, words: &[&str]) -> Result<Vec<String>, String> {
    let machine = kernel.tree.unwrap().machine();
    match unbind(&machine, kernel, &unbind_args(words)) {
        Ok(all) => Ok(all
            .into_iter()
            .map(|one| format!("{} {}", one.address, one.driver))
            .collect()),
        Err(Failure::Told(problem)) => Err(format!("{}: {}", problem.code, problem.message)),
        Err(other) => panic!("{other:?}"),
    }
}

/// The steps in the order that the kernel needs: who may have it, away from whom, who wants it; and
/// the node given away last. A second time nothing is left to do but that.
#[test]
fn a_function_is_bound_in_three_writes_and_given_to_its_owner() {
    let tree = Tree::new();
    let mut kernel = Kernel::of(&tree);
    assert_eq!(
        bound(&mut kernel, &["01:00.0", "--owner", "1000:7"]),
        Ok(vec![])
    );
    assert_eq!(
        kernel.writes(),
        [
            "devices/0000:01:00.0/driver_override <- vfio-pci",
            "devices/0000:01:00.0/driver/unbind <- 0000:01:00.0",
            "drivers_probe <- 0000:01:00.0",
            "vfio/12 to 1000 Some(7)",
        ]
    );
    assert_eq!(tree.driver(DISK).as_deref(), Some("vfio-pci"));
    assert_eq!(tree.driver("0000:02:00.0").as_deref(), Some("nvme"));
    let mut again = Kernel::of(&tree);
    assert_eq!(bound(&mut again, &[DISK, "pci:01:00.0"]), Ok(vec![]));
    assert_eq!(again.writes(), <[&str; 0]>::default());
}

/// udev gives a new node to root when it comes to it, so it is waited for; one that never ends is
/// not waited for without end.
#[test]
fn a_node_is_given_away_after_udev_has_looked_at_it() {
    let tree = Tree::new();
    tree.write("run/udev/queue", "");
    let mut kernel = Kernel::of(&tree);
    assert_eq!(bound(&mut kernel, &["02:00.0", "--owner", "5"]), Ok(vec![]));
    assert_eq!(kernel.writes()[3..], ["udev is done", "vfio/13 to 5 None"]);
    tree.write("run/udev/queue", "");
    assert_eq!(bound(&mut kernel, &["02:00.0", "--owner", "5"]), Ok(vec![]));
    assert!(kernel.pauses > 100, "{}", kernel.pauses);
}

/// A function without a driver needs no unbinding; the node that iommufd has for it is given, too.
#[test]
fn a_function_without_a_driver_and_one_with_a_node_of_its_own() {
    let tree = Tree::new();
    tree.function("0000:03:00.0", "14", "", "0x010802")
        .write(
            "sys/bus/pci/devices/0000:03:00.0/vfio-dev/vfio0/dev",
            "511:0\n",
        )
        .write("dev/vfio/14", "")
        .write("dev/vfio/devices/vfio0", "");
    let mut kernel = Kernel::of(&tree);
    assert_eq!(bound(&mut kernel, &["03:00.0", "--owner", "5"]), Ok(vec![]));
    assert_eq!(
        kernel.writes(),
        [
            "devices/0000:03:00.0/driver_override <- vfio-pci",
            "drivers_probe <- 0000:03:00.0",
            "vfio/14 to 5 None",
            "vfio/devices/vfio0 to 5 None",
        ]
    );
}

/// Each use refuses, names its holder, and changes nothing; with --force the same is said first and
/// then done. The partition counts like the device.
#[test]
fn what_is_in_use_is_refused_by_name_and_taken_by_force() {
    type Change = fn(&Tree);
    let changes: [(&str, &[&'static str], &str, Change); 12] = [
        (
            "mounted",
            &[],
            "nvme0n1p1 is mounted at /srv/my data",
            |tree| {
                let mount = "36 35 259:1 / /srv/my\\040data rw master:1 - ext4 /dev/other rw\n";
                tree.write("proc/self/mountinfo", mount);
            },
        ),
        (
            "mounted by name",
            &["nvme0n1"],
            "nvme0n1 is mounted at /pool",
            |tree| {
                let mount = "36 35 0:44 / /pool rw - btrfs /dev/nvme0n1 rw\n";
                tree.write("proc/self/mountinfo", mount);
            },
        ),
        (
            "mounted in a container",
            &[],
            "nvme0n1 is mounted at /data (as pid 77 (postgres) sees it)",
            |tree| {
                let mount = "36 35 259:0 / /data rw - xfs /dev/nvme0n1 rw\n";
                tree.write("proc/77/mountinfo", mount)
                    .write("proc/77/comm", "postgres\n");
                tree.link("proc/77/ns/mnt", "mnt:[4026532000]");
            },
        ),
        (
            "btrfs",
            &[],
            "nvme0n1p1 belongs to the mounted btrfs 1234-abcd",
            |tree| {
                tree.write("sys/fs/btrfs/1234-abcd/devices/nvme0n1p1/size", "");
            },
        ),
        ("swap", &[], "nvme0n1p1 is swapped on", |tree| {
            tree.write(
                "proc/swaps",
                "Filename Type\n/dev/nvme0n1p1 partition 1 0 -2\n",
            );
        }),
        ("swap by label", &[], "nvme0n1 is swapped on", |tree| {
            tree.write(
                "proc/swaps",
                "Filename Type\n/dev/disk/sw\\040ap partition 1 0 -2\n",
            );
            tree.link("dev/disk/sw ap", "../nvme0n1");
        }),
        (
            "dm",
            &["nvme0n1p1", "nvme0n1"],
            "nvme0n1p1 is part of dm-0 (vg-root), which is mounted at /",
            |tree| {
                tree.write(&format!("{BLOCK}/nvme0n1p1/holders/dm-0"), "")
                    .write("sys/class/block/dm-0/dm/name", "vg-root\n")
                    .write("sys/class/block/dm-0/dev", "253:0\n")
                    .write(
                        "proc/self/mountinfo",
                        "1 1 253:0 / / rw - ext4 /dev/root rw\n",
                    );
            },
        ),
        ("md", &["nvme0n1"], "nvme0n1 is part of md127", |tree| {
            tree.write(&format!("{BLOCK}/holders/md127"), "");
        }),
        (
            "exclusive",
            &["nvme0n1"],
            "nvme0n1 is held exclusively (O_EXCL) by pid 41 (mkfs.ext4)",
            |tree| {
                tree.link("proc/41/fd/3", "/dev/nvme0n1")
                    .write("proc/41/comm", "mkfs.ext4\n");
            },
        ),
        (
            "exclusive, unseen",
            &["nvme0n1", "nvme0n1p1"],
            "nvme0n1p1 is held exclusively (O_EXCL) by somebody that cannot be seen from here",
            |_| {},
        ),
        ("generic", &[], "ng0n1 is open in pid 9 (fio)", |tree| {
            tree.link("proc/9/fd/7", "/dev/ng0n1")
                .write("proc/9/comm", "fio\n");
        }),
        ("open", &[], "nvme0n1p1 is open in pid 9 (qemu)", |tree| {
            tree.link("proc/9/fd/7", "/dev/nvme0n1p1")
                .write("proc/9/comm", "qemu\n");
        }),
    ];
    for (name, claimed, said, change) in changes {
        let tree = Tree::new();
        change(&tree);
        let claimed = claimed.to_vec();
        let mut kernel = Kernel::of(&tree);
        kernel.claimed = claimed.clone();
        let refused = bound(&mut kernel, &[DISK]).unwrap_err();
        assert!(
            refused.starts_with("in-use: 0000:01:00.0 is in use: "),
            "{name}: {refused}"
        );
        assert!(refused.contains(said), "{name}: {refused}");
        assert!(
            !refused.contains("; "),
            "{name}: one use, told once: {refused}"
        );
        assert_eq!(kernel.writes(), <[&str; 0]>::default(), "{name}");
        let mut kernel = Kernel::of(&tree);
        kernel.claimed = claimed;
        let warned = bound(&mut kernel, &[DISK, "--force"]).unwrap();
        assert_eq!(warned.len(), 1, "{name}: {warned:?}");
        assert!(
            warned[0].contains(said) && warned[0].contains(": "),
            "{warned:?}"
        );
        assert_eq!(tree.driver(DISK).as_deref(), Some("vfio-pci"), "{name}");
    }
}

/// With the kernel's NVMe multipath the block device belongs to the subsystem.
#[test]
fn a_mounted_multipath_device_is_refused_for_each_of_its_paths() {
    let tree = Tree::new();
    let subsystem = "sys/class/nvme-subsystem/nvme-subsys0";
    tree.write(
        "sys/bus/pci/devices/0000:02:00.0/nvme/nvme1/nvme1c1n1/size",
        "0\n",
    )
    .write(&format!("{subsystem}/nvme1/state"), "live\n")
    .write(&format!("{subsystem}/nvme1n1/dev"), "259:9\n")
    .write(
        "proc/self/mountinfo",
        "1 1 259:9 / /m rw - xfs /dev/nvme1n1 rw\n",
    );
    let mut kernel = Kernel::of(&tree);
    let refused = bound(&mut kernel, &["02:00.0"]).unwrap_err();
    assert!(refused.contains("nvme1n1 is mounted at /m"), "{refused}");
}

/// One that is in use keeps the others of the same command from being touched, too.
#[test]
fn all_are_looked_at_before_the_first_is_bound() {
    let tree = Tree::new();
    tree.write(
        "proc/swaps",
        "Filename Type\n/dev/nvme0n1 partition 1 0 -2\n",
    );
    let mut kernel = Kernel::of(&tree);
    let refused = bound(&mut kernel, &["02:00.0", DISK]).unwrap_err();
    assert!(refused.contains("0000:01:00.0 is in use"), "{refused}");
    assert_eq!(kernel.writes(), <[&str; 0]>::default());
}

/// What is no NVMe function, has no group, shares its group or has a stranger's driver.
#[test]
fn functions_that_cannot_be_bound_are_refused() {
    type Change = fn(&Tree);
    let changes: [(&str, &str, Change); 6] = [
        (
            "address: there is no PCI function 0000:01:00.0",
            "",
            |tree| {
                fs::remove_dir_all(tree.path(FUNCTION)).unwrap();
            },
        ),
        (
            "address: 0000:01:00.0 is no NVMe controller: its class is 0x020000",
            "",
            |tree| {
                tree.write(&format!("{FUNCTION}/class"), "0x020000\n");
            },
        ),
        ("iommu: 0000:01:00.0 has no IOMMU group", "", |tree| {
            fs::remove_file(tree.path(&format!("{FUNCTION}/iommu_group"))).unwrap();
        }),
        (
            "driver: the kernel's driver vfio-pci is not loaded",
            "",
            |tree| {
                fs::remove_dir_all(tree.path("sys/bus/pci/drivers/vfio-pci")).unwrap();
            },
        ),
        (
            "iommu: 0000:01:00.0 shares IOMMU group 12 with 0000:01:00.1 (driver snd)",
            "snd",
            |tree| {
                tree.function("0000:01:00.1", "12", "snd", "0x040300");
            },
        ),
        (
            "in-use: 0000:01:00.0 has driver uio_pci_generic",
            "uio",
            |tree| {
                tree.link(
                    &format!("{FUNCTION}/driver"),
                    "../../drivers/uio_pci_generic",
                );
                tree.write("sys/bus/pci/drivers/uio_pci_generic/unbind", "");
            },
        ),
    ];
    for (said, forced, change) in changes {
        let tree = Tree::new();
        change(&tree);
        let mut kernel = Kernel::of(&tree);
        let refused = bound(&mut kernel, &[DISK]).unwrap_err();
        assert!(refused.starts_with(said), "{refused}");
        assert_eq!(kernel.writes(), <[&str; 0]>::default());
        match bound(&mut kernel, &[DISK, "--force"]) {
            Ok(warned) => assert!(
                warned.iter().any(|line| line.contains(forced)),
                "{warned:?}"
            ),
            Err(_) => assert_eq!(forced, "", "{said}"),
        }
    }
}

/// Bridges, functions without a driver and those that are bound by the same command do not count.
#[test]
fn a_group_may_hold_what_does_no_harm() {
    let tree = Tree::new();
    tree.function("0000:00:01.0", "12", "pcieport", "0x060400")
        .function("0000:01:00.1", "12", "", "0x040300")
        .function("0000:01:00.2", "12", "nvme", "0x010802");
    let mut kernel = Kernel::of(&tree);
    let refused = bound(&mut kernel, &[DISK]).unwrap_err();
    assert!(
        refused.contains("with 0000:01:00.2 (driver nvme): "),
        "{refused}"
    );
    assert_eq!(bound(&mut kernel, &[DISK, "01:00.2"]), Ok(vec![]));
    assert_eq!(tree.driver("0000:01:00.2").as_deref(), Some("vfio-pci"));
}

/// Whichever write fails, the function is with the kernel's driver afterwards, and the message
/// names the file; when taking back fails, too, it says how things are.
#[test]
fn a_step_that_fails_is_taken_back() {
    for (fails_at, file) in [
        (0, "driver_override"),
        (1, "driver/unbind"),
        (2, "drivers_probe"),
    ] {
        let tree = Tree::new();
        let mut kernel = Kernel::of(&tree);
        kernel.fails_at = Some(fails_at);
        let failed = bound(&mut kernel, &[DISK]).unwrap_err();
        assert!(failed.starts_with("sysfs: "), "{failed}");
        let path = format!(
            "could not be written to /sys/bus/pci/{}",
            match fails_at {
                2 => file.to_owned(),
                _ => format!("devices/{DISK}/{file}"),
            }
        );
        assert!(failed.contains(&path), "{failed}");
        assert_eq!(tree.driver(DISK).as_deref(), Some("nvme"), "{failed}");
        assert!(
            matches!(tree.chosen(DISK).trim(), "" | "(null)"),
            "{failed}"
        );
        assert_eq!(
            failed.ends_with("it is as it was before"),
            fails_at > 0,
            "{failed}"
        );
    }
    let tree = Tree::new();
    let mut kernel = Kernel::of(&tree);
    kernel.refuses_vfio = true;
    let failed = bound(&mut kernel, &[DISK]).unwrap_err();
    assert!(
        failed.contains("vfio-pci did not take it") && failed.contains("as it was"),
        "{failed}"
    );
    assert_eq!(tree.driver(DISK).as_deref(), Some("nvme"));

    let tree = Tree::new();
    let mut kernel = Kernel::of(&tree);
    (kernel.fails_at, kernel.fails_on) = (Some(2), true);
    let failed = bound(&mut kernel, &["02:00.0"]).unwrap_err();
    assert!(
        failed.contains("could not be put back") && failed.ends_with("it has no driver now"),
        "{failed}"
    );

    let tree = Tree::new();
    let mut kernel = Kernel::of(&tree);
    kernel.fails_at = Some(4);
    let failed = bound(&mut kernel, &["02:00.0", DISK]).unwrap_err();
    assert!(failed.ends_with("bound by then: 0000:02:00.0"), "{failed}");
    assert_eq!(tree.driver(DISK).as_deref(), Some("nvme"));
}

/// Someone without the right to look at a block device is not told that nobody uses it.
#[test]
fn what_cannot_be_seen_is_not_free() {
    let tree = Tree::new();
    let mut kernel = Kernel::of(&tree);
    kernel.claim_fails = Some(rustix::io::Errno::ACCESS.raw_os_error());
    let refused = bound(&mut kernel, &[DISK]).unwrap_err();
    assert!(refused.contains("in use cannot be seen"), "{refused}");
    tree.write(
        "proc/swaps",
        "Filename Type\n/dev/nvme0n1 partition 1 0 -2\n",
    );
    let refused = bound(&mut kernel, &[DISK]).unwrap_err();
    assert!(refused.contains("swapped on"), "{refused}");
}

/// A container has a `/dev` of its own: without the disk's node, or with something else in its
/// place, nothing is known of the disk, least of all that nobody uses it. The same of a partition,
/// and of a disk whose number sysfs does not tell.
#[test]
fn a_disk_without_its_own_node_is_not_free() {
    type Change = fn(&Tree);
    let changes: [(&str, Change); 7] = [
        ("there is no /dev/nvme0n1 here", |tree| {
            fs::remove_file(tree.path("dev/nvme0n1")).unwrap();
        }),
        ("there is no /dev/nvme0n1p1 here", |tree| {
            fs::remove_file(tree.path("dev/nvme0n1p1")).unwrap();
        }),
        ("/dev/nvme0n1 is not the node of a block device", |tree| {
            tree.write("dev/nvme0n1", "an image that somebody copied\n");
        }),
        ("/dev/nvme0n1p1 is not the node of a block device", |tree| {
            tree.write("dev/nvme0n1p1", "char 1:3");
        }),
        (
            "/dev/nvme0n1 is the node of another device: 8:0, where nvme0n1 is 259:0",
            |tree| {
                tree.write("dev/nvme0n1", "block 8:0");
            },
        ),
        (
            "/dev/nvme0n1p1 is the node of another device: 259:0, where nvme0n1p1 is 259:1",
            |tree| {
                tree.write("dev/nvme0n1p1", "block 259:0");
            },
        ),
        ("sysfs does not tell the number of nvme0n1, so", |tree| {
            tree.write(&format!("{BLOCK}/dev"), "");
        }),
    ];
    for (said, change) in changes {
        let tree = Tree::new();
        change(&tree);
        let mut kernel = Kernel::of(&tree);
        let refused = bound(&mut kernel, &[DISK]).unwrap_err();
        let whole =
            format!("file: {DISK}: whether its block devices are in use cannot be seen: {said}");
        assert!(refused.starts_with(&whole), "{refused}");
        assert_eq!(kernel.writes(), <[&str; 0]>::default(), "{said}");
        let warned = bound(&mut kernel, &[DISK, "--force"]).unwrap();
        assert_eq!(warned.len(), 1, "{warned:?}");
        assert!(warned[0].contains(said), "{warned:?}");
        assert_eq!(tree.driver(DISK).as_deref(), Some("vfio-pci"), "{said}");
    }
    // A path of a multipath device has neither node nor number, and nobody can open it.
    let tree = Tree::new();
    fs::remove_file(tree.path("dev/nvme0n1")).unwrap();
    tree.write(&format!("{BLOCK}/hidden"), "1\n");
    assert_eq!(bound(&mut Kernel::of(&tree), &[DISK]), Ok(vec![]));
    // A use that can be seen is what is told, and both are overridden by --force.
    let tree = Tree::new();
    fs::remove_file(tree.path("dev/nvme0n1")).unwrap();
    tree.write(
        "proc/swaps",
        "Filename Type\n/dev/nvme0n1p1 partition 1 0 -2\n",
    );
    let mut kernel = Kernel::of(&tree);
    let refused = bound(&mut kernel, &[DISK]).unwrap_err();
    assert!(refused.contains("nvme0n1p1 is swapped on"), "{refused}");
    let warned = bound(&mut kernel, &[DISK, "--force"]).unwrap();
    assert_eq!(warned.len(), 2, "{warned:?}");
}

/// In a PID namespace of its own a command does not see who else has a disk open, and says so.
#[test]
fn processes_that_a_namespace_hides_are_warned_of() {
    for (namespace, count) in [("pid:[4026531836]", 0), ("pid:[4026532277]", 1)] {
        let tree = Tree::new();
        tree.link("proc/self/ns/pid", namespace);
        let warned = bound(&mut Kernel::of(&tree), &[DISK]).unwrap();
        assert_eq!(warned.len(), count, "{namespace}: {warned:?}");
        let without_disk = bound(&mut Kernel::of(&tree), &["02:00.0"]);
        assert_eq!(without_disk, Ok(vec![]), "{namespace}");
    }
}

/// Back to the kernel: nobody is special any more, away from vfio-pci, who wants it. Twice is once.
#[test]
fn functions_are_given_back() {
    let tree = Tree::new();
    bound(&mut Kernel::of(&tree), &[DISK, "02:00.0"]).unwrap();
    let mut kernel = Kernel::of(&tree);
    assert_eq!(
        returned(&mut kernel, &[DISK]),
        Ok(vec![format!("{DISK} nvme")])
    );
    assert_eq!(
        kernel.writes(),
        [
            "devices/0000:01:00.0/driver_override <- ",
            "devices/0000:01:00.0/driver/unbind <- 0000:01:00.0",
            "drivers_probe <- 0000:01:00.0",
        ]
    );
    let mut kernel = Kernel::of(&tree);
    assert_eq!(
        returned(&mut kernel, &["--all"]),
        Ok(vec!["0000:02:00.0 nvme".to_owned()])
    );
    let mut kernel = Kernel::of(&tree);
    assert_eq!(returned(&mut kernel, &["--all"]), Ok(vec![]));
    assert_eq!(
        returned(&mut kernel, &[DISK]),
        Ok(vec![format!("{DISK} nvme")])
    );
    assert_eq!(kernel.writes(), <[&str; 0]>::default());
}

/// What an interrupted command left is put right by the next one.
#[test]
fn what_was_left_half_done_is_finished() {
    let tree = Tree::new();
    tree.write(&format!("{FUNCTION}/driver_override"), "vfio-pci\n");
    fs::remove_file(tree.path(&format!("{FUNCTION}/driver"))).unwrap();
    assert_eq!(
        returned(&mut Kernel::of(&tree), &[DISK]),
        Ok(vec![format!("{DISK} nvme")])
    );
    tree.write(&format!("{FUNCTION}/driver_override"), "vfio-pci\n");
    assert_eq!(bound(&mut Kernel::of(&tree), &[DISK]), Ok(vec![]));
    assert_eq!(tree.driver(DISK).as_deref(), Some("vfio-pci"));
}

/// The kernel would wait for a process that has the function open, so that is refused, by name.
#[test]
fn one_that_a_process_drives_is_not_given_back_without_force() {
    let tree = Tree::new();
    bound(&mut Kernel::of(&tree), &[DISK]).unwrap();
    tree.link("proc/50/fd/4", "/dev/vfio/12")
        .write("proc/50/comm", "underpin-fio\n");
    // This command inherits what its shell has open, and is no reason to wait.
    fs::remove_dir_all(tree.path("proc/self")).unwrap();
    tree.link("proc/self", "51")
        .link("proc/51/fd/4", "/dev/vfio/12");
    let mut kernel = Kernel::of(&tree);
    let refused = returned(&mut kernel, &["--all"]).unwrap_err();
    assert_eq!(
        refused,
        "in-use: 0000:01:00.0 is in use: pid 50 (underpin-fio) has its VFIO node open"
    );
    assert_eq!(kernel.writes(), <[&str; 0]>::default());
    assert!(returned(&mut kernel, &[DISK, "--force"]).is_ok());
}

/// A function that could not be let go keeps its choice; one that nobody wants is told.
#[test]
fn giving_back_that_fails_says_how_things_are() {
    let tree = Tree::new();
    bound(&mut Kernel::of(&tree), &[DISK]).unwrap();
    let mut kernel = Kernel::of(&tree);
    kernel.fails_at = Some(1);
    let failed = returned(&mut kernel, &[DISK]).unwrap_err();
    assert!(failed.ends_with("it is as it was before"), "{failed}");
    assert_eq!(tree.chosen(DISK).trim(), "vfio-pci");
    let mut kernel = Kernel::of(&tree);
    kernel.fails_at = Some(2);
    let failed = returned(&mut kernel, &[DISK]).unwrap_err();
    assert!(failed.ends_with("it has no driver now"), "{failed}");
    tree.link(
        &format!("{FUNCTION}/driver"),
        "../../drivers/uio_pci_generic",
    );
    let refused = returned(&mut Kernel::of(&tree), &[DISK]).unwrap_err();
    assert!(refused.contains("has driver uio_pci_generic"), "{refused}");
}
