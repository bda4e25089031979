//! Device URLs: `pci:0000:01:00.0`, `vfio-user:/run/ctrl.sock`, `emu:size=1g`, each with `?ns=1`
//! where a namespace is meant. The same words in every binary and in the library.
use crate::PciAddress;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use underpin_nvme_spec::Nsid;

/// Which device, and where it matters which namespace.
///
/// ```
/// use underpin_nvme::{DeviceAddress, DeviceUrl, Nsid};
///
/// let url: DeviceUrl = "vfio-user:/run/nvme.sock?ns=2".parse()?;
/// assert_eq!(url.device, DeviceAddress::VfioUser("/run/nvme.sock".into()));
/// assert_eq!(url.nsid, Some(Nsid(2)));
/// assert_eq!(url.to_string(), "vfio-user:/run/nvme.sock?ns=2");
/// # Ok::<(), underpin_nvme::DeviceUrlError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceUrl {
    /// The device.
    pub device: DeviceAddress,
    /// The namespace, if one was named.
    pub nsid: Option<Nsid>,
}

/// How a device is reached.
///
/// ```
/// use underpin_nvme::DeviceAddress;
///
/// let device = DeviceAddress::Embedded("size=1g,lba=4096".to_owned());
/// assert_eq!(device.to_string(), "emu:size=1g,lba=4096");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceAddress {
    /// A controller in this process, described by what follows `emu:`.
    Embedded(String),
    /// A controller that another process serves at this Unix socket.
    VfioUser(PathBuf),
    /// A function on the PCI bus that is bound to `vfio-pci`.
    Pci(PciAddress),
}

/// A device URL that cannot be understood.
///
/// ```
/// use underpin_nvme::DeviceUrl;
///
/// let error = "nvme0n1".parse::<DeviceUrl>().unwrap_err();
/// assert_eq!(error.url, "nvme0n1");
/// assert!(error.to_string().contains("devices are named like emu:size=1g"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{url:?} is not a device: {why}; devices are named like emu:size=1g, vfio-user:/run/nvme.sock?ns=1 or pci:0000:01:00.0"
)]
pub struct DeviceUrlError {
    /// What was given.
    pub url: String,
    /// What is wrong with it.
    pub why: String,
}

impl FromStr for DeviceUrl {
    type Err = DeviceUrlError;

    fn from_str(url: &str) -> Result<Self, DeviceUrlError> {
        let bad = |why: String| DeviceUrlError {
            url: url.to_owned(),
            why,
        };
        let (body, nsid) = match url.rsplit_once("?ns=") {
            None => (url, None),
            Some((body, nsid)) => {
                let nsid = nsid
                    .parse::<u32>()
                    .ok()
                    .filter(|nsid| (1..u32::MAX).contains(nsid));
                let nsid = nsid.ok_or_else(|| bad("?ns= takes a number from 1 up".to_owned()))?;
                (body, Some(Nsid(nsid)))
            }
        };
        match body.split_once(':') {
            Some(("emu", body)) => Ok(Self {
                device: DeviceAddress::Embedded(body.to_owned()),
                nsid,
            }),
            Some(("vfio-user", "")) => Err(bad("vfio-user: takes the path of a socket".to_owned())),
            Some(("vfio-user", path)) => Ok(Self {
                device: DeviceAddress::VfioUser(PathBuf::from(path)),
                nsid,
            }),
            Some(("pci", address)) => Ok(Self {
                device: DeviceAddress::Pci(address.parse().map_err(bad)?),
                nsid,
            }),
            Some((scheme, _)) => Err(bad(format!("there is no kind of device {scheme:?}"))),
            None => Err(bad("it has no kind in front, such as emu:".to_owned())),
        }
    }
}

impl fmt::Display for DeviceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(body) => write!(f, "emu:{body}"),
            Self::VfioUser(path) => write!(f, "vfio-user:{}", path.display()),
            Self::Pci(address) => write!(f, "pci:{address}"),
        }
    }
}

impl fmt::Display for DeviceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.device.fmt(f)?;
        match self.nsid {
            Some(Nsid(nsid)) => write!(f, "?ns={nsid}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_round_trip_and_bad_ones_say_why() {
        for url in [
            "emu:size=1g",
            "emu:file=/tmp/a b?c,size=64m?ns=2",
            "emu:",
            "vfio-user:/run/a b?c:d.sock?ns=3",
            "vfio-user:relative.sock",
            "pci:0000:01:00.0?ns=1",
        ] {
            assert_eq!(url.parse::<DeviceUrl>().unwrap().to_string(), url);
        }
        for (url, why) in [
            ("nvme0", "no kind"),
            ("emu:size=1g?ns=0", "from 1 up"),
            ("emu:size=1g?ns=4294967295", "from 1 up"),
            ("floppy:a", "no kind of device"),
            ("pci:nvme0", "not a PCI address"),
            ("vfio-user:", "path of a socket"),
        ] {
            let error = url.parse::<DeviceUrl>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
