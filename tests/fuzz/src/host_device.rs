//! Any calls of a host against any answers of a device: the driver is between them.
//!
//! Whatever both do: no panic, no hang, every request told exactly once, every buffer in one place,
//! nobody's freed memory written, and everything back once DMA is proven over.
use crate::Features;
use crate::canary::Canaries;
use crate::device::{Device, DeviceInput};
use crate::server::Server;
use arbitrary::{Arbitrary, Unstructured};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use underpin_dma::rt::{self, Instant, Step, Task};
use underpin_dma::{DmaBuf, DmaSpace, Iova, Pool, PoolOptions};
use underpin_nvme::transport::{VfioUser, VfioUserOptions};
use underpin_nvme::{
    Armed, CommandError, Completion, Controller, ControllerOptions, Error, FeatureRequest, Io, Lba,
    LogRequest, Namespace, Nsid, Passthrough, PassthroughData, QueueOptions, QueuePair, SetFeature,
    Token, Waiting,
};
use underpin_nvme_spec::admin::{FeatureId, LogId};

/// What a host does.
#[derive(Arbitrary, Debug)]
enum Call {
    MakeQueue {
        depth: u8,
    },
    Submit {
        queue: u8,
        what: What,
        lba: u16,
        blocks: u8,
        ring: bool,
    },
    SubmitBare {
        queue: u8,
    },
    Ring {
        queue: u8,
    },
    Poll {
        queue: u8,
        budget: u8,
    },
    PollFor {
        turns: u8,
    },
    WaitFor {
        queue: u8,
        token: u8,
    },
    Run {
        queue: u8,
        what: What,
        lba: u16,
    },
    Flush {
        queue: u8,
    },
    DropQueue {
        queue: u8,
    },
    GiveBack,
    CheckFigures,
    Pass {
        ms: u8,
    },
    Sleep {
        queue: u8,
        ms: u8,
    },
    Arm {
        queue: u8,
    },
    Log {
        which: u8,
        dwords: u16,
        offset: u8,
    },
    Feature {
        id: u8,
        data: bool,
        set: Option<u32>,
    },
    Admin {
        opcode: u8,
        cdw10: u16,
        len: u16,
        out: bool,
        overrule: bool,
        /// Polled so often, then dropped.
        polls: Option<u8>,
    },
    Raw {
        queue: u8,
        opcode: u8,
        cdw12: u8,
        len: u16,
        overrule: bool,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum What {
    Read,
    Write,
    WriteThrough,
    Flush,
    Huge,
}

/// One input.
#[derive(Arbitrary, Debug)]
pub(crate) struct Input {
    seed: u8,
    command_timeout_ms: u8,
    admin_timeout_ms: u8,
    io_queues: u8,
    max_transfer: u8,
    shadow_doorbells: bool,
    second_namespace: bool,
    drop_controller_first: bool,
    calls: Vec<Call>,
    device: DeviceInput,
}

const BUF_BYTES: usize = 16 << 10;
const BUFFERS: usize = 8;
/// Longer, in virtual time, than every deadline of an input in a row.
const HANG: Duration = Duration::from_secs(20_000);

/// Memory that is left to a device keeps its file open. When there are so many, no device gets any
/// more.
const MANY_FILES: usize = 400;

/// Bites when virtual time has gone on for too long.
struct Watchdog;

impl Task for Watchdog {
    fn step(&mut self, now: Instant) -> Step {
        assert!(
            now < Instant::START + HANG,
            "HANG: virtual time runs and runs"
        );
        Step::Idle {
            until: Some(Instant::START + HANG),
        }
    }
}

/// A request that its owner waits for.
struct Asked {
    /// Of its buffer; none for a request without one.
    iova: Option<Iova>,
}

struct Host {
    namespace: Namespace,
    pool: Pool,
    queues: BTreeMap<u8, (QueuePair<DmaBuf>, HashMap<Token, Asked>)>,
    canaries: Canaries,
    seen: Features,
}

/// The device is behind a socket.
pub(crate) struct Served {
    pub(crate) doorbells: bool,
    pub(crate) unsealed: bool,
    pub(crate) script: Vec<u8>,
}

/// Runs one input.
///
/// # Panics
/// When it finds something.
pub fn run(bytes: &[u8]) -> Features {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return Features::default();
    };
    show(&input);
    run_input(input, None)
}

/// Prints an input when UNDERPIN_FUZZ_SHOW is set: bytes say little.
pub(crate) fn show(input: &impl std::fmt::Debug) {
    if std::env::var_os("UNDERPIN_FUZZ_SHOW").is_some() {
        eprintln!("{input:#?}");
    }
}

pub(crate) fn run_input(mut input: Input, served: Option<Served>) -> Features {
    let before = open_files();
    if before > MANY_FILES {
        input.device.always_prove();
    }
    if served.is_some() {
        // Every look at a register is a message.
        input.device.hurry();
    }
    let (seen, proven) = rt::sim::run(u64::from(input.seed), move || world(input, served));
    if proven {
        assert_eq!(
            open_files(),
            before,
            "files are left open though DMA is proven over"
        );
    }
    seen
}

pub(crate) fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn world(input: Input, served: Option<Served>) -> (Features, bool) {
    let _watchdog = rt::spawn("watchdog", Box::new(Watchdog)).unwrap();
    let space = DmaSpace::new();
    let options = PoolOptions {
        buf_bytes: BUF_BYTES,
        count: BUFFERS,
    };
    let pool = space.pool("fuzz", options).unwrap();
    let device = Device::new(input.device);
    let task = rt::spawn("device", device.task()).unwrap();
    let options = ControllerOptions {
        io_queues: u16::from(input.io_queues % 4),
        max_transfer_bytes: 4096 << (input.max_transfer % 4),
        command_timeout: Duration::from_millis(u64::from(input.command_timeout_ms) + 1),
        admin_timeout: Duration::from_millis(u64::from(input.admin_timeout_ms) + 1),
        shadow_doorbells: input.shadow_doorbells,
        max_namespaces: 40,
        ..ControllerOptions::default()
    };
    let mut server = None;
    let opened = match served {
        None => Controller::with_transport(device.transport(), &space, options),
        Some(served) => {
            let name = format!("underpin-fuzz-{}.sock", std::process::id());
            let path = std::env::temp_dir().join(name);
            let task = Server::new(&path, device.clone(), served.script, served.doorbells);
            server = Some(rt::spawn("server", Box::new(task)).unwrap());
            let connection = VfioUserOptions {
                timeout: Duration::from_millis(200),
                unsealed_doorbells: served.unsealed,
            };
            VfioUser::connect(&path, connection)
                .map_err(Error::from)
                .and_then(|transport| Controller::with_transport(transport, &space, options))
        }
    };
    let mut seen = Features::default();
    let mut canaries = Canaries::default();
    match opened {
        Err(error) => seen.saw_text(&format!("open: {error}")),
        Ok(controller) => {
            let nsid = input.second_namespace.then_some(Nsid(2));
            match controller.namespace(nsid) {
                Err(error) => seen.saw_text(&error.to_string()),
                Ok(namespace) => {
                    let mut host = Host {
                        namespace,
                        pool: pool.clone(),
                        queues: BTreeMap::new(),
                        canaries,
                        seen,
                    };
                    for (nth, call) in input.calls.iter().take(200).enumerate() {
                        host.call(&controller, call);
                        if nth % 16 == 15 {
                            host.canaries.check();
                        }
                    }
                    let Host {
                        queues,
                        canaries: kept,
                        seen: all,
                        ..
                    } = host;
                    canaries = kept;
                    seen = all;
                    if input.drop_controller_first {
                        drop(controller);
                        drop(queues);
                    } else {
                        drop(queues);
                        drop(controller);
                    }
                }
            }
        }
    }
    // Whatever the device may write, it writes now: nothing of that may be anybody else's.
    while let Some(buffer) = pool.try_alloc() {
        canaries.keep(buffer, 0xa1);
    }
    let heap: Vec<DmaBuf> = (0..24)
        .filter_map(|_| space.alloc(4096, 4096).ok())
        .collect();
    let proven = device.with(|model| {
        model.fetch_all();
        model.dma_all();
        !model.may_write()
    });
    canaries.check();
    for page in &heap {
        let mut bytes = [0; 4096];
        page.copy_to(0, &mut bytes).unwrap();
        assert!(
            bytes.iter().all(|&byte| byte == 0),
            "a device wrote freed memory of the heap"
        );
    }
    let stopped = device.with(|model| model.stopped);
    if stopped {
        assert_eq!(
            canaries.count(),
            BUFFERS,
            "a buffer is lost though DMA is proven over"
        );
        drop(heap);
        let stats = space.stats();
        assert_eq!(
            stats.heap_used_bytes, 0,
            "memory is lost though DMA is proven over"
        );
    }
    seen.saw(("end", proven, stopped, canaries.count() == BUFFERS));
    let commands = device.with(|model| model.commands);
    seen.saw(("commands", commands.min(12)));
    drop((task, server));
    (
        seen,
        device.with(|model| model.stopped && model.unmapped_all),
    )
}

impl Host {
    fn io(&self, what: What, lba: u16, blocks: u8) -> Result<Io, Error> {
        let lba = Lba(u64::from(lba));
        let blocks = u64::from(blocks);
        match what {
            What::Read => self.namespace.read(lba, blocks),
            What::Write => self.namespace.write(lba, blocks),
            What::WriteThrough => self.namespace.write(lba, blocks).map(Io::force_unit_access),
            What::Flush => Ok(self.namespace.flush()),
            What::Huge => self
                .namespace
                .read(Lba(lba.0 << 48 | lba.0), blocks << 56 | blocks),
        }
    }

    fn buffer(&mut self) -> Option<DmaBuf> {
        self.pool.try_alloc().or_else(|| self.canaries.take())
    }

    fn call(&mut self, controller: &Controller, call: &Call) {
        match *call {
            Call::MakeQueue { depth } => {
                let waiting = match depth >> 5 {
                    0..=3 => Waiting::Poll,
                    4 | 5 => Waiting::Interrupt,
                    _ => Waiting::ADAPTIVE,
                };
                let depth = u16::from(depth % 32);
                match controller.queue_pair(QueueOptions { depth, waiting }) {
                    Ok(queue) => {
                        let free = (0..).find(|place| !self.queues.contains_key(place));
                        self.queues
                            .insert(free.unwrap_or(0), (queue, HashMap::new()));
                    }
                    Err(error) => self.seen.saw_text(&format!("queue: {error}")),
                }
            }
            Call::Submit {
                queue,
                what,
                lba,
                blocks,
                ring,
            } => {
                let Ok(io) = self.io(what, lba, blocks) else {
                    return self.seen.saw("refused");
                };
                let Some(buffer) = self.buffer() else { return };
                let iova = buffer.iova();
                let Some((queue, waiting)) = nth(&mut self.queues, queue) else {
                    return self.canaries.keep(buffer, 0xa2);
                };
                match queue.submit(io, buffer) {
                    Ok(token) => {
                        let before = waiting.insert(token, Asked { iova: Some(iova) });
                        assert!(before.is_none(), "a token was given twice");
                        if ring {
                            queue.ring();
                        }
                    }
                    Err(refused) => {
                        assert_eq!(refused.buffer.iova(), iova, "another buffer came back");
                        self.seen.saw_text(&refused.to_string());
                        self.canaries.keep(refused.buffer, 0xa3);
                    }
                }
            }
            Call::SubmitBare { queue } => {
                let io = self.namespace.flush();
                if let Some((queue, waiting)) = nth(&mut self.queues, queue) {
                    match queue.submit_bare(io) {
                        Ok(token) => {
                            waiting.insert(token, Asked { iova: None });
                        }
                        Err(error) => self.seen.saw_text(&error.to_string()),
                    }
                }
            }
            Call::Ring { queue } => {
                if let Some((queue, _)) = nth(&mut self.queues, queue) {
                    queue.ring();
                }
            }
            Call::Poll { queue, budget } => self.poll(queue, usize::from(budget)),
            Call::PollFor { turns } => {
                let mut left = turns;
                let _ = rt::wait(None, |_now| {
                    for queue in 0..4 {
                        self.poll(queue, usize::MAX);
                    }
                    left = left.saturating_sub(1);
                    (left == 0).then_some(())
                });
            }
            Call::WaitFor { queue, token } => {
                if let Some((queue, waiting)) = nth(&mut self.queues, queue) {
                    let mut tokens: Vec<Token> = waiting.keys().copied().collect();
                    tokens.sort();
                    if let Some(&token) = tokens.get(usize::from(token) % tokens.len().max(1)) {
                        let completion = queue.wait_for(token);
                        assert_eq!(completion.token, token);
                        ended(waiting, &mut self.canaries, &mut self.seen, completion);
                    }
                }
            }
            Call::Run { queue, what, lba } => {
                let (Ok(io), Some(buffer)) = (self.io(what, lba, 8), self.buffer()) else {
                    return;
                };
                match nth(&mut self.queues, queue) {
                    None => self.canaries.keep(buffer, 0xa4),
                    Some((queue, _)) => match queue.run(io, buffer) {
                        Ok(buffer) => self.canaries.keep(buffer, 0xa5),
                        Err(error) => self.seen.saw_text(&error.to_string()),
                    },
                }
            }
            Call::Flush { queue } => {
                let namespace = self.namespace.clone();
                if let Some((queue, _)) = nth(&mut self.queues, queue)
                    && let Err(error) = queue.flush(&namespace)
                {
                    self.seen.saw_text(&error.to_string());
                }
            }
            Call::DropQueue { queue } => {
                let place = usize::from(queue) % self.queues.len().max(1);
                let key = self.queues.keys().nth(place).copied();
                drop(key.and_then(|key| self.queues.remove(&key)));
                self.seen
                    .saw(("quarantined", controller.quarantined_queues().min(2)));
            }
            Call::GiveBack => drop(self.canaries.take()),
            Call::CheckFigures => {
                for (queue, waiting) in self.queues.values() {
                    assert!(queue.free() + queue.in_flight() == queue.depth());
                    assert!(waiting.len() <= queue.depth() + 64);
                    let stats = queue.stats();
                    // One more where the last was not to be: the controller has failed then.
                    assert!(stats.completions <= stats.commands + 1, "{stats:?}");
                }
                self.seen.saw((
                    "failed",
                    controller.failure().map(|why| std::mem::discriminant(&why)),
                ));
            }
            Call::Sleep { queue, ms } => {
                let until = Instant::now() + Duration::from_millis(u64::from(ms));
                if let Some((queue, _)) = nth(&mut self.queues, queue) {
                    let news = queue.wait(Some(until));
                    self.seen
                        .saw(("slept", news, queue.stats().missed_interrupts.min(1)));
                }
            }
            Call::Arm { queue } => {
                if let Some((queue, _)) = nth(&mut self.queues, queue) {
                    let armed = queue.arm();
                    self.seen
                        .saw((armed == Armed::Ready, queue.event().is_some()));
                }
            }
            Call::Log {
                which,
                dwords,
                offset,
            } => {
                let read = match which % 8 {
                    0 => controller.smart_log().map(drop),
                    1 => controller.error_log().map(drop),
                    2 => controller.firmware_log().map(drop),
                    3 => controller.changed_namespaces().map(drop),
                    4 => controller.command_effects().map(drop),
                    _ => {
                        let request = LogRequest {
                            offset: u64::from(offset),
                            ..LogRequest::new(LogId(which), usize::from(dwords) * 4)
                        };
                        controller.log_page(&request).map(drop)
                    }
                };
                self.told(read);
            }
            Call::Feature { id, data, set } => {
                let id = FeatureId(id);
                let read = match set {
                    None => controller
                        .feature(&FeatureRequest {
                            data_len_bytes: if data { 512 } else { 0 },
                            ..FeatureRequest::new(id)
                        })
                        .map(drop),
                    Some(1) => controller.set_write_cache(data),
                    Some(cdw11) => controller
                        .set_feature(&SetFeature::new(id, cdw11))
                        .map(drop),
                };
                self.told(read);
            }
            Call::Admin {
                opcode,
                cdw10,
                len,
                out,
                overrule,
                polls,
            } => {
                // What a caller overrules to give away memory of queues is his own doing.
                let taboo = matches!(opcode, 0x00 | 0x01 | 0x04 | 0x05 | 0x7c);
                let len = usize::from(len);
                let command = Passthrough {
                    opcode,
                    cdw10: u32::from(cdw10),
                    data: match (len, out) {
                        (0, _) => PassthroughData::None,
                        (_, true) => PassthroughData::Out(vec![0x0d; len]),
                        _ => PassthroughData::In(len),
                    },
                    overrule_driver: overrule && !taboo,
                    timeout_ms: polls.map(|polls| u32::from(polls) + 1),
                    ..Passthrough::default()
                };
                let begun = controller.begin_admin_passthrough(&command);
                let done = begun.and_then(|mut call| match polls {
                    None => call.wait().map(drop),
                    Some(polls) => {
                        let mut left = polls;
                        let _ = rt::wait(None, |_now| {
                            left = left.saturating_sub(1);
                            (call.poll().is_some() || left == 0).then_some(())
                        });
                        Ok(())
                    }
                });
                self.told(done);
            }
            Call::Raw {
                queue,
                opcode,
                cdw12,
                len,
                overrule,
            } => {
                let command = Passthrough {
                    opcode,
                    cdw12: u32::from(cdw12),
                    overrule_driver: overrule,
                    ..Passthrough::default()
                };
                let raw = match self.namespace.passthrough(&command, u64::from(len)) {
                    Ok(raw) => raw,
                    Err(error) => return self.seen.saw_text(&error.to_string()),
                };
                let Some(buffer) = self.buffer() else { return };
                let iova = buffer.iova();
                match nth(&mut self.queues, queue) {
                    None => self.canaries.keep(buffer, 0xa7),
                    Some((queue, waiting)) => match queue.submit_raw(raw, buffer) {
                        Ok(token) => drop(waiting.insert(token, Asked { iova: Some(iova) })),
                        Err(refused) => {
                            self.seen.saw_text(&refused.to_string());
                            self.canaries.keep(refused.buffer, 0xa8);
                        }
                    },
                }
            }
            Call::Pass { ms } => {
                let until = Instant::now() + Duration::from_millis(u64::from(ms));
                let _ = rt::wait(Some(until), |_now| None::<()>);
            }
        }
    }

    fn told(&mut self, result: Result<(), Error>) {
        match result {
            Ok(()) => self.seen.saw("an admin command went well"),
            Err(error) => self.seen.saw_text(&error.to_string()),
        }
    }

    fn poll(&mut self, queue: u8, budget: usize) {
        let Self {
            queues,
            canaries,
            seen,
            ..
        } = self;
        if let Some((queue, waiting)) = nth(queues, queue) {
            let mut told = 0;
            let count = queue.poll(budget, |completion| {
                told += 1;
                ended(waiting, canaries, seen, completion);
            });
            assert!(
                count == told && told <= budget,
                "{count} were told of, {told} were told"
            );
        }
    }
}

fn nth<T>(all: &mut BTreeMap<u8, T>, index: u8) -> Option<&mut T> {
    let place = usize::from(index) % all.len().max(1);
    all.values_mut().nth(place)
}

/// A request has ended: it was asked for, is told of once, and its buffer is its own.
fn ended(
    waiting: &mut HashMap<Token, Asked>,
    canaries: &mut Canaries,
    seen: &mut Features,
    completion: Completion<DmaBuf>,
) {
    let Completion {
        token,
        result,
        buffer,
        ..
    } = completion;
    let asked = waiting.remove(&token);
    let asked = asked.expect("a waiter was told twice, or never asked");
    match &result {
        Ok(()) | Err(CommandError::Status { .. }) => {
            assert_eq!(
                buffer.as_ref().map(DmaBuf::iova),
                asked.iova,
                "a buffer is missing, or another"
            );
        }
        Err(CommandError::Lost(_)) => assert!(buffer.is_none(), "the device may still write it"),
        Err(other) => panic!("{other:?}"),
    }
    if let Err(error) = &result {
        seen.saw_text(&error.to_string());
    }
    if let Some(buffer) = buffer {
        canaries.keep(buffer, 0xa6);
    }
}
