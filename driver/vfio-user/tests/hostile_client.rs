//! Whatever a client sends, or does not, the server tells it so or lets it go, and serves the
//! next: no panic, no hang, and no descriptor stays open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use support::{Bytes, message, open_fds, raw, send_with_fds, version, words};
use underpin_dma::rt;
use underpin_vfio_user::{
    Client, ClientOptions, Command, DmaMap, Error, Listener, ServerOptions, irq,
};

const TIMEOUT: Duration = Duration::from_millis(400);

fn greet(socket: &mut UnixStream) {
    socket.write_all(&message(0, 1, 0, &version())).unwrap();
    let (header, _) = reply(socket).unwrap();
    assert_eq!(header.0, 0);
}

/// Identifier, flags and errno of a reply, and its body.
fn reply(socket: &mut UnixStream) -> Option<((u16, u32, u32), Vec<u8>)> {
    let mut header = [0; 16];
    socket.read_exact(&mut header).ok()?;
    let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
    let mut body = vec![0; word(4) as usize - 16];
    socket.read_exact(&mut body).ok()?;
    Some((((word(0) & 0xffff) as u16, word(8), word(12)), body))
}

/// The server has closed the connection, whatever it sent before.
fn is_let_go(socket: &mut UnixStream) {
    let mut scrap = Vec::new();
    // Data that it never read make the end a reset.
    let _ = socket.read_to_end(&mut scrap);
}

type Script = fn(&mut UnixStream);

/// What ends with the connection.
const FATAL: &[(&str, Script)] = &[
    ("it says nothing", |_| {}),
    ("it dribbles", |socket| {
        for byte in message(0, 1, 0, &[0; 4000]) {
            if socket.write_all(&[byte]).is_err() {
                break;
            }
            rt::thread::sleep(Duration::from_millis(1));
        }
    }),
    ("a size below the header's", |socket| {
        socket.write_all(&raw(0, 1, 3, 0, 0, &[])).unwrap();
    }),
    ("a size of 4 GiB", |socket| {
        socket.write_all(&raw(0, 1, u32::MAX, 0, 0, &[])).unwrap();
    }),
    ("a request before VERSION", |socket| {
        socket.write_all(&message(0, 4, 0, &[0; 16])).unwrap();
    }),
    ("VERSION twice", |socket| {
        greet(socket);
        socket.write_all(&message(0, 1, 0, &version())).unwrap();
    }),
    ("a version of the future", |socket| {
        socket.write_all(&message(0, 1, 0, &words(&[2]))).unwrap();
    }),
    ("a version without its minor half", |socket| {
        socket.write_all(&message(0, 1, 0, &[0, 0])).unwrap();
    }),
    ("capabilities that nest for ever", |socket| {
        let body = [version(), vec![b'['; 60_000]].concat();
        socket.write_all(&message(0, 1, 0, &body)).unwrap();
    }),
    ("a reply to nothing", |socket| {
        greet(socket);
        socket.write_all(&message(0, 4, 1, &[0; 16])).unwrap();
    }),
    ("more descriptors than fit", |socket| {
        greet(socket);
        send_with_fds(socket, &message(0, 8, 0, &[0; 20]), 200);
    }),
    ("half a message", |socket| {
        greet(socket);
        socket.write_all(&message(0, 4, 0, &[0; 16])[..20]).unwrap();
    }),
    ("descriptors with half a header", |socket| {
        greet(socket);
        send_with_fds(socket, &message(0, 2, 0, &[0; 32])[..5], 3);
    }),
    ("it reads no replies", |socket| {
        greet(socket);
        let read = message(0, 9, 0, &words(&[0, 0, 0, 4096]));
        while socket.write_all(&read).is_ok() {}
    }),
];

const EINVAL: u32 = 22;
const EOPNOTSUPP: u32 = 95;

/// What the server refuses, and goes on: command, body, descriptors, errno.
fn refused() -> Vec<(&'static str, u16, Vec<u8>, usize, u32)> {
    let access = |offset: u64, region: u32, count: u32| {
        words(&[offset as u32, (offset >> 32) as u32, region, count])
    };
    let set = |flags, index, start, count| words(&[20, flags, index, start, count]);
    vec![
        ("no command", 0, vec![], 0, EOPNOTSUPP),
        ("a command of the future", 999, vec![], 0, EOPNOTSUPP),
        ("dirty pages", 14, vec![0; 64], 0, EOPNOTSUPP),
        ("a server's command", 11, vec![0; 16], 0, EOPNOTSUPP),
        ("I/O descriptors", 6, vec![0; 16], 0, EOPNOTSUPP),
        ("half a map", 2, vec![0; 31], 0, EINVAL),
        ("two files for one map", 2, vec![0; 32], 2, EINVAL),
        ("a file with an unmap", 3, vec![0; 24], 1, EINVAL),
        ("an unmap of nothing", 3, words(&[24, 0, 1, 1, 1, 1]), 0, 2),
        ("half a region", 5, vec![0; 20], 0, EINVAL),
        (
            "region 7000",
            5,
            words(&[32, 0, 7000, 0, 0, 0, 0, 0]),
            0,
            EINVAL,
        ),
        ("no region", 9, access(0, 1, 4), 0, EINVAL),
        ("a read past the end", 9, access(4093, 0, 4), 0, EINVAL),
        ("a read near 2^64", 9, access(u64::MAX - 1, 0, 4), 0, EINVAL),
        ("a read of 4 GiB", 9, access(0, 0, u32::MAX), 0, EINVAL),
        (
            "a write of less than it says",
            10,
            [access(0, 0, 8), vec![0; 7]].concat(),
            0,
            EINVAL,
        ),
        (
            "a write of more than it says",
            10,
            [access(0, 0, 8), vec![0; 9]].concat(),
            0,
            EINVAL,
        ),
        (
            "interrupts of no kind",
            7,
            words(&[16, 0, 77, 0]),
            0,
            EINVAL,
        ),
        ("an interrupt too many", 8, set(0x24, 2, 1, 4), 4, EINVAL),
        (
            "interrupts near 2^32",
            8,
            set(0x24, 2, u32::MAX, 2),
            2,
            EINVAL,
        ),
        (
            "fewer eventfds than interrupts",
            8,
            set(0x24, 2, 0, 4),
            3,
            EINVAL,
        ),
        (
            "fewer bytes than interrupts",
            8,
            set(0x22, 2, 0, 4),
            0,
            EINVAL,
        ),
        ("half of what to set", 8, vec![0; 19], 0, EINVAL),
    ]
}

/// An orderly client gets through, from beginning to end.
fn is_served(path: &Path) {
    let options = ClientOptions {
        timeout: Duration::from_secs(20),
    };
    let client = Client::connect(path, options).unwrap();
    assert!(client.is_pci().unwrap());
    client.region_write(0, 8, &[1, 2, 3]).unwrap();
    client.region_post(0, 11, &[4]).unwrap();
    let mut bytes = [0; 5];
    client.region_read(0, 8, &mut bytes).unwrap();
    assert_eq!(
        bytes,
        [1, 2, 3, 4, 0],
        "a posted write is done before a later read"
    );
    let map = DmaMap {
        address: 0x1000,
        size: 0x1000,
        ..DmaMap::default()
    };
    let null = std::fs::File::open("/dev/null").unwrap();
    client.dma_map(&map, null.as_fd()).unwrap();
    client.dma_unmap(0x1000, 0x1000).unwrap();
    let again = client.dma_unmap(0x1000, 0x1000).unwrap_err();
    let command = Command::DmaUnmap;
    assert_eq!(again, Error::Refused { command, errno: 2 });
    client
        .set_irqs(irq::MSIX, 1, &[null.as_fd(), null.as_fd()])
        .unwrap();
    client.reset().unwrap();
    client.end().unwrap();
}

#[test]
fn a_server_survives_every_client_and_leaks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (stop, stopped) = UnixStream::pair().unwrap();
    let before = open_fds();
    let listener = Listener::bind(&path).unwrap();
    let server = rt::thread::spawn("server", move || {
        let mut device = Bytes::new();
        let options = ServerOptions {
            timeout: TIMEOUT,
            ..ServerOptions::default()
        };
        listener
            .serve(&mut device, options, stopped.as_fd())
            .unwrap();
        drop(listener);
        (device.clients_gone, stopped)
    })
    .unwrap();
    let mut clients = 0;
    for (what, script) in FATAL {
        let mut socket = UnixStream::connect(&path).unwrap();
        script(&mut socket);
        is_let_go(&mut socket);
        is_served(&path);
        clients += 2;
        println!("{what}: let go, the next served");
    }
    // The same, without a care for the end: what was begun ends with the connection.
    for (_, script) in FATAL {
        script(&mut UnixStream::connect(&path).unwrap());
        clients += 1;
    }
    let mut socket = UnixStream::connect(&path).unwrap();
    greet(&mut socket);
    clients += 1;
    for (id, (what, command, body, fds, errno)) in (100..).zip(refused()) {
        let request = message(id, command, 0, &body);
        match fds {
            0 => socket.write_all(&request).unwrap(),
            fds => send_with_fds(&socket, &request, fds),
        }
        let (header, body) = reply(&mut socket).expect(what);
        assert_eq!(header, (id, 1 | 1 << 5, errno), "{what}");
        assert!(body.is_empty(), "{what}: an error has no body");
        // Without a reply wanted there is none: the next one is to the next request.
        let silent = message(id, command, 1 << 4, &body);
        socket.write_all(&silent).unwrap();
    }
    drop(socket);
    is_served(&path);
    clients += 1;
    // One that writes without end and wants no replies does not keep the server from stopping.
    let mut socket = UnixStream::connect(&path).unwrap();
    greet(&mut socket);
    clients += 1;
    let flood = rt::thread::spawn("flood", move || {
        let write = message(1, 10, 1 << 4, &words(&[0, 0, 0, 4, 7]));
        while socket.write_all(&write.repeat(100)).is_ok() {}
    })
    .unwrap();
    (&stop).write_all(&[1]).unwrap();
    let (gone, stopped) = server.join().unwrap();
    flood.join().unwrap();
    assert_eq!(gone, clients, "every client was cleaned up after");
    assert!(!path.exists(), "the socket is removed");
    assert_eq!(open_fds(), before, "descriptors were left open");
    drop(stopped);
}
