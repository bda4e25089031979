//! `underpin list`: the controllers on the PCI bus, and the devices that were named.
use crate::args::ListArgs;
use crate::bind::switch::VFIO_PCI;
use crate::failure::{Failure, Problem};
use crate::output::{self, Style};
use crate::sysfs::{self, BlockDevice, Bus, PciController};
use crate::{device, text};
use serde_json::{Value, json};
use std::fmt::Write;
use underpin::{DeviceUrl, Error, Namespace};

/// A device that was named, opened.
struct Opened {
    model: String,
    serial: String,
    firmware: String,
    version: String,
    namespaces: Vec<Namespace>,
}

pub(crate) fn run(args: &ListArgs) -> Result<(), Failure> {
    if !args.sysfs.is_dir() {
        let directory = text::escape(&args.sysfs.to_string_lossy());
        return Err(Failure::usage(
            format!("--sysfs {directory}: there is no such directory"),
            "leave --sysfs out, or name the place where sysfs is mounted",
        ));
    }
    let bus = sysfs::bus(&args.sysfs);
    let devices: Vec<_> = args.urls.iter().map(|url| (url, open(url))).collect();
    if args.json {
        output::json(&as_json(&bus, &devices))?;
    } else {
        output::text(&as_text(&bus, &devices, Style::of_stdout()))?;
    }
    let mut failed = false;
    for (url, device) in &devices {
        if let Err(error) = device {
            failed = true;
            Problem::device(url, error).say();
        }
    }
    if failed {
        Err(Failure::Reported)
    } else {
        Ok(())
    }
}

fn open(url: &DeviceUrl) -> Result<Opened, Error> {
    let controller = device::open(url)?;
    let identify = controller.identify();
    let opened = Opened {
        model: identify.mn().to_string(),
        serial: identify.sn().to_string(),
        firmware: identify.fr().to_string(),
        version: controller.version().to_string(),
        namespaces: device::namespaces(url, &controller)?,
    };
    controller.close()?;
    Ok(opened)
}

fn as_json(bus: &Bus, devices: &[(&DeviceUrl, Result<Opened, Error>)]) -> Value {
    let devices: Vec<Value> = devices
        .iter()
        .map(|(url, device)| match device {
            Err(error) => json!({
                "url": url.to_string(),
                "error": Problem::device(url, error).json(),
            }),
            Ok(device) => json!({
                "url": url.to_string(),
                "model": device.model,
                "serial": device.serial,
                "firmware": device.firmware,
                "version": device.version,
                "namespaces": device.namespaces.iter().map(namespace_json).collect::<Vec<_>>(),
            }),
        })
        .collect();
    json!({
        "pci_directory": bus.directory.to_string_lossy(),
        "pci_problem": bus.problem,
        "pci": bus.controllers,
        "devices": devices,
    })
}

fn namespace_json(namespace: &Namespace) -> Value {
    json!({
        "nsid": namespace.nsid().0,
        "len_bytes": namespace.unusable().is_none().then(|| namespace.len_bytes()),
        "blocks": namespace.blocks(),
        "lba_bytes": namespace.lba_bytes(),
        "unusable": namespace.unusable(),
    })
}

fn as_text(bus: &Bus, devices: &[(&DeviceUrl, Result<Opened, Error>)], style: Style) -> String {
    let mut out = String::new();
    let directory = text::escape(&bus.directory.to_string_lossy());
    if let Some(problem) = &bus.problem {
        let _ = writeln!(
            out,
            "The PCI bus cannot be looked at: {directory}: {problem}"
        );
    } else if bus.controllers.is_empty() {
        let _ = writeln!(out, "No NVMe controller on the PCI bus ({directory}).");
    } else {
        let _ = writeln!(out, "{}", style.heading("NVMe controllers on the PCI bus"));
        let mut rows = vec![
            [
                "ADDRESS",
                "ID",
                "DRIVER",
                "IOMMU GROUP",
                "NUMA",
                "MODEL",
                "BLOCK DEVICES",
                "USERSPACE",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        rows.extend(bus.controllers.iter().map(pci_row));
        out.push_str(&text::columns("  ", &rows));
        out.push_str(
            "  (underpin bind takes a controller from the kernel, underpin unbind gives it back, \
             underpin doctor says what is missing)\n",
        );
        out.push_str(
            "  (as the kernel shows them; one that is bound to vfio-pci is opened as pci:ADDRESS)\n",
        );
    }
    if devices.is_empty() && bus.controllers.is_empty() {
        out.push_str(
            "\nUnderpin brings a controller in software, which needs no device:\n  \
             underpin list emu:size=1g\n  underpin identify emu:size=1g\n",
        );
    }
    for (url, device) in devices {
        let Ok(device) = device else { continue };
        let url = text::escape(&url.to_string());
        let _ = writeln!(out, "\n{}", style.heading(&url));
        let Opened {
            model,
            serial,
            firmware,
            version,
            namespaces,
        } = device;
        let _ = writeln!(
            out,
            "  {model}, serial {serial}, firmware {firmware}, NVMe {version}"
        );
        if namespaces.is_empty() {
            out.push_str("  no namespace\n");
        }
        let rows: Vec<_> = namespaces.iter().map(namespace_row).collect();
        out.push_str(&text::columns("  ", &rows));
    }
    out
}

fn pci_row(controller: &PciController) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let id = |text: &Option<String>| {
        let text = text.as_deref().unwrap_or("????");
        text.strip_prefix("0x").unwrap_or(text).to_owned()
    };
    let devices: Vec<_> = controller.block_devices.iter().map(block_device).collect();
    vec![
        controller.address.clone(),
        format!(
            "{}:{}",
            id(&controller.vendor_id),
            id(&controller.device_id)
        ),
        or_dash(&controller.driver),
        or_dash(&controller.iommu_group),
        controller
            .numa_node
            .map_or_else(|| "-".to_owned(), |node| node.to_string()),
        or_dash(&controller.model),
        if devices.is_empty() {
            "-".to_owned()
        } else {
            devices.join(", ")
        },
        userspace(controller).to_owned(),
    ]
}

/// What stands between a controller and a program that wants to drive it.
fn userspace(controller: &PciController) -> &'static str {
    match (&controller.iommu_group, controller.driver.as_deref()) {
        (None, _) => "no IOMMU",
        (Some(_), Some(VFIO_PCI)) => "bound",
        (Some(_), None | Some("nvme")) => "can be bound",
        (Some(_), Some(_)) => "other driver",
    }
}

fn block_device(device: &BlockDevice) -> String {
    match device.len_bytes {
        Some(len_bytes) => format!("{} ({})", device.name, text::size(u128::from(len_bytes))),
        None => device.name.clone(),
    }
}

fn namespace_row(namespace: &Namespace) -> Vec<String> {
    let name = format!("namespace {}", namespace.nsid());
    match namespace.unusable() {
        // Its size means nothing then.
        Some(why) => vec![name, "unusable".to_owned(), text::escape(why)],
        None => vec![
            name,
            text::size(u128::from(namespace.len_bytes())),
            format!(
                "{} blocks of {} bytes",
                namespace.blocks(),
                namespace.lba_bytes()
            ),
        ],
    }
}
