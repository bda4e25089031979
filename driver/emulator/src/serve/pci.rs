//! The configuration space that clients read to learn what they have: an NVMe controller with
//! BAR0, MSI-X in BAR4, and the capabilities that hosts expect of one.
//! Only what PCI lets a host write can be written.

/// PCI Local Bus 3.0, 6.2: where things lie.
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAP_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const POWER: usize = 0x40;
const MSIX: usize = 0x50;
const EXPRESS: usize = 0x60;
const LEN_BYTES: usize = 0x1000;

/// No vendor of the PCI-SIG's list: this is no hardware.
const VENDOR: u16 = 0x554e;
const DEVICE: u16 = 0x0001;
/// Mass storage, non-volatile memory, NVM Express.
const CLASS: [u8; 3] = [0x02, 0x08, 0x01];

/// The bytes, and which bits of them a host can write.
#[derive(Clone, Debug)]
pub(super) struct ConfigSpace {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    fresh: Vec<u8>,
}

impl ConfigSpace {
    /// Of a controller with BARs of these sizes (powers of two) and so many vectors.
    pub(super) fn new(bar0_bytes: u64, bar4_bytes: u64, vectors: u16) -> Self {
        let mut space = Self {
            bytes: vec![0; LEN_BYTES],
            writable: vec![0; LEN_BYTES],
            fresh: Vec::new(),
        };
        space.put(0x00, &VENDOR.to_le_bytes());
        space.put(0x02, &DEVICE.to_le_bytes());
        // Memory space, bus master, INTx disable.
        space.allow(COMMAND, &0x0406_u16.to_le_bytes());
        // There is a list of capabilities.
        space.put(STATUS, &0x0010_u16.to_le_bytes());
        space.put(0x08, &[1]);
        space.put(0x09, &CLASS);
        space.allow(0x0c, &[0xff]);
        space.bar(0, bar0_bytes);
        space.bar(4, bar4_bytes);
        space.put(0x2c, &VENDOR.to_le_bytes());
        space.put(0x2e, &DEVICE.to_le_bytes());
        space.put(CAP_POINTER, &[POWER as u8]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        // Power management 1.2: D0 and D3hot, no soft reset.
        space.put(POWER, &[0x01, MSIX as u8, 0x03, 0x00, 0x08, 0x00]);
        space.allow(POWER + 4, &[0x03]);
        // MSI-X: the table at the start of BAR4, the pending bits in its second half.
        let last = vectors.clamp(1, 2048) - 1;
        space.put(MSIX, &[0x11, EXPRESS as u8]);
        space.put(MSIX + 2, &last.to_le_bytes());
        space.allow(MSIX + 2, &0xc000_u16.to_le_bytes());
        space.put(MSIX + 4, &4_u32.to_le_bytes());
        space.put(MSIX + 8, &0x1004_u32.to_le_bytes());
        // An Express endpoint (version 2) that can be reset by function.
        space.put(EXPRESS, &[0x10, 0x00, 0x02, 0x00]);
        space.put(EXPRESS + 4, &(1_u32 << 28).to_le_bytes());
        space.allow(EXPRESS + 8, &0x7fff_u16.to_le_bytes());
        space.fresh = space.bytes.clone();
        space
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// As after power-on.
    pub(super) fn reset(&mut self) {
        self.bytes.clone_from(&self.fresh);
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.bytes.get(at..).unwrap_or_default();
        data.fill(0);
        data.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.bytes.get_mut(at..).unwrap_or_default();
        let writable = self.writable.get(at..).unwrap_or_default();
        for ((byte, mask), value) in bytes.iter_mut().zip(writable).zip(data) {
            *byte = *byte & !mask | value & mask;
        }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let place = self.bytes.get_mut(at..).unwrap_or_default();
        place
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        let place = self.writable.get_mut(at..).unwrap_or_default();
        place
            .iter_mut()
            .zip(mask)
            .for_each(|(to, from)| *to = *from);
    }

    /// A 64-bit memory BAR: the bits below its size read as they are, so that a host learns the
    /// size by writing ones.
    fn bar(&mut self, index: usize, len_bytes: u64) {
        const MEMORY_64_BIT: u8 = 0b100;
        let at = BARS + 4 * index;
        self.put(at, &[MEMORY_64_BIT]);
        self.allow(at, &(!(len_bytes - 1)).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(space: &ConfigSpace, at: u64) -> u32 {
        let mut bytes = [0; 4];
        space.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// What a host does first: class, sizes by writing ones, the list of capabilities to its end.
    #[test]
    fn a_host_finds_an_nvme_controller() {
        let mut space = ConfigSpace::new(0x4000, 0x2000, 17);
        assert_eq!(word(&space, 8) >> 8, 0x01_08_02);
        space.write(0x10, &[0xff; 8]);
        assert_eq!(word(&space, 0x10), 0xffff_c004);
        assert_eq!(word(&space, 0x14), u32::MAX);
        let (mut at, mut found) = (word(&space, 0x34) & 0xff, Vec::new());
        while at != 0 {
            let head = word(&space, u64::from(at));
            found.push(head & 0xff);
            at = head >> 8 & 0xff;
        }
        assert_eq!(found, [0x01, 0x11, 0x10]);
        assert_eq!(
            word(&space, 0x50) >> 16 & 0x7ff,
            16,
            "table size, counted from 0"
        );
        space.write(0, &[0; 0x1000]);
        assert_eq!(word(&space, 0), 0x0001_554e, "identity is not writable");
        space.write(0x1004, &[1; 8]);
        let mut past = [7; 4];
        space.read(u64::MAX, &mut past);
        assert_eq!(past, [0; 4]);
        space.reset();
        assert_eq!(word(&space, 0x10), 4);
    }
}
