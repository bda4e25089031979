//! A function's configuration space, by `pread` and `pwrite`, with every error told.
//! What reads as all ones or as zero comes from no device: it proves nothing.
use crate::PciClass;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Who answers. The kernel gives vendor and device from its own memory (vfio-pci: virtual functions
/// have none of their own), so these are right even when the device is gone; the class comes from
/// the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) vendor: u16,
    pub(super) device: u16,
    pub(super) class: PciClass,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:04x}, class {}",
            self.vendor, self.device, self.class
        )
    }
}

/// The part of PCI's header that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) identity: Identity,
    pub(super) command: u16,
}

const COMMAND: u64 = 4;
const HEADER_BYTES: usize = 12;
/// The command register: decode memory accesses; be a bus master; raise no INTx.
pub(super) const MEMORY: u16 = 1 << 1;
pub(super) const MASTER: u16 = 1 << 2;
const NO_INTX: u16 = 1 << 10;

impl Header {
    /// `None` for what no function says: there is none any more.
    pub(super) fn parse(bytes: [u8; HEADER_BYTES]) -> Option<Self> {
        let [
            v0,
            v1,
            d0,
            d1,
            c0,
            c1,
            s0,
            s1,
            revision,
            interface,
            subclass,
            base,
        ] = bytes;
        let header = Self {
            identity: Identity {
                vendor: u16::from_le_bytes([v0, v1]),
                device: u16::from_le_bytes([d0, d1]),
                class: PciClass(u32::from_be_bytes([0, base, subclass, interface])),
            },
            command: u16::from_le_bytes([c0, c1]),
        };
        // No vendor has these numbers; a bridge answers so for a function that is not there.
        let no_vendor = matches!(header.identity.vendor, 0 | u16::MAX);
        // Nor has any controller this revision and class; unlike the vendor, they are the device's
        // own words.
        let own = [revision, interface, subclass, base];
        let no_class = own == [0; 4] || own == [0xff; 4];
        // Command and status, too: the status has bits that are always zero.
        let no_command = [c0, c1, s0, s1] == [0xff; 4];
        (!no_vendor && !no_class && !no_command).then_some(header)
    }
}

/// Why configuration space is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("its configuration space cannot be read or written: {0}")]
    Io(#[from] io::Error),
    #[error("its configuration space reads as all ones or zero: it is gone")]
    Gone,
    #[error("it answers as {found}, and was {was}: it is another device")]
    Other { was: Identity, found: Identity },
    #[error("its command register reads {found:#06x} after {written:#06x} was written")]
    NotTaken { written: u16, found: u16 },
}

/// Configuration space within a device's file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config<'a> {
    pub(super) file: &'a File,
    /// Where in the file it begins.
    pub(super) offset: u64,
}

impl Config<'_> {
    pub(super) fn header(self) -> Result<Header, ConfigError> {
        let mut bytes = [0; HEADER_BYTES];
        self.file.read_exact_at(&mut bytes, self.offset)?;
        Header::parse(bytes).ok_or(ConfigError::Gone)
    }

    fn set_command(self, command: u16) -> Result<(), ConfigError> {
        let bytes = command.to_le_bytes();
        Ok(self.file.write_all_at(&bytes, self.offset + COMMAND)?)
    }

    /// Registers can be reached from now on, and there is no DMA.
    pub(super) fn enable_memory(self) -> Result<Header, ConfigError> {
        let header = self.header()?;
        // INTx is the kernel's own business: whether it goes off is not looked at.
        self.set((header.command | MEMORY | NO_INTX) & !MASTER, MEMORY)?;
        Ok(header)
    }

    /// DMA from now on.
    pub(super) fn start_bus_master(self) -> Result<(), ConfigError> {
        self.set(self.header()?.command | MASTER, MASTER)
    }

    fn set(self, written: u16, wanted: u16) -> Result<(), ConfigError> {
        self.set_command(written)?;
        let found = self.header()?.command;
        match found & wanted == wanted {
            true => Ok(()),
            false => Err(ConfigError::NotTaken { written, found }),
        }
    }

    /// No DMA from now on. `Ok` is proof: the device that was opened, `was`, says so itself, and
    /// its answer comes behind whatever it wrote before (PCI Express Base 4.0, 2.4.1: a completion
    /// does not pass posted writes).
    pub(super) fn stop_bus_master(self, was: Identity) -> Result<(), ConfigError> {
        // With memory on: a device that was reset behind our back says that it is off, and for whoever
        // writes that back the kernel takes the mapping of the registers away, under the feet of queues
        // that still look at them. Written as it was, the kernel restores the registers' place.
        let written = (self.header()?.command | MEMORY) & !MASTER;
        self.set_command(written)?;
        let header = self.header()?;
        let found = header.identity;
        if found != was {
            return Err(ConfigError::Other { was, found });
        }
        match header.command & MASTER {
            0 => Ok(()),
            _ => Err(ConfigError::NotTaken {
                written,
                found: header.command,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OFFSET: u64 = 1 << 16;

    fn function(bytes: [u8; HEADER_BYTES]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, OFFSET).unwrap();
        file
    }

    const NVME: [u8; HEADER_BYTES] = [0x36, 0x1b, 0x10, 0, 0, 0, 0x10, 0, 2, 2, 8, 1];
    const WAS: Identity = Identity {
        vendor: 0x1b36,
        device: 0x10,
        class: PciClass::NVME,
    };

    /// On and off again, with what the device then says; nothing else in the register changes.
    #[test]
    fn bus_master_goes_on_and_off_and_is_read_back() {
        let mut bytes = NVME;
        bytes[5] = 1;
        let file = function(bytes);
        let config = Config {
            file: &file,
            offset: OFFSET,
        };
        let header = config.enable_memory().unwrap();
        assert_eq!(config.header().unwrap().command, 0x100 | MEMORY | NO_INTX);
        config.start_bus_master().unwrap();
        assert_eq!(header.identity, WAS);
        assert_eq!(
            config.header().unwrap().command,
            0x100 | MEMORY | MASTER | NO_INTX
        );
        config.stop_bus_master(WAS).unwrap();
        assert_eq!(config.header().unwrap().command, 0x100 | MEMORY | NO_INTX);
    }

    /// A device that was reset behind our back has its registers off. They are on when the bus master
    /// is stopped: queues may look at them until the device is let go.
    #[test]
    fn registers_are_on_while_the_bus_master_is_stopped() {
        let mut bytes = NVME;
        bytes[4] = 0;
        let file = function(bytes);
        let config = Config {
            file: &file,
            offset: OFFSET,
        };
        assert_eq!(config.header().unwrap().command, 0);
        config.stop_bus_master(WAS).unwrap();
        assert_eq!(config.header().unwrap().command, MEMORY);
    }

    /// All ones, all zero, another device, and a file that ends are no proof that DMA is over.
    #[test]
    fn what_is_not_the_device_proves_nothing() {
        let is_gone = |bytes: [u8; HEADER_BYTES]| {
            let file = function(bytes);
            let config = Config {
                file: &file,
                offset: OFFSET,
            };
            let error = config.stop_bus_master(WAS).unwrap_err();
            assert!(matches!(error, ConfigError::Gone), "{bytes:x?}: {error}");
            assert!(config.enable_memory().is_err() && config.start_bus_master().is_err());
        };
        is_gone([0xff; HEADER_BYTES]);
        is_gone([0; HEADER_BYTES]);
        let file = function(NVME);
        let config = Config {
            file: &file,
            offset: OFFSET,
        };
        let mut others = [WAS; 3];
        others[0].vendor = 0x8086;
        others[1].device = 0x11;
        others[2].class = PciClass(0x01_08_03);
        for other in others {
            let error = config.stop_bus_master(other).unwrap_err();
            assert!(matches!(error, ConfigError::Other { .. }), "{error}");
        }
        let past = Config {
            file: &file,
            offset: OFFSET + 8,
        };
        assert!(matches!(past.header(), Err(ConfigError::Io(_))));
    }

    /// The kernel answers for vendor and device itself, whatever has become of the device: these
    /// being right proves nothing when the rest is all ones or zero.
    #[test]
    fn the_kernels_own_numbers_prove_nothing() {
        for gone in [0, 0xff] {
            let mut bytes = [gone; HEADER_BYTES];
            bytes[..4].copy_from_slice(&NVME[..4]);
            // The bit for INTx is the kernel's, too.
            for intx in [0x04, 0] {
                bytes[5] = bytes[5] & !0x04 | intx;
                let file = function(bytes);
                let config = Config {
                    file: &file,
                    offset: OFFSET,
                };
                let error = config.stop_bus_master(WAS).unwrap_err();
                assert!(matches!(error, ConfigError::Gone), "{bytes:x?}: {error}");
            }
        }
    }
}
