//! What the hosts say they submitted, to be compared with what the device says it read: a command
//! that is not in ring memory costs nothing, and must not count as fast.

/// Count and wrapping sum of submission queue entries. The sum leaves command identifiers out:
/// they are the driver's own, and a completion with a wrong one fails anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) commands: u64,
    pub(crate) sum: u64,
}

impl Ledger {
    /// Notes a read of one block: the words of its entry that are not zero, as NVMe Base 2.0,
    /// 3.3.3.1 and NVM Command Set 1.0, 3.2.4 place them.
    #[inline(always)]
    pub(crate) fn read(&mut self, nsid: u32, iova: u64, lba: u64) {
        const OPCODE_READ: u64 = 0x02;
        let first_word = OPCODE_READ | u64::from(nsid) << 32;
        self.commands += 1;
        self.sum = self
            .sum
            .wrapping_add(first_word)
            .wrapping_add(iova)
            .wrapping_add(lba);
    }

    /// What was added after `before`.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            commands: self.commands.wrapping_sub(before.commands),
            sum: self.sum.wrapping_sub(before.sum),
        }
    }

    /// Compares with what the device read since the ledger was empty.
    pub(crate) fn check(&self, who: &str, read: Self) -> Result<(), String> {
        if self.commands != read.commands {
            return Err(format!(
                "{who}: {} commands were submitted, and the device read {} entries",
                self.commands, read.commands
            ));
        }
        // What is left is the sum of the identifiers, bits 31:16 of an entry's first word.
        let identifiers = read.sum.wrapping_sub(self.sum);
        let most = u64::from(u16::MAX).saturating_mul(read.commands);
        if identifiers & 0xffff != 0 || identifiers >> 16 > most {
            return Err(format!(
                "{who}: the entries that the device read sum to {:#018x}, which is not {:#018x} \
                 and {} command identifiers: not what was submitted",
                read.sum, self.sum, read.commands
            ));
        }
        Ok(())
    }
}

/// Where the reads go: scattered over 2^24 blocks, each block once before any comes again.
#[derive(Debug, Default)]
pub(crate) struct Addresses(u64);

/// Blocks of the namespace under test.
pub(crate) const BLOCKS: u64 = 1 << 24;

impl Addresses {
    #[inline(always)]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = (self.0 + 0x9e_3779) & (BLOCKS - 1);
        self.0
    }
}
