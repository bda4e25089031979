//! Why something could not be done with a file, and the errno for it.
use crate::store::StoreError;
use std::time::Duration;
use underpin_dma::frame::{LongTermLimit, ReserveError};

/// What a call on a [`File`](crate::File) or a [`Cache`](crate::Cache) says went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The bytes do not lie within the file.
    #[error(
        "bytes {offset}..{end} do not lie within the file, which has {len_bytes}; extend it first"
    )]
    Range {
        /// The first byte.
        offset: u64,
        /// Behind the last one.
        end: u64,
        /// The file's length.
        len_bytes: u64,
    },
    /// Where whole pages are wanted.
    #[error("byte {offset} is not at the beginning of a page of {page_bytes} bytes")]
    Alignment {
        /// What was asked for.
        offset: u64,
        /// A page.
        page_bytes: u64,
    },
    /// The store has no room for what would get dirty (R3).
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    /// The store could not read, write or flush.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too many pages are pinned for long (R13).
    #[error(transparent)]
    LongTerm(#[from] LongTermLimit),
    /// A page has been pinned for longer than such a call waits.
    #[error(
        "page {page} is pinned, and was for {waited:?}; end the device's commands on it, or drop its pins"
    )]
    Busy {
        /// Which.
        page: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// Every frame is pinned, dirty or at work, and has been for longer than such a call waits.
    #[error(
        "all {frames} frames of the cache are pinned or dirty, and were for {waited:?}; make the cache larger, or pin less"
    )]
    NoFrames {
        /// How many there are.
        frames: u32,
        /// How long was waited.
        waited: Duration,
    },
    /// The cache could not be made.
    #[error(transparent)]
    Dma(#[from] underpin_dma::Error),
    /// The operating system grants no thread for the flusher.
    #[error("the flusher has no thread: {0}")]
    Flusher(std::io::Error),
    /// The store's device sees another space than the cache's memory is in.
    #[error("the store's device sees another DmaSpace than the cache's; make both of the same")]
    OtherSpace,
}

impl FileError {
    /// The errno for it.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Range { .. } | Self::Alignment { .. } | Self::OtherSpace => libc::EINVAL,
            Self::Reserve(ReserveError::Full) => libc::ENOSPC,
            Self::Reserve(ReserveError::Quota) => libc::EDQUOT,
            Self::Reserve(ReserveError::Os(errno)) => *errno,
            Self::Store(error) => error.errno(),
            Self::LongTerm(_) | Self::NoFrames { .. } | Self::Dma(_) => libc::ENOMEM,
            Self::Busy { .. } => libc::EBUSY,
            Self::Flusher(error) => error.raw_os_error().unwrap_or(libc::EAGAIN),
        }
    }
}

impl From<FileError> for std::io::Error {
    fn from(error: FileError) -> Self {
        let kind = Self::from_raw_os_error(error.errno()).kind();
        Self::new(kind, error)
    }
}
