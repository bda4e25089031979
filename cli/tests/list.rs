//! `underpin list`: what it reads from sysfs, whole or broken, and of devices named by URL.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod support;

use serde_json::{Value, json};
use support::{Sysfs, run};

/// A machine with a disk driven by the kernel, one given to VFIO, one without a driver, and
/// devices that are no NVMe controllers.
fn machine() -> Sysfs {
    let sysfs = Sysfs::new();
    let disk = "bus/pci/devices/0000:01:00.0";
    sysfs
        .device(
            "0000:00:00.0",
            &[
                ("class", "0x060000"),
                ("vendor", "0x8086"),
                ("device", "0x0d57"),
            ],
        )
        .device(
            "0000:00:17.0",
            &[
                ("class", "0x010601"),
                ("vendor", "0x8086"),
                ("device", "0xa102"),
            ],
        )
        .device(
            "0000:01:00.0",
            &[
                ("class", "0x010802"),
                ("vendor", "0x144d"),
                ("device", "0xa808"),
                ("numa_node", "1"),
                (
                    "nvme/nvme0/model",
                    "A Fast Disk 1TB                         ",
                ),
                ("nvme/nvme0/serial", "S5GXNX0T"),
                ("nvme/nvme0/firmware_rev", "5B2QGXA7"),
                ("nvme/nvme0/nvme0n1/size", "1953525168"),
                ("nvme/nvme0/nvme0n1/nvme0n1p1/size", "2048"),
                ("nvme/nvme0/ng0n1/dev", "241:0"),
            ],
        )
        .link(
            &format!("{disk}/driver"),
            "../../../../bus/pci/drivers/nvme",
        )
        .link(
            &format!("{disk}/iommu_group"),
            "../../../../kernel/iommu_groups/12",
        )
        .device(
            "0000:02:00.0",
            &[
                ("class", "0x010802"),
                ("vendor", "0x1b36"),
                ("device", "0x0010"),
                ("numa_node", "-1"),
            ],
        )
        .link("bus/pci/devices/0000:02:00.0/driver", "../drivers/vfio-pci")
        .device(
            "0000:03:00.0",
            &[
                ("class", "0x010803"),
                ("vendor", "0x1b36"),
                ("device", "0x0010"),
            ],
        )
        // NVMHCI: flash with other registers.
        .device("0000:04:00.0", &[("class", "0x010801")]);
    sysfs
}

#[test]
fn every_nvme_controller_is_listed_with_what_sysfs_says() {
    let found = machine().list(&["--json"]).ends(0).json();
    assert_eq!(found["pci_problem"], Value::Null);
    assert_eq!(found["devices"], json!([]));
    assert_eq!(
        found["pci"][0],
        json!({
            "address": "0000:01:00.0",
            "class": "0x010802",
            "vendor_id": "0x144d",
            "device_id": "0xa808",
            "model": "A Fast Disk 1TB",
            "serial": "S5GXNX0T",
            "firmware": "5B2QGXA7",
            "driver": "nvme",
            "iommu_group": "12",
            "numa_node": 1,
            "block_devices": [{ "name": "nvme0n1", "len_bytes": 1_953_525_168_u64 * 512 }],
        })
    );
    let rest = &found["pci"].as_array().unwrap()[1..];
    assert_eq!(
        rest.len(),
        2,
        "both interfaces of NVMe count, other classes do not"
    );
    assert_eq!(
        (&rest[0]["driver"], &rest[0]["numa_node"]),
        (&json!("vfio-pci"), &Value::Null)
    );
    assert_eq!(
        (&rest[1]["driver"], &rest[1]["class"]),
        (&Value::Null, &json!("0x010803"))
    );
}

#[test]
fn the_table_has_a_line_for_each_and_no_escape_codes() {
    let run = machine().list(&[]).ends(0);
    let line = run
        .stdout
        .lines()
        .find(|line| line.contains("0000:01:00.0"))
        .unwrap();
    for cell in [
        "144d:a808",
        "nvme",
        "12",
        "A Fast Disk 1TB",
        "nvme0n1 (931.5 GiB)",
    ] {
        assert!(line.contains(cell), "{cell} in {line}");
    }
    assert_eq!(
        run.stdout
            .lines()
            .filter(|line| line.contains("0000:0"))
            .count(),
        3
    );
    assert!(
        !run.stdout.contains('\x1b'),
        "standard output is not a terminal here"
    );
}

/// With NVMe multipath the block device belongs to the subsystem, and the controller has a
/// hidden path only.
#[test]
fn a_multipath_block_device_is_found() {
    let sysfs = Sysfs::new();
    let path = "nvme/nvme3/nvme2c3n1/size";
    let host = "../../../bus/pci/devices/0000:01:00.0/nvme/nvme3";
    sysfs
        .device("0000:01:00.0", &[("class", "0x010802"), (path, "8")])
        .write("class/nvme-subsystem/nvme-subsys2/nvme2n1/size", "4096\n")
        .link("class/nvme-subsystem/nvme-subsys2/nvme3", host)
        .write("class/nvme-subsystem/nvme-subsys9/nvme9n1/size", "4096\n");
    let found = sysfs.list(&["--json"]).ends(0).json();
    assert_eq!(
        found["pci"][0]["block_devices"],
        json!([{ "name": "nvme2n1", "len_bytes": 4096 * 512 }])
    );
}

#[test]
fn a_machine_without_nvme_is_told_how_to_try() {
    let sysfs = Sysfs::new();
    sysfs.device("0000:00:00.0", &[("class", "0x060000")]);
    let run = sysfs.list(&[]).ends(0);
    assert!(run.stdout.contains("No NVMe controller"), "{}", run.stdout);
    assert!(
        run.stdout.contains("underpin identify emu:size=1g"),
        "{}",
        run.stdout
    );
    assert_eq!(sysfs.list(&["--json"]).ends(0).json()["pci"], json!([]));
}

/// A container often has no PCI bus in its sysfs; that is worth a sentence, not a failure.
#[test]
fn a_sysfs_without_a_pci_bus_is_said_to_be_one() {
    let empty = tempfile::TempDir::new().unwrap();
    let root = empty.path().to_str().unwrap();
    let found = run(["list", "--json", "--sysfs", root]).ends(0).json();
    assert!(
        found["pci_problem"]
            .as_str()
            .unwrap()
            .contains("no PCI bus")
    );
    assert!(
        run(["list", "--sysfs", root])
            .ends(0)
            .stdout
            .contains("no PCI bus")
    );
    let run = run(["list", "--sysfs", "/nonexistent/sys"]).ends(2);
    assert!(
        run.stderr.contains("/nonexistent/sys") && run.stdout.is_empty(),
        "{}",
        run.stderr
    );
}

/// Attributes that are missing, empty, huge, no text, no files, links in a circle: what can be
/// read is shown, the rest is left out, and nothing reaches the terminal that could control it.
#[test]
fn a_broken_tree_is_read_as_far_as_it_goes() {
    let sysfs = Sysfs::new();
    let at = |address: &str, name: &str| format!("bus/pci/devices/{address}/{name}");
    sysfs
        .write(&at("0000:01:00.0", "vendor"), "0x144d\n")
        .write(&at("0000:02:00.0", "class"), "")
        .write(&at("0000:03:00.0", "class"), "0xzz0802\n")
        .write(&at("0000:04:00.0", "class/not-a-file"), "")
        .link(&at("0000:05:00.0", "class"), "class")
        .link("bus/pci/devices/0000:06:00.0", "/nonexistent/device")
        .write(
            "bus/pci/devices/0000:07:00.0",
            "a file where a directory should be",
        )
        .device(
            "0000:08:00.0",
            &[
                ("class", "0x010802"),
                ("vendor", "0x1234567"),
                ("device", "banana"),
                ("numa_node", "many"),
                ("nvme/nvme0/model", "evil\x1b]0;owned\x07\u{202e} model"),
                ("nvme/nvme0/nvme0n1/size", "99999999999999999999999"),
                ("nvme/nvme0/nvme0n2/size", "18446744073709551615"),
            ],
        )
        .link(&at("0000:08:00.0", "driver"), "..")
        .write(
            &at("0000:08:00.0", "iommu_group"),
            "a file where a link should be",
        )
        .write(&at("0000:09:00.0", "class"), "0x010802\n")
        .write(
            &at("0000:09:00.0", "nvme"),
            "a file where a directory should be",
        )
        .write(&at("0000:09:00.0", "device"), vec![b'0'; 1 << 20]);
    let found = sysfs.list(&["--json"]).ends(0).json();
    let addresses: Vec<_> = found["pci"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["address"])
        .collect();
    assert_eq!(addresses, ["0000:08:00.0", "0000:09:00.0"]);
    let broken = &found["pci"][0];
    for name in [
        "vendor_id",
        "device_id",
        "numa_node",
        "iommu_group",
        "serial",
    ] {
        assert_eq!(broken[name], Value::Null, "{name}");
    }
    assert!(
        broken["model"]
            .as_str()
            .unwrap()
            .starts_with("evil\\x1b]0;owned\\x07")
    );
    assert_eq!(
        broken["block_devices"],
        json!([{ "name": "nvme0n1", "len_bytes": null }, { "name": "nvme0n2", "len_bytes": null }])
    );
    let text = sysfs.list(&[]).ends(0).stdout;
    assert!(text.contains("????:????"), "{text}");
    assert_eq!(text.chars().find(|&c| c.is_control() && c != '\n'), None);
    assert!(text.is_ascii());
}

#[test]
fn devices_named_by_url_are_opened() {
    let sysfs = Sysfs::new();
    let urls = [
        "emu:size=8m",
        "emu:ns=2,size=4m,ns2.lba=4096",
        "emu:ns=2,size=4m?ns=2",
    ];
    let found = sysfs
        .list(&[&["--json"][..], &urls].concat())
        .ends(0)
        .json();
    let devices = found["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 3);
    for (device, url) in devices.iter().zip(urls) {
        assert_eq!(device["url"], url);
        for field in ["model", "serial", "firmware", "version"] {
            assert!(
                !device[field].as_str().unwrap().is_empty(),
                "{field} of {url}"
            );
        }
    }
    assert_eq!(
        devices[0]["namespaces"],
        json!([{ "nsid": 1, "len_bytes": 8 << 20, "blocks": 16384, "lba_bytes": 512, "unusable": null }])
    );
    assert_eq!(devices[1]["namespaces"][1]["lba_bytes"], 4096);
    assert_eq!(devices[2]["namespaces"].as_array().unwrap().len(), 1);
    assert_eq!(devices[2]["namespaces"][0]["nsid"], 2);
    let text = sysfs.list(&urls).ends(0).stdout;
    assert!(
        text.contains("8 MiB") && text.contains("1024 blocks of 4096 bytes"),
        "{text}"
    );
    assert!(
        !text.contains("needs no device"),
        "whoever names one needs no advice: {text}"
    );
}

/// One device that fails does not hide the others; it is told on standard error and by status 1.
#[test]
fn a_device_that_fails_is_told_and_the_others_are_listed() {
    let sysfs = Sysfs::new();
    let urls = [
        "emu:size=4m?ns=7",
        "emu:size=4m",
        "emu:file=/nonexistent/dir/disk,size=4m",
    ];
    let run = sysfs.list(&[&["--json"][..], &urls].concat()).ends(1);
    let found = run.json();
    assert!(
        found["devices"][0]["error"]["message"]
            .as_str()
            .unwrap()
            .contains("no namespace 7")
    );
    assert_eq!(found["devices"][1]["namespaces"][0]["len_bytes"], 4 << 20);
    assert!(
        found["devices"][2]["error"]["message"]
            .as_str()
            .unwrap()
            .contains("/nonexistent/dir/disk")
    );
    assert_eq!(
        run.stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .count(),
        2
    );
    assert_eq!(
        run.stderr
            .lines()
            .filter(|line| line.starts_with("  try: "))
            .count(),
        2
    );
    let text = sysfs.list(&urls).ends(1).stdout;
    assert!(
        text.contains("\nemu:size=4m\n") && !text.contains("?ns=7"),
        "{text}"
    );
}
