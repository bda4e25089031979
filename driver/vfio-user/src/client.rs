//! The client's side: requests from any thread, several in flight, each with its deadline.
//! The first failure ends the connection for everybody; whether the server has ended is proven
//! by its side of the socket being closed, or by its reply to a reset.
mod asked;

pub use asked::AskedRead;

use crate::channel::{AT_ONCE, Inbox, MOST_DATA_BYTES, MOST_FDS, Message, Outbox};
use crate::connect::connect_now;
use crate::message::{
    self, DeviceInfo, DmaMap, DmaUnmap, Header, IrqInfo, RegionAccess, RegionHead, SetIrqs,
    VersionHead, device_flags, header_flags, irq, region_flags,
};
use crate::{Capabilities, Command, Error, RegionInfo};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;
use underpin_dma::rt::sync::{Mutex, OnceLock};
use underpin_dma::rt::{self, Instant};

/// Choices about a client.
///
/// ```
/// use std::time::Duration;
/// use underpin_vfio_user::{Client, ClientOptions, Error};
///
/// let options = ClientOptions { timeout: Duration::from_millis(500) };
/// let error = Client::connect("/nobody/serves/here.sock".as_ref(), options).unwrap_err();
/// assert!(matches!(error, Error::Socket { .. }));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// How long each message may take: a request until its reply, a reply from its first byte to
    /// its last. A server that takes longer has failed.
    pub timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
        }
    }
}

/// The protocol's version that we speak.
pub(crate) const MAJOR: u16 = 0;
pub(crate) const MINOR: u16 = 1;

/// Replies to commands of the server that nobody reads pile up at most to this many.
const MOST_UNSENT: usize = 64;
/// The longest list of region capabilities that is asked for.
const MOST_REGION_BYTES: u32 = 32 << 10;

/// A connection to a server. Every request may be made from any thread.
///
/// When a request fails for another reason than [`Error::Refused`], the connection is of no more
/// use and every later request fails with the same error.
///
/// With a server of a device of 4 KiB of registers (that of [`Device`](crate::Device)) at `path`:
///
/// ```
/// use underpin_vfio_user::{Client, ClientOptions, Error, dma_flags, irq};
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
/// assert_eq!(client.path(), path);
/// assert!(client.server().max_dma_maps > 0);
///
/// // What it is.
/// assert!(client.is_pci()?);
/// assert_eq!(client.device_info()?.num_regions, 1);
/// assert_eq!(client.region_info(0)?.size, 4096);
/// assert!(client.region_file(0)?.is_none(), "nothing of it can be mapped");
/// assert_eq!(client.irq_info(irq::MSIX)?.count, 4);
///
/// // Its registers.
/// client.region_write(0, 8, &7_u32.to_ne_bytes())?;
/// client.region_post(0, 12, &9_u32.to_ne_bytes())?;
/// let mut both = [0; 8];
/// client.region_read(0, 8, &mut both)?;
/// assert_eq!(u64::from_ne_bytes(both), 9 << 32 | 7);
/// // Without waiting for the server.
/// let asked = client.region_ask::<4>(0, 12)?;
/// let answer = loop {
///     if let Some(answer) = client.region_answer(&asked)? {
///         break answer;
///     }
/// };
/// assert_eq!(u32::from_ne_bytes(answer), 9);
///
/// // Interrupts and memory go by descriptor.
/// let event = Event::new()?;
/// client.set_irqs(irq::MSIX, 0, &[event.as_fd()])?;
/// let file = tempfile::tempfile_in("/dev/shm")?;
/// file.set_len(1 << 20)?;
/// let map = DmaMap {
///     flags: dma_flags::READ | dma_flags::WRITE,
///     address: 4 << 30,
///     size: 1 << 20,
///     ..DmaMap::default()
/// };
/// client.dma_map(&map, file.as_fd())?;
/// // This server refuses to give it back; a refusal does no harm to the connection.
/// let refused = client.dma_unmap(map.address, map.size);
/// assert!(matches!(refused, Err(Error::Refused { .. })));
///
/// client.reset()?;
/// client.region_read(0, 8, &mut both)?;
/// assert_eq!(both, [0; 8]);
/// assert!(client.failure().is_none() && !client.has_ended());
/// client.end()?;
/// assert!(client.has_ended());
/// # stop.signal();
/// # server.join().expect("no panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    path: PathBuf,
    timeout: Duration,
    next_id: AtomicU16,
    outbox: Mutex<Outbox>,
    replies: Mutex<Replies>,
    failure: OnceLock<Error>,
    /// The server's side was seen closed.
    ended: AtomicBool,
    server: Capabilities,
}

#[derive(Debug)]
struct Replies {
    inbox: Inbox,
    /// Requests whose reply has not been fetched.
    waiting: HashMap<u16, Waiting>,
}

#[derive(Debug)]
enum Waiting {
    For(Command),
    Came(Message),
}

impl Client {
    /// Connects to the server at `path` and agrees on a version.
    ///
    /// # Errors
    /// [`Error::Socket`] when nobody answers there; [`Error::Timeout`] when the server does not
    /// take us, as it may be busy with another client; [`Error::Mismatch`] and
    /// [`Error::Protocol`] when it answers what we cannot use.
    pub fn connect(path: &Path, options: ClientOptions) -> Result<Self, Error> {
        let deadline = Instant::now() + options.timeout;
        let connected = rt::wait(Some(deadline), |_now| match connect_now(path) {
            // Its queue of waiting clients is full.
            Err(Errno::AGAIN) => None,
            other => Some(other),
        });
        let connected = connected.map_err(|_| Error::Timeout {
            what: "a place among the server's waiting clients".to_owned(),
            timeout: options.timeout,
        })?;
        let socket = connected.map_err(|errno| Error::Socket {
            step: "connecting to",
            path: path.to_owned(),
            errno: errno.raw_os_error(),
            hint: match errno {
                Errno::NOENT => "; is the server running, and is this its path?",
                Errno::CONNREFUSED => "; its server has ended: start it again",
                Errno::ACCESS => "; only the user who runs the server may connect",
                _ => "",
            },
        })?;
        let mut client = Self {
            socket,
            path: path.to_owned(),
            timeout: options.timeout,
            next_id: AtomicU16::new(0),
            outbox: Mutex::new(Outbox::default()),
            replies: Mutex::new(Replies {
                inbox: Inbox::new(options.timeout),
                waiting: HashMap::new(),
            }),
            failure: OnceLock::new(),
            ended: AtomicBool::new(false),
            server: Capabilities::default(),
        };
        client.server = client.negotiate()?;
        tracing::debug!(path = %path.display(), limits = ?client.server, "vfio-user connection");
        Ok(client)
    }

    fn negotiate(&self) -> Result<Capabilities, Error> {
        let version = VersionHead {
            major: MAJOR,
            minor: MINOR,
        };
        let ours = Capabilities {
            max_msg_fds: MOST_FDS as u32,
            max_data_xfer_size: MOST_DATA_BYTES as u32,
            ..Capabilities::default()
        };
        let reply = self.call(
            Command::Version,
            &[&version.encode(), &ours.encode()],
            Vec::new(),
        )?;
        let (version, capabilities) = VersionHead::decode(&reply.body)?;
        if version.major != MAJOR || version.minor > MINOR {
            return Err(self.fail(Error::Mismatch(format!(
                "it speaks version {}.{}, we speak {MAJOR}.0 to {MAJOR}.{MINOR}",
                version.major, version.minor
            ))));
        }
        Capabilities::decode(capabilities).map_err(|error| self.fail(error))
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the server can take.
    pub const fn server(&self) -> Capabilities {
        self.server
    }

    /// Why the connection is of no more use, if it is.
    pub fn failure(&self) -> Option<Error> {
        self.failure.get().cloned()
    }

    /// True when the server's side of the connection was seen closed: it serves us no more.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Asks what the device is.
    ///
    /// # Errors
    /// As every request: [`Error::Refused`], [`Error::Timeout`], [`Error::Closed`],
    /// [`Error::Protocol`].
    pub fn device_info(&self) -> Result<DeviceInfo, Error> {
        let request = DeviceInfo {
            argsz: DeviceInfo::LEN_BYTES as u32,
            ..DeviceInfo::default()
        };
        let reply = self.call(Command::DeviceGetInfo, &[&request.encode()], Vec::new())?;
        let info = DeviceInfo::decode(&reply.body).map_err(|error| self.fail(error))?;
        Ok(info.0)
    }

    /// True when the device is one that this crate's numbers of regions and interrupts fit.
    ///
    /// # Errors
    /// As [`device_info`](Self::device_info).
    pub fn is_pci(&self) -> Result<bool, Error> {
        Ok(self.device_info()?.flags & device_flags::PCI != 0)
    }

    /// Asks what region `index` is, without what can be mapped.
    ///
    /// # Errors
    /// As [`device_info`](Self::device_info).
    pub fn region_info(&self, index: u32) -> Result<RegionInfo, Error> {
        Ok(self.ask_region(index, RegionHead::LEN_BYTES as u32)?.0)
    }

    /// Asks for the file behind region `index` and which areas of it can be mapped. `None` when
    /// the server offers none.
    ///
    /// # Errors
    /// As [`device_info`](Self::device_info).
    pub fn region_file(&self, index: u32) -> Result<Option<(RegionInfo, OwnedFd)>, Error> {
        let (info, needed, _) = self.ask_region(index, RegionHead::LEN_BYTES as u32)?;
        if info.flags & region_flags::MMAP == 0 {
            return Ok(None);
        }
        let argsz = needed.clamp(RegionHead::LEN_BYTES as u32, MOST_REGION_BYTES);
        let (info, _, mut fds) = self.ask_region(index, argsz)?;
        Ok(fds.pop().map(|fd| (info, fd)))
    }

    fn ask_region(&self, index: u32, argsz: u32) -> Result<(RegionInfo, u32, Vec<OwnedFd>), Error> {
        let request = RegionHead {
            argsz,
            index,
            ..RegionHead::default()
        };
        let reply = self.call(Command::GetRegionInfo, &[&request.encode()], Vec::new())?;
        let decoded = RegionInfo::decode(&reply.body, index);
        let (info, needed) = decoded.map_err(|error| self.fail(error))?;
        Ok((info, needed, reply.fds))
    }

    /// Asks how many interrupts of kind `index` there are.
    ///
    /// # Errors
    /// As [`device_info`](Self::device_info).
    pub fn irq_info(&self, index: u32) -> Result<IrqInfo, Error> {
        let request = IrqInfo {
            argsz: IrqInfo::LEN_BYTES as u32,
            index,
            ..IrqInfo::default()
        };
        let reply = self.call(Command::GetIrqInfo, &[&request.encode()], Vec::new())?;
        let info = IrqInfo::decode(&reply.body).map_err(|error| self.fail(error))?;
        Ok(info.0)
    }

    /// Ties interrupts of kind `index`, from number `start` on, to eventfds; none: unties all.
    ///
    /// # Errors
    /// As [`device_info`](Self::device_info); [`Error::Mismatch`] when the server takes fewer
    /// descriptors at a time.
    pub fn set_irqs(&self, index: u32, start: u32, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let most = (self.server.max_msg_fds as usize).min(MOST_FDS);
        if fds.len() > most {
            return Err(Error::Mismatch(format!(
                "{} interrupts at a time; it takes {most}",
                fds.len()
            )));
        }
        let data = match fds.len() {
            0 => irq::DATA_NONE,
            _ => irq::DATA_EVENTFD,
        };
        let request = SetIrqs {
            argsz: SetIrqs::LEN_BYTES as u32,
            flags: data | irq::TRIGGER,
            index,
            start,
            count: fds.len() as u32,
        };
        let fds = duplicated(fds)?;
        self.call(Command::SetIrqs, &[&request.encode()], fds)?;
        Ok(())
    }

    /// Masks `count` interrupts of kind `index`, from number `start` on, or lets them through
    /// again, and asks for no reply. For kinds whose info says [`irq::MASKABLE`].
    ///
    /// # Errors
    /// As [`region_post`](Self::region_post).
    pub fn mask_irqs(&self, index: u32, start: u32, count: u32, masked: bool) -> Result<(), Error> {
        let request = SetIrqs {
            argsz: SetIrqs::LEN_BYTES as u32,
            flags: irq::DATA_NONE | if masked { irq::MASK } else { irq::UNMASK },
            index,
            start,
            count,
        };
        self.post(Command::SetIrqs, &[&request.encode()])
    }

    /// Reads `data.len()` bytes of a region, from `offset` on.
    ///
    /// # Errors
    /// As [`device_info`](Self::device_info); [`Error::Mismatch`] for more bytes than both sides
    /// take at a time.
    pub fn region_read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Error> {
        let access = self.access(region, offset, data.len())?;
        let reply = self.call(Command::RegionRead, &[&access.encode()], Vec::new())?;
        self.read_into(data, access, &reply)
    }

    /// Takes what came for a read.
    fn read_into(
        &self,
        data: &mut [u8],
        access: RegionAccess,
        reply: &Message,
    ) -> Result<(), Error> {
        let (echo, bytes) = RegionAccess::decode(&reply.body).map_err(|error| self.fail(error))?;
        if echo.count != access.count || bytes.len() != data.len() {
            return Err(self.fail(Error::Protocol(format!(
                "{} bytes came for {} bytes of region {} at {:#x}",
                bytes.len(),
                data.len(),
                access.region,
                access.offset
            ))));
        }
        data.copy_from_slice(bytes);
        Ok(())
    }

    /// Writes a region, from `offset` on, and waits until it is done.
    ///
    /// # Errors
    /// As [`region_read`](Self::region_read).
    pub fn region_write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), Error> {
        let access = self.access(region, offset, data.len())?;
        self.call(Command::RegionWrite, &[&access.encode(), data], Vec::new())?;
        Ok(())
    }

    /// Writes a region and asks for no reply: for doorbells. Later requests are done after it.
    ///
    /// # Errors
    /// As [`region_read`](Self::region_read), but that nothing tells of a refusal.
    pub fn region_post(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), Error> {
        let access = self.access(region, offset, data.len())?;
        self.post(Command::RegionWrite, &[&access.encode(), data])
    }

    /// Sends a request that has no reply.
    fn post(&self, command: Command, body: &[&[u8]]) -> Result<(), Error> {
        self.check()?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let flags = header_flags::COMMAND | header_flags::NO_REPLY;
        let bytes = message::encode(id, command as u16, flags, 0, body);
        let sent = {
            let mut outbox = self.outbox.lock();
            outbox.push(bytes, Vec::new());
            outbox
                .poll(&self.socket)
                .map_err(|error| self.fail(error))?
        };
        if sent {
            return Ok(());
        }
        // The server is behind. Nobody may poll after this, so it must be out before we return.
        self.wait("a place for a message", |_now| match self.flush() {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        })
    }

    /// Gives the server `size` bytes of DMA addresses from `map.address` on, backed by `file`.
    ///
    /// # Errors
    /// As [`device_info`](Self::device_info).
    pub fn dma_map(&self, map: &DmaMap, file: BorrowedFd<'_>) -> Result<(), Error> {
        let request = DmaMap {
            argsz: DmaMap::LEN_BYTES as u32,
            ..*map
        };
        self.call(Command::DmaMap, &[&request.encode()], duplicated(&[file])?)?;
        Ok(())
    }

    /// Takes a range back. When this returns `Ok` the server does no more DMA there.
    ///
    /// # Errors
    /// As [`device_info`](Self::device_info).
    pub fn dma_unmap(&self, address: u64, size: u64) -> Result<(), Error> {
        let request = DmaUnmap {
            argsz: DmaUnmap::LEN_BYTES as u32,
            flags: 0,
            address,
            size,
        };
        self.call(Command::DmaUnmap, &[&request.encode()], Vec::new())?;
        Ok(())
    }

    /// Resets the device. When this returns `Ok` the server does no more DMA until the device is
    /// set up again.
    ///
    /// # Errors
    /// As [`device_info`](Self::device_info).
    pub fn reset(&self) -> Result<(), Error> {
        self.call(Command::DeviceReset, &[], Vec::new())?;
        Ok(())
    }

    /// Closes our side and waits until the server has closed its own: a server does so when it
    /// has let go of all that we gave it, or when its process is gone and its memory with it.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it has not in time; nothing is proven then.
    pub fn end(&self) -> Result<(), Error> {
        if self.has_ended() {
            return Ok(());
        }
        let _ = self.failure.set(Error::Closed);
        // What it refuses is known: the socket is not connected any more, which is what we ask.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
        self.wait("the end of the connection", |_now| {
            self.replies
                .lock()
                .inbox
                .drain(&self.socket)
                .then_some(Ok(()))
        })?;
        self.ended.store(true, Ordering::Release);
        Ok(())
    }

    // Requests.

    fn access(&self, region: u32, offset: u64, len_bytes: usize) -> Result<RegionAccess, Error> {
        let most = (self.server.max_data_xfer_size as usize).min(MOST_DATA_BYTES);
        if len_bytes > most {
            return Err(Error::Mismatch(format!(
                "{len_bytes} bytes of a region at a time; {most} are possible"
            )));
        }
        Ok(RegionAccess {
            offset,
            region,
            count: len_bytes as u32,
        })
    }

    fn check(&self) -> Result<(), Error> {
        self.failure
            .get()
            .map_or(Ok(()), |error| Err(error.clone()))
    }

    /// The first failure stays; it is what everybody is told.
    fn fail(&self, error: Error) -> Error {
        if self.failure.set(error.clone()).is_ok() {
            tracing::warn!(path = %self.path.display(), %error, "vfio-user connection failed");
        }
        self.failure.get().cloned().unwrap_or(error)
    }

    /// Sends a request and waits for its reply.
    fn call(&self, command: Command, body: &[&[u8]], fds: Vec<OwnedFd>) -> Result<Message, Error> {
        self.check()?;
        let id = self.expect_reply(command)?;
        let bytes = message::encode(id, command as u16, header_flags::COMMAND, 0, body);
        self.outbox.lock().push(bytes, fds);
        let reply = self.wait(&format!("the reply to {command}"), |now| self.turn(id, now));
        if reply.is_err() {
            self.replies.lock().waiting.remove(&id);
        }
        accepted(command, reply?)
    }

    /// An identifier that no other request in flight has.
    fn expect_reply(&self, command: Command) -> Result<u16, Error> {
        let mut replies = self.replies.lock();
        for _ in 0..=u16::MAX {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            if let std::collections::hash_map::Entry::Vacant(place) = replies.waiting.entry(id) {
                place.insert(Waiting::For(command));
                return Ok(id);
            }
        }
        Err(Error::Mismatch("65536 requests are in flight".to_owned()))
    }

    /// Waits for an answer no longer than a message may take; whoever waits in vain ends the
    /// connection, as a reply that comes later could not be told from another's.
    fn wait<T>(
        &self,
        what: &str,
        poll: impl FnMut(Instant) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + self.timeout;
        match rt::wait(Some(deadline), poll) {
            Ok(answer) => answer,
            Err(_) => Err(self.fail(Error::Timeout {
                what: what.to_owned(),
                timeout: self.timeout,
            })),
        }
    }

    /// True when all messages are out.
    fn flush(&self) -> Result<bool, Error> {
        self.outbox
            .lock()
            .poll(&self.socket)
            .map_err(|error| self.fail(error))
    }

    /// Sends what waits, takes what has come, for whomever, and looks for the reply to `id`.
    fn turn(&self, id: u16, now: Instant) -> Option<Result<Message, Error>> {
        // The peer may have closed its receiving side only: what it sent before is still read.
        let sent = self.flush();
        let mut replies = self.replies.lock();
        let taken = self.take(&mut replies, now);
        if let Some(Waiting::Came(_)) = replies.waiting.get(&id)
            && let Some(Waiting::Came(message)) = replies.waiting.remove(&id)
        {
            return Some(Ok(message));
        }
        let failed = sent.err().or(taken.err()).or_else(|| self.failure());
        failed.map(Err)
    }

    fn take(&self, replies: &mut Replies, now: Instant) -> Result<(), Error> {
        for _ in 0..AT_ONCE {
            let came = replies.inbox.poll(&self.socket, now);
            if replies.inbox.has_ended() {
                self.ended.store(true, Ordering::Release);
            }
            match came {
                Ok(Some(message)) => self
                    .file(replies, message)
                    .map_err(|error| self.fail(error))?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.fail(error)),
            }
        }
        Ok(())
    }

    /// Puts a reply where its request finds it.
    fn file(&self, replies: &mut Replies, message: Message) -> Result<(), Error> {
        let Header { id, .. } = message.header;
        let name = message.header.name();
        if message.header.is_command() {
            return self.answer_no(&message.header);
        }
        if !message.header.is_reply() {
            return Err(Error::Protocol(format!(
                "{name} {id} is neither a command nor a reply (flags {:#x})",
                message.header.flags
            )));
        }
        let Some(place) = replies.waiting.get_mut(&id) else {
            return Err(Error::Protocol(format!(
                "a reply to {name} {id} came that nobody asked for"
            )));
        };
        let Waiting::For(command) = *place else {
            return Err(Error::Protocol(format!("two replies to {name} {id} came")));
        };
        if message.header.command != command as u16 {
            return Err(Error::Protocol(format!(
                "the reply to {command} {id} says that it is one to {name}"
            )));
        }
        let allowed = usize::from(command == Command::GetRegionInfo);
        if message.fds.len() > allowed {
            return Err(Error::Protocol(format!(
                "{} descriptors came with the reply to {command}",
                message.fds.len()
            )));
        }
        *place = Waiting::Came(message);
        Ok(())
    }

    /// Servers may ask for DMA by message; we give memory by descriptor only.
    fn answer_no(&self, header: &Header) -> Result<(), Error> {
        if header.wants_no_reply() {
            return Ok(());
        }
        let mut outbox = self.outbox.lock();
        if outbox.len() >= MOST_UNSENT {
            return Err(Error::Protocol(format!(
                "it asks without end ({}) and reads no answers",
                header.name()
            )));
        }
        let flags = header_flags::REPLY | header_flags::ERROR;
        let errno = Errno::OPNOTSUPP.raw_os_error() as u32;
        outbox.push(
            message::encode(header.id, header.command, flags, errno, &[]),
            Vec::new(),
        );
        Ok(())
    }
}

/// A reply that is no refusal.
fn accepted(command: Command, reply: Message) -> Result<Message, Error> {
    match reply.header.is_error() {
        true => Err(Error::Refused {
            command,
            errno: i32::try_from(reply.header.error).unwrap_or(0),
        }),
        false => Ok(reply),
    }
}

/// Descriptors of our own, to be kept until the message is out.
fn duplicated(fds: &[BorrowedFd<'_>]) -> Result<Vec<OwnedFd>, Error> {
    fds.iter()
        .map(|fd| {
            fd.as_fd()
                .try_clone_to_owned()
                .map_err(|error| Error::System {
                    step: "duplicating a descriptor",
                    errno: error.raw_os_error().unwrap_or(0),
                })
        })
        .collect()
}
