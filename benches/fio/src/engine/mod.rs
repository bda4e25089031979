//! The seam between the I/O loop and whatever does the I/O: one engine per job
//! thread, units of work travel through it by value.

#![forbid(unsafe_code)]

pub(crate) mod devices;
pub(crate) mod host_files;
pub(crate) mod psync;
pub(crate) mod targets;
pub(crate) mod underpin;
pub(crate) mod underpin_file;
pub(crate) mod uring;

pub(crate) use devices::Devices;
pub(crate) use targets::CacheWish;

use crate::generate::Region;
use crate::job::Target;
use crate::pins::PinUse;
use crate::sys::memory::AlignedBuffer;

/// What a unit asks of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Read,
    Write,
    /// Make what was written durable.
    Flush,
    /// The same, without the file's metadata.
    DataFlush,
}

/// One transfer: `len_bytes` at `offset` of file number `file`, to or from the
/// unit's buffer from `skip_bytes` on. (`skip_bytes` is not 0 when a short
/// transfer is continued.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) op: Op,
    pub(crate) file: u32,
    pub(crate) offset: u64,
    pub(crate) len_bytes: u32,
    pub(crate) skip_bytes: u32,
}

/// The loop's own notes on a unit; engines carry them along unread.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Note {
    /// When the unit was taken, ns on the job's clock.
    pub(crate) start_ns: u64,
    /// Index of the block in its region, for verification.
    pub(crate) block: u64,
    /// Seed in the verify header of a write.
    pub(crate) seed: u64,
    /// Number of the write in the verify header.
    pub(crate) number: u16,
}

/// A unit of work: the buffer, what to do with it, and the loop's notes. `tag`
/// is below the depth and unique among the units in flight.
#[derive(Debug)]
pub(crate) struct Unit<B> {
    pub(crate) tag: u32,
    pub(crate) request: Request,
    pub(crate) note: Note,
    pub(crate) buffer: B,
}

/// A unit that came back: bytes moved, or why none were.
#[derive(Debug)]
pub(crate) struct Done<B> {
    pub(crate) unit: Unit<B>,
    pub(crate) result: Result<u32, IoFailure>,
}

/// An I/O that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IoFailure {
    /// As in `errno.h`; what JSON reports call `error`.
    pub(crate) errno: i32,
    /// What the engine says about it (an NVMe status, the system's text).
    pub(crate) text: String,
}

impl From<std::io::Error> for IoFailure {
    fn from(error: std::io::Error) -> Self {
        Self {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            text: error.to_string(),
        }
    }
}

/// An engine that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("cannot open '{file}': {source}")]
    Open {
        file: String,
        source: std::io::Error,
    },
    #[error("{action} failed: {source}")]
    System {
        action: &'static str,
        source: std::io::Error,
    },
    #[error("{text}")]
    Device { errno: i32, text: String },
}

impl EngineError {
    /// As in `errno.h`.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            EngineError::Open { source, .. } | EngineError::System { source, .. } => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
            EngineError::Device { errno, .. } => *errno,
        }
    }
}

/// A unit that the engine did not take, given back.
#[derive(Debug)]
pub(crate) enum Refused<B> {
    /// No room now: reap something, then offer it again.
    Busy(Unit<B>),
}

/// Memory that I/O goes to and from. It is only copied into and out of, because
/// it may be memory that a device reaches.
pub(crate) trait IoBuffer {
    /// Copies `bytes` to the buffer's start.
    fn copy_from(&mut self, bytes: &[u8]);
    /// Copies the buffer's start to `bytes`.
    fn copy_to(&self, bytes: &mut [u8]);
}

impl IoBuffer for AlignedBuffer {
    fn copy_from(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(self.len());
        self.as_mut_slice()[..len].copy_from_slice(&bytes[..len]);
    }

    fn copy_to(&self, bytes: &mut [u8]) {
        let len = bytes.len().min(self.len());
        bytes[..len].copy_from_slice(&self.as_slice()[..len]);
    }
}

/// What a job thread asks an engine to open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenRequest<'a> {
    /// Paths, or one device URL.
    pub(crate) targets: &'a [String],
    /// Whether the media will be written.
    pub(crate) write: bool,
    /// Bypass the page cache.
    pub(crate) direct: bool,
    /// I/Os in flight at most.
    pub(crate) depth: u32,
    /// Bytes of the largest I/O.
    pub(crate) buffer_bytes: u32,
    /// io_uring: register the buffers.
    pub(crate) fixed_buffers: bool,
    /// Sleep for completions; for the userspace driver.
    pub(crate) interrupts: bool,
    /// io_uring: register the files.
    pub(crate) register_files: bool,
    /// The file whose pages the device reads and writes, and its cache; for underpin-file.
    pub(crate) file_target: Option<(&'a Target, CacheWish)>,
    /// The loop looks at what is read and says what is written.
    pub(crate) with_bytes: bool,
}

/// Sizes of a file or namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) len_bytes: u64,
    /// Offsets and lengths must be multiples of this.
    pub(crate) block_bytes: u32,
}

/// Does I/O for one job thread. Calls come as: `open`, `cover`, `buffer` × depth, `ready`,
/// then any number of `queue`…`commit`, `reap`.
pub(crate) trait Engine: Sized {
    /// The memory this engine does I/O with.
    type Buffer: IoBuffer;
    /// `queue` does the whole I/O: there is no submission latency, and depth
    /// means nothing.
    const COMPLETES_IN_QUEUE: bool;

    /// Opens the targets. Devices are opened once per process and URL, in
    /// `devices`; each thread gets its own queue pair.
    fn open(request: &OpenRequest<'_>, devices: &Devices) -> Result<Self, EngineError>;

    /// Sizes of target number `file`.
    fn geometry(&self, file: usize) -> Result<Geometry, EngineError>;

    /// What makes [`geometry`](Self::geometry) less than the whole target, if anything does.
    fn limited_by(&self) -> Option<String> {
        None
    }

    /// The job will use these parts and no others; where there is a file besides, it is made long
    /// enough.
    fn cover(&mut self, _regions: &[Region]) -> Result<(), EngineError> {
        Ok(())
    }

    /// One buffer of at least `len_bytes`.
    fn buffer(&mut self, len_bytes: u32) -> Result<Self::Buffer, EngineError>;

    /// All buffers are made and all are in `units`, none in flight.
    fn ready(&mut self, units: &mut [Unit<Self::Buffer>]) -> Result<(), EngineError>;

    /// Takes a unit. It may start at once or wait for `commit`.
    fn queue(&mut self, unit: Unit<Self::Buffer>) -> Result<(), Refused<Self::Buffer>>;

    /// Starts everything queued: one doorbell or one system call.
    fn commit(&mut self) -> Result<(), EngineError>;

    /// Waits for `min` completions, takes at most `max`, appends them to `done`
    /// (which has room, so that nothing is allocated).
    fn reap(
        &mut self,
        min: u32,
        max: u32,
        done: &mut Vec<Done<Self::Buffer>>,
    ) -> Result<(), EngineError>;

    /// Makes the next reads come from the device, where there is a cache.
    fn drop_caches(&mut self) {}

    /// What was counted of pinned pages, where there are any.
    fn pins(&mut self) -> Option<PinUse> {
        None
    }

    /// The ramp is over: forgets what was counted.
    fn restart(&mut self) {}
}
