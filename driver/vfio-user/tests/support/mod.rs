//! What the tests of hostile peers share: raw messages, descriptors counted, a device of bytes.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use underpin_vfio_user::{
    Area, Device, DeviceInfo, DmaMap, DmaUnmap, IrqInfo, Refusal, RegionInfo, SetIrqs,
    device_flags, irq, region_flags,
};

/// A message, byte by byte, with whatever size it claims to have.
pub(crate) fn raw(
    id: u16,
    command: u16,
    size: u32,
    flags: u32,
    error: u32,
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(id.to_ne_bytes());
    bytes.extend(command.to_ne_bytes());
    bytes.extend(size.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(error.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// A message that says the truth about its size.
pub(crate) fn message(id: u16, command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    raw(id, command, 16 + body.len() as u32, flags, 0, body)
}

/// Numbers one after the other, as bodies have them.
pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Version 0.1 without capabilities.
pub(crate) fn version() -> Vec<u8> {
    words(&[1 << 16])
}

/// Sends bytes with so many descriptors of /dev/null.
pub(crate) fn send_with_fds(socket: &UnixStream, bytes: &[u8], count: usize) {
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = vec![null.as_fd(); count];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
}

/// Descriptors that this process has open.
pub(crate) fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A device of one region of bytes, and what it was told.
#[derive(Default)]
pub(crate) struct Bytes {
    pub(crate) bytes: Vec<u8>,
    pub(crate) clients_gone: usize,
    pub(crate) maps: Vec<(u64, u64)>,
    pub(crate) events: Vec<OwnedFd>,
}

impl Bytes {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; 4096],
            ..Self::default()
        }
    }

    fn range(&mut self, offset: u64, len: usize) -> &mut [u8] {
        let at = offset as usize;
        self.bytes
            .get_mut(at..at + len)
            .expect("checked by the server")
    }
}

impl Device for Bytes {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            flags: device_flags::PCI | device_flags::RESET,
            num_regions: 1,
            num_irqs: 3,
            ..DeviceInfo::default()
        }
    }

    fn region(&self, index: u32) -> Option<RegionInfo> {
        (index == 0).then(|| RegionInfo {
            flags: region_flags::READ | region_flags::WRITE | region_flags::MMAP,
            size: self.bytes.len() as u64,
            offset: 0,
            areas: vec![Area {
                offset: 0,
                size: 4096,
            }],
        })
    }

    fn region_file(&mut self, _index: u32) -> Option<BorrowedFd<'_>> {
        None
    }

    fn irq(&self, index: u32) -> Option<IrqInfo> {
        (index < 3).then(|| IrqInfo {
            count: if index == irq::MSIX { 4 } else { 0 },
            ..IrqInfo::default()
        })
    }

    fn read(&mut self, _region: u32, offset: u64, data: &mut [u8]) -> Result<(), Refusal> {
        data.copy_from_slice(self.range(offset, data.len()));
        Ok(())
    }

    fn write(&mut self, _region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        self.range(offset, data.len()).copy_from_slice(data);
        Ok(())
    }

    fn set_irqs(
        &mut self,
        request: &SetIrqs,
        _bools: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        assert!(request.start + request.count <= 4, "checked by the server");
        self.events = fds;
        Ok(())
    }

    fn map(&mut self, map: &DmaMap, _file: Option<OwnedFd>) -> Result<(), Refusal> {
        self.maps.push((map.address, map.size));
        Ok(())
    }

    fn unmap(&mut self, unmap: &DmaUnmap) -> Result<(), Refusal> {
        let found = self
            .maps
            .iter()
            .position(|map| *map == (unmap.address, unmap.size));
        self.maps
            .remove(found.ok_or_else(|| Refusal::absent("no such range"))?);
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Refusal> {
        self.bytes.fill(0);
        Ok(())
    }

    fn gone(&mut self) {
        self.maps.clear();
        self.events.clear();
        self.clients_gone += 1;
    }
}
