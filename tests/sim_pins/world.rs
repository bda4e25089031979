//! One world from one seed: a few pages of a file on one device, another device that reads blocks
//! into them and writes them out, and writebacks, truncates, fills and evictions in between.
use crate::cache::{BLOCK_BYTES, BLOCKS, Cache, FRAMES, Index, PAGES, is_whole, stamped};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use underpin::dma::frame::{
    Beginning, Blocked, Decision, FRAME_BYTES, Frame, Frames, Intent, Owner, Pin, PinError, State,
};
use underpin::dma::pin::{Cover, ReadPin, WritePin};
use underpin::dma::rt::{self, Instant, Rng};
use underpin::dma::{PageRun, SpaceOptions};
use underpin::emulator::{Emulator, EmulatorConfig, Media, NamespaceConfig, Referee, Violation};
use underpin::nvme::Nsid;
use underpin::nvme::transport::Embedded;
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, Namespace, Payload, Pool, PoolOptions,
    QueueOptions, QueuePair, Token,
};

/// Of each page, so many different contents on the source device.
pub(crate) const SOURCES: u64 = 6;
const ACTIONS: u64 = 70;

/// Every step that a word can take, and how it can end.
pub(crate) const ROWS: [[&str; 3]; 16] = [
    ["alloc", "taken", "refused"],
    ["begin_fill", "begun", "refused"],
    ["end_fill", "good", "failed"],
    ["set_uptodate", "set", "dead"],
    ["pin_write, fast", "granted", "not at once"],
    ["pin_write, slow", "granted", "undone"],
    ["unpin_write", "nothing is due", "release"],
    ["release", "cancelled", "kept"],
    ["pin_read", "granted", "undone"],
    ["unpin_read", "nothing is due", "release"],
    ["begin_writeback", "begun or skipped", "refused"],
    ["end_writeback", "good", "failed"],
    ["truncate", "cut", "moved"],
    ["free", "at once", "later"],
    ["evict", "taken", "refused"],
    ["wait", "parked", "look again"],
];

/// What a schedule leaves behind; equal for equal seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Of all choices: the scheduler's, and what was decided.
    pub(crate) trace: u64,
    /// Direct, CopyClean, CopyKeep, Skip.
    pub(crate) decisions: [u64; 4],
    pub(crate) rows: [[u64; 2]; ROWS.len()],
    /// Writebacks begun while a command was half way through the page.
    pub(crate) straddled: u64,
    /// What the medium has, against what the page or copy held at the writeback's begin.
    pub(crate) judged: u64,
    pub(crate) wrong: u64,
    /// By CRC, as the device fetched them.
    pub(crate) fetched: u64,
    pub(crate) frame_checks: u64,
    pub(crate) overlaps: u64,
    pub(crate) violations: Vec<Violation>,
}

/// A device that reads into a page.
struct Incoming {
    page: usize,
    frame: u32,
    source: u64,
    blocks: usize,
    whole: bool,
}

/// A page on its way to the medium.
struct Outgoing {
    page: usize,
    frame: u32,
    decision: Decision,
    snapshot: Vec<u8>,
}

struct World {
    rng: Rng,
    referee: Arc<Referee>,
    cache: Arc<Cache>,
    frames: Frames,
    bounces: Pool,
    /// The file's device, and its pages: one after the other.
    file: Namespace,
    store: QueuePair<PageRun>,
    reader: QueuePair<DmaBuf>,
    /// The other device.
    source: Namespace,
    scratch: Namespace,
    into: QueuePair<WritePin>,
    out_of: QueuePair<ReadPin>,
    incoming: BTreeMap<Token, Incoming>,
    outgoing: BTreeMap<Token, Outgoing>,
    fills: BTreeMap<Token, usize>,
    leaving: BTreeMap<Token, u32>,
    /// Frames as they were looked up before their pages lost them.
    late: Vec<(u32, u16)>,
    /// Of each page, what was last read into it.
    sources: [u64; PAGES],
    ignores_pins: bool,
    report: Report,
}

/// The source device's blocks, made once.
pub(crate) fn make_source(path: &Path) {
    let pages = (0..PAGES).flat_map(|page| (0..SOURCES).map(move |source| (page, source)));
    let bytes: Vec<u8> = pages
        .flat_map(|(page, source)| stamped(page, source))
        .collect();
    std::fs::write(path, bytes).unwrap();
}

fn device(name: &str, space: &DmaSpace, config: EmulatorConfig) -> (Emulator, Controller) {
    let emulator = Emulator::new(config).unwrap();
    emulator.start_thread().unwrap();
    let transport = Embedded::new(name, emulator.clone());
    let controller =
        Controller::with_transport(transport, space, ControllerOptions::default()).unwrap();
    (emulator, controller)
}

fn queue<B: Payload>(controller: &Controller) -> QueuePair<B> {
    let options = QueueOptions {
        depth: 16,
        ..QueueOptions::default()
    };
    controller.queue_pair(options).unwrap()
}

/// One schedule. With the pin check off nothing but what the referee says is looked at.
pub(crate) fn schedule(seed: u64, source: &Path, ignores_pins: bool) -> Report {
    rt::sim::run(seed, || {
        let referee = Referee::new();
        let space = DmaSpace::with_options(SpaceOptions {
            watch: Some(referee.clone()),
            ..SpaceOptions::default()
        });
        let base = EmulatorConfig {
            queues: 2,
            seed,
            referee: Some(referee.clone()),
            ..EmulatorConfig::default()
        };
        let small = |pages: usize| NamespaceConfig {
            size_bytes: Some((pages * FRAME_BYTES) as u64),
            ..NamespaceConfig::default()
        };
        let blocks = NamespaceConfig {
            size_bytes: None,
            media: Media::File(source.to_owned()),
            read_only: true,
            ..NamespaceConfig::default()
        };
        let (file_emulator, file_controller) = device(
            "file",
            &space,
            EmulatorConfig {
                name: "file".to_owned(),
                namespaces: vec![small(PAGES)],
                ..base.clone()
            },
        );
        let (other_emulator, other_controller) = device(
            "other",
            &space,
            EmulatorConfig {
                name: "other".to_owned(),
                namespaces: vec![blocks, small(PAGES)],
                seed: !seed,
                ..base
            },
        );
        let cache = Arc::new(Cache::new());
        let owner: Arc<dyn Owner> = Arc::<Cache>::clone(&cache);
        let memory = space
            .alloc(FRAMES as usize * FRAME_BYTES, FRAME_BYTES)
            .unwrap();
        let frames = Frames::new(memory, owner).unwrap();
        frames.ignore_pins(ignores_pins);
        let bounces = PoolOptions {
            buf_bytes: FRAME_BYTES,
            count: PAGES + 1,
        };
        let mut world = World {
            rng: Rng::seeded(seed ^ 0x7069_6e73),
            referee,
            cache,
            frames,
            bounces: space.pool("bounces", bounces).unwrap(),
            file: file_controller.namespace(None).unwrap(),
            store: queue(&file_controller),
            reader: queue(&file_controller),
            source: other_controller.namespace(Some(Nsid(1))).unwrap(),
            scratch: other_controller.namespace(Some(Nsid(2))).unwrap(),
            into: queue(&other_controller),
            out_of: queue(&other_controller),
            incoming: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            fills: BTreeMap::new(),
            leaving: BTreeMap::new(),
            late: Vec::new(),
            sources: [0; PAGES],
            ignores_pins,
            report: Report::default(),
        };
        for _ in 0..ACTIONS {
            world.act();
            world.look_at_words();
            let turns = world.rng.below(12);
            world.run_for(turns);
        }
        world.sync();
        let report = world.end();
        drop((file_controller, other_controller));
        file_emulator.stop().unwrap();
        other_emulator.stop().unwrap();
        report
    })
}

impl World {
    fn row(&mut self, name: &str, first: bool) {
        let row = ROWS.iter().position(|[row, ..]| *row == name).unwrap();
        self.report.rows[row][usize::from(!first)] += 1;
    }

    fn mark(&mut self, what: u64) {
        let trace = (self.report.trace ^ what).wrapping_mul(0x0100_0000_01b3);
        self.report.trace = trace.rotate_left(23);
    }

    fn index<T>(&self, look: impl FnOnce(&mut Index) -> T) -> T {
        look(&mut self.cache.0.lock())
    }

    fn slot(&self, page: usize) -> Option<(u32, u16)> {
        self.index(|index| index.slots[page])
    }

    fn state(&self, frame: u32) -> State {
        self.frames.state(frame).unwrap()
    }

    fn bytes(&self, frame: u32) -> Vec<u8> {
        let mut bytes = vec![0; FRAME_BYTES];
        self.frames
            .view(frame)
            .unwrap()
            .copy_to(0, &mut bytes)
            .unwrap();
        bytes
    }

    fn lba(page: usize) -> Lba {
        Lba((page * BLOCKS) as u64)
    }

    /// A page's blocks on the medium are still some command's to write (R28) or read.
    fn is_on_its_way(&self, page: usize) -> bool {
        self.outgoing.values().any(|out| out.page == page)
            || self.fills.values().any(|filled| *filled == page)
    }

    /// Something of what hosts do.
    fn act(&mut self) {
        let page = self.rng.below(PAGES as u64) as usize;
        let what = self.rng.below(32);
        self.mark(what << 8 | page as u64);
        match (what, self.slot(page)) {
            (0..=3, _) => self.make(page),
            (4..=17, Some(at)) => self.pin_write(page, at),
            (18..=19, Some(at)) => self.pin_read(page, at),
            (20, Some(at)) => self.truncate(page, at),
            (21, Some(at)) => self.evict(page, at),
            (22, Some(at)) => self.fill_again(page, at),
            (23, Some(at)) => self.park(at),
            (24, _) => self.come_late(),
            (_, Some(_)) => self.write_back_one(page),
            (_, None) => self.make(page),
        }
    }

    /// The page gets a frame: read in, to be read into, or of zeroes.
    fn make(&mut self, page: usize) {
        let Some(frame) = self.index(|index| index.free.pop()) else {
            // There is none: what is in use is refused.
            let refused = self.frames.alloc(page as u32, Beginning::Unknown);
            let state = self.state(page as u32);
            assert_eq!(refused.is_err(), state.has(State::OWNED));
            self.row("alloc", false);
            return;
        };
        if self.slot(page).is_some() || self.is_on_its_way(page) {
            self.index(|index| index.free.push(frame));
            return;
        }
        self.index(|index| index.page_of[frame as usize] = page);
        let beginning = match self.rng.below(4) {
            0 => Beginning::Uptodate,
            1 | 2 => Beginning::Fill,
            _ => Beginning::Unknown,
        };
        if beginning == Beginning::Uptodate {
            self.frames
                .view(frame)
                .unwrap()
                .fill(0, FRAME_BYTES, 0)
                .unwrap();
        }
        let generation = self.frames.alloc(frame, beginning).expect("it was free");
        self.row("alloc", true);
        self.index(|index| index.slots[page] = Some((frame, generation)));
        if beginning == Beginning::Fill {
            let mut run = PageRun::with_capacity(1);
            run.push_fill(self.frames.frame(frame, generation).begun_fill().unwrap());
            self.fill(page, run);
        }
    }

    fn fill(&mut self, page: usize, run: PageRun) {
        let io = self.file.read(Self::lba(page), BLOCKS as u64).unwrap();
        let token = self.store.submit(io, run).unwrap();
        self.store.ring();
        self.fills.insert(token, page);
    }

    /// A page whose fill, or first DMA, has failed is read in once more.
    fn fill_again(&mut self, page: usize, (frame, generation): (u32, u16)) {
        if self.is_on_its_way(page) {
            return;
        }
        let begun = self.frames.frame(frame, generation).begin_fill();
        self.row("begin_fill", begun.is_ok());
        if let Ok(fill) = begun {
            let mut run = PageRun::with_capacity(1);
            run.push_fill(fill);
            self.fill(page, run);
        }
    }

    /// The other device reads blocks into the page.
    fn pin_write(&mut self, page: usize, (frame, generation): (u32, u16)) {
        if self.into.free() == 0 {
            return;
        }
        let whole = self.rng.chance(2, 3);
        let cover = if whole { Cover::Whole } else { Cover::Part };
        let before = self.state(frame);
        let fast = before.has(State::WRITABLE) && before.has(State::UPTODATE);
        let pinned = self.frames.frame(frame, generation).pin_write(cover);
        self.row("pin_write, fast", fast);
        if !fast {
            self.row("pin_write, slow", pinned.is_ok());
        }
        let pin = match pinned {
            Ok(pin) => pin,
            Err(PinError::Blocked(
                Blocked::Fill | Blocked::WritebackDirect | Blocked::NotUptodate,
            )) => return,
            Err(other) => panic!("nothing here can lead to {other:?}"),
        };
        // In turn, so that what is in the page tells which commands have been there.
        self.sources[page] = (self.sources[page] + 1) % SOURCES;
        let source = self.sources[page];
        let blocks = if whole {
            BLOCKS
        } else {
            1 + self.rng.below(BLOCKS as u64 - 1) as usize
        };
        let first = (page as u64 * SOURCES + source) * BLOCKS as u64;
        let io = self.source.read(Lba(first), blocks as u64).unwrap();
        let token = self.into.submit(io, pin).unwrap();
        self.into.ring();
        let incoming = Incoming {
            page,
            frame,
            source,
            blocks,
            whole,
        };
        self.incoming.insert(token, incoming);
    }

    /// The other device writes the page's blocks somewhere.
    fn pin_read(&mut self, page: usize, (frame, generation): (u32, u16)) {
        if self.out_of.free() == 0 {
            return;
        }
        let pinned = self.frames.frame(frame, generation).pin_read();
        self.row("pin_read", pinned.is_ok());
        if let Ok(pin) = pinned {
            let io = self.scratch.write(Self::lba(page), BLOCKS as u64).unwrap();
            let token = self.out_of.submit(io, pin).unwrap();
            self.out_of.ring();
            self.leaving.insert(token, frame);
        }
    }

    fn truncate(&mut self, page: usize, (frame, generation): (u32, u16)) {
        let cache = Arc::clone(&self.cache);
        let cut = |frame: Frame<'_>| {
            frame.truncate(|| {
                let mut index = cache.0.lock();
                index.slots[page] = None;
                index.dirty.remove(&page);
            })
        };
        cut(self.frames.frame(frame, generation)).expect("it is in the index");
        self.row("truncate", true);
        self.late.push((frame, generation));
        self.row("free", !self.state(frame).has(State::OWNED));
        // Who looked it up before comes too late.
        assert_eq!(
            cut(self.frames.frame(frame, generation)),
            Err(PinError::Moved)
        );
        self.row("truncate", false);
    }

    fn evict(&mut self, page: usize, (frame, generation): (u32, u16)) {
        let cache = Arc::clone(&self.cache);
        let evicted = self.frames.frame(frame, generation).evict(|| {
            let mut index = cache.0.lock();
            index.slots[page] = None;
            index.dirty.remove(&page);
        });
        self.row("evict", evicted.is_ok());
        if evicted.is_ok() {
            self.late.push((frame, generation));
        }
    }

    /// Whoever looked a frame up before its page lost it gets nothing, whatever it is now (R12).
    fn come_late(&mut self) {
        let Some((frame, generation)) = self.rng.pick(&self.late).copied() else {
            return;
        };
        let frame = self.frames.frame(frame, generation);
        assert_eq!(frame.pin_write(Cover::Whole).unwrap_err(), PinError::Moved);
        assert_eq!(frame.pin_read().unwrap_err(), PinError::Moved);
        assert!(frame.begin_fill().is_err());
        assert!(frame.begin_writeback(Intent::Integrity, true).is_err());
        assert!(frame.evict(|| ()).is_err());
    }

    fn look_at_words(&self) {
        for frame in 0..FRAMES {
            let state = self.state(frame);
            assert_eq!(state.broken_invariant(), None, "{state:?}");
        }
    }

    fn park(&mut self, (frame, generation): (u32, u16)) {
        let busy = |state: State| state.has(State::FILL | State::WB_DIRECT | State::WB_COPY);
        let frame = self.frames.frame(frame, generation);
        let parked = frame.park(busy, std::task::Waker::noop());
        self.row("wait", parked);
    }

    fn write_back_one(&mut self, page: usize) {
        let intent = match self.rng.below(8) {
            0..=3 => Intent::Background,
            4 => Intent::Expired,
            _ => Intent::Integrity,
        };
        // Every other time one that a device is just reading into.
        let busy: Vec<usize> = self
            .incoming
            .values()
            .map(|incoming| incoming.page)
            .collect();
        let page = match self.rng.chance(1, 2) {
            true => self.rng.pick(&busy).copied().unwrap_or(page),
            false => page,
        };
        let always_copy = self.rng.chance(1, 2);
        self.write_back(page, intent, always_copy);
    }

    fn write_back(&mut self, page: usize, intent: Intent, always_copy: bool) {
        let Some((frame, generation)) = self.slot(page) else {
            return;
        };
        if self.store.free() == 0
            || self
                .outgoing
                .values()
                .any(|out| out.page == page && out.frame != frame)
        {
            return;
        }
        let straddled = self.is_straddled(frame);
        let begun = self
            .frames
            .frame(frame, generation)
            .begin_writeback(intent, always_copy);
        self.row("begin_writeback", begun.is_ok());
        let writeback = match begun {
            Ok(Some(writeback)) => writeback,
            Ok(None) => {
                self.report.decisions[3] += 1;
                self.mark(3);
                return;
            }
            Err(_) => {
                // I9: an entry goes when nothing of the page is dirty, pinned or on its way.
                let state = self.state(frame);
                let busy = State::DIRTY | State::WB_DIRECT | State::WB_COPY;
                if !state.has(busy) && state.pins(Pin::Write) == 0 {
                    self.index(|index| index.dirty.remove(&page));
                }
                return;
            }
        };
        self.report.straddled += u64::from(straddled);
        let decision = writeback.decision();
        let nth = match decision {
            Decision::Direct => 0,
            Decision::CopyClean => 1,
            Decision::CopyKeep | Decision::Skip => 2,
        };
        self.report.decisions[nth] += 1;
        self.mark(nth as u64);
        let mut run = PageRun::with_capacity(1);
        if decision == Decision::Direct {
            run.push_direct(writeback).unwrap();
        } else {
            let copy = self.bounces.alloc().expect("as many as there are pages");
            run.push_copy(&self.frames, writeback, copy, FRAME_BYTES)
                .unwrap();
        }
        let mut snapshot = vec![0; FRAME_BYTES];
        run.copy_to(0, 0, &mut snapshot).unwrap();
        // A block moves in one step here, so even a copy begun with pins has none that is torn.
        assert!(
            is_whole(page, SOURCES, &snapshot),
            "a page of other bytes, or of torn ones"
        );
        // R15: whatever was decided, it is what the device will fetch.
        self.referee
            .announce(run.span(0).iova, crc32c::crc32c(&snapshot));
        let io = self.file.write(Self::lba(page), BLOCKS as u64).unwrap();
        let token = self.store.submit(io, run).unwrap();
        self.store.ring();
        let out = Outgoing {
            page,
            frame,
            decision,
            snapshot,
        };
        self.outgoing.insert(token, out);
    }

    /// One command alone is reading into the frame and is half way: some of its blocks are there,
    /// some are not.
    fn is_straddled(&self, frame: u32) -> bool {
        let mut mine = self
            .incoming
            .values()
            .filter(|incoming| incoming.frame == frame);
        let (Some(only), None) = (mine.next(), mine.next()) else {
            return false;
        };
        let wanted = stamped(only.page, only.source);
        let bytes = self.bytes(frame);
        let there = |block: usize| {
            let range = block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES;
            bytes[range.clone()] == wanted[range]
        };
        there(0) && !there(only.blocks - 1)
    }

    /// The devices go on, and what has ended is taken.
    fn run_for(&mut self, turns: u64) {
        let mut turn = 0;
        let _ = rt::wait(None, |_now| {
            turn += 1;
            self.poll();
            (turn >= turns).then_some(())
        });
    }

    fn poll(&mut self) {
        let mut done: VecDeque<(Token, PageRun)> = VecDeque::new();
        self.store.poll(2, |ended| {
            ended.result.unwrap();
            done.push_back((ended.token, ended.buffer.unwrap()));
        });
        let mut came: Vec<(Token, WritePin)> = Vec::new();
        self.into.poll(2, |ended| {
            ended.result.unwrap();
            came.push((ended.token, ended.buffer.unwrap()));
        });
        let mut left: Vec<(Token, ReadPin)> = Vec::new();
        self.out_of.poll(2, |ended| {
            ended.result.unwrap();
            left.push((ended.token, ended.buffer.unwrap()));
        });
        for (token, pin) in left {
            let frame = self.leaving.remove(&token).unwrap();
            let state = self.state(frame);
            drop(pin);
            let due = state.pins(Pin::Read) == 1 && state.has(State::DEAD | State::WAIT);
            self.row("unpin_read", !due);
        }
        for (token, pin) in came {
            self.has_come(token, pin);
        }
        for (token, run) in done {
            self.has_ended(token, run);
        }
    }

    fn has_come(&mut self, token: Token, pin: WritePin) {
        let incoming = self.incoming.remove(&token).unwrap();
        // Now and then it is taken for failed: the page's bytes are not the file's then (R6).
        if incoming.whole && !self.rng.chance(1, 8) {
            let dead = self.state(incoming.frame).has(State::DEAD);
            pin.set_uptodate();
            self.row("set_uptodate", !dead);
        }
        let state = self.state(incoming.frame);
        drop(pin);
        let last = state.pins(Pin::Write) == 1;
        let due = last && (state.has(State::DEAD | State::WAIT) || !state.has(State::UPTODATE));
        self.row("unpin_write", !due);
        if due {
            // R6: dirty without ever having been up to date.
            self.row("release", !state.has(State::DEAD | State::UPTODATE));
        }
    }

    /// A fill or a writeback has ended. Now and then it is taken for failed, as by a checksum.
    fn has_ended(&mut self, token: Token, run: PageRun) {
        let good = !self.rng.chance(1, 8);
        if self.fills.remove(&token).is_some() {
            self.row("end_fill", good);
            run.end(good);
            return;
        }
        let out = self.outgoing.remove(&token).unwrap();
        let dead = self.state(out.frame).has(State::DEAD);
        if good && !dead && out.decision != Decision::CopyKeep {
            // A page that is written well has used its reservation.
            self.index(|index| index.reserved -= 1);
        }
        self.row("end_writeback", good);
        run.end(good);
        self.judge(&out);
    }

    /// The medium has what the page, or its copy, held at the writeback's begin, all of it.
    fn judge(&mut self, out: &Outgoing) {
        let buffer = self.bounces.alloc().expect("the last one is for this");
        let io = self.file.read(Self::lba(out.page), BLOCKS as u64).unwrap();
        let token = self.reader.submit(io, buffer).unwrap();
        let ended = self.reader.wait_for(token);
        ended.result.unwrap();
        let mut bytes = vec![0; FRAME_BYTES];
        ended.buffer.unwrap().copy_to(0, &mut bytes).unwrap();
        self.report.judged += 1;
        let wrong = bytes != out.snapshot;
        self.report.wrong += u64::from(wrong);
        assert!(
            !wrong || self.ignores_pins,
            "page {} is not on the medium as it was when {:?} was decided",
            out.page,
            out.decision
        );
    }

    fn is_idle(&self) -> bool {
        self.incoming.is_empty()
            && self.outgoing.is_empty()
            && self.fills.is_empty()
            && self.leaving.is_empty()
    }

    fn drain(&mut self) {
        let until = Instant::now() + Duration::from_secs(10);
        let drained = rt::wait(Some(until), |_now| {
            self.poll();
            self.is_idle().then_some(())
        });
        assert!(drained.is_ok(), "HANG: a command was not ended");
    }

    /// Everything that is dirty goes out; then nothing is.
    fn sync(&mut self) {
        self.drain();
        while let Some(page) = self.index(|index| index.dirty.first().copied()) {
            self.write_back(page, Intent::Integrity, false);
            self.drain();
        }
    }

    fn end(self) -> Report {
        let Self {
            frames,
            cache,
            referee,
            mut report,
            ignores_pins,
            bounces,
            ..
        } = self;
        drop(frames);
        let index = cache.0.lock();
        assert_eq!(bounces.free_count(), PAGES + 1, "a copy is lost");
        assert_eq!(index.free.len(), FRAMES as usize, "a frame is lost");
        assert!(
            ignores_pins || index.reserved == 0,
            "{} reservations are left",
            index.reserved
        );
        report.trace ^= rt::sim::trace_hash();
        report.fetched = referee.fetched();
        report.frame_checks = referee.frame_checks();
        report.overlaps = referee.overlaps();
        report.violations = referee.violations();
        report
    }
}
