//! What a pool's buffer costs beside the bare ring of numbers that a pool is made of.
use crate::rounds::{Spread, interleave, paired};
use crossbeam::queue::ArrayQueue;
use std::error::Error;
use std::hint::black_box;
use underpin::PoolOptions;
use underpin::dma::DmaSpace;
use underpin::dma::rt::Instant;

const ROUNDS: usize = 61;
const TURNS: usize = 1 << 14;
/// Buffers of the pool, and numbers in the ring.
const COUNT: usize = 256;

/// Nanoseconds per buffer taken and given back.
#[derive(Debug)]
pub(crate) struct PoolCost {
    pub(crate) pool_ns: Spread,
    pub(crate) ring_ns: Spread,
    /// Of the rounds' differences.
    pub(crate) beyond_ns: Spread,
}

fn timed(mut turn: impl FnMut() -> Result<(), String>) -> Result<f64, String> {
    let began = Instant::now();
    for _ in 0..TURNS {
        turn()?;
    }
    let nanos = Instant::now().since(began).as_nanos();
    Ok(nanos as f64 / TURNS as f64)
}

/// Measures both, in turn.
pub(crate) fn pool_cost() -> Result<PoolCost, Box<dyn Error>> {
    let space = DmaSpace::new();
    let options = PoolOptions {
        buf_bytes: 4096,
        count: COUNT,
    };
    let pool = space.pool("turns", options)?;
    let ring = ArrayQueue::new(COUNT);
    for number in 0..COUNT as u32 {
        ring.push(number).map_err(|_| "the ring is short")?;
    }
    let [pool_ns, ring_ns] = interleave(
        ROUNDS,
        [
            &mut || {
                timed(|| {
                    let buffer = pool.alloc().map_err(|error| error.to_string())?;
                    drop(black_box(buffer));
                    Ok(())
                })
            },
            &mut || {
                timed(|| {
                    let number = ring.pop().ok_or("the ring is empty")?;
                    ring.push(black_box(number))
                        .map_err(|_| "the ring is full".to_owned())
                })
            },
        ],
    )?;
    Ok(PoolCost {
        beyond_ns: Spread::of(paired(&pool_ns, &ring_ns, |pool, ring| pool - ring)),
        pool_ns: Spread::of(pool_ns),
        ring_ns: Spread::of(ring_ns),
    })
}
