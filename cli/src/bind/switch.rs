//! Gives a function to another driver, in the steps that the kernel has for it, and takes them back
//! when one fails. `driver_override` says who may have it, `drivers_probe` asks who wants it.
use crate::failure::Failure;
use crate::machine::{Hands, Machine};
use crate::sysfs;
use std::io;
use std::path::Path;

/// The driver that lets userspace have a function.
pub(crate) const VFIO_PCI: &str = "vfio-pci";
/// An empty line clears `driver_override`; nothing at all would not be noticed.
const NOBODY_SPECIAL: &str = "\n";

/// Binds a function to vfio-pci. One that is there already is left alone.
///
/// # Errors
/// A step failed. Those before it have been taken back, or the error says which could not be.
pub(crate) fn to_vfio(
    machine: &Machine,
    hands: &mut dyn Hands,
    address: &str,
) -> Result<(), Failure> {
    let was = machine.driver(address);
    if was.as_deref() == Some(VFIO_PCI) {
        return Ok(());
    }
    let function = machine.function(address);
    let choice = function.join("driver_override");
    let chosen_before = sysfs::attribute(&choice).filter(|driver| driver != "(null)");
    let mut steps = Steps { machine, hands };
    steps.write(&choice, VFIO_PCI)?;
    let freed = match &was {
        Some(_) => steps.write(&function.join("driver/unbind"), address),
        None => Ok(()),
    };
    let taken = freed.and_then(|()| {
        steps.write(&machine.sys("bus/pci/drivers_probe"), address)?;
        match machine.driver(address).as_deref() {
            Some(VFIO_PCI) => Ok(()),
            other => Err(not_taken(address, other)),
        }
    });
    let Err(failure) = taken else { return Ok(()) };
    let before = chosen_before.as_deref().unwrap_or(NOBODY_SPECIAL);
    let undone = steps.write(&choice, before).and_then(|()| {
        let now = machine.driver(address);
        if was.is_some() && now.is_none() {
            steps.write(&machine.sys("bus/pci/drivers_probe"), address)?;
        }
        Ok(())
    });
    let now = machine.driver(address);
    let state = match (undone, now) {
        (Ok(()), now) if now == was => "it is as it was before".to_owned(),
        (Err(other), now) => format!(
            "and it could not be put back: {}; it has {} now",
            other.message(),
            driven_by(now.as_deref())
        ),
        (Ok(()), now) => format!("it has {} now", driven_by(now.as_deref())),
    };
    Err(failure.but(&state))
}

/// Gives a function back: to the driver that wants it by itself. One that the kernel has already
/// is left alone, but for the choice of vfio-pci, which is cleared.
///
/// # Errors
/// A step failed; the error says how the function is left. Or no driver wants the function.
pub(crate) fn to_kernel(
    machine: &Machine,
    hands: &mut dyn Hands,
    address: &str,
) -> Result<String, Failure> {
    let function = machine.function(address);
    let choice = function.join("driver_override");
    let is_chosen = sysfs::attribute(&choice).is_some_and(|driver| driver == VFIO_PCI);
    let mut steps = Steps { machine, hands };
    if is_chosen {
        steps.write(&choice, NOBODY_SPECIAL)?;
    }
    if machine.driver(address).as_deref() == Some(VFIO_PCI) {
        let freed = steps.write(&function.join("driver/unbind"), address);
        if let Err(failure) = freed {
            let put_back = match is_chosen {
                true => steps.write(&choice, VFIO_PCI),
                false => Ok(()),
            };
            let state = match put_back {
                Ok(()) => "it is as it was before",
                Err(_) => "it has vfio-pci still, but no driver_override any more",
            };
            return Err(failure.but(state));
        }
    }
    if machine.driver(address).is_none() {
        steps
            .write(&machine.sys("bus/pci/drivers_probe"), address)
            .map_err(|failure| failure.but("it has no driver now"))?;
    }
    machine.driver(address).ok_or_else(|| {
        Failure::machine(
            "driver",
            format!("{address}: no driver of the kernel took it; it has none now"),
            format!("modprobe nvme, then underpin unbind {address}"),
        )
    })
}

/// Writes to sysfs that tell what went wrong.
struct Steps<'a> {
    machine: &'a Machine,
    hands: &'a mut dyn Hands,
}

impl Steps<'_> {
    fn write(&mut self, attribute: &Path, text: &str) -> Result<(), Failure> {
        tracing::debug!(attribute = %attribute.display(), text, "write");
        self.hands.write(attribute, text).map_err(|error| {
            let attribute = self.machine.shown(attribute);
            let text = text.trim_end();
            Failure::machine(
                "sysfs",
                format!("{text:?} could not be written to {attribute}: {error}"),
                next_step(&error),
            )
        })
    }
}

/// What to do about a write that the kernel refused.
fn next_step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run the same command as root, as with sudo",
        io::ErrorKind::ReadOnlyFilesystem => {
            "sysfs is read-only here, as in most containers: run the same command on the host"
        }
        io::ErrorKind::NotFound => "the function or its driver has gone: underpin list",
        _ => "`dmesg | tail` shows what the kernel says of it",
    }
}

/// The kernel tells why in its log only.
fn not_taken(address: &str, other: Option<&str>) -> Failure {
    Failure::machine(
        "driver",
        format!(
            "{address}: vfio-pci did not take it; after drivers_probe it had {}",
            driven_by(other)
        ),
        "`dmesg | tail` shows why; `underpin doctor` checks what vfio-pci needs",
    )
}

fn driven_by(driver: Option<&str>) -> String {
    match driver {
        Some(driver) => format!("driver {driver}"),
        None => "no driver".to_owned(),
    }
}
