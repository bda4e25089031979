//! What peers tell each other with VERSION: limits, as JSON with a NUL behind it.
//! Keys that are not known are passed over; known ones must make sense.
use crate::Error;
use serde_json::{Value, json};

/// The limits of one peer: what it can take from the other.
///
/// ```
/// use underpin_vfio_user::Capabilities;
///
/// // What holds for a peer that says nothing of itself.
/// let silent = Capabilities::default();
/// assert_eq!((silent.max_msg_fds, silent.pgsizes), (1, 4096));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// File descriptors in one message.
    pub max_msg_fds: u32,
    /// Bytes of one access to a region.
    pub max_data_xfer_size: u32,
    /// Ranges of DMA addresses at a time.
    pub max_dma_maps: u32,
    /// Page sizes of DMA ranges, one bit each.
    pub pgsizes: u64,
}

impl Default for Capabilities {
    /// What holds for a peer that says nothing.
    fn default() -> Self {
        Self {
            max_msg_fds: 1,
            max_data_xfer_size: 1 << 20,
            max_dma_maps: 65535,
            pgsizes: 4096,
        }
    }
}

impl Capabilities {
    /// As JSON, with the NUL.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let text = json!({ "capabilities": {
            "max_msg_fds": self.max_msg_fds,
            "max_data_xfer_size": self.max_data_xfer_size,
            "max_dma_maps": self.max_dma_maps,
            "pgsizes": self.pgsizes,
        }});
        let mut bytes = text.to_string().into_bytes();
        bytes.push(0);
        bytes
    }

    /// Reads what follows a version. None at all is allowed.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut found = Self::default();
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        if bytes.is_empty() {
            return Ok(found);
        }
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| Error::Protocol(format!("VERSION's data is no JSON: {error}")))?;
        let Some(capabilities) = value.get("capabilities") else {
            return Ok(found);
        };
        let number = |key: &str, default: u64, least: u64| match capabilities.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .filter(|value| *value >= least)
                .ok_or_else(|| {
                    Error::Protocol(format!(
                        "capability {key} is {value}; a number from {least} up is wanted"
                    ))
                }),
        };
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        found.max_msg_fds = small(number("max_msg_fds", u64::from(found.max_msg_fds), 0)?);
        found.max_data_xfer_size = small(number(
            "max_data_xfer_size",
            u64::from(found.max_data_xfer_size),
            8,
        )?);
        found.max_dma_maps = small(number("max_dma_maps", u64::from(found.max_dma_maps), 1)?);
        found.pgsizes = number("pgsizes", found.pgsizes, 1)?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn limits_round_trip_and_silence_means_the_defaults() {
        let limits = Capabilities {
            max_msg_fds: 64,
            max_data_xfer_size: 65536,
            max_dma_maps: 7,
            pgsizes: 4096 | 1 << 21,
        };
        assert_eq!(Capabilities::decode(&limits.encode()).unwrap(), limits);
        for text in [
            "",
            "\0",
            "{}\0",
            "{\"capabilities\":{}}",
            "{\"capabilities\":{\"x\":[1]}}\0",
        ] {
            let found = Capabilities::decode(text.as_bytes()).unwrap();
            assert_eq!(found, Capabilities::default(), "{text:?}");
        }
    }

    /// What a peer can do to a parser: garbage, other types, absurd values, endless nesting.
    #[test]
    fn nonsense_is_refused_and_deep_nesting_ends() {
        let deep = "[".repeat(100_000);
        for text in [
            "{",
            "\u{1}",
            deep.as_str(),
            "{\"capabilities\":{\"max_msg_fds\":-1}}",
            "{\"capabilities\":{\"max_msg_fds\":\"many\"}}",
            "{\"capabilities\":{\"max_data_xfer_size\":0}}",
            "{\"capabilities\":{\"pgsizes\":1e400}}",
        ] {
            let error = Capabilities::decode(text.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Protocol(_)), "{error}");
        }
        let large = "{\"capabilities\":{\"max_msg_fds\":18446744073709551615}}";
        assert_eq!(
            Capabilities::decode(large.as_bytes()).unwrap().max_msg_fds,
            u32::MAX
        );
    }
}
