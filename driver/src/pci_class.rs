//! What a PCI function says that it is: base class, subclass, programming interface.
//! The one place that knows which of them are NVMe controllers.
use std::fmt;
use std::str::FromStr;

/// A PCI function's class code, 24 bits, as sysfs writes it: `0x010802`.
///
/// ```
/// use underpin_nvme::PciClass;
///
/// let class: PciClass = "0x010802".parse()?;
/// assert!(class == PciClass::NVME && class.is_nvme());
/// assert_eq!(class.to_string(), "0x010802");
/// assert!(PciClass(0x06_04_00).is_bridge());
/// assert!(!PciClass(0x01_06_01).is_nvme(), "AHCI");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciClass(pub u32);

impl PciClass {
    /// Mass storage, non-volatile memory, NVM Express I/O controller.
    pub const NVME: Self = Self(0x01_08_02);
    /// The same, but an administrative controller: it has no I/O queues.
    const NVME_ADMIN: Self = Self(0x01_08_03);

    /// True when NVM Express is how one talks to it (interface 02h or 03h of class 01h 08h, in the
    /// PCI Code and ID Assignment). What it can do, its registers say.
    pub fn is_nvme(self) -> bool {
        matches!(self, Self::NVME | Self::NVME_ADMIN)
    }

    /// True when it is a bridge (base class 06h).
    pub const fn is_bridge(self) -> bool {
        self.0 >> 16 == 0x06
    }
}

impl FromStr for PciClass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim().trim_start_matches("0x");
        let plain = (1..=6).contains(&digits.len())
            && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u32::from_str_radix(digits, 16).ok().filter(|_| plain);
        number
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a PCI class such as 0x010802"))
    }
}

impl fmt::Display for PciClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// NVMe has two interfaces; what else is in its subclass speaks something else.
    #[test]
    fn two_interfaces_are_nvme() {
        let nvme = |class: &u32| PciClass(*class).is_nvme();
        let all: Vec<u32> = (0x01_07_00..=0x01_09_ff).filter(nvme).collect();
        assert_eq!(all, [0x01_08_02, 0x01_08_03]);
        for text in ["", "0x", "0x0108022", "0x01080g", "+1"] {
            assert!(text.parse::<PciClass>().is_err(), "{text:?}");
        }
        assert_eq!("0x060400\n".parse(), Ok(PciClass(0x06_04_00)));
    }
}
