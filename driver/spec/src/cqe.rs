//! The 16-byte completion queue entry (Base 2.0, 3.3.3.2), phase tag included.

use crate::{Cid, Qid, Status};

/// A completion queue entry, held as its four dwords.
///
/// ```
/// use underpin_nvme_spec::{Cid, Cqe, Qid, Status};
///
/// let cqe = Cqe::new(0, 0, 5, Qid(1), Cid(9), true, Status::LBA_OUT_OF_RANGE);
/// assert_eq!(cqe.as_u64s()[1], 0x0101_0009_0001_0005);
/// assert!(cqe.phase() && !cqe.status().is_success());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Cqe([u32; 4]);

#[inline(always)]
const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

impl Cqe {
    /// Bytes of one entry. `CC.IOCQES` holds the base-2 logarithm of it, 4.
    pub const LEN_BYTES: usize = 16;

    /// The entry a controller posts: command specific `dw0` and `dw1`, the submission queue's
    /// head `sqhd` and identifier `sqid`, the command's `cid`, the `phase` tag and the `status`.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        dw0: u32,
        dw1: u32,
        sqhd: u16,
        sqid: Qid,
        cid: Cid,
        phase: bool,
        status: Status,
    ) -> Self {
        Self([
            dw0,
            dw1,
            sqhd as u32 | (sqid.0 as u32) << 16,
            cid.0 as u32 | (phase as u32) << 16 | (status.0 as u32) << 17,
        ])
    }

    /// The entry made of these dwords.
    #[inline(always)]
    #[must_use]
    pub const fn from_dwords(dwords: [u32; 4]) -> Self {
        Self(dwords)
    }

    /// The four dwords.
    #[inline(always)]
    #[must_use]
    pub const fn as_dwords(self) -> [u32; 4] {
        self.0
    }

    /// The entry of two words: dwords 0 and 1, then dwords 2 and 3, each low dword first. The
    /// second word holds the phase tag, so it is the one to read first.
    #[inline(always)]
    #[must_use]
    pub const fn from_u64s(w: [u64; 2]) -> Self {
        Self([
            w[0] as u32,
            (w[0] >> 32) as u32,
            w[1] as u32,
            (w[1] >> 32) as u32,
        ])
    }

    /// The inverse of [`from_u64s`](Self::from_u64s).
    #[inline(always)]
    #[must_use]
    pub const fn as_u64s(self) -> [u64; 2] {
        [pair(self.0[0], self.0[1]), pair(self.0[2], self.0[3])]
    }

    /// The entry as it lies in memory: little-endian dwords.
    #[inline(always)]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::LEN_BYTES] {
        let [low, high] = self.as_u64s();
        (low as u128 | (high as u128) << 64).to_le_bytes()
    }

    /// The entry that lies in memory as these bytes.
    #[inline(always)]
    #[must_use]
    pub const fn from_bytes(bytes: &[u8; Self::LEN_BYTES]) -> Self {
        let whole = u128::from_le_bytes(*bytes);
        Self::from_u64s([whole as u64, (whole >> 64) as u64])
    }

    /// Dword 0: command specific, e.g. the counts that Set Features granted.
    #[inline(always)]
    #[must_use]
    pub const fn dw0(&self) -> u32 {
        self.0[0]
    }

    /// Dword 1: command specific.
    #[inline(always)]
    #[must_use]
    pub const fn dw1(&self) -> u32 {
        self.0[1]
    }

    /// Head of the submission queue as the controller saw it when it posted this entry; entries
    /// before it are free again.
    #[inline(always)]
    #[must_use]
    pub const fn sqhd(&self) -> u16 {
        self.0[2] as u16
    }

    /// The submission queue the command came from.
    #[inline(always)]
    #[must_use]
    pub const fn sqid(&self) -> Qid {
        Qid((self.0[2] >> 16) as u16)
    }

    /// The command that is complete. A device chose this number: look it up, never trust it.
    #[inline(always)]
    #[must_use]
    pub const fn cid(&self) -> Cid {
        Cid(self.0[3] as u16)
    }

    /// Phase tag: inverted by the controller on each pass through the queue.
    #[inline(always)]
    #[must_use]
    pub const fn phase(&self) -> bool {
        self.0[3] & 1 << 16 != 0
    }

    /// Status field, without the phase tag.
    #[inline(always)]
    #[must_use]
    pub const fn status(&self) -> Status {
        Status((self.0[3] >> 17) as u16)
    }
}

const _: () = assert!(size_of::<Cqe>() == Cqe::LEN_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, 3.3.3.2: where each field lies, told as bytes in memory.
    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let cqe = Cqe::new(
            0x0302_0100,
            0x0706_0504,
            0x0908,
            Qid(0x0b0a),
            Cid(0x0d0c),
            true,
            Status(0x4281),
        );
        let mut expected: [u8; 16] = core::array::from_fn(|i| i as u8);
        expected[14..].copy_from_slice(&(0x4281_u16 << 1 | 1).to_le_bytes());
        assert_eq!(cqe.to_bytes(), expected);
        assert_eq!(Cqe::from_bytes(&expected), cqe);
        assert_eq!((cqe.dw0(), cqe.dw1()), (0x0302_0100, 0x0706_0504));
        assert_eq!((cqe.sqhd(), cqe.sqid()), (0x0908, Qid(0x0b0a)));
        assert_eq!((cqe.cid(), cqe.phase()), (Cid(0x0d0c), true));
        assert_eq!(cqe.status(), Status(0x4281));
    }

    /// The phase tag is its own bit: neither the identifier nor the status reaches it.
    #[test]
    fn phase_is_apart_from_its_neighbours() {
        let without = Cqe::new(!0, !0, !0, Qid(!0), Cid(!0), false, Status(0x7fff));
        assert_eq!(without.as_dwords()[3], !(1 << 16));
        assert!(!without.phase());
        let only = Cqe::new(0, 0, 0, Qid(0), Cid(0), true, Status(0));
        assert_eq!(only.as_dwords(), [0, 0, 0, 1 << 16]);
    }

    #[test]
    fn views_agree() {
        let cqe = Cqe::from_dwords([1, 2, 3, 4]);
        assert_eq!(cqe.as_u64s(), [0x2_0000_0001, 0x4_0000_0003]);
        assert_eq!(Cqe::from_u64s(cqe.as_u64s()), cqe);
        assert_eq!(Cqe::from_bytes(&cqe.to_bytes()), cqe);
    }
}
