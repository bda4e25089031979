//! How a host file is opened, what may go wrong then, and what it says of itself.
use std::io;
use std::path::PathBuf;

/// How a [`HostFile`](super::HostFile) is opened.
#[derive(Clone, Debug)]
pub struct HostFileOptions {
    /// Make the file if there is none; no by default.
    pub create: bool,
    /// The length that the file is given; by default it keeps the one it has.
    pub len_bytes: Option<u64>,
    /// How long it may get; 16 TiB by default. The file system may say less.
    pub max_len_bytes: u64,
    /// Whether the host's page cache is bypassed.
    pub direct: Direct,
    /// Who moves the bytes.
    pub engine: EngineChoice,
    /// Requests in flight at a time, from 1 to 4,096; 64 by default. Others are kept until there is
    /// room.
    pub queue_depth: u32,
    /// Space is reserved in steps of so many bytes, 4 MiB by default, rounded up to whole pages. A
    /// file that is shorter takes a step of the disk while it is open.
    pub reserve_bytes: u64,
}

impl Default for HostFileOptions {
    fn default() -> Self {
        Self {
            create: false,
            len_bytes: None,
            max_len_bytes: 1 << 44,
            direct: Direct::default(),
            engine: EngineChoice::default(),
            queue_depth: 64,
            reserve_bytes: 4 << 20,
        }
    }
}

/// Whether the host's page cache is bypassed (`O_DIRECT`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direct {
    /// Where the file system takes it; else not.
    #[default]
    IfPossible,
    /// Or the file is not opened.
    Always,
    /// Through the host's page cache: everything is in memory twice, and copied once more.
    Never,
}

/// Who is to move a file's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where the system allows it; else system calls. In a simulated build always system
    /// calls: they end when they are made.
    #[default]
    Auto,
    /// io_uring, or the file is not opened.
    IoUring,
    /// System calls.
    Calls,
}

/// Who moves a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// io_uring: many requests in flight, none of which anybody waits for.
    IoUring,
    /// `preadv` and `pwritev` on the thread that begins the work, which waits for their end.
    Calls,
}

/// What a reservation is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// A page that was reserved can be written, as often as one likes, however full the file
    /// system becomes.
    Firm,
    /// Most likely it can. A write may fail with ENOSPC all the same; the page is dirty again then,
    /// the error is told to whoever syncs the file, and the data is in memory until there is room.
    BestEffort(NotFirm),
}

/// Why a reservation is not firm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotFirm {
    /// It has no `fallocate`.
    #[error("the file system cannot preallocate space")]
    NoPreallocation,
    /// Every write goes to another place, which must be found first.
    #[error(
        "the file system copies on write, so an overwrite takes new space; on btrfs a file without \
         it can be had (chattr +C on the empty file)"
    )]
    CopyOnWrite,
    /// A block that a clone shares is copied when it is written (XFS). A file of which no clone was
    /// made is as good as firm.
    #[error("the file system lets files share blocks, which are copied when they are written")]
    MayShareBlocks,
    /// The end of the file may lie between two blocks of its last page. Those past it go with each
    /// flush; they are reserved anew at once, and others may be faster.
    #[error("the file system's blocks are smaller than a page of 4 KiB")]
    SmallBlocks,
    /// It is not known how it treats preallocated space, by its number in `statfs`.
    #[error("it is not known whether the file system ({0:#x}) overwrites in place")]
    Unknown(u64),
}

/// Why a host file was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostFileError {
    /// The operating system refused a step.
    #[error("{}: {step}: {source}", path.display())]
    Os {
        /// The file.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Somebody else has it open as a store.
    #[error(
        "{}: another process, or another part of this one, has the file open as a store (flock); \
         close it there, or take another file",
        path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is a directory, a device, a socket.
    #[error("{}: not a regular file; a block device is driven by its URL instead", path.display())]
    NotAFile {
        /// What it is not.
        path: PathBuf,
    },
    /// [`Direct::Always`] was asked for.
    #[error(
        "{}: the file system does not take direct I/O in pages of 4 KiB; use Direct::IfPossible",
        path.display()
    )]
    NotDirect {
        /// The file.
        path: PathBuf,
    },
    /// [`EngineChoice::IoUring`] was asked for.
    #[error(
        "io_uring is not to be had: {0}; is it off (kernel.io_uring_disabled, a container's \
         seccomp filter)? EngineChoice::Auto does without"
    )]
    NoIoUring(#[source] io::Error),
    /// An option that makes no sense.
    #[error("{0}")]
    Option(String),
}
