//! `underpin serve`: a controller for other processes, which outlives its clients in whatever way
//! they end, and whose own end is an error in time for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use support::{command, run};
use tempfile::TempDir;
use underpin::dma::rt::{self, Instant, Rng};
use underpin::nvme::Waiting;
use underpin::nvme::transport::{VfioUser, VfioUserOptions};
use underpin::vfio_user::{Client as Protocol, ClientOptions};
use underpin::{
    CommandError, Controller, ControllerOptions, DmaBuf, DmaSpace, Error, Failure, Lba, Pool,
    PoolOptions, QueueOptions, QueuePair,
};

const DEPTH: u16 = 32;
/// Blocks of 512 bytes that the clients write: far more than are in flight.
const BLOCKS: u64 = 8 * 1024;
/// Whoever waits so long hangs.
const HANG: Duration = Duration::from_secs(30);

/// A server in a process of its own.
struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    socket: PathBuf,
    _folder: Option<TempDir>,
}

impl Server {
    fn new(args: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("nvme.sock");
        let mut server = Self::at(&socket, args);
        server._folder = Some(folder);
        server
    }

    fn at(socket: &Path, args: &[&str]) -> Self {
        let socket = socket.to_owned();
        let fixed = ["serve", "--socket", socket.to_str().unwrap()];
        let mut child = command(fixed.iter().chain(args))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, format!("listening on {}\n", socket.display()));
        Self {
            child,
            stdout,
            socket,
            _folder: None,
        }
    }

    fn url(&self) -> String {
        format!("vfio-user:{}", self.socket.display())
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("sh")
            .args(["-c", "kill -$0 $1", name, &pid])
            .status();
        assert!(status.unwrap().success());
    }

    /// Descriptors and mappings that the server has.
    fn holds(&self) -> (usize, usize) {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let fds = fs::read_dir(proc.join("fd")).unwrap().count();
        let maps = fs::read_to_string(proc.join("maps")).unwrap();
        let given = maps.lines().filter(|line| line.contains("memfd:"));
        (fds, given.count())
    }

    /// Ends it by a signal as a user would.
    fn ends(mut self, signal: &str) {
        self.signal(signal);
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{signal}");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "one line is all that it prints");
        assert!(!self.socket.exists(), "{signal}: the socket is removed");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A controller, a queue and buffers.
struct Client {
    // Dropped in this order.
    queue: QueuePair<DmaBuf>,
    controller: Controller,
    pool: Pool,
}

impl Client {
    fn new(url: &str, timeout: Duration) -> Self {
        let space = DmaSpace::new();
        let path = url.strip_prefix("vfio-user:").unwrap();
        let options = VfioUserOptions {
            timeout,
            ..VfioUserOptions::default()
        };
        let transport = VfioUser::connect(path.as_ref(), options).unwrap();
        let options = ControllerOptions::default();
        let controller = Controller::with_transport(transport, &space, options).unwrap();
        let options = QueueOptions {
            depth: DEPTH,
            ..QueueOptions::default()
        };
        let queue = controller.queue_pair(options).unwrap();
        let options = PoolOptions {
            buf_bytes: 4096,
            count: usize::from(DEPTH),
        };
        let pool = space.pool("pages", options).unwrap();
        Self {
            queue,
            controller,
            pool,
        }
    }

    /// Fills the queue with writes; each block says where it lies.
    fn fill(&mut self, rng: &mut Rng) {
        let namespace = self.controller.namespace(None).unwrap();
        while let Ok(mut buffer) = self.pool.alloc() {
            let lba = rng.below(BLOCKS / 8) * 8;
            buffer.copy_from(0, &lba.to_le_bytes()).unwrap();
            let write = namespace.write(Lba(lba), 8).unwrap();
            if self.queue.submit(write, buffer).is_err() {
                break;
            }
        }
        self.queue.ring();
    }

    /// Polls until the requests in flight have ended; gives how each did.
    fn drain(&mut self) -> Vec<Result<(), CommandError>> {
        let mut ends = Vec::new();
        let deadline = Instant::now() + HANG;
        let drained = rt::wait(Some(deadline), |_now| {
            self.queue.poll(usize::MAX, |ended| ends.push(ended.result));
            (self.queue.in_flight() == 0 || ends.len() == usize::from(DEPTH)).then_some(())
        });
        assert!(drained.is_ok(), "HANG: {} of {DEPTH} ended", ends.len());
        ends
    }
}

/// Where the process that does I/O finds its device: set by the tests that start one.
const CLIENT: &str = "UNDERPIN_TEST_CLIENT";

/// A client at QD 32 that reads back what it wrote. As a test, for a while and on a server of its
/// own; started by another test, for ever: it is there to be killed.
#[test]
fn a_client_at_depth_reads_what_it_wrote() {
    let started = std::env::var(CLIENT).ok();
    let own = started.is_none().then(|| Server::new(&["--size", "64m"]));
    let url = started
        .clone()
        .unwrap_or_else(|| own.as_ref().unwrap().url());
    let mut client = Client::new(&url, HANG);
    let mut rng = Rng::seeded(u64::from(std::process::id()));
    let mut rounds = 0;
    loop {
        client.fill(&mut rng);
        if rounds == 0 {
            println!("under way");
            std::io::stdout().flush().unwrap();
        }
        assert!(client.drain().iter().all(Result::is_ok));
        rounds += 1;
        if started.is_none() && rounds == 50 {
            break;
        }
    }
    is_intact(&mut client);
}

/// Every block that was ever written says where it lies.
fn is_intact(client: &mut Client) {
    let namespace = client.controller.namespace(None).unwrap();
    let mut written = 0;
    for lba in (0..BLOCKS).step_by(8) {
        let buffer = client.pool.alloc().unwrap();
        let read = namespace.read(Lba(lba), 8).unwrap();
        let buffer = client.queue.run(read, buffer).unwrap();
        let mut found = [0; 8];
        buffer.copy_to(0, &mut found).unwrap();
        let found = u64::from_le_bytes(found);
        assert!(
            found == lba || found == 0,
            "block {lba} has {found}'s bytes"
        );
        written += u64::from(found != 0);
    }
    assert!(written > 0, "nothing was ever written");
}

/// A hundred clients, killed while they connect, are brought up, or do I/O at QD 32. The server
/// lets go of all that they gave it, and the next is served.
#[test]
fn a_hundred_killed_clients_leave_nothing() {
    let server = Server::new(&["--size", "64m"]);
    // What the server holds with a client that has given it nothing: those before are cleaned up
    // after by the time it is served.
    let with_one = |server: &Server| {
        let options = ClientOptions { timeout: HANG };
        Protocol::connect(&server.socket, options).unwrap()
    };
    let first = with_one(&server);
    let before = server.holds();
    drop(first);
    let mut rng = Rng::seeded(32);
    let mut in_flight = 0;
    for round in 0..100 {
        let this = std::env::current_exe().unwrap();
        let mut child = Command::new(this)
            .args([
                "--exact",
                "a_client_at_depth_reads_what_it_wrote",
                "--nocapture",
            ])
            .env(CLIENT, server.url())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Every fourth is killed at any moment of its short life, the others amid their I/O.
        if round % 4 != 0 {
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(
                lines.any(|line| line.unwrap().contains("under way")),
                "client {round} ended before its I/O began"
            );
            in_flight += 1;
        }
        rt::thread::sleep(Duration::from_micros(rng.below(8_000)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(in_flight, 75);
    let mut client = Client::new(&server.url(), HANG);
    is_intact(&mut client);
    drop(client);
    let last = with_one(&server);
    // The emulator's thread lets go of what was unmapped as soon as it looks.
    let deadline = Instant::now() + HANG;
    let let_go = rt::wait(Some(deadline), |_now| {
        (server.holds() == before).then_some(())
    });
    assert!(
        let_go.is_ok(),
        "{before:?} descriptors and mappings, now {:?}",
        server.holds()
    );
    drop(last);
    server.ends("TERM");
}

/// Its server is killed: everybody who waits is told, with the reason, and closing the controller
/// is orderly, as the end of the connection proves the end of DMA.
#[test]
fn a_dead_server_is_an_error_for_all_in_flight() {
    let mut server = Server::new(&["--size", "64m", "--fault", "hold@op=write+count=all"]);
    let mut client = Client::new(&server.url(), HANG);
    client.fill(&mut Rng::seeded(1));
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let ends = client.drain();
    assert_eq!(ends.len(), usize::from(DEPTH));
    for end in ends {
        let Err(CommandError::Lost(Failure::Transport(why))) = end else {
            panic!("{end:?}");
        };
        assert!(why.contains("closed the connection"), "{why}");
    }
    let Err(error) = client
        .controller
        .queue_pair::<DmaBuf>(QueueOptions::default())
    else {
        panic!("a queue of a dead server");
    };
    assert!(
        matches!(error, Error::Failed(Failure::Transport(_))),
        "{error}"
    );
    let Client {
        queue,
        controller,
        pool,
    } = client;
    drop(queue);
    drop(controller);
    let buffers: Vec<_> = (0..DEPTH).map_while(|_| pool.alloc().ok()).collect();
    assert_eq!(
        buffers.len(),
        usize::from(DEPTH),
        "buffers are still in quarantine"
    );
}

/// Its server is stopped for a while, with a command in flight: whoever waits for that command does
/// so no longer than it wants to, whatever a message may take, and nothing is lost by it: the
/// server's late answer is taken for what it is.
#[test]
fn a_frozen_server_keeps_nobody_waiting() {
    for waiting in [Waiting::Poll, Waiting::Interrupt, Waiting::ADAPTIVE] {
        let server = Server::new(&["--size", "64m", "--fault", "hold@op=write"]);
        // What a message may take is far more than anybody here waits.
        let client = Client::new(&server.url(), HANG / 3);
        let options = QueueOptions { depth: 8, waiting };
        let mut queue: QueuePair<DmaBuf> = client.controller.queue_pair(options).unwrap();
        let namespace = client.controller.namespace(None).unwrap();
        let write = namespace.write(Lba(0), 8).unwrap();
        let buffer = client.pool.alloc().unwrap();
        queue.submit(write, buffer).unwrap();
        queue.ring();
        server.signal("STOP");
        // Long enough that the device's state is asked for.
        for _ in 0..5 {
            let soon = Instant::now() + Duration::from_millis(200);
            assert!(!queue.wait(Some(soon)), "{waiting:?}: nothing can come");
            assert_eq!(queue.poll(1, |_ended| ()), 0);
        }
        assert_eq!(client.controller.failure(), None, "{waiting:?}");
        server.signal("CONT");
        for _ in 0..3 {
            let soon = Instant::now() + Duration::from_millis(200);
            assert!(!queue.wait(Some(soon)), "{waiting:?}: it is held");
        }
        let read = namespace.read(Lba(8), 8).unwrap();
        let buffer = client.pool.alloc().unwrap();
        let token = queue.submit(read, buffer).unwrap();
        assert!(queue.wait(Some(Instant::now() + HANG)), "{waiting:?}: HANG");
        queue.poll(1, |ended| {
            assert!(ended.token == token && ended.result.is_ok())
        });
        assert_eq!(client.controller.failure(), None, "{waiting:?}");
    }
}

/// Its server hangs: an error in time. Nothing proves that it does no DMA, so that the buffers
/// stay where they are.
#[test]
fn a_hung_server_is_an_error_and_no_proof() {
    let server = Server::new(&["--size", "64m", "--fault", "hold@op=write+count=all"]);
    let mut client = Client::new(&server.url(), Duration::from_secs(1));
    client.fill(&mut Rng::seeded(1));
    server.signal("STOP");
    let ends = client.drain();
    assert_eq!(ends.len(), usize::from(DEPTH));
    for end in ends {
        let Err(CommandError::Lost(Failure::Transport(why))) = end else {
            panic!("{end:?}");
        };
        assert!(why.contains("within 1s"), "{why}");
    }
    let Client {
        queue,
        controller,
        pool,
    } = client;
    drop(queue);
    drop(controller);
    assert!(pool.alloc().is_err(), "a server that hangs may still write");
    server.signal("CONT");
    // It finds its client gone and serves the next.
    let mut next = Client::new(&server.url(), HANG);
    next.fill(&mut Rng::seeded(2));
    server.ends("INT");
}

/// A second client waits for its turn, no longer than its own patience.
#[test]
fn one_client_at_a_time_and_the_next_after_it() {
    let server = Server::new(&["--size", "1m"]);
    let first = Client::new(&server.url(), HANG);
    let options = VfioUserOptions {
        timeout: Duration::from_millis(100),
        ..VfioUserOptions::default()
    };
    let refused = VfioUser::connect(&server.socket, options).unwrap_err();
    assert!(
        refused.to_string().contains("serves somebody else"),
        "{refused}"
    );
    drop(first);
    let found = run(["identify", &server.url(), "--json"]).ends(0).json();
    assert_eq!(found["namespaces"][0]["len_bytes"], 1 << 20);
    assert_eq!(found["as_driven"]["shadow_doorbells"], true);
    server.ends("TERM");
}

/// Only its user may connect, whatever the umask; a stale socket is replaced, a living one and
/// anything else are not.
#[test]
fn the_socket_is_ours_alone() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("nvme.sock");
    let text = socket.to_str().unwrap();
    let mut shell = Command::new("sh")
        .args(["-c", "umask 0; exec \"$0\" serve --socket \"$1\" --size 1m"])
        .args([env!("CARGO_BIN_EXE_underpin"), text])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(shell.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = run(["serve", "--socket", text]).ends(1);
    assert!(
        second.stderr.contains("another server answers"),
        "{}",
        second.stderr
    );
    shell.kill().unwrap();
    shell.wait().unwrap();
    assert!(
        fs::metadata(&socket).unwrap().file_type().is_socket(),
        "killed: it stays"
    );
    Server::at(&socket, &["--size", "1m"]).ends("TERM");
    fs::write(&socket, "a file").unwrap();
    let refused = run(["serve", "--socket", text]).ends(1);
    assert!(refused.stderr.contains("no socket"), "{}", refused.stderr);
    assert_eq!(fs::read(&socket).unwrap(), b"a file");
}

/// Options are those of `emu:` URLs, and a mistake is found before there is a socket.
#[test]
fn mistakes_are_found_before_there_is_a_socket() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("nvme.sock");
    let socket = socket.to_str().unwrap();
    for (args, hint) in [
        (&["--size", "big"][..], "512m"),
        (&["--lba", "520"], "512 or 4096"),
        (&["--fault", "dorp"], "`drop`"),
        (&["-o", "quees=4"], "`queues`"),
        (&["-o", "queues"], "KEY=VALUE"),
    ] {
        let fixed = ["serve", "--socket", socket];
        let refused = run(fixed.iter().chain(args)).ends(2);
        assert!(
            refused.stderr.contains(hint),
            "{args:?}: {}",
            refused.stderr
        );
        assert!(!Path::new(socket).exists());
    }
    let missing = run(["serve", "--socket", "/nonexistent/nvme.sock"]).ends(1);
    assert!(
        missing.stderr.contains("directory must exist"),
        "{}",
        missing.stderr
    );
    let server = Server::new(&["--media", "null", "--ns", "2", "-o", "ns2.lba=4096"]);
    let found = run(["identify", &server.url(), "--json"]).ends(0).json();
    assert_eq!(found["namespaces"].as_array().unwrap().len(), 2);
    server.ends("TERM");
}

/// A client that breaks the protocol is told of on standard error. That nobody can write there,
/// because a disk is full or a log's reader is gone, does not end the server.
#[test]
fn a_full_standard_error_does_not_end_the_server() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("nvme.sock");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut child = command(["serve", "--size", "4m", "--socket"])
        .arg(&socket)
        .stdout(Stdio::piped())
        .stderr(full)
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    let server = Server {
        child,
        stdout,
        socket,
        _folder: Some(folder),
    };
    let mut rude = std::os::unix::net::UnixStream::connect(&server.socket).unwrap();
    rude.write_all(&[0xff; 64]).unwrap();
    let _ = rude.read(&mut [0; 16]);
    run(["list", &server.url()]).ends(0);
    server.ends("INT");
}

/// A server that has no descriptor left for a client keeps it waiting, and takes it when it can.
#[test]
fn a_shortage_of_descriptors_does_not_end_the_server() {
    let server = Server::new(&["--size", "1m"]);
    let limit = |count: u32| {
        let pid = server.child.id().to_string();
        let soft = format!("--nofile={count}:");
        let status = Command::new("prlimit")
            .args(["--pid", &pid, &soft])
            .status();
        assert!(status.unwrap().success());
    };
    // The next descriptor would be the lowest free number.
    let fds = PathBuf::from(format!("/proc/{}/fd", server.child.id()));
    let free = (0..).find(|fd| !fds.join(fd.to_string()).is_symlink());
    limit(free.unwrap());
    let impatient = VfioUserOptions {
        timeout: Duration::from_millis(300),
        ..VfioUserOptions::default()
    };
    VfioUser::connect(&server.socket, impatient).unwrap_err();
    limit(1024);
    drop(Client::new(&server.url(), HANG));
    server.ends("TERM");
}
