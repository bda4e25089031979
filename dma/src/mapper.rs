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
///
/// ```
/// use underpin_dma::{Access, Iova, MapRequest, Memory, PageSize};
///
/// let request = MapRequest {
///     iova: Iova::new(4 << 30),
///     memory: Memory::new("rings", 2 << 20, PageSize::Small)?,
///     access: Access::ReadWrite,
///     name: "rings".to_owned(),
/// };
/// assert_eq!(request.len_bytes(), 2 << 20);
/// # Ok::<(), underpin_dma::Error>(())
/// ```
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

impl MapRequest {
    /// How long the region is.
    pub fn len_bytes(&self) -> u64 {
        self.memory.len_bytes() as u64
    }
}

/// Why a context could not map or unmap.
///
/// ```
/// use underpin_dma::MapperError;
///
/// let error = MapperError {
///     context: "container 3".to_owned(),
///     what: "65535 mappings are in use; make fewer regions, and larger ones".to_owned(),
/// };
/// assert!(error.to_string().starts_with("container 3: 65535 mappings"));
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("{context}: {what}")]
pub struct MapperError {
    /// The context's name.
    pub context: String,
    /// What went wrong and what can be done about it.
    pub what: String,
}

/// One IOMMU context. All devices behind it see the same mappings.
///
/// [`map`](Self::map) and [`unmap`](Self::unmap) are called one at a time, while the space holds
/// the lock on its regions and contexts: they must not make, drop or register regions of that
/// space, attach or detach, nor wait for somebody who does. The space's heap and pools that exist
/// may be used. A context that talks to a peer bounds its wait and answers with an error.
///
/// A context that keeps a table, and has room for two mappings:
///
/// ```
/// use std::ops::RangeInclusive;
/// use std::sync::Arc;
/// use underpin_dma::rt::sync::Mutex;
/// use underpin_dma::{DmaSpace, Iova, MapRequest, Mapper, MapperError};
///
/// #[derive(Debug, Default)]
/// struct Table(Mutex<Vec<MapRequest>>);
///
/// impl Mapper for Table {
///     fn name(&self) -> String {
///         "table".to_owned()
///     }
///     fn map(&self, request: &MapRequest) -> Result<(), MapperError> {
///         if self.mappings_left() == Some(0) {
///             let what = format!("{} would be one mapping too many", request.name);
///             return Err(MapperError { context: self.name(), what });
///         }
///         self.0.lock().push(request.clone());
///         Ok(())
///     }
///     fn unmap(&self, iova: Iova, _len_bytes: u64) -> Result<(), MapperError> {
///         self.0.lock().retain(|request| request.iova != iova);
///         Ok(())
///     }
///     fn usable(&self) -> Vec<RangeInclusive<u64>> {
///         vec![0..=(1 << 39) - 1]
///     }
///     fn mappings_left(&self) -> Option<usize> {
///         Some(2 - self.0.lock().len())
///     }
/// }
///
/// let (space, table) = (DmaSpace::new(), Arc::new(Table::default()));
/// let early = space.region("early", 2 << 20)?;
/// let attachment = space.attach(Arc::clone(&table) as _)?;
/// let late = space.region("late", 2 << 20)?;
/// assert_eq!(table.0.lock()[1].iova, late.iova());
/// assert!(space.region("third", 2 << 20).is_err());
///
/// drop(early);
/// assert_eq!(table.mappings_left(), Some(1));
/// attachment.detach()?;
/// assert_eq!(table.mappings_left(), Some(2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Mapper: Send + Sync + fmt::Debug {
    /// A name for messages, such as `emu0` or `vfio container 3`.
    fn name(&self) -> String;

    /// Makes a region reachable. The context may keep the `Arc` as long as it is mapped.
    ///
    /// # Errors
    /// [`MapperError`] when the context refuses; nothing is mapped then.
    fn map(&self, request: &MapRequest) -> Result<(), MapperError>;

    /// Takes a mapping away. When this returns `Ok`, no device behind the context can reach the
    /// memory any more: also when the context itself is proven gone (connection closed, emulator
    /// joined, device released), which is what a later call should answer.
    ///
    /// # Errors
    /// [`MapperError`] when the mapping may still be there. Its IOVA is then never used again,
    /// and its memory is never freed: a device may write it at any later time.
    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), MapperError>;

    /// The IOVA ranges that devices behind this context can use, in any order. Asked once, when
    /// the context is attached.
    fn usable(&self) -> Vec<RangeInclusive<u64>>;

    /// How many more mappings the context takes, where it has a limit.
    fn mappings_left(&self) -> Option<usize> {
        None
    }

    /// The NUMA node that the devices behind it are attached to, where that is known: memory of
    /// regions made from now on shall lie there.
    fn numa_node(&self) -> Option<u32> {
        None
    }
}
