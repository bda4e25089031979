//! Who wants to know which memory is lent out: the race referee of a test.
//! Told by pools and the space; an ordinary space has no watcher and pays one branch.
use crate::Iova;
use std::fmt;

/// Is told when memory is lent to an owner and when it comes back. DMA into memory that is not
/// lent is what a referee looks for.
pub trait MemoryWatch: Send + Sync + fmt::Debug {
    /// The range has an owner from now on.
    fn lent(&self, iova: Iova, len_bytes: u64);
    /// The range has no owner from now on.
    fn returned(&self, iova: Iova, len_bytes: u64);
}
