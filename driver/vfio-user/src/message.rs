//! Messages as they lie on the wire: a header of 16 bytes and a body for each command.
//! Native byte order: both peers are on one machine. Decoding checks every length.
use crate::Error;
use std::fmt;

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 16;

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What a message asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum Command {
            $($(#[$doc])* $name = $number,)*
        }

        impl Command {
            pub(crate) const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for Command {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $text,)* })
            }
        }
    };
}

commands! {
    /// Agree on a version and capabilities.
    Version = 1, "VERSION";
    /// Give the server a range of DMA addresses.
    DmaMap = 2, "DMA_MAP";
    /// Take it back.
    DmaUnmap = 3, "DMA_UNMAP";
    /// How many regions and kinds of interrupts there are.
    DeviceGetInfo = 4, "DEVICE_GET_INFO";
    /// What a region is, and how to map it.
    GetRegionInfo = 5, "DEVICE_GET_REGION_INFO";
    /// Descriptors by which parts of a region can be written.
    GetRegionIoFds = 6, "DEVICE_GET_REGION_IO_FDS";
    /// How many interrupts of a kind there are.
    GetIrqInfo = 7, "DEVICE_GET_IRQ_INFO";
    /// Tie interrupts to eventfds.
    SetIrqs = 8, "DEVICE_SET_IRQS";
    /// Read a region.
    RegionRead = 9, "REGION_READ";
    /// Write a region.
    RegionWrite = 10, "REGION_WRITE";
    /// Sent by servers: read the client's memory.
    DmaRead = 11, "DMA_READ";
    /// Sent by servers: write the client's memory.
    DmaWrite = 12, "DMA_WRITE";
    /// Reset the device.
    DeviceReset = 13, "DEVICE_RESET";
    /// Dirty pages, for migration.
    DirtyPages = 14, "DIRTY_PAGES";
}

/// Bits of a header's flags.
pub(crate) mod header_flags {
    pub(crate) const TYPE_MASK: u32 = 0xf;
    pub(crate) const COMMAND: u32 = 0;
    pub(crate) const REPLY: u32 = 1;
    pub(crate) const NO_REPLY: u32 = 1 << 4;
    pub(crate) const ERROR: u32 = 1 << 5;
}

/// What every message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u16,
    /// Not yet known to be a command that there is.
    pub(crate) command: u16,
    /// Of the whole message.
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) error: u32,
}

impl Header {
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let mut fields = Fields(bytes);
        // All of them are there: the array is as long as they are together.
        Self {
            id: fields.u16().unwrap_or(0),
            command: fields.u16().unwrap_or(0),
            size: fields.u32().unwrap_or(0),
            flags: fields.u32().unwrap_or(0),
            error: fields.u32().unwrap_or(0),
        }
    }

    pub(crate) const fn is_reply(&self) -> bool {
        self.flags & header_flags::TYPE_MASK == header_flags::REPLY
    }

    pub(crate) const fn is_command(&self) -> bool {
        self.flags & header_flags::TYPE_MASK == header_flags::COMMAND
    }

    pub(crate) const fn wants_no_reply(&self) -> bool {
        self.flags & header_flags::NO_REPLY != 0
    }

    pub(crate) const fn is_error(&self) -> bool {
        self.flags & header_flags::ERROR != 0
    }

    /// The command's name for messages.
    pub(crate) fn name(&self) -> String {
        match Command::from_number(self.command) {
            Some(command) => command.to_string(),
            None => format!("command {}", self.command),
        }
    }
}

/// A whole message: header and body in one buffer.
pub(crate) fn encode(id: u16, command: u16, flags: u32, error: u32, body: &[&[u8]]) -> Vec<u8> {
    let len = HEADER_BYTES + body.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(len);
    bytes.extend(id.to_ne_bytes());
    bytes.extend(command.to_ne_bytes());
    // Bodies are bounded far below 4 GiB by what the peers may transfer at a time.
    bytes.extend((len as u32).to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(error.to_ne_bytes());
    body.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// A cursor over a body; `None` where it ends too early.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    /// What is left.
    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }
}

fn truncated(what: &str, needed: usize, has: usize) -> Error {
    Error::Protocol(format!("{what} has {has} bytes; it needs {needed}"))
}

/// A body of a fixed layout.
macro_rules! body {
    (
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident, $text:literal, $bytes:literal {
            $($(#[$doc:meta])* $field:ident: $kind:ident,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        $visibility struct $name {
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl $name {
            /// Bytes on the wire, without what may follow.
            pub(crate) const LEN_BYTES: usize = $bytes;

            /// Reads it, and gives what follows it in the body.
            pub(crate) fn decode(body: &[u8]) -> Result<(Self, &[u8]), Error> {
                let mut fields = Fields(body);
                let mut read = || Some(Self { $($field: fields.$kind()?,)* });
                let decoded = read().ok_or_else(|| truncated($text, $bytes, body.len()))?;
                Ok((decoded, fields.rest()))
            }

            pub(crate) fn encode(&self) -> Vec<u8> {
                let mut bytes = Vec::with_capacity(Self::LEN_BYTES);
                $(bytes.extend(self.$field.to_ne_bytes());)*
                bytes
            }
        }
    };
}

body! {
    /// A range of DMA addresses and what backs it.
    ///
    /// ```
    /// use underpin_vfio_user::{DmaMap, dma_flags};
    ///
    /// let map = DmaMap {
    ///     flags: dma_flags::READ,
    ///     address: 4 << 30,
    ///     size: 2 << 20,
    ///     ..DmaMap::default()
    /// };
    /// assert_eq!(map.offset, 0, "from the beginning of its file on");
    /// ```
    pub struct DmaMap, "DMA_MAP", 32 {
        /// Bytes of this structure.
        argsz: u32,
        /// See [`dma_flags`].
        flags: u32,
        /// Where in the file that comes with the message the range begins.
        offset: u64,
        /// The first DMA address.
        address: u64,
        /// How many bytes.
        size: u64,
    }
}

/// What a server may do with a range, as [`DmaMap::flags`] says it.
pub mod dma_flags {
    /// The server may read it.
    pub const READ: u32 = 1;
    /// The server may write it.
    pub const WRITE: u32 = 1 << 1;
}

body! {
    /// A range of DMA addresses to be taken back.
    ///
    /// ```
    /// use underpin_vfio_user::{DmaUnmap, unmap_flags};
    ///
    /// let all = DmaUnmap { flags: unmap_flags::ALL, ..DmaUnmap::default() };
    /// assert_eq!((all.address, all.size), (0, 0), "they do not count then");
    /// ```
    pub struct DmaUnmap, "DMA_UNMAP", 24 {
        /// Bytes of this structure.
        argsz: u32,
        /// See [`unmap_flags`].
        flags: u32,
        /// The first DMA address.
        address: u64,
        /// How many bytes.
        size: u64,
    }
}

/// Bits of [`DmaUnmap::flags`].
pub mod unmap_flags {
    /// Report the pages that were written; for migration.
    pub const DIRTY_BITMAP: u32 = 1;
    /// All ranges, whatever address and size say.
    pub const ALL: u32 = 1 << 1;
}

body! {
    /// What a device is.
    ///
    /// ```
    /// use underpin_vfio_user::{DeviceInfo, device_flags, irq};
    ///
    /// let info = DeviceInfo {
    ///     flags: device_flags::PCI | device_flags::RESET,
    ///     num_regions: 9,
    ///     num_irqs: irq::PCI_KINDS,
    ///     ..DeviceInfo::default()
    /// };
    /// assert_ne!(info.flags & device_flags::PCI, 0);
    /// ```
    pub struct DeviceInfo, "device info", 16 {
        /// Bytes of this structure.
        argsz: u32,
        /// See [`device_flags`].
        flags: u32,
        /// How many regions there are.
        num_regions: u32,
        /// How many kinds of interrupts there are.
        num_irqs: u32,
    }
}

/// Bits of [`DeviceInfo::flags`].
pub mod device_flags {
    /// DEVICE_RESET is supported.
    pub const RESET: u32 = 1;
    /// It is a PCI device: regions and interrupts have the numbers of `linux/vfio.h`.
    pub const PCI: u32 = 1 << 1;
}

body! {
    /// A region, without its capabilities.
    pub(crate) struct RegionHead, "region info", 32 {
        /// Bytes of this structure with its capabilities, or what the asker has room for.
        argsz: u32,
        flags: u32,
        index: u32,
        cap_offset: u32,
        size: u64,
        offset: u64,
    }
}

/// Bits of [`RegionInfo::flags`](crate::RegionInfo::flags).
pub mod region_flags {
    /// It can be read.
    pub const READ: u32 = 1;
    /// It can be written.
    pub const WRITE: u32 = 1 << 1;
    /// Parts of it can be mapped.
    pub const MMAP: u32 = 1 << 2;
    /// Capabilities follow.
    pub const CAPS: u32 = 1 << 3;
}

body! {
    /// A kind of interrupts.
    ///
    /// ```
    /// use underpin_vfio_user::{IrqInfo, irq};
    ///
    /// let msix = IrqInfo { index: irq::MSIX, flags: irq::CAN_EVENTFD, count: 17, ..IrqInfo::default() };
    /// assert_eq!(msix.flags & irq::MASKABLE, 0);
    /// ```
    pub struct IrqInfo, "interrupt info", 16 {
        /// Bytes of this structure.
        argsz: u32,
        /// See [`irq`].
        flags: u32,
        /// Which kind; see [`irq`].
        index: u32,
        /// How many there are of it.
        count: u32,
    }
}

body! {
    /// What is to be done with interrupts.
    ///
    /// ```
    /// use underpin_vfio_user::{SetIrqs, irq};
    ///
    /// // Tie vectors 0 to 3 to four eventfds, which come with the message.
    /// let tie = SetIrqs {
    ///     flags: irq::DATA_EVENTFD | irq::TRIGGER,
    ///     index: irq::MSIX,
    ///     count: 4,
    ///     ..SetIrqs::default()
    /// };
    /// assert_eq!(tie.start, 0);
    /// ```
    pub struct SetIrqs, "DEVICE_SET_IRQS", 20 {
        /// Bytes of this structure.
        argsz: u32,
        /// A kind of data and an action; see [`irq`].
        flags: u32,
        /// Which kind of interrupts.
        index: u32,
        /// The first of them.
        start: u32,
        /// How many.
        count: u32,
    }
}

/// Numbers and bits about interrupts, as in `linux/vfio.h`.
pub mod irq {
    /// Kind: MSI-X of a PCI device.
    pub const MSIX: u32 = 2;
    /// Kinds that a PCI device has: INTx, MSI, MSI-X, error, request.
    pub const PCI_KINDS: u32 = 5;
    /// Info: they can be tied to eventfds.
    pub const CAN_EVENTFD: u32 = 1;
    /// Info: they can be masked by SET_IRQS.
    pub const MASKABLE: u32 = 1 << 1;
    /// Info: their number cannot be changed piece by piece.
    pub const NO_RESIZE: u32 = 1 << 3;
    /// Set: there is no data.
    pub const DATA_NONE: u32 = 1;
    /// Set: a byte for each, true or false.
    pub const DATA_BOOL: u32 = 1 << 1;
    /// Set: an eventfd for each.
    pub const DATA_EVENTFD: u32 = 1 << 2;
    /// Set: mask them.
    pub const MASK: u32 = 1 << 3;
    /// Set: unmask them.
    pub const UNMASK: u32 = 1 << 4;
    /// Set: tie them to eventfds, or raise them now.
    pub const TRIGGER: u32 = 1 << 5;
}

body! {
    /// An access to a region; the data follow a write, and a read's reply.
    pub(crate) struct RegionAccess, "a region access", 16 {
        offset: u64,
        region: u32,
        count: u32,
    }
}

body! {
    /// A version; capabilities follow as JSON.
    pub(crate) struct VersionHead, "VERSION", 4 {
        major: u16,
        minor: u16,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Layouts are the protocol's: offsets counted by hand from `linux/vfio.h` and the
    /// specification's tables, not from our own encoder.
    #[test]
    fn bodies_lie_where_the_protocol_has_them() {
        let map = DmaMap {
            argsz: 32,
            flags: 3,
            offset: 0x1122,
            address: 0x1_0000_0000,
            size: 0x20_0000,
        };
        let bytes = map.encode();
        assert_eq!(bytes.len(), DmaMap::LEN_BYTES);
        assert_eq!(bytes[4], 3);
        assert_eq!(bytes[8..16], 0x1122_u64.to_ne_bytes());
        assert_eq!(bytes[16..24], 0x1_0000_0000_u64.to_ne_bytes());
        assert_eq!(DmaMap::decode(&bytes).unwrap(), (map, &[][..]));

        let message = encode(
            7,
            Command::RegionRead as u16,
            1 | 1 << 5,
            22,
            &[&[1, 2], &[3]],
        );
        assert_eq!(message.len(), 19);
        let header = Header::decode(message.first_chunk().unwrap());
        assert_eq!((header.id, header.command, header.size), (7, 9, 19));
        assert!(header.is_reply() && header.is_error() && !header.wants_no_reply());
        assert_eq!(header.error, 22);
    }

    /// One byte less than a body needs is an error that names both numbers.
    #[test]
    fn short_bodies_are_refused() {
        let error = SetIrqs::decode(&[0; 19]).unwrap_err().to_string();
        assert!(
            error.contains("19 bytes") && error.contains("needs 20"),
            "{error}"
        );
        assert_eq!(SetIrqs::decode(&[0; 21]).unwrap().1, [0]);
    }
}
