//! What a namespace's blocks are kept in: memory, a file of the host, or nowhere.
//! Every medium moves bytes between itself and a window on host memory, and can be made durable.
mod file;
mod lock;
mod ram;

use crate::EmulatorError;
use crate::config::{Media, NamespaceConfig};
use file::FileMedium;
use ram::RamMedium;
use underpin_dma::View;
use underpin_nvme_spec::Status;

/// The medium failed: the command ends with an unrecovered read error or a write fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MediumError;

/// The blocks of one namespace.
#[derive(Debug)]
pub(crate) enum Medium {
    /// In memory; gone with the emulator.
    Ram(RamMedium),
    /// In a file of the host.
    File(FileMedium),
    /// Reads and writes move nothing: for measuring all but the data.
    Null,
}

impl Medium {
    /// Opens or makes the medium, and says how many bytes it holds.
    pub(crate) fn open(
        name: &str,
        config: &NamespaceConfig,
        vwc: bool,
    ) -> Result<(Self, u64), EmulatorError> {
        match &config.media {
            Media::Ram => {
                let size_bytes = config.size_or_default();
                Ok((Self::Ram(RamMedium::new(name, size_bytes)?), size_bytes))
            }
            Media::File(path) => {
                let (medium, size_bytes) = FileMedium::open(path, config, vwc)?;
                Ok((Self::File(medium), size_bytes))
            }
            Media::Null => Ok((Self::Null, config.size_or_default())),
        }
    }

    /// Makes the medium this emulator's own, before anything is done to it.
    pub(crate) fn claim(&self) -> Result<(), EmulatorError> {
        match self {
            Self::File(file) => file.claim(),
            Self::Ram(_) | Self::Null => Ok(()),
        }
    }

    /// Its file's number in its filesystem, if it has a file that it alone uses.
    pub(crate) fn inode(&self) -> Option<u64> {
        match self {
            Self::File(file) if !file.is_read_only() => Some(file.inode()),
            _ => None,
        }
    }

    /// Why a write failed.
    #[cold]
    pub(crate) fn write_failure(&self) -> Status {
        match self {
            Self::File(file) if file.is_read_only() => {
                Status::NAMESPACE_WRITE_PROTECTED.with_do_not_retry()
            }
            _ => Status::WRITE_FAULT,
        }
    }

    /// Reads into host memory, from byte `at` of the medium on.
    #[inline]
    pub(crate) fn read(&mut self, at: u64, to: View<'_>) -> Result<(), MediumError> {
        match self {
            Self::Ram(ram) => ram.read(at, to),
            Self::File(file) => file.read(at, to),
            Self::Null => Ok(()),
        }
    }

    /// Writes from host memory, to byte `at` of the medium on.
    #[inline]
    pub(crate) fn write(&mut self, at: u64, from: View<'_>) -> Result<(), MediumError> {
        match self {
            Self::Ram(ram) => ram.write(at, from),
            Self::File(file) => file.write(at, from),
            Self::Null => Ok(()),
        }
    }

    /// Reads into bytes of our own.
    pub(crate) fn read_bytes(&self, at: u64, to: &mut [u8]) -> Result<(), MediumError> {
        match self {
            Self::Ram(ram) => ram.read_bytes(at, to),
            Self::File(file) => file.read_bytes(at, to),
            Self::Null => Ok(()),
        }
    }

    /// Writes from bytes of our own.
    pub(crate) fn write_bytes(&self, at: u64, from: &[u8]) -> Result<(), MediumError> {
        match self {
            Self::Ram(ram) => ram.write_bytes(at, from),
            Self::File(file) => file.write_bytes(at, from),
            Self::Null => Ok(()),
        }
    }

    /// Makes all that was written durable.
    pub(crate) fn flush(&mut self) -> Result<(), MediumError> {
        match self {
            Self::File(file) => file.flush(),
            Self::Ram(_) | Self::Null => Ok(()),
        }
    }

    /// True when both keep their blocks in one file, whatever names they have for it.
    pub(crate) fn shares_file(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(file), Self::File(other)) => file.is(other),
            _ => false,
        }
    }

    /// True when transfers move bytes; false when only their addresses are checked.
    #[inline(always)]
    pub(crate) const fn has_bytes(&self) -> bool {
        !matches!(self, Self::Null)
    }
}
