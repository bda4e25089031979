//! What can go wrong between two vfio-user peers, and how a device refuses a request.
//! Errors are plain values: the first one ends a connection and is told to everybody who waits.
use crate::Command;
use std::path::PathBuf;
use std::time::Duration;

/// Why a connection could not be made, or of what it died, or what the peer refused.
///
/// ```
/// use underpin_vfio_user::{Client, ClientOptions, Error};
///
/// # use underpin_vfio_user::{Device, DeviceInfo, DmaMap, DmaUnmap, IrqInfo, RegionInfo, SetIrqs};
/// # use underpin_vfio_user::{Listener, Refusal, ServerOptions, device_flags, region_flags};
/// # use underpin_dma::rt::{Event, thread};
/// # use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
/// # struct Scratch([u8; 4096]);
/// # impl Device for Scratch {
/// #     fn info(&self) -> DeviceInfo {
/// #         DeviceInfo { flags: device_flags::PCI | device_flags::RESET, num_regions: 1, num_irqs: 3, ..DeviceInfo::default() }
/// #     }
/// #     fn region(&self, index: u32) -> Option<RegionInfo> {
/// #         let flags = region_flags::READ | region_flags::WRITE;
/// #         (index == 0).then(|| RegionInfo { flags, size: 4096, ..RegionInfo::default() })
/// #     }
/// #     fn region_file(&mut self, _: u32) -> Option<BorrowedFd<'_>> { None }
/// #     fn irq(&self, index: u32) -> Option<IrqInfo> {
/// #         (index == 2).then(|| IrqInfo { index, flags: 1, count: 4, ..IrqInfo::default() })
/// #     }
/// #     fn read(&mut self, _: u32, offset: u64, data: &mut [u8]) -> Result<(), Refusal> {
/// #         data.copy_from_slice(&self.0[offset as usize..][..data.len()]);
/// #         Ok(())
/// #     }
/// #     fn write(&mut self, _: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
/// #         self.0[offset as usize..][..data.len()].copy_from_slice(data);
/// #         Ok(())
/// #     }
/// #     fn set_irqs(&mut self, _: &SetIrqs, _: &[u8], _: Vec<OwnedFd>) -> Result<(), Refusal> { Ok(()) }
/// #     fn map(&mut self, _: &DmaMap, _: Option<OwnedFd>) -> Result<(), Refusal> { Ok(()) }
/// #     fn unmap(&mut self, _: &DmaUnmap) -> Result<(), Refusal> { Err(Refusal::absent("no such range")) }
/// #     fn reset(&mut self) -> Result<(), Refusal> { self.0.fill(0); Ok(()) }
/// #     fn gone(&mut self) {}
/// # }
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("scratch.sock");
/// # let listener = Listener::bind(&path)?;
/// # let stop = Event::new()?;
/// # let stopped = stop.clone();
/// # let server = thread::spawn("server", move || {
/// #     listener.serve(&mut Scratch([0; 4096]), ServerOptions::default(), stopped.as_fd())
/// # })?;
/// let client = Client::connect(&path, ClientOptions::default())?;
/// match client.region_read(5, 0, &mut [0; 4]) {
///     Err(Error::Refused { errno, .. }) => println!("errno {errno}; the connection goes on"),
///     Err(error) => panic!("the connection is of no more use: {error}"),
///     Ok(()) => panic!("there is no region 5"),
/// }
/// assert!(client.region_read(0, 0, &mut [0; 4]).is_ok());
/// # drop(client);
/// # stop.signal();
/// # server.join().expect("no panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A step with the socket's path failed.
    #[error("{step} {path:?} failed: {}{hint}", os(*.errno))]
    Socket {
        /// Which step.
        step: &'static str,
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        errno: i32,
        /// What to do about it, or nothing.
        hint: &'static str,
    },

    /// Somebody answers at the path already.
    #[error("another server answers at {path:?}; end it or choose another path")]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },

    /// There is something else at the path.
    #[error("{path:?} exists and is no socket; remove it or choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },

    /// A system call failed.
    #[error("{step} failed: {}", os(*.errno))]
    System {
        /// Which step.
        step: &'static str,
        /// What the system said.
        errno: i32,
    },

    /// The peer has closed the connection or is gone.
    #[error("the vfio-user peer closed the connection")]
    Closed,

    /// Something of the peer did not come in time.
    #[error(
        "{what} did not come within {timeout:?}: the vfio-user peer hangs, or serves somebody else"
    )]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        timeout: Duration,
    },

    /// The peer sent what no peer may send.
    #[error("the vfio-user peer broke the protocol: {0}")]
    Protocol(String),

    /// The peer answered a request with an error.
    #[error("the vfio-user peer refused {command}: {}", os(*.errno))]
    Refused {
        /// The request.
        command: Command,
        /// Its errno; 0 when it gave none.
        errno: i32,
    },

    /// The two peers cannot work together.
    #[error("the vfio-user peer does not fit: {0}")]
    Mismatch(String),
}

fn os(errno: i32) -> String {
    match errno {
        0 => "no reason given".to_owned(),
        errno => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

impl Error {
    pub(crate) fn system(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::System {
            step,
            errno: errno.raw_os_error(),
        }
    }
}

/// How a [`Device`](crate::Device) says no: the errno for the client and the reason for the log.
///
/// ```
/// use underpin_vfio_user::Refusal;
///
/// let refusal = Refusal::invalid("register 0x3 is not aligned to 4");
/// assert_eq!(refusal.errno, 22);
/// assert!(refusal.to_string().starts_with("register 0x3 is not aligned"));
/// assert_eq!(Refusal::absent("no such range").errno, 2);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why} ({})", os(*.errno))]
pub struct Refusal {
    /// What the client is told.
    pub errno: i32,
    /// Why, with numbers.
    pub why: String,
}

impl Refusal {
    fn new(errno: rustix::io::Errno, why: impl Into<String>) -> Self {
        Self {
            errno: errno.raw_os_error(),
            why: why.into(),
        }
    }

    /// EINVAL: the request makes no sense.
    pub fn invalid(why: impl Into<String>) -> Self {
        Self::new(rustix::io::Errno::INVAL, why)
    }

    /// EEXIST: it is there already.
    pub fn exists(why: impl Into<String>) -> Self {
        Self::new(rustix::io::Errno::EXIST, why)
    }

    /// ENOENT: there is no such thing.
    pub fn absent(why: impl Into<String>) -> Self {
        Self::new(rustix::io::Errno::NOENT, why)
    }

    /// EOPNOTSUPP: this device does not do that.
    pub fn unsupported(why: impl Into<String>) -> Self {
        Self::new(rustix::io::Errno::OPNOTSUPP, why)
    }

    /// ENOSPC: no more of them can be had.
    pub fn full(why: impl Into<String>) -> Self {
        Self::new(rustix::io::Errno::NOSPC, why)
    }

    /// EACCES: not with this right.
    pub fn denied(why: impl Into<String>) -> Self {
        Self::new(rustix::io::Errno::ACCESS, why)
    }

    /// EIO: the device does not answer.
    pub fn io(why: impl Into<String>) -> Self {
        Self::new(rustix::io::Errno::IO, why)
    }
}
