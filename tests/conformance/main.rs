//! The conformance suite: what a device and this driver must do together, whatever the device is.
//! The same tests by the same names for every device URL; it writes to the device's namespaces.
//!
//! `UNDERPIN_TEST_DEVICE` names the device (an embedded one otherwise), `UNDERPIN_TEST_DEVICE_2`
//! another of the kind for tests of two; `foreign:CONFIG` is an emulator behind another project's
//! vfio-user server. What a kind of device may skip is in `skips.toml`; whoever
//! skips anything else, or less, fails. A plain program, so that it runs where there is nothing but a kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bring_up;
mod commands;
mod endings;
#[path = "../support/foreign.rs"]
mod foreign;
mod futures;
mod harness;
mod memory;
mod queues;
mod skips;
mod transfers;
mod waiting;

use std::process::ExitCode;

fn main() -> ExitCode {
    let families = [
        bring_up::TESTS,
        transfers::TESTS,
        memory::TESTS,
        queues::TESTS,
        commands::TESTS,
        waiting::TESTS,
        futures::TESTS,
        endings::TESTS,
    ];
    harness::main(&families.concat())
}
