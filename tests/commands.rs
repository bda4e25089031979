//! The command families beyond read, write and flush, each through the driver over the emulator:
//! what is sent, what comes back, what is refused before it is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[path = "commands/features.rs"]
mod features;
#[path = "commands/log.rs"]
mod log;
#[path = "commands/passthrough.rs"]
mod passthrough;
