//! One world from one seed: a cache of few frames, two files on one device, another device that
//! reads into their pages, the flusher, and in half of the worlds a device that fails for good.
use crate::model::{Block, ZERO, version_of};
use crate::stamps::{BLOCK_BYTES, BLOCKS, stamped};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use underpin::dma::SpaceOptions;
use underpin::dma::frame::FRAME_BYTES;
use underpin::dma::pin::{Cover, ReadPin, WritePin};
use underpin::dma::rt::{self, Instant, Rng};
use underpin::emulator::{Emulator, EmulatorConfig, Media, NamespaceConfig, Referee, Violation};
use underpin::fs::store::{Extent, ExtentQueue};
use underpin::fs::{Cache, CacheOptions, CacheStats, File, FileError, Policy};
use underpin::nvme::transport::Embedded;
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, Namespace, Nsid, QueueOptions, QueuePair,
    Token,
};

const FILES: usize = 2;
/// Of each file.
const PAGES: usize = 5;
/// Fewer than pages, so that some are evicted.
const FRAMES: u32 = 7;
/// Of each page.
const VERSIONS: u64 = 24;
const ACTIONS: u64 = 60;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) trace: u64,
    pub(crate) stats: CacheStats,
    pub(crate) came: u64,
    pub(crate) fsyncs: u64,
    /// Of those, with a device's command under way in the file.
    pub(crate) fsyncs_during: u64,
    /// Errors of calls that the device had for single commands.
    pub(crate) told: u64,
    pub(crate) cut: bool,
    /// Blocks read through the cache, and from the medium at the end.
    pub(crate) read: u64,
    pub(crate) reread: u64,
    pub(crate) wrong: u64,
    pub(crate) frame_checks: u64,
    pub(crate) violations: Vec<Violation>,
}

struct Incoming {
    file: usize,
    page: usize,
    blocks: usize,
    whole: bool,
    /// The page was cut off meanwhile.
    orphan: bool,
}

struct World {
    rng: Rng,
    cache: Cache,
    files: Vec<File>,
    emulator: Emulator,
    queue: Arc<ExtentQueue>,
    source: Namespace,
    scratch: Namespace,
    into: QueuePair<WritePin>,
    out_of: QueuePair<ReadPin>,
    incoming: BTreeMap<Token, Incoming>,
    blocks: Vec<Vec<Vec<Block>>>,
    versions: Vec<Vec<u64>>,
    ignores_pins: bool,
    report: Report,
}

/// The number of a page among those of all files.
const fn number(file: usize, page: usize) -> usize {
    file * PAGES + page
}

/// The source device's blocks: each version of each page.
pub(crate) fn make_source(path: &Path) {
    let pages =
        (0..FILES * PAGES).flat_map(|page| (0..VERSIONS).map(move |version| (page, version)));
    let bytes: Vec<u8> = pages
        .flat_map(|(page, version)| stamped(page, version))
        .collect();
    std::fs::write(path, bytes).unwrap();
}

fn connect(emulator: &Emulator, space: &DmaSpace) -> Controller {
    let transport = Embedded::new(emulator.name(), emulator.clone());
    let options = ControllerOptions {
        command_timeout: Duration::from_millis(500),
        ..ControllerOptions::default()
    };
    Controller::with_transport(transport, space, options).unwrap()
}

fn queue_options() -> QueueOptions {
    QueueOptions {
        depth: 4,
        ..QueueOptions::default()
    }
}

/// One world. With the pin check off nothing is judged but counted.
pub(crate) fn live(seed: u64, source: &Path, ignores_pins: bool) -> Report {
    rt::sim::run(seed, || {
        let mut rng = Rng::seeded(seed ^ 0x0063_6163_6865);
        let referee = Referee::new();
        let space = DmaSpace::with_options(SpaceOptions {
            watch: Some(referee.clone()),
            ..SpaceOptions::default()
        });
        let small = NamespaceConfig {
            size_bytes: Some((FILES * PAGES * FRAME_BYTES) as u64),
            ..NamespaceConfig::default()
        };
        let versions = NamespaceConfig {
            media: Media::File(source.to_owned()),
            read_only: true,
            ..NamespaceConfig::default()
        };
        let config = |name: &str, seed, namespaces| EmulatorConfig {
            name: name.to_owned(),
            namespaces,
            queues: 4,
            seed,
            referee: Some(referee.clone()),
            ..EmulatorConfig::default()
        };
        let path = source.with_file_name("medium");
        let _ = std::fs::remove_file(&path);
        let medium = NamespaceConfig {
            media: Media::File(path),
            ..small.clone()
        };
        let emulator = Emulator::new(config("disk", seed, vec![medium.clone()])).unwrap();
        let other = Emulator::new(config("other", !seed, vec![versions, small])).unwrap();
        emulator.start_thread().unwrap();
        other.start_thread().unwrap();
        let disk = connect(&emulator, &space);
        let device = connect(&other, &space);
        let options = CacheOptions {
            frames: FRAMES,
            bounces: 2,
            writeback_commands: 2,
            writeback_pages: 3,
            age: Duration::from_micros(rng.below(200)),
            expiry: Duration::from_micros(100 + rng.below(400)),
            flusher: rng.chance(3, 4),
            ..CacheOptions::default()
        };
        let cache = Cache::new(&space, options).unwrap();
        cache.ignore_pins(ignores_pins);
        let lanes = 1 + rng.below(2) as usize;
        let queue = Arc::new(ExtentQueue::new(&disk, lanes, queue_options()).unwrap());
        let namespace = disk.namespace(None).unwrap();
        let files = [Policy::Wait, Policy::AlwaysCopy].into_iter().enumerate();
        let files = files.map(|(nth, policy)| {
            let first = Lba((nth * PAGES * BLOCKS) as u64);
            let len_bytes = (PAGES * FRAME_BYTES) as u64;
            let store = match nth {
                0 => Extent::existing(&queue, &namespace, first, len_bytes),
                _ => Extent::blank(&queue, &namespace, first, len_bytes),
            };
            cache.open_with(Arc::new(store.unwrap()), policy).unwrap()
        });
        let mut world = World {
            rng,
            files: files.collect(),
            cache,
            emulator: emulator.clone(),
            queue: Arc::clone(&queue),
            source: device.namespace(Some(Nsid(1))).unwrap(),
            scratch: device.namespace(Some(Nsid(2))).unwrap(),
            into: device.queue_pair(queue_options()).unwrap(),
            out_of: device.queue_pair(queue_options()).unwrap(),
            incoming: BTreeMap::new(),
            blocks: vec![vec![vec![Block::new(); BLOCKS]; PAGES]; FILES],
            versions: vec![vec![0; PAGES]; FILES],
            ignores_pins,
            report: Report::default(),
        };
        world.report.cut = world.rng.chance(1, 2);
        let cut_at = world.rng.below(ACTIONS);
        let fails = world.rng.chance(1, 3);
        if fails {
            for fault in [
                "status:0x280@op=write",
                "status:0x281@op=read",
                "status:0x6@op=flush",
            ] {
                emulator.inject(format!("{fault}+p=1/12").parse().unwrap());
            }
        }
        for action in 0..ACTIONS {
            if world.report.cut && action == cut_at {
                world.fail();
            }
            if let Err(error) = world.act() {
                let lost = world.queue.failure().is_some();
                let told = matches!(error, FileError::Store(_)) && (lost || fails);
                assert!(told, "nothing had failed, and a call says: {error}");
                if lost {
                    break;
                }
                world.report.told += 1;
            }
            let turns = world.rng.below(40);
            world.run_for(turns);
        }
        let (blocks, mut report) = world.end();
        drop((queue, namespace, disk));
        // Nothing that was in flight or in quarantine keeps itself.
        assert_eq!(space.stats().contexts, 1, "the controller was not closed");
        report.stats.frames = 0;
        drop(device);
        assert_eq!(space.stats().heap_used_bytes, 0, "rings are left over");
        emulator.stop().unwrap();
        drop(emulator);
        // What was there before is gone; the file has what is left.
        let emulator = Emulator::new(config("disk again", seed, vec![medium])).unwrap();
        emulator.start_thread().unwrap();
        reread(&emulator, &space, &blocks, ignores_pins, &mut report);
        emulator.stop().unwrap();
        other.stop().unwrap();
        report.trace ^= rt::sim::trace_hash();
        report.frame_checks = referee.frame_checks();
        report.violations = referee.violations();
        report
    })
}

/// What the medium has, by a host that knows nothing of the one before.
fn reread(
    emulator: &Emulator,
    space: &DmaSpace,
    blocks: &[Vec<Vec<Block>>],
    ignores_pins: bool,
    report: &mut Report,
) {
    let controller = connect(emulator, space);
    let namespace = controller.namespace(None).unwrap();
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(queue_options()).unwrap();
    for (file, page) in (0..FILES).flat_map(|file| (0..PAGES).map(move |page| (file, page))) {
        let at = number(file, page);
        let buffer = space.alloc(FRAME_BYTES, FRAME_BYTES).unwrap();
        let io = namespace
            .read(Lba((at * BLOCKS) as u64), BLOCKS as u64)
            .unwrap();
        let buffer = queue.run(io, buffer).unwrap();
        let mut bytes = vec![0; FRAME_BYTES];
        buffer.copy_to(0, &mut bytes).unwrap();
        for (nth, (block, bytes)) in blocks[file][page]
            .iter()
            .zip(bytes.chunks(BLOCK_BYTES))
            .enumerate()
        {
            let version = version_of(at, nth, bytes);
            let good = block.may_be_durable(version);
            report.reread += 1;
            report.wrong += u64::from(!good);
            assert!(
                good || ignores_pins,
                "block {nth} of page {page} of file {file} is {version:?} on the medium, which had {block:?}"
            );
        }
    }
}

impl World {
    fn mark(&mut self, what: u64) {
        let trace = (self.report.trace ^ what).wrapping_mul(0x0100_0000_01b3);
        self.report.trace = trace.rotate_left(23);
    }

    fn is_busy(&self, file: usize, page: usize) -> bool {
        let mut all = self.incoming.values().filter(|incoming| !incoming.orphan);
        all.any(|incoming| (incoming.file, incoming.page) == (file, page))
    }

    /// The last one perhaps in part.
    fn pages(&self, file: usize) -> usize {
        (self.files[file].len_bytes() as usize).div_ceil(FRAME_BYTES)
    }

    /// How many blocks of a page lie within the file.
    fn valid(&self, file: usize, page: usize) -> usize {
        let blocks = self.files[file].len_bytes() as usize / BLOCK_BYTES;
        blocks.saturating_sub(page * BLOCKS).min(BLOCKS)
    }

    /// Something of what a host does; the error of a store that is no more.
    fn act(&mut self) -> Result<(), FileError> {
        let (file, what) = (self.rng.below(FILES as u64) as usize, self.rng.below(32));
        self.mark(what << 8 | file as u64);
        let pages = self.pages(file);
        if pages == 0 {
            return self.resize(file);
        }
        let page = self.rng.below(pages as u64) as usize;
        match what {
            0..=13 => self.read_into(file, page),
            14..=16 => self.write(file, page),
            17..=19 => self.read(file, page),
            20..=25 => self.fsync(file),
            26 => self.cache.sync().map(drop),
            27 => self.write_out(file, page),
            28 => self.punch(file, page),
            29 => self.resize(file),
            _ => {
                let sent = self.cache.write_back();
                self.mark(sent);
                Ok(())
            }
        }
    }

    /// The next version of a page.
    fn version(&mut self, file: usize, page: usize) -> Option<u64> {
        let version = &mut self.versions[file][page];
        (*version + 1 < VERSIONS).then(|| {
            *version += 1;
            *version
        })
    }

    /// The other device reads blocks into the page.
    fn read_into(&mut self, file: usize, page: usize) -> Result<(), FileError> {
        if self.is_busy(file, page) || self.incoming.len() >= 3 || self.into.free() == 0 {
            return Ok(());
        }
        let Some(version) = self.version(file, page) else {
            return Ok(());
        };
        let whole = self.rng.chance(1, 2);
        let cover = if whole { Cover::Whole } else { Cover::Part };
        let pin = self.files[file].pin_write(page as u64, cover)?;
        let blocks = match whole {
            true => BLOCKS,
            false => 1 + self.rng.below(BLOCKS as u64 - 1) as usize,
        };
        let at = (number(file, page) as u64 * VERSIONS + version) * BLOCKS as u64;
        let io = self.source.read(Lba(at), blocks as u64).unwrap();
        // What the device writes past the end of the file is not the file's (R24).
        let blocks = blocks.min(self.valid(file, page));
        for block in &mut self.blocks[file][page][..blocks] {
            block.begin(version);
        }
        let token = self.into.submit(io, pin).unwrap();
        self.into.ring();
        let incoming = Incoming {
            file,
            page,
            blocks,
            whole,
            orphan: false,
        };
        self.incoming.insert(token, incoming);
        Ok(())
    }

    /// The processor writes blocks of the page.
    fn write(&mut self, file: usize, page: usize) -> Result<(), FileError> {
        if self.is_busy(file, page) {
            return Ok(());
        }
        let Some(version) = self.version(file, page) else {
            return Ok(());
        };
        let valid = self.valid(file, page);
        let first = self.rng.below(valid as u64) as usize;
        let end = first + 1 + self.rng.below((valid - first) as u64) as usize;
        let bytes = stamped(number(file, page), version);
        for block in &mut self.blocks[file][page][first..end] {
            block.begin(version);
        }
        let offset = page * FRAME_BYTES + first * BLOCK_BYTES;
        let part = &bytes[first * BLOCK_BYTES..end * BLOCK_BYTES];
        self.files[file].write_at(offset as u64, part)?;
        self.blocks[file][page][first..end]
            .iter_mut()
            .for_each(Block::end);
        Ok(())
    }

    /// A read gives the newest bytes that have come, or those that are coming (R36).
    fn read(&mut self, file: usize, page: usize) -> Result<(), FileError> {
        // One that was not in memory can be read only when the device is done.
        if self
            .incoming
            .values()
            .any(|incoming| incoming.whole && (incoming.file, incoming.page) == (file, page))
        {
            return Ok(());
        }
        let mut bytes = vec![0; FRAME_BYTES];
        let read = self.files[file].read_at((page * FRAME_BYTES) as u64, &mut bytes)?;
        assert_eq!(
            read,
            self.valid(file, page) * BLOCK_BYTES,
            "to the end of the file"
        );
        bytes.truncate(read);
        for (nth, bytes) in bytes.chunks(BLOCK_BYTES).enumerate() {
            let version = version_of(number(file, page), nth, bytes);
            let block = &self.blocks[file][page][nth];
            let good = block.may_be_read(version);
            self.report.read += 1;
            self.report.wrong += u64::from(!good);
            assert!(
                good || self.ignores_pins,
                "block {nth} of page {page} of file {file} reads as {version:?}, and is {block:?}"
            );
        }
        Ok(())
    }

    fn fsync(&mut self, file: usize) -> Result<(), FileError> {
        let promised: Vec<Vec<usize>> = self.blocks[file]
            .iter()
            .map(|page| page.iter().map(Block::promise).collect())
            .collect();
        let during = self.incoming.values().any(|incoming| incoming.file == file);
        self.files[file].fsync()?;
        self.report.fsyncs += 1;
        self.report.fsyncs_during += u64::from(during);
        for (page, promised) in self.blocks[file].iter_mut().zip(promised) {
            page.iter_mut()
                .zip(promised)
                .for_each(|(block, promised)| block.keep(promised));
        }
        Ok(())
    }

    /// The other device writes the page's blocks somewhere.
    fn write_out(&mut self, file: usize, page: usize) -> Result<(), FileError> {
        // Fewer pins than frames: a call that waits for one does not poll these queues.
        if self.is_busy(file, page) || self.out_of.in_flight() >= 2 {
            return Ok(());
        }
        let pin = self.files[file].pin_read(page as u64)?;
        let io = self
            .scratch
            .write(Lba((number(file, page) * BLOCKS) as u64), BLOCKS as u64)
            .unwrap();
        self.out_of.submit(io, pin).unwrap();
        self.out_of.ring();
        Ok(())
    }

    /// Blocks are no more the file's, or zero.
    fn cut(&mut self, file: usize, blocks: std::ops::Range<usize>) {
        for block in blocks.clone() {
            self.blocks[file][block / BLOCKS][block % BLOCKS].cut();
        }
        let pages = blocks.start.div_ceil(BLOCKS)..blocks.end.div_ceil(BLOCKS);
        for incoming in self.incoming.values_mut() {
            incoming.orphan |= incoming.file == file && pages.contains(&incoming.page);
        }
    }

    fn punch(&mut self, file: usize, page: usize) -> Result<(), FileError> {
        self.files[file].punch((page * FRAME_BYTES) as u64, FRAME_BYTES as u64)?;
        self.cut(file, page * BLOCKS..(page + 1) * BLOCKS);
        Ok(())
    }

    /// Shorter, to the block, or longer: what is new is zero.
    fn resize(&mut self, file: usize) -> Result<(), FileError> {
        let blocks = match self.rng.chance(2, 3) {
            true => PAGES * BLOCKS,
            false => self.rng.below((PAGES * BLOCKS) as u64) as usize,
        };
        let old = self.files[file].len_bytes() as usize / BLOCK_BYTES;
        let end = blocks.min(old);
        if end % BLOCKS != 0 && self.is_busy(file, end / BLOCKS) {
            // It would be waited for, and nobody polls its queue meanwhile.
            return Ok(());
        }
        // Where the device fails half way, zeroes may have gone out already.
        for block in end..end.next_multiple_of(BLOCKS) {
            self.blocks[file][block / BLOCKS][block % BLOCKS].begin(ZERO);
        }
        self.files[file].truncate((blocks * BLOCK_BYTES) as u64)?;
        self.cut(file, end..PAGES * BLOCKS);
        Ok(())
    }

    /// From one of the next commands on the device is of no use: its power fails, it is removed,
    /// says that it has failed, or forgets to tell of an end.
    fn fail(&mut self) {
        let faults = [
            "power-cut:lost",
            "power-cut:torn",
            "power-cut:reordered",
            "removed",
            "cfs",
            "drop",
        ];
        let ops = ["write", "flush", "read"];
        let fault = self.rng.pick(&faults).unwrap();
        let op = self.rng.pick(&ops).unwrap();
        self.emulator
            .inject(format!("{fault}@op={op}").parse().unwrap());
    }

    fn run_for(&mut self, turns: u64) {
        let mut turn = 0;
        let _ = rt::wait(None, |_now| {
            turn += 1;
            self.poll();
            (turn >= turns).then_some(())
        });
    }

    fn poll(&mut self) {
        if self.rng.chance(1, 4) {
            self.cache.poll();
        }
        let mut came: Vec<(Token, WritePin)> = Vec::new();
        self.into.poll(1, |ended| {
            ended.result.unwrap();
            came.push((ended.token, ended.buffer.unwrap()));
        });
        self.out_of.poll(1, |ended| ended.result.unwrap());
        for (token, pin) in came {
            let incoming = self.incoming.remove(&token).unwrap();
            if incoming.whole {
                pin.set_uptodate();
            }
            drop(pin);
            self.report.came += 1;
            if !incoming.orphan {
                let blocks = &mut self.blocks[incoming.file][incoming.page];
                blocks[..incoming.blocks].iter_mut().for_each(Block::end);
            }
        }
    }

    /// The devices end what they have; if none has failed everything is made durable.
    fn end(mut self) -> (Vec<Vec<Vec<Block>>>, Report) {
        let until = Instant::now() + Duration::from_secs(10);
        let drained = rt::wait(Some(until), |_now| {
            self.poll();
            (self.incoming.is_empty() && self.out_of.in_flight() == 0).then_some(())
        });
        assert!(drained.is_ok(), "HANG: a command was not ended");
        if self.report.cut {
            // If it has not happened yet, it does now.
            self.emulator
                .inject("power-cut:lost@op=flush".parse().unwrap());
            let mut tries = 0;
            while self.queue.failure().is_none() {
                assert!(tries < 100, "the power did not fail");
                let file = tries % FILES;
                let written = match self.pages(file) {
                    0 => Ok(()),
                    _ => self.write(file, 0),
                };
                if let Err(error) = written.and_then(|()| self.fsync(file)) {
                    let lost = matches!(error, FileError::Store(_));
                    assert!(lost, "nothing had failed, and a call says: {error}");
                }
                tries += 1;
            }
        } else if self.rng.chance(3, 4) {
            for file in 0..FILES {
                // An error is told once, and the page stays dirty (R26): some time it is out.
                let mut tries = 0;
                while let Err(error) = self.fsync(file) {
                    assert!(matches!(error, FileError::Store(_)), "{error}");
                    tries += 1;
                    assert!(tries < 100, "fsync fails for ever: {error}");
                }
            }
            assert_eq!(self.cache.stats().dirty_pages, 0);
        } else {
            // Or it is just dropped, with commands in flight.
            self.cache.write_back();
        }
        let Self {
            cache,
            files,
            blocks,
            mut report,
            ..
        } = self;
        report.stats = cache.stats();
        drop(files);
        drop(cache);
        (blocks, report)
    }
}
