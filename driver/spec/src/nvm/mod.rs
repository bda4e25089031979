//! Commands of the NVM command set (NVM Command Set 1.0, chapter 3; Flush is Base 2.0, 7.1).

mod dsm;
mod flush;
mod rw;
mod write_zeroes;

pub use dsm::{DatasetManagement, DsmRange};
pub use flush::Flush;
pub use rw::ReadWrite;
pub use write_zeroes::WriteZeroes;

/// A count as the wire has it: from 0, in sixteen bits. Counts that do not fit are the caller's
/// mistake; what is left of them is what the sixteen bits hold.
#[inline(always)]
pub(crate) const fn zero_based(count: u32) -> u32 {
    debug_assert!(
        count != 0 && count <= 0x1_0000,
        "counts on the wire are 1 to 65,536"
    );
    count.wrapping_sub(1) & 0xffff
}
