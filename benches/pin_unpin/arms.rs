//! What is measured, each in nanoseconds for one pin and unpin, ours and bare: the bare one is two
//! locked adds on an array of the same shape.
#![allow(unsafe_code)]
use super::cache;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use underpin::dma::frame::{Frames, Intent};
use underpin::dma::pin::{Cover, WritePins};
use underpin::dma::rt::{Instant, thread};

type Measured = Result<f64, Box<dyn Error>>;

fn ns_each(began: Instant, count: usize) -> f64 {
    Instant::now().since(began).as_secs_f64() * 1e9 / count as f64
}

fn words(count: usize) -> Vec<AtomicU64> {
    std::iter::repeat_with(|| AtomicU64::new(1 << 36))
        .take(count)
        .collect()
}

/// One after the other, all in the first cache.
pub(crate) struct Hot {
    frames: Frames,
    generation: u16,
    bare: Vec<AtomicU64>,
}

const HOT: usize = 1 << 10;
const TURNS: usize = 1 << 10;

impl Hot {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let (frames, generation) = cache::pages(HOT)?;
        Ok(Self {
            frames,
            generation,
            bare: words(HOT),
        })
    }

    pub(crate) fn ours(&self) -> Measured {
        let began = Instant::now();
        for _ in 0..TURNS {
            for frame in 0..HOT as u32 {
                let pin = pin_one(&self.frames, frame, self.generation)?;
                black_box(pin.iova());
            }
        }
        Ok(ns_each(began, HOT * TURNS))
    }

    pub(crate) fn bare(&self) -> Measured {
        let began = Instant::now();
        for _ in 0..TURNS {
            for word in &self.bare {
                black_box(word.fetch_add(1, Ordering::Acquire));
                black_box(word.fetch_sub(1, Ordering::Release));
            }
        }
        Ok(ns_each(began, HOT * TURNS))
    }
}

#[inline(always)]
pub(crate) fn pin_one(
    frames: &Frames,
    frame: u32,
    generation: u16,
) -> Result<underpin::dma::pin::WritePin, underpin::dma::frame::PinError> {
    frames.frame(frame, generation).pin_write(Cover::Part)
}

/// Batches of 32 pages from everywhere, their words fetched ahead.
pub(crate) struct Random {
    frames: Frames,
    bare: Vec<AtomicU64>,
    order: Vec<(u32, u16)>,
}

const BATCH: usize = 32;
const DRAWN: usize = 1 << 20;

impl Random {
    pub(crate) fn new(pages: usize) -> Result<Self, Box<dyn Error>> {
        let (frames, generation) = cache::pages(pages)?;
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let order = std::iter::repeat_with(|| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            ((seed % pages as u64) as u32, generation)
        });
        Ok(Self {
            frames,
            bare: words(pages),
            order: order.take(DRAWN).collect(),
        })
    }

    pub(crate) fn ours(&self) -> Measured {
        let mut pins = WritePins::with_capacity(BATCH);
        let began = Instant::now();
        for batch in self.order.chunks(BATCH) {
            pins.pin(&self.frames, batch, Cover::Part)
                .map_err(|(_, why)| why)?;
            black_box(pins.frames());
            pins.clear();
        }
        Ok(ns_each(began, DRAWN))
    }

    pub(crate) fn bare(&self) -> Measured {
        let began = Instant::now();
        for batch in self.order.chunks(BATCH) {
            for (at, _) in batch {
                prefetch(&self.bare[*at as usize]);
            }
            for (at, _) in batch {
                black_box(self.bare[*at as usize].fetch_add(1, Ordering::Acquire));
            }
            for (at, _) in batch {
                black_box(self.bare[*at as usize].fetch_sub(1, Ordering::Release));
            }
        }
        Ok(ns_each(began, DRAWN))
    }
}

#[inline(always)]
fn prefetch(word: &AtomicU64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch changes nothing but caches, and the address is a reference's.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) word, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = word;
}

/// Two threads, one page.
pub(crate) struct Shared {
    frames: Arc<Frames>,
    generation: u16,
    bare: Arc<AtomicU64>,
}

const SHARED_TURNS: usize = 1 << 18;

impl Shared {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let (frames, generation) = cache::pages(1)?;
        Ok(Self {
            frames: Arc::new(frames),
            generation,
            bare: Arc::new(AtomicU64::new(0)),
        })
    }

    pub(crate) fn ours(&self) -> Measured {
        let (frames, generation) = (Arc::clone(&self.frames), self.generation);
        on_two_threads(move || {
            if let Ok(pin) = pin_one(&frames, 0, generation) {
                black_box(pin.iova());
            }
        })
    }

    pub(crate) fn bare(&self) -> Measured {
        let word = Arc::clone(&self.bare);
        on_two_threads(move || {
            black_box(word.fetch_add(1, Ordering::Acquire));
            black_box(word.fetch_sub(1, Ordering::Release));
        })
    }
}

/// The other thread does the same all the while.
fn on_two_threads(work: impl Fn() + Clone + Send + 'static) -> Measured {
    let (go, stop) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (theirs, started, stopped) = (work.clone(), Arc::clone(&go), Arc::clone(&stop));
    let other = thread::spawn("other", move || {
        while !stopped.load(Ordering::Relaxed) {
            for _ in 0..64 {
                theirs();
            }
            started.store(true, Ordering::Relaxed);
        }
    })?;
    while !go.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    let began = Instant::now();
    for _ in 0..SHARED_TURNS {
        work();
    }
    let each = ns_each(began, SHARED_TURNS);
    stop.store(true, Ordering::Relaxed);
    other.join().map_err(|_| "the other thread panicked")?;
    Ok(each)
}

/// The begin and the end of a writeback that fails, so that the page is dirty for the next.
pub(crate) struct Writebacks {
    frames: Frames,
    generation: u16,
    bare: Vec<AtomicU64>,
}

impl Writebacks {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let (frames, generation) = cache::pages(HOT)?;
        Ok(Self {
            frames,
            generation,
            bare: words(HOT),
        })
    }

    pub(crate) fn ours(&self) -> Measured {
        let began = Instant::now();
        for _ in 0..TURNS {
            for frame in 0..HOT as u32 {
                let frame = self.frames.frame(frame, self.generation);
                let writeback = frame.begin_writeback(Intent::Background, false);
                let writeback = writeback.map_err(|why| format!("{why:?}"))?;
                if let Some(writeback) = writeback {
                    writeback.end(black_box(false));
                }
            }
        }
        Ok(ns_each(began, HOT * TURNS))
    }

    /// Two compare-and-swaps, each with the load before it.
    pub(crate) fn bare(&self) -> Measured {
        let began = Instant::now();
        for _ in 0..TURNS {
            for word in &self.bare {
                for bit in [1 << 33, 1 << 34] {
                    let old = word.load(Ordering::Acquire);
                    let _ = black_box(word.compare_exchange_weak(
                        old,
                        old ^ bit,
                        Ordering::AcqRel,
                        Ordering::Acquire,
                    ));
                }
            }
        }
        Ok(ns_each(began, HOT * TURNS))
    }
}
