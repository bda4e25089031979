//! Who owns a buffer while the device may write it: never the pool. Every way in which an owner
//! can go away is tried while the emulator holds the completion back, which then does its DMA;
//! canaries in all buffers that could be allocated meanwhile stay whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{Rig, finish, is_stamped, stamp, within_limit};
use underpin::dma::Mapper;
use underpin::dma::rt::sync::OnceLock;
use underpin::dma::rt::{self, Instant, thread};
use underpin::nvme::transport::Embedded;
use underpin::nvme::{CommandError, Failure, Status, Transport, TransportError};
use underpin::{
    Controller, ControllerOptions, DmaBuf, Error, Lba, Namespace, Pool, PoolOptions, QueueOptions,
    QueuePair, Token,
};

const COUNT: usize = 8;
const BUF_BYTES: usize = 8192;
/// What the medium holds where the held reads read, and what canaries are made of.
const DATA: u64 = 0xda7a;
const CANARY: u8 = 0xca;

/// A device with known data on its medium, a small pool, and a queue.
struct Stage {
    rig: Rig,
    controller: Controller,
    namespace: Namespace,
    pool: Pool,
    queue: QueuePair<DmaBuf>,
}

impl Stage {
    fn new(config: &str) -> Self {
        Self::with(config, ControllerOptions::default())
    }

    fn with(config: &str, options: ControllerOptions) -> Self {
        let rig = Rig::new(&format!("size=16m,queues=4{config}"));
        let controller = rig.open(options).unwrap();
        Self::on(rig, controller)
    }

    fn on(rig: Rig, controller: Controller) -> Self {
        let options = PoolOptions {
            buf_bytes: BUF_BYTES,
            count: COUNT,
        };
        let pool = rig.space.pool("contested", options).unwrap();
        let mut queue = controller
            .queue_pair(QueueOptions {
                depth: 16,
                ..QueueOptions::default()
            })
            .unwrap();
        let namespace = controller.namespace(None).unwrap();
        let mut buffer = pool.alloc().unwrap();
        stamp(&mut buffer, DATA);
        let token = queue
            .submit(namespace.write(Lba(0), 16).unwrap(), buffer)
            .unwrap();
        finish(&mut queue, token).result.unwrap();
        assert_eq!(pool.free_count(), COUNT);
        Self {
            rig,
            controller,
            namespace,
            pool,
            queue,
        }
    }

    /// A read of the known data whose DMA and completion the device holds back.
    fn hold_a_read(&mut self) -> Token {
        self.rig.inject("hold@op=read");
        let token = self.read();
        self.rig.until_fired(1);
        token
    }

    /// Closes everything in its order; nothing of the pool is lost, nobody objects.
    #[track_caller]
    fn end(self) {
        let Self {
            rig,
            controller,
            namespace,
            pool,
            queue,
        } = self;
        drop((queue, namespace, controller));
        assert_eq!(pool.free_count(), COUNT);
        rig.end();
    }

    fn read(&mut self) -> Token {
        let io = self.namespace.read(Lba(0), 16).unwrap();
        let token = self.queue.submit(io, self.pool.alloc().unwrap()).unwrap();
        self.queue.ring();
        token
    }
}

/// Every buffer that the pool still gives, full of canaries.
struct Canaries(Vec<DmaBuf>);

impl Canaries {
    fn in_all_of(pool: &Pool) -> Self {
        let mut buffers = Vec::new();
        while let Some(mut buffer) = pool.try_alloc() {
            buffer.fill(CANARY);
            buffers.push(buffer);
        }
        Self(buffers)
    }

    #[track_caller]
    fn are_whole(&self) {
        for buffer in &self.0 {
            let hit = support::bytes(buffer)
                .iter()
                .position(|&byte| byte != CANARY);
            assert_eq!(hit, None, "the device wrote into a buffer with a new owner");
        }
    }
}

/// Lets the held command go on and waits until its data has moved.
#[track_caller]
fn late_dma(rig: &Rig) {
    let before = rig.emulator.stats().bytes_to_host;
    rig.emulator.release_held();
    rig.until("the held command's DMA", |stats| {
        stats.bytes_to_host >= before + BUF_BYTES as u64
    });
}

/// Lets the held command go on and gives it every chance to do DMA that must not be.
#[track_caller]
fn no_late_dma(rig: &Rig) {
    let before = rig.emulator.stats();
    rig.emulator.release_held();
    let until = Instant::now() + Duration::from_millis(20);
    let _ = rt::wait(Some(until), |_now| None::<()>);
    assert_eq!(rig.emulator.stats().bytes_to_host, before.bytes_to_host);
}

/// The token says which request; it owns nothing, so forgetting it loses nothing.
#[test]
fn a_token_is_forgotten() {
    let mut stage = Stage::new("");
    let token = stage.hold_a_read();
    let canaries = Canaries::in_all_of(&stage.pool);
    assert_eq!(canaries.0.len(), COUNT - 1);
    late_dma(&stage.rig);
    canaries.are_whole();
    let ended = finish(&mut stage.queue, token);
    ended.result.unwrap();
    assert!(is_stamped(&ended.buffer.unwrap(), DATA));
    drop(canaries);
    assert_eq!(stage.pool.free_count(), COUNT);
    stage.end();
}

/// A completion that nobody looks at gives the buffer back to its pool, and not earlier.
#[test]
fn completions_are_dropped_unread() {
    let mut stage = Stage::new("");
    stage.hold_a_read();
    stage.queue.poll(usize::MAX, drop);
    let canaries = Canaries::in_all_of(&stage.pool);
    late_dma(&stage.rig);
    canaries.are_whole();
    within_limit("the completion", || {
        (stage.queue.poll(1, drop) == 1).then_some(())
    });
    assert_eq!(stage.pool.free_count(), 1);
    drop(canaries);
    stage.end();
}

/// Dropping the queue deletes it on the device, which ends its commands: only then do buffers
/// come back, and after that the device does no DMA for them.
#[test]
fn a_queue_is_dropped() {
    let mut stage = Stage::new("");
    stage.hold_a_read();
    let Stage {
        rig,
        controller,
        namespace,
        pool,
        queue,
    } = stage;
    drop(queue);
    assert_eq!(controller.quarantined_queues(), 0);
    let canaries = Canaries::in_all_of(&pool);
    assert_eq!(
        canaries.0.len(),
        COUNT,
        "Delete I/O SQ succeeded: that is proof"
    );
    no_late_dma(&rig);
    canaries.are_whole();
    drop((canaries, namespace, controller));
    rig.end();
}

/// The embedded transport with a gate before the admin queue's doorbell.
#[derive(Debug)]
struct Gated {
    inner: Arc<Embedded>,
    shut: AtomicBool,
    /// Somebody stands before the gate.
    waiting: AtomicBool,
}

impl Transport for Gated {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn read32(&self, offset: usize) -> Result<u32, TransportError> {
        self.inner.read32(offset)
    }
    fn read64(&self, offset: usize) -> Result<u64, TransportError> {
        self.inner.read64(offset)
    }
    fn write32(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        // 1000h is the admin submission queue's tail doorbell (NVMe Base 2.0, 3.1.3).
        if offset == 0x1000 && self.shut.load(Ordering::Acquire) {
            self.waiting.store(true, Ordering::Release);
            within_limit("the gate to open", || {
                (!self.shut.load(Ordering::Acquire)).then_some(())
            });
        }
        self.inner.write32(offset, value)
    }
    fn write64(&self, offset: usize, value: u64) -> Result<(), TransportError> {
        self.inner.write64(offset, value)
    }
    fn mapper(&self) -> Arc<dyn Mapper> {
        self.inner.mapper()
    }
    fn sever(&self) -> Result<(), TransportError> {
        self.inner.sever()
    }
}

/// As long as the device has not answered Delete I/O SQ it may write: the DMA comes after the
/// queue was dropped and before the deletion, and hits no buffer that somebody else could have.
#[test]
fn a_queue_is_dropped_and_dma_comes_before_the_deletion() {
    let rig = Rig::new("size=16m,queues=4");
    let gate = Arc::new(Gated {
        inner: Arc::clone(&rig.transport),
        shut: AtomicBool::new(false),
        waiting: AtomicBool::new(false),
    });
    let options = ControllerOptions::default();
    let controller = Controller::with_transport(gate.clone(), &rig.space, options).unwrap();
    let mut stage = Stage::on(rig, controller);
    stage.hold_a_read();
    let Stage {
        rig,
        controller,
        namespace,
        pool,
        queue,
    } = stage;
    gate.shut.store(true, Ordering::Release);
    let dropper = thread::spawn("dropper", move || drop(queue)).unwrap();
    within_limit("the deletion to be on its way", || {
        gate.waiting.load(Ordering::Acquire).then_some(())
    });
    let canaries = Canaries::in_all_of(&pool);
    assert_eq!(canaries.0.len(), COUNT - 1, "there is no proof yet");
    late_dma(&rig);
    canaries.are_whole();
    gate.shut.store(false, Ordering::Release);
    dropper.join().unwrap();
    assert_eq!(pool.free_count(), 1, "now there is proof");
    drop((canaries, namespace, controller));
    rig.end();
}

/// A device that refuses to delete the queue has proven nothing: the buffers stay away until it
/// is asked again, and grants it.
#[test]
fn a_queue_is_dropped_and_its_deletion_is_refused() {
    let mut stage = Stage::new("");
    stage.hold_a_read();
    let Stage {
        rig,
        controller,
        namespace,
        pool,
        queue,
    } = stage;
    rig.inject("status:0x6@op=0x00+q=0");
    let granted = controller.granted_queues();
    drop(queue);
    assert_eq!(controller.quarantined_queues(), 1);
    let canaries = Canaries::in_all_of(&pool);
    assert_eq!(canaries.0.len(), COUNT - 1);
    late_dma(&rig);
    canaries.are_whole();
    assert_eq!(
        pool.free_count(),
        0,
        "the completion is no proof that anybody read"
    );
    // The next queue is made from what is left; by then the device answers, and lets go.
    let queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default()).unwrap();
    assert_eq!((controller.quarantined_queues(), pool.free_count()), (0, 1));
    assert_eq!(controller.granted_queues(), granted);
    drop((canaries, queue, namespace, controller));
    assert_eq!(pool.free_count(), COUNT);
    rig.end();
}

/// A forgotten queue keeps what its commands own, for ever.
#[test]
fn a_queue_is_forgotten() {
    let mut stage = Stage::new("");
    stage.hold_a_read();
    let Stage {
        rig,
        controller,
        namespace,
        pool,
        queue,
    } = stage;
    std::mem::forget(queue);
    let canaries = Canaries::in_all_of(&pool);
    assert_eq!(canaries.0.len(), COUNT - 1);
    late_dma(&rig);
    canaries.are_whole();
    drop((canaries, namespace, controller));
    assert_eq!(pool.free_count(), COUNT - 1);
    rig.end();
}

/// The thread that owns the queue panics: unwinding drops the queue like any owner would.
#[test]
fn the_owners_thread_panics() {
    for deletion_fails in [false, true] {
        let mut stage = Stage::new("");
        stage.hold_a_read();
        let Stage {
            rig,
            controller,
            namespace,
            pool,
            queue,
        } = stage;
        if deletion_fails {
            rig.inject("status:0x6@op=0x00+q=0");
        }
        let owner = thread::spawn("owner", move || {
            let _queue = queue;
            panic!("a panic that the test wants");
        });
        assert!(owner.unwrap().join().is_err());
        let canaries = Canaries::in_all_of(&pool);
        assert_eq!(canaries.0.len(), COUNT - usize::from(deletion_fails));
        match deletion_fails {
            true => late_dma(&rig),
            false => no_late_dma(&rig),
        }
        canaries.are_whole();
        drop((canaries, namespace, controller));
        assert_eq!(pool.free_count(), COUNT, "closing the controller is proof");
        rig.end();
    }
}

/// The closure given to `poll` panics on one completion while another command is held: the held
/// one keeps its buffer, and the queue works on through several turns of its rings.
#[test]
fn the_closure_given_to_poll_panics() {
    let mut stage = Stage::new("");
    let held = stage.hold_a_read();
    stage.read();
    within_limit("the closure to be called", || {
        let queue = &mut stage.queue;
        let polled = catch_unwind(AssertUnwindSafe(|| {
            queue.poll(usize::MAX, |_completion| {
                panic!("a panic that the test wants")
            })
        }));
        polled.is_err().then_some(())
    });
    let canaries = Canaries::in_all_of(&stage.pool);
    assert_eq!(
        canaries.0.len(),
        COUNT - 1,
        "the completed one's buffer went back"
    );
    late_dma(&stage.rig);
    canaries.are_whole();
    let ended = finish(&mut stage.queue, held);
    ended.result.unwrap();
    assert!(is_stamped(&ended.buffer.unwrap(), DATA));
    drop(canaries);
    for _ in 0..100 {
        let token = stage.read();
        let ended = finish(&mut stage.queue, token);
        ended.result.unwrap();
        assert!(is_stamped(&ended.buffer.unwrap(), DATA));
    }
    stage.end();
}

/// The controller's handle goes first: its queues keep what they need of it.
#[test]
fn the_controller_is_dropped_first() {
    let mut stage = Stage::new("");
    let held = stage.hold_a_read();
    let Stage {
        rig,
        controller,
        namespace,
        pool,
        mut queue,
    } = stage;
    drop((controller, namespace));
    let canaries = Canaries::in_all_of(&pool);
    assert_eq!(canaries.0.len(), COUNT - 1);
    late_dma(&rig);
    canaries.are_whole();
    let ended = finish(&mut queue, held);
    ended.result.unwrap();
    assert!(is_stamped(&ended.buffer.unwrap(), DATA));
    drop((canaries, queue));
    assert_eq!(pool.free_count(), COUNT);
    assert_eq!(
        rig.space.stats().contexts,
        0,
        "the last queue closed the controller"
    );
    rig.end();
}

/// Everything that knows the controller goes at once, and its reset is the only proof.
#[test]
fn controller_and_queue_are_dropped_with_a_command_held() {
    let mut stage = Stage::new("");
    stage.hold_a_read();
    let Stage {
        rig,
        controller,
        namespace,
        pool,
        queue,
    } = stage;
    rig.inject("status:0x6@op=0x00+q=0");
    drop((controller, namespace, queue));
    let canaries = Canaries::in_all_of(&pool);
    assert_eq!(
        canaries.0.len(),
        COUNT,
        "CC.EN = 0 and CSTS.RDY = 0 are proof"
    );
    no_late_dma(&rig);
    canaries.are_whole();
    drop(canaries);
    rig.end();
}

/// Commands are late after 300 ms.
fn hasty() -> ControllerOptions {
    ControllerOptions {
        command_timeout: Duration::from_millis(300),
        ..ControllerOptions::default()
    }
}

/// A command is late: its waiter is told without its buffer, the device's DMA comes afterwards,
/// and the buffer comes back only when the controller is closed.
#[test]
fn a_command_times_out_and_its_dma_comes_later() {
    let mut stage = Stage::with("", hasty());
    let held = stage.hold_a_read();
    let ended = finish(&mut stage.queue, held);
    let Err(CommandError::Lost(Failure::Timeout { timeout, .. })) = &ended.result else {
        panic!("it ended with {:?}", ended.result);
    };
    assert_eq!(*timeout, Duration::from_millis(300));
    assert!(ended.buffer.is_none(), "the device still has it");
    assert!(matches!(
        stage.controller.failure(),
        Some(Failure::Timeout { .. })
    ));
    let canaries = Canaries::in_all_of(&stage.pool);
    assert_eq!(canaries.0.len(), COUNT - 1);
    late_dma(&stage.rig);
    canaries.are_whole();

    // Nothing is told twice, nothing new is taken, and its own buffer comes back at once.
    assert_eq!(stage.queue.poll(usize::MAX, |_| ()), 0);
    let mut canaries = canaries;
    let mine = canaries.0.pop().unwrap();
    let refused = stage
        .queue
        .submit(stage.namespace.read(Lba(0), 16).unwrap(), mine)
        .unwrap_err();
    assert!(matches!(
        refused.error,
        Error::Failed(Failure::Timeout { .. })
    ));
    canaries.0.push(refused.buffer);

    let Stage {
        rig,
        controller,
        namespace,
        pool,
        queue,
    } = stage;
    drop(queue);
    assert_eq!((controller.quarantined_queues(), pool.free_count()), (1, 0));
    canaries.are_whole();
    let other = controller
        .queue_pair::<DmaBuf>(QueueOptions::default())
        .unwrap_err();
    assert!(
        matches!(other, Error::Failed(Failure::Timeout { .. })),
        "{other:?}"
    );
    drop((namespace, controller));
    assert_eq!(pool.free_count(), 1, "closed with proof: it comes back");
    drop(canaries);
    rig.end();
}

/// All queues of a failed controller tell their waiters, each exactly once; none gives a buffer
/// back.
#[test]
fn a_failure_is_told_to_the_waiters_of_every_queue() {
    let mut stage = Stage::with("", hasty());
    let mut second: QueuePair<DmaBuf> = stage
        .controller
        .queue_pair(QueueOptions::default())
        .unwrap();
    stage.rig.inject("hold@op=read+count=all");
    let mut tokens: Vec<Token> = (0..3).map(|_| stage.read()).collect();
    let mut others: Vec<Token> = (0..4)
        .map(|_| {
            let io = stage.namespace.read(Lba(0), 16).unwrap();
            let token = second.submit(io, stage.pool.alloc().unwrap()).unwrap();
            second.ring();
            token
        })
        .collect();
    stage.rig.until_fired(7);
    for (queue, waiting) in [(&mut stage.queue, &mut tokens), (&mut second, &mut others)] {
        within_limit("every waiter to be told", || {
            queue.poll(1, |ended| {
                assert!(matches!(ended.result, Err(CommandError::Lost(_))));
                assert!(ended.buffer.is_none());
                let at = waiting.iter().position(|&token| token == ended.token);
                waiting.remove(at.expect("told twice, or never asked"));
            });
            waiting.is_empty().then_some(())
        });
    }
    let canaries = Canaries::in_all_of(&stage.pool);
    assert_eq!(canaries.0.len(), COUNT - 7);
    let before = stage.rig.emulator.stats().bytes_to_host;
    stage.rig.emulator.release_held();
    stage.rig.until("all held DMA", |stats| {
        stats.bytes_to_host >= before + 7 * BUF_BYTES as u64
    });
    canaries.are_whole();
    let Stage {
        rig,
        controller,
        namespace,
        pool,
        queue,
    } = stage;
    drop((queue, second, namespace, controller, canaries));
    assert_eq!(pool.free_count(), COUNT);
    rig.end();
}

/// A request in two commands, one done and one held: it ends, and gives its buffer back, only
/// when both have; with the error of the one that failed.
#[test]
fn a_split_request_ends_with_its_last_command() {
    for error in [false, true] {
        // One page a command: two commands for the pool's buffers.
        let options = ControllerOptions {
            max_transfer_bytes: 4096,
            ..ControllerOptions::default()
        };
        let mut stage = Stage::with("", options);
        stage.rig.inject("hold@op=read+lba=8-15");
        if error {
            stage.rig.inject("status:0x281@op=read+lba=0-7");
        }
        let completions = stage.rig.emulator.stats().completions;
        let token = stage.read();
        stage.rig.until_fired(1 + u64::from(error));
        stage.rig.until("the first half's completion", |stats| {
            stats.completions > completions
        });
        for _ in 0..100 {
            let told = stage.queue.poll(1, |_| ());
            assert_eq!(told, 0, "it ended with a command in flight");
        }
        let canaries = Canaries::in_all_of(&stage.pool);
        assert_eq!(canaries.0.len(), COUNT - 1);
        let before = stage.rig.emulator.stats().bytes_to_host;
        stage.rig.emulator.release_held();
        stage.rig.until("the second half's DMA", |stats| {
            stats.bytes_to_host >= before + 4096
        });
        canaries.are_whole();
        let ended = finish(&mut stage.queue, token);
        let buffer = ended.buffer.expect("the device lives, so it comes back");
        match ended.result {
            Ok(()) => {
                assert!(!error);
                assert!(is_stamped(&buffer, DATA));
            }
            Err(CommandError::Status { status, .. }) => {
                assert!(error);
                assert_eq!(status.code(), Status::UNRECOVERED_READ_ERROR.code());
            }
            Err(other) => panic!("{other}"),
        }
        drop((canaries, buffer));
        assert_eq!(stage.pool.free_count(), COUNT);
        stage.end();
    }
}

/// A device behind a transport that cannot be severed, and whose registers can die while its DMA
/// goes on.
#[derive(Debug)]
struct Unproven {
    inner: Arc<Embedded>,
    /// What all registers read as, once it is told.
    dead: OnceLock<u64>,
}

impl Unproven {
    fn new(rig: &Rig) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(&rig.transport),
            dead: OnceLock::new(),
        })
    }
}

impl Transport for Unproven {
    fn name(&self) -> String {
        "unproven".to_owned()
    }
    fn read32(&self, offset: usize) -> Result<u32, TransportError> {
        match self.dead.get() {
            Some(&value) => Ok(value as u32),
            None => self.inner.read32(offset),
        }
    }
    fn read64(&self, offset: usize) -> Result<u64, TransportError> {
        match self.dead.get() {
            Some(&value) => Ok(value),
            None => self.inner.read64(offset),
        }
    }
    fn write32(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        match self.dead.get() {
            Some(_) => Ok(()),
            None => self.inner.write32(offset, value),
        }
    }
    fn write64(&self, offset: usize, value: u64) -> Result<(), TransportError> {
        match self.dead.get() {
            Some(_) => Ok(()),
            None => self.inner.write64(offset, value),
        }
    }
    fn mapper(&self) -> Arc<dyn Mapper> {
        self.inner.mapper()
    }
    fn sever(&self) -> Result<(), TransportError> {
        Err(TransportError {
            device: self.name(),
            what: "there is no way to cut it off".to_owned(),
        })
    }
}

/// Registers that read as all ones (a dead device on hardware), as zero (in some virtual machines)
/// or as those of something else are no proof, also where they say CSTS.RDY = 0.
#[test]
fn dead_registers_prove_nothing() {
    for value in [0, u64::MAX, 0x1234_5678_0000_0010] {
        let rig = Rig::new("size=16m,queues=4,to_ms=500");
        let transport = Unproven::new(&rig);
        let controller =
            Controller::with_transport(transport.clone(), &rig.space, hasty()).unwrap();
        let mut stage = Stage::on(rig, controller);
        let token = stage.hold_a_read();
        transport.dead.set(value).unwrap();
        let ended = finish(&mut stage.queue, token);
        let Err(CommandError::Lost(failure)) = ended.result else {
            panic!("it ended with {:?}", ended.result);
        };
        println!("{value:#x}: {failure}");
        let Stage {
            rig,
            controller,
            namespace,
            pool,
            queue,
        } = stage;
        drop((queue, namespace, controller));
        let canaries = Canaries::in_all_of(&pool);
        assert_eq!(canaries.0.len(), COUNT - 1, "{value:#x} is no proof");
        late_dma(&rig);
        canaries.are_whole();
        drop(canaries);
        assert_eq!(pool.free_count(), COUNT - 1, "for ever");
        rig.end();
    }
}

/// Where nothing proves that the device has stopped, its memory is never used again: the DMA
/// that comes after all handles are gone finds it still mapped, and nobody's.
#[test]
fn without_proof_memory_is_never_used_again() {
    for late in [false, true] {
        let rig = Rig::new("size=16m,queues=4,to_ms=500,fault=never-disabled");
        let transport = Unproven::new(&rig);
        let controller = Controller::with_transport(transport, &rig.space, hasty()).unwrap();
        let mut stage = Stage::on(rig, controller);
        stage.rig.inject("hold@op=read");
        let token = stage.read();
        stage.rig.until_fired(1);
        if late {
            // The controller has failed before it is closed; else closing it is what fails.
            assert!(finish(&mut stage.queue, token).buffer.is_none());
        } else {
            stage.rig.inject("status:0x6@op=0x00+q=0");
        }
        let Stage {
            rig,
            controller,
            namespace,
            pool,
            queue,
        } = stage;
        drop((queue, namespace, controller));
        let canaries = Canaries::in_all_of(&pool);
        assert_eq!(
            canaries.0.len(),
            COUNT - 1,
            "without proof nothing comes back"
        );
        match late {
            true => late_dma(&rig),
            // An orderly shutdown came before, after which this device does no DMA; but it has
            // not said so with CSTS.RDY = 0, which is what counts.
            false => no_late_dma(&rig),
        }
        canaries.are_whole();
        drop(canaries);
        assert_eq!(pool.free_count(), COUNT - 1, "for ever");
        assert_eq!(
            rig.space.stats().contexts,
            1,
            "it stays mapped: the device may come there"
        );
        rig.end();
    }
}

/// What a slot owns beside the buffer, a caller's own context, shares the buffer's fate.
#[test]
fn a_callers_context_lives_as_long_as_its_buffer() {
    let stage = Stage::new("");
    let Stage {
        rig,
        controller,
        namespace,
        pool,
        queue,
    } = stage;
    drop(queue);
    let context = Arc::new(());
    let mut queue: QueuePair<(DmaBuf, Arc<()>)> =
        controller.queue_pair(QueueOptions::default()).unwrap();
    rig.inject("hold@op=read");
    let io = namespace.read(Lba(0), 16).unwrap();
    let token = queue
        .submit(io, (pool.alloc().unwrap(), Arc::clone(&context)))
        .unwrap();
    queue.ring();
    rig.until_fired(1);
    assert_eq!(Arc::strong_count(&context), 2);
    late_dma(&rig);
    let ended = finish(&mut queue, token);
    let (buffer, returned) = ended.buffer.unwrap();
    assert!(is_stamped(&buffer, DATA));
    drop((buffer, returned));
    assert_eq!(Arc::strong_count(&context), 1);
    drop((queue, namespace, controller));
    rig.end();
}
