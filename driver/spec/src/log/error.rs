//! Error Information, log page 01h (Base 2.0, figure 201): entries of 64 bytes, newest first.

use crate::{Cid, Lba, Nsid, Qid, Status};

crate::identify::fields::page! {
    /// What a controller noted of one command that failed.
    ///
    /// ```
    /// use underpin_nvme_spec::{Status, log::ErrorLogEntry};
    ///
    /// let mut entry = ErrorLogEntry::zeroed();
    /// assert!(!entry.is_used());
    /// entry.set_error_count(7);
    /// entry.set_status(Status::LBA_OUT_OF_RANGE);
    /// assert!(entry.is_used());
    /// assert_eq!(entry.status(), Status::LBA_OUT_OF_RANGE);
    /// ```
    ErrorLogEntry [64] {
        error_count set_error_count u64 @ 0 "Error count: the error's number since the controller was made; 0 marks an entry that is not used";
        sqid set_sqid u16 @ 8 "Submission queue identifier; all ones where the error belongs to no queue";
        cmdid set_cmdid u16 @ 10 "Command identifier; all ones where the error belongs to no command";
        status_field set_status_field u16 @ 12 "Status field, with the phase tag in bit 0";
        parm_error_location set_parm_error_location u16 @ 14 "Parameter error location: byte in bits 7:0, bit in 10:8; all ones where there is none";
        lba set_lba u64 @ 16 "The first logical block that met the error";
        nsid set_nsid u32 @ 24 "Namespace identifier";
        vs set_vs u8 @ 28 "Log page with vendor specific information; 0 where there is none";
        trtype set_trtype u8 @ 29 "Transport type; 0 where it does not matter";
        cs set_cs u64 @ 32 "Command specific information";
        trtype_spec_info set_trtype_spec_info u16 @ 40 "Transport type specific information";
    }
}

impl ErrorLogEntry {
    /// Bytes of one entry.
    pub const LEN_BYTES: usize = 64;

    /// Whether the entry tells of an error.
    #[must_use]
    pub const fn is_used(&self) -> bool {
        self.error_count() != 0
    }

    /// The status without the phase tag.
    #[must_use]
    pub const fn status(&self) -> Status {
        Status(self.status_field() >> 1)
    }

    /// Sets the status; the phase tag is 0.
    pub const fn set_status(&mut self, status: Status) {
        self.set_status_field(status.0 << 1);
    }

    /// The submission queue, unless the error belongs to none.
    #[must_use]
    pub fn queue(&self) -> Option<Qid> {
        (self.sqid() != u16::MAX).then(|| Qid(self.sqid()))
    }

    /// The command, unless the error belongs to none.
    #[must_use]
    pub fn command(&self) -> Option<Cid> {
        (self.cmdid() != u16::MAX).then(|| Cid(self.cmdid()))
    }

    /// The first logical block that met the error, where the command has blocks.
    #[must_use]
    pub const fn first_lba(&self) -> Lba {
        Lba(self.lba())
    }

    /// The namespace.
    #[must_use]
    pub const fn namespace(&self) -> Nsid {
        Nsid(self.nsid())
    }

    /// The entries of a page, used or not; bytes beyond the last whole entry are left out.
    pub fn entries(page: &[u8]) -> impl Iterator<Item = Self> + '_ {
        let (entries, _) = page.as_chunks::<{ Self::LEN_BYTES }>();
        entries.iter().map(Self::from_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::fields::testing::holes_in;

    /// Base 2.0, figure 201.
    #[test]
    fn fields_lie_where_the_specification_has_them() {
        assert_eq!(holes_in(ErrorLogEntry::FIELDS, 64), [(30, 2), (42, 22)]);
        let bytes = core::array::from_fn(|at| at as u8);
        let entry = ErrorLogEntry::from_bytes(&bytes);
        assert_eq!(entry.error_count(), 0x0706_0504_0302_0100);
        assert_eq!((entry.sqid(), entry.cmdid()), (0x0908, 0x0b0a));
        assert_eq!(entry.status(), Status(0x0d0c >> 1));
        assert_eq!(entry.first_lba(), Lba(0x1716_1514_1312_1110));
        assert_eq!(entry.namespace(), Nsid(0x1b1a_1918));
    }

    /// All ones stand for no queue and no command; a page that ends in the middle of an entry has
    /// the whole ones only.
    #[test]
    fn any_bytes_are_entries() {
        let entry = ErrorLogEntry::from_bytes(&[0xff; 64]);
        assert_eq!((entry.queue(), entry.command()), (None, None));
        assert!(format!("{entry:?}").contains("parm_error_location"));
        for len in [0, 1, 63, 64, 127, 128, 4096] {
            assert_eq!(ErrorLogEntry::entries(&vec![0xff; len]).count(), len / 64);
        }
    }
}
