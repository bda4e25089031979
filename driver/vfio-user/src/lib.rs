//! The vfio-user protocol, both sides: how one process drives a device that another one is.
//!
//! The device's registers are read and written by messages over a Unix socket; memory is shared by
//! passing file descriptors, and so are interrupts (eventfds) and, where the server offers it, the
//! doorbell page. This crate follows version 0.1 of the protocol as libvfio-user documents it.
//!
//! - [`Client`]: connects, negotiates, and makes requests, several at a time from any thread.
//! - [`Listener`]: owns the socket and serves one client after another with a [`Device`].
//!
//! The peer is not trusted: every length, count and identifier of a message is checked before it
//! is used, file descriptors are closed whatever happens, and every message has a deadline. What a
//! peer does wrong is an [`Error`] with the numbers in it; what it refuses is
//! [`Error::Refused`] with its errno.
//!
//! Not there: migration, dirty pages, DMA by messages (a client gives its memory by descriptor).
#![forbid(unsafe_code)]

mod capabilities;
mod channel;
mod client;
mod connect;
mod error;
mod listener;
mod message;
mod region;
mod server;

pub use capabilities::Capabilities;
pub use client::{AskedRead, Client, ClientOptions};
pub use error::{Error, Refusal};
pub use listener::Listener;
pub use message::{Command, DeviceInfo, DmaMap, DmaUnmap, IrqInfo, SetIrqs};
pub use message::{device_flags, dma_flags, irq, region_flags, unmap_flags};
pub use region::{Area, RegionInfo};
pub use server::{Device, ServerOptions};
