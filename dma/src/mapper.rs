//! What one IOMMU context contributes to a space: it maps and unmaps regions for its devices.
//! Contexts are type1 containers, iommufd address spaces, vfio-user connections, the emulator.
use crate::{Iova, Memory};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What a device may do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The device may read and write the memory.
    ReadWrite,
    /// The device may only read the memory.
    ReadOnly,
}

/// One region to be made reachable.
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// Where the device shall see it.
    pub iova: Iova,
    /// The whole memory of the region.
    pub memory: Arc<Memory>,
    /// What the device may do with it.
    pub access: Access,
    /// The region's name, for errors.
    pub name: String,
}

/// Why a context could not map or unmap.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{context}: {what}")]
pub struct MapperError {
    /// The context's name.
    pub context: String,
    /// What went wrong and what can be done about it.
    pub what: String,
}

/// One IOMMU context. All devices behind it see the same mappings.
pub trait Mapper: Send + Sync + fmt::Debug {
    /// A name for messages, such as `emu0` or `vfio container 3`.
    fn name(&self) -> String;

    /// Makes a region reachable. The context may keep the `Arc` as long as it is mapped.
    ///
    /// # Errors
    /// [`MapperError`] when the context refuses; nothing is mapped then.
    fn map(&self, request: &MapRequest) -> Result<(), MapperError>;

    /// Takes a mapping away. When this returns `Ok`, no device behind the context can reach the
    /// memory any more.
    ///
    /// # Errors
    /// [`MapperError`] when the mapping may still be there; its IOVA is then never used again.
    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), MapperError>;

    /// The IOVA ranges that devices behind this context can use.
    fn usable(&self) -> Vec<RangeInclusive<u64>>;

    /// How many more mappings the context takes, where it has a limit.
    fn mappings_left(&self) -> Option<usize> {
        None
    }
}
