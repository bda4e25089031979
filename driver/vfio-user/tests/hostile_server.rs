//! Whatever a server sends, or does not, a client gets a typed error in time: no panic, no hang,
//! and no descriptor stays open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;
use support::{message, open_fds, raw, send_with_fds, version, words};
use underpin_dma::rt;
use underpin_vfio_user::{Client, ClientOptions, Command, Error};

const REPLY: u32 = 1;
const ERROR: u32 = 1 << 5;
const TIMEOUT: Duration = Duration::from_millis(400);

/// Reads one request and gives its identifier and command.
fn request(socket: &mut UnixStream) -> Option<(u16, u16)> {
    let mut header = [0; 16];
    socket.read_exact(&mut header).ok()?;
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let size = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let mut body = vec![0; size - 16];
    socket.read_exact(&mut body).ok()?;
    Some((word(0), word(2)))
}

/// Reads until the client has closed: it is the client's turn to give up.
fn until_closed(socket: &mut UnixStream) {
    let mut scrap = [0; 4096];
    while socket.read(&mut scrap).is_ok_and(|count| count > 0) {}
}

fn greet(socket: &mut UnixStream) {
    let (id, _) = request(socket).unwrap();
    socket
        .write_all(&message(id, 1, REPLY, &version()))
        .unwrap();
}

type Script = fn(&mut UnixStream);
type Expected = fn(&Error) -> bool;

/// What a server does, and what the client's first requests (VERSION, then three for info) must
/// end with.
const SCRIPTS: &[(&str, Script, Expected)] = &[
    ("it never answers", until_closed, |e| {
        matches!(e, Error::Timeout { .. })
    }),
    (
        "it dribbles",
        |socket| {
            let (id, _) = request(socket).unwrap();
            for byte in message(id, 1, REPLY, &[0; 4000]) {
                if socket.write_all(&[byte]).is_err() {
                    break;
                }
                rt::thread::sleep(Duration::from_millis(1));
            }
        },
        |e| matches!(e, Error::Timeout { .. }),
    ),
    ("it closes at once", |_| {}, |e| *e == Error::Closed),
    (
        "it closes within a header",
        |socket| {
            let (id, _) = request(socket).unwrap();
            socket
                .write_all(&message(id, 1, REPLY, &version())[..7])
                .unwrap();
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("7 bytes")),
    ),
    (
        "it closes within a body",
        |socket| {
            let (id, _) = request(socket).unwrap();
            socket
                .write_all(&raw(id, 1, 100, REPLY, 0, &version()))
                .unwrap();
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("within a message")),
    ),
    (
        "a size below the header's",
        |socket| {
            let (id, _) = request(socket).unwrap();
            socket
                .write_all(&raw(id, 1, 15, REPLY, 0, &version()))
                .unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("15 bytes")),
    ),
    (
        "a size of 4 GiB",
        |socket| {
            let (id, _) = request(socket).unwrap();
            socket
                .write_all(&raw(id, 1, u32::MAX, REPLY, 0, &version()))
                .unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("4294967295")),
    ),
    (
        "another identifier",
        |socket| {
            let (id, _) = request(socket).unwrap();
            socket
                .write_all(&message(id ^ 0x100, 1, REPLY, &version()))
                .unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("nobody asked")),
    ),
    (
        "another command",
        |socket| {
            let (id, _) = request(socket).unwrap();
            socket
                .write_all(&message(id, 13, REPLY, &version()))
                .unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("DEVICE_RESET")),
    ),
    (
        "no kind of message",
        |socket| {
            let (id, _) = request(socket).unwrap();
            socket.write_all(&message(id, 1, 7, &version())).unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("neither")),
    ),
    (
        "a version of the future",
        |socket| {
            let (id, _) = request(socket).unwrap();
            socket
                .write_all(&message(id, 1, REPLY, &words(&[1])))
                .unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Mismatch(_)),
    ),
    (
        "no version at all",
        |socket| {
            let (id, _) = request(socket).unwrap();
            socket.write_all(&message(id, 1, REPLY, &[0])).unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("needs 4")),
    ),
    (
        "capabilities that are no JSON",
        |socket| {
            let (id, _) = request(socket).unwrap();
            let mut body = version();
            body.extend(b"{\"capabilities\":\xff\xfe\0");
            socket.write_all(&message(id, 1, REPLY, &body)).unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("JSON")),
    ),
    (
        "it refuses",
        |socket| {
            let (id, _) = request(socket).unwrap();
            socket
                .write_all(&raw(id, 1, 16, REPLY | ERROR, 13, &[]))
                .unwrap();
            until_closed(socket);
        },
        |e| {
            matches!(
                e,
                Error::Refused {
                    command: Command::Version,
                    errno: 13
                }
            )
        },
    ),
    (
        "it refuses with an errno that is none",
        |socket| {
            let (id, _) = request(socket).unwrap();
            socket
                .write_all(&raw(id, 1, 16, REPLY | ERROR, u32::MAX, &[]))
                .unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Refused { errno: 0, .. }),
    ),
    (
        "a descriptor where none belongs",
        |socket| {
            let (id, _) = request(socket).unwrap();
            send_with_fds(socket, &message(id, 1, REPLY, &version()), 1);
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("1 descriptors")),
    ),
    (
        "more descriptors than fit",
        |socket| {
            let (id, _) = request(socket).unwrap();
            send_with_fds(socket, &message(id, 1, REPLY, &version()), 200);
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("more than 64")),
    ),
    (
        "it answers twice",
        |socket| {
            let (id, _) = request(socket).unwrap();
            let reply = message(id, 1, REPLY, &version());
            socket.write_all(&[reply.clone(), reply].concat()).unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(_)),
    ),
    (
        "device info that is too short",
        |socket| {
            greet(socket);
            let (id, command) = request(socket).unwrap();
            socket
                .write_all(&message(id, command, REPLY, &[0; 15]))
                .unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("15 bytes")),
    ),
    (
        "region info with a list that leads nowhere",
        |socket| {
            greet(socket);
            let (id, command) = request(socket).unwrap();
            socket
                .write_all(&message(id, command, REPLY, &words(&[16, 2, 9, 5])))
                .unwrap();
            let (id, command) = request(socket).unwrap();
            let info = words(&[4096, 0xf, 0, 4000, 4096, 0, 0, 0, 1, 0]);
            socket
                .write_all(&message(id, command, REPLY, &info))
                .unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("ends past")),
    ),
    (
        "a read of fewer bytes than asked for",
        |socket| {
            greet(socket);
            for body in [words(&[16, 2, 9, 5]), words(&[32, 3, 0, 0, 4096, 0, 0, 0])] {
                let (id, command) = request(socket).unwrap();
                socket
                    .write_all(&message(id, command, REPLY, &body))
                    .unwrap();
            }
            let (id, command) = request(socket).unwrap();
            let body = words(&[0, 0, 0, 8, 1]);
            socket
                .write_all(&message(id, command, REPLY, &body))
                .unwrap();
            until_closed(socket);
        },
        |e| matches!(e, Error::Protocol(what) if what.contains("4 bytes came for 8")),
    ),
    (
        "it asks and asks and never answers",
        |socket| {
            while socket.write_all(&message(1, 11, 0, &[0; 16])).is_ok() {}
        },
        |e| matches!(e, Error::Protocol(_) | Error::Timeout { .. }),
    ),
    (
        "it asks without end and wants no answer",
        |socket| {
            let chatter = message(1, 11, 1 << 4, &[0; 16]).repeat(100);
            while socket.write_all(&chatter).is_ok() {}
        },
        |e| matches!(e, Error::Timeout { .. }),
    ),
];

/// The client's first requests, as a driver makes them.
fn requests(path: &std::path::Path) -> Result<(), Error> {
    let client = Client::connect(path, ClientOptions { timeout: TIMEOUT })?;
    client.device_info()?;
    client.region_info(0)?;
    client.region_read(0, 0, &mut [0; 8])?;
    Ok(())
}

#[test]
fn a_client_survives_every_server_and_leaks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let before = open_fds();
    for (what, script, expected) in SCRIPTS {
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let script = *script;
        let server = rt::thread::spawn("server", move || {
            let (mut socket, _) = listener.accept().unwrap();
            script(&mut socket);
        })
        .unwrap();
        let error = requests(&path).expect_err(what);
        assert!(expected(&error), "{what}: {error}");
        assert!(server.join().is_ok(), "{what}: the script itself failed");
        std::fs::remove_file(&path).unwrap();
    }
    assert_eq!(open_fds(), before, "descriptors were left open");
}
