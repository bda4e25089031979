//! The server's socket: for its user alone from the first moment, stale ones replaced, its own
//! removed at the end.
use crate::Error;
use crate::connect::connect_now;
use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use underpin_dma::rt::{self, Instant};

/// Clients that may wait for their turn.
const BACKLOG: i32 = 16;
/// A start or an end takes a fraction of a millisecond.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// A socket at a path, to which clients connect. Its file is removed on drop, if it is still ours.
///
/// ```
/// use underpin_vfio_user::{Error, Listener};
///
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("device.sock");
/// let listener = Listener::bind(&path)?;
/// assert_eq!(listener.path(), path);
/// // Somebody answers there: it is not replaced.
/// assert!(matches!(Listener::bind(&path), Err(Error::InUse { .. })));
/// drop(listener);
/// assert!(!path.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's file.
    file: (u64, u64),
}

impl Listener {
    /// Makes the socket at `path`, for the calling user only, whatever the umask. A socket that
    /// an ended server left there is replaced; one that somebody answers at is not.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::NotASocket`], [`Error::Socket`].
    pub fn bind(path: &Path) -> Result<Self, Error> {
        let step = |step: &'static str| {
            move |errno: Errno| Error::Socket {
                step,
                path: path.to_owned(),
                errno: errno.raw_os_error(),
                hint: match errno {
                    Errno::NOENT => "; its directory must exist",
                    Errno::ACCESS | Errno::PERM => "; choose a directory that you may write",
                    Errno::NAMETOOLONG | Errno::INVAL => "; a socket's path has 107 bytes at most",
                    _ => "",
                },
            }
        };
        // Held until clients can connect: another server that starts at this moment would take our
        // socket for a stale one.
        let _starting = lock_directory(path);
        replace_stale(path)?;
        let address = SocketAddrUnix::new(path).map_err(step("naming"))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(step("making a socket for"))?;
        // On Linux the file that bind makes has no more rights than the socket has.
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::fchmod(&socket, mode).map_err(step("restricting"))?;
        rustix::net::bind(&socket, &address).map_err(step("binding"))?;
        // Nobody can connect before `listen`, so that an odd umask or system is corrected in time.
        let io = |what| {
            let step = step(what);
            move |error: std::io::Error| {
                step(Errno::from_raw_os_error(error.raw_os_error().unwrap_or(0)))
            }
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io("restricting"))?;
        let found = fs::symlink_metadata(path).map_err(io("looking at"))?;
        rustix::net::listen(&socket, BACKLOG).map_err(step("listening at"))?;
        Ok(Self {
            socket: UnixListener::from(socket),
            path: path.to_owned(),
            file: (found.dev(), found.ino()),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next client that waits.
    pub(crate) fn accept(&self) -> Result<Accepted, Error> {
        match self.socket.accept() {
            Ok((stream, _)) => Ok(Accepted::Client(stream)),
            Err(error) => match error.kind() {
                std::io::ErrorKind::WouldBlock
                | std::io::ErrorKind::Interrupted
                | std::io::ErrorKind::ConnectionAborted => Ok(Accepted::Nobody),
                _ if is_shortage(&error) => Ok(Accepted::NotNow),
                _ => Err(Error::System {
                    step: "accepting a client",
                    errno: error.raw_os_error().unwrap_or(0),
                }),
            },
        }
    }
}

/// Who was at the door.
pub(crate) enum Accepted {
    Client(UnixStream),
    Nobody,
    /// A client waits, and the process or the system has no descriptor or memory for it.
    NotNow,
}

fn is_shortage(error: &std::io::Error) -> bool {
    let errno = Errno::from_raw_os_error(error.raw_os_error().unwrap_or(0));
    matches!(
        errno,
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM
    )
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ending = lock_directory(&self.path);
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Keeps other servers from making or removing sockets in the directory of `path`. Where it cannot
/// be locked, or somebody else keeps it locked, servers that start together are on their own.
fn lock_directory(path: &Path) -> Option<File> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(directory).ok()?;
    let locked = rt::wait(
        Some(Instant::now() + LOCK_WAIT),
        |_now| match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK | Errno::INTR) => None,
            other => Some(other.is_ok()),
        },
    );
    matches!(locked, Ok(true)).then_some(directory)
}

/// Removes a socket at which nobody answers.
fn replace_stale(path: &Path) -> Result<(), Error> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(Error::NotASocket {
            path: path.to_owned(),
        });
    }
    match connect_now(path) {
        Ok(_) | Err(Errno::AGAIN) => Err(Error::InUse {
            path: path.to_owned(),
        }),
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(|error| Error::Socket {
            step: "removing the stale socket",
            path: path.to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
            hint: "; remove it yourself",
        }),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::Socket {
            step: "asking who answers at",
            path: path.to_owned(),
            errno: errno.raw_os_error(),
            hint: "; remove it, if no server uses it",
        }),
    }
}
