//! A file's dirty pages on their way to a device, beside the best stream of writes that the driver
//! alone can give it. The device takes 20 us a command and 2 GiB a second.
use crate::cpu;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use underpin::dma::pin::Cover;
use underpin::dma::rt::Instant;
use underpin::fs::store::{Extent, ExtentQueue};
use underpin::fs::{Cache, CacheOptions, File, Policy};
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, Namespace, PoolOptions, QueueOptions,
};

const DEVICE: &str = "emu:latency=20us,bw=2g,media=null,lba=4096,size=1g,mdts=8,awun=255";
/// Of one measurement.
const STREAM_BYTES: u64 = 64 << 20;
const PAGES: u64 = STREAM_BYTES / 4096;

/// How fast a stream was, and what it took of the host's processors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    pub(crate) mb_per_s: f64,
    /// For each page of 4 KiB.
    pub(crate) cpu_ns: f64,
}

type Measured = Result<Stream, Box<dyn Error>>;

/// Length of a command, and how many are in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    len_bytes: u64,
    depth: usize,
}

/// A device, a file on it in each way, and buffers.
pub(crate) struct Streams {
    direct: File,
    copy: File,
    _caches: [Cache; 2],
    controller: Controller,
    namespace: Namespace,
    space: DmaSpace,
}

/// From its making on.
struct Watched {
    began: Instant,
    cpu_ns: u64,
}

impl Watched {
    fn begin() -> Self {
        Self {
            cpu_ns: cpu::host_ns(),
            began: Instant::now(),
        }
    }

    fn end(self) -> Stream {
        let passed = Instant::now().since(self.began);
        let cpu_ns = cpu::host_ns().saturating_sub(self.cpu_ns);
        Stream {
            mb_per_s: STREAM_BYTES as f64 / 1e6 / passed.as_secs_f64(),
            cpu_ns: cpu_ns as f64 / PAGES as f64,
        }
    }
}

/// What the copy of a page takes that no cache holds: of as many bytes as a stream has.
pub(crate) fn copy_ns() -> f64 {
    let len = STREAM_BYTES as usize;
    let (from, mut to) = (vec![1_u8; len], vec![2_u8; len]);
    let began = Instant::now();
    for (to, from) in to.chunks_exact_mut(4096).zip(from.chunks_exact(4096)) {
        to.copy_from_slice(black_box(from));
        black_box(&to);
    }
    Instant::now().since(began).as_nanos() as f64 / PAGES as f64
}

impl Streams {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let space = DmaSpace::new();
        let controller = Controller::open(DEVICE, &space, ControllerOptions::default())?;
        let namespace = controller.namespace(None)?;
        let queue = Arc::new(ExtentQueue::new(&controller, 1, QueueOptions::default())?);
        let options = CacheOptions {
            frames: PAGES as u32,
            flusher: false,
            throttle_percent: 100,
            ..CacheOptions::default()
        };
        let open = |first: u64, policy| -> Result<(Cache, File), Box<dyn Error>> {
            let cache = Cache::new(&space, options)?;
            let extent = Extent::existing(&queue, &namespace, Lba(first), STREAM_BYTES)?;
            let file = cache.open_with(Arc::new(extent), policy)?;
            Ok((cache, file))
        };
        let (first, direct) = open(0, Policy::Wait)?;
        let (second, copy) = open(PAGES, Policy::AlwaysCopy)?;
        Ok(Self {
            direct,
            copy,
            _caches: [first, second],
            controller,
            namespace,
            space,
        })
    }

    /// All pages dirty by a pin, then made durable; only the latter is measured.
    pub(crate) fn writeback(&self, copy: bool) -> Measured {
        let file = if copy { &self.copy } else { &self.direct };
        for page in 0..PAGES {
            let pin = file.pin_write(page, Cover::Whole)?;
            pin.set_uptodate();
        }
        let watched = Watched::begin();
        file.fsync()?;
        Ok(watched.end())
    }

    /// The fastest of the shapes that are usual.
    pub(crate) fn best_raw(&self, rounds: usize) -> Result<Shape, Box<dyn Error>> {
        let mut best: Option<(f64, Shape)> = None;
        for len_bytes in [128 << 10, 1 << 20] {
            for depth in [8, 32] {
                let shape = Shape { len_bytes, depth };
                let mut speeds = Vec::new();
                for _ in 0..rounds {
                    speeds.push(self.raw(shape)?.mb_per_s);
                }
                speeds.sort_by(f64::total_cmp);
                let speed = speeds[speeds.len() / 2];
                println!(
                    "the driver alone, {} KiB at QD {depth}: {speed:.0} MB/s",
                    len_bytes >> 10
                );
                if best.is_none_or(|(fastest, _)| speed > fastest) {
                    best = Some((speed, shape));
                }
            }
        }
        best.map(|(_, shape)| shape)
            .ok_or_else(|| "nothing was measured".into())
    }

    /// So many bytes in writes of one length, and a flush.
    pub(crate) fn raw(&self, shape: Shape) -> Measured {
        let Shape { len_bytes, depth } = shape;
        let mut queue = self
            .controller
            .queue_pair::<DmaBuf>(QueueOptions::default())?;
        let pool = PoolOptions {
            buf_bytes: len_bytes as usize,
            count: depth,
        };
        let pool = self.space.pool("stream", pool)?;
        let mut free: Vec<DmaBuf> = (0..depth).map(|_| pool.alloc()).collect::<Result<_, _>>()?;
        let blocks = len_bytes / 4096;
        let (mut lba, mut done, mut failed) = (0, 0, None);
        let watched = Watched::begin();
        while done < STREAM_BYTES {
            while lba * 4096 < STREAM_BYTES
                && let Some(buffer) = free.pop()
            {
                queue.submit(self.namespace.write(Lba(lba), blocks)?, buffer)?;
                lba += blocks;
            }
            queue.wait(None);
            queue.poll(depth, |completion| {
                done += len_bytes;
                failed = completion.result.err().or(failed.take());
                free.extend(completion.buffer);
            });
        }
        queue.flush(&self.namespace)?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(watched.end()),
        }
    }
}
