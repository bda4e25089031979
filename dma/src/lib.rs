//! DMA memory: one IOVA space whose regions a device can reach, buffers from it, and the only
//! copies, barriers and words through which the host touches memory that a device may touch.
//!
//! A [`DmaSpace`] gives every region one IOVA, the same for all devices in the space, so an IOVA
//! is arithmetic and nothing is mapped per I/O. Each IOMMU context joins through a [`Mapper`].
//!
//! ```
//! use underpin_dma::{DmaSpace, PoolOptions};
//!
//! let space = DmaSpace::new();
//! let pool = space.pool("pages", PoolOptions { buf_bytes: 4096, count: 64 })?;
//! let mut buf = pool.alloc()?;
//! buf.copy_from(0, b"hello")?;
//! let mut back = [0; 5];
//! buf.copy_to(0, &mut back)?;
//! assert_eq!(&back, b"hello");
//! assert_eq!(buf.iova().get() % 4096, 0);
//! # Ok::<(), underpin_dma::Error>(())
//! ```
#![deny(unsafe_code)]

pub mod barrier;
mod buffer;
mod copy;
mod error;
pub mod frame;
mod heap;
mod iova;
mod json;
mod mapper;
mod memory;
mod payload;
pub mod pin;
mod pinnable;
mod pool;
mod ranges;
mod region;
mod register;
mod run;
mod space;
mod sys;
mod view;
mod watch;
mod words;

pub use buffer::DmaBuf;
pub use error::{Error, OutOfBounds};
pub use iova::Iova;
pub use json::JsonObject;
pub use mapper::{Access, MapRequest, Mapper, MapperError};
pub use memory::{Memory, PageSize};
pub use payload::{NotAdded, NotAddedReason, Payload, Span, Vectored};
pub use pool::{Pool, PoolOptions, PoolStats};
pub use ranges::RangeAllocator;
pub use region::Region;
pub use run::PageRun;
pub use space::{Attachment, DmaSpace, SpaceId, SpaceOptions, SpaceStats};
pub use view::View;
pub use watch::{Direction, FrameStates, MemoryWatch};
pub use words::{MemSlice, Record, Records, Word32};

/// The runtime seam: time, waiting, tasks, randomness, locks.
pub use underpin_rt as rt;
