//! The pages that Get Log Page returns (Base 2.0, 5.16.1): the host reads them with the getters, a
//! controller fills them in with the setters. Any bytes make a page; no getter panics.

mod effects;
mod error;
mod firmware;
mod smart;

pub use effects::{CommandEffects, CommandEffectsLog};
pub use error::ErrorLogEntry;
pub use firmware::FirmwareSlotLog;
pub use smart::{CriticalWarning, SmartLog};

/// The Changed Namespace List, log page 04h (Base 2.0, 5.16.1.5), is laid out as a namespace list.
/// More than 1024 changed namespaces are told by a first identifier of all ones alone.
pub use crate::identify::NamespaceList as ChangedNamespaces;
