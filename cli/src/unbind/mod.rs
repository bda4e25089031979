//! `underpin unbind`: gives functions back to the kernel's driver.
use crate::args::pci_address;
use crate::bind::{self, nvme_function, switch};
use crate::failure::Failure;
use crate::iommu::Group;
use crate::machine::{Doing, Hands, Machine};
use crate::processes::{self, Node};
use crate::{output, sysfs};
use serde_json::json;
use std::path::PathBuf;
use underpin::nvme::PciAddress;

/// `underpin unbind`.
#[derive(Debug, clap::Args)]
pub(crate) struct UnbindArgs {
    /// The functions: 0000:01:00.0 or pci:0000:01:00.0
    #[arg(value_name = "ADDRESS", value_parser = pci_address, required_unless_present = "all")]
    pub(crate) addresses: Vec<PciAddress>,
    /// Every NVMe function that is bound to vfio-pci
    #[arg(long, conflicts_with = "addresses")]
    pub(crate) all: bool,
    /// Also when a process has one open: the kernel asks that to let go, and waits until it does
    #[arg(long)]
    pub(crate) force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Where sys, proc and dev are: a tree for tests
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub(crate) sysroot: PathBuf,
}

/// A function that the kernel has again.
pub(crate) struct Returned {
    pub(crate) address: String,
    pub(crate) before: Option<String>,
    pub(crate) driver: String,
}

pub(crate) fn run(args: &UnbindArgs) -> Result<(), Failure> {
    let machine = Machine::at(&args.sysroot);
    let returned = unbind(&machine, &mut Doing, args)?;
    if args.json {
        let functions: Vec<_> = returned
            .iter()
            .map(|one| {
                json!({
                    "address": one.address,
                    "driver": one.driver,
                    "driver_before": one.before,
                })
            })
            .collect();
        return output::json(&json!({ "functions": functions }));
    }
    if returned.is_empty() {
        return output::text("No NVMe function is bound to vfio-pci.\n");
    }
    let line = |one: &Returned| {
        let Returned {
            address, driver, ..
        } = one;
        match one.before.as_deref() {
            Some(before) if before == driver => format!("{address} was with {driver} already\n"),
            _ => format!("{address} is with {driver} again\n"),
        }
    };
    output::text(&returned.iter().map(line).collect::<String>())
}

/// Gives every function back, or refuses before anything has been changed.
pub(crate) fn unbind(
    machine: &Machine,
    hands: &mut dyn Hands,
    args: &UnbindArgs,
) -> Result<Vec<Returned>, Failure> {
    let mut functions = Vec::new();
    if args.all {
        let bus = sysfs::bus(&machine.sys(""));
        let is_ours = |driver: &Option<String>| driver.as_deref() == Some(switch::VFIO_PCI);
        functions.extend(
            bus.controllers
                .into_iter()
                .filter(|one| is_ours(&one.driver)),
        );
    }
    for address in args.addresses.iter().map(ToString::to_string) {
        if functions.iter().all(|one| one.address != address) {
            functions.push(nvme_function(machine, &address)?);
        }
    }
    for function in &functions {
        let address = &function.address;
        match function.driver.as_deref() {
            Some(switch::VFIO_PCI) if !args.force => free(machine, address)?,
            Some(switch::VFIO_PCI | "nvme") | None => {}
            Some(other) => {
                return Err(Failure::machine(
                    "driver",
                    format!("{address} has driver {other}; only what vfio-pci has is given back"),
                    format!("leave {address} out"),
                ));
            }
        }
    }
    let mut returned: Vec<Returned> = Vec::new();
    for function in functions {
        let address = function.address;
        let driver = switch::to_kernel(machine, hands, &address).map_err(|failure| {
            let done: Vec<_> = returned.iter().map(|one| one.address.as_str()).collect();
            match done.is_empty() {
                true => failure,
                false => failure.but(&format!("given back by then: {}", done.join(", "))),
            }
        })?;
        returned.push(Returned {
            address,
            before: function.driver,
            driver,
        });
    }
    Ok(returned)
}

/// An error if a process has the function open: the kernel would wait for it, for ever if need be.
fn free(machine: &Machine, address: &str) -> Result<(), Failure> {
    let Some(group) = Group::of(machine, address) else {
        return Ok(());
    };
    let nodes = bind::nodes(machine, address, &group);
    let nodes: Vec<Node> = nodes
        .iter()
        .filter_map(|node| node.strip_prefix(machine.dev("")).ok())
        .map(|name| Node {
            name: name.to_string_lossy().into_owned(),
            number: None,
        })
        .collect();
    let openers = processes::openers(machine, &nodes);
    if openers.is_empty() {
        return Ok(());
    }
    let mut names: Vec<String> = Vec::new();
    for opener in openers {
        let name = machine.process(opener.pid);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Err(Failure::machine(
        "in-use",
        format!(
            "{address} is in use: {} has its VFIO node open",
            names.join(", ")
        ),
        "end that first; --force asks it to let go, and waits until it does",
    ))
}
