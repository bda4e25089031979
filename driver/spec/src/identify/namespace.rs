//! Identify Namespace of the NVM command set, CNS 00h (NVM Command Set 1.0, figure 97).

super::fields::page! {
    /// What a controller says of a namespace.
    ///
    /// ```
    /// use underpin_nvme_spec::identify::{IdentifyNamespace, LbaFormat};
    ///
    /// let mut page = IdentifyNamespace::zeroed();
    /// page.set_nsze(1 << 20);
    /// page.set_lba_format(0, LbaFormat::new(0, 12, 0));
    /// assert_eq!(page.format().lbads(), 12, "blocks of 4096 bytes");
    /// ```
    IdentifyNamespace [4096] {
        nsze set_nsze u64 @ 0 "Namespace size in logical blocks";
        ncap set_ncap u64 @ 8 "Namespace capacity in logical blocks: how many may be allocated at once";
        nuse set_nuse u64 @ 16 "Namespace utilization in logical blocks: how many are allocated";
        nsfeat set_nsfeat u8 @ 24 "Namespace features: bit 0 thin provisioning, bit 1 NSABP, bit 2 DAE, bit 3 UIDREUSE, bit 4 OPTPERF";
        nlbaf set_nlbaf u8 @ 25 "Number of LBA formats, counted from 0";
        flbas set_flbas u8 @ 26 "Formatted LBA size: index of the format in use, see [`format_index`](Self::format_index)";
        mc set_mc u8 @ 27 "Metadata capabilities";
        dpc set_dpc u8 @ 28 "End-to-end data protection capabilities";
        dps set_dps u8 @ 29 "End-to-end data protection type settings";
        nmic set_nmic u8 @ 30 "Namespace multi-path I/O and namespace sharing capabilities";
        rescap set_rescap u8 @ 31 "Reservation capabilities";
        fpi set_fpi u8 @ 32 "Format progress indicator: bit 7 supported, bits 6:0 percent that remain";
        dlfeat set_dlfeat u8 @ 33 "Deallocate logical block features: bits 2:0 what a deallocated block reads as";
        nawun set_nawun u16 @ 34 "Namespace atomic write unit normal, in logical blocks counted from 0";
        nawupf set_nawupf u16 @ 36 "Namespace atomic write unit power fail, in logical blocks counted from 0";
        nacwu set_nacwu u16 @ 38 "Namespace atomic compare and write unit, in logical blocks counted from 0";
        nabsn set_nabsn u16 @ 40 "Namespace atomic boundary size normal, in logical blocks counted from 0; 0 means no boundary";
        nabo set_nabo u16 @ 42 "Namespace atomic boundary offset: the logical block where the first boundary lies";
        nabspf set_nabspf u16 @ 44 "Namespace atomic boundary size power fail, in logical blocks counted from 0; 0 means no boundary";
        noiob set_noiob u16 @ 46 "Namespace optimal I/O boundary in logical blocks; 0 means none";
        nvmcap set_nvmcap u128 @ 48 "NVM capacity of the namespace in bytes";
        npwg set_npwg u16 @ 64 "Namespace preferred write granularity, in logical blocks counted from 0";
        npwa set_npwa u16 @ 66 "Namespace preferred write alignment, in logical blocks counted from 0";
        npdg set_npdg u16 @ 68 "Namespace preferred deallocate granularity, in logical blocks counted from 0";
        npda set_npda u16 @ 70 "Namespace preferred deallocate alignment, in logical blocks counted from 0";
        nows set_nows u16 @ 72 "Namespace optimal write size, in logical blocks counted from 0";
        mssrl set_mssrl u16 @ 74 "Maximum single source range length of Copy, in logical blocks";
        mcl set_mcl u32 @ 76 "Maximum copy length, in logical blocks";
        msrc set_msrc u8 @ 80 "Maximum source range count of Copy, counted from 0";
        nulbaf set_nulbaf u8 @ 82 "Number of unique capability LBA formats";
        anagrpid set_anagrpid u32 @ 92 "ANA group identifier";
        nsattr set_nsattr u8 @ 99 "Namespace attributes: bit 0 write protected";
        nvmsetid set_nvmsetid u16 @ 100 "NVM set identifier";
        endgid set_endgid u16 @ 102 "Endurance group identifier";
        nguid set_nguid [16] @ 104 "Namespace globally unique identifier, big-endian; zeroes mean none";
        eui64 set_eui64 [8] @ 120 "IEEE extended unique identifier, big-endian; zeroes mean none";
        lbaf set_lbaf { 256 } @ 128 "LBA formats";
        vendor set_vendor { 3712 } @ 384 "Vendor specific";
    }
}

/// An LBA format: what a logical block consists of (NVM Command Set 1.0, figure 98).
///
/// ```
/// use underpin_nvme_spec::identify::{IdentifyNamespace, LbaFormat};
///
/// let mut page = IdentifyNamespace::zeroed();
/// page.set_lba_format(1, LbaFormat::new(8, 12, 0));
/// page.set_format_index(1);
/// assert_eq!((page.format().ms(), 1 << page.format().lbads()), (8, 4096));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct LbaFormat(pub u32);

impl LbaFormat {
    /// A format of `ms` bytes of metadata, `2^lbads` bytes of data and relative performance
    /// `rp`, of which the low two bits are kept.
    #[must_use]
    pub const fn new(ms: u16, lbads: u8, rp: u8) -> Self {
        Self((rp as u32 & 0b11) << 24 | (lbads as u32) << 16 | ms as u32)
    }

    /// Metadata size in bytes per logical block.
    #[must_use]
    pub const fn ms(self) -> u16 {
        self.0 as u16
    }

    /// LBA data size as a power of two; at least 9. 0 means the format is not available.
    #[must_use]
    pub const fn lbads(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Relative performance: 0 best, 3 degraded.
    #[must_use]
    pub const fn rp(self) -> u8 {
        (self.0 >> 24) as u8 & 0b11
    }
}

/// Where the formats lie, and how many there is room for.
const FORMATS_OFFSET: usize = 128;
const FORMATS: u8 = 64;

impl IdentifyNamespace {
    /// The index of the format in use, 0 to 63: FLBAS bits 3:0, with bits 6:5 above them where
    /// the namespace has more than sixteen formats.
    ///
    /// With sixteen or less, bits 6:5 are to be ignored: controllers older than they are may
    /// have set them.
    #[must_use]
    pub const fn format_index(&self) -> u8 {
        let formats = self.nlbaf() as u16 + 1 + self.nulbaf() as u16;
        let high = if formats > 16 {
            self.flbas() >> 5 & 0b11
        } else {
            0
        };
        high << 4 | self.flbas() & 0xf
    }

    /// Says that format `index` is in use; the other bits of FLBAS stay.
    ///
    /// Only the low six bits of `index` are kept. Beyond 15 it reads back only once there are
    /// more than sixteen formats.
    pub const fn set_format_index(&mut self, index: u8) {
        let kept = self.flbas() & 0b1001_0000;
        self.set_flbas(kept | (index >> 4 & 0b11) << 5 | index & 0xf);
    }

    /// The format in use.
    #[must_use]
    pub const fn format(&self) -> LbaFormat {
        self.lba_format(self.format_index())
    }

    /// LBA format `index`, whether or not NLBAF says that it is there. Only the low six bits of
    /// `index` count.
    #[must_use]
    pub const fn lba_format(&self, index: u8) -> LbaFormat {
        LbaFormat(u32::from_le_bytes(super::fields::get(
            &self.0,
            format_offset(index),
        )))
    }

    /// Sets LBA format `index`. Only the low six bits of `index` count.
    pub const fn set_lba_format(&mut self, index: u8, format: LbaFormat) {
        super::fields::set(&mut self.0, format_offset(index), format.0.to_le_bytes());
    }

    /// What the vendor put into the last 3712 bytes.
    #[must_use]
    pub fn vendor_specific(&self) -> &[u8] {
        &self.0[384..]
    }
}

const fn format_offset(index: u8) -> usize {
    FORMATS_OFFSET + 4 * (index % FORMATS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::fields::testing::holes;

    /// NVM Command Set 1.0, figure 97: the reserved ranges are these and no others.
    #[test]
    fn reserved_ranges_are_those_of_the_specification() {
        let reserved = [(81, 1), (83, 9), (96, 3), (4096, 0)];
        assert_eq!(holes(IdentifyNamespace::FIELDS), reserved);
    }

    /// Landmarks of figure 97, told as bytes in memory.
    #[test]
    fn known_bytes_are_read() {
        let mut bytes = [0; 4096];
        bytes[..8].copy_from_slice(&0x0001_0000_0000_u64.to_le_bytes());
        bytes[8] = 8;
        bytes[16] = 16;
        bytes[24] = 0b1_0010;
        bytes[25] = 1;
        bytes[26] = 1;
        bytes[34..46].copy_from_slice(&[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]);
        bytes[46] = 64;
        bytes[99] = 1;
        bytes[104..120].copy_from_slice(&[0xa5; 16]);
        bytes[120..128].copy_from_slice(&[0, 0x25, 0x38, 4, 5, 6, 7, 8]);
        bytes[128..136].copy_from_slice(&[0, 0, 9, 2, 8, 0, 12, 1]);
        let page = IdentifyNamespace::from_bytes(&bytes);
        assert_eq!((page.nsze(), page.ncap(), page.nuse()), (1 << 32, 8, 16));
        assert_eq!((page.nsfeat(), page.noiob(), page.nsattr()), (0x12, 64, 1));
        assert_eq!((page.nawun(), page.nawupf(), page.nacwu()), (1, 2, 3));
        assert_eq!((page.nabsn(), page.nabo(), page.nabspf()), (4, 5, 6));
        assert_eq!((page.nguid(), page.eui64()[1]), ([0xa5; 16], 0x25));
        assert_eq!(page.lba_format(0), LbaFormat::new(0, 9, 2));
        assert_eq!(page.format(), LbaFormat::new(8, 12, 1));
    }

    /// NVM Command Set 1.0, figure 98: MS 15:0, LBADS 23:16, RP 25:24.
    #[test]
    fn format_fields_lie_where_the_specification_has_them() {
        let format = LbaFormat(0xfe0c_0008);
        assert_eq!((format.ms(), format.lbads(), format.rp()), (8, 12, 2));
        assert_eq!(LbaFormat::new(0xffff, 9, 0xff).0, 0x0309_ffff);
    }

    /// Bits 6:5 of FLBAS count only with more than sixteen formats; bit 4 is another matter.
    #[test]
    fn format_index_has_six_bits_with_many_formats_only() {
        let mut page = IdentifyNamespace::zeroed();
        page.set_flbas(0b0111_0011);
        page.set_nlbaf(15);
        assert_eq!(page.format_index(), 3, "sixteen formats");
        page.set_nlbaf(16);
        assert_eq!(page.format_index(), 0b11_0011, "seventeen formats");
        page.set_nlbaf(14);
        page.set_nulbaf(2);
        assert_eq!(
            page.format_index(),
            0b11_0011,
            "seventeen, two of them unique"
        );
        page.set_format_index(0b10_1010);
        assert_eq!(
            (page.format_index(), page.flbas()),
            (0b10_1010, 0b0101_1010)
        );
    }

    #[test]
    fn the_last_format_ends_where_vendor_bytes_begin() {
        let mut page = IdentifyNamespace::zeroed();
        page.set_lba_format(63, LbaFormat::new(0x0102, 3, 0));
        assert_eq!(page.as_bytes()[380..384], [2, 1, 3, 0]);
        assert_eq!(page.lba_format(63).ms(), 0x0102);
        assert_eq!(page.vendor_specific().len(), 4096 - 384);
    }

    /// `Debug` calls every getter: no page, however hostile, makes one panic.
    #[test]
    fn any_page_is_read_without_panic() {
        for byte in [0, 0x20, 0x7f, 0x80, 0xff] {
            let page = IdentifyNamespace::from_bytes(&[byte; 4096]);
            assert!(format!("{page:?}").contains("eui64"));
            assert_eq!(page.format(), page.lba_format(page.format_index()));
            for index in 0..=u8::MAX {
                assert_eq!(page.lba_format(index).lbads(), byte);
            }
        }
    }
}
