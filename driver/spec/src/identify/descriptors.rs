//! Namespace Identification Descriptor list, CNS 03h (Base 2.0, 5.17.2.4): how a namespace is
//! known from others, whatever its NSID.

/// One identifier of a namespace.
///
/// An example is at [`NamespaceDescriptors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor<'a> {
    /// Namespace identifier type: see the constants.
    pub nidt: u8,
    /// The identifier.
    pub nid: &'a [u8],
}

impl Descriptor<'_> {
    /// IEEE extended unique identifier, 8 bytes.
    pub const EUI64: u8 = 1;
    /// Namespace globally unique identifier, 16 bytes.
    pub const NGUID: u8 = 2;
    /// UUID, 16 bytes.
    pub const UUID: u8 = 3;
    /// Command set identifier, 1 byte.
    pub const CSI: u8 = 4;
}

/// The identifiers of one namespace.
///
/// ```
/// use underpin_nvme_spec::identify::{Descriptor, NamespaceDescriptors};
///
/// let eui64 = Descriptor { nidt: Descriptor::EUI64, nid: &[0, 1, 2, 3, 4, 5, 6, 7] };
/// let csi = Descriptor { nidt: Descriptor::CSI, nid: &[2] };
/// let page = NamespaceDescriptors::from_descriptors([eui64, csi]);
/// let as_read = NamespaceDescriptors::from_bytes(page.as_bytes());
/// let command_set = as_read.iter().find(|one| one.nidt == Descriptor::CSI);
/// assert_eq!(command_set.map(|one| one.nid), Some(&[2][..]));
/// ```
#[derive(Clone, PartialEq, Eq)]
#[repr(transparent)]
pub struct NamespaceDescriptors([u8; 4096]);

const _: () = assert!(size_of::<NamespaceDescriptors>() == 4096);

/// NIDT, NIDL and two reserved bytes.
const HEADER_LEN_BYTES: usize = 4;

impl NamespaceDescriptors {
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

    /// The page of these descriptors. One without an identifier, or with one of more than 255
    /// bytes, cannot be said and is left out; so is what the page has no room for.
    #[must_use]
    pub fn from_descriptors<'a>(list: impl IntoIterator<Item = Descriptor<'a>>) -> Self {
        let mut page = Self::zeroed();
        let mut rest = page.0.as_mut_slice();
        for Descriptor { nidt, nid } in list {
            let Ok(nidl @ 1..) = u8::try_from(nid.len()) else {
                continue;
            };
            let Some((entry, after)) =
                core::mem::take(&mut rest).split_at_mut_checked(HEADER_LEN_BYTES + nid.len())
            else {
                break;
            };
            entry[0] = nidt;
            entry[1] = nidl;
            entry[HEADER_LEN_BYTES..].copy_from_slice(nid);
            rest = after;
        }
        page
    }

    /// The descriptors, up to the first without an identifier, or one that runs out of the page.
    pub fn iter(&self) -> impl Iterator<Item = Descriptor<'_>> {
        let mut rest = self.0.as_slice();
        core::iter::from_fn(move || {
            let (&[nidt, nidl, _, _], after) = rest.split_first_chunk::<HEADER_LEN_BYTES>()?;
            let (nid, after) = after.split_at_checked(usize::from(nidl))?;
            rest = after;
            (nidl != 0).then_some(Descriptor { nidt, nid })
        })
        .fuse()
    }
}

impl core::fmt::Debug for NamespaceDescriptors {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("NamespaceDescriptors ")?;
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, figure 277: NIDT, NIDL, two reserved bytes, NID; the next one follows at once.
    #[test]
    fn descriptors_are_laid_out_as_the_specification_has_them() {
        let list = [
            Descriptor {
                nidt: Descriptor::EUI64,
                nid: &[1, 2, 3, 4, 5, 6, 7, 8],
            },
            Descriptor {
                nidt: Descriptor::CSI,
                nid: &[0],
            },
        ];
        let page = NamespaceDescriptors::from_descriptors(list);
        let bytes = [1, 8, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 4, 1, 0, 0, 0, 0, 0];
        assert_eq!(page.as_bytes()[..19], bytes);
        assert!(page.iter().eq(list));
    }

    #[test]
    fn what_cannot_be_said_is_left_out() {
        let long = [9; 256];
        let said = Descriptor {
            nidt: Descriptor::UUID,
            nid: &[7; 16],
        };
        let list = [
            Descriptor { nidt: 1, nid: &[] },
            Descriptor {
                nidt: 1,
                nid: &long,
            },
            said,
        ];
        assert!(
            NamespaceDescriptors::from_descriptors(list)
                .iter()
                .eq([said])
        );
        let many = core::iter::repeat_n(
            Descriptor {
                nidt: 1,
                nid: &long[..255],
            },
            20,
        );
        let page = NamespaceDescriptors::from_descriptors(many);
        assert_eq!(page.iter().count(), 4096 / 259, "the page is full");
    }

    /// A device may give lengths that leave the page: the list ends there.
    #[test]
    fn hostile_lengths_end_the_list() {
        let page = NamespaceDescriptors::from_bytes(&[0xff; 4096]);
        assert_eq!(page.iter().count(), 4096 / 259);
        assert_eq!(NamespaceDescriptors::zeroed().iter().count(), 0);
    }
}
