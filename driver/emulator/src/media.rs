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
    /// Any of them while the host has it write-protected: so that commands which move bytes need
    /// not ask.
    Protected(Box<Medium>),
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
            Self::Protected(inner) => inner.claim(),
            Self::Ram(_) | Self::Null => Ok(()),
        }
    }

    /// Its file's number in its filesystem, if it has a file that it alone uses.
    pub(crate) fn inode(&self) -> Option<u64> {
        match self {
            Self::File(file) if !file.is_read_only() => Some(file.inode()),
            Self::Protected(inner) => inner.inode(),
            _ => None,
        }
    }

    /// Why a write failed.
    #[cold]
    pub(crate) fn write_failure(&self) -> Status {
        match self.is_protected() {
            true => Status::NAMESPACE_WRITE_PROTECTED.with_do_not_retry(),
            false => Status::WRITE_FAULT,
        }
    }

    /// Reads into host memory, from byte `at` of the medium on.
    #[inline]
    pub(crate) fn read(&mut self, at: u64, to: View<'_>) -> Result<(), MediumError> {
        match self {
            Self::Ram(ram) => ram.read(at, to),
            Self::File(file) => file.read(at, to),
            Self::Null => Ok(()),
            Self::Protected(inner) => inner.read(at, to),
        }
    }

    /// Writes from host memory, to byte `at` of the medium on.
    #[inline]
    pub(crate) fn write(&mut self, at: u64, from: View<'_>) -> Result<(), MediumError> {
        match self {
            Self::Ram(ram) => ram.write(at, from),
            Self::File(file) => file.write(at, from),
            Self::Null => Ok(()),
            Self::Protected(_) => Err(MediumError),
        }
    }

    /// Reads into bytes of our own.
    pub(crate) fn read_bytes(&self, at: u64, to: &mut [u8]) -> Result<(), MediumError> {
        match self {
            Self::Ram(ram) => ram.read_bytes(at, to),
            Self::File(file) => file.read_bytes(at, to),
            Self::Null => Ok(()),
            Self::Protected(inner) => inner.read_bytes(at, to),
        }
    }

    /// Writes from bytes of our own.
    pub(crate) fn write_bytes(&self, at: u64, from: &[u8]) -> Result<(), MediumError> {
        match self {
            Self::Ram(ram) => ram.write_bytes(at, from),
            Self::File(file) => file.write_bytes(at, from),
            Self::Null => Ok(()),
            Self::Protected(_) => Err(MediumError),
        }
    }

    /// Makes all that was written durable.
    pub(crate) fn flush(&mut self) -> Result<(), MediumError> {
        match self {
            Self::File(file) => file.flush(),
            Self::Protected(inner) => inner.flush(),
            Self::Ram(_) | Self::Null => Ok(()),
        }
    }

    /// Makes bytes read as zeroes; `deallocate`: without keeping room for them.
    pub(crate) fn clear(
        &mut self,
        at: u64,
        len_bytes: u64,
        deallocate: bool,
    ) -> Result<(), MediumError> {
        match self {
            Self::Ram(ram) => ram.clear(at, len_bytes, deallocate),
            Self::File(file) => file.clear(at, len_bytes, deallocate),
            Self::Null => Ok(()),
            Self::Protected(_) => Err(MediumError),
        }
    }

    /// True when nothing can be written.
    pub(crate) fn is_protected(&self) -> bool {
        match self {
            Self::Protected(_) => true,
            Self::File(file) => file.is_read_only(),
            Self::Ram(_) | Self::Null => false,
        }
    }

    /// Protects it from being written, or lets it be written again.
    pub(crate) fn protect(&mut self, wanted: bool) {
        *self = match (std::mem::replace(self, Self::Null), wanted) {
            (Self::Protected(inner), false) => *inner,
            (medium @ (Self::Ram(_) | Self::File(_) | Self::Null), true) => {
                Self::Protected(Box::new(medium))
            }
            (medium, _) => medium,
        };
    }

    /// True when both keep their blocks in one file, whatever names they have for it.
    pub(crate) fn shares_file(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(file), Self::File(other)) => file.is(other),
            (Self::Protected(inner), other) => inner.shares_file(other),
            (one, Self::Protected(inner)) => one.shares_file(inner),
            _ => false,
        }
    }

    /// True when transfers move bytes; false when only their addresses are checked.
    #[inline(always)]
    pub(crate) const fn has_bytes(&self) -> bool {
        !matches!(self, Self::Null)
    }
}
