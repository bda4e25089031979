//! Scatter gather lists (Base 2.0, 4.1.2): descriptors, as they lie in a command's data pointer
//! and in segments, and what a controller says that it takes of them.

/// What a descriptor describes, its upper half-byte (Base 2.0, figure 90). Keyed data blocks and
/// transport data blocks, which only fabrics use, have no name here.
///
/// ```
/// use underpin_nvme_spec::{SglDescriptor, SglType};
///
/// // Five hundred bytes of a read that nobody wants.
/// let dropped = SglDescriptor::new(SglType::BIT_BUCKET, 0, 500);
/// assert_eq!((dropped.kind(), dropped.len_bytes()), (SglType::BIT_BUCKET, 500));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct SglType(pub u8);

impl SglType {
    /// Memory that holds data.
    pub const DATA_BLOCK: Self = Self(0x0);
    /// So many bytes of a read are dropped; nothing in a write.
    pub const BIT_BUCKET: Self = Self(0x1);
    /// The next segment, which has another one after it.
    pub const SEGMENT: Self = Self(0x2);
    /// The next segment, which is the last.
    pub const LAST_SEGMENT: Self = Self(0x3);
}

/// One descriptor of 16 bytes: an address, a length, a type.
///
/// ```
/// use underpin_nvme_spec::{SglDescriptor, SglType, Sqe};
///
/// let data = SglDescriptor::new(SglType::DATA_BLOCK, 0x1_0000_0204, 516);
/// let sqe = Sqe::new().with_sgl1(data).with_psdt(Sqe::PSDT_SGL);
/// assert_eq!(sqe.sgl1(), data);
/// assert_eq!(data.address(), 0x1_0000_0204);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SglDescriptor([u64; 2]);

impl SglDescriptor {
    /// Bytes of one descriptor.
    pub const LEN_BYTES: usize = 16;

    /// A descriptor of this type with subtype 0: `address` is an address. A bit bucket has none.
    #[inline]
    #[must_use]
    pub const fn new(kind: SglType, address: u64, len_bytes: u32) -> Self {
        Self([address, len_bytes as u64 | (kind.0 as u64) << 60])
    }

    /// The descriptor that lies in memory as these little-endian words.
    #[inline]
    #[must_use]
    pub const fn from_u64s(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// The two words as they lie in memory, little-endian.
    #[inline]
    #[must_use]
    pub const fn as_u64s(self) -> [u64; 2] {
        self.0
    }

    /// Bytes 7:0: where the data or the segment lies.
    #[inline]
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0[0]
    }

    /// Bytes 11:8: how long the data or the segment is.
    #[inline]
    #[must_use]
    pub const fn len_bytes(self) -> u32 {
        self.0[1] as u32
    }

    /// Byte 15, bits 7:4.
    #[inline]
    #[must_use]
    pub const fn kind(self) -> SglType {
        SglType((self.0[1] >> 60) as u8)
    }

    /// Byte 15, bits 3:0: 0 where the address is one.
    #[inline]
    #[must_use]
    pub const fn subtype(self) -> u8 {
        (self.0[1] >> 56) as u8 & 0xf
    }

    /// With another subtype; only its low four bits are kept.
    #[inline]
    #[must_use]
    pub const fn with_subtype(mut self, subtype: u8) -> Self {
        self.0[1] = self.0[1] & !(0xf << 56) | (subtype as u64 & 0xf) << 56;
        self
    }
}

/// Identify Controller's SGLS (Base 2.0, figure 275, bytes 539:536): which SGLs I/O commands may
/// have.
///
/// ```
/// use underpin_nvme_spec::Sgls;
///
/// let sgls = Sgls::DWORD.with_bit_bucket();
/// assert_eq!((sgls.granularity_bytes(), sgls.has_bit_bucket()), (Some(4), true));
/// assert_eq!(Sgls(0).granularity_bytes(), None);
/// assert_eq!(Sgls(0x2001).threshold(), 0x20);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Sgls(pub u32);

impl Sgls {
    /// SGLs whose data blocks may begin anywhere and have any length.
    pub const BYTE: Self = Self(0b01);
    /// SGLs whose data blocks begin at whole dwords and are whole dwords long.
    pub const DWORD: Self = Self(0b10);
    /// Bit 16: bit bucket descriptors are supported.
    pub const BIT_BUCKET: u32 = 1 << 16;
    /// Bit 17: an MPTR that is an address may be any.
    pub const BYTE_ALIGNED_METADATA: u32 = 1 << 17;
    /// Bit 18: an SGL may describe more than the command transfers.
    pub const LONGER_THAN_DATA: u32 = 1 << 18;
    /// Bit 19: MPTR may point to a descriptor (PSDT 10b).
    pub const METADATA_DESCRIPTOR: u32 = 1 << 19;
    /// Bit 20: a data block's address may be an offset.
    pub const ADDRESS_AS_OFFSET: u32 = 1 << 20;

    /// What address and length of a data block must be multiples of, in bytes: 1 or 4. `None`
    /// where SGLs are not supported, or bits 1:0 hold the reserved value.
    #[must_use]
    pub const fn granularity_bytes(self) -> Option<u64> {
        match self.0 & 0b11 {
            0b01 => Some(1),
            0b10 => Some(4),
            _ => None,
        }
    }

    /// Whether bit bucket descriptors are supported.
    #[must_use]
    pub const fn has_bit_bucket(self) -> bool {
        self.0 & Self::BIT_BUCKET != 0
    }

    /// Bits 15:8, the SGL Descriptor Threshold: with more descriptors than this a command may be
    /// slower. 0 means not reported.
    #[must_use]
    pub const fn threshold(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// With bit bucket descriptors.
    #[must_use]
    pub const fn with_bit_bucket(self) -> Self {
        Self(self.0 | Self::BIT_BUCKET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, 4.1.2.1: address in bytes 7:0, length in 11:8, 14:12 reserved, identifier in 15.
    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let descriptor =
            SglDescriptor::new(SglType::LAST_SEGMENT, 0x0706_0504_0302_0100, 0x0b0a_0908)
                .with_subtype(0x5);
        let bytes: Vec<u8> = descriptor
            .as_u64s()
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .collect();
        assert_eq!(bytes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 0, 0, 0x35]);
        assert_eq!(descriptor.address(), 0x0706_0504_0302_0100);
        assert_eq!(descriptor.len_bytes(), 0x0b0a_0908);
        assert_eq!(
            (descriptor.kind(), descriptor.subtype()),
            (SglType::LAST_SEGMENT, 5)
        );
        assert_eq!(SglDescriptor::from_u64s(descriptor.as_u64s()), descriptor);
        let ones = SglDescriptor::from_u64s([!0; 2]);
        assert_eq!((ones.kind(), ones.subtype()), (SglType(0xf), 0xf));
        assert_eq!(ones.len_bytes(), u32::MAX);
    }

    /// Base 2.0, figure 275: bits 1:0 01b any, 10b dwords, 00b none and 11b reserved.
    #[test]
    fn support_is_read_bit_by_bit() {
        assert_eq!(Sgls(0).granularity_bytes(), None);
        assert_eq!(Sgls(0x0001).granularity_bytes(), Some(1));
        assert_eq!(Sgls(0x0002).granularity_bytes(), Some(4));
        assert_eq!(Sgls(0x0003).granularity_bytes(), None);
        assert!(Sgls(0x0001_0001).has_bit_bucket() && !Sgls(0xfffe_ffff).has_bit_bucket());
        assert_eq!(Sgls(0x0001_2a01).threshold(), 0x2a);
        assert_eq!(Sgls::DWORD.with_bit_bucket(), Sgls(0x0001_0002));
    }
}
