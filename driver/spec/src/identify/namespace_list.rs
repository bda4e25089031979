//! Namespace List, the answer to CNS 02h and its kin (Base 2.0, 4.4.2).

use crate::Nsid;
use core::borrow::Borrow;

/// Up to 1024 namespace identifiers in ascending order. A shorter list ends with a zero.
///
/// ```
/// use underpin_nvme_spec::{Nsid, identify::NamespaceList};
///
/// let list = NamespaceList::from_nsids([Nsid(1), Nsid(7)]);
/// let as_read = NamespaceList::from_bytes(list.as_bytes());
/// assert!(as_read.iter().eq([Nsid(1), Nsid(7)]));
/// assert_eq!(NamespaceList::zeroed().iter().count(), 0);
/// ```
#[derive(Clone, PartialEq, Eq)]
#[repr(transparent)]
pub struct NamespaceList([u8; 4096]);

const _: () = assert!(size_of::<NamespaceList>() == 4096);

impl NamespaceList {
    /// How many identifiers one page holds. A full page may have a successor: ask again, from its
    /// last identifier on.
    pub const CAPACITY: usize = 1024;

    /// The page that these bytes are.
    #[must_use]
    pub const fn from_bytes(bytes: &[u8; 4096]) -> Self {
        Self(*bytes)
    }

    /// The page as it lies in memory.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 4096] {
        &self.0
    }

    /// An empty list.
    #[must_use]
    pub const fn zeroed() -> Self {
        Self([0; 4096])
    }

    /// The list of these identifiers, which the caller has in ascending order. Zeroes, which
    /// would end the list, are left out; so is what comes after the first
    /// [`CAPACITY`](Self::CAPACITY).
    #[must_use]
    pub fn from_nsids(nsids: impl IntoIterator<Item: Borrow<Nsid>>) -> Self {
        let mut page = Self::zeroed();
        let nonzero = nsids
            .into_iter()
            .map(|nsid| nsid.borrow().0)
            .filter(|&nsid| nsid != 0);
        let (entries, _) = page.0.as_chunks_mut::<4>();
        for (entry, nsid) in entries.iter_mut().zip(nonzero) {
            *entry = nsid.to_le_bytes();
        }
        page
    }

    /// The identifiers, up to the first zero. What a device lists is neither checked for order
    /// nor for repetition.
    pub fn iter(&self) -> impl Iterator<Item = Nsid> + '_ {
        let (entries, _) = self.0.as_chunks::<4>();
        entries
            .iter()
            .map(|&entry| Nsid(u32::from_le_bytes(entry)))
            .take_while(|nsid| nsid.0 != 0)
    }
}

impl core::fmt::Debug for NamespaceList {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("NamespaceList ")?;
        f.debug_list()
            .entries(self.iter().map(|nsid| nsid.0))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_at_its_first_zero() {
        let mut bytes = [0; 4096];
        bytes[0] = 1;
        bytes[5] = 1;
        bytes[12] = 9;
        let list = NamespaceList::from_bytes(&bytes);
        assert_eq!(list.iter().collect::<Vec<_>>(), [Nsid(1), Nsid(256)]);
        assert_eq!(format!("{list:?}"), "NamespaceList [1, 256]");
        assert_eq!(NamespaceList::zeroed().iter().count(), 0);
    }

    #[test]
    fn a_list_is_made_of_nonzero_identifiers_that_fit() {
        let list = NamespaceList::from_nsids([Nsid(1), Nsid(0), Nsid(0x0102_0304)]);
        assert_eq!(list.as_bytes()[..12], [1, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0]);
        let many: Vec<Nsid> = (1..2000).map(Nsid).collect();
        let list = NamespaceList::from_nsids(&many);
        assert_eq!(
            list.iter().collect::<Vec<_>>(),
            many[..NamespaceList::CAPACITY]
        );
    }

    /// A page of ones is 1024 identifiers, none of them valid: the caller's to refuse.
    #[test]
    fn a_page_without_an_end_is_read_to_its_end() {
        let list = NamespaceList::from_bytes(&[0xff; 4096]);
        assert_eq!(list.iter().filter(|&nsid| nsid == Nsid::ALL).count(), 1024);
    }
}
