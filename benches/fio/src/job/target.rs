//! The value of `target=`: the file whose pages the device reads and writes.

#![forbid(unsafe_code)]

use std::fmt;

use underpin::DeviceUrl;
use underpin::nvme::DeviceUrlError;

use super::resolve::check_device;
use crate::options::suggest;
use crate::options::units::{self, KbBase};

/// Where the pages of the file are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A file of the host, by its path.
    Host(String),
    /// A range of a device's blocks.
    Extent {
        device: DeviceUrl,
        /// The first block.
        lba: u64,
        /// How long it is; the rest of the namespace if that is not said.
        len_bytes: Option<u64>,
    },
}

/// What may follow the `?` of an extent.
const KEYS: [&str; 3] = ["ns", "lba", "len"];

/// What is accepted, as the end of an error message.
const ACCEPTED: &str = "accepted are the path of a file and a range of a device's blocks such as \
                        extent:emu:size=64m?ns=1&lba=0&len=32m";

impl Target {
    /// Understands a value. The error says what is accepted.
    pub(crate) fn parse(text: &str, base: KbBase) -> Result<Self, String> {
        let Some(url) = text.strip_prefix("extent:") else {
            if text.is_empty() {
                return Err(ACCEPTED.to_owned());
            }
            if ["emu:", "pci:", "vfio-user:"]
                .iter()
                .any(|scheme| text.starts_with(scheme))
            {
                return Err(format!("a device's blocks are written extent:{text}"));
            }
            return Ok(Target::Host(text.to_owned()));
        };
        // What a device is called may have a '?' of its own, in a path.
        let (device, query) = match url.rsplit_once('?') {
            Some((device, query)) if query.contains('=') && !query.contains('/') => (device, query),
            _ => (url, ""),
        };
        let (mut device, mut lba, mut len_bytes) = (device.to_owned(), 0, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "ns" => device = format!("{device}?ns={value}"),
                "lba" => {
                    let found = units::parse_count(value, base);
                    lba = found.ok_or_else(|| format!("lba={value} is not a block's number"))?;
                }
                "len" => {
                    let found = units::parse_bytes(value, base).filter(|bytes| *bytes > 0);
                    let found = found.ok_or_else(|| format!("len={value} is not a length"))?;
                    len_bytes = Some(found);
                }
                _ => {
                    let near = suggest::nearest(key, KEYS.into_iter());
                    let hint =
                        near.map_or(String::new(), |word| format!(" (did you mean {word}?)"));
                    return Err(format!(
                        "after '?' come ns=, lba= and len=, joined by '&', not '{key}'{hint}"
                    ));
                }
            }
        }
        let device: DeviceUrl = device.parse().map_err(|error: DeviceUrlError| error.why)?;
        check_device(&device)?;
        Ok(Target::Extent {
            device,
            lba,
            len_bytes,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Host(path) => f.write_str(path),
            Target::Extent {
                device,
                lba,
                len_bytes,
            } => {
                let mark = if device.nsid.is_some() { '&' } else { '?' };
                write!(f, "extent:{device}{mark}lba={lba}")?;
                match len_bytes {
                    Some(bytes) => write!(f, "&len={bytes}"),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<Target, String> {
        Target::parse(text, KbBase::Binary)
    }

    /// Ranges are understood to the last key, in any order, and written back as they were.
    #[test]
    fn ranges_of_blocks_are_understood() {
        let target = parse("extent:emu:file=/tmp/a?b,size=64m?lba=8k&ns=1&len=1m").unwrap();
        assert_eq!(
            target.to_string(),
            "extent:emu:file=/tmp/a?b,size=64m?ns=1&lba=8192&len=1048576"
        );
        assert_eq!(parse(&target.to_string()).unwrap(), target);
        let bare = parse("extent:emu:size=64m").unwrap();
        assert_eq!(bare.to_string(), "extent:emu:size=64m?lba=0");
        assert_eq!(
            parse("/tmp/extent:file?lba=1").unwrap(),
            Target::Host("/tmp/extent:file?lba=1".to_owned())
        );
    }

    /// Mistakes are named with what would have been right.
    #[test]
    fn mistakes_are_explained() {
        for (text, words) in [
            ("", "extent:emu:"),
            ("emu:size=1m", "extent:emu:size=1m"),
            ("extent:emu:size=1m?lbaa=1", "did you mean lba?"),
            ("extent:emu:size=1m?lba=x", "lba=x"),
            ("extent:emu:size=1m?len=0", "len=0"),
            ("extent:emu:sise=1m", "size"),
            ("extent:emu:size=1m?ns=0", "from 1 up"),
            ("extent:floppy:a", "floppy"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
