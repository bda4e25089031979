//! The 64-byte submission queue entry (Base 2.0, 3.3.3.1): the fields common to all commands and
//! the command specific dwords, by number.

use crate::{Cid, Nsid, SglDescriptor};

/// A submission queue entry, held as its sixteen dwords.
///
/// A plain value: the setters return a changed copy, so a command is built as one expression and
/// moves through registers.
///
/// ```
/// use underpin_nvme_spec::{Cid, Nsid, Sqe};
///
/// const READ_ONE: Sqe = Sqe::new().with_opcode(0x02).with_nsid(Nsid(1));
/// let sqe = READ_ONE.with_cid(Cid(7)).with_prp1(0x1_0000);
/// assert_eq!(sqe.as_u64s()[0], 0x0000_0001_0007_0002);
/// assert_eq!(sqe.prp1(), 0x1_0000);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Sqe([u32; 16]);

/// Getter and setter of one whole dword.
macro_rules! dwords {
    ($($get:ident, $with:ident: $index:literal, $what:literal;)*) => {$(
        #[doc = concat!("Dword ", $index, ": ", $what, ".")]
        #[inline(always)]
        #[must_use]
        pub const fn $get(&self) -> u32 {
            self.0[$index]
        }

        #[doc = concat!("With dword ", $index, ": ", $what, ".")]
        #[inline(always)]
        #[must_use]
        pub const fn $with(mut self, value: u32) -> Self {
            self.0[$index] = value;
            self
        }
    )*};
}

/// Getter and setter of one little-endian pair of dwords.
macro_rules! qwords {
    ($($get:ident, $with:ident: $low:literal, $what:literal;)*) => {$(
        #[doc = $what]
        #[inline(always)]
        #[must_use]
        pub const fn $get(&self) -> u64 {
            pair(self.0[$low], self.0[$low + 1])
        }

        #[doc = concat!("With another value: ", $what)]
        #[inline(always)]
        #[must_use]
        pub const fn $with(mut self, value: u64) -> Self {
            self.0[$low] = value as u32;
            self.0[$low + 1] = (value >> 32) as u32;
            self
        }
    )*};
}

#[inline(always)]
const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

impl Sqe {
    /// Bytes of one entry. `CC.IOSQES` holds the base-2 logarithm of it, 6.
    pub const LEN_BYTES: usize = 64;

    /// An entry of zeroes.
    #[inline(always)]
    #[must_use]
    pub const fn new() -> Self {
        Self([0; 16])
    }

    /// The entry made of these dwords.
    #[inline(always)]
    #[must_use]
    pub const fn from_dwords(dwords: [u32; 16]) -> Self {
        Self(dwords)
    }

    /// The sixteen dwords.
    #[inline(always)]
    #[must_use]
    pub const fn as_dwords(self) -> [u32; 16] {
        self.0
    }

    /// The entry as it lies in memory: little-endian dwords.
    #[inline(always)]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::LEN_BYTES] {
        let mut bytes = [0; Self::LEN_BYTES];
        let mut i = 0;
        while i < 16 {
            let [a, b, c, d] = self.0[i].to_le_bytes();
            bytes[4 * i] = a;
            bytes[4 * i + 1] = b;
            bytes[4 * i + 2] = c;
            bytes[4 * i + 3] = d;
            i += 1;
        }
        bytes
    }

    /// The entry that lies in memory as these bytes.
    #[inline(always)]
    #[must_use]
    pub const fn from_bytes(bytes: &[u8; Self::LEN_BYTES]) -> Self {
        let mut dwords = [0; 16];
        let mut i = 0;
        while i < 16 {
            dwords[i] = u32::from_le_bytes([
                bytes[4 * i],
                bytes[4 * i + 1],
                bytes[4 * i + 2],
                bytes[4 * i + 3],
            ]);
            i += 1;
        }
        Self(dwords)
    }

    /// The entry as eight words; word `i` holds dword `2i` low and dword `2i + 1` high.
    #[inline(always)]
    #[must_use]
    pub const fn as_u64s(self) -> [u64; 8] {
        let d = self.0;
        [
            pair(d[0], d[1]),
            pair(d[2], d[3]),
            pair(d[4], d[5]),
            pair(d[6], d[7]),
            pair(d[8], d[9]),
            pair(d[10], d[11]),
            pair(d[12], d[13]),
            pair(d[14], d[15]),
        ]
    }

    /// The inverse of [`as_u64s`](Self::as_u64s).
    #[inline(always)]
    #[must_use]
    pub const fn from_u64s(w: [u64; 8]) -> Self {
        Self([
            w[0] as u32,
            (w[0] >> 32) as u32,
            w[1] as u32,
            (w[1] >> 32) as u32,
            w[2] as u32,
            (w[2] >> 32) as u32,
            w[3] as u32,
            (w[3] >> 32) as u32,
            w[4] as u32,
            (w[4] >> 32) as u32,
            w[5] as u32,
            (w[5] >> 32) as u32,
            w[6] as u32,
            (w[6] >> 32) as u32,
            w[7] as u32,
            (w[7] >> 32) as u32,
        ])
    }

    /// Opcode, dword 0 bits 7:0. What it means depends on the queue: admin or I/O.
    #[inline(always)]
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        self.0[0] as u8
    }

    /// With another opcode.
    #[inline(always)]
    #[must_use]
    pub const fn with_opcode(mut self, opcode: u8) -> Self {
        self.0[0] = self.0[0] & !0xff | opcode as u32;
        self
    }

    /// Fused operation, dword 0 bits 9:8: 0 none, 1 first, 2 second.
    #[inline(always)]
    #[must_use]
    pub const fn fuse(&self) -> u8 {
        (self.0[0] >> 8) as u8 & 0b11
    }

    /// With another fused operation; only its low two bits are kept.
    #[inline(always)]
    #[must_use]
    pub const fn with_fuse(mut self, fuse: u8) -> Self {
        self.0[0] = self.0[0] & !(0b11 << 8) | (fuse as u32 & 0b11) << 8;
        self
    }

    /// PSDT: data by PRPs.
    pub const PSDT_PRP: u8 = 0b00;
    /// PSDT: data by SGLs; MPTR is the address of one contiguous buffer.
    pub const PSDT_SGL: u8 = 0b01;
    /// PSDT: data by SGLs; MPTR is the address of one SGL descriptor.
    pub const PSDT_SGL_METADATA: u8 = 0b10;

    /// SGL entry 1, dwords 6 to 9: where PRP entries lie otherwise.
    #[inline(always)]
    #[must_use]
    pub const fn sgl1(&self) -> SglDescriptor {
        SglDescriptor::from_u64s([self.prp1(), self.prp2()])
    }

    /// With another SGL entry 1.
    #[inline(always)]
    #[must_use]
    pub const fn with_sgl1(self, descriptor: SglDescriptor) -> Self {
        let [low, high] = descriptor.as_u64s();
        self.with_prp1(low).with_prp2(high)
    }

    /// PRP or SGL for data transfer, dword 0 bits 15:14: 0 means PRPs.
    #[inline(always)]
    #[must_use]
    pub const fn psdt(&self) -> u8 {
        (self.0[0] >> 14) as u8 & 0b11
    }

    /// With another PSDT; only its low two bits are kept.
    #[inline(always)]
    #[must_use]
    pub const fn with_psdt(mut self, psdt: u8) -> Self {
        self.0[0] = self.0[0] & !(0b11 << 14) | (psdt as u32 & 0b11) << 14;
        self
    }

    /// Command identifier, dword 0 bits 31:16.
    #[inline(always)]
    #[must_use]
    pub const fn cid(&self) -> Cid {
        Cid((self.0[0] >> 16) as u16)
    }

    /// With another command identifier.
    #[inline(always)]
    #[must_use]
    pub const fn with_cid(mut self, cid: Cid) -> Self {
        self.0[0] = self.0[0] & 0xffff | (cid.0 as u32) << 16;
        self
    }

    /// Namespace identifier, dword 1.
    #[inline(always)]
    #[must_use]
    pub const fn nsid(&self) -> Nsid {
        Nsid(self.0[1])
    }

    /// With another namespace identifier.
    #[inline(always)]
    #[must_use]
    pub const fn with_nsid(mut self, nsid: Nsid) -> Self {
        self.0[1] = nsid.0;
        self
    }

    dwords! {
        cdw2, with_cdw2: 2, "command specific";
        cdw3, with_cdw3: 3, "command specific";
        cdw10, with_cdw10: 10, "command specific";
        cdw11, with_cdw11: 11, "command specific";
        cdw12, with_cdw12: 12, "command specific";
        cdw13, with_cdw13: 13, "command specific";
        cdw14, with_cdw14: 14, "command specific";
        cdw15, with_cdw15: 15, "command specific";
    }

    qwords! {
        mptr, with_mptr: 4, "Metadata pointer, dwords 4 and 5.";
        prp1, with_prp1: 6, "PRP entry 1, dwords 6 and 7: an IOVA, offset into its page allowed.";
        prp2, with_prp2: 8, "PRP entry 2, dwords 8 and 9: the second page, or a PRP list's IOVA.";
    }
}

const _: () = assert!(size_of::<Sqe>() == Sqe::LEN_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, 3.3.3.1: where each common field lies, told as bytes in memory.
    #[test]
    fn common_fields_lie_where_the_specification_has_them() {
        let sqe = Sqe::new()
            .with_opcode(0x02)
            .with_fuse(0b10)
            .with_psdt(0b01)
            .with_cid(Cid(0xa1b2))
            .with_nsid(Nsid(0x0403_0201))
            .with_mptr(0x1716_1514_1312_1110)
            .with_prp1(0x1f1e_1d1c_1b1a_1918)
            .with_prp2(0x2726_2524_2322_2120)
            .with_cdw10(0x2b2a_2928);
        let bytes = sqe.to_bytes();
        assert_eq!(bytes[..8], [0x02, 0x42, 0xb2, 0xa1, 1, 2, 3, 4]);
        assert_eq!(bytes[8..16], [0; 8]);
        for (at, byte) in bytes.iter().enumerate().take(44).skip(16) {
            assert_eq!(usize::from(*byte), at, "byte {at} holds its own offset");
        }
        assert_eq!(bytes[44..], [0; 20]);
    }

    /// Each setter changes its own bits only, whatever lies around them.
    #[test]
    fn setters_leave_other_bits_alone() {
        type Set = fn(Sqe) -> Sqe;
        let clear: [(Set, usize, u32); 16] = [
            (|s| s.with_opcode(0), 0, 0x0000_00ff),
            (|s| s.with_fuse(0), 0, 0x0000_0300),
            (|s| s.with_psdt(0), 0, 0x0000_c000),
            (|s| s.with_cid(Cid(0)), 0, 0xffff_0000),
            (|s| s.with_nsid(Nsid(0)), 1, !0),
            (|s| s.with_cdw2(0), 2, !0),
            (|s| s.with_cdw3(0), 3, !0),
            (|s| s.with_mptr(0xffff_ffff_0000_0000), 4, !0),
            (|s| s.with_prp1(0xffff_ffff_0000_0000), 6, !0),
            (|s| s.with_prp2(0x0000_0000_ffff_ffff), 9, !0),
            (|s| s.with_cdw10(0), 10, !0),
            (|s| s.with_cdw11(0), 11, !0),
            (|s| s.with_cdw12(0), 12, !0),
            (|s| s.with_cdw13(0), 13, !0),
            (|s| s.with_cdw14(0), 14, !0),
            (|s| s.with_cdw15(0), 15, !0),
        ];
        for (set, index, mask) in clear {
            let mut expected = [!0; 16];
            expected[index] = !mask;
            assert_eq!(set(Sqe::from_dwords([!0; 16])).as_dwords(), expected);
        }
    }

    #[test]
    fn getters_read_what_setters_wrote() {
        let sqe = Sqe::new()
            .with_cdw2(2)
            .with_cdw3(3)
            .with_mptr(4 << 40)
            .with_prp1(6 << 40)
            .with_prp2(8 << 40)
            .with_cdw10(10)
            .with_cdw11(11)
            .with_cdw12(12)
            .with_cdw13(13)
            .with_cdw14(14)
            .with_cdw15(15)
            .with_opcode(0x81)
            .with_fuse(1)
            .with_psdt(2)
            .with_cid(Cid(0xffff))
            .with_nsid(Nsid::ALL);
        assert_eq!((sqe.cdw2(), sqe.cdw3()), (2, 3));
        assert_eq!(
            (sqe.mptr(), sqe.prp1(), sqe.prp2()),
            (4 << 40, 6 << 40, 8 << 40)
        );
        assert_eq!((sqe.cdw10(), sqe.cdw11(), sqe.cdw12()), (10, 11, 12));
        assert_eq!((sqe.cdw13(), sqe.cdw14(), sqe.cdw15()), (13, 14, 15));
        assert_eq!((sqe.opcode(), sqe.fuse(), sqe.psdt()), (0x81, 1, 2));
        assert_eq!((sqe.cid(), sqe.nsid()), (Cid(0xffff), Nsid::ALL));
    }

    /// Bytes, dwords and words are three views of one entry.
    #[test]
    fn views_agree() {
        let bytes: [u8; 64] = core::array::from_fn(|i| i as u8);
        let sqe = Sqe::from_bytes(&bytes);
        assert_eq!(sqe.to_bytes(), bytes);
        assert_eq!(sqe.as_dwords()[0], 0x0302_0100);
        assert_eq!(sqe.as_u64s()[1], 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(Sqe::from_u64s(sqe.as_u64s()), sqe);
        assert_eq!(Sqe::from_dwords(sqe.as_dwords()), sqe);
    }
}
