//! A device whose every answer comes from the input: registers, completions, pages. It is honest in
//! one thing only: what it says has ended has ended, so that what it writes later lands in memory
//! that the host had no right to give away.
use arbitrary::Arbitrary;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use underpin_dma::rt::sync::Mutex;
use underpin_dma::rt::{Event, Instant, Step, Task};
use underpin_dma::{Iova, MapRequest, Mapper, MapperError, Memory};
use underpin_nvme::{Transport, TransportError};
use underpin_nvme_spec::admin::{
    Cns, CreateIoCq, CreateIoSq, DeleteIoCq, DeleteIoSq, DoorbellBufferConfig, FeatureId,
    GetFeatures, Identify,
};
use underpin_nvme_spec::identify::{
    IdentifyController, IdentifyNamespace, LbaFormat, NamespaceList,
};
use underpin_nvme_spec::registers::{Aqa, Cap, Cc, Crto, Csts, offset};
use underpin_nvme_spec::{AdminOpcode, Cid, Cqe, Nsid, NvmOpcode, Qid, Sqe, Status};

/// What a device is.
#[derive(Arbitrary, Debug)]
pub(crate) struct DeviceInput {
    /// CAP in place of the one made of what follows.
    raw_cap: Option<u64>,
    mqes: u8,
    timeout_units: u8,
    dstrd: u8,
    mpsmin: u8,
    crms: u8,
    enabled_at_first: bool,
    dbbuf: bool,
    vwc: bool,
    mdts: u8,
    queues: u32,
    lbads: u8,
    /// Of the IOMMU context: refuse the nth mapping, the nth unmapping.
    sgls: u8,
    vectors: u8,
    /// Which of eight interrupts are lost.
    lost: u8,
    refuse_map: Option<u8>,
    refuse_unmap: Option<u8>,
    narrow: bool,
    /// Severing proves nothing.
    cannot_sever: bool,
    /// Written over identify pages: page (CNS), offset, bytes.
    patches: Vec<(u8, u16, u64)>,
    namespaces: Option<Vec<u32>>,
    /// Consumed by register reads, one byte each.
    reads: Vec<u8>,
    /// Consumed by everything else.
    script: Vec<u8>,
}

/// A command that the device has fetched and not ended.
#[derive(Debug)]
struct Outstanding {
    qid: u16,
    cid: u16,
    /// Where it may write.
    pages: Vec<(u64, u64)>,
    /// The submission queue that it deletes.
    deletes: Option<u16>,
}

#[derive(Debug)]
struct DeviceSq {
    iova: u64,
    entries: u32,
    head: u32,
    tail: u32,
    cqid: u16,
}

#[derive(Debug)]
struct DeviceCq {
    iova: u64,
    entries: u32,
    tail: u32,
    phase: bool,
}

#[derive(Debug)]
struct Mapping {
    iova: u64,
    memory: Arc<Memory>,
}

impl DeviceInput {
    /// DMA is proven over in the end, whatever happens.
    pub(crate) fn always_prove(&mut self) {
        self.cannot_sever = false;
        self.refuse_unmap = None;
    }

    /// Waits for it are as short as they can be.
    pub(crate) fn hurry(&mut self) {
        self.timeout_units = 1;
        self.raw_cap = self.raw_cap.map(|cap| Cap(cap).with_to(1).0);
    }
}

impl DeviceCq {
    fn advance(&mut self) {
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }
}

/// Bytes of the input, used up one by one; zeroes behind their end.
#[derive(Debug)]
pub(crate) struct Stream(std::vec::IntoIter<u8>);

impl Stream {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into_iter())
    }

    pub(crate) fn next(&mut self) -> u8 {
        self.0.next().unwrap_or(0)
    }

    fn is_over(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.next(), self.next()])
    }

    pub(crate) fn u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        bytes.iter_mut().for_each(|byte| *byte = self.next());
        u64::from_le_bytes(bytes)
    }
}

/// The device behind registers, mapper and task.
#[derive(Debug)]
pub(crate) struct Model {
    input: DeviceInput,
    reads: Stream,
    script: Stream,
    cap: u64,
    cc: Cc,
    rdy: bool,
    shst: u8,
    cfs: bool,
    stuck: bool,
    aqa: u32,
    asq: u64,
    acq: u64,
    sqs: BTreeMap<u16, DeviceSq>,
    cqs: BTreeMap<u16, DeviceCq>,
    shadow: Option<(u64, u64)>,
    /// BAR0 as the host has mapped it: doorbells are looked at there, too.
    page: Option<Arc<Memory>>,
    outstanding: Vec<Outstanding>,
    mappings: Vec<Mapping>,
    maps: u8,
    unmaps: u8,
    /// What the host has been told of the end of DMA: CSTS.RDY = 0 after CC.EN = 0, then CAP and
    /// VS as they were at first.
    proof: Proof,
    first_cap: Option<u64>,
    first_vs: Option<u32>,
    last: Option<(u16, [u64; 2])>,
    /// Commands of which the host was told that they ended, by queue and identifier.
    vectors: BTreeMap<u16, Event>,
    posted: u8,
    told: BTreeSet<(u16, u16)>,
    /// Queues in whose ring anything may have been said.
    tainted: BTreeSet<u16>,
    /// The host has proof that all DMA ended.
    pub(crate) stopped: bool,
    /// No unmapping was refused, or answered with a lie.
    pub(crate) unmapped_all: bool,
    pub(crate) commands: u64,
    steps: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    None,
    NotReady,
    SameCap,
}

const VS: u32 = 0x0002_0000;

/// The handle that transport, mapper and task share.
#[derive(Clone, Debug)]
pub(crate) struct Device(Arc<Mutex<Model>>);

impl Device {
    pub(crate) fn new(mut input: DeviceInput) -> Self {
        let cap = input.raw_cap.unwrap_or_else(|| {
            Cap(0)
                .with_mqes(u16::from(input.mqes % 40).max(1))
                .with_cqr(true)
                .with_to(input.timeout_units % 4)
                .with_dstrd(input.dstrd % 10)
                .with_css(1)
                .with_mpsmin(input.mpsmin % 3)
                .with_mpsmax(4)
                .with_crms(input.crms & 0b11)
                .0
        });
        let reads = Stream::new(std::mem::take(&mut input.reads));
        let script = Stream::new(std::mem::take(&mut input.script));
        Self(Arc::new(Mutex::new(Model {
            cc: Cc(0).with_en(input.enabled_at_first),
            rdy: input.enabled_at_first,
            input,
            reads,
            script,
            cap,
            shst: 0,
            cfs: false,
            stuck: false,
            aqa: 0,
            asq: 0,
            acq: 0,
            sqs: BTreeMap::new(),
            cqs: BTreeMap::new(),
            shadow: None,
            page: None,
            outstanding: Vec::new(),
            mappings: Vec::new(),
            maps: 0,
            unmaps: 0,
            proof: Proof::None,
            first_cap: None,
            first_vs: None,
            last: None,
            vectors: BTreeMap::new(),
            posted: 0,
            told: BTreeSet::new(),
            tainted: BTreeSet::new(),
            stopped: false,
            unmapped_all: true,
            commands: 0,
            steps: 0,
        })))
    }

    pub(crate) fn with<T>(&self, each: impl FnOnce(&mut Model) -> T) -> T {
        each(&mut self.0.lock())
    }

    pub(crate) fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.clone())
    }

    pub(crate) fn task(&self) -> Box<dyn Task> {
        Box::new(DeviceTask(self.clone()))
    }

    fn error(what: &str) -> TransportError {
        TransportError {
            device: "fuzz".to_owned(),
            what: what.to_owned(),
        }
    }
}

struct DeviceTask(Device);

impl Task for DeviceTask {
    fn step(&mut self, now: Instant) -> Step {
        self.0.with(|model| {
            model.steps += 1;
            if model.act() {
                Step::Busy
            } else {
                let until = Some(now + Duration::from_millis(1));
                Step::Idle { until }
            }
        })
    }
}

impl Transport for Device {
    fn name(&self) -> String {
        "fuzz".to_owned()
    }

    fn read32(&self, at: usize) -> Result<u32, TransportError> {
        self.with(|model| model.read(at, 4))
            .map(|value| value as u32)
    }

    fn read64(&self, at: usize) -> Result<u64, TransportError> {
        self.with(|model| model.read(at, 8))
    }

    fn write32(&self, at: usize, value: u32) -> Result<(), TransportError> {
        self.with(|model| model.write(at, u64::from(value)))
    }

    fn write64(&self, at: usize, value: u64) -> Result<(), TransportError> {
        self.with(|model| model.write(at, value))
    }

    fn mapper(&self) -> Arc<dyn Mapper> {
        Arc::new(self.clone())
    }

    fn interrupt_count(&self) -> u16 {
        self.with(|model| u16::from(model.input.vectors % 8))
    }

    fn interrupt(&self, vector: u16) -> Result<Event, TransportError> {
        self.with(|model| {
            if model.script.next() > 0xf0 {
                return Err(Self::error("no event can be had"));
            }
            let event = Event::new().map_err(|_| Self::error("no event"))?;
            model.vectors.insert(vector, event.clone());
            Ok(event)
        })
    }

    fn mask(&self, _vector: u16, _masked: bool) -> Result<(), TransportError> {
        self.with(|model| match model.script.next() {
            0xfe => Err(Self::error("it cannot be masked")),
            _ => Ok(()),
        })
    }

    fn sever(&self) -> Result<(), TransportError> {
        self.with(|model| {
            if model.input.cannot_sever {
                return Err(Self::error("it cannot be severed"));
            }
            model.stop();
            Ok(())
        })
    }
}

impl Mapper for Device {
    fn name(&self) -> String {
        "fuzz".to_owned()
    }

    fn map(&self, request: &MapRequest) -> Result<(), MapperError> {
        self.with(|model| {
            model.maps = model.maps.saturating_add(1);
            if model.input.refuse_map == Some(model.maps) {
                return Err(refused("no more mappings"));
            }
            model.mappings.push(Mapping {
                iova: request.iova.get(),
                memory: Arc::clone(&request.memory),
            });
            Ok(())
        })
    }

    fn unmap(&self, iova: Iova, _len_bytes: u64) -> Result<(), MapperError> {
        self.with(|model| {
            model.unmaps = model.unmaps.saturating_add(1);
            if model.input.refuse_unmap == Some(model.unmaps) {
                model.unmapped_all = false;
                return Err(refused("it may still be mapped"));
            }
            model.mappings.retain(|mapping| mapping.iova != iova.get());
            Ok(())
        })
    }

    fn usable(&self) -> Vec<RangeInclusive<u64>> {
        self.with(|model| match model.input.narrow {
            true => vec![0..=0xffff_ffff, 1 << 32..=(1 << 33) - 1],
            false => vec![0..=(1 << 39) - 1],
        })
    }
}

fn refused(what: &str) -> MapperError {
    MapperError {
        context: "fuzz".to_owned(),
        what: what.to_owned(),
    }
}

impl Model {
    /// All DMA has ended, and the host may know.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.outstanding.clear();
        self.sqs.clear();
        self.cqs.clear();
        self.shadow = None;
    }

    // Registers.

    pub(crate) fn read(&mut self, at: usize, len_bytes: u32) -> Result<u64, TransportError> {
        let csts = Csts(0)
            .with_rdy(self.rdy)
            .with_cfs(self.cfs)
            .with_shst(self.shst);
        let honest = match at {
            offset::CAP => self.cap,
            offset::VS => u64::from(VS),
            offset::CC => u64::from(self.cc.0),
            offset::CSTS => u64::from(csts.0),
            offset::CRTO => u64::from(Crto(0).with_crwmt(2).0),
            _ => 0,
        };
        let all = if len_bytes == 8 {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        };
        let value = match self.reads.next() {
            0..=0xe7 => honest,
            0xe8..=0xeb => all,
            0xec..=0xee => 0,
            0xef..=0xf1 => honest | 2,
            0xf2..=0xf5 => honest ^ 1 << (self.reads.next() & 31),
            0xf6..=0xf8 => honest ^ 1,
            0xf9..=0xfb => u64::from_le_bytes([(); 8].map(|()| self.reads.next())) & all,
            _ => return Err(Device::error("the register cannot be read")),
        };
        self.watch_proof(at, value);
        Ok(value)
    }

    /// What a host may conclude of what it reads (and nothing else) ends our DMA.
    fn watch_proof(&mut self, at: usize, value: u64) {
        match at {
            offset::CSTS => {
                let quiet = !Csts(value as u32).rdy() && value as u32 != u32::MAX;
                self.proof = match quiet && !self.cc.en() {
                    true => Proof::NotReady,
                    false => Proof::None,
                };
            }
            offset::CAP => {
                let first = *self.first_cap.get_or_insert(value);
                let same = first == value && value != 0 && value != u64::MAX;
                self.proof = match self.proof {
                    Proof::NotReady if same => Proof::SameCap,
                    _ => Proof::None,
                };
            }
            offset::VS => {
                let value = value as u32;
                let same = *self.first_vs.get_or_insert(value) == value;
                if self.proof == Proof::SameCap && same {
                    self.stop();
                }
                self.proof = Proof::None;
            }
            _ => {}
        }
    }

    pub(crate) fn write(&mut self, at: usize, value: u64) -> Result<(), TransportError> {
        match at {
            offset::CC => self.write_cc(Cc(value as u32)),
            offset::AQA => self.aqa = value as u32,
            offset::ASQ => self.asq = value,
            offset::ACQ => self.acq = value,
            offset::DOORBELLS.. => self.ring_doorbell(at - offset::DOORBELLS, value as u32),
            _ => {}
        }
        match self.script.next() {
            0xff => Err(Device::error("the register cannot be written")),
            _ => Ok(()),
        }
    }

    fn write_cc(&mut self, cc: Cc) {
        let before = std::mem::replace(&mut self.cc, cc);
        if cc.shn() != 0 && self.script.next() < 0xf0 {
            self.shst = 2;
        }
        if before.en() && !cc.en() {
            self.shst = 0;
            // A device that does not stop, or that does.
            if self.script.next() < 0xe0 {
                self.rdy = false;
            }
        }
        if cc.en() && !before.en() {
            let aqa = Aqa(self.aqa);
            self.sqs.clear();
            self.cqs.clear();
            let cq = DeviceCq {
                iova: self.acq,
                entries: u32::from(aqa.acqs()) + 1,
                tail: 0,
                phase: true,
            };
            self.cqs.insert(0, cq);
            self.add_sq(0, self.asq, u32::from(aqa.asqs()) + 1, 0);
            self.rdy = self.script.next() < 0xf0;
        }
    }

    fn add_sq(&mut self, qid: u16, iova: u64, entries: u32, cqid: u16) {
        let sq = DeviceSq {
            iova,
            entries,
            head: 0,
            tail: 0,
            cqid,
        };
        self.sqs.insert(qid, sq);
    }

    fn stride(&self) -> usize {
        4 << Cap(self.cap).dstrd()
    }

    fn ring_doorbell(&mut self, at: usize, value: u32) {
        let index = at / self.stride();
        if index.is_multiple_of(2)
            && let Some(sq) = self.sqs.get_mut(&((index / 2) as u16))
            && value < sq.entries
        {
            sq.tail = value;
        }
    }

    // Memory.

    fn find(&self, iova: u64, len_bytes: u64) -> Option<(&Arc<Memory>, usize)> {
        let mapping = self.mappings.iter().find(|mapping| {
            let end = mapping.iova + mapping.memory.len_bytes() as u64;
            mapping.iova <= iova && iova.checked_add(len_bytes).is_some_and(|last| last <= end)
        })?;
        Some((&mapping.memory, (iova - mapping.iova) as usize))
    }

    fn put(&self, iova: u64, bytes: &[u8]) -> bool {
        let Some((memory, at)) = self.find(iova, bytes.len() as u64) else {
            return false;
        };
        memory.view().copy_from(at, bytes).is_ok()
    }

    fn get(&self, iova: u64, bytes: &mut [u8]) -> bool {
        let Some((memory, at)) = self.find(iova, bytes.len() as u64) else {
            return false;
        };
        memory.view().copy_to(at, bytes).is_ok()
    }

    fn get_u64(&self, iova: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.get(iova, &mut bytes)
            .then(|| u64::from_le_bytes(bytes))
    }

    /// Where a command's data go.
    fn data(&self, sqe: &Sqe, len_bytes: u64) -> Vec<(u64, u64)> {
        match sqe.psdt() {
            0 => self.walk(sqe.prp1(), sqe.prp2(), len_bytes),
            _ => self.walk_sgl([sqe.prp1(), sqe.prp2()]),
        }
    }

    /// The runs that an SGL names: data blocks, and segments of more descriptors.
    fn walk_sgl(&self, first: [u64; 2]) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        let mut left = vec![first];
        let mut seen = 0;
        while let Some([address, second]) = left.pop()
            && seen < 4096
        {
            seen += 1;
            let len_bytes = second & 0xffff_ffff;
            match second >> 60 {
                0 => runs.push((address, len_bytes)),
                2 | 3 => {
                    for nth in (0..(len_bytes / 16).min(512)).rev() {
                        let at = address + nth * 16;
                        if let (Some(low), Some(high)) = (self.get_u64(at), self.get_u64(at + 8)) {
                            left.push([low, high]);
                        }
                    }
                }
                _ => {}
            }
        }
        runs
    }

    /// The runs that PRPs name.
    fn walk(&self, prp1: u64, prp2: u64, len_bytes: u64) -> Vec<(u64, u64)> {
        let page = 4096_u64 << self.cc.mps();
        let first = len_bytes.min(page - prp1 % page);
        let mut pages = vec![(prp1, first)];
        let mut left = len_bytes - first;
        if left == 0 {
            return pages;
        }
        if left <= page {
            pages.push((prp2, left));
            return pages;
        }
        let mut at = prp2;
        while left > 0 && pages.len() < 4096 {
            let Some(entry) = self.get_u64(at) else {
                break;
            };
            if at % page == page - 8 && left > page {
                at = entry;
                continue;
            }
            let len = left.min(page);
            pages.push((entry, len));
            left -= len;
            at += 8;
        }
        pages
    }

    // What it does by itself.

    /// The host writes its doorbells into this memory from now on.
    pub(crate) fn doorbells_in(&mut self, memory: Arc<Memory>) {
        self.page = Some(memory);
    }

    /// Looks at doorbells that are memory.
    fn look_at_page(&mut self) {
        let Some(page) = self.page.clone() else {
            return;
        };
        let stride = self.stride();
        for (&qid, sq) in &mut self.sqs {
            let at = 0x1000 + 2 * usize::from(qid) * stride;
            let mut word = [0; 4];
            if page.view().copy_to(at, &mut word).is_ok() && u32::from_le_bytes(word) < sq.entries {
                sq.tail = u32::from_le_bytes(word);
            }
        }
    }

    /// Looks at shadow doorbells.
    fn look_at_shadows(&mut self) {
        let Some((shadow, _)) = self.shadow else {
            return;
        };
        let stride = self.stride() as u64;
        let qids: Vec<u16> = self.sqs.keys().copied().filter(|&qid| qid != 0).collect();
        for qid in qids {
            let mut word = [0; 4];
            if self.get(shadow + 2 * u64::from(qid) * stride, &mut word)
                && let Some(sq) = self.sqs.get_mut(&qid)
                && u32::from_le_bytes(word) < sq.entries
            {
                sq.tail = u32::from_le_bytes(word);
            }
        }
    }

    /// One thing. False when there was nothing to do.
    fn act(&mut self) -> bool {
        if self.stuck {
            return false;
        }
        self.look_at_page();
        self.look_at_shadows();
        let waiting = self.sqs.iter().find(|(_, sq)| sq.head != sq.tail);
        let waiting = waiting.map(|(&qid, _)| qid);
        if waiting.is_none() && (self.outstanding.is_empty() || self.script.is_over()) {
            return false;
        }
        match self.script.next() {
            0..=0xa7 => match waiting {
                Some(qid) => self.serve(qid),
                None => self.end_one(),
            },
            0xa8..=0xb7 => {
                if let Some(qid) = waiting {
                    self.fetch(qid);
                }
            }
            0xb8..=0xbf => self.end_one(),
            0xc0..=0xc7 => self.dma_all(),
            0xc8..=0xcf => {
                if let Some(qid) = waiting
                    && let Some((cid, _)) = self.fetch(qid)
                {
                    let status = Status(self.script.u16() & 0x7fff);
                    self.complete(qid, cid, status, 0);
                }
            }
            0xd0..=0xdb => self.lie(),
            0xdc..=0xdf => {
                // Completions anywhere in a ring: whatever its commands were, it has said so.
                let qid = u16::from(self.script.next() & 3);
                let at = u64::from(self.script.next());
                let bytes = [self.script.u64(), self.script.u64()]
                    .map(u64::to_le_bytes)
                    .concat();
                if let Some(cq) = self.cqs.get(&qid) {
                    let iova = cq.iova + at % u64::from(cq.entries) * 16;
                    if qid == 0 {
                        // Also that any queue was deleted.
                        self.tainted.extend(0..=64);
                        self.outstanding.clear();
                    }
                    self.tainted.insert(qid);
                    self.outstanding.retain(|command| command.qid != qid);
                    self.put(iova, &bytes);
                }
            }
            0xe0..=0xe3 => {
                if let Some((_, event_idx)) = self.shadow {
                    let at = u64::from(self.script.u16() & 0xffc);
                    let word = self.script.u16();
                    self.put(event_idx + at, &u32::from(word).to_le_bytes());
                }
            }
            0xe4..=0xe7 => self.cfs = true,
            0xe8..=0xeb => self.stuck = true,
            0xec..=0xef => self.rdy = !self.rdy,
            _ => return waiting.is_some(),
        }
        true
    }

    /// Fetches a command: from now on it may write what the command names.
    fn fetch(&mut self, qid: u16) -> Option<(u16, Sqe)> {
        let sq = self.sqs.get_mut(&qid)?;
        if sq.head == sq.tail {
            return None;
        }
        let at = sq.iova + u64::from(sq.head) * 64;
        sq.head = (sq.head + 1) % sq.entries;
        let mut bytes = [0; 64];
        self.get(at, &mut bytes).then_some(())?;
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        let sqe = Sqe::from_u64s(words);
        self.commands += 1;
        let cid = sqe.cid().0;
        let len_bytes = self.bytes_to_host(qid, &sqe);
        let ended = self.told.contains(&(qid, cid)) || self.tainted.contains(&qid);
        let pages = match len_bytes {
            0 => Vec::new(),
            _ if ended => Vec::new(),
            _ => self.data(&sqe, len_bytes),
        };
        let deletion = qid == 0 && AdminOpcode(sqe.opcode()) == AdminOpcode::DELETE_IO_SQ;
        self.outstanding.push(Outstanding {
            qid,
            cid,
            pages,
            deletes: deletion.then(|| DeleteIoSq::from_sqe(&sqe).qid.0),
        });
        Some((cid, sqe))
    }

    fn bytes_to_host(&self, qid: u16, sqe: &Sqe) -> u64 {
        if qid == 0 {
            return match AdminOpcode(sqe.opcode()) {
                AdminOpcode::IDENTIFY => 4096,
                AdminOpcode::GET_LOG_PAGE => {
                    let dwords =
                        u64::from(sqe.cdw10() >> 16) | u64::from(sqe.cdw11() & 0xffff) << 16;
                    (dwords + 1) * 4
                }
                _ => 0,
            };
        }
        let blocks = u64::from(sqe.cdw12() & 0xffff) + 1;
        match NvmOpcode(sqe.opcode()) {
            NvmOpcode::READ => blocks << self.lba_shift(),
            _ => 0,
        }
    }

    fn lba_shift(&self) -> u8 {
        self.namespace_page().format().lbads().clamp(9, 16)
    }

    /// Ends the oldest command that it holds: its data, then its completion.
    fn end_one(&mut self) {
        if let Some(command) = self.outstanding.first() {
            let (qid, cid) = (command.qid, command.cid);
            self.dma(0);
            self.complete(qid, cid, Status::SUCCESS, 0);
        }
    }

    fn dma(&self, index: usize) {
        let Some(command) = self.outstanding.get(index) else {
            return;
        };
        for &(iova, len_bytes) in &command.pages {
            self.put(iova, &vec![0xd5; len_bytes.min(1 << 20) as usize]);
        }
    }

    /// Fetches all that lies in the rings.
    pub(crate) fn fetch_all(&mut self) {
        let qids: Vec<u16> = self.sqs.keys().copied().collect();
        for qid in qids {
            while self.fetch(qid).is_some() {}
        }
    }

    /// Writes wherever it may.
    pub(crate) fn dma_all(&mut self) {
        (0..self.outstanding.len()).for_each(|index| self.dma(index));
    }

    fn complete(&mut self, qid: u16, cid: u16, status: Status, dw0: u32) {
        let Some((cqid, head)) = self.sqs.get(&qid).map(|sq| (sq.cqid, sq.head)) else {
            return;
        };
        self.post(cqid, |phase| {
            Cqe::new(dw0, 0, head as u16, Qid(qid), Cid(cid), phase, status)
        });
    }

    /// Writes a completion. If the host can see it, the command that it names has ended.
    fn post(&mut self, cqid: u16, entry: impl FnOnce(bool) -> Cqe) {
        let Some(cq) = self.cqs.get_mut(&cqid) else {
            return;
        };
        let cqe = entry(cq.phase);
        let at = cq.iova + u64::from(cq.tail) * 16;
        cq.advance();
        // Said, whatever the phase: after a hole the host may be a lap behind.
        let ended = |command: &Outstanding| command.qid == cqid && command.cid == cqe.cid().0;
        let deleted = self.outstanding.iter().find(|command| ended(command));
        let deleted = deleted.and_then(|command| command.deletes);
        let deleted = deleted.filter(|_| cqe.status().is_success());
        self.outstanding
            .retain(|command| !ended(command) && Some(command.qid) != deleted);
        if let Some(qid) = deleted {
            self.sqs.remove(&qid);
        }
        self.told.insert((cqid, cqe.cid().0));
        self.last = Some((cqid, cqe.as_u64s()));
        let bytes = cqe.as_u64s().map(u64::to_le_bytes).concat();
        self.put(at, &bytes);
        self.posted = self.posted.wrapping_add(1);
        if self.input.lost >> (self.posted & 7) & 1 == 0
            && let Some(event) = self.vectors.get(&cqid)
        {
            event.signal();
        }
    }

    /// A completion that ought not to be.
    fn lie(&mut self) {
        let how = self.script.next();
        let known = self
            .outstanding
            .get(usize::from(how >> 4) % self.outstanding.len().max(1));
        let (qid, cid) = known.map_or((0, 0), |command| (command.qid, command.cid));
        let raw = [self.script.u64(), self.script.u64()];
        let last = self.last;
        match how & 7 {
            0 => self.post(qid, |phase| {
                let high = raw[1] & !(1 << 48) | u64::from(phase) << 48;
                Cqe::from_u64s([raw[0], high])
            }),
            1 => self.post(qid, |phase| {
                Cqe::new(
                    0,
                    0,
                    0,
                    Qid(raw[0] as u16),
                    Cid(cid),
                    phase,
                    Status::SUCCESS,
                )
            }),
            2 => self.post(qid, |phase| {
                Cqe::new(
                    0,
                    0,
                    raw[0] as u16,
                    Qid(qid),
                    Cid(cid),
                    phase,
                    Status::SUCCESS,
                )
            }),
            3 => self.post(qid, |phase| {
                Cqe::new(0, 0, 0, Qid(qid), Cid(cid), !phase, Status::SUCCESS)
            }),
            4 => self.post(qid, |phase| {
                let other = Cid(cid ^ 1 << (raw[0] & 15));
                Cqe::new(0, 0, 0, Qid(qid), other, phase, Status::SUCCESS)
            }),
            5 => {
                if let Some((cqid, words)) = last {
                    self.post(cqid, |_| Cqe::from_u64s(words));
                }
            }
            6 => {
                // A hole: the next completion lies one further on.
                if let Some(cq) = self.cqs.get_mut(&qid) {
                    cq.advance();
                }
            }
            _ => {
                let (cqid, dw0) = (qid, raw[0] as u32);
                self.post(cqid, |phase| {
                    Cqe::new(dw0, 0, 0, Qid(qid), Cid(cid), phase, Status::SUCCESS)
                });
            }
        }
    }

    fn patched(&self, cns: Cns, page: &mut [u8; 4096]) {
        for &(which, at, bytes) in self.input.patches.iter().take(64) {
            let at = usize::from(at) % 4089;
            if which % 4 == cns.0 % 4
                && let Some(place) = page.get_mut(at..at + 8)
            {
                place.copy_from_slice(&bytes.to_le_bytes());
            }
        }
    }

    fn namespace_page(&self) -> IdentifyNamespace {
        let mut page = IdentifyNamespace::zeroed();
        page.set_nsze(0x1_0000);
        page.set_ncap(0x1_0000);
        let lbads = match self.input.lbads {
            0..=0x7f => 9,
            0x80..=0xdf => 12,
            other => other & 31,
        };
        page.set_lba_format(0, LbaFormat::new(0, lbads, 0));
        let mut bytes = *page.as_bytes();
        self.patched(Cns::NAMESPACE, &mut bytes);
        IdentifyNamespace::from_bytes(&bytes)
    }

    fn page(&self, command: &Identify) -> [u8; 4096] {
        match command.cns {
            Cns::CONTROLLER => {
                let mut page = IdentifyController::zeroed();
                page.set_mdts(self.input.mdts % 6);
                page.set_sqes(0x66);
                page.set_cqes(0x44);
                page.set_nn(2);
                page.set_oacs(u16::from(self.input.dbbuf) << 8);
                page.set_sgls(match self.input.sgls {
                    0..=0x7f => 0,
                    other => u32::from(other & 0b11) | u32::from(other & 4) << 14,
                });
                page.set_lpa(self.input.mdts >> 4);
                page.set_vwc(u8::from(self.input.vwc));
                let mut bytes = *page.as_bytes();
                self.patched(Cns::CONTROLLER, &mut bytes);
                bytes
            }
            Cns::NAMESPACE => *self.namespace_page().as_bytes(),
            Cns::ACTIVE_NAMESPACES => {
                let mut bytes = match &self.input.namespaces {
                    None => {
                        let nsids = [1, 2].map(Nsid).into_iter();
                        *NamespaceList::from_nsids(nsids.filter(|nsid| *nsid > command.nsid))
                            .as_bytes()
                    }
                    Some(raw) => {
                        let mut bytes = [0; 4096];
                        for (place, nsid) in bytes.chunks_mut(4).zip(raw) {
                            place.copy_from_slice(&nsid.to_le_bytes());
                        }
                        bytes
                    }
                };
                self.patched(Cns::ACTIVE_NAMESPACES, &mut bytes);
                bytes
            }
            other => {
                let mut bytes = [0; 4096];
                self.patched(other, &mut bytes);
                bytes
            }
        }
    }

    /// Does what a device should.
    fn serve(&mut self, qid: u16) {
        let Some((cid, sqe)) = self.fetch(qid) else {
            return;
        };
        if qid != 0 {
            self.dma(self.outstanding.len() - 1);
            return self.complete(qid, cid, Status::SUCCESS, 0);
        }
        let mut dw0 = 0;
        match AdminOpcode(sqe.opcode()) {
            AdminOpcode::IDENTIFY => {
                let page = self.page(&Identify::from_sqe(&sqe));
                let pages = self.walk(sqe.prp1(), sqe.prp2(), 4096);
                let mut at = 0;
                for (iova, len) in pages {
                    self.put(iova, &page[at..at + len as usize]);
                    at += len as usize;
                }
            }
            AdminOpcode::SET_FEATURES => dw0 = self.input.queues,
            AdminOpcode::GET_FEATURES => {
                let fid = GetFeatures::from_sqe(&sqe).fid;
                dw0 = u32::from(fid == FeatureId::VOLATILE_WRITE_CACHE && self.input.vwc);
            }
            AdminOpcode::CREATE_IO_CQ => {
                let command = CreateIoCq::from_sqe(&sqe);
                let cq = DeviceCq {
                    iova: command.prp1,
                    entries: command.entries,
                    tail: 0,
                    phase: true,
                };
                self.cqs.insert(command.qid.0, cq);
            }
            AdminOpcode::CREATE_IO_SQ => {
                let command = CreateIoSq::from_sqe(&sqe);
                self.add_sq(command.qid.0, command.prp1, command.entries, command.cqid.0);
            }
            AdminOpcode::DELETE_IO_SQ => {
                // The completion that says so ends the queue.
            }
            AdminOpcode::DELETE_IO_CQ => {
                self.cqs.remove(&DeleteIoCq::from_sqe(&sqe).qid.0);
            }
            AdminOpcode::DOORBELL_BUFFER_CONFIG => {
                let command = DoorbellBufferConfig::from_sqe(&sqe);
                self.shadow = Some((command.shadow, command.event_idx));
            }
            AdminOpcode::ASYNC_EVENT_REQUEST => return,
            AdminOpcode::GET_LOG_PAGE => self.dma(self.outstanding.len() - 1),
            _ => {}
        }
        self.complete(0, cid, Status::SUCCESS, dw0);
    }

    /// True when it has commands that it may write memory for.
    pub(crate) fn may_write(&self) -> bool {
        !self.outstanding.is_empty()
    }
}
