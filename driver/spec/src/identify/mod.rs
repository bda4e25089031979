//! The pages that Identify returns (Base 2.0, 5.17.2; NVM Command Set 1.0, 4.1.5), 4096 bytes
//! each: the host reads them with the getters, a controller fills them in with the setters.

pub(crate) mod ascii;
mod controller;
mod descriptors;
pub(crate) mod fields;
mod namespace;
mod namespace_list;
mod nvm_controller;

pub use ascii::Ascii;
pub use controller::IdentifyController;
pub use descriptors::{Descriptor, NamespaceDescriptors};
pub use fields::Field;
pub use namespace::{IdentifyNamespace, LbaFormat};
pub use namespace_list::NamespaceList;
pub use nvm_controller::IdentifyNvmController;

/// Bytes of every identify page.
pub const PAGE_LEN_BYTES: usize = 4096;
