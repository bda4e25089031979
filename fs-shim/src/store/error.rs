//! Why a store could not do something, with the errno that a file's user gets.

/// What a store says went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused it.
    #[error("{what}: {}", std::io::Error::from_raw_os_error(*.errno))]
    Os {
        /// What was tried, and on what.
        what: String,
        /// Its number.
        errno: i32,
    },
    /// The device refused it, or is gone.
    #[error("{0}")]
    Device(String),
    /// Fewer bytes were moved than asked for, and nobody says why.
    #[error("{what}: {moved_bytes} of {len_bytes} bytes were moved; the medium may have shrunk")]
    Short {
        /// What was tried.
        what: String,
        /// Bytes that were moved.
        moved_bytes: u64,
        /// Bytes that were to be.
        len_bytes: u64,
    },
    /// The pages lie past the store's end.
    #[error("the store ends at byte {max_len_bytes}; {len_bytes} bytes do not fit")]
    TooLong {
        /// What was wanted.
        len_bytes: u64,
        /// What is there.
        max_len_bytes: u64,
    },
    /// The work was dropped by whoever had it: its queue was closed.
    #[error("the store was closed while the command was in flight")]
    Closed,
}

impl StoreError {
    /// The errno for it: EIO, unless the operating system said another.
    pub const fn errno(&self) -> i32 {
        match self {
            Self::Os { errno, .. } => *errno,
            Self::TooLong { .. } => libc::EFBIG,
            Self::Device(_) | Self::Short { .. } | Self::Closed => libc::EIO,
        }
    }
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> Self {
        let kind = Self::from_raw_os_error(error.errno()).kind();
        Self::new(kind, error)
    }
}
