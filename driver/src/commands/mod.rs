//! The command families beyond read, write and flush, one a file: what is asked, what the device
//! must have for it, and what its answer is worth. All are behind `Controller`, `Namespace` and
//! `QueuePair`.
mod abilities;
mod call;
mod features;
mod guard;
mod log;
mod passthrough;

pub(crate) use abilities::Abilities;
pub use call::AdminCall;
pub(crate) use call::times;
pub use features::{FeatureRequest, FeatureValue, SetFeature};
pub use log::LogRequest;
pub use passthrough::{Passthrough, PassthroughAnswer, PassthroughData, RawIo};
