//! Shadow doorbells and EventIdx (Base 2.0, 5.8): two pages of host memory, a word per doorbell.
//! The host writes the first; in the second the controller says when it wants to be woken.
use crate::bus::{Blocked, Bus, Who};
use crate::iommu::{Direction, Mappings};
use underpin_dma::Word32;

/// The two pages that Doorbell Buffer Config named.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShadowPages {
    pub(crate) shadow: u64,
    pub(crate) event_idx: u64,
    pub(crate) page_bytes: u64,
    pub(crate) stride_bytes: u64,
}

/// The two words of one doorbell.
#[derive(Debug)]
pub(crate) struct ShadowWords {
    pub(crate) value: Word32,
    pub(crate) event_idx: Word32,
}

impl ShadowPages {
    /// The words of doorbell `index`; `None` when they lie behind the pages' end: such a queue
    /// keeps using its register.
    pub(crate) fn words(
        &self,
        bus: &mut Bus,
        map: &Mappings,
        index: usize,
    ) -> Result<Option<ShadowWords>, Blocked> {
        let at = index as u64 * self.stride_bytes;
        if at + 4 > self.page_bytes {
            return Ok(None);
        }
        let who = Who::ring((index / 2) as u16);
        let mut word = |page: u64, direction| {
            let slice = bus.ring(map, page + at, 4, direction, who)?;
            Word32::new(&slice, 0).map_err(|_| Blocked)
        };
        Ok(Some(ShadowWords {
            value: word(self.shadow, Direction::FromHost)?,
            event_idx: word(self.event_idx, Direction::ToHost)?,
        }))
    }
}
