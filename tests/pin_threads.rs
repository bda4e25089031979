//! Pins and writebacks on threads: two threads whose device reads into pages, one that writes them
//! back, truncates, evicts and fills them again, two emulators of their own. The referee looks on.
//!
//! For longer: `UNDERPIN_STORM_S=600 cargo test --release --test pin_threads -- --nocapture`
#![cfg(not(underpin_sim))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "sim_pins/cache.rs"]
mod cache;

use cache::{BLOCKS, Cache, FRAMES, PAGES, is_whole, stamped};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use underpin::dma::frame::{
    Beginning, Decision, FRAME_BYTES, Frames, Intent, Owner, PinError, State,
};
use underpin::dma::pin::{Cover, ReadPin, WritePin};
use underpin::dma::rt::{self, Instant, Rng};
use underpin::dma::{PageRun, SpaceOptions};
use underpin::emulator::{Emulator, EmulatorConfig, NamespaceConfig, Referee, ViolationKind};
use underpin::nvme::transport::Embedded;
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, Payload, Pool, PoolOptions, QueueOptions,
    QueuePair,
};

const SOURCES: u64 = 6;

/// What all threads share.
struct Storm {
    referee: Arc<Referee>,
    space: DmaSpace,
    cache: Arc<Cache>,
    frames: Frames,
    bounces: Pool,
    file: Controller,
    other: Controller,
    /// Direct, CopyClean, CopyKeep, Skip.
    decisions: [AtomicU64; 4],
    came: AtomicU64,
    wrong: AtomicU64,
    judged: AtomicU64,
    over: AtomicBool,
}

fn device(name: &str, space: &DmaSpace, pages: u64, referee: &Arc<Referee>) -> Controller {
    let emulator = Emulator::new(EmulatorConfig {
        name: name.to_owned(),
        namespaces: vec![NamespaceConfig {
            size_bytes: Some(pages * FRAME_BYTES as u64),
            ..NamespaceConfig::default()
        }],
        queues: 4,
        referee: Some(Arc::clone(referee)),
        ..EmulatorConfig::default()
    })
    .unwrap();
    emulator.start_thread().unwrap();
    let transport = Embedded::new(name, emulator);
    Controller::with_transport(transport, space, ControllerOptions::default()).unwrap()
}

fn queue<B: Payload>(controller: &Controller) -> QueuePair<B> {
    let options = QueueOptions {
        depth: 8,
        ..QueueOptions::default()
    };
    controller.queue_pair(options).unwrap()
}

fn lba(page: u64) -> Lba {
    Lba(page * BLOCKS as u64)
}

impl Storm {
    fn new(ignores_pins: bool) -> Arc<Self> {
        let referee = Referee::new();
        let space = DmaSpace::with_options(SpaceOptions {
            watch: Some(referee.clone()),
            ..SpaceOptions::default()
        });
        let file = device("file", &space, PAGES as u64, &referee);
        // The source's blocks, and room to write pages out to.
        let source_pages = PAGES as u64 * (SOURCES + 1);
        let other = device("other", &space, source_pages, &referee);
        let namespace = other.namespace(None).unwrap();
        let mut writer: QueuePair<DmaBuf> = queue(&other);
        for (page, source) in (0..PAGES).flat_map(|page| (0..SOURCES).map(move |s| (page, s))) {
            let mut buffer = space.alloc(FRAME_BYTES, FRAME_BYTES).unwrap();
            buffer.copy_from(0, &stamped(page, source)).unwrap();
            let at = lba(page as u64 * SOURCES + source);
            writer
                .run(namespace.write(at, BLOCKS as u64).unwrap(), buffer)
                .unwrap();
        }
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
        Arc::new(Self {
            referee,
            bounces: space.pool("bounces", bounces).unwrap(),
            space,
            cache,
            frames,
            file,
            other,
            decisions: Default::default(),
            came: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            judged: AtomicU64::new(0),
            over: AtomicBool::new(false),
        })
    }

    fn slot(&self, page: usize) -> Option<(u32, u16)> {
        self.cache.0.lock().slots[page]
    }

    /// A thread whose device reads into pages, and writes them out.
    fn pins(&self, seed: u64) {
        let mut rng = Rng::seeded(seed);
        let namespace = self.other.namespace(None).unwrap();
        let mut into: QueuePair<WritePin> = queue(&self.other);
        let mut out_of: QueuePair<ReadPin> = queue(&self.other);
        let mut whole = BTreeMap::new();
        while !self.over.load(Relaxed) || into.in_flight() + out_of.in_flight() > 0 {
            // Some pages often, some seldom: there must be pages that nobody has pinned.
            let most = 1 + rng.below(PAGES as u64);
            let page = rng.below(most) as usize;
            if let (Some((frame, generation)), false) = (self.slot(page), self.over.load(Relaxed)) {
                let frame = self.frames.frame(frame, generation);
                if rng.chance(1, 8) && out_of.free() > 0 {
                    if let Ok(pin) = frame.pin_read() {
                        let at = lba(PAGES as u64 * SOURCES + page as u64);
                        let io = namespace.write(at, BLOCKS as u64).unwrap();
                        out_of.submit(io, pin).unwrap();
                    }
                } else if into.in_flight() < 3 {
                    let cover = rng
                        .pick(&[Cover::Whole, Cover::Whole, Cover::Part])
                        .copied()
                        .unwrap();
                    match frame.pin_write(cover) {
                        Ok(pin) => {
                            let source = page as u64 * SOURCES + rng.below(SOURCES);
                            let blocks = match cover {
                                Cover::Whole => BLOCKS as u64,
                                Cover::Part => 1 + rng.below(BLOCKS as u64 - 1),
                            };
                            let io = namespace.read(lba(source), blocks).unwrap();
                            let token = into.submit(io, pin).unwrap();
                            whole.insert(token, cover == Cover::Whole);
                        }
                        Err(PinError::Moved | PinError::Blocked(_)) => {}
                        Err(other) => panic!("nothing here can lead to {other:?}"),
                    }
                }
            }
            into.poll(4, |ended| {
                ended.result.unwrap();
                let pin = ended.buffer.unwrap();
                if whole.remove(&ended.token).unwrap() {
                    pin.set_uptodate();
                }
                self.came.fetch_add(1, Relaxed);
            });
            out_of.poll(4, |ended| ended.result.unwrap());
        }
    }

    /// The thread that does all else: of each page at most one command of its own is in flight.
    fn writes_back(&self, seed: u64) {
        let mut rng = Rng::seeded(seed);
        let mut store: QueuePair<PageRun> = queue(&self.file);
        let mut reader: QueuePair<DmaBuf> = queue(&self.file);
        let namespace = self.file.namespace(None).unwrap();
        // Of pages on their way: what went out, or nothing for a fill.
        let mut busy: BTreeMap<_, (usize, Option<Vec<u8>>)> = BTreeMap::new();
        while !self.over.load(Relaxed) || !busy.is_empty() {
            let page = rng.below(PAGES as u64) as usize;
            let is_busy = busy.values().any(|(other, _)| *other == page);
            if !is_busy && !self.over.load(Relaxed) {
                let run = match self.slot(page) {
                    None => self.make(page, &mut rng).map(|run| (run, None)),
                    Some(at) => match rng.below(32) {
                        0 => self.truncate(page, at),
                        1 => self.evict(page, at),
                        _ => self.begin(page, at, &mut rng),
                    },
                };
                if let Some((run, snapshot)) = run {
                    let io = match snapshot {
                        Some(_) => namespace.write(lba(page as u64), BLOCKS as u64),
                        None => namespace.read(lba(page as u64), BLOCKS as u64),
                    };
                    let token = store.submit(io.unwrap(), run).unwrap();
                    store.ring();
                    busy.insert(token, (page, snapshot));
                }
            }
            let mut ended = Vec::new();
            store.poll(2, |completion| {
                completion.result.unwrap();
                completion.buffer.unwrap().end(true);
                ended.push(completion.token);
            });
            for token in ended {
                let (page, snapshot) = busy.remove(&token).unwrap();
                if let Some(snapshot) = snapshot {
                    let buffer = self.space.alloc(FRAME_BYTES, FRAME_BYTES).unwrap();
                    let io = namespace.read(lba(page as u64), BLOCKS as u64).unwrap();
                    let buffer = reader.run(io, buffer).unwrap();
                    let mut bytes = vec![0; FRAME_BYTES];
                    buffer.copy_to(0, &mut bytes).unwrap();
                    self.judged.fetch_add(1, Relaxed);
                    self.wrong.fetch_add((bytes != snapshot).into(), Relaxed);
                }
            }
        }
    }

    fn make(&self, page: usize, rng: &mut Rng) -> Option<PageRun> {
        let frame = {
            let mut index = self.cache.0.lock();
            let frame = index.free.pop()?;
            index.page_of[frame as usize] = page;
            frame
        };
        let beginning = rng
            .pick(&[Beginning::Fill, Beginning::Unknown])
            .copied()
            .unwrap();
        let Ok(generation) = self.frames.alloc(frame, beginning) else {
            // Somebody who looked its last page up is still on the way out.
            self.cache.0.lock().free.insert(0, frame);
            return None;
        };
        let fill = (beginning == Beginning::Fill).then(|| {
            let mut run = PageRun::with_capacity(1);
            run.push_fill(self.frames.frame(frame, generation).begun_fill().unwrap());
            run
        });
        self.cache.0.lock().slots[page] = Some((frame, generation));
        fill
    }

    fn truncate(
        &self,
        page: usize,
        (frame, generation): (u32, u16),
    ) -> Option<(PageRun, Option<Vec<u8>>)> {
        let cut = self.frames.frame(frame, generation).truncate(|| {
            self.cache.0.lock().slots[page] = None;
        });
        cut.unwrap();
        None
    }

    fn evict(
        &self,
        page: usize,
        (frame, generation): (u32, u16),
    ) -> Option<(PageRun, Option<Vec<u8>>)> {
        let _ = self.frames.frame(frame, generation).evict(|| {
            self.cache.0.lock().slots[page] = None;
        });
        None
    }

    fn begin(
        &self,
        page: usize,
        (frame, generation): (u32, u16),
        rng: &mut Rng,
    ) -> Option<(PageRun, Option<Vec<u8>>)> {
        let intent = match rng.chance(1, 2) {
            true => Intent::Background,
            false => Intent::Integrity,
        };
        let frame = self.frames.frame(frame, generation);
        let writeback = match frame.begin_writeback(intent, rng.chance(1, 2)) {
            Ok(Some(writeback)) => writeback,
            Ok(None) => {
                self.decisions[3].fetch_add(1, Relaxed);
                return None;
            }
            Err(_) => return None,
        };
        let decision = writeback.decision();
        let nth = match decision {
            Decision::Direct => 0,
            Decision::CopyClean => 1,
            Decision::CopyKeep | Decision::Skip => 2,
        };
        self.decisions[nth].fetch_add(1, Relaxed);
        let mut run = PageRun::with_capacity(1);
        match decision {
            Decision::Direct => run.push_direct(writeback).unwrap(),
            _ => {
                let copy = self.bounces.alloc().unwrap();
                run.push_copy(&self.frames, writeback, copy, FRAME_BYTES)
                    .unwrap();
            }
        }
        let mut snapshot = vec![0; FRAME_BYTES];
        run.copy_to(0, 0, &mut snapshot).unwrap();
        // A page that devices are writing may be torn in its copy (R22), never when it goes out
        // itself.
        if decision == Decision::Direct {
            let torn = !is_whole(page, SOURCES, &snapshot);
            self.wrong.fetch_add(torn.into(), Relaxed);
        }
        let crc = crc32c::crc32c(&snapshot);
        self.referee.announce(run.span(0).iova, crc);
        Some((run, Some(snapshot)))
    }
}

/// For so long, or until `enough`.
fn storm(ignores_pins: bool, seconds: u64, enough: impl Fn(&Storm) -> bool) -> Arc<Storm> {
    let storm = Storm::new(ignores_pins);
    let mut threads = Vec::new();
    for seed in 0..3 {
        let storm = Arc::clone(&storm);
        let body = move || match seed {
            0 => storm.writes_back(seed),
            _ => storm.pins(seed),
        };
        threads.push(rt::thread::spawn("storm", body).unwrap());
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until && !enough(&storm) {
        rt::thread::sleep(Duration::from_millis(20));
    }
    storm.over.store(true, Relaxed);
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    storm
}

fn seconds(least: u64) -> u64 {
    let told = std::env::var("UNDERPIN_STORM_S").ok();
    told.and_then(|told| told.parse().ok()).unwrap_or(least)
}

/// Nobody breaks a rule, and nobody is blamed who did not: what the referee says does not depend on
/// when it looks at a word. All four decisions were met.
#[test]
fn threads_break_no_rule() {
    let wanted = seconds(0);
    // Without a wish: as long as it takes to have met everything often.
    let often = |storm: &Storm| {
        let met = storm
            .decisions
            .iter()
            .all(|times| times.load(Relaxed) >= 100);
        wanted == 0 && met
    };
    let storm = storm(false, wanted.max(60), often);
    let decisions = storm.decisions.each_ref().map(|times| times.load(Relaxed));
    println!(
        "Direct, CopyClean, CopyKeep, Skip: {decisions:?}; {} commands into pages, {} pages judged on the \
         medium, {} accesses by the referee, {} of shared pages",
        storm.came.load(Relaxed),
        storm.judged.load(Relaxed),
        storm.referee.frame_checks(),
        storm.referee.overlaps()
    );
    assert_eq!(storm.referee.violations(), []);
    assert_eq!(storm.wrong.load(Relaxed), 0, "other bytes, or torn ones");
    assert!(decisions.iter().all(|&times| times >= 100), "too rare");
    for frame in 0..FRAMES {
        let state = storm.frames.state(frame).unwrap();
        assert_eq!(state.broken_invariant(), None, "{state:?}");
        assert!(!state.has(State::FILL | State::WB_DIRECT | State::WB_COPY));
    }
}

/// With the pin check off the referee fires on threads, too.
#[test]
fn without_the_pin_check_the_referee_fires_on_threads() {
    let fired = |storm: &Storm| {
        let violations = storm.referee.violations();
        let during = |kind| kind == ViolationKind::DuringWriteback;
        violations.iter().any(|violation| during(violation.kind))
    };
    let storm = storm(true, 60, fired);
    assert!(
        fired(&storm),
        "a referee that has never fired proves nothing"
    );
}
