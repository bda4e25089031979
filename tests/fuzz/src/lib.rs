//! Fuzz targets: each takes bytes, makes of them what both sides of a seam do, and checks more than
//! that nothing panics: nothing hangs, nothing leaks, and nobody writes memory that was given back.
//!
//! They run in a simulated build (`--cfg underpin_sim`): one thread, virtual time, so that a
//! deadline costs nothing and an input always does the same. The program `underpin-fuzz` builds
//! itself so when it was not; `libfuzzer/` has the same targets for `cargo fuzz`.
#![forbid(unsafe_code)]
// A target's own checks are panics: that is how a fuzzer learns of a finding.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod canary;
mod device;
pub mod engine;
mod features;
pub mod host_device;
pub mod hostile_client;
pub mod hostile_host;
pub mod hostile_server;
mod server;

pub use features::Features;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of its corpus's folder and of its `cargo fuzz` target, too.
    pub name: &'static str,
    /// What is hostile to what.
    pub about: &'static str,
    /// Runs one input, and says what kinds of things happened. Panics when it finds something.
    pub run: fn(&[u8]) -> Features,
}

/// All of them.
pub const TARGETS: [Target; 4] = [
    Target {
        name: "host_device",
        about: "any calls of a host, any answers of a device: the driver between them",
        run: host_device::run,
    },
    Target {
        name: "hostile_host",
        about: "any registers, rings, commands and lists of a host: the emulator",
        run: hostile_host::run,
    },
    Target {
        name: "hostile_server",
        about: "any messages of a vfio-user server: the client, and the driver behind it",
        run: hostile_server::run,
    },
    Target {
        name: "hostile_client",
        about: "any messages of a vfio-user client: the server, and the emulator behind it",
        run: hostile_client::run,
    },
];
