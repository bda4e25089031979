//! A file's page pinned by its number, and commands of a device on pinned pages beside the same on
//! plain buffers.
use crate::inline::InlineDevice;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use underpin::dma::frame::{Beginning, Frames, Owner, PageKey, ReserveError};
use underpin::dma::pin::{Cover, WritePin};
use underpin::dma::rt::Instant;
use underpin::fs::store::Memory;
use underpin::fs::{Cache, CacheOptions, File};
use underpin::nvme::transport::Embedded;
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, Namespace, PoolOptions, QueueOptions,
    QueuePair,
};

type Measured = Result<f64, Box<dyn Error>>;

/// Pages that stay in the first cache with their words.
const PAGES: u64 = 1 << 10;
const TURNS: usize = 1 << 9;
const DEPTH: usize = 32;
const BATCHES: usize = 1 << 11;
/// Commands that callgrind counts.
pub(crate) const COUNTED: usize = 1 << 13;

fn ns_each(began: Instant, count: usize) -> f64 {
    Instant::now().since(began).as_secs_f64() * 1e9 / count as f64
}

/// A file whose pages are all dirty, so that pins are granted at once.
fn dirty_file(space: &DmaSpace) -> Result<(Cache, File), Box<dyn Error>> {
    let options = CacheOptions {
        frames: 2 * PAGES as u32,
        flusher: false,
        throttle_percent: 100,
        ..CacheOptions::default()
    };
    let cache = Cache::new(space, options)?;
    let file = cache.open(Arc::new(Memory::new(PAGES * 4096)))?;
    for page in 0..PAGES {
        file.write_at(page * 4096, &[1])?;
    }
    Ok((cache, file))
}

/// One pin after the other.
pub(crate) struct Lookup {
    file: File,
    _cache: Cache,
    bare: Vec<AtomicU64>,
}

impl Lookup {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let (cache, file) = dirty_file(&DmaSpace::new())?;
        Ok(Self {
            file,
            _cache: cache,
            bare: (0..PAGES).map(|_| AtomicU64::new(1 << 36)).collect(),
        })
    }

    pub(crate) fn ours(&self) -> Measured {
        let began = Instant::now();
        for _ in 0..TURNS {
            for page in 0..PAGES {
                let pin = self.file.pin_write(page, Cover::Part)?;
                black_box(pin.iova());
            }
        }
        Ok(ns_each(began, TURNS * PAGES as usize))
    }

    pub(crate) fn bare(&self) -> Measured {
        let began = Instant::now();
        for _ in 0..TURNS {
            for word in &self.bare {
                black_box(word.fetch_add(1, Ordering::Acquire));
                black_box(word.fetch_sub(1, Ordering::Release));
            }
        }
        Ok(ns_each(began, TURNS * PAGES as usize))
    }
}

/// Frames that nobody has an index of.
struct Nobodys;

impl Owner for Nobodys {
    fn page(&self, frame: u32) -> PageKey {
        PageKey(frame.into())
    }
    fn still_holds(&self, _frame: u32, _generation: u16) -> bool {
        true
    }
    fn reserve(&self, _page: PageKey) -> Result<(), ReserveError> {
        Ok(())
    }
    fn give_back(&self, _page: PageKey) {}
    fn enter_dirty(&self, _frame: u32, _page: PageKey) {}
    fn freed(&self, _frame: u32) {}
}

/// Reads of an inline device that moves no data, into pinned pages and into buffers.
pub(crate) struct Commands {
    frames: Frames,
    generation: u16,
    pins: QueuePair<WritePin>,
    buffers: QueuePair<DmaBuf>,
    free: Vec<DmaBuf>,
    namespace: Namespace,
    _controller: Controller,
    device: InlineDevice,
    next: u64,
}

impl Commands {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let space = DmaSpace::new();
        let device = InlineDevice::new()?;
        let transport = Embedded::new("inline", device.emulator.clone());
        let options = ControllerOptions::default();
        let controller = Controller::with_transport(transport, &space, options)?;
        let one = PoolOptions {
            buf_bytes: PAGES as usize * 4096,
            count: 1,
        };
        let memory = space.pool("pages", one)?.alloc()?;
        let frames = Frames::new(memory, Arc::new(Nobodys))?;
        let mut generation = 0;
        for frame in 0..PAGES as u32 {
            // All are new, so all have the same.
            generation = frames
                .alloc(frame, Beginning::Uptodate)
                .map_err(|why| format!("{why:?}"))?;
            drop(frames.frame(frame, generation).pin_write(Cover::Part)?);
        }
        let pool = PoolOptions {
            buf_bytes: 4096,
            count: PAGES as usize,
        };
        let pool = space.pool("reads", pool)?;
        let free = (0..PAGES).map(|_| pool.alloc()).collect::<Result<_, _>>()?;
        let depth = QueueOptions {
            depth: DEPTH as u16,
            ..QueueOptions::default()
        };
        Ok(Self {
            frames,
            generation,
            pins: controller.queue_pair(depth)?,
            buffers: controller.queue_pair(depth)?,
            free,
            namespace: controller.namespace(None)?,
            _controller: controller,
            device,
            next: 0,
        })
    }

    /// Each page is pinned, and unpinned as its command ends.
    pub(crate) fn pinned(&mut self) -> Measured {
        let began = Instant::now();
        self.run_pinned(BATCHES)?;
        Ok(ns_each(began, BATCHES * DEPTH))
    }

    /// Buffers from a list of as many.
    pub(crate) fn plain(&mut self) -> Measured {
        let began = Instant::now();
        self.run_plain(BATCHES)?;
        Ok(ns_each(began, BATCHES * DEPTH))
    }

    /// What callgrind counts, between entry and return: [`COUNTED`] commands of one kind. Both hold
    /// the device's own steps, which are the same.
    #[inline(never)]
    pub(crate) fn marked_pinned(&mut self) -> Result<(), Box<dyn Error>> {
        self.run_pinned(COUNTED / DEPTH)
    }

    #[inline(never)]
    pub(crate) fn marked_plain(&mut self) -> Result<(), Box<dyn Error>> {
        self.run_plain(COUNTED / DEPTH)
    }

    #[inline(always)]
    fn run_pinned(&mut self, batches: usize) -> Result<(), Box<dyn Error>> {
        let mut core = self.device.core();
        for _ in 0..batches {
            for _ in 0..DEPTH {
                self.next = (self.next + 1) % PAGES;
                let frame = self.frames.frame(self.next as u32, self.generation);
                let pin = frame.pin_write(Cover::Part)?;
                self.pins
                    .submit(self.namespace.read(Lba(self.next), 1)?, pin)?;
            }
            self.pins.ring();
            let mut done = 0;
            while done < DEPTH {
                core.run_batch();
                done += self.pins.poll(DEPTH, |completion| drop(completion.buffer));
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn run_plain(&mut self, batches: usize) -> Result<(), Box<dyn Error>> {
        let mut core = self.device.core();
        let free = &mut self.free;
        for _ in 0..batches {
            for _ in 0..DEPTH {
                self.next = (self.next + 1) % PAGES;
                let Some(buffer) = free.pop() else { break };
                self.buffers
                    .submit(self.namespace.read(Lba(self.next), 1)?, buffer)?;
            }
            self.buffers.ring();
            let mut done = 0;
            while done < DEPTH {
                core.run_batch();
                done += self
                    .buffers
                    .poll(DEPTH, |completion| free.extend(completion.buffer));
            }
        }
        Ok(())
    }
}
