//! The command families beyond read, write and flush, each through the driver over the emulator:
//! what is sent, what comes back, what is refused before it is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[path = "commands/abort.rs"]
mod abort;
#[path = "commands/bench.rs"]
mod bench;
#[path = "commands/compare.rs"]
mod compare;
#[path = "commands/dsm.rs"]
mod dsm;
#[path = "commands/events.rs"]
mod events;
#[path = "commands/features.rs"]
mod features;
#[path = "commands/format.rs"]
mod format;
#[path = "commands/lacking.rs"]
mod lacking;
#[path = "commands/log.rs"]
mod log;
#[path = "commands/passthrough.rs"]
mod passthrough;
#[path = "commands/verify.rs"]
mod verify;
#[path = "commands/write_zeroes.rs"]
mod write_zeroes;
