//! Firmware Slot Information, log page 03h (Base 2.0, figure 203).

use crate::identify::Ascii;

crate::identify::fields::page! {
    /// Which firmware a controller has, and which of it runs.
    ///
    /// ```
    /// use underpin_nvme_spec::log::FirmwareSlotLog;
    ///
    /// let mut log = FirmwareSlotLog::zeroed();
    /// log.set_afi(0b010_0001);
    /// log.set_revision(1, "1.0");
    /// assert_eq!((log.active_slot(), log.next_slot()), (1, Some(2)));
    /// assert_eq!(log.revision(1).unwrap().to_string(), "1.0");
    /// assert!(log.revision(2).is_none(), "an empty slot");
    /// ```
    FirmwareSlotLog [512] {
        afi set_afi u8 @ 0 "Active firmware info: bits 2:0 the slot that runs, bits 6:4 the one that runs after the next reset";
        frs set_frs { 56 } @ 8 "Firmware revisions of slots 1 to 7, 8 bytes of ASCII each; zeroes for an empty slot";
    }
}

/// Where the revisions lie.
const FRS_OFFSET: usize = 8;
const FRS_LEN_BYTES: usize = 8;
const SLOTS: u8 = 7;

impl FirmwareSlotLog {
    /// The slot whose firmware runs.
    #[must_use]
    pub const fn active_slot(&self) -> u8 {
        self.afi() & 0b111
    }

    /// The slot whose firmware runs after the next reset, if that is decided.
    #[must_use]
    pub fn next_slot(&self) -> Option<u8> {
        let slot = self.afi() >> 4 & 0b111;
        (slot != 0).then_some(slot)
    }

    fn range(slot: u8) -> Option<core::ops::Range<usize>> {
        let first = FRS_OFFSET + FRS_LEN_BYTES * usize::from(slot.checked_sub(1)?);
        (slot <= SLOTS).then_some(first..first + FRS_LEN_BYTES)
    }

    /// The revision in slot 1 to 7; `None` for an empty slot and for other numbers.
    #[must_use]
    pub fn revision(&self, slot: u8) -> Option<Ascii<'_>> {
        let bytes = self.0.get(Self::range(slot)?)?;
        bytes
            .iter()
            .any(|&byte| byte != 0)
            .then(|| Ascii::new(bytes))
    }

    /// Sets the revision in slot 1 to 7, cut to 8 characters; other numbers do nothing.
    pub fn set_revision(&mut self, slot: u8, text: &str) {
        if let Some(bytes) = Self::range(slot).and_then(|range| self.0.get_mut(range)) {
            crate::identify::ascii::fill(bytes, text, b' ');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::fields::testing::holes_in;

    /// Base 2.0, figure 203.
    #[test]
    fn fields_lie_where_the_specification_has_them() {
        assert_eq!(holes_in(FirmwareSlotLog::FIELDS, 512), [(1, 7), (64, 448)]);
        let mut log = FirmwareSlotLog::zeroed();
        log.set_revision(7, "abcdefghij");
        assert_eq!(&log.as_bytes()[56..64], b"abcdefgh");
        assert_eq!(log.as_bytes()[64..], [0; 448]);
        log.set_revision(0, "x");
        log.set_revision(8, "x");
        assert_eq!(log.as_bytes().iter().filter(|&&byte| byte != 0).count(), 8);
    }

    #[test]
    fn any_page_is_read_without_panic() {
        for byte in 0..=u8::MAX {
            let log = FirmwareSlotLog::from_bytes(&[byte; 512]);
            for slot in 0..=u8::MAX {
                let there = (1..=7).contains(&slot) && byte != 0;
                assert_eq!(log.revision(slot).is_some(), there);
            }
            assert!(log.active_slot() < 8 && log.next_slot().is_none_or(|slot| slot < 8));
        }
    }
}
