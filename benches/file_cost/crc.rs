//! What a copy adds to the checksum of a page that no cache has: the checksum brings its bytes in
//! either way.
use std::error::Error;
use std::hint::black_box;
use underpin::dma::rt::Instant;
use underpin::{DmaBuf, DmaSpace, PoolOptions};

/// Pages of memory, more than any cache holds, in no order.
pub(crate) struct Pages {
    pages: Vec<DmaBuf>,
    same: Vec<[u8; 4096]>,
}

impl Pages {
    pub(crate) fn new(count: usize) -> Result<Self, Box<dyn Error>> {
        let pool = PoolOptions {
            buf_bytes: 4096,
            count,
        };
        let pool = DmaSpace::new().pool("pages", pool)?;
        let mut pages = Vec::with_capacity(count);
        for at in 0..count {
            let mut page = pool.alloc()?;
            page.fill(at as u8);
            pages.push(page);
        }
        Ok(Self {
            pages,
            same: (0..count).map(|at| [at as u8; 4096]).collect(),
        })
    }

    /// Visits each index once, far from the last.
    fn order(count: usize) -> impl Iterator<Item = usize> {
        (0..count).map(move |at| at.wrapping_mul(7919) % count)
    }

    pub(crate) fn copy_and_crc(&self) -> Result<f64, Box<dyn Error>> {
        let mut copy = [0; 4096];
        let began = Instant::now();
        for at in Self::order(self.pages.len()) {
            self.pages[at].copy_to(0, &mut copy)?;
            black_box(crc32c::crc32c(black_box(&copy)));
        }
        Ok(Instant::now().since(began).as_secs_f64() * 1e9 / self.pages.len() as f64)
    }

    pub(crate) fn crc_alone(&self) -> Result<f64, Box<dyn Error>> {
        let began = Instant::now();
        for at in Self::order(self.same.len()) {
            black_box(crc32c::crc32c(black_box(&self.same[at])));
        }
        Ok(Instant::now().since(began).as_secs_f64() * 1e9 / self.same.len() as f64)
    }
}
