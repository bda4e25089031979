//! Underpin: a userspace NVMe stack for storage engines, in which the file cache is the DMA
//! target.
//!
//! This crate re-exports the layers, top to bottom:
//!
//! | module | what it is |
//! |---|---|
//! | [`fs`] | files whose pages devices may write: cache, writeback, stores |
//! | [`nvme`] | the host driver: controllers, namespaces, queue pairs |
//! | [`emulator`] | an NVMe controller in software: the embedded device, and the test device |
//! | [`vfio_user`] | the protocol between a driver and a device that is another process |
//! | [`dma`] | IOVA spaces, DMA memory, buffers, copies, barriers; [`dma::rt`] is the runtime seam |
//!
//! What most programs need is at the top level:
//!
//! ```
//! use underpin::{Controller, ControllerOptions, DmaSpace, Lba, PoolOptions, QueueOptions};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let space = DmaSpace::new();
//!     let controller = Controller::open("emu:size=64m", &space, ControllerOptions::default())?;
//!     let namespace = controller.namespace(None)?;
//!     let mut queue = controller.queue_pair(QueueOptions::default())?;
//!     let pool = space.pool("pages", PoolOptions { buf_bytes: 4096, count: 32 })?;
//!
//!     let mut page = pool.alloc()?;
//!     page.copy_from(0, b"hello, block 8")?;
//!     let page = queue.run(namespace.write(Lba(8), 8)?, page)?;
//!     queue.flush(&namespace)?;
//!     let page = queue.run(namespace.read(Lba(8), 8)?, page)?;
//!     let mut text = [0; 14];
//!     page.copy_to(0, &mut text)?;
//!     assert_eq!(&text, b"hello, block 8");
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

pub use underpin_dma as dma;
pub use underpin_emulator as emulator;
pub use underpin_fs as fs;
pub use underpin_nvme as nvme;
pub use underpin_nvme_spec as spec;
pub use underpin_vfio_user as vfio_user;

pub use underpin_dma::{DmaBuf, DmaSpace, Iova, Payload, Pool, PoolOptions, Vectored};
pub use underpin_nvme::{
    AsyncQueue, CommandError, Completion, Controller, ControllerOptions, DeviceUrl, Error, Failure,
    Io, Lba, Namespace, Nsid, Qid, QueueOptions, QueuePair, Token, Waiting,
};
