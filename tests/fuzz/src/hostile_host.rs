//! Any registers, rings, commands, PRP lists and SGLs of a host against the emulator.
//!
//! Whatever they are: no panic, no hang, memory that is not mapped or only readable stays whole,
//! each command ends at most once, and a stopped emulator writes nothing.
use crate::Features;
use arbitrary::{Arbitrary, Unstructured};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use underpin_dma::rt::{self, Instant};
use underpin_dma::{Access, Iova, MapRequest, Mapper, Memory, PageSize};
use underpin_emulator::{Emulator, EmulatorConfig, InlineCore, NamespaceConfig};
use underpin_nvme_spec::registers::{Aqa, Cc, Csts, offset};
use underpin_nvme_spec::{Cid, Cqe, Sqe};

/// An address in a command or list.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Address {
    /// In memory that the controller may use.
    Mapped(u8, u16),
    /// At the start of one of its pages.
    Page(u8),
    /// In memory that it may only read.
    ReadOnly(u16),
    /// In memory that is not mapped.
    NotMapped(u16),
    /// At the end of what is mapped, or of all addresses.
    Edge(bool, u8),
    Raw(u64),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Command {
    opcode: u8,
    /// FUSE and PSDT.
    flags: u8,
    nsid: u8,
    dptr: (Address, Address),
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u8,
    small: bool,
}

#[derive(Arbitrary, Debug)]
enum Op {
    Enable {
        entries: u8,
        odd: Option<u32>,
    },
    Disable,
    ShutDown,
    Register {
        at: u16,
        value: u32,
    },
    /// A command that makes a queue, more or less as it ought to be.
    MakeCq {
        qid: u8,
        entries: u8,
        page: u8,
    },
    MakeSq {
        qid: u8,
        entries: u8,
        page: u8,
        cqid: u8,
    },
    DeleteSq {
        qid: u8,
    },
    DeleteCq {
        qid: u8,
    },
    Push {
        queue: u8,
        command: Command,
    },
    PushRaw {
        queue: u8,
        words: [u64; 8],
    },
    Ring {
        queue: u8,
        value: Option<u16>,
    },
    Head {
        queue: u8,
        value: Option<u16>,
    },
    /// Entries of a PRP list, or descriptors of an SGL.
    List {
        page: u8,
        at: u16,
        entries: Vec<(Address, Option<u64>)>,
    },
    Descriptor {
        page: u8,
        at: u16,
        address: Address,
        len: u32,
        kind: u8,
    },
    Scribble {
        page: u8,
        at: u16,
        bytes: Vec<u8>,
    },
    Shadow {
        word: u8,
        value: u16,
    },
    Remap {
        read_only: bool,
    },
    Step {
        times: u8,
    },
    Sleep,
    Fault(u8, u8),
    /// An Identify as it ought to be, but for where its page goes.
    Identify {
        cns: u8,
        to: Address,
    },
    /// A Read or Write as it ought to be, but for its memory.
    Transfer {
        queue: u8,
        write: bool,
        lba: u8,
        blocks: u8,
        dptr: (Address, Address),
    },
}

#[derive(Arbitrary, Debug)]
struct Input {
    seed: u8,
    mdts: u8,
    queues: u8,
    mqes: u8,
    dstrd: u8,
    chunk: u8,
    dbbuf: bool,
    stepped: bool,
    vwc: bool,
    null: bool,
    namespaces: u8,
    ops: Vec<Op>,
}

const PAGE: usize = 4096;
const PAGES: u8 = 48;
const BASE: u64 = 0x1_0000_0000;
const READ_ONLY: u64 = 0x2_0000_0000;
const NOT_MAPPED: u64 = 0x3_0000_0000;
const RINGS: u64 = 0x4_0000_0000;
/// What the memory that must not be written holds.
const CANARY: u8 = 0xc4;
/// Batches after which a controller without news has been idle for long.
const MOST_BATCHES: usize = 2_000_000;

/// A queue as this host made it; whatever the emulator thinks of it.
#[derive(Debug)]
struct Ring {
    sq: u64,
    cq: u64,
    entries: u32,
    tail: u32,
    head: u32,
    phase: bool,
    next_cid: u16,
    /// Commands that have not ended, if only this host writes the ring.
    open: BTreeSet<u16>,
}

struct Host {
    emulator: Emulator,
    mapper: Arc<dyn Mapper>,
    core: InlineCore,
    memory: Arc<Memory>,
    rings_memory: Arc<Memory>,
    read_only: Arc<Memory>,
    not_mapped: Arc<Memory>,
    rings: BTreeMap<u8, Ring>,
    stride: usize,
    /// Rings were written by hand, or commands placed elsewhere: completions prove nothing then.
    honest: bool,
    /// The emulator was asked to do something wrong.
    faulty: bool,
    seen: Features,
}

/// Runs one input.
///
/// # Panics
/// When it finds something.
pub fn run(bytes: &[u8]) -> Features {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return Features::default();
    };
    crate::host_device::show(&input);
    rt::sim::run(u64::from(input.seed), move || world(&input))
}

fn world(input: &Input) -> Features {
    let namespace = |nth: u8| NamespaceConfig {
        size_bytes: Some(1 << 20),
        lba_bytes: if nth.is_multiple_of(2) { 512 } else { 4096 },
        media: match input.null && nth == 1 {
            true => underpin_emulator::Media::Null,
            false => underpin_emulator::Media::Ram,
        },
        ..NamespaceConfig::default()
    };
    let config = EmulatorConfig {
        namespaces: (0..1 + input.namespaces % 2).map(namespace).collect(),
        mdts: input.mdts % 6,
        queues: 1 + u16::from(input.queues % 3),
        max_queue_entries: 2 + u32::from(input.mqes % 62),
        dbbuf: input.dbbuf,
        dstrd: input.dstrd % 3,
        vwc: input.vwc,
        stepped: input.stepped,
        chunk_bytes: 512 << (input.chunk % 4),
        seed: u64::from(input.seed),
        ..EmulatorConfig::default()
    };
    let stride = 4 << config.dstrd;
    let emulator = Emulator::new(config).unwrap();
    let memory = |pages: usize| {
        let memory = Memory::new("fuzz", (pages * PAGE) as u64, PageSize::Small).unwrap();
        memory.view().fill(0, pages * PAGE, CANARY).unwrap();
        memory
    };
    let mut host = Host {
        mapper: emulator.mapper(),
        core: emulator.inline_core(),
        emulator,
        memory: memory(usize::from(PAGES)),
        rings_memory: memory(64),
        read_only: memory(4),
        not_mapped: memory(4),
        rings: BTreeMap::new(),
        stride,
        honest: true,
        faulty: false,
        seen: Features::default(),
    };
    host.rings_memory.view().fill(0, 64 * PAGE, 0).unwrap();
    host.memory
        .view()
        .fill(0, usize::from(PAGES) * PAGE, 0)
        .unwrap();
    for (iova, memory, access) in [
        (BASE, &host.memory, Access::ReadWrite),
        (RINGS, &host.rings_memory, Access::ReadWrite),
        (READ_ONLY, &host.read_only, Access::ReadOnly),
    ] {
        map(&host.mapper, iova, memory, access);
    }
    for op in input.ops.iter().take(300) {
        host.op(op);
        host.check_canaries();
    }
    host.step_until_idle();
    host.check_canaries();
    host.emulator.stop().unwrap();
    // All of it is ours again.
    let whole = usize::from(PAGES) * PAGE;
    host.memory.view().fill(0, whole, CANARY).unwrap();
    for queue in host.rings.keys() {
        host.emulator.write32(host.doorbell(*queue, false), 1);
    }
    host.batches(0..100);
    whole_of(&host.memory, "a stopped emulator wrote memory");
    host.check_canaries();
    let stats = host.emulator.stats();
    host.seen.saw((
        stats.blocked_dma.min(2),
        stats.resets.min(2),
        stats.reads.min(2),
        stats.writes.min(2),
        stats.cq_stalls.min(1),
        stats.aborts.min(1),
    ));
    host.seen
}

fn map(mapper: &Arc<dyn Mapper>, iova: u64, memory: &Arc<Memory>, access: Access) {
    let request = MapRequest {
        iova: Iova::new(iova),
        memory: Arc::clone(memory),
        access,
        name: "fuzz".to_owned(),
    };
    mapper.map(&request).unwrap();
}

#[track_caller]
fn whole_of(memory: &Arc<Memory>, what: &str) {
    let mut bytes = vec![0; memory.len_bytes()];
    memory.view().copy_to(0, &mut bytes).unwrap();
    let broken = bytes.iter().position(|&byte| byte != CANARY);
    assert_eq!(broken, None, "{what}");
}

impl Host {
    fn check_canaries(&self) {
        whole_of(
            &self.read_only,
            "the emulator wrote memory that it may only read",
        );
        whole_of(
            &self.not_mapped,
            "the emulator wrote memory that is not mapped",
        );
    }

    fn address(&self, address: Address) -> u64 {
        let page = |page: u8| BASE + u64::from(page % PAGES) * PAGE as u64;
        match address {
            Address::Mapped(nth, at) => page(nth) + u64::from(at & 0xffc),
            Address::Page(nth) => page(nth),
            Address::ReadOnly(at) => READ_ONLY + u64::from(at & 0x3fff),
            Address::NotMapped(at) => NOT_MAPPED + u64::from(at & 0x3fff),
            Address::Edge(true, back) => u64::MAX - u64::from(back),
            Address::Edge(false, back) => {
                BASE + u64::from(PAGES) * PAGE as u64 - u64::from(back) * 4
            }
            Address::Raw(raw) => raw,
        }
    }

    fn doorbell(&self, queue: u8, head: bool) -> usize {
        offset::DOORBELLS + (2 * usize::from(queue) + usize::from(head)) * self.stride
    }

    fn ring_of(&self, queue: u8) -> Option<u8> {
        let place = usize::from(queue) % self.rings.len().max(1);
        self.rings.keys().nth(place).copied()
    }

    fn op(&mut self, op: &Op) {
        match op {
            Op::Enable { entries, odd } => self.enable(*entries, *odd),
            Op::Disable => {
                self.emulator.write32(offset::CC, 0);
                self.step_until_idle();
                let csts = self.emulator.read32(offset::CSTS);
                assert!(
                    csts == u32::MAX || !Csts(csts).rdy(),
                    "EN = 0 and RDY stays"
                );
                self.rings.clear();
            }
            Op::ShutDown => {
                let cc = Cc(self.emulator.read32(offset::CC)).with_shn(1);
                self.emulator.write32(offset::CC, cc.0);
                self.step_until_idle();
                self.seen
                    .saw(Csts(self.emulator.read32(offset::CSTS)).shst());
            }
            Op::Register { at, value } => {
                let at = usize::from(at & 0x1fff);
                // Another enable, or other admin rings, than this host knows of.
                self.honest = false;
                self.emulator.write32(at, *value);
                let _ = self.emulator.read32(at);
                let _ = self.emulator.read64(at);
            }
            Op::MakeCq { qid, entries, page } => {
                let entries = u32::from(*entries % 64);
                let sqe = Sqe::new()
                    .with_opcode(0x05)
                    .with_prp1(ring_page(*page))
                    .with_cdw10(u32::from(qid % 5) | entries << 16)
                    .with_cdw11(1);
                self.push(0, sqe);
                self.ring(0, None);
            }
            Op::MakeSq {
                qid,
                entries,
                page,
                cqid,
            } => {
                let (qid, count) = (*qid % 5, u32::from(*entries % 64));
                let sqe = Sqe::new()
                    .with_opcode(0x01)
                    .with_prp1(ring_page(*page))
                    .with_cdw10(u32::from(qid) | count << 16)
                    .with_cdw11(1 | u32::from(cqid % 5) << 16);
                self.push(0, sqe);
                self.ring(0, None);
                if qid != 0 {
                    let ring = Ring::new(ring_page(*page), 0, count + 1);
                    self.rings.insert(qid, ring);
                }
            }
            Op::DeleteSq { qid } | Op::DeleteCq { qid } => {
                let opcode = if matches!(op, Op::DeleteSq { .. }) {
                    0x00
                } else {
                    0x04
                };
                let sqe = Sqe::new()
                    .with_opcode(opcode)
                    .with_cdw10(u32::from(qid % 5));
                self.push(0, sqe);
                self.ring(0, None);
            }
            Op::Identify { cns, to } => {
                let sqe = Sqe::new()
                    .with_opcode(0x06)
                    .with_nsid(underpin_nvme_spec::Nsid(u32::from(cns & 1)))
                    .with_cdw10(u32::from(cns % 4))
                    .with_prp1(self.address(*to))
                    .with_prp2(self.address(*to).wrapping_add(PAGE as u64));
                self.push(0, sqe);
                self.ring(0, None);
            }
            Op::Transfer {
                queue,
                write,
                lba,
                blocks,
                dptr,
            } => {
                let sqe = Sqe::new()
                    .with_opcode(if *write { 0x01 } else { 0x02 })
                    .with_nsid(underpin_nvme_spec::Nsid(1))
                    .with_cdw10(u32::from(*lba))
                    .with_cdw12(u32::from(blocks % 64))
                    .with_prp1(self.address(dptr.0))
                    .with_prp2(self.address(dptr.1));
                if let Some(queue) = self.ring_of(*queue) {
                    self.push(queue, sqe);
                    self.ring(queue, None);
                }
            }
            Op::Push { queue, command } => {
                let sqe = self.command(command);
                if let Some(queue) = self.ring_of(*queue) {
                    self.push(queue, sqe);
                }
            }
            Op::PushRaw { queue, words } => {
                self.honest = false;
                if let Some(queue) = self.ring_of(*queue) {
                    self.push(queue, Sqe::from_u64s(*words));
                }
            }
            Op::Ring { queue, value } => {
                self.honest &= value.is_none();
                if let Some(queue) = self.ring_of(*queue) {
                    self.ring(queue, *value);
                }
            }
            Op::Head { queue, value } => {
                self.honest &= value.is_none();
                if let Some(queue) = self.ring_of(*queue) {
                    self.take_completions(queue);
                    let head = self.rings.get(&queue).map_or(0, |ring| ring.head);
                    let value = value.map_or(head, u32::from);
                    self.emulator.write32(self.doorbell(queue, true), value);
                }
            }
            Op::List { page, at, entries } => {
                let mut at = u64::from(page % PAGES) * PAGE as u64 + u64::from(at & 0xff8);
                for &(address, raw) in entries.iter().take(600) {
                    let entry = raw
                        .filter(|raw| raw % 16 == 3)
                        .unwrap_or_else(|| self.address(address));
                    self.put(at, &entry.to_le_bytes());
                    at += 8;
                }
            }
            Op::Descriptor {
                page,
                at,
                address,
                len,
                kind,
            } => {
                let at = u64::from(page % PAGES) * PAGE as u64 + u64::from(at & 0xff0);
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&self.address(*address).to_le_bytes());
                bytes[8..12].copy_from_slice(&(len & 0xf_ffff).to_le_bytes());
                bytes[15] = *kind;
                self.put(at, &bytes);
            }
            Op::Scribble { page, at, bytes } => {
                let at = u64::from(page % PAGES) * PAGE as u64 + u64::from(at & 0xfff);
                self.put(at, bytes);
            }
            Op::Shadow { word, value } => {
                // Of the last two pages: an input may name them to Doorbell Buffer Config.
                let at = u64::from(PAGES - 2) * PAGE as u64 + u64::from(*word) * 4;
                self.honest = false;
                self.put(at, &u32::from(*value).to_le_bytes());
            }
            Op::Remap { read_only } => {
                let whole = (usize::from(PAGES) * PAGE) as u64;
                self.mapper.unmap(Iova::new(BASE), whole).unwrap();
                self.memory.view().fill(0, whole as usize, CANARY).unwrap();
                self.batches(0..20);
                whole_of(&self.memory, "memory was written after its unmapping");
                self.memory.view().fill(0, whole as usize, 0).unwrap();
                let access = if *read_only {
                    Access::ReadOnly
                } else {
                    Access::ReadWrite
                };
                map(&self.mapper, BASE, &self.memory, access);
            }
            Op::Step { times } => {
                for _ in 0..*times {
                    self.core.step(Instant::now());
                }
            }
            Op::Sleep => {
                self.step_until_idle();
                self.core.before_sleep();
            }
            Op::Fault(kind, nth) => {
                const KINDS: [&str; 12] = [
                    "status:0x281",
                    "drop",
                    "duplicate",
                    "corrupt-cid",
                    "short-identify",
                    "garbage-identify",
                    "absurd-identify",
                    "garbage-log",
                    "ns-vanish",
                    "cq-stall:1us",
                    "corrupt-data",
                    "power-cut",
                ];
                (self.honest, self.faulty) = (false, true);
                let kind = KINDS[usize::from(*kind) % KINDS.len()];
                let fault = format!("{kind}@nth={}", 1 + nth % 8);
                self.emulator.inject(fault.parse().unwrap());
            }
        }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let room = (usize::from(PAGES) * PAGE).saturating_sub(at as usize);
        if room == 0 {
            return;
        }
        let bytes = bytes.get(..bytes.len().min(room)).unwrap_or(&[]);
        self.memory.view().copy_from(at as usize, bytes).unwrap();
    }

    fn enable(&mut self, entries: u8, odd: Option<u32>) {
        let entries = 2 + u32::from(entries % 62);
        self.emulator.write32(offset::CC, 0);
        self.step_until_idle();
        self.rings.clear();
        self.honest = odd.is_none() && !self.faulty;
        self.rings_memory.view().fill(0, 64 * PAGE, 0).unwrap();
        let aqa = Aqa(0)
            .with_asqs(entries as u16 - 1)
            .with_acqs(entries as u16 - 1);
        self.emulator
            .write32(offset::AQA, aqa.0 ^ odd.map_or(0, |odd| odd & 0xf00f));
        self.emulator.write64(offset::ASQ, RINGS);
        self.emulator.write64(offset::ACQ, RINGS + PAGE as u64);
        let cc = Cc(0).with_iosqes(6).with_iocqes(4).with_en(true);
        self.emulator
            .write32(offset::CC, cc.0 ^ odd.map_or(0, |odd| odd >> 16 & 0x7ff0));
        self.rings
            .insert(0, Ring::new(RINGS, RINGS + PAGE as u64, entries));
        self.step_until_idle();
        self.seen.saw(("csts", self.emulator.read32(offset::CSTS)));
    }

    fn command(&mut self, command: &Command) -> Sqe {
        // A command that writes the rings themselves.
        let astray = |address| matches!(address, Address::Raw(raw) if raw >> 32 == RINGS >> 32);
        self.honest &= !astray(command.dptr.0) && !astray(command.dptr.1);
        let small = |value: u32| if command.small { value & 0xf } else { value };
        Sqe::new()
            .with_opcode(command.opcode)
            .with_nsid(underpin_nvme_spec::Nsid(match command.nsid {
                0..=0x3f => 1,
                0x40..=0x7f => 2,
                0xff => u32::MAX,
                other => u32::from(other),
            }))
            .with_prp1(self.address(command.dptr.0))
            .with_prp2(self.address(command.dptr.1))
            .with_cdw10(small(command.cdw10))
            .with_cdw11(small(command.cdw11))
            .with_cdw12(if command.small {
                command.cdw12 & 0x4000_003f
            } else {
                command.cdw12
            })
            .with_cdw13(u32::from(command.cdw13))
            .with_psdt(if command.flags & 0x80 == 0 {
                0
            } else {
                command.flags & 3
            })
            .with_fuse(u8::from(command.flags & 0x7c == 0x7c))
    }

    fn push(&mut self, queue: u8, sqe: Sqe) {
        let Some(ring) = self.rings.get_mut(&queue) else {
            return;
        };
        let next = (ring.tail + 1) % ring.entries;
        // More in flight than the ring has room for overwrites what the emulator has not fetched.
        if ring.open.len() as u32 + 1 >= ring.entries {
            self.honest = false;
        }
        let cid = ring.next_cid;
        ring.next_cid = ring.next_cid.wrapping_add(1);
        ring.open.insert(cid);
        let words = sqe.with_cid(Cid(cid)).as_u64s();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = (ring.sq - RINGS) as usize + ring.tail as usize * 64;
        ring.tail = next;
        self.rings_memory.view().copy_from(at, &bytes).unwrap();
    }

    fn ring(&mut self, queue: u8, value: Option<u16>) {
        let Some(ring) = self.rings.get(&queue) else {
            return;
        };
        let value = value.map_or(ring.tail, u32::from);
        self.emulator.write32(self.doorbell(queue, false), value);
        self.batches(0..3);
        if queue == 0 {
            self.step_until_idle();
            self.take_completions(0);
            let head = self.rings.get(&0).map_or(0, |ring| ring.head);
            self.emulator.write32(self.doorbell(0, true), head);
        }
    }

    /// Reads the admin queue's completions: each names a command that is open, once.
    fn take_completions(&mut self, queue: u8) {
        let Self {
            rings,
            rings_memory,
            honest,
            seen,
            ..
        } = self;
        let Some(ring) = rings.get_mut(&queue).filter(|_| queue == 0) else {
            return;
        };
        for _ in 0..ring.entries {
            let at = (ring.cq - RINGS) as usize + ring.head as usize * 16;
            let mut bytes = [0; 16];
            rings_memory.view().copy_to(at, &mut bytes).unwrap();
            let cqe = Cqe::from_bytes(&bytes);
            if cqe.phase() != ring.phase {
                break;
            }
            ring.head += 1;
            if ring.head == ring.entries {
                ring.head = 0;
                ring.phase = !ring.phase;
            }
            seen.saw(("status", cqe.status().0));
            if *honest {
                assert!(
                    ring.open.remove(&cqe.cid().0),
                    "{cqe:?} ends a command that is not open"
                );
                assert_eq!(cqe.sqid().0, 0);
                assert!(u32::from(cqe.sqhd()) < ring.entries, "{cqe:?}");
            }
        }
    }

    fn batches(&mut self, times: std::ops::Range<u32>) {
        times.for_each(|_| _ = self.core.run_batch());
    }

    /// A controller that has nothing to do any more says so.
    fn step_until_idle(&mut self) {
        let mut quiet = 0;
        for _ in 0..MOST_BATCHES {
            quiet = if self.core.run_batch() == 0 {
                quiet + 1
            } else {
                0
            };
            if quiet == 3 {
                return;
            }
        }
        panic!("HANG: the emulator is busy for ever");
    }
}

impl Ring {
    fn new(sq: u64, cq: u64, entries: u32) -> Self {
        Self {
            sq,
            cq,
            entries,
            tail: 0,
            head: 0,
            phase: true,
            next_cid: 0,
            open: BTreeSet::new(),
        }
    }
}

/// Rings of I/O queues lie behind the admin queue's.
fn ring_page(page: u8) -> u64 {
    RINGS + (2 + u64::from(page % 61)) * PAGE as u64
}
