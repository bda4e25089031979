//! An open VFIO device: its registers, its interrupts, its end.
//! Control path: whoever has it holds the lock on it.
use super::config::{Config, ConfigError, Identity};
use super::context::{Context, Place};
use super::info::{self, RegionInfo};
use super::kernel::{self, Request};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use underpin_dma::rt::{self, Event, Instant};
use underpin_nvme_spec::registers::{Cc, Csts, offset};
use vfio_bindings::bindings::vfio;

/// Doorbells and the registers before them.
const LEAST_BAR0_BYTES: u64 = 0x1008;
/// What MSI-X can have.
const MOST_VECTORS: u32 = 2048;

/// A device as it was opened.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    place: Place,
    bar0: RegionInfo,
    config_offset: u64,
    can_reset: bool,
    /// Who answers later must be the same.
    identity: Identity,
    /// MSI-X vectors; 0 where they cannot be had.
    pub(super) vectors: u32,
    /// MSI-X is on, with so many.
    enabled: Option<u32>,
}

impl Device {
    /// Looks at what was opened, and switches memory accesses and DMA on.
    pub(super) fn new(context: &Context, file: File, place: Place) -> Result<Self, String> {
        match Self::look(&file) {
            Ok((bar0, config_offset, can_reset, identity, vectors)) => Ok(Self {
                file,
                place,
                bar0,
                config_offset,
                can_reset,
                identity,
                vectors,
                enabled: None,
            }),
            Err(error) => {
                let _ = context.leave(file, place);
                Err(error)
            }
        }
    }

    fn look(file: &File) -> Result<(RegionInfo, u64, bool, Identity, u32), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let asked = kernel::ask(file.as_fd(), Request::DeviceInfo, &[0], 24);
        let (_, device) = asked.map_err(|error| text(&error))?;
        let flags = info::word(&device, 4).map_err(|error| text(&error))?;
        if flags & vfio::VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(format!(
                "VFIO says that it is no PCI function (flags {flags:#x})"
            ));
        }
        let bar0 = region(file, vfio::VFIO_PCI_BAR0_REGION_INDEX)?;
        let both = vfio::VFIO_REGION_INFO_FLAG_READ | vfio::VFIO_REGION_INFO_FLAG_WRITE;
        if bar0.size < LEAST_BAR0_BYTES || bar0.flags & both != both {
            return Err(format!(
                "its BAR0 has {} bytes (flags {:#x}): too little for an NVMe controller",
                bar0.size, bar0.flags
            ));
        }
        let config_offset = region(file, vfio::VFIO_PCI_CONFIG_REGION_INDEX)?.offset;
        let config = Config {
            file,
            offset: config_offset,
        };
        let header = config.enable_memory().map_err(|error| text(&error))?;
        let identity = header.identity;
        if !identity.class.is_nvme() {
            return Err(format!(
                "it is no NVMe controller: its class is {}",
                identity.class
            ));
        }
        quiesce(file, bar0.offset)?;
        config.start_bus_master().map_err(|error| text(&error))?;
        let (flags_msix, count) = irq(file, vfio::VFIO_PCI_MSIX_IRQ_INDEX)?;
        let vectors = match flags_msix & vfio::VFIO_IRQ_INFO_EVENTFD {
            0 => 0,
            _ => count.min(MOST_VECTORS),
        };
        let can_reset = flags & vfio::VFIO_DEVICE_FLAGS_RESET != 0;
        Ok((bar0, config_offset, can_reset, identity, vectors))
    }

    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    pub(super) const fn bar0(&self) -> &RegionInfo {
        &self.bar0
    }

    /// Reads a register by the file, where it is not mapped.
    pub(super) fn read32(&self, offset: usize) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.file
            .read_exact_at(&mut bytes, self.place_of(offset)?)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes a register by the file.
    pub(super) fn write32(&self, offset: usize, value: u32) -> io::Result<()> {
        let bytes = value.to_le_bytes();
        self.file.write_all_at(&bytes, self.place_of(offset)?)
    }

    /// Where in the file a register is.
    fn place_of(&self, offset: usize) -> io::Result<u64> {
        let end = (offset as u64).checked_add(4);
        match end.is_some_and(|end| end <= self.bar0.size) {
            true => Ok(self.bar0.offset + offset as u64),
            false => Err(io::Error::other(format!(
                "BAR0 has no register {offset:#x}"
            ))),
        }
    }

    /// The event that MSI-X vector `vector` signals from now on. All vectors are switched on with
    /// the first one, as some devices cannot have more later; the others signal nothing.
    pub(super) fn tie(&mut self, vector: u32, event: &Event) -> io::Result<()> {
        if vector >= self.vectors {
            let vectors = self.vectors;
            return Err(io::Error::other(format!(
                "it has {vectors} interrupt vectors"
            )));
        }
        if self.enabled.is_none() {
            let none = vec![-1; self.vectors as usize];
            let granted = self.set(vfio::VFIO_PCI_MSIX_IRQ_INDEX, 0, &none)?;
            let mut enabled = self.vectors;
            if granted > 0 {
                // The kernel has fewer to give, and says how many.
                enabled = granted.cast_unsigned().min(self.vectors);
                let none = vec![-1; enabled as usize];
                self.set(vfio::VFIO_PCI_MSIX_IRQ_INDEX, 0, &none)?;
            }
            tracing::debug!(enabled, "MSI-X on");
            self.enabled = Some(enabled);
        }
        if self.enabled.is_some_and(|enabled| vector >= enabled) {
            return Err(io::Error::other("the kernel has no interrupt left for it"));
        }
        let fd = event.as_fd().as_raw_fd();
        self.set(vfio::VFIO_PCI_MSIX_IRQ_INDEX, vector, &[fd])?;
        Ok(())
    }

    /// The event that the interrupt `index`, of which there is one, signals from now on. False
    /// where there is none.
    pub(super) fn watch(&self, index: u32, event: &Event) -> io::Result<bool> {
        let (flags, count) = irq(&self.file, index).unwrap_or((0, 0));
        if count == 0 || flags & vfio::VFIO_IRQ_INFO_EVENTFD == 0 {
            return Ok(false);
        }
        self.set(index, 0, &[event.as_fd().as_raw_fd()])?;
        Ok(true)
    }

    fn set(&self, index: u32, start: u32, fds: &[i32]) -> io::Result<i32> {
        let flags = vfio::VFIO_IRQ_SET_DATA_EVENTFD | vfio::VFIO_IRQ_SET_ACTION_TRIGGER;
        let count = u32::try_from(fds.len()).map_err(io::Error::other)?;
        let head = [flags, index, start, count];
        let words = head
            .into_iter()
            .chain(fds.iter().map(|fd| fd.cast_unsigned()));
        let words: Vec<u32> = words.collect();
        Ok(kernel::ask(self.file.as_fd(), Request::SetIrqs, &words, 0)?.0)
    }

    /// Resets the function. `Ok` is proof that what it did before is over.
    pub(super) fn reset(&self) -> io::Result<()> {
        match self.can_reset {
            true => kernel::reset(&self.file),
            false => Err(io::Error::other("it cannot be reset by itself")),
        }
    }

    /// Ends its DMA and lets it go; says how the end was proven, or all that was tried.
    pub(super) fn close(
        self,
        context: &Context,
        retire: impl FnOnce() -> io::Result<()>,
    ) -> Result<&'static str, String> {
        let config = Config {
            file: &self.file,
            offset: self.config_offset,
        };
        let stopped = config.stop_bus_master(self.identity);
        let reset = match &stopped {
            Ok(()) => Ok(()),
            Err(_) => self.reset(),
        };
        // A mapping has the file open, too.
        if let Err(error) = retire() {
            tracing::warn!(
                %error,
                "its registers stay mapped, so it stays open: the kernel waits for the end of this \
                 process before it has the device back"
            );
        }
        proof(stopped, reset, context.leave(self.file, self.place))
    }
}

/// What of it is proof that a device's DMA has ended, in the order in which it was tried.
fn proof(
    bus_master_off: Result<(), ConfigError>,
    reset: io::Result<()>,
    left: io::Result<()>,
) -> Result<&'static str, String> {
    match (bus_master_off, reset, left) {
        (Ok(()), ..) => Ok("bus master off"),
        (_, Ok(()), _) => Ok("function reset"),
        (.., Ok(())) => Ok("closed, and its group detached"),
        (Err(stopped), Err(reset), Err(left)) => Err(format!(
            "its DMA may go on: {stopped}; the reset failed: {reset}; it was not detached: {left}"
        )),
    }
}

/// Disables a controller that somebody left enabled, before it may do DMA: where it cannot be
/// reset, opening it does not, and the addresses that it has from before may be somebody else's
/// memory in this space. Usually it is disabled already. `bar0` is where its registers begin.
fn quiesce(file: &File, bar0: u64) -> Result<(), String> {
    let fail = |error: io::Error| format!("its registers cannot be reached: {error}");
    let read = |offset: usize| {
        let mut bytes = [0; 4];
        let read = file.read_exact_at(&mut bytes, bar0 + offset as u64);
        read.map(|()| u32::from_le_bytes(bytes)).map_err(fail)
    };
    let cc = Cc(read(offset::CC)?);
    // All ones is no controller: whoever looks next will say so.
    if !cc.en() || cc.0 == u32::MAX {
        return Ok(());
    }
    let bytes = cc.with_en(false).0.to_le_bytes();
    let written = file.write_all_at(&bytes, bar0 + offset::CC as u64);
    written.map_err(fail)?;
    // CAP.TO, in units of 500 ms (NVMe Base 2.0, 3.1.3.1).
    let timeout = Duration::from_millis(500) * (read(offset::CAP)? >> 24);
    let deadline = Instant::now() + timeout;
    let ready = rt::wait(Some(deadline), |_now| match read(offset::CSTS) {
        Ok(csts) if Csts(csts).rdy() => None,
        other => Some(other.map(|_csts| ())),
    });
    ready.unwrap_or_else(|_| {
        Err(format!(
            "it was left enabled, and does not become disabled within {timeout:?}; reset it or \
             cycle its power"
        ))
    })
}

/// Asks about a region, again with more room where its capabilities need it.
fn region(file: &File, index: u32) -> Result<RegionInfo, String> {
    let mut room = 32;
    loop {
        // flags, index, cap_offset.
        let asked = kernel::ask(file.as_fd(), Request::RegionInfo, &[0, index, 0], room);
        let (_, bytes) = asked.map_err(|error| format!("region {index}: {error}"))?;
        let found = info::region(&bytes).map_err(|error| format!("region {index}: {error}"))?;
        if found.needed_bytes <= room || found.needed_bytes > 1 << 20 {
            return Ok(found);
        }
        room = found.needed_bytes;
    }
}

/// Flags and count of an interrupt.
fn irq(file: &File, index: u32) -> Result<(u32, u32), String> {
    let asked = kernel::ask(file.as_fd(), Request::IrqInfo, &[0, index, 0], 0);
    let (_, bytes) = asked.map_err(|error| format!("interrupt {index}: {error}"))?;
    info::irq(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BAR0: u64 = 0x1000;

    fn registers(cc: u32, csts: u32) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(BAR0 + 0x2000).unwrap();
        // CAP.TO of zero: no time is given.
        for (at, value) in [(offset::CC, cc), (offset::CSTS, csts)] {
            file.write_all_at(&value.to_le_bytes(), BAR0 + at as u64)
                .unwrap();
        }
        file
    }

    fn cc(file: &File) -> u32 {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, BAR0 + offset::CC as u64)
            .unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Each of the three is proof by itself; none of them is none. What could not be asked any more
    /// is not what was answered.
    #[test]
    fn one_of_three_is_proof() {
        let said = |off: bool, reset: bool, left: bool| {
            let no = |what: &str| Err(io::Error::other(what.to_owned()));
            proof(
                if off { Ok(()) } else { Err(ConfigError::Gone) },
                if reset { Ok(()) } else { no("no reset") },
                if left {
                    Ok(())
                } else {
                    no("one more of its group")
                },
            )
        };
        for both in 0..4 {
            let (reset, left) = (both & 1 != 0, both & 2 != 0);
            assert_eq!(said(true, reset, left), Ok("bus master off"));
        }
        assert_eq!(said(false, true, false), Ok("function reset"));
        let detached = "closed, and its group detached";
        assert_eq!(said(false, false, true), Ok(detached));
        let error = said(false, false, false).unwrap_err();
        for why in ["it is gone", "no reset", "one more of its group"] {
            assert!(error.contains(why), "{error}");
        }
    }

    /// A controller that somebody left enabled is disabled before it may do DMA, or is not had.
    #[test]
    fn what_was_left_enabled_is_disabled_first() {
        let left = registers(0x0046_0001, 0);
        quiesce(&left, BAR0).unwrap();
        assert_eq!(cc(&left), 0x0046_0000, "nothing but EN");
        let stuck = registers(0x0046_0001, 1);
        let error = quiesce(&stuck, BAR0).unwrap_err();
        assert!(error.contains("left enabled"), "{error}");
        for untouched in [0, 0x0046_0000, u32::MAX] {
            let file = registers(untouched, 1);
            quiesce(&file, BAR0).unwrap();
            assert_eq!(cc(&file), untouched);
        }
    }
}
