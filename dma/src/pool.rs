//! Buffers of one size, taken and given back in O(1) without a lock.
//! The free ones wait in a bounded lock-free queue.
use crate::buffer::{Home, HomeKind};
use crate::{DmaBuf, DmaSpace, Error, Iova, MemoryWatch, Region};
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a pool is made of.
///
/// ```
/// use underpin_dma::{DmaSpace, Error, PoolOptions};
///
/// let space = DmaSpace::new();
/// let pages = space.pool("pages", PoolOptions { buf_bytes: 8192, count: 16 })?;
/// assert!(pages.alloc()?.iova().is_aligned(4096));
/// let odd = space.pool("odd", PoolOptions { buf_bytes: 1000, count: 16 });
/// assert!(matches!(odd, Err(Error::BadRequest { .. })));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// The length of each buffer: a multiple of 512 bytes. From 4096 up, a multiple of 4096 makes
    /// every buffer start on a page.
    pub buf_bytes: usize,
    /// How many there are.
    pub count: usize,
}

crate::counters! {
    /// Figures about a pool. How many buffers were out at most is not among them: to know it, every
    /// one taken and given back would have to be counted; that some had to wait is known for
    /// nothing.
    pub struct PoolStats {
        /// Buffers.
        count,
        /// Bytes of each.
        buf_bytes,
        /// Buffers that are out now.
        in_use,
        /// Times that a buffer was wanted and none was free.
        exhausted,
    }
}

/// A pool of DMA buffers of one size. Clones share the buffers.
///
/// The memory is freed when the last clone and the last buffer that is out are gone.
///
/// ```
/// use underpin_dma::{DmaSpace, Error, PoolOptions};
///
/// let pool = DmaSpace::new().pool("pages", PoolOptions { buf_bytes: 4096, count: 2 })?;
/// assert_eq!((pool.count(), pool.buf_bytes(), pool.free_count()), (2, 4096, 2));
///
/// let (first, second) = (pool.alloc()?, pool.alloc()?);
/// assert!(pool.try_alloc().is_none());
/// assert!(matches!(pool.alloc(), Err(Error::PoolExhausted { .. })));
/// drop(first);
/// assert_eq!(pool.free_count(), 1);
///
/// // All of them lie in one region, so one mapping serves.
/// let region = pool.region();
/// let offset = second.iova().get() - region.iova().get();
/// assert!(offset < region.len_bytes());
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pool {
    inner: Arc<PoolInner>,
    /// What every buffer of it holds.
    home: Arc<Home>,
}

#[derive(Debug)]
pub(crate) struct PoolInner {
    /// Where the buffers begin that are free.
    free: ArrayQueue<Iova>,
    name: String,
    buf_bytes: usize,
    /// Times that it had no buffer.
    exhausted: AtomicU64,
    region: Arc<Region>,
    space: DmaSpace,
}

impl Pool {
    pub(crate) fn new(space: &DmaSpace, name: &str, options: PoolOptions) -> Result<Self, Error> {
        let PoolOptions { buf_bytes, count } = options;
        let bad = |what: String| Error::BadRequest {
            name: name.to_owned(),
            what,
        };
        if buf_bytes == 0 || !buf_bytes.is_multiple_of(512) {
            return Err(bad(format!(
                "buf_bytes {buf_bytes} is not a positive multiple of 512"
            )));
        }
        if count == 0 || u32::try_from(count).is_err() {
            return Err(bad(format!("count {count} is not in 1..2^32")));
        }
        let len = (buf_bytes as u64).checked_mul(count as u64);
        let len = len.and_then(|len| len.checked_next_multiple_of(space.page_bytes()));
        let len = len.ok_or_else(|| bad("it is larger than any address space".to_owned()))?;
        let region = space.pieces(name, len)?;
        let inner = Arc::new(PoolInner {
            free: ArrayQueue::new(count),
            name: name.to_owned(),
            buf_bytes,
            exhausted: AtomicU64::new(0),
            region,
            space: space.clone(),
        });
        for index in 0..count {
            let iova = inner.region.iova().wrapping_add((index * buf_bytes) as u64);
            // The queue has room for `count` of them and nobody else sees it yet.
            let _ = inner.free.push(iova);
        }
        let kind = HomeKind::Pool(Arc::clone(&inner));
        let home = Arc::new(Home::new(buf_bytes, space.id(), kind));
        Ok(Self { inner, home })
    }

    /// Takes a buffer. Its contents are what its last owner left.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`] when all buffers are out.
    #[inline]
    pub fn alloc(&self) -> Result<DmaBuf, Error> {
        self.try_alloc().ok_or_else(|| Error::PoolExhausted {
            name: self.inner.name.clone(),
            count: self.count(),
            buf_bytes: self.buf_bytes(),
        })
    }

    /// Takes a buffer, or nothing when all are out.
    #[inline]
    pub fn try_alloc(&self) -> Option<DmaBuf> {
        let pool = &self.inner;
        let Some(iova) = pool.free.pop() else {
            pool.count_exhausted();
            return None;
        };
        if let Some(watch) = pool.space.watch() {
            watch.lent(iova, pool.buf_bytes as u64);
        }
        Some(DmaBuf::new(iova, Arc::clone(&self.home)))
    }

    /// The length of each buffer.
    pub fn buf_bytes(&self) -> usize {
        self.inner.buf_bytes
    }

    /// How many buffers there are.
    pub fn count(&self) -> usize {
        self.inner.free.capacity()
    }

    /// How many are free now; a hint when other threads are at work.
    pub fn free_count(&self) -> usize {
        self.inner.free.len()
    }

    /// Figures about the pool; those that move are hints when other threads are at work.
    ///
    /// ```
    /// # use underpin_dma::{DmaSpace, PoolOptions};
    /// let pool = DmaSpace::new().pool("two", PoolOptions { buf_bytes: 512, count: 2 })?;
    /// let all = [pool.alloc()?, pool.alloc()?];
    /// assert!(pool.alloc().is_err());
    /// assert_eq!((pool.stats().in_use, pool.stats().exhausted), (2, 1));
    /// # Ok::<(), underpin_dma::Error>(())
    /// ```
    pub fn stats(&self) -> PoolStats {
        let (count, free) = (self.count() as u64, self.free_count() as u64);
        PoolStats {
            count,
            buf_bytes: self.inner.buf_bytes as u64,
            in_use: count.saturating_sub(free),
            exhausted: self.inner.exhausted.load(Ordering::Relaxed),
        }
    }

    /// The region that the buffers lie in.
    pub fn region(&self) -> &Arc<Region> {
        &self.inner.region
    }
}

impl PoolInner {
    pub(crate) const fn region(&self) -> &Arc<Region> {
        &self.region
    }

    pub(crate) fn watch(&self) -> Option<&Arc<dyn MemoryWatch>> {
        self.space.watch()
    }

    #[cold]
    #[inline(never)]
    fn count_exhausted(&self) {
        self.exhausted.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn give_back(&self, iova: Iova) {
        if let Some(watch) = self.space.watch() {
            watch.returned(iova, self.buf_bytes as u64);
        }
        // Room is certain: there are as many places as buffers, and each is out at most once.
        let _ = self.free.push(iova);
    }
}
