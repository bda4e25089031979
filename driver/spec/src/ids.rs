//! Newtypes for the numbers an NVMe command is addressed by, so that a queue is never taken for
//! a command or a namespace.

use core::fmt;

/// A logical block address within one namespace, counted in that namespace's blocks.
///
/// ```
/// assert_eq!(underpin_nvme_spec::Lba(12).to_string(), "LBA 12");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Lba(pub u64);

/// A command identifier: unique among the commands outstanding on one submission queue.
///
/// ```
/// use underpin_nvme_spec::{Cid, Sqe};
///
/// assert_eq!(Sqe::new().with_cid(Cid(7)).cid(), Cid(7));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Cid(pub u16);

/// A namespace identifier. Zero names no namespace.
///
/// ```
/// use underpin_nvme_spec::Nsid;
///
/// assert_eq!(Nsid(1).to_string(), "1");
/// assert_eq!(Nsid::ALL.0, u32::MAX);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Nsid(pub u32);

/// A queue identifier; submission and completion queues are numbered apart.
///
/// ```
/// use underpin_nvme_spec::Qid;
///
/// assert!(Qid(1) > Qid::ADMIN);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Qid(pub u16);

impl Nsid {
    /// The broadcast value: every namespace of the controller (Base 2.0, 3.2.1).
    pub const ALL: Self = Self(0xffff_ffff);
}

impl Qid {
    /// The Admin Submission Queue and the Admin Completion Queue.
    pub const ADMIN: Self = Self(0);
}

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LBA {}", self.0)
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Nsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Qid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
