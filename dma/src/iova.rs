//! An address as a device sees it.
//! A newtype, so that it cannot be taken for a host address or an offset.
use std::fmt;

/// An I/O virtual address: what a device puts on the bus, translated by its IOMMU.
///
/// ```
/// use underpin_dma::Iova;
///
/// let page = Iova::new(0x1_0000_1000);
/// assert!(page.is_aligned(4096));
/// assert_eq!(page.wrapping_add(0x200).get(), 0x1_0000_1200);
/// assert_eq!(Iova::new(u64::MAX).checked_add(1), None);
/// assert_eq!(page.to_string(), format!("{page:#x}"));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Iova(u64);

impl Iova {
    /// The address `raw`.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The address as a number, as it goes into a PRP or SGL entry.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address `len_bytes` further on, or `None` past the end of the address space.
    pub const fn checked_add(self, len_bytes: u64) -> Option<Self> {
        match self.0.checked_add(len_bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The address `len_bytes` further on; wraps at the end of the address space, which no
    /// region reaches.
    #[inline]
    #[must_use]
    pub const fn wrapping_add(self, len_bytes: u64) -> Self {
        Self(self.0.wrapping_add(len_bytes))
    }

    /// True when the address is a multiple of `align_bytes` (a power of two).
    pub const fn is_aligned(self, align_bytes: u64) -> bool {
        self.0 & (align_bytes - 1) == 0
    }
}

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::LowerHex for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}
