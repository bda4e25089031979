//! Making and ending I/O queues (Base 2.0, 5.4 to 5.7): completion queue first, submission queue
//! second; the other way round to end them.

use crate::{AdminOpcode, Qid, Sqe};

/// Create I/O Completion Queue (Base 2.0, 5.4).
///
/// ```
/// use underpin_nvme_spec::{Qid, admin::CreateIoCq};
///
/// let create = CreateIoCq {
///     qid: Qid(1),
///     entries: 128,
///     prp1: 0x1_0000_0000,
///     contiguous: true,
///     interrupts: true,
///     vector: 1,
/// };
/// let sqe = create.to_sqe();
/// assert_eq!((sqe.opcode(), sqe.cdw10(), sqe.cdw11()), (0x05, 0x007f_0001, 0x0001_0003));
/// assert_eq!(CreateIoCq::from_sqe(&sqe), create);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CreateIoCq {
    /// The queue to make; not 0, which is the admin queue.
    pub qid: Qid,
    /// Entries of the queue, 2 to 65,536 and at most `CAP.MQES + 1`.
    pub entries: u32,
    /// IOVA of the queue, or of its PRP list where it is not contiguous.
    pub prp1: u64,
    /// Whether the queue is one contiguous piece of IOVA space. `CAP.CQR` may require it.
    pub contiguous: bool,
    /// Whether completions raise interrupts.
    pub interrupts: bool,
    /// The interrupt vector; means nothing without `interrupts`.
    pub vector: u16,
}

/// Create I/O Submission Queue (Base 2.0, 5.5).
///
/// ```
/// use underpin_nvme_spec::{Qid, admin::CreateIoSq};
///
/// let create = CreateIoSq {
///     qid: Qid(1),
///     entries: 128,
///     prp1: 0x1_0000_2000,
///     contiguous: true,
///     priority: 0,
///     cqid: Qid(1),
/// };
/// let sqe = create.to_sqe();
/// assert_eq!((sqe.opcode(), sqe.cdw10(), sqe.cdw11()), (0x01, 0x007f_0001, 0x0001_0001));
/// assert_eq!(CreateIoSq::from_sqe(&sqe), create);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CreateIoSq {
    /// The queue to make; not 0, which is the admin queue.
    pub qid: Qid,
    /// Entries of the queue, 2 to 65,536 and at most `CAP.MQES + 1`.
    pub entries: u32,
    /// IOVA of the queue, or of its PRP list where it is not contiguous.
    pub prp1: u64,
    /// Whether the queue is one contiguous piece of IOVA space. `CAP.CQR` may require it.
    pub contiguous: bool,
    /// 0 urgent, 1 high, 2 medium, 3 low; counts only with weighted round robin arbitration.
    pub priority: u8,
    /// The completion queue that its completions go to. It must exist already.
    pub cqid: Qid,
}

/// Delete I/O Submission Queue (Base 2.0, 5.7).
///
/// ```
/// use underpin_nvme_spec::{Qid, admin::DeleteIoSq};
///
/// let sqe = DeleteIoSq { qid: Qid(3) }.to_sqe();
/// assert_eq!((sqe.opcode(), sqe.cdw10()), (0x00, 3));
/// assert_eq!(DeleteIoSq::from_sqe(&sqe).qid, Qid(3));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeleteIoSq {
    /// The queue to end.
    pub qid: Qid,
}

/// Delete I/O Completion Queue (Base 2.0, 5.6). Its submission queues must be gone already.
///
/// ```
/// use underpin_nvme_spec::{Qid, admin::DeleteIoCq};
///
/// let sqe = DeleteIoCq { qid: Qid(3) }.to_sqe();
/// assert_eq!((sqe.opcode(), sqe.cdw10()), (0x04, 3));
/// assert_eq!(DeleteIoCq::from_sqe(&sqe).qid, Qid(3));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeleteIoCq {
    /// The queue to end.
    pub qid: Qid,
}

/// Dword 10 of both create commands: QSIZE, counted from 0, above QID.
const fn size_and_id(entries: u32, qid: Qid) -> u32 {
    crate::nvm::zero_based(entries) << 16 | qid.0 as u32
}

const fn entries_of(cdw10: u32) -> u32 {
    (cdw10 >> 16) + 1
}

impl CreateIoCq {
    /// The submission queue entry, without a command identifier.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        Sqe::new()
            .with_opcode(AdminOpcode::CREATE_IO_CQ.0)
            .with_prp1(self.prp1)
            .with_cdw10(size_and_id(self.entries, self.qid))
            .with_cdw11(
                (self.vector as u32) << 16 | (self.interrupts as u32) << 1 | self.contiguous as u32,
            )
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            qid: Qid(sqe.cdw10() as u16),
            entries: entries_of(sqe.cdw10()),
            prp1: sqe.prp1(),
            contiguous: sqe.cdw11() & 1 != 0,
            interrupts: sqe.cdw11() & 0b10 != 0,
            vector: (sqe.cdw11() >> 16) as u16,
        }
    }
}

impl CreateIoSq {
    /// The submission queue entry, without a command identifier. Only the low two bits of
    /// `priority` are kept.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        Sqe::new()
            .with_opcode(AdminOpcode::CREATE_IO_SQ.0)
            .with_prp1(self.prp1)
            .with_cdw10(size_and_id(self.entries, self.qid))
            .with_cdw11(
                (self.cqid.0 as u32) << 16
                    | (self.priority as u32 & 0b11) << 1
                    | self.contiguous as u32,
            )
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            qid: Qid(sqe.cdw10() as u16),
            entries: entries_of(sqe.cdw10()),
            prp1: sqe.prp1(),
            contiguous: sqe.cdw11() & 1 != 0,
            priority: (sqe.cdw11() >> 1) as u8 & 0b11,
            cqid: Qid((sqe.cdw11() >> 16) as u16),
        }
    }
}

impl DeleteIoSq {
    /// The submission queue entry, without a command identifier.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        Sqe::new()
            .with_opcode(AdminOpcode::DELETE_IO_SQ.0)
            .with_cdw10(self.qid.0 as u32)
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            qid: Qid(sqe.cdw10() as u16),
        }
    }
}

impl DeleteIoCq {
    /// The submission queue entry, without a command identifier.
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        Sqe::new()
            .with_opcode(AdminOpcode::DELETE_IO_CQ.0)
            .with_cdw10(self.qid.0 as u32)
    }

    /// The command that an entry with this opcode holds.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            qid: Qid(sqe.cdw10() as u16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, 5.4: QSIZE counts from 0 above QID; IV, IEN and PC share dword 11.
    #[test]
    fn create_cq_puts_its_fields_where_the_specification_has_them() {
        let create = CreateIoCq {
            qid: Qid(3),
            entries: 256,
            prp1: 0x1234_5000,
            contiguous: true,
            interrupts: true,
            vector: 9,
        };
        let sqe = create.to_sqe();
        assert_eq!(sqe.opcode(), 0x05);
        assert_eq!(sqe.prp1(), 0x1234_5000);
        assert_eq!(sqe.cdw10(), 0x00ff_0003);
        assert_eq!(sqe.cdw11(), 0x0009_0003);
        assert_eq!(CreateIoCq::from_sqe(&sqe), create);
        let polled = CreateIoCq {
            interrupts: false,
            vector: 0,
            ..create
        };
        assert_eq!(polled.to_sqe().cdw11(), 1, "PC alone");
    }

    /// Base 2.0, 5.5: CQID, QPRIO in bits 2:1 and PC share dword 11.
    #[test]
    fn create_sq_puts_its_fields_where_the_specification_has_them() {
        let create = CreateIoSq {
            qid: Qid(0x0102),
            entries: 65_536,
            prp1: 1 << 40,
            contiguous: false,
            priority: 3,
            cqid: Qid(0x0304),
        };
        let sqe = create.to_sqe();
        assert_eq!(sqe.opcode(), 0x01);
        assert_eq!(sqe.cdw10(), 0xffff_0102, "the largest queue");
        assert_eq!(sqe.cdw11(), 0x0304_0006);
        assert_eq!(CreateIoSq::from_sqe(&sqe), create);
    }

    #[test]
    fn priority_does_not_spill_into_other_fields() {
        let create = CreateIoSq {
            entries: 2,
            priority: 0xff,
            ..CreateIoSq::default()
        };
        assert_eq!(create.to_sqe().cdw11(), 0b110);
    }

    /// Base 2.0, 5.6 and 5.7.
    #[test]
    fn deletes_carry_the_queue_in_dword_10() {
        let (sq, cq) = (DeleteIoSq { qid: Qid(7) }, DeleteIoCq { qid: Qid(0xffff) });
        assert_eq!((sq.to_sqe().opcode(), sq.to_sqe().cdw10()), (0x00, 7));
        assert_eq!((cq.to_sqe().opcode(), cq.to_sqe().cdw10()), (0x04, 0xffff));
        assert_eq!(DeleteIoSq::from_sqe(&sq.to_sqe()), sq);
        assert_eq!(DeleteIoCq::from_sqe(&cq.to_sqe()), cq);
    }

    /// A host may send anything: every entry reads as some command, and back as the same one.
    #[test]
    fn entries_of_ones_are_read() {
        let ones = Sqe::from_dwords([!0; 16]);
        assert_eq!(CreateIoCq::from_sqe(&ones).entries, 65_536);
        let create = CreateIoSq::from_sqe(&ones);
        assert_eq!(CreateIoSq::from_sqe(&create.to_sqe()), create);
    }
}
