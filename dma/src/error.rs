//! What can go wrong with DMA memory, with the numbers in it and what to do.
//! One enum for the crate; `OutOfBounds` alone where nothing else can happen.
use crate::{Iova, MapperError};

/// An access past the end of a view or buffer, or a misaligned word.
///
/// ```
/// use underpin_dma::{DmaSpace, OutOfBounds};
///
/// let page = DmaSpace::new().alloc(4096, 4096)?;
/// let error = page.copy_to(4090, &mut [0; 8]).unwrap_err();
/// let OutOfBounds { offset, len_bytes, available_bytes } = error;
/// assert_eq!((offset, len_bytes, available_bytes), (4090, 8, 4096));
/// # Ok::<(), underpin_dma::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len_bytes} bytes at offset {offset} do not lie (aligned) within {available_bytes} bytes")]
pub struct OutOfBounds {
    /// Where the access began.
    pub offset: usize,
    /// How long it was.
    pub len_bytes: usize,
    /// How much there is.
    pub available_bytes: usize,
}

/// Why DMA memory could not be had or used.
///
/// ```
/// use underpin_dma::{DmaSpace, Error, SpaceOptions};
///
/// let options = SpaceOptions { limit_bytes: 4 << 20, ..SpaceOptions::default() };
/// let space = DmaSpace::with_options(options);
/// let _most = space.region("most", 3 << 20)?;
/// match space.region("rest", 2 << 20) {
///     Err(Error::Limit { name, len_bytes, used_bytes, limit_bytes }) => {
///         println!("{name}: {len_bytes} bytes and {used_bytes} in use, of {limit_bytes}");
///     }
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An access past the end.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),

    /// The operating system refused a step of making or mapping memory.
    #[error("{step} of {len_bytes} bytes for {name:?} failed: {source}{hint}")]
    Memory {
        /// The region's name.
        name: String,
        /// Which step: memfd, resize, seal or map.
        step: &'static str,
        /// How much was wanted.
        len_bytes: u64,
        /// What to do about it, or nothing.
        hint: &'static str,
        /// What the system said.
        source: std::io::Error,
    },

    /// A length or alignment that no region can have.
    #[error("{name:?}: {what}")]
    BadRequest {
        /// The region or pool.
        name: String,
        /// What is wrong and what is accepted.
        what: String,
    },

    /// The caller's memory cannot be pinned for a device.
    #[error("{name:?} at {address:#x}, {len_bytes} bytes, cannot be a DMA target: {why}")]
    NotPinnable {
        /// The name given to the memory.
        name: String,
        /// Its host address, or the offset in its file.
        address: u64,
        /// How long it is.
        len_bytes: u64,
        /// Which mapping is in the way, why, and what to use instead.
        why: String,
    },

    /// The space's own limit.
    #[error(
        "{name:?} of {len_bytes} bytes exceeds the space's limit: {used_bytes} of {limit_bytes} \
         bytes are in use; raise SpaceOptions::limit_bytes or free regions"
    )]
    Limit {
        /// The region that did not fit.
        name: String,
        /// How much was wanted.
        len_bytes: u64,
        /// How much is in use.
        used_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },

    /// No IOVA range is left that every attached context can use.
    #[error(
        "no free IOVA range of {len_bytes} bytes is left for {name:?} that every attached device can reach"
    )]
    IovaExhausted {
        /// The region that did not fit.
        name: String,
        /// How much was wanted.
        len_bytes: u64,
    },

    /// A context that joined cannot reach a region that exists.
    #[error("{context} cannot reach region {name:?} at {iova}, {len_bytes} bytes: {why}")]
    Unreachable {
        /// The context.
        context: String,
        /// The region.
        name: String,
        /// Where it lies.
        iova: Iova,
        /// How long it is.
        len_bytes: u64,
        /// Why.
        why: String,
    },

    /// A context refused to map.
    #[error(transparent)]
    Mapper(#[from] MapperError),

    /// A space that was made isolated refuses the caller's own memory.
    #[error(
        "{name:?}: this space is isolated: it holds rings and bounce buffers only; use DmaSpace::new() to share memory with its devices"
    )]
    Isolated {
        /// The region that was refused.
        name: String,
    },

    /// All buffers of a pool are out.
    #[error(
        "pool {name:?}: all {count} buffers of {buf_bytes} bytes are in use; wait for completions or make the pool larger"
    )]
    PoolExhausted {
        /// The pool.
        name: String,
        /// How many buffers it has.
        count: usize,
        /// How long each is.
        buf_bytes: usize,
    },
}
