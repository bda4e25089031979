//! What psync and io_uring have in common: opening host files and block
//! devices, their sizes, their page cache.

#![forbid(unsafe_code)]

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use super::{EngineError, Geometry, OpenRequest};
use crate::sys::os;

/// Sector size to assume where the system does not say.
const SECTOR_BYTES: u32 = 512;

/// Opens every target.
pub(crate) fn open_all(request: &OpenRequest<'_>) -> Result<Vec<File>, EngineError> {
    request
        .targets
        .iter()
        .map(|path| {
            let failed = |source| EngineError::Open {
                file: path.clone(),
                source,
            };
            // Before opening: that of a pipe waits until somebody else opens it too.
            let kind = std::fs::metadata(path).map_err(failed)?.file_type();
            if !kind.is_file() && !kind.is_block_device() {
                return Err(failed(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "it is a {}; I/O is done on regular files and block devices",
                        name_of(kind)
                    ),
                )));
            }
            let mut options = OpenOptions::new();
            options.read(true).write(request.write);
            if request.direct {
                options.custom_flags(os::DIRECT_IO);
            }
            options.open(path).map_err(failed)
        })
        .collect()
}

fn name_of(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "directory"
    } else if kind.is_fifo() {
        "named pipe"
    } else if kind.is_socket() {
        "socket"
    } else {
        "character device"
    }
}

/// Length and alignment of a file; a buffered file takes any byte offset.
pub(crate) fn geometry(file: &File, direct: bool) -> Result<Geometry, EngineError> {
    let failed = |source| EngineError::System {
        action: "asking for the file's size",
        source,
    };
    let metadata = file.metadata().map_err(failed)?;
    let kind = metadata.file_type();
    let len_bytes = if kind.is_block_device() {
        let mut file = file;
        file.seek(SeekFrom::End(0)).map_err(failed)?
    } else {
        metadata.len()
    };
    let block_bytes = if direct {
        let device = if kind.is_block_device() {
            metadata.rdev()
        } else {
            metadata.dev()
        };
        sector_bytes(device)
    } else {
        1
    };
    Ok(Geometry {
        len_bytes,
        block_bytes,
    })
}

/// Logical block size of a block device by its number.
fn sector_bytes(device: u64) -> u32 {
    let (major, minor) = (libc::major(device), libc::minor(device));
    // A partition has no queue folder of its own; its parent has.
    ["queue", "../queue"]
        .iter()
        .find_map(|folder| {
            let path = format!("/sys/dev/block/{major}:{minor}/{folder}/logical_block_size");
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        })
        .unwrap_or(SECTOR_BYTES)
}

/// Drops the cached pages of all files. It is an optimisation of fairness, so a
/// filesystem that cannot do it is no error.
pub(crate) fn drop_caches(files: &[File]) {
    for file in files {
        let _ = os::drop_cached_pages(file, 0, 0);
    }
}
