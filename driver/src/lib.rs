//! A userspace NVMe host driver: transports, controllers, namespaces, queues.
//!
//! A [`Controller`] is opened by a device URL in a [`DmaSpace`](underpin_dma::DmaSpace); each
//! thread makes a [`QueuePair`] of its own. A request owns its buffer while it is in flight and
//! gives it back with its completion, so that no early return, panic or dropped handle can free
//! memory that the device still writes. When a controller fails, everybody is told, and memory
//! stays in quarantine until the device's DMA has provably ended.
//!
//! The device is untrusted in what it says: every field it writes is checked, every wait has a
//! deadline, and a violation is a typed [`Failure`].
#![deny(unsafe_code)]

mod adaptive;
mod admin;
mod bring_up;
mod commands;
mod controller;
mod doorbell;
mod error;
pub mod futures;
mod generations;
mod health;
mod interrupt;
mod namespace;
mod options;
mod pci_address;
mod pci_class;
mod prp;
mod queue;
mod queue_pair;
mod registers;
mod rings;
mod sgl;
mod shared;
mod slots;
mod stats;
pub mod transport;
mod url;
mod vfio_drivers;
mod wait;

pub use commands::{
    Aborted, AdminCall, BlockRange, Deallocate, Events, FeatureRequest, FeatureValue, LogRequest,
    Passthrough, PassthroughAnswer, PassthroughData, RawIo, SetFeature,
};
pub use controller::{Controller, WriteCache};
pub use error::{CommandError, Error, Failure, Refused};
pub use futures::AsyncQueue;
pub use namespace::{AtomicWrites, Io, Namespace};
pub use options::{ControllerOptions, DataPointers, QueueOptions};
pub use pci_address::PciAddress;
pub use pci_class::PciClass;
pub use queue_pair::{Completion, QueuePair};
pub use shared::SharedQueue;
pub use slots::Token;
pub use stats::{ControllerCounts, ControllerStats, QueueStats, StatusCount};
pub use transport::{Transport, TransportError};
pub use url::{DeviceAddress, DeviceUrl, DeviceUrlError};
pub use vfio_drivers::{is_vfio_driver, shares_group_with_vfio};
pub use wait::{Armed, Waiting};

pub use underpin_dma as dma;
pub use underpin_nvme_spec as spec;
pub use underpin_nvme_spec::{Lba, Nsid, Qid, Status};
