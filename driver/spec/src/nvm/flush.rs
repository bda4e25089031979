//! Flush (Base 2.0, 7.1): what was completed before it is on the medium when it completes.

use crate::{Nsid, NvmOpcode, Sqe};

/// Flush. It covers commands completed before it was submitted, and no others.
///
/// ```
/// use underpin_nvme_spec::{Nsid, nvm::Flush};
///
/// let sqe = Flush { nsid: Nsid::ALL }.to_sqe();
/// assert_eq!((sqe.opcode(), sqe.nsid()), (0x00, Nsid::ALL));
/// assert_eq!(Flush::from_sqe(&sqe).nsid, Nsid::ALL);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flush {
    /// The namespace; [`Nsid::ALL`] where the controller's VWC field allows it.
    pub nsid: Nsid,
}

impl Flush {
    /// The submission queue entry, without a command identifier.
    #[inline(always)]
    #[must_use]
    pub const fn to_sqe(&self) -> Sqe {
        Sqe::new()
            .with_opcode(NvmOpcode::FLUSH.0)
            .with_nsid(self.nsid)
    }

    /// The command that an entry with this opcode holds.
    #[inline(always)]
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self { nsid: sqe.nsid() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base 2.0, 7.1: all but opcode and namespace is reserved.
    #[test]
    fn flush_is_opcode_and_namespace_alone() {
        let flush = Flush { nsid: Nsid(5) };
        let mut dwords = [0; 16];
        dwords[1] = 5;
        assert_eq!(flush.to_sqe().as_dwords(), dwords);
        assert_eq!(Flush::from_sqe(&flush.to_sqe()), flush);
    }
}
