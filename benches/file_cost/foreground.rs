//! What whoever reads a file waits while the same device takes what the cache writes back: reads of
//! pages that are not there, with nothing to write back and with as much as goes.
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use underpin::dma::pin::Cover;
use underpin::dma::rt::{Instant, Rng, thread};
use underpin::fs::store::{Extent, ExtentQueue};
use underpin::fs::{Cache, CacheOptions, File};
use underpin::{Controller, ControllerOptions, DmaSpace, Lba, QueueOptions};

const DEVICE: &str = "emu:latency=20us,bw=2g,media=null,lba=4096,size=4g,mdts=8,awun=255";
/// Of the file that is read: many times what the cache holds.
const READ_BYTES: u64 = 2 << 30;
/// Of the file that is written back.
const DIRTY_PAGES: u64 = 1 << 13;

/// What reads took, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Two files of one cache on one device.
pub(crate) struct Foreground {
    cache: Cache,
    read: File,
    dirty: File,
    _controller: Controller,
}

impl Foreground {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let space = DmaSpace::new();
        let controller = Controller::open(DEVICE, &space, ControllerOptions::default())?;
        let namespace = controller.namespace(None)?;
        let queue = Arc::new(ExtentQueue::new(&controller, 1, QueueOptions::default())?);
        let options = CacheOptions {
            frames: 2 * DIRTY_PAGES as u32,
            flusher: false,
            throttle_percent: 100,
            ..CacheOptions::default()
        };
        let cache = Cache::new(&space, options)?;
        let open = |first: u64, len_bytes| -> Result<File, Box<dyn Error>> {
            let extent = Extent::existing(&queue, &namespace, Lba(first), len_bytes)?;
            Ok(cache.open(Arc::new(extent))?)
        };
        Ok(Self {
            read: open(0, READ_BYTES)?,
            dirty: open(READ_BYTES / 4096, DIRTY_PAGES * 4096)?,
            cache,
            _controller: controller,
        })
    }

    /// So many reads; `flusher`: while another thread dirties pages and writes them back all the time.
    /// With them how many MB it wrote back in a second.
    pub(crate) fn reads(
        &self,
        count: usize,
        flusher: bool,
        seed: u64,
    ) -> Result<(Waits, f64), Box<dyn Error>> {
        let stop = Arc::new(AtomicBool::new(!flusher));
        let (stopped, dirty) = (Arc::clone(&stop), self.dirty.reopen());
        let writer = thread::spawn("flusher", move || -> Result<u64, String> {
            let mut pages = 0;
            while !stopped.load(Ordering::Relaxed) {
                for page in 0..DIRTY_PAGES {
                    let pin = dirty.pin_write(page, Cover::Whole);
                    pin.map_err(|why| why.to_string())?.set_uptodate();
                }
                dirty.fsync().map_err(|why| why.to_string())?;
                pages += DIRTY_PAGES;
            }
            Ok(pages)
        })?;
        let mut rng = Rng::seeded(seed);
        let mut bytes = [0; 4096];
        let mut waits = Vec::with_capacity(count);
        let start = Instant::now();
        let mut failed = None;
        for _ in 0..count {
            let at = rng.below(READ_BYTES / 4096) * 4096;
            let began = Instant::now();
            if let Err(why) = self.read.read_at(at, &mut bytes) {
                failed = Some(why);
                break;
            }
            waits.push(Instant::now().since(began).as_nanos() as f64 / 1e3);
        }
        stop.store(true, Ordering::Relaxed);
        let pages = writer.join().map_err(|_| "the flusher panicked")??;
        if let Some(why) = failed {
            return Err(why.into());
        }
        let seconds = Instant::now().since(start).as_secs_f64();
        waits.sort_by(f64::total_cmp);
        let at = |part: f64| waits[(part * (waits.len() - 1) as f64) as usize];
        let waits = Waits {
            p50_us: at(0.5),
            p99_us: at(0.99),
        };
        Ok((waits, pages as f64 * 4096.0 / 1e6 / seconds))
    }

    /// Copies and direct pages so far.
    pub(crate) fn stats(&self) -> underpin::fs::CacheStats {
        self.cache.stats()
    }
}
