//! Who wants to know which memory is lent out: the race referee of a test.
//! Told by pools and the space; an ordinary space has no watcher and pays one branch.
use crate::Iova;
use std::fmt;

/// Is told when memory is lent to an owner and when it comes back. DMA into memory that is not
/// lent is what a referee looks for.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use underpin_dma::{DmaSpace, Iova, MemoryWatch, SpaceOptions};
///
/// #[derive(Debug, Default)]
/// struct Lent(AtomicU64);
///
/// impl MemoryWatch for Lent {
///     fn lent(&self, _iova: Iova, len_bytes: u64) {
///         self.0.fetch_add(len_bytes, Relaxed);
///     }
///     fn returned(&self, _iova: Iova, len_bytes: u64) {
///         self.0.fetch_sub(len_bytes, Relaxed);
///     }
/// }
///
/// let lent = Arc::new(Lent::default());
/// let watch = Some(Arc::clone(&lent) as _);
/// let space = DmaSpace::with_options(SpaceOptions { watch, ..SpaceOptions::default() });
/// let page = space.alloc(4096, 4096)?;
/// assert_eq!(lent.0.load(Relaxed), 4096);
/// drop(page);
/// assert_eq!(lent.0.load(Relaxed), 0);
/// # Ok::<(), underpin_dma::Error>(())
/// ```
pub trait MemoryWatch: Send + Sync + fmt::Debug {
    /// The range has an owner from now on.
    fn lent(&self, iova: Iova, len_bytes: u64);
    /// The range has no owner from now on.
    fn returned(&self, iova: Iova, len_bytes: u64);
}
