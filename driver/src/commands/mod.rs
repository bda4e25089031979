//! The command families beyond read, write and flush, one a file: what is asked, what the device
//! must have for it, and what its answer is worth. All are behind `Controller`, `Namespace` and
//! `QueuePair`.
mod abilities;
mod abort;
mod call;
mod compare;
mod dsm;
mod events;
mod features;
mod format;
mod guard;
mod log;
mod passthrough;
mod verify;
mod write_zeroes;

pub(crate) use abilities::Abilities;
pub use abort::Aborted;
pub use call::AdminCall;
pub(crate) use call::times;
pub use dsm::{BlockRange, Deallocate};
pub(crate) use events::EventWatch;
pub use events::Events;
pub use features::{FeatureRequest, FeatureValue, SetFeature};
pub use log::LogRequest;
pub use passthrough::{Passthrough, PassthroughAnswer, PassthroughData, RawIo};
