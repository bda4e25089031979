//! Where a function sits on the PCI bus, as every tool writes it: `0000:01:00.0`.
//! The domain may be left out where it is 0, as in `01:00.0`.
use std::fmt;
use std::str::FromStr;

/// A PCI function: domain, bus, device, function.
///
/// ```
/// use underpin_nvme::PciAddress;
///
/// let address: PciAddress = "1:00.0".parse()?;
/// assert_eq!(address.to_string(), "0000:01:00.0");
/// assert!("01:20.0".parse::<PciAddress>().is_err(), "a bus has 32 devices");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for PciAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a PCI address such as 0000:01:00.0");
        let number = |digits: &str, most: u32| {
            let plain = (1..=8).contains(&digits.len())
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = u32::from_str_radix(digits, 16).ok().filter(|_| plain);
            number.filter(|&number| number <= most).ok_or_else(bad)
        };
        let (rest, function) = text.rsplit_once('.').ok_or_else(bad)?;
        let (rest, device) = rest.rsplit_once(':').ok_or_else(bad)?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
        Ok(Self {
            domain: number(domain, u32::MAX)?,
            bus: number(bus, 0xff)? as u8,
            device: number(device, 0x1f)? as u8,
            function: number(function, 7)? as u8,
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What names no function is refused: it becomes a path in sysfs.
    #[test]
    fn only_addresses_are_addresses() {
        for (text, full) in [
            ("0000:01:00.0", "0000:01:00.0"),
            ("01:1F.7", "0000:01:1f.7"),
            ("10000:e1:00.0", "10000:e1:00.0"),
        ] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), full);
        }
        for text in [
            "",
            ".",
            "::.",
            "0000:01:00",
            "01.0",
            "0000:01:00.8",
            "0000:100:00.0",
            "0:0:+1.0",
            "../01:00.0",
            "0000:01:00.0/..",
            "0000:01:00.0 ",
            "1:0000:01:00.0",
            "000000001:01:00.0",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text:?}");
        }
    }
}
