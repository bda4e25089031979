//! Admin commands (Base 2.0, chapter 5), one family per file. Host and controller share each
//! struct: one builds the entry with `to_sqe`, the other reads it back with `from_sqe`.

mod abort;
mod dbbuf;
mod events;
mod features;
mod format;
mod identify;
mod log;
mod queues;

pub use abort::Abort;
pub use dbbuf::DoorbellBufferConfig;
pub use events::{AsyncEvent, AsyncEventRequest, EventKind, EventMask};
pub use features::{
    FeatureAbility, FeatureId, FeatureSelect, GetFeatures, QueueCounts, SetFeatures,
    TemperatureThreshold,
};
pub use format::{FormatNvm, SecureErase};
pub use identify::{Cns, Identify};
pub use log::{GetLogPage, LogId};
pub use queues::{CreateIoCq, CreateIoSq, DeleteIoCq, DeleteIoSq};

/// A one-byte code with named values: constants, `name`, `ALL` and `Display` from one table.
macro_rules! byte_codes {
    ($(#[$doc:meta])* $name:ident, $unknown:literal;
     $($constant:ident = $value:literal, $what:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u8);

        impl $name {
            $(
                #[doc = concat!($what, ".")]
                pub const $constant: Self = Self($value);
            )*

            /// Every code with a name here, in ascending order.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self($value), $what)),*];

            /// The specification's name, where there is one here.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($what),)*
                    _ => None,
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, concat!($unknown, " {:#04x}"), self.0),
                }
            }
        }
    };
}
use byte_codes;
