//! The runtime seam: the only door to time, waiting, tasks, threads, randomness and locks.
//! Real by default; with `--cfg underpin_sim` one thread, one seed and virtual time.
//!
//! Everything above this crate that waits is a state machine with a `poll(now)`; the blocking
//! faces are thin loops over it through [`wait`]. Everything that runs beside its caller is a
//! [`Task`]: a `step(now)` that never blocks. So the same code runs on threads
//! ([`spawn`]), inline on the caller's thread ([`spawn_local`]), or, in a simulated build,
//! under one seeded scheduler, where every run can be repeated from its seed.
//!
//! ```
//! use std::time::Duration;
//! use underpin_rt::{Instant, wait};
//!
//! let deadline = Instant::now() + Duration::from_millis(100);
//! let mut polls = 0;
//! let answer = wait(Some(deadline), |_now| {
//!     polls += 1;
//!     (polls == 3).then_some(42)
//! });
//! assert_eq!(answer, Ok(42));
//! ```
#![forbid(unsafe_code)]
// This crate is the door: it alone may name what the lints ban elsewhere.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod event;
mod local;
mod rand;
pub mod sim;
pub mod sync;
mod task;
pub mod thread;
mod time;
mod wait;

pub use event::Event;
pub use rand::Rng;
pub use task::{NotJoined, Step, Task, TaskHandle, Waker, spawn, spawn_local};
pub use time::Instant;
pub use wait::{Elapsed, wait};
