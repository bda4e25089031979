//! Any messages and descriptors of a vfio-user client against our server and the emulator behind it.
//!
//! Whatever came: no panic, no hang, no descriptor left open, memory that was given is let go of,
//! and the next client is served.
use crate::Features;
use arbitrary::{Arbitrary, Unstructured};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use underpin_dma::rt;
use underpin_dma::{Memory, PageSize};
use underpin_emulator::serve::{ServeOptions, Served};
use underpin_emulator::{EmulatorConfig, NamespaceConfig};
use underpin_nvme_spec::registers::{Aqa, Cc, offset};

/// A descriptor that goes with a message.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Fd {
    Memory,
    Unsealed,
    Null,
    Event,
    Socket,
}

#[derive(Arbitrary, Debug)]
enum Message {
    Version {
        major: u8,
        minor: u8,
        json: u8,
    },
    Map {
        fd: Option<Fd>,
        more: bool,
        page: u8,
        pages: u8,
        offset: u8,
        flags: u8,
        odd: Option<u64>,
    },
    Unmap {
        page: u8,
        pages: u8,
        flags: u8,
    },
    Info,
    Region {
        index: u8,
        argsz: u16,
    },
    Irq {
        index: u8,
    },
    SetIrqs {
        flags: u8,
        index: u8,
        start: u8,
        count: u8,
        fds: u8,
        data: Vec<u8>,
    },
    Read {
        region: u8,
        at: u16,
        count: u16,
    },
    Write {
        region: u8,
        at: u16,
        data: Vec<u8>,
    },
    Register {
        which: u8,
        value: u64,
    },
    Enable {
        page: u8,
    },
    Reset,
    Other {
        command: u8,
        body: Vec<u8>,
        fds: u8,
    },
    Raw {
        bytes: Vec<u8>,
    },
}

/// What is wrong with a message's header.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Lie {
    Size(u32),
    Flags(u8),
    Short(u8),
    NoReply,
}

/// One input.
#[derive(Arbitrary, Debug)]
struct Input {
    polite: bool,
    unsealed: bool,
    few_maps: bool,
    messages: Vec<(Message, Option<Lie>)>,
}

const PAGE: u64 = 4096;
const MEMORY_PAGES: u64 = 8;
const CANARY: u8 = 0xc7;

/// Runs one input.
///
/// # Panics
/// When it finds something.
pub fn run(bytes: &[u8]) -> Features {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return Features::default();
    };
    crate::host_device::show(&input);
    let before = crate::host_device::open_files();
    let seen = rt::sim::run(1, move || world(input));
    assert_eq!(
        crate::host_device::open_files(),
        before,
        "descriptors are left open"
    );
    seen
}

fn world(input: Input) -> Features {
    let path = std::env::temp_dir().join(format!("underpin-fuzz-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let config = EmulatorConfig {
        namespaces: vec![NamespaceConfig {
            size_bytes: Some(1 << 20),
            ..NamespaceConfig::default()
        }],
        queues: 3,
        ..EmulatorConfig::default()
    };
    let mut options = ServeOptions {
        allow_unsealed: input.unsealed,
        ..ServeOptions::default()
    };
    if input.few_maps {
        options.protocol.max_dma_maps = 2;
    }
    let served = Served::bind(&path, config, options).unwrap();
    let memory = Memory::new("fuzz", MEMORY_PAGES * PAGE, PageSize::Small).unwrap();
    let (stop, ours) = UnixStream::pair().unwrap();
    let given = Arc::clone(&memory);
    let (give, seen) = std::sync::mpsc::channel();
    let client = rt::thread::spawn("client", move || {
        // Dropped at the end, whatever that is: the server stops.
        let _ours = ours;
        let _ = give.send(hostile(&path, &input, &given));
    });
    served.run(&stop).unwrap();
    let _ = client.unwrap().join();
    let seen = seen.recv().expect("the client ended well");
    // Nobody but us has the memory any more.
    memory.view().fill(0, memory.len_bytes(), CANARY).unwrap();
    let emulator = served.emulator().clone();
    drop(served);
    emulator.stop().unwrap();
    let mut bytes = vec![0; memory.len_bytes()];
    memory.view().copy_to(0, &mut bytes).unwrap();
    assert!(
        bytes.iter().all(|&byte| byte == CANARY),
        "the server wrote memory it had let go of"
    );
    seen
}

/// The hostile client, then a good one.
fn hostile(path: &Path, input: &Input, memory: &Memory) -> Features {
    let mut seen = Features::default();
    let mut connection = Connection::new(path);
    if input.polite {
        connection.message(1, &version(0, 1, 0), Vec::new(), None, 0);
    }
    for (nth, (message, lie)) in input.messages.iter().take(100).enumerate() {
        let (command, body, fds) = connection.encode(message, memory);
        match command {
            Some(command) => connection.message(command, &body, fds, *lie, nth as u16 + 1),
            None => connection.bytes(&body, fds),
        }
    }
    for (command, flags, errno) in connection.end() {
        seen.saw((command, flags, errno));
    }
    let mut good = Connection::new(path);
    good.message(1, &version(0, 1, 0), Vec::new(), None, 0);
    let replies = good.end();
    assert_eq!(replies.len(), 1, "the next client is not served");
    seen
}

fn version(major: u16, minor: u16, json: u8) -> Vec<u8> {
    let mut body = [major, minor].map(u16::to_ne_bytes).concat();
    body.extend_from_slice(match json % 6 {
        0 | 1 => b"{\"capabilities\":{\"max_msg_fds\":8,\"pgsizes\":4096}}\0",
        2 => b"{\"capabilities\":{\"max_msg_fds\":99999999999999999999}}\0",
        3 => b"{\"capabilities\":[",
        4 => b"",
        _ => b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\0",
    });
    body
}

struct Connection {
    socket: UnixStream,
    came: Vec<u8>,
    over: bool,
}

impl Connection {
    fn new(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            came: Vec::new(),
            over: false,
        }
    }

    fn message(&mut self, command: u16, body: &[u8], fds: Vec<OwnedFd>, lie: Option<Lie>, id: u16) {
        let mut size = 16 + body.len() as u32;
        let mut flags = 0;
        match lie {
            Some(Lie::Size(wrong)) => size = wrong,
            Some(Lie::Flags(wrong)) => flags = u32::from(wrong),
            Some(Lie::NoReply) => flags = 1 << 4,
            _ => {}
        }
        let mut bytes = [id, command].map(u16::to_ne_bytes).concat();
        bytes.extend([size, flags, 0].map(u32::to_ne_bytes).concat());
        bytes.extend(body);
        if let Some(Lie::Short(len)) = lie {
            bytes.truncate(usize::from(len));
        }
        self.bytes(&bytes, fds);
    }

    /// Sends, and reads what comes meanwhile.
    fn bytes(&mut self, bytes: &[u8], mut fds: Vec<OwnedFd>) {
        let mut sent = 0;
        while sent < bytes.len() && !self.over {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(128))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !borrowed.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(
                &self.socket,
                &[IoSlice::new(&bytes[sent..])],
                &mut ancillary,
                flags,
            ) {
                Ok(count) => {
                    sent += count;
                    fds.clear();
                }
                Err(rustix::io::Errno::AGAIN) => {
                    self.take();
                    rt::thread::yield_now();
                }
                Err(_) => self.over = true,
            }
        }
    }

    fn take(&mut self) {
        let mut bytes = [0; 4096];
        match (&self.socket).read(&mut bytes) {
            Ok(0) => self.over = true,
            Ok(count) => self.came.extend(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.over = true,
        }
    }

    /// Says that nothing more comes, and waits for the server's end: command, flags and errno of
    /// each of its replies.
    fn end(mut self) -> Vec<(u16, u32, u32)> {
        let _ = self.socket.flush();
        let _ = self.socket.shutdown(Shutdown::Write);
        self.over = false;
        self.socket.set_nonblocking(false).unwrap();
        self.socket
            .set_read_timeout(Some(Duration::from_secs(15)))
            .unwrap();
        let began = self.came.len();
        while !self.over {
            let before = self.came.len();
            self.take();
            assert!(
                self.over || self.came.len() > before,
                "HANG: the server does not let go, after {began} bytes"
            );
        }
        let mut replies = Vec::new();
        let mut left = &self.came[..];
        while let Some(head) = left.get(..16) {
            let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
            replies.push(((word(0) >> 16) as u16, word(8), word(12)));
            let size = word(4) as usize;
            assert!(
                size >= 16 && size <= left.len(),
                "the server's own messages are whole"
            );
            left = &left[size..];
        }
        replies
    }

    fn encode(&self, message: &Message, memory: &Memory) -> (Option<u16>, Vec<u8>, Vec<OwnedFd>) {
        let words = |words: &[u32]| {
            words
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect::<Vec<u8>>()
        };
        let wide = |words: &[u64]| {
            words
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect::<Vec<u8>>()
        };
        let no_fds = Vec::new();
        match message {
            Message::Version { major, minor, json } => {
                let body = version(u16::from(major & 1), u16::from(*minor), *json);
                (Some(1), body, no_fds)
            }
            Message::Map {
                fd,
                more,
                page,
                pages,
                offset,
                flags,
                odd,
            } => {
                let mut body = words(&[32, u32::from(*flags & 7)]);
                let size = u64::from(pages % 12) * PAGE;
                let address = odd.unwrap_or(u64::from(*page) * PAGE);
                body.extend(wide(&[u64::from(offset % 4) * PAGE, address, size]));
                let mut fds: Vec<OwnedFd> = fd.iter().map(|fd| self.fd(*fd, memory)).collect();
                if *more {
                    fds.extend((0..3).map(|_| self.fd(Fd::Event, memory)));
                }
                (Some(2), body, fds)
            }
            Message::Unmap { page, pages, flags } => {
                let mut body = words(&[24, u32::from(*flags & 3)]);
                body.extend(wide(&[
                    u64::from(*page) * PAGE,
                    u64::from(pages % 12) * PAGE,
                ]));
                (Some(3), body, no_fds)
            }
            Message::Info => (Some(4), words(&[16, 0, 0, 0]), no_fds),
            Message::Region { index, argsz } => {
                let mut body = words(&[u32::from(*argsz), 0, u32::from(*index), 0]);
                body.extend([0; 16]);
                (Some(5), body, no_fds)
            }
            Message::Irq { index } => (Some(7), words(&[16, 0, u32::from(*index), 0]), no_fds),
            Message::SetIrqs {
                flags,
                index,
                start,
                count,
                fds,
                data,
            } => {
                let mut body = words(&[
                    20,
                    u32::from(*flags & 0x3f),
                    u32::from(index % 6),
                    u32::from(*start),
                    u32::from(*count),
                ]);
                body.extend(data);
                let fds = (0..fds % 12).map(|_| self.fd(Fd::Event, memory)).collect();
                (Some(8), body, fds)
            }
            Message::Read { region, at, count } => {
                let mut body = wide(&[u64::from(*at)]);
                body.extend(words(&[u32::from(region % 10), u32::from(*count)]));
                (Some(9), body, no_fds)
            }
            Message::Write { region, at, data } => {
                let mut body = wide(&[u64::from(*at)]);
                body.extend(words(&[u32::from(region % 10), data.len() as u32]));
                body.extend(data);
                (Some(10), body, no_fds)
            }
            Message::Register { which, value } => {
                const OFTEN: [usize; 8] = [
                    offset::CC,
                    offset::AQA,
                    offset::ASQ,
                    offset::ACQ,
                    0x1000,
                    0x1004,
                    0x1008,
                    offset::INTMS,
                ];
                let at = OFTEN[usize::from(which % 8)];
                let mut body = wide(&[at as u64]);
                body.extend(words(&[0, 8 - 4 * u32::from(which >> 7)]));
                body.extend(&value.to_le_bytes()[..if which >> 7 == 0 { 8 } else { 4 }]);
                (Some(10), body, no_fds)
            }
            Message::Enable { page } => {
                let mut body = wide(&[offset::CC as u64]);
                body.extend(words(&[0, 4]));
                let _ = (page, Aqa(0));
                let cc = Cc(0).with_iosqes(6).with_iocqes(4).with_en(true);
                body.extend(cc.0.to_le_bytes());
                (Some(10), body, no_fds)
            }
            Message::Reset => (Some(13), Vec::new(), no_fds),
            Message::Other { command, body, fds } => {
                let fds = (0..fds % 100).map(|_| self.fd(Fd::Event, memory)).collect();
                (Some(u16::from(*command)), body.clone(), fds)
            }
            Message::Raw { bytes } => (None, bytes.clone(), no_fds),
        }
    }

    fn fd(&self, fd: Fd, memory: &Memory) -> OwnedFd {
        match fd {
            Fd::Memory => memory.fd().unwrap().0.try_clone_to_owned().unwrap(),
            Fd::Unsealed => {
                let path: PathBuf =
                    std::env::temp_dir().join(format!("underpin-fuzz-{}", std::process::id()));
                let file = std::fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(&path);
                let file = file.unwrap();
                file.set_len(MEMORY_PAGES * PAGE).unwrap();
                let _ = std::fs::remove_file(&path);
                file.into()
            }
            Fd::Null => std::fs::File::open("/dev/null").unwrap().into(),
            Fd::Event => rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap(),
            Fd::Socket => self.socket.try_clone().unwrap().into(),
        }
    }
}
