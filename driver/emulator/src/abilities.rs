//! What the controller can beyond what every one must: configured, said in identify and log pages,
//! and true of what it does.
use underpin_nvme_spec::NvmOpcode;
use underpin_nvme_spec::identify::IdentifyNvmController;

/// Optional commands, and the limits of those that have no data to be limited by MDTS.
///
/// ```
/// use underpin_emulator::{Abilities, EmulatorConfig};
///
/// // Write Zeroes and nothing else of what is optional.
/// let text: EmulatorConfig = "oncs=0x8,format=off".parse()?;
/// let same = Abilities { oncs: 0x8, format: false, ..Abilities::default() };
/// assert_eq!(text.abilities, same);
/// # Ok::<(), underpin_emulator::EmulatorError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Optional NVM commands, as bits of ONCS (NVMe Base 2.0, figure 275): 0 Compare, 2 Dataset
    /// Management, 3 Write Zeroes, 4 saved features, 6 Timestamp, 7 Verify. Others are not there.
    pub oncs: u16,
    /// Format NVM is there.
    pub format: bool,
    /// The Commands Supported and Effects log is there.
    pub effects: bool,
    /// Verify size limit: a power of two of smallest pages; 0: none.
    pub vsl: u8,
    /// Write Zeroes size limit: a power of two of smallest pages; 0: none.
    pub wzsl: u8,
    /// Ranges of one Dataset Management command; 0: none.
    pub dmrl: u8,
}

/// Bits of ONCS.
pub(crate) const COMPARE: u16 = 1 << 0;
pub(crate) const DATASET_MANAGEMENT: u16 = 1 << 2;
pub(crate) const WRITE_ZEROES: u16 = 1 << 3;
pub(crate) const SAVE: u16 = 1 << 4;
pub(crate) const TIMESTAMP: u16 = 1 << 6;
pub(crate) const VERIFY: u16 = 1 << 7;

impl Default for Abilities {
    fn default() -> Self {
        Self {
            oncs: Self::KNOWN,
            format: true,
            effects: true,
            vsl: 0,
            wzsl: 0,
            dmrl: 0,
        }
    }
}

impl Abilities {
    const KNOWN: u16 = COMPARE | DATASET_MANAGEMENT | WRITE_ZEROES | SAVE | TIMESTAMP | VERIFY;

    /// ONCS, without what is not there in any case.
    pub(crate) const fn oncs(&self) -> u16 {
        self.oncs & Self::KNOWN
    }

    /// Whether all of these bits of ONCS are set.
    pub(crate) const fn has(&self, bits: u16) -> bool {
        self.oncs() & bits == bits
    }

    /// Whether there is such an I/O command.
    pub(crate) fn has_io(&self, opcode: NvmOpcode) -> bool {
        match opcode {
            NvmOpcode::FLUSH | NvmOpcode::WRITE | NvmOpcode::READ => true,
            NvmOpcode::COMPARE => self.has(COMPARE),
            NvmOpcode::DATASET_MANAGEMENT => self.has(DATASET_MANAGEMENT),
            NvmOpcode::WRITE_ZEROES => self.has(WRITE_ZEROES),
            NvmOpcode::VERIFY => self.has(VERIFY),
            _ => false,
        }
    }

    /// The limits as the NVM command set's identify page has them.
    pub(crate) const fn page(&self) -> IdentifyNvmController {
        let mut page = IdentifyNvmController::zeroed();
        page.set_vsl(self.vsl);
        page.set_wzsl(self.wzsl);
        page.set_dmrl(self.dmrl);
        page
    }
}

/// Whether so many bytes are within a limit told as a power of two of pages.
pub(crate) fn within(len_bytes: u64, limit: u8, page_bytes: u64) -> bool {
    limit == 0 || len_bytes <= page_bytes.checked_shl(limit.into()).unwrap_or(u64::MAX)
}
