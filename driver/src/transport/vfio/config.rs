//! A function's configuration space, by `pread` and `pwrite`, with every error told.
//! What reads as all ones comes from no device: it proves nothing.
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The part of PCI's header that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) vendor: u16,
    pub(super) device: u16,
    pub(super) command: u16,
    /// Base class, subclass, programming interface.
    pub(super) class: [u8; 3],
}

const COMMAND: u64 = 4;
const HEADER_BYTES: usize = 12;
/// The command register: decode memory accesses; be a bus master; raise no INTx.
pub(super) const MEMORY: u16 = 1 << 1;
pub(super) const MASTER: u16 = 1 << 2;
const NO_INTX: u16 = 1 << 10;
/// Mass storage, non-volatile memory, NVM Express.
pub(super) const NVME_CLASS: [u8; 3] = [1, 8, 2];

impl Header {
    /// `None` for what no function says: there is none any more.
    pub(super) fn parse(bytes: [u8; HEADER_BYTES]) -> Option<Self> {
        let [v0, v1, d0, d1, c0, c1, _, _, _, interface, subclass, base] = bytes;
        let header = Self {
            vendor: u16::from_le_bytes([v0, v1]),
            device: u16::from_le_bytes([d0, d1]),
            command: u16::from_le_bytes([c0, c1]),
            class: [base, subclass, interface],
        };
        // No vendor has these numbers; a bridge answers so for a function that is not there.
        (header.vendor != u16::MAX && header.vendor != 0).then_some(header)
    }
}

/// Why configuration space is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("its configuration space cannot be read or written: {0}")]
    Io(#[from] io::Error),
    #[error("its configuration space reads as all ones or zero: it is gone")]
    Gone,
    #[error("it answers as {found:04x?}, and was {was:04x?}: it is another device")]
    Other { was: (u16, u16), found: (u16, u16) },
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

    /// No DMA from now on. `Ok` is proof: the device that was opened, `was`, says so itself.
    pub(super) fn stop_bus_master(self, was: (u16, u16)) -> Result<(), ConfigError> {
        let written = self.header()?.command & !MASTER;
        self.set_command(written)?;
        let header = self.header()?;
        let found = (header.vendor, header.device);
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
        assert_eq!(
            (header.vendor, header.device, header.class),
            (0x1b36, 0x10, NVME_CLASS)
        );
        assert_eq!(
            config.header().unwrap().command,
            0x100 | MEMORY | MASTER | NO_INTX
        );
        config.stop_bus_master((0x1b36, 0x10)).unwrap();
        assert_eq!(config.header().unwrap().command, 0x100 | MEMORY | NO_INTX);
    }

    /// All ones, all zero, another device, and a file that ends are no proof that DMA is over.
    #[test]
    fn what_is_not_the_device_proves_nothing() {
        for bytes in [[0xff; HEADER_BYTES], [0; HEADER_BYTES]] {
            let file = function(bytes);
            let config = Config {
                file: &file,
                offset: OFFSET,
            };
            let error = config.stop_bus_master((0x1b36, 0x10)).unwrap_err();
            assert!(matches!(error, ConfigError::Gone), "{error}");
            assert!(config.enable_memory().is_err() && config.start_bus_master().is_err());
        }
        let file = function(NVME);
        let config = Config {
            file: &file,
            offset: OFFSET,
        };
        let error = config.stop_bus_master((0x8086, 0x10)).unwrap_err();
        assert!(matches!(error, ConfigError::Other { .. }), "{error}");
        let past = Config {
            file: &file,
            offset: OFFSET + 8,
        };
        assert!(matches!(past.header(), Err(ConfigError::Io(_))));
    }
}
