//! An NVMe controller in software: the embedded default, the test device, and the referee.
//!
//! It follows NVMe Base 2.0 and NVM Command Set 1.0 as far as a host driver needs them, and shares
//! nothing with Underpin's driver but the specification's structures and the primitives of
//! `underpin-dma`; so it can embarrass the driver. It has its own IOMMU, which blocks and records
//! what the host has not mapped; shadow doorbells with the sleep protocol of Base 2.0, 5.8; media
//! `ram`, `file` and `null`; faults by a small language; and a race referee, which judges every DMA
//! by who has the memory and, in pages of a cache, by the state of the page.
//!
//! - Bytes of the host, from registers, rings, commands and lists, are checked everywhere: there
//!   is no panic, no hang and no unbounded loop behind them.
//! - A batch holds the IOMMU's table, so that a mapping whose `unmap` has returned is out of the
//!   controller's reach.
//! - All randomness comes from the configured seed and all time from the caller of a step, so a
//!   run in simulation can be repeated.
#![forbid(unsafe_code)]

mod abilities;
mod admin;
mod bar;
mod bus;
mod config;
mod core;
mod doorbells;
mod emulator;
mod error;
mod faults;
mod health;
mod identify;
mod intake;
mod interrupt;
mod iommu;
mod job;
mod media;
mod mischief;
mod model;
mod namespace;
mod nvm;
mod plain;
mod power;
mod queues;
mod referee;
pub mod serve;
mod sgl;
mod shadow;
mod stats;
mod task;
mod text;
mod walk;

pub use abilities::Abilities;
pub use admin::Notice;
pub use config::{EmulatorConfig, Media, NamespaceConfig};
pub use emulator::{Emulator, InlineCore};
pub use error::EmulatorError;
pub use faults::{Fault, FaultKind, FaultOp, FaultParseError, FaultReport, PowerLoss, Trigger};
pub use iommu::{Direction, IommuFault};
pub use referee::{Referee, Violation, ViolationKind};
pub use sgl::SglSupport;
pub use stats::EmulatorStats;
