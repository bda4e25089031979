//! A device reads into pinned pages of a file, without an end, while the file is written back; and
//! says of images of the file that others take what is wrong with them. `tests/freeze/run` drives it.
//!
//! It is told what to do line by line: `mark` before an image is taken; `judge PATH` of the file in
//! the image, or `judge` of the blocks themselves; `end`.

mod announced;

use announced::{Announced, Announcements};
use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use crossbeam::channel::{Receiver, TryRecvError, unbounded};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use underpin::dma::pin::{Cover, WritePin};
use underpin::dma::rt::sync::Arc;
use underpin::dma::rt::{Instant, Rng, thread};
use underpin::fs::store::{Extent, ExtentQueue, HostFile, HostFileOptions, Store};
use underpin::fs::{Cache, CacheOptions, File};
use underpin::{Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, QueueOptions, QueuePair};

const PAGE: u64 = 4096;
/// Commands in flight.
const DEPTH: usize = 32;
/// A pin, and the page of the file that it is: the frame's number is another.
type Read = (WritePin, u64);

/// What each page may come to hold: so many pages of the device for each of the file's.
const VERSIONS: u64 = 16;

#[derive(Debug, Parser)]
#[command(about = "Reads a device into pinned pages of a file while images of it are taken")]
struct Args {
    /// The file, on the file system of which images are taken; without, blocks of a device
    #[arg(long)]
    target: Option<PathBuf>,
    /// Pages of the file
    #[arg(long, default_value_t = 1024)]
    pages: u64,
    /// Writes back without a look at pins, as a kernel does: damages the file
    #[arg(long)]
    ignore_pins: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (lines, told) = unbounded();
    thread::spawn("lines", move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    })?;
    let space = DmaSpace::new();
    let (source, mut queue) = source(&space, args.pages)?;
    let options = CacheOptions {
        frames: 2 * args.pages as u32,
        age: Duration::from_millis(20),
        expiry: Duration::from_millis(200),
        ..CacheOptions::default()
    };
    let cache = Cache::new(&space, options)?;
    cache.ignore_pins(args.ignore_pins);
    let log = Announcements::default();
    let len_bytes = args.pages * PAGE;
    let mut blocks = None;
    let store: Arc<dyn Store> = match &args.target {
        Some(path) => {
            let options = HostFileOptions {
                create: true,
                len_bytes: Some(len_bytes),
                ..HostFileOptions::default()
            };
            let store = HostFile::open(path, &options)?;
            Arc::new(Announced {
                store,
                log: log.clone(),
            })
        }
        None => {
            let device = Controller::open("emu:size=64m", &space, ControllerOptions::default())?;
            let namespace = device.namespace(None)?;
            let shared = Arc::new(ExtentQueue::new(&device, 1, QueueOptions::default())?);
            let store = Extent::existing(&shared, &namespace, Lba(0), len_bytes)?;
            let plain: QueuePair<DmaBuf> = device.queue_pair(QueueOptions::default())?;
            blocks = Some((plain, namespace, space.alloc(PAGE as usize, PAGE as usize)?));
            Arc::new(Announced {
                store,
                log: log.clone(),
            })
        }
    };
    let file = Arc::new(cache.open(store)?);
    let over = Arc::new(AtomicBool::new(false));
    let syncer = syncer(&file, &over)?;

    let began = Instant::now();
    let mut load = Load::new(args.pages);
    let mut judged = (0_u64, 0_u64);
    loop {
        match said(&told, &mut load, &file, &source, &mut queue)? {
            Said::Mark => {
                log.mark();
                // As many as there may be, at the moment that somebody else takes an image.
                load.fill(&file, &source, &mut queue)?;
                queue.ring();
                let stats = cache.stats();
                println!(
                    "marked in_flight={} direct={} copies={}",
                    queue.in_flight(),
                    stats.direct,
                    stats.copies_kept + stats.copies_clean
                );
            }
            Said::Judge(path) => {
                let bad = match (&path, &mut blocks) {
                    (Some(path), _) => judge_file(path, args.pages, &log)?,
                    (None, Some((plain, namespace, buffer))) => {
                        let mut bad = 0;
                        for page in 0..args.pages {
                            let io = namespace.read(Lba(page * 8), 8)?;
                            let owned = std::mem::replace(buffer, space.alloc(4096, 4096)?);
                            *buffer = plain.run(io, owned)?;
                            let mut bytes = [0; PAGE as usize];
                            buffer.copy_to(0, &mut bytes)?;
                            bad += u64::from(!log.is_known(page, &bytes));
                        }
                        bad
                    }
                    (None, None) => bail!("an image of which file?"),
                };
                log.unmark();
                judged = (judged.0 + 1, judged.1 + u64::from(bad > 0));
                println!("judged bad_pages={bad}");
            }
            Said::End => break,
        }
    }
    let seconds = Instant::now().since(began).as_secs_f64();
    load.drain(&mut queue)?;
    over.store(true, Ordering::Relaxed);
    let fsyncs = syncer.join().ok().context("the syncer panicked")??;
    let stats = cache.stats();
    println!(
        "ended images={} bad={} mb_per_s={:.1} direct={} copies={} skips={} fsyncs={fsyncs}",
        judged.0,
        judged.1,
        load.reads as f64 * PAGE as f64 / 1e6 / seconds,
        stats.direct,
        stats.copies_kept + stats.copies_clean,
        stats.skips,
    );
    Ok(())
}

/// A device whose blocks are stamped: for each page of the file, versions of it, of which each
/// 512 bytes say which.
fn source(space: &DmaSpace, pages: u64) -> Result<(Source, QueuePair<Read>)> {
    let size = pages * VERSIONS * PAGE;
    let url = format!("emu:size={size}");
    let device = Controller::open(&url, space, ControllerOptions::default())?;
    let namespace = device.namespace(None)?;
    let mut plain: QueuePair<DmaBuf> = device.queue_pair(QueueOptions::default())?;
    let mut buffer = space.alloc(PAGE as usize, PAGE as usize)?;
    for at in 0..pages * VERSIONS {
        for sector in 0..8_usize {
            buffer.fill_part(sector * 512, at)?;
        }
        buffer = plain.run(namespace.write(Lba(at * 8), 8)?, buffer)?;
    }
    let queue = device.queue_pair(QueueOptions::default())?;
    Ok((Source { namespace, pages }, queue))
}

trait Stamp {
    fn fill_part(&mut self, offset: usize, stamp: u64) -> Result<()>;
}

impl Stamp for DmaBuf {
    fn fill_part(&mut self, offset: usize, stamp: u64) -> Result<()> {
        let stamp = (stamp + 1).to_le_bytes();
        let sector: Vec<u8> = stamp.iter().copied().cycle().take(512).collect();
        Ok(self.copy_from(offset, &sector)?)
    }
}

struct Source {
    namespace: underpin::Namespace,
    pages: u64,
}

enum Said {
    Mark,
    Judge(Option<PathBuf>),
    End,
}

/// Reads on until there is something to do.
fn said(
    told: &Receiver<String>,
    load: &mut Load,
    file: &File,
    source: &Source,
    queue: &mut QueuePair<Read>,
) -> Result<Said> {
    loop {
        load.step(file, source, queue)?;
        let line = match told.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Empty) => continue,
            // Nobody is left who could say it.
            Err(TryRecvError::Disconnected) => return Ok(Said::End),
        };
        return Ok(match line.split_once(' ') {
            Some(("judge", path)) => Said::Judge(Some(path.into())),
            None if line == "judge" => Said::Judge(None),
            None if line == "mark" => Said::Mark,
            None if line == "end" => Said::End,
            _ => bail!("{line:?} is none of mark, judge, end"),
        });
    }
}

/// What is in flight: each page once at most.
struct Load {
    busy: Vec<bool>,
    rng: Rng,
    reads: u64,
    failed: Option<underpin::CommandError>,
}

impl Load {
    fn new(pages: u64) -> Self {
        Self {
            busy: vec![false; pages as usize],
            rng: Rng::seeded(1),
            reads: 0,
            failed: None,
        }
    }

    fn step(&mut self, file: &File, source: &Source, queue: &mut QueuePair<Read>) -> Result<()> {
        self.fill(file, source, queue)?;
        self.reap(queue)
    }

    fn fill(&mut self, file: &File, source: &Source, queue: &mut QueuePair<Read>) -> Result<()> {
        while queue.in_flight() < DEPTH {
            let page = self.rng.below(source.pages);
            let Some(busy) = self.busy.get_mut(page as usize).filter(|busy| !**busy) else {
                continue;
            };
            *busy = true;
            let version = self.rng.below(VERSIONS);
            let pin = file.pin_write(page, Cover::Part)?;
            let lba = Lba((version * source.pages + page) * 8);
            queue.submit(source.namespace.read(lba, 8)?, (pin, page))?;
        }
        Ok(())
    }

    fn reap(&mut self, queue: &mut QueuePair<Read>) -> Result<()> {
        let Self {
            busy,
            reads,
            failed,
            ..
        } = self;
        queue.poll(DEPTH, |completion| {
            *failed = completion.result.err().or(failed.take());
            if let Some((pin, page)) = completion.buffer {
                drop(pin);
                *reads += 1;
                if let Some(busy) = busy.get_mut(page as usize) {
                    *busy = false;
                }
            }
        });
        match self.failed.take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    fn drain(&mut self, queue: &mut QueuePair<Read>) -> Result<()> {
        while queue.in_flight() > 0 {
            queue.wait(None);
            self.reap(queue)?;
        }
        Ok(())
    }
}

type Syncer = thread::JoinHandle<Result<u64>>;

/// Wants it durable, ten times a second.
fn syncer(file: &Arc<File>, over: &Arc<AtomicBool>) -> Result<Syncer> {
    let (file, over) = (Arc::clone(file), Arc::clone(over));
    let body = move || {
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            file.fsync()?;
            count += 1;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(count)
    };
    Ok(thread::spawn("syncer", body)?)
}

/// How many pages of the file in an image are not what the store was given.
fn judge_file(path: &PathBuf, pages: u64, log: &Announcements) -> Result<u64> {
    let image =
        std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    ensure!(
        image.len() as u64 == pages * PAGE,
        "{} has {} bytes",
        path.display(),
        image.len()
    );
    let found = image.chunks_exact(PAGE as usize).zip(0..);
    Ok(found
        .filter(|(bytes, page)| !log.is_known(*page, bytes))
        .count() as u64)
}
