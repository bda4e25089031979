//! A vfio-user server whose every message comes from the input, before the same device as in
//! `device.rs`: what it says wrong is of the protocol, what the device says wrong of NVMe.
use crate::device::{Device, Stream};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use underpin_dma::rt::{Instant, Step, Task};
use underpin_dma::{Access, Iova, MapRequest, Mapper, Memory, PageSize};

const HEADER: usize = 16;
const BAR0_BYTES: u64 = 0x2000;
const REPLY: u32 = 1;
const ERROR: u32 = 1 << 5;

/// The server as a task.
#[derive(Debug)]
pub(crate) struct Server {
    path: PathBuf,
    listener: UnixListener,
    socket: Option<UnixStream>,
    /// Connections whose client has gone, and that are not closed.
    held: Vec<UnixStream>,
    script: Stream,
    device: Device,
    inbox: Vec<u8>,
    fds: Vec<OwnedFd>,
    /// Bytes on their way out, and descriptors that go with the first of them.
    outbox: Vec<(Vec<u8>, Vec<OwnedFd>)>,
    doorbells: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Server {
    pub(crate) fn new(path: &Path, device: Device, script: Vec<u8>, doorbells: bool) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self {
            path: path.to_owned(),
            listener,
            socket: None,
            held: Vec::new(),
            script: Stream::new(script),
            device,
            inbox: Vec::new(),
            fds: Vec::new(),
            outbox: Vec::new(),
            doorbells,
        }
    }

    /// The client's end, and ours: when it sees this, DMA has ended.
    fn close(&mut self) {
        self.device.with(|model| model.stop());
        self.socket = None;
        self.inbox.clear();
        self.fds.clear();
        self.outbox.clear();
    }

    /// Takes what has come. False when nothing has.
    fn receive(&mut self) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        let mut bytes = [0; 8192];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let target = &mut [IoSliceMut::new(&mut bytes)];
        match recvmsg(socket, target, &mut ancillary, flags) {
            Ok(received) if received.bytes > 0 => {
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        self.fds.extend(fds);
                    }
                }
                self.inbox.extend(&bytes[..received.bytes]);
                true
            }
            Err(rustix::io::Errno::AGAIN) => false,
            // A server that notices, or one that never closes its side.
            _ => {
                if self.script.next() < 0xf0 {
                    self.close();
                } else {
                    // Open until the process of a real one ended.
                    self.held.extend(self.socket.take());
                    self.inbox.clear();
                }
                true
            }
        }
    }

    fn send(&mut self) -> bool {
        let mut sent = false;
        while let (Some(socket), false) = (&self.socket, self.outbox.is_empty()) {
            let (bytes, fds) = self.outbox.remove(0);
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let _ = sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, flags);
            sent = true;
        }
        sent
    }

    /// One message, if there is a whole one.
    fn message(&mut self) -> Option<Vec<u8>> {
        let size = self.inbox.get(4..8)?;
        let size = u32::from_ne_bytes(size.try_into().ok()?) as usize;
        (size >= HEADER && self.inbox.len() >= size).then(|| self.inbox.drain(..size).collect())
    }

    fn answer(&mut self, message: &[u8]) {
        let word = |at: usize| {
            let bytes = message
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_ne_bytes)
        };
        let (mut id, mut command) = (word(0) as u16, (word(0) >> 16) as u16);
        let no_reply = word(8) & 1 << 4 != 0;
        let how = self.script.next();
        let lies = how >= 0xb0;
        if lies && command == 3 {
            // Whatever it did, its word does not prove it, and the host keeps the memory for good.
            self.device.with(|model| model.unmapped_all = false);
        }
        if (0xb0..0xb8).contains(&how) {
            // Refused, and not done.
            let errno = u32::from(self.script.next());
            return self.reply(id, command, REPLY | ERROR, errno, &[], Vec::new());
        }
        if (0xb8..0xbc).contains(&how) {
            return;
        }
        let Ok((mut body, mut fds)) = self.honest(command, message.get(HEADER..).unwrap_or(&[]))
        else {
            return self.reply(id, command, REPLY | ERROR, 5, &[], Vec::new());
        };
        if no_reply && !lies {
            return;
        }
        let mut flags = REPLY;
        match how {
            0xbc..=0xbf => id = id.wrapping_add(u16::from(self.script.next())),
            0xc0..=0xc3 => command = u16::from(self.script.next() & 15),
            0xc4..=0xc7 => flags = u32::from(self.script.next()),
            0xc8..=0xcf => {
                let at = usize::from(self.script.u16()) % body.len().max(1);
                // Register values are the device's to say: it must know what it said.
                if command != 9
                    && let Some(byte) = body.get_mut(at)
                {
                    *byte = self.script.next();
                }
            }
            0xd0..=0xd3 => body.truncate(usize::from(self.script.next())),
            0xd4..=0xd7 => body.extend([0x5a; 64]),
            0xd8..=0xdb => {
                let count = 1 + self.script.next() % 80;
                let memory = || Memory::new("fuzz", 4096, PageSize::Small).unwrap();
                let file = |memory: &Memory| memory.fd().unwrap().0.try_clone_to_owned().unwrap();
                fds.extend((0..count.min(60)).map(|_| file(&memory())));
            }
            // A command of the server's own.
            0xdc..=0xdf => {
                let asked = u16::from(self.script.next() & 15);
                let times = u32::from(self.script.next());
                for _ in 0..times {
                    self.reply(7, asked, 0, 0, &[0; 16], Vec::new());
                }
            }
            0xe0..=0xe3 => self.reply(id, command, flags, 0, &body, Vec::new()),
            0xe4..=0xe7 => return self.close(),
            0xe8..=0xeb => {
                let garbage = self.script.next();
                let bytes = (0..garbage).map(|_| self.script.next()).collect();
                self.outbox.push((bytes, Vec::new()));
            }
            0xec..=0xef => {
                // The first part only.
                let mut bytes = encode(id, command, flags, 0, &body);
                bytes.truncate(usize::from(self.script.next()));
                self.outbox.push((bytes, fds));
                return;
            }
            0xf0..=0xf3 => {
                // In two parts.
                let bytes = encode(id, command, flags, 0, &body);
                let (one, two) = bytes.split_at(usize::from(self.script.next()).min(bytes.len()));
                self.outbox.push((one.to_vec(), fds));
                self.outbox.push((two.to_vec(), Vec::new()));
                return;
            }
            0xf4..=0xf7 => {
                let mut bytes = encode(id, command, flags, 0, &body);
                let size = self.script.u64() as u32;
                bytes[4..8].copy_from_slice(&size.to_ne_bytes());
                self.outbox.push((bytes, fds));
                return;
            }
            _ => {}
        }
        self.reply(id, command, flags, 0, &body, fds);
    }

    fn reply(
        &mut self,
        id: u16,
        command: u16,
        flags: u32,
        errno: u32,
        body: &[u8],
        fds: Vec<OwnedFd>,
    ) {
        self.outbox
            .push((encode(id, command, flags, errno, body), fds));
    }

    /// What a good server does, and answers.
    fn honest(&mut self, command: u16, body: &[u8]) -> Result<(Vec<u8>, Vec<OwnedFd>), ()> {
        let u32_at = |at: usize| {
            let bytes = body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_ne_bytes)
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let mut reply = Vec::new();
        let mut fds = Vec::new();
        match command {
            1 => {
                reply.extend([0_u16, 1].map(u16::to_ne_bytes).concat());
                reply.extend(
                    b"{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":65536,\"pgsizes\":4096}}\0",
                );
            }
            2 => {
                let file = self.fds.pop().ok_or(())?;
                let (offset, address, size) = (u64_at(8), u64_at(16), u64_at(24));
                let memory = Memory::received("fuzz", file, offset, size, true).map_err(drop)?;
                let request = MapRequest {
                    iova: Iova::new(address),
                    memory,
                    access: Access::ReadWrite,
                    name: "fuzz".to_owned(),
                };
                self.device.map(&request).map_err(drop)?;
            }
            3 => {
                self.device
                    .unmap(Iova::new(u64_at(8)), u64_at(16))
                    .map_err(drop)?;
                reply.extend(body);
            }
            4 => reply.extend([16, 0b11, 9, 5].map(u32::to_ne_bytes).concat()),
            5 => {
                let (argsz, index) = (u32_at(0), u32_at(8));
                let (flags, size) = match index {
                    0 if self.doorbells => (0b1111, BAR0_BYTES),
                    0 => (0b11, BAR0_BYTES),
                    7 => (0b11, 4096),
                    _ => (0, 0),
                };
                let has_areas = flags & 0b1000 != 0;
                let needed = if has_areas { 64 } else { 32 };
                let wide = has_areas && argsz >= needed;
                let head = [needed, flags, index, if wide { 32 } else { 0 }];
                reply.extend(head.map(u32::to_ne_bytes).concat());
                reply.extend([size, 0].map(u64::to_ne_bytes).concat());
                if wide {
                    // One area: the doorbells.
                    reply.extend([1 | 1 << 16, 0, 1, 0].map(u32::to_ne_bytes).concat());
                    reply.extend([0x1000, 0x1000].map(u64::to_ne_bytes).concat());
                    let memory = Memory::new("fuzz", 0x2000, PageSize::Small).map_err(drop)?;
                    let file = memory.fd().ok_or(())?.0.try_clone_to_owned();
                    fds.push(file.map_err(drop)?);
                    self.device.with(|model| model.doorbells_in(memory));
                }
            }
            7 => {
                let count = if u32_at(8) == 2 { 4 } else { 0 };
                reply.extend([16, 1, u32_at(8), count].map(u32::to_ne_bytes).concat());
            }
            8 => self.fds.clear(),
            9 => {
                let (offset, region, count) = (u64_at(0), u32_at(8), u32_at(12));
                reply.extend(body.get(..16).ok_or(())?);
                let count = count as usize;
                let mut data = vec![0; count.min(1 << 16)];
                if region == 0 && (count == 4 || count == 8) {
                    let value = self
                        .device
                        .with(|model| model.read(offset as usize, count as u32));
                    data = value.map_err(drop)?.to_le_bytes()[..count].to_vec();
                }
                reply.extend(data);
            }
            10 => {
                let (offset, region, count) = (u64_at(0), u32_at(8), u32_at(12));
                let value = if count == 8 {
                    u64_at(16)
                } else {
                    u64::from(u32_at(16))
                };
                if region == 0 {
                    self.device
                        .with(|model| model.write(offset as usize, value))
                        .map_err(drop)?;
                }
                reply.extend(body.get(..16).ok_or(())?);
            }
            13 => self.device.with(|model| model.stop()),
            _ => return Err(()),
        }
        Ok((reply, fds))
    }
}

fn encode(id: u16, command: u16, flags: u32, errno: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [id, command].map(u16::to_ne_bytes).concat();
    let size = (HEADER + body.len()) as u32;
    bytes.extend([size, flags, errno].map(u32::to_ne_bytes).concat());
    bytes.extend(body);
    bytes
}

impl Task for Server {
    fn step(&mut self, now: Instant) -> Step {
        if self.socket.is_none()
            && let Ok((socket, _)) = self.listener.accept()
        {
            self.socket = Some(socket);
        }
        let mut busy = self.receive();
        if let Some(message) = self.message() {
            self.answer(&message);
            busy = true;
        }
        busy |= self.send();
        match busy {
            true => Step::Busy,
            false => Step::Idle {
                until: Some(now + Duration::from_millis(1)),
            },
        }
    }
}
