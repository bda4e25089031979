//! A PCI function's address as people write it, and as sysfs has it.
use std::fmt;
use std::str::FromStr;

/// Domain, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for PciAddress {
    type Err = String;

    /// `0000:01:00.0` or `01:00.0`, with or without `pci:` in front.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "an address is written like 0000:01:00.0 or pci:0000:01:00.0; `underpin list` shows them"
                .to_owned()
        };
        let address = text.strip_prefix("pci:").unwrap_or(text);
        if address.contains("?ns=") {
            return Err("a function is bound whole: leave ?ns= out".to_owned());
        }
        let (slot, function) = address.split_once('.').ok_or_else(wrong)?;
        let mut parts = slot.rsplit(':');
        let mut next = |digits: std::ops::RangeInclusive<usize>, highest: u32| {
            let part = parts.next().unwrap_or_default();
            let is_hex = part.bytes().all(|digit| digit.is_ascii_hexdigit());
            let number = u32::from_str_radix(part, 16).ok()?;
            (is_hex && digits.contains(&part.len()) && number <= highest).then_some(number)
        };
        let device = next(1..=2, 0x1f).ok_or_else(wrong)?;
        let bus = next(1..=2, 0xff).ok_or_else(wrong)?;
        // Behind Intel's VMD, domains have more than four digits.
        let domain = match slot.matches(':').count() {
            1 => 0,
            2 => next(1..=8, u32::MAX).ok_or_else(wrong)?,
            _ => return Err(wrong()),
        };
        let function = match function.as_bytes() {
            [digit @ b'0'..=b'7'] => digit - b'0',
            _ => return Err(wrong()),
        };
        let byte = |number| u8::try_from(number).map_err(|_| wrong());
        Ok(Self {
            domain,
            bus: byte(bus)?,
            device: byte(device)?,
            function,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// All ways to write an address mean the one that sysfs has; what could name another file of
    /// sysfs is no address.
    #[test]
    fn addresses_are_as_sysfs_has_them() {
        for (written, shown) in [
            ("0000:01:00.0", "0000:01:00.0"),
            ("pci:0000:AB:1f.7", "0000:ab:1f.7"),
            ("1:0.0", "0000:01:00.0"),
            ("10000:e1:00.0", "10000:e1:00.0"),
        ] {
            assert_eq!(written.parse::<PciAddress>().unwrap().to_string(), shown);
        }
        for wrong in [
            "",
            ".",
            "..",
            "pci:",
            "01:00",
            "01:00.8",
            "01:00.00",
            "01:20.0",
            "100:00.0",
            "0:0:0:0.0",
            ":01:00.0",
            "+1:00.0",
            "01:00.0/..",
            "../01:00.0",
            "123456789:01:00.0",
            "nvme0",
            "0000:01:00.0?ns=1",
            "0000:01:00.0\n",
            "é:00.0",
        ] {
            assert!(wrong.parse::<PciAddress>().is_err(), "{wrong}");
        }
    }
}
