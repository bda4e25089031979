//! The least that frames can belong to: every page stays where it is, and the store has room.
use std::sync::Arc;
use underpin::dma::frame::{Beginning, Frames, Owner, PageKey, ReserveError};
use underpin::dma::{DmaSpace, Error, PoolOptions, SpaceOptions};

/// Owns frames, and does nothing about it.
struct Cache;

impl Owner for Cache {
    fn page(&self, frame: u32) -> PageKey {
        PageKey(u64::from(frame))
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

/// Frames whose pages are all up to date, and dirty, so that a pin is a fast one. Their memory is
/// not touched. Gives the generation of all.
pub(crate) fn pages(count: usize) -> Result<(Frames, u16), Error> {
    let options = SpaceOptions {
        limit_bytes: u64::MAX,
        ..SpaceOptions::default()
    };
    let space = DmaSpace::with_options(options);
    // A pool's buffer is not zeroed, so that there need not be as much memory.
    let one = PoolOptions {
        buf_bytes: count * 4096,
        count: 1,
    };
    let memory = space.pool("pages", one)?.alloc()?;
    let frames = Frames::new(memory, Arc::new(Cache))?;
    let mut all = None;
    for frame in 0..frames.count() {
        let refused = |why: String| Error::BadRequest {
            name: "frames".to_owned(),
            what: why,
        };
        let generation = frames.alloc(frame, Beginning::Uptodate);
        let generation = generation.map_err(|why| refused(format!("{why:?}")))?;
        let pin = frames
            .frame(frame, generation)
            .pin_write(underpin::dma::pin::Cover::Part);
        drop(pin.map_err(|why| refused(why.to_string()))?);
        if *all.get_or_insert(generation) != generation {
            return Err(refused("generations differ".to_owned()));
        }
    }
    Ok((frames, all.unwrap_or(0)))
}
