//! `underpin doctor` on trees: a machine on which all is well, and each that differs from it by one
//! file. `underpin bind` and `unbind` as commands, on trees that change nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use support::{Run, run};
use tempfile::TempDir;

const GIB: &str = "1073741824";

/// A machine: sys, proc and dev below a directory.
struct Machine(TempDir);

impl Machine {
    /// Two NVMe functions in groups of their own: one bound to vfio-pci and given to the user, one
    /// with the kernel. An ordinary user with a gigabyte of locked memory.
    fn good() -> Self {
        let machine = Self(TempDir::new().unwrap());
        machine
            .function("0000:01:00.0", "0x010802", "12", "vfio-pci")
            .function("0000:02:00.0", "0x010802", "13", "nvme")
            .function("0000:01:00.1", "0x040300", "12", "")
            .function("0000:02:01.0", "0x020000", "13", "")
            .function("0000:00:01.0", "0x060400", "12", "pcieport");
        let node = machine.write("dev/vfio/12", "").path("dev/vfio/12");
        machine.write("dev/vfio/vfio", "");
        fs::set_permissions(&node, fs::Permissions::from_mode(0o600)).unwrap();
        let all = fs::Permissions::from_mode(0o666);
        fs::set_permissions(machine.path("dev/vfio/vfio"), all).unwrap();
        // Whoever runs the tests owns the node.
        let four = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
        let (uid, gid) = (four(node.metadata().unwrap().uid()), four(4_000_000));
        let none = "CapEff:\t0000000000000000";
        let status = format!("Name:\tunderpin\nUid:\t{uid}\nGid:\t{gid}\n{none}\n");
        machine
            .write("proc/self/status", status)
            .limits(GIB, GIB)
            .write("proc/self/cgroup", "0::/user.slice/session\n")
            .write("proc/cpuinfo", "vendor_id\t: GenuineIntel\n")
            .write("proc/cmdline", "root=/dev/vda intel_iommu=on quiet\n")
            .write(
                "proc/interrupts",
                "  0:  9  IR-IO-APIC  2-edge  timer\n 24: 1  IR-PCI-MSIX-0000:02:00.0 nvme0q0\n",
            )
            .write("sys/bus/pci/drivers/vfio-pci/bind", "")
            .write("sys/bus/pci/drivers_probe", "")
            .write(
                "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
                "N\n",
            )
            .write("sys/fs/cgroup/memory.stat", "")
            .write("sys/fs/cgroup/user.slice/memory.max", "max\n")
            .write("sys/fs/cgroup/user.slice/pids.max", "4096\n")
            .write("sys/fs/cgroup/user.slice/pids.current", "100\n")
            .write(
                "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
                "0\n",
            );
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
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

    fn function(&self, address: &str, class: &str, group: &str, driver: &str) -> &Self {
        let at = format!("sys/bus/pci/devices/{address}");
        let above = "../../../..";
        self.write(&format!("{at}/class"), format!("{class}\n"))
            .link(
                &format!("{at}/iommu_group"),
                &format!("{above}/kernel/iommu_groups/{group}"),
            )
            .link(
                &format!("sys/kernel/iommu_groups/{group}/devices/{address}"),
                &format!("{above}/bus/pci/devices/{address}"),
            );
        if !driver.is_empty() {
            self.link(&format!("{at}/driver"), &format!("../../drivers/{driver}"));
        }
        self
    }

    fn limits(&self, soft: &str, hard: &str) -> &Self {
        let text = format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max open files            1024                 4096                 files     \n\
             Max locked memory         {soft:<20} {hard:<20} bytes     \n"
        );
        self.write("proc/self/limits", text)
    }

    fn run(&self, words: &[&str]) -> Run {
        let root = self.0.path().to_str().unwrap();
        run(words.iter().copied().chain(["--sysroot", root]))
    }

    /// The checks that went so, as `CHECK: MESSAGE`, each with its next step.
    fn told(&self, verdict: &str, status: i32) -> Vec<(String, String)> {
        let answer = self.run(&["doctor", "--json"]).ends(status).json();
        assert_eq!(answer["fine"], status == 0);
        let checks = answer["checks"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let chosen = checks.iter().filter(|check| check["verdict"] == verdict);
        let told = |check: &Value| {
            let said = format!("{}: {}", text(&check["check"]), text(&check["message"]));
            (said, text(&check["hint"]))
        };
        chosen.map(told).collect()
    }
}

/// Nothing fails, nothing is warned of, and each line says what was seen.
#[test]
fn a_machine_on_which_all_is_well_passes() {
    let machine = Machine::good();
    assert_eq!(machine.told("warn", 0), []);
    assert_eq!(machine.told("fail", 0), []);
    assert_eq!(machine.told("ok", 0).len(), 11);
    let text = machine.run(&["doctor"]).ends(0).stdout;
    for said in [
        "ok    iommu: on, 2 groups",
        "bound to vfio-pci; user ",
        "11 ok, 0 to know about",
    ] {
        assert!(text.contains(said), "{said}\n{text}");
    }
}

/// Each differs from the good one by one file; that one's fault is found, by name, with its next
/// step, and no other.
#[test]
fn one_wrong_file_is_found_and_named() {
    type Change = fn(&Machine);
    let changes: [(&str, &str, Change); 14] = [
        (
            "vfio-pci: the kernel's driver vfio-pci is not loaded",
            "modprobe vfio-pci",
            |machine| {
                fs::remove_dir_all(machine.path("sys/bus/pci/drivers/vfio-pci")).unwrap();
            },
        ),
        (
            "vfio-backend: neither the kernel module vfio_iommu_type1",
            "modprobe vfio_iommu_type1",
            |machine| {
                fs::remove_dir_all(machine.path("sys/module/vfio_iommu_type1")).unwrap();
            },
        ),
        ("0000:01:00.0: it has no IOMMU group", "slot", |machine| {
            fs::remove_file(machine.path("sys/bus/pci/devices/0000:01:00.0/iommu_group")).unwrap();
        }),
        (
            "0000:01:00.0: IOMMU group 12 is not viable: it also holds 0000:01:00.1 (driver snd)",
            "give those to vfio-pci",
            |machine| {
                machine.link(
                    "sys/bus/pci/devices/0000:01:00.1/driver",
                    "../../drivers/snd",
                );
            },
        ),
        (
            "0000:01:00.0: bound to vfio-pci, but user ",
            "underpin bind 0000:01:00.0 --owner ",
            |machine| {
                let nobody = fs::Permissions::from_mode(0o066);
                fs::set_permissions(machine.path("dev/vfio/12"), nobody).unwrap();
            },
        ),
        (
            "0000:01:00.0: bound to vfio-pci, but there is no /dev/vfio/12",
            "--device /dev/vfio/12",
            |machine| {
                fs::remove_file(machine.path("dev/vfio/12")).unwrap();
            },
        ),
        (
            "vfio-node: there is neither /dev/vfio/vfio",
            "--device /dev/vfio/vfio",
            |machine| {
                fs::remove_file(machine.path("dev/vfio/vfio")).unwrap();
            },
        ),
        ("vfio-node: user ", "chmod 666 /dev/vfio/vfio", |machine| {
            let nobody = fs::Permissions::from_mode(0o066);
            fs::set_permissions(machine.path("dev/vfio/vfio"), nobody).unwrap();
        }),
        (
            "memlock: 64 KiB may be pinned",
            "LimitMEMLOCK=infinity",
            |machine| {
                machine.limits("65536", "65536");
            },
        ),
        (
            "memlock: 64 KiB may be pinned",
            "ulimit -l $(ulimit -H -l)",
            |machine| {
                machine.limits("65536", "unlimited");
            },
        ),
        (
            "cgroup-memory: 8 MiB for all processes",
            "MemoryMax=",
            |machine| {
                machine.write("sys/fs/cgroup/user.slice/memory.max", "8388608\n");
            },
        ),
        ("cgroup-pids: 1 more threads", "TasksMax=", |machine| {
            machine.write("sys/fs/cgroup/user.slice/pids.max", "101\n");
        }),
        ("interrupt-remapping: off", "intremap=on", |machine| {
            machine.write("proc/interrupts", " 0: 9 IO-APIC 2-edge timer\n");
        }),
        (
            "memlock: 16 KiB may be pinned",
            "security/limits.d",
            |machine| {
                machine.limits("16384", "banana");
            },
        ),
    ];
    for (said, next, change) in changes {
        let machine = Machine::good();
        change(&machine);
        let failed = machine.told("fail", 1);
        assert_eq!(failed.len(), 1, "{said}: {failed:?}");
        assert!(failed[0].0.starts_with(said), "{said}: {failed:?}");
        assert!(failed[0].1.contains(next), "{next}: {failed:?}");
        assert_eq!(machine.told("warn", 1), [], "{said}");
        let run = machine.run(&["doctor"]).ends(1);
        let lines: Vec<_> = run.stdout.lines().collect();
        let at = lines
            .iter()
            .position(|line| line.starts_with("FAIL"))
            .unwrap();
        assert!(lines[at + 1].starts_with("        try: "), "{}", run.stdout);
        assert_eq!(run.stderr, "", "what is wrong is the answer");
    }
}

/// What switches an IOMMU on depends on the processor and on what the kernel was told.
#[test]
fn an_iommu_that_is_off_has_its_reason() {
    for (processor, command_line, next) in [
        ("GenuineIntel", "quiet", "add intel_iommu=on"),
        ("GenuineIntel", "intel_iommu=on,sm_on", "switch VT-d on"),
        ("GenuineIntel", "intel_iommu=off", "take intel_iommu=off"),
        ("AuthenticAMD", "quiet", "switch AMD-Vi (IOMMU) on"),
        ("AuthenticAMD", "amd_iommu=off", "take amd_iommu=off"),
        ("", "iommu=off", "take iommu=off"),
        ("", "", "switch the IOMMU on"),
    ] {
        let machine = Machine::good();
        fs::remove_dir_all(machine.path("sys/kernel/iommu_groups")).unwrap();
        machine
            .write("proc/cpuinfo", format!("vendor_id\t: {processor}\n"))
            .write("proc/cmdline", format!("{command_line}\n"));
        let failed = machine.told("fail", 1);
        assert_eq!(failed.len(), 1, "one cause, told once: {failed:?}");
        assert!(failed[0].0.starts_with("iommu: off"), "{failed:?}");
        assert!(failed[0].1.starts_with(next), "{next}: {failed:?}");
    }
}

/// What one may do without is no failure: interrupts that somebody allowed to be unsafe, little
/// memory, hugepages, functions that the kernel has, none at all.
#[test]
fn what_is_not_needed_does_not_fail() {
    type Change = fn(&Machine);
    let changes: [(&str, Change); 8] = [
        ("interrupt-remapping: off, and VFIO was told", |machine| {
            machine
                .write("proc/interrupts", " 0: 9 IO-APIC 2-edge timer\n")
                .write(
                    "sys/module/iommufd/parameters/allow_unsafe_interrupts",
                    "Y\n",
                );
        }),
        ("interrupt-remapping: off, and VFIO was told", |machine| {
            machine
                .write("proc/interrupts", " 0: 9 IO-APIC 2-edge timer\n")
                .write(
                    "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
                    "Y\n",
                );
        }),
        ("interrupt-remapping: cannot be seen", |machine| {
            fs::remove_file(machine.path("proc/interrupts")).unwrap();
        }),
        ("memlock: 16 MiB may be pinned", |machine| {
            machine.limits("16777216", "16777216");
        }),
        ("cgroup-memory: 64 MiB", |machine| {
            machine
                .write("proc/self/cgroup", "4:cpu,memory:/a/b\n0::/\n")
                .write(
                    "sys/fs/cgroup/cpu,memory/a/memory.limit_in_bytes",
                    "67108864\n",
                )
                .write(
                    "sys/fs/cgroup/cpu,memory/memory.limit_in_bytes",
                    "9223372036854771712\n",
                );
        }),
        (
            "0000:02:00.0: with the kernel's driver nvme; its IOMMU group 13 also holds",
            |machine| {
                machine.link(
                    "sys/bus/pci/devices/0000:02:01.0/driver",
                    "../../drivers/e1000e",
                );
            },
        ),
        (
            "0000:02:00.0: bound to vfio-pci, but there is no /dev/vfio/13",
            |machine| {
                machine.link(
                    "sys/bus/pci/devices/0000:02:00.0/driver",
                    "../../drivers/vfio-pci",
                );
            },
        ),
        ("functions: there is no NVMe function", |machine| {
            for address in ["0000:01:00.0", "0000:02:00.0"] {
                machine.write(
                    &format!("sys/bus/pci/devices/{address}/class"),
                    "0x020000\n",
                );
            }
        }),
    ];
    for (said, change) in changes {
        let machine = Machine::good();
        change(&machine);
        let warned = machine.told("warn", 0);
        assert_eq!(warned.len(), 1, "{said}: {warned:?}");
        assert!(
            warned[0].0.starts_with(said) && !warned[0].1.is_empty(),
            "{warned:?}"
        );
    }
    let machine = Machine::good();
    machine
        .write(
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            "512\n",
        )
        .write("dev/iommu", "")
        .limits("unlimited", "unlimited");
    assert_eq!(machine.told("warn", 0), []);
    let text = machine.run(&["doctor"]).ends(0).stdout;
    assert!(
        text.contains("512 of 2048kB; none needed") && text.contains("and iommufd"),
        "{text}"
    );
}

/// Capabilities lift the limits that they lift.
#[test]
fn root_may_open_and_pin_what_it_likes() {
    let machine = Machine::good();
    machine
        .write(
            "proc/self/status",
            "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n",
        )
        .limits("65536", "65536");
    let nobody = fs::Permissions::from_mode(0o000);
    fs::set_permissions(machine.path("dev/vfio/12"), nobody).unwrap();
    assert_eq!(machine.told("fail", 0), []);
}

/// In a user namespace, as in a rootless container, root's capabilities count for what belongs to
/// the namespace: not for the limit on locked memory, and not for nodes of the host's users.
#[test]
fn capabilities_in_a_user_namespace_are_not_believed() {
    let root = "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n";
    let map = "         0       1000          1\n         1     100000      65536\n";
    let machine = Machine::good();
    machine.write("proc/self/status", root);
    machine.limits("65536", "65536");
    machine.write("proc/self/uid_map", "         0          0 4294967295\n");
    machine.link("proc/self/ns/user", "user:[4026531837]");
    assert_eq!(machine.told("fail", 0), [], "the kernel's first namespace");
    machine.write("proc/self/uid_map", map);
    let said = "memlock: 64 KiB may be pinned (RLIMIT_MEMLOCK; CAP_IPC_LOCK does not lift it in a \
                user namespace); a device needs 4 MiB at least";
    let failed = machine.told("fail", 1);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0].0, said);
    // One whose map is the identity is none the less not the first.
    machine.write("proc/self/uid_map", "         0          0 4294967295\n");
    machine.link("proc/self/ns/user", "user:[4026532500]");
    assert_eq!(machine.told("fail", 1)[0].0, said);
    machine.limits(GIB, GIB);
    assert_eq!(machine.told("fail", 0), [], "the limit is what counts");
}

/// A function is opened by its group and VFIO's container, or by its own node and iommufd: half of
/// one pair and half of the other is nothing, and what each lacks is told.
#[test]
fn nodes_that_do_not_go_together_fail() {
    type Change = fn(&Machine);
    let own = |machine: &Machine| {
        let at = "sys/bus/pci/devices/0000:01:00.0/vfio-dev/vfio0/dev";
        machine.write(at, "511:0\n");
    };
    let crossed: [(&str, &str, Change); 3] = [
        (
            "/dev/vfio/vfio with /dev/vfio/12: /dev/vfio/12 is missing; /dev/iommu with \
             /dev/vfio/devices/vfio0: /dev/iommu is missing",
            "in a container: start it with --device /dev/vfio/12 or --device /dev/iommu",
            |machine| {
                fs::remove_file(machine.path("dev/vfio/12")).unwrap();
                machine.write("dev/vfio/devices/vfio0", "");
            },
        ),
        (
            "/dev/vfio/vfio with /dev/vfio/12: /dev/vfio/vfio is missing; /dev/iommu with \
             /dev/vfio/devices/vfio0: /dev/vfio/devices/vfio0 is missing",
            "in a container: start it with --device /dev/vfio/devices/vfio0 or --device \
             /dev/vfio/vfio",
            |machine| {
                fs::remove_file(machine.path("dev/vfio/vfio")).unwrap();
                machine.write("dev/iommu", "");
            },
        ),
        (
            "/dev/iommu is missing",
            "run as root: underpin bind 0000:01:00.0 --owner",
            |machine| {
                let nobody = fs::Permissions::from_mode(0o066);
                fs::set_permissions(machine.path("dev/vfio/12"), nobody).unwrap();
                machine.write("dev/vfio/devices/vfio0", "");
            },
        ),
    ];
    for (said, next, change) in crossed {
        let machine = Machine::good();
        own(&machine);
        change(&machine);
        let failed = machine.told("fail", 1);
        assert_eq!(failed.len(), 1, "{failed:?}");
        let start = "0000:01:00.0: bound to vfio-pci, but the nodes that user ";
        assert!(failed[0].0.starts_with(start), "{failed:?}");
        assert!(failed[0].0.contains(said), "{said}: {failed:?}");
        assert!(failed[0].1.starts_with(next), "{next}: {failed:?}");
    }
    // A kernel that has no node for the function alone: the group is the only way.
    let machine = Machine::good();
    fs::remove_file(machine.path("dev/vfio/vfio")).unwrap();
    machine
        .write("dev/iommu", "")
        .write("sys/bus/pci/devices/0000:01:00.0/vfio-dev/vfio0/power", "");
    let failed = machine.told("fail", 1);
    assert_eq!(failed.len(), 1, "{failed:?}");
    let said = "/dev/vfio/vfio with /dev/vfio/12: /dev/vfio/vfio is missing";
    assert!(failed[0].0.ends_with(said), "{failed:?}");
    // The node that is missing is the one that fits what is there.
    own(&machine);
    fs::remove_file(machine.path("dev/vfio/12")).unwrap();
    let failed = machine.told("fail", 1);
    let said = "0000:01:00.0: bound to vfio-pci, but there is no /dev/vfio/devices/vfio0";
    assert_eq!(
        (failed.len(), failed[0].0.as_str()),
        (1, said),
        "{failed:?}"
    );
    // Either pair alone will do.
    let machine = Machine::good();
    own(&machine);
    assert_eq!(machine.told("fail", 0), []);
    machine
        .write("dev/iommu", "")
        .write("dev/vfio/devices/vfio0", "");
    fs::remove_file(machine.path("dev/vfio/12")).unwrap();
    fs::remove_file(machine.path("dev/vfio/vfio")).unwrap();
    assert_eq!(machine.told("fail", 0), []);
    let text = machine.run(&["doctor"]).ends(0).stdout;
    assert!(text.contains("may use /dev/vfio/devices/vfio0"), "{text}");
}

/// Files of any content, links in a circle and to nowhere, directories for files: each in the place
/// of every file that is read. No command ends by itself in another way than its own.
#[test]
fn trees_that_no_kernel_made_are_looked_at_without_harm() {
    let mut paths = Vec::new();
    let good = Machine::good();
    let mut folders = vec![good.path("")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
            let path = entry.path();
            paths.push(
                path.strip_prefix(good.path(""))
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
            );
        }
    }
    assert!(paths.len() > 40, "{paths:?}");
    let swaps = "proc/swaps";
    let mounts = "proc/self/mountinfo";
    let holders = "sys/bus/pci/devices/0000:02:00.0/nvme/nvme0/nvme0n1/holders/dm-0";
    let number = "sys/bus/pci/devices/0000:02:00.0/nvme/nvme0/nvme0n1/dev";
    paths.extend([swaps, mounts, holders, number].map(str::to_owned));
    paths.sort();
    let binary: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let escapes =
        b"\x1b]0;owned\x07 \xe2\x80\xae:99999999999999999999 -\\777 -\n:::\n0::/../../x\n";
    for (at, path) in paths.iter().enumerate() {
        let machine = Machine::good();
        machine
            .write(number, "259:0\n")
            .write(swaps, "head\n")
            .write(mounts, "");
        let place = machine.path(path);
        if place.is_dir() && !place.is_symlink() {
            fs::remove_dir_all(&place).unwrap();
        } else {
            let _ = fs::remove_file(&place);
        }
        match at % 5 {
            0 => machine.write(path, &binary),
            1 => machine.write(path, escapes),
            2 => machine.link(path, "/nonexistent/\u{1b}[2J"),
            3 => machine.link(path, "."),
            _ => machine.write(&format!("{path}/x"), ""),
        };
        for command in [
            &["doctor"][..],
            &["bind", "02:00.0", "--owner", "1"],
            &["unbind", "01:00.0"],
            &["unbind", "--all"],
        ] {
            let run = machine.run(command);
            let what = format!(
                "{command:?} with {path} changed: {}{}",
                run.stdout, run.stderr
            );
            assert!((0..=1).contains(&run.status), "{what}");
            let is_control = |c: char| c.is_control() && c != '\n';
            assert!(
                !run.stdout.contains(is_control) && !run.stderr.contains(is_control),
                "{what}"
            );
            assert!(
                run.status == 0 || command[0] == "doctor" || run.stderr.contains("  try: "),
                "{what}"
            );
        }
    }
}

/// As commands: a wrong address or owner is status 2, a refusal 1 with a code, and a function that
/// is bound already is fine and tells how it would be at every start.
#[test]
fn bind_and_unbind_answer_as_the_others_do() {
    let machine = Machine::good();
    for words in [
        &["bind"][..],
        &["bind", "nvme0"],
        &["bind", "01:00.0", "--owner", "alice"],
        &["bind", "pci:01:00.0?ns=1"],
        &["unbind"],
        &["unbind", "01:00.0", "--all"],
    ] {
        let run = machine.run(words).ends(2);
        assert!(!run.stderr.is_empty() && run.stdout.is_empty(), "{words:?}");
    }
    machine
        .write(
            "sys/bus/pci/devices/0000:02:00.0/nvme/nvme0/nvme0n1/dev",
            "259:0\n",
        )
        .write(
            "proc/self/mountinfo",
            "1 1 259:0 / / rw - ext4 /dev/root rw\n",
        );
    let refused = machine.run(&["bind", "02:00.0", "--json"]).ends(1).json();
    assert_eq!(refused["error"]["code"], "in-use");
    let message = refused["error"]["message"].as_str().unwrap();
    assert_eq!(message, "0000:02:00.0 is in use: nvme0n1 is mounted at /");
    let node = machine.path("dev/vfio/12");
    let owner = node.metadata().unwrap().uid().to_string();
    let words = ["bind", "pci:0000:01:00.0", "--owner", &owner, "--persist"];
    let text = machine.run(&words).ends(0).stdout;
    for said in [
        "0000:01:00.0 was bound to vfio-pci already; IOMMU group 12; /dev/vfio/12 given to",
        "/etc/udev/rules.d/70-underpin.rules",
        "KERNEL==\"0000:01:00.0\", ATTR{driver_override}=\"vfio-pci\", RUN{builtin}",
        "'echo 0000:01:00.0 >/sys/bus/pci/drivers_probe'",
        "softdep nvme pre: vfio-pci",
        "Nothing was installed.",
    ] {
        assert!(text.contains(said), "{said}\n{text}");
    }
    let answer = machine
        .run(&[&words[..], &["--json"]].concat())
        .ends(0)
        .json();
    assert_eq!(
        answer["functions"][0]["nodes"],
        serde_json::json!(["/dev/vfio/12"])
    );
    assert_eq!(answer["functions"][0]["url"], "pci:0000:01:00.0");
    assert_eq!(answer["persist"].as_array().unwrap().len(), 3);
    let all = machine.run(&["unbind", "02:00.0"]).ends(0).stdout;
    assert_eq!(all, "0000:02:00.0 was with nvme already\n");
}
