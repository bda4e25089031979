//! A medium in a file of the host, so that what was written can be looked at by other programs.
//! Buffered I/O through one bounce buffer; a flush is fdatasync.
use super::MediumError;
use super::lock::{self, Locked};
use crate::EmulatorError;
use crate::config::NamespaceConfig;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use underpin_dma::View;

/// The longest piece moved by one system call.
const BOUNCE_BYTES: usize = 128 << 10;

/// Blocks in a file.
#[derive(Debug)]
pub(crate) struct FileMedium {
    file: File,
    path: PathBuf,
    /// What it has to be extended to when it is claimed.
    size_bytes: u64,
    read_only: bool,
    /// Every write is durable when it returns.
    synchronous: bool,
    bounce: Vec<u8>,
    /// Device and inode number: the same for every name of the file.
    identity: (u64, u64),
}

impl FileMedium {
    /// Opens or creates the file and says how many bytes of it are used: all, when no size is
    /// configured and it is not empty. Its length and contents are left alone until it is claimed.
    pub(crate) fn open(
        path: &Path,
        config: &NamespaceConfig,
        vwc: bool,
    ) -> Result<(Self, u64), EmulatorError> {
        let fail = |step: &'static str| {
            let path = path.to_owned();
            move |source| EmulatorError::File { path, step, source }
        };
        let read_only = config.read_only;
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
            .write(!read_only)
            .create(!read_only)
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
        if read_only && present < size_bytes {
            let what = format!("it has {present} bytes of {size_bytes}, and ro=on adds none");
            return Err(fail("opening")(io::Error::new(
                io::ErrorKind::InvalidInput,
                what,
            )));
        }
        let bounce = vec![0; BOUNCE_BYTES];
        let medium = Self {
            file,
            path: path.to_owned(),
            size_bytes,
            read_only,
            synchronous: !vwc,
            bounce,
            identity: (metadata.dev(), metadata.ino()),
        };
        Ok((medium, size_bytes))
    }

    /// Locks the file against other emulators, here and in other processes, for as long as this
    /// medium lives; then extends it to its size.
    pub(crate) fn claim(&self) -> Result<(), EmulatorError> {
        let fail = |step: &'static str| {
            let path = self.path.clone();
            move |source| EmulatorError::File { path, step, source }
        };
        match lock::lock(&self.file, self.read_only).map_err(fail("locking"))? {
            Locked::Yes => {}
            Locked::Unsupported(error) => {
                tracing::warn!(path = %self.path.display(), %error, "its filesystem has no locks: no other emulator may use the file");
            }
            Locked::Held { holder } => {
                let path = self.path.clone();
                return Err(EmulatorError::InUse { path, holder });
            }
        }
        let present = self.file.metadata().map_err(fail("examining"))?.len();
        if present < self.size_bytes {
            self.file
                .set_len(self.size_bytes)
                .map_err(fail("extending"))?;
        }
        Ok(())
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    pub(crate) const fn inode(&self) -> u64 {
        self.identity.1
    }

    pub(crate) const fn is_read_only(&self) -> bool {
        self.read_only
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
        self.may_write()?;
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

    /// A write-protected file is not even tried: that it fails is no trouble to be logged.
    fn may_write(&self) -> Result<(), MediumError> {
        if self.read_only {
            Err(MediumError)
        } else {
            Ok(())
        }
    }

    pub(crate) fn write_bytes(&self, at: u64, from: &[u8]) -> Result<(), MediumError> {
        self.may_write()?;
        write_at(&self.file, at, from)
    }

    /// Makes bytes read as zeroes: by a hole in the file, or by zeroes that have room of their own;
    /// written out where the filesystem knows no better.
    pub(crate) fn clear(
        &mut self,
        at: u64,
        len_bytes: u64,
        deallocate: bool,
    ) -> Result<(), MediumError> {
        self.may_write()?;
        let how = match deallocate {
            true => FallocateFlags::PUNCH_HOLE,
            false => FallocateFlags::ZERO_RANGE,
        };
        match fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, at, len_bytes) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.bounce.fill(0);
                let mut done = 0;
                while done < len_bytes {
                    let len = (len_bytes - done).min(self.bounce.len() as u64);
                    let zeroes = self.bounce.get(..len as usize).ok_or(MediumError)?;
                    write_at(&self.file, at + done, zeroes)?;
                    done += len;
                }
            }
            Err(error) => return Err(failed("clearing", at, &error.into())),
        }
        // O_DSYNC is for writes alone.
        match self.synchronous {
            true => self.flush(),
            false => Ok(()),
        }
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
