//! The driver over vfio-user, with our server and with somebody else's: the same data whichever way
//! doorbells and interrupts go, and nothing of one client in the way of the next.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/foreign.rs"]
mod foreign;
mod support;

use foreign::Foreign;
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use support::{finish, is_stamped, stamp, within_limit};
use tempfile::TempDir;
use underpin::dma::rt::{Event, Instant, thread};
use underpin::dma::{MemSlice, Memory, PageSize, Word32};
use underpin::emulator::serve::{ServeOptions, Served};
use underpin::nvme::futures::Turn;
use underpin::nvme::{CommandError, Waiting};
use underpin::vfio_user::{Area, Client, ClientOptions, Error as ProtocolError, irq};
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, PoolOptions, QueueOptions, QueuePair,
};

/// Our server in a thread of this process, so that its emulator can be looked at.
struct Ours {
    served: Arc<Served>,
    socket: PathBuf,
    stop: Option<UnixStream>,
    thread: Option<thread::JoinHandle<()>>,
    _folder: TempDir,
}

impl Ours {
    fn new(config: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("nvme.sock");
        let config = config.parse().unwrap();
        let served = Served::bind(&socket, config, ServeOptions::default()).unwrap();
        let served = Arc::new(served);
        let (stop, stopped) = UnixStream::pair().unwrap();
        let thread = thread::spawn("server", {
            let served = Arc::clone(&served);
            move || served.run(&stopped).unwrap()
        });
        Self {
            served,
            socket,
            stop: Some(stop),
            thread: Some(thread.unwrap()),
            _folder: folder,
        }
    }

    /// Ends the server, with a client or without.
    fn stop(&mut self) {
        self.stop = None;
        self.thread.take().unwrap().join().unwrap();
    }

    /// Ends the server; nothing that it was asked to do was out of bounds.
    fn end(mut self) {
        self.stop();
        assert_eq!(
            self.served.emulator().iommu_faults(),
            [],
            "DMA that was blocked"
        );
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop = None;
    }
}

fn open(socket: &Path, space: &DmaSpace) -> Controller {
    let url = format!("vfio-user:{}", socket.display());
    Controller::open(&url, space, ControllerOptions::default()).unwrap()
}

fn queue(controller: &Controller, waiting: Waiting) -> QueuePair<DmaBuf> {
    controller
        .queue_pair(QueueOptions { depth: 16, waiting })
        .unwrap()
}

/// Writes and reads back a few hundred blocks, one at a time and many; pauses long enough for the
/// device to fall asleep come between.
fn write_and_read(controller: &Controller, waiting: Waiting) -> underpin::nvme::QueueStats {
    let space = controller.space();
    let namespace = controller.namespace(None).unwrap();
    let blocks = 4096 / u64::from(namespace.lba_bytes());
    let mut queue = queue(controller, waiting);
    let options = PoolOptions {
        buf_bytes: 4096,
        count: 16,
    };
    let pool = space.pool("pages", options).unwrap();
    for round in 0..20_u64 {
        let at = |page: u64| Lba((round * 16 + page) * blocks);
        for page in 0..16 {
            let mut buffer = pool.alloc().unwrap();
            stamp(&mut buffer, round * 16 + page);
            let write = namespace.write(at(page), blocks).unwrap();
            queue.submit(write, buffer).unwrap();
        }
        queue.ring();
        within_limit("16 writes", || {
            queue.poll(16, |ended| ended.result.unwrap());
            (queue.in_flight() == 0).then_some(())
        });
        if round % 4 == 0 {
            thread::sleep(Duration::from_millis(3));
        }
        let read = namespace.read(at(round % 16), blocks).unwrap();
        let token = queue.submit(read, pool.alloc().unwrap()).unwrap();
        queue.ring();
        let buffer = match waiting {
            Waiting::Poll => finish(&mut queue, token).buffer.unwrap(),
            _ => queue.wait_for(token).buffer.unwrap(),
        };
        assert!(
            is_stamped(&buffer, round * 16 + round % 16),
            "round {round}"
        );
    }
    queue.stats()
}

/// With shadow doorbells hardly any doorbell is a message; the register page is never asked for.
#[test]
fn shadow_doorbells_need_few_messages() {
    let ours = Ours::new("size=16m");
    let controller = open(&ours.socket, &DmaSpace::new());
    assert!(controller.has_shadow_doorbells());
    let stats = write_and_read(&controller, Waiting::Poll);
    let sent = ours.served.emulator().stats().kicks;
    assert!(
        sent <= stats.register_writes,
        "{sent} of {}",
        stats.register_writes
    );
    drop(controller);
    ours.end();
}

/// Without them the doorbells are words of a page that the server gave: nothing is sent, and an
/// idle device looks at it by itself.
#[test]
fn mapped_doorbells_need_no_message() {
    for dstrd in [0, 3] {
        let ours = Ours::new(&format!("size=16m,dbbuf=off,dstrd={dstrd}"));
        let controller = open(&ours.socket, &DmaSpace::new());
        assert!(!controller.has_shadow_doorbells());
        let before = ours.served.emulator().stats().doorbell_writes;
        let stats = write_and_read(&controller, Waiting::Poll);
        assert!(stats.register_writes > 20, "each ring is a write");
        // What did come is the admin queue's, which makes and deletes the I/O queue.
        let came = ours.served.emulator().stats().doorbell_writes - before;
        assert!(came < 20, "{came} doorbell messages");
        assert_eq!(ours.served.emulator().stats().invalid_doorbells, 0);
        drop(controller);
        ours.end();
    }
}

/// Completions wake a sleeping thread through an eventfd that went to the server.
#[test]
fn interrupts_cross_the_process_boundary() {
    let ours = Ours::new("size=16m");
    let controller = open(&ours.socket, &DmaSpace::new());
    for waiting in [Waiting::Interrupt, Waiting::ADAPTIVE] {
        write_and_read(&controller, waiting);
    }
    assert!(ours.served.emulator().stats().interrupts > 0);
    drop(controller);
    ours.end();
}

/// A server has the descriptor of a queue's event, and can take what signals it away: requests of
/// other threads are found all the same.
#[test]
fn a_server_cannot_swallow_requests() {
    let server = Ours::new("size=1m");
    let space = DmaSpace::new();
    let controller = open(&server.socket, &space);
    for waiting in [Waiting::Interrupt, Waiting::ADAPTIVE] {
        let options = QueueOptions { depth: 4, waiting };
        let queue = controller.async_queue(options).unwrap();
        let read = controller.namespace(None).unwrap().read(Lba(0), 8).unwrap();
        let mut request = queue.handle().run(read, space.alloc(4096, 4096).unwrap());
        let until = within_limit("the queue to sleep", || match queue.turn() {
            Turn::Sleep { until } => Some(until),
            _ => None,
        });
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut request).poll(&mut cx).is_pending());
        assert!(queue.event().clear(), "it rings");
        assert!(until.is_some(), "{waiting:?}: it sleeps for ever");
        assert!(!queue.event().wait(until));
        within_limit("the request to end", || {
            queue.turn();
            match Pin::new(&mut request).poll(&mut cx) {
                Poll::Ready(ended) => Some(ended.unwrap()),
                Poll::Pending => None,
            }
        });
    }
    drop(controller);
    server.end();
}

/// A server that goes leaves nobody asleep until a command's deadline: here that is an hour off.
#[test]
fn a_server_that_goes_is_noticed_by_a_sleeper() {
    for waiting in [Waiting::Poll, Waiting::Interrupt, Waiting::ADAPTIVE] {
        let mut server = Ours::new("size=1m,fault=hold@op=read");
        let space = DmaSpace::new();
        let options = ControllerOptions {
            command_timeout: Duration::from_secs(3600),
            ..ControllerOptions::default()
        };
        let url = format!("vfio-user:{}", server.socket.display());
        let controller = Controller::open(&url, &space, options).unwrap();
        let mut queue = queue(&controller, waiting);
        let read = controller.namespace(None).unwrap().read(Lba(0), 8).unwrap();
        let page = space.alloc(4096, 4096).unwrap();
        queue.submit(read, page).unwrap();
        let ending = thread::spawn("ending", move || {
            thread::sleep(Duration::from_millis(30));
            // Its client still is at it: a look at a doorbell may find the client's memory gone.
            server.stop();
            Instant::now()
        })
        .unwrap();
        let limit = Instant::now() + Duration::from_secs(20);
        assert!(queue.wait(Some(limit)), "{waiting:?}: asleep");
        let noticed = Instant::now();
        let mut result = Ok(());
        assert_eq!(queue.poll(1, |ended| result = ended.result), 1);
        assert!(matches!(result, Err(CommandError::Lost(_))), "{result:?}");
        println!(
            "{waiting:?}: after {:?}",
            noticed.since(ending.join().unwrap())
        );
    }
}

/// A page of doorbells that an earlier client still has mapped rings nobody's bell.
#[test]
fn an_old_clients_doorbells_ring_nothing() {
    let ours = Ours::new("size=16m,dbbuf=off");
    let old = Client::connect(&ours.socket, ClientOptions::default()).unwrap();
    let (info, file) = old.region_file(0).unwrap().unwrap();
    assert_eq!(
        info.areas,
        [Area {
            offset: 0x1000,
            size: 0x1000
        }]
    );
    let memory = Memory::received("old", file, 0x1000, 0x1000, false).unwrap();
    let slice = MemSlice::new(&memory, 0, 0x1000).unwrap();
    let words: Vec<_> = (0..1024)
        .map(|at| Word32::new(&slice, 4 * at).unwrap())
        .collect();
    old.end().unwrap();
    let controller = open(&ours.socket, &DmaSpace::new());
    let scribble = |value| {
        let order = std::sync::atomic::Ordering::SeqCst;
        words.iter().for_each(|word| word.store(value, order));
    };
    scribble(1);
    write_and_read(&controller, Waiting::Poll);
    scribble(u32::MAX);
    thread::sleep(Duration::from_millis(3));
    assert_eq!(ours.served.emulator().stats().invalid_doorbells, 0);
    drop(controller);
    ours.end();
}

/// A region that is given up is out of the server's reach when that returns, while others are in
/// use; and no more of them are taken than the server says.
#[test]
fn regions_come_and_go_under_load() {
    let ours = Ours::new("size=16m");
    let space = DmaSpace::new();
    let controller = open(&ours.socket, &space);
    let others = thread::spawn("regions", {
        let space = space.clone();
        move || {
            for round in 0..200 {
                let region = space.region("passing", 4096 << (round % 4)).unwrap();
                drop(region);
            }
        }
    });
    for _ in 0..3 {
        write_and_read(&controller, Waiting::Poll);
    }
    others.unwrap().join().unwrap();
    assert_eq!(space.stats().iova_lost_bytes, 0);
    drop(controller);
    ours.end();
}

/// The driver over another project's server: no doorbell page there, and a client of its own kind
/// of protocol code.
#[test]
fn our_client_drives_their_server() {
    for config in ["size=16m", "size=16m,dbbuf=off", "size=16m,lba=4096"] {
        let folder = TempDir::new().unwrap();
        let foreign = Foreign::new(folder.path(), config);
        let controller = open(&foreign.socket, &DmaSpace::new());
        write_and_read(&controller, Waiting::Poll);
        write_and_read(&controller, Waiting::Interrupt);
        drop(controller);
        assert_eq!(foreign.emulator.iommu_faults(), []);
        foreign.end();
    }
}

/// Another project's client finds at our server what a virtual machine monitor looks for.
#[test]
fn their_client_finds_our_device() {
    let ours = Ours::new("size=16m,queues=4");
    let mut client = vfio_user::Client::new(&ours.socket).unwrap();
    let region = |index| client.region(index).unwrap();
    assert_eq!((region(0).size, region(7).size), (0x2000, 0x1000));
    let areas: Vec<_> = region(0)
        .sparse_areas
        .iter()
        .map(|area| (area.offset, area.size))
        .collect();
    assert_eq!(areas, [(0x1000, 0x1000)]);
    let file = region(0).file_offset.as_ref().unwrap();
    assert_eq!(
        (file.start(), file.file().metadata().unwrap().len()),
        (0, 0x2000)
    );

    let mut class = [0; 4];
    client.region_read(7, 8, &mut class).unwrap();
    assert_eq!(class[1..], [2, 8, 1], "NVM Express");
    let mut version = [0; 4];
    client.region_read(0, 8, &mut version).unwrap();
    assert_eq!(u32::from_le_bytes(version), 0x0002_0000);
    client
        .region_write(0, 0x24, &0x001f_001f_u32.to_le_bytes())
        .unwrap();
    let mut aqa = [0; 4];
    client.region_read(0, 0x24, &mut aqa).unwrap();
    assert_eq!(u32::from_le_bytes(aqa), 0x001f_001f);

    let msix = client.get_irq_info(irq::MSIX).unwrap();
    assert_eq!(
        (msix.count, msix.flags & irq::CAN_EVENTFD),
        (5, irq::CAN_EVENTFD)
    );
    let events: Vec<_> = (0..5).map(|_| Event::new().unwrap()).collect();
    let fds: Vec<_> = events
        .iter()
        .map(|event| event.as_fd().as_raw_fd())
        .collect();
    client
        .set_irqs(irq::MSIX, irq::DATA_EVENTFD | irq::TRIGGER, 0, 5, &fds)
        .unwrap();
    client
        .set_irqs(irq::MSIX, irq::DATA_NONE | irq::TRIGGER, 3, 1, &[])
        .unwrap();
    let set: Vec<_> = events.iter().map(Event::is_set).collect();
    assert_eq!(set, [false, false, false, true, false]);

    let memory = Memory::new("theirs", 0x4000, PageSize::Small).unwrap();
    let fd = memory.fd().unwrap().0.as_raw_fd();
    client.dma_map(0x1000, 0x10_0000, 0x3000, fd).unwrap();
    client.dma_unmap(0x10_0000, 0x3000).unwrap();
    client.reset().unwrap();
    client.shutdown().unwrap();
    drop(client);

    // The next one is served, and refused what makes no sense, with an errno.
    let client = Client::connect(&ours.socket, ClientOptions::default()).unwrap();
    let error = client.dma_unmap(0x10_0000, 0x3000).unwrap_err();
    assert!(
        matches!(error, ProtocolError::Refused { errno: 2, .. }),
        "{error}"
    );
    drop(client);
    ours.end();
}
