//! A transport that hears what the driver tells the device, so that a test can read rings and
//! lists out of raw memory and judge them by the specification alone.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use underpin::Iova;
use underpin::dma::rt::sync::Mutex;
use underpin::dma::{MapRequest, Mapper, MapperError};
use underpin::nvme::transport::Embedded;
use underpin::nvme::{Transport, TransportError};

/// Dword `index` of a queue entry.
pub(crate) fn dword(entry: &[u8; 64], index: usize) -> u32 {
    u32::from_le_bytes(entry[4 * index..4 * index + 4].try_into().unwrap())
}

/// What the host told the device: where the admin ring lies, and all memory that it mapped.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    asq: AtomicU64,
    mapped: Mutex<BTreeMap<u64, MapRequest>>,
}

impl Seen {
    /// Reads memory as the device would, by IOVA.
    pub(crate) fn read(&self, iova: u64, into: &mut [u8]) -> bool {
        let mapped = self.mapped.lock();
        let Some((first, request)) = mapped.range(..=iova).next_back() else {
            return false;
        };
        let offset = usize::try_from(iova - first).unwrap();
        match request.memory.part(offset, into.len()) {
            Ok(view) => view.copy_to(0, into).is_ok(),
            Err(_) => false,
        }
    }

    /// Entry `index` of the ring at `ring`.
    pub(crate) fn entry(&self, ring: u64, index: usize) -> [u8; 64] {
        let mut entry = [0; 64];
        let at = ring + 64 * index as u64;
        assert!(self.read(at, &mut entry), "no memory is mapped at {at:#x}");
        entry
    }

    /// Where the I/O submission queue `qid` lies, and how many entries it has, found in the admin
    /// ring: Create I/O Submission Queue has opcode 01h, PRP1 the ring, CDW10 identifier and size
    /// counted from 0 (NVMe Base 2.0, 5.5).
    pub(crate) fn io_ring(&self, qid: u16) -> (u64, usize) {
        let asq = self.asq.load(Ordering::Relaxed);
        let created = (0..32)
            .map(|index| self.entry(asq, index))
            .rfind(|entry| entry[0] == 0x01 && dword(entry, 10) & 0xffff == u32::from(qid))
            .expect("no Create I/O Submission Queue in the admin ring");
        let ring = u64::from(dword(&created, 6)) | u64::from(dword(&created, 7)) << 32;
        (ring, (dword(&created, 10) >> 16) as usize + 1)
    }
}

/// The embedded transport, overheard.
#[derive(Debug)]
pub(crate) struct Overheard {
    inner: Arc<Embedded>,
    seen: Arc<Seen>,
}

impl Overheard {
    pub(crate) fn new(inner: &Arc<Embedded>) -> (Arc<Self>, Arc<Seen>) {
        let seen = Arc::new(Seen::default());
        let overheard = Self {
            inner: Arc::clone(inner),
            seen: Arc::clone(&seen),
        };
        (Arc::new(overheard), seen)
    }
}

impl Transport for Overheard {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn read32(&self, offset: usize) -> Result<u32, TransportError> {
        self.inner.read32(offset)
    }
    fn read64(&self, offset: usize) -> Result<u64, TransportError> {
        self.inner.read64(offset)
    }
    fn write32(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        self.inner.write32(offset, value)
    }
    fn write64(&self, offset: usize, value: u64) -> Result<(), TransportError> {
        // ASQ is register 28h (NVMe Base 2.0, 3.1.3).
        if offset == 0x28 {
            self.seen.asq.store(value, Ordering::Relaxed);
        }
        self.inner.write64(offset, value)
    }
    fn mapper(&self) -> Arc<dyn Mapper> {
        Arc::new(OverheardMapper {
            inner: self.inner.mapper(),
            seen: Arc::clone(&self.seen),
        })
    }
    fn sever(&self) -> Result<(), TransportError> {
        self.inner.sever()
    }
}

#[derive(Debug)]
struct OverheardMapper {
    inner: Arc<dyn Mapper>,
    seen: Arc<Seen>,
}

impl Mapper for OverheardMapper {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn map(&self, request: &MapRequest) -> Result<(), MapperError> {
        self.inner.map(request)?;
        let mut mapped = self.seen.mapped.lock();
        mapped.insert(request.iova.get(), request.clone());
        Ok(())
    }
    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), MapperError> {
        self.inner.unmap(iova, len_bytes)?;
        self.seen.mapped.lock().remove(&iova.get());
        Ok(())
    }
    fn usable(&self) -> Vec<RangeInclusive<u64>> {
        self.inner.usable()
    }
}
