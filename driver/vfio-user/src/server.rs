//! The server's side: one client after another, and what a device must be able to do for them.
//! A client that breaks the protocol, dribbles or reads no replies is let go; the next is served.
use crate::channel::{AT_ONCE, Inbox, MOST_DATA_BYTES, MOST_FDS, Message, Outbox};
use crate::client::{MAJOR, MINOR};
use crate::listener::Accepted;
use crate::message::{
    self, DeviceInfo, DmaMap, DmaUnmap, IrqInfo, RegionAccess, RegionHead, SetIrqs, VersionHead,
    header_flags,
};
use crate::{Capabilities, Command, Error, Listener, Refusal, RegionInfo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use underpin_dma::rt::Instant;

/// A device that can be served. Everything in a request comes from a peer: whatever it says,
/// the answer is a result or a [`Refusal`].
///
/// A device of 4 KiB of registers, served to a client of this process:
///
/// ```
/// use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
/// use underpin_dma::rt::{Event, thread};
/// use underpin_vfio_user::{
///     Client, ClientOptions, Device, DeviceInfo, DmaMap, DmaUnmap, IrqInfo, Listener, Refusal,
///     RegionInfo, ServerOptions, SetIrqs, device_flags, region_flags,
/// };
///
/// struct Scratch([u8; 4096]);
///
/// impl Device for Scratch {
///     fn info(&self) -> DeviceInfo {
///         DeviceInfo { flags: device_flags::PCI, num_regions: 1, ..DeviceInfo::default() }
///     }
///     fn region(&self, index: u32) -> Option<RegionInfo> {
///         let flags = region_flags::READ | region_flags::WRITE;
///         (index == 0).then(|| RegionInfo { flags, size: 4096, ..RegionInfo::default() })
///     }
///     fn region_file(&mut self, _index: u32) -> Option<BorrowedFd<'_>> {
///         None
///     }
///     fn irq(&self, _index: u32) -> Option<IrqInfo> {
///         None
///     }
///     // The server has checked that the range lies within the region.
///     fn read(&mut self, _region: u32, offset: u64, data: &mut [u8]) -> Result<(), Refusal> {
///         data.copy_from_slice(&self.0[offset as usize..][..data.len()]);
///         Ok(())
///     }
///     fn write(&mut self, _region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
///         self.0[offset as usize..][..data.len()].copy_from_slice(data);
///         Ok(())
///     }
///     fn set_irqs(&mut self, _: &SetIrqs, _: &[u8], _: Vec<OwnedFd>) -> Result<(), Refusal> {
///         Err(Refusal::absent("it has no interrupts"))
///     }
///     fn map(&mut self, _map: &DmaMap, _file: Option<OwnedFd>) -> Result<(), Refusal> {
///         Ok(()) // It does no DMA.
///     }
///     fn unmap(&mut self, _unmap: &DmaUnmap) -> Result<(), Refusal> {
///         Ok(())
///     }
///     fn reset(&mut self) -> Result<(), Refusal> {
///         Err(Refusal::unsupported("it has no reset"))
///     }
///     fn gone(&mut self) {
///         self.0.fill(0);
///     }
/// }
///
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("scratch.sock");
/// let listener = Listener::bind(&path)?;
/// let stop = Event::new()?;
/// let stopped = stop.clone();
/// let server = thread::spawn("server", move || {
///     listener.serve(&mut Scratch([0; 4096]), ServerOptions::default(), stopped.as_fd())
/// })?;
///
/// for _ in 0..2 {
///     let client = Client::connect(&path, ClientOptions::default())?;
///     let mut word = [1; 4];
///     client.region_read(0, 0, &mut word)?;
///     assert_eq!(word, [0; 4], "nothing is left of the client before");
///     client.region_write(0, 0, &[7; 4])?;
///     client.region_read(0, 0, &mut word)?;
///     assert_eq!(word, [7; 4]);
///     assert!(client.reset().is_err());
///     client.end()?;
/// }
/// stop.signal();
/// server.join().expect("no panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Device {
    /// What the device is.
    fn info(&self) -> DeviceInfo;

    /// What region `index` is; `None`: there is none of this number.
    fn region(&self, index: u32) -> Option<RegionInfo>;

    /// The file behind a region of which areas can be mapped. Called when it is given away.
    fn region_file(&mut self, index: u32) -> Option<BorrowedFd<'_>>;

    /// How many interrupts of kind `index` there are; `None`: there is no such kind.
    fn irq(&self, index: u32) -> Option<IrqInfo>;

    /// Reads a region. The range lies within it.
    ///
    /// # Errors
    /// A refusal, which the client is told.
    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Refusal>;

    /// Writes a region. The range lies within it.
    ///
    /// # Errors
    /// A refusal, which the client is told.
    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal>;

    /// Does something with interrupts. The range lies within their number; `fds` are eventfds,
    /// one each or none; `bools` are the bytes of DATA_BOOL.
    ///
    /// # Errors
    /// A refusal, which the client is told.
    fn set_irqs(
        &mut self,
        request: &SetIrqs,
        bools: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal>;

    /// Takes a range of DMA addresses; without a file it cannot be reached.
    ///
    /// # Errors
    /// A refusal, which the client is told.
    fn map(&mut self, map: &DmaMap, file: Option<OwnedFd>) -> Result<(), Refusal>;

    /// Gives a range back. When this returns, no DMA to it follows.
    ///
    /// # Errors
    /// A refusal, which the client is told.
    fn unmap(&mut self, unmap: &DmaUnmap) -> Result<(), Refusal>;

    /// Resets the device. When this returns `Ok`, no DMA follows until it is set up again.
    ///
    /// # Errors
    /// A refusal, which the client is told.
    fn reset(&mut self) -> Result<(), Refusal>;

    /// The client is gone, in whatever state: DMA ends, every range is given back, interrupts
    /// are untied, the device is reset. The connection is closed after this returns.
    fn gone(&mut self);
}

/// Choices about a server.
///
/// ```
/// use std::time::Duration;
/// use underpin_vfio_user::ServerOptions;
///
/// let strict = ServerOptions { timeout: Duration::from_millis(100), ..ServerOptions::default() };
/// assert_eq!(strict.max_dma_maps, 768);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// How long a client may take for a message that it has begun, for its first message, and
    /// for taking our replies. One that takes longer is let go.
    pub timeout: Duration,
    /// Ranges of DMA addresses that one client may have; what it is told.
    pub max_dma_maps: u32,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            // Each has a descriptor, of which a process has 1024 by default.
            max_dma_maps: 768,
        }
    }
}

/// How long a client waits before it is looked at again, where there is nothing to take it with.
const SHORTAGE: Duration = Duration::from_millis(100);

impl Listener {
    /// Serves clients, one at a time, until `stop` becomes readable. A client of that moment is
    /// let go.
    ///
    /// # Errors
    /// [`Error::System`] when the socket itself fails; what clients do wrong ends with them.
    pub fn serve(
        &self,
        device: &mut dyn Device,
        options: ServerOptions,
        stop: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        while let Woken::Ready = wait_for(self.as_fd(), PollFlags::IN, stop, None)? {
            let socket = match self.accept()? {
                Accepted::Client(socket) => socket,
                Accepted::Nobody => continue,
                Accepted::NotNow => {
                    tracing::warn!("no descriptor or memory for a client that waits");
                    let again = Some(Instant::now() + SHORTAGE);
                    match wait_for(self.as_fd(), PollFlags::empty(), stop, again)? {
                        Woken::Stopped => return Ok(()),
                        _ => continue,
                    }
                }
            };
            tracing::info!(path = %self.path().display(), "a client has come");
            let mut session = Session {
                socket,
                inbox: Inbox::new(options.timeout),
                outbox: Outbox::default(),
                options,
                greeted: false,
            };
            let ended = session.run(device, stop);
            // Everything is given back before the client can see its connection closed: that is
            // the proof it waits for.
            device.gone();
            drop(session);
            match ended {
                Ok(Woken::Stopped) => return Ok(()),
                Ok(_) | Err(Error::Closed) => tracing::info!("the client has gone"),
                Err(error) => tracing::warn!(%error, "the client was let go"),
            }
        }
        Ok(())
    }
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    Ready,
    Late,
    Stopped,
}

/// Sleeps in the kernel until `fd` is ready, the server is to stop, or `deadline` has passed: a
/// client's message must wake us at once, and nothing else here has to move meanwhile.
fn wait_for(
    fd: BorrowedFd<'_>,
    events: PollFlags,
    stop: BorrowedFd<'_>,
    deadline: Option<Instant>,
) -> Result<Woken, Error> {
    loop {
        let left = deadline.map(|deadline| deadline.since(Instant::now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let mut fds = [
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::from_borrowed_fd(fd, events),
        ];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Ok(Woken::Late),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(Woken::Stopped),
            Ok(_) => return Ok(Woken::Ready),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::system("waiting for a client")(errno)),
        }
    }
}

/// One client.
struct Session {
    socket: UnixStream,
    inbox: Inbox,
    outbox: Outbox,
    options: ServerOptions,
    /// A version was agreed on.
    greeted: bool,
}

/// What a request is answered with.
struct Reply {
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl From<Vec<u8>> for Reply {
    fn from(body: Vec<u8>) -> Self {
        Self {
            body,
            fds: Vec::new(),
        }
    }
}

/// Why a request has no good answer.
enum No {
    /// The client is told, and goes on.
    Refused(Refusal),
    /// The client is let go.
    Broken(Error),
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for No {
    /// A body that is too short: its message is whole, so the client is told and goes on.
    fn from(error: Error) -> Self {
        Self::Refused(Refusal::invalid(error.to_string()))
    }
}

impl Session {
    fn run(&mut self, device: &mut dyn Device, stop: BorrowedFd<'_>) -> Result<Woken, Error> {
        let mut greeting = Some(Instant::now() + self.options.timeout);
        loop {
            let mut taken = 0;
            while taken < AT_ONCE
                && let Some(message) = self.inbox.poll(&self.socket, Instant::now())?
            {
                taken += 1;
                self.answer(device, message)?;
                self.flush(stop)?;
                if self.greeted {
                    greeting = None;
                }
            }
            let deadline = match taken {
                // There may be more; but whoever wants us to stop is heard.
                AT_ONCE => Some(Instant::START),
                _ => self.inbox.deadline().or(greeting),
            };
            match wait_for(self.socket.as_fd(), PollFlags::IN, stop, deadline)? {
                Woken::Ready => {}
                Woken::Stopped => return Ok(Woken::Stopped),
                Woken::Late if greeting.is_some() && taken < AT_ONCE => {
                    return Err(Error::Timeout {
                        what: "the client's first message".to_owned(),
                        timeout: self.options.timeout,
                    });
                }
                // The inbox says what is late.
                Woken::Late => {}
            }
        }
    }

    /// Sends the replies that there are. Nothing more is taken from a client that reads none.
    fn flush(&mut self, stop: BorrowedFd<'_>) -> Result<(), Error> {
        let deadline = Instant::now() + self.options.timeout;
        while !self.outbox.poll(&self.socket)? {
            match wait_for(self.socket.as_fd(), PollFlags::OUT, stop, Some(deadline))? {
                Woken::Ready => {}
                Woken::Stopped => return Err(Error::Closed),
                Woken::Late => {
                    return Err(Error::Timeout {
                        what: "room for a reply, which the client does not read,".to_owned(),
                        timeout: self.options.timeout,
                    });
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, device: &mut dyn Device, message: Message) -> Result<(), Error> {
        let header = message.header;
        if !header.is_command() {
            return Err(Error::Protocol(format!(
                "{} is no command (flags {:#x}); we have asked for nothing",
                header.name(),
                header.flags
            )));
        }
        let answered = self.handle(device, message);
        let (flags, errno, reply) = match answered {
            Ok(reply) => (header_flags::REPLY, 0, reply),
            Err(No::Refused(refusal)) => {
                tracing::debug!(command = header.name(), why = refusal.why, "refused");
                let errno = u32::try_from(refusal.errno).unwrap_or(0);
                let flags = header_flags::REPLY | header_flags::ERROR;
                (flags, errno, Vec::new().into())
            }
            Err(No::Broken(error)) => return Err(error),
        };
        if !header.wants_no_reply() {
            let bytes = message::encode(header.id, header.command, flags, errno, &[&reply.body]);
            self.outbox.push(bytes, reply.fds);
        }
        Ok(())
    }

    fn handle(&mut self, device: &mut dyn Device, message: Message) -> Result<Reply, No> {
        let Message { header, body, fds } = message;
        let Some(command) = Command::from_number(header.command) else {
            return Err(Refusal::unsupported(format!("there is no {}", header.name())).into());
        };
        if self.greeted == (command == Command::Version) {
            let error = match self.greeted {
                true => "a second VERSION came".to_owned(),
                false => format!("{command} came before VERSION"),
            };
            return Err(No::Broken(Error::Protocol(error)));
        }
        let takes_fds = matches!(command, Command::DmaMap | Command::SetIrqs);
        if !fds.is_empty() && !takes_fds {
            // Dropped with the message, and so closed.
            let why = format!("{} descriptors came with {command}", fds.len());
            return Err(Refusal::invalid(why).into());
        }
        match command {
            Command::Version => self.greet(&body),
            Command::DmaMap => Self::map(device, &body, fds),
            Command::DmaUnmap => {
                let (unmap, _) = DmaUnmap::decode(&body)?;
                device.unmap(&unmap)?;
                Ok(unmap.encode().into())
            }
            Command::DeviceGetInfo => {
                let info = DeviceInfo {
                    argsz: DeviceInfo::LEN_BYTES as u32,
                    ..device.info()
                };
                Ok(info.encode().into())
            }
            Command::GetRegionInfo => Self::region_info(device, &body),
            Command::GetIrqInfo => {
                let (asked, _) = IrqInfo::decode(&body)?;
                let info = device.irq(asked.index).ok_or_else(|| {
                    Refusal::invalid(format!("there are no interrupts of kind {}", asked.index))
                })?;
                let info = IrqInfo {
                    argsz: IrqInfo::LEN_BYTES as u32,
                    index: asked.index,
                    ..info
                };
                Ok(info.encode().into())
            }
            Command::SetIrqs => Self::set_irqs(device, &body, fds),
            Command::RegionRead => {
                let (access, _) = accessed(device, &body)?;
                let mut reply = access.encode();
                reply.resize(RegionAccess::LEN_BYTES + access.count as usize, 0);
                let data = reply.get_mut(RegionAccess::LEN_BYTES..).unwrap_or_default();
                device.read(access.region, access.offset, data)?;
                Ok(reply.into())
            }
            Command::RegionWrite => {
                let (access, data) = accessed(device, &body)?;
                if data.len() != access.count as usize {
                    let why = format!("{} bytes to write {}", data.len(), access.count);
                    return Err(Refusal::invalid(why).into());
                }
                device.write(access.region, access.offset, data)?;
                Ok(access.encode().into())
            }
            Command::DeviceReset => {
                device.reset()?;
                Ok(Vec::new().into())
            }
            Command::GetRegionIoFds
            | Command::DmaRead
            | Command::DmaWrite
            | Command::DirtyPages => {
                Err(Refusal::unsupported(format!("{command} is not served")).into())
            }
        }
    }

    fn greet(&mut self, body: &[u8]) -> Result<Reply, No> {
        // Nobody can go on without a version: these end the connection.
        let (asked, capabilities) = VersionHead::decode(body).map_err(No::Broken)?;
        let client = Capabilities::decode(capabilities).map_err(No::Broken)?;
        if asked.major != MAJOR {
            return Err(No::Broken(Error::Mismatch(format!(
                "it speaks version {}.{}, we speak {MAJOR}.{MINOR}",
                asked.major, asked.minor
            ))));
        }
        tracing::debug!(limits = ?client, "agreed on a version");
        self.greeted = true;
        let version = VersionHead {
            major: MAJOR,
            minor: asked.minor.min(MINOR),
        };
        let ours = Capabilities {
            max_msg_fds: MOST_FDS as u32,
            max_data_xfer_size: MOST_DATA_BYTES as u32,
            max_dma_maps: self.options.max_dma_maps,
            pgsizes: 4096,
        };
        let mut reply = version.encode();
        reply.extend(ours.encode());
        Ok(reply.into())
    }

    fn map(device: &mut dyn Device, body: &[u8], mut fds: Vec<OwnedFd>) -> Result<Reply, No> {
        let (map, _) = DmaMap::decode(body)?;
        if fds.len() > 1 {
            let why = format!("{} descriptors came with one DMA_MAP", fds.len());
            return Err(Refusal::invalid(why).into());
        }
        device.map(&map, fds.pop())?;
        Ok(Vec::new().into())
    }

    fn region_info(device: &mut dyn Device, body: &[u8]) -> Result<Reply, No> {
        let (asked, _) = RegionHead::decode(body)?;
        let info = device.region(asked.index);
        let info =
            info.ok_or_else(|| Refusal::invalid(format!("there is no region {}", asked.index)))?;
        let (body, has_all) = info.encode(asked.index, asked.argsz);
        let mut reply = Reply::from(body);
        // Whoever has no room for the areas asks again, and gets the file then.
        if has_all && !info.areas.is_empty() {
            let file = device.region_file(asked.index);
            let file = file.map(|file| file.try_clone_to_owned()).transpose();
            reply
                .fds
                .extend(file.map_err(|error| Refusal::io(error.to_string()))?);
        }
        Ok(reply)
    }

    fn set_irqs(device: &mut dyn Device, body: &[u8], fds: Vec<OwnedFd>) -> Result<Reply, No> {
        let (request, data) = SetIrqs::decode(body)?;
        let has = device.irq(request.index).map_or(0, |info| info.count);
        let end = request.start.checked_add(request.count);
        if end.is_none_or(|end| end > has) {
            return Err(Refusal::invalid(format!(
                "interrupts {} + {} of kind {}, which has {has}",
                request.start, request.count, request.index
            ))
            .into());
        }
        let bools = match request.flags & message::irq::DATA_BOOL {
            0 => &[][..],
            _ => data.get(..request.count as usize).ok_or_else(|| {
                Refusal::invalid(format!(
                    "{} bytes for {} interrupts",
                    data.len(),
                    request.count
                ))
            })?,
        };
        if !fds.is_empty() && fds.len() != request.count as usize {
            return Err(Refusal::invalid(format!(
                "{} descriptors for {} interrupts",
                fds.len(),
                request.count
            ))
            .into());
        }
        device.set_irqs(&request, bools, fds)?;
        Ok(Vec::new().into())
    }
}

/// The access that a body asks for, if it lies within its region and within what we transfer.
fn accessed<'a>(device: &dyn Device, body: &'a [u8]) -> Result<(RegionAccess, &'a [u8]), No> {
    let (access, data) = RegionAccess::decode(body)?;
    let count = access.count as usize;
    if count > MOST_DATA_BYTES {
        return Err(Refusal::invalid(format!(
            "{count} bytes at a time; {MOST_DATA_BYTES} are possible"
        ))
        .into());
    }
    let size = device.region(access.region).map_or(0, |region| region.size);
    let end = access.offset.checked_add(u64::from(access.count));
    if end.is_none_or(|end| end > size) {
        return Err(Refusal::invalid(format!(
            "{count} bytes at {:#x} of region {}, which has {size}",
            access.offset, access.region
        ))
        .into());
    }
    Ok((access, data))
}
