//! A medium in a file of the host, so that what was written can be looked at by other programs.
//! Buffered I/O through one bounce buffer; a flush is fdatasync.
use super::MediumError;
use crate::EmulatorError;
use crate::config::NamespaceConfig;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use underpin_dma::View;

/// The longest piece moved by one system call.
const BOUNCE_BYTES: usize = 128 << 10;

/// Blocks in a file.
#[derive(Debug)]
pub(crate) struct FileMedium {
    file: File,
    bounce: Vec<u8>,
    /// Device and inode number: the same for every name of the file.
    identity: (u64, u64),
}

impl FileMedium {
    /// Opens or creates the file, extends it to the configured size, and says how many bytes of
    /// it are used: all, when no size is configured and it is not empty.
    pub(crate) fn open(
        path: &Path,
        config: &NamespaceConfig,
        vwc: bool,
    ) -> Result<(Self, u64), EmulatorError> {
        let fail = |step: &'static str| {
            let path = path.to_owned();
            move |source| EmulatorError::File { path, step, source }
        };
        // Before opening: what opening a device does is not known, and it cannot be extended.
        if let Ok(metadata) = std::fs::metadata(path)
            && !metadata.is_file()
        {
            let what = "only a regular file can be one";
            return Err(fail("opening")(io::Error::new(
                io::ErrorKind::InvalidInput,
                what,
            )));
        }
        // Without a volatile write cache a completed write is durable.
        let flags = if vwc { 0 } else { libc::O_DSYNC };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags)
            .open(path)
            .map_err(fail("opening"))?;
        let metadata = file.metadata().map_err(fail("examining"))?;
        let present = metadata.len();
        let size_bytes = match config.size_bytes {
            Some(size) => size,
            None if present >= u64::from(config.lba_bytes) => {
                present - present % u64::from(config.lba_bytes)
            }
            None => config.size_or_default(),
        };
        if present < size_bytes {
            file.set_len(size_bytes).map_err(fail("extending"))?;
        }
        let bounce = vec![0; BOUNCE_BYTES];
        let medium = Self {
            file,
            bounce,
            identity: (metadata.dev(), metadata.ino()),
        };
        Ok((medium, size_bytes))
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    pub(crate) fn read(&mut self, at: u64, to: View<'_>) -> Result<(), MediumError> {
        let mut done = 0;
        while done < to.len_bytes() {
            let len = (to.len_bytes() - done).min(self.bounce.len());
            let bounce = self.bounce.get_mut(..len).ok_or(MediumError)?;
            read_at(&self.file, at + done as u64, bounce)?;
            to.copy_from(done, bounce).map_err(|_| MediumError)?;
            done += len;
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, at: u64, from: View<'_>) -> Result<(), MediumError> {
        let mut done = 0;
        while done < from.len_bytes() {
            let len = (from.len_bytes() - done).min(self.bounce.len());
            let bounce = self.bounce.get_mut(..len).ok_or(MediumError)?;
            from.copy_to(done, bounce).map_err(|_| MediumError)?;
            write_at(&self.file, at + done as u64, bounce)?;
            done += len;
        }
        Ok(())
    }

    pub(crate) fn read_bytes(&self, at: u64, to: &mut [u8]) -> Result<(), MediumError> {
        read_at(&self.file, at, to)
    }

    pub(crate) fn write_bytes(&self, at: u64, from: &[u8]) -> Result<(), MediumError> {
        write_at(&self.file, at, from)
    }

    pub(crate) fn flush(&mut self) -> Result<(), MediumError> {
        self.file
            .sync_data()
            .map_err(|error| failed("flushing", 0, &error))
    }
}

fn read_at(file: &File, at: u64, to: &mut [u8]) -> Result<(), MediumError> {
    file.read_exact_at(to, at)
        .map_err(|error| failed("reading", at, &error))
}

fn write_at(file: &File, at: u64, from: &[u8]) -> Result<(), MediumError> {
    file.write_all_at(from, at)
        .map_err(|error| failed("writing", at, &error))
}

#[cold]
fn failed(step: &'static str, at: u64, error: &io::Error) -> MediumError {
    tracing::error!(%error, at, "{step} the medium's file failed");
    MediumError
}
