//! A device whose memory can be taken away behind the driver's back: a transport and a mapper that
//! pass everything on, and a payload of addresses where nothing is.
use anyhow::{Context, Result};
use std::ops::RangeInclusive;
use std::sync::Arc;
use underpin::dma::rt::Event;
use underpin::dma::rt::sync::Mutex;
use underpin::dma::{DmaSpace, MapRequest, Mapper, MapperError, SpaceId, Span, Word32};
use underpin::nvme::transport::Vfio;
use underpin::nvme::{DeviceAddress, Transport, TransportError};
use underpin::{DeviceUrl, Failure, Iova, Payload};

/// A device on the PCI bus, and what is mapped for it.
#[derive(Debug)]
pub(crate) struct Meddled {
    device: Arc<Vfio>,
    mappings: Arc<Mappings>,
}

impl Meddled {
    pub(crate) fn open(url: &str, space: &DmaSpace) -> Result<Arc<Self>> {
        let url: DeviceUrl = url.parse()?;
        let DeviceAddress::Pci(address) = url.device else {
            anyhow::bail!("{url} is no pci: device");
        };
        let device = Vfio::open(address, space)?;
        let mappings = Arc::new(Mappings {
            inner: device.mapper(),
            there: Mutex::new(Vec::new()),
        });
        Ok(Arc::new(Self { device, mappings }))
    }

    /// How many regions are mapped: what is mapped later has a greater number.
    pub(crate) fn mapped(&self) -> usize {
        self.mappings.there.lock().len()
    }

    /// Takes a region away from the device; the driver is not told.
    pub(crate) fn take_away(&self, number: usize) -> Result<()> {
        let mut there = self.mappings.there.lock();
        let mapping = there.get_mut(number).context("no such mapping")?;
        let (iova, len_bytes) = mapping.context("it was taken away before")?;
        self.mappings.inner.unmap(iova, len_bytes)?;
        *mapping = None;
        println!("taken away: {len_bytes} bytes at {:#x}", iova.get());
        Ok(())
    }
}

#[derive(Debug)]
struct Mappings {
    inner: Arc<dyn Mapper>,
    /// In the order in which they were made.
    there: Mutex<Vec<Option<(Iova, u64)>>>,
}

impl Mapper for Mappings {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn map(&self, request: &MapRequest) -> Result<(), MapperError> {
        self.inner.map(request)?;
        let mapping = Some((request.iova, request.len_bytes()));
        self.there.lock().push(mapping);
        Ok(())
    }
    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), MapperError> {
        let found = |mapping: &Option<(Iova, u64)>| *mapping == Some((iova, len_bytes));
        let mut there = self.there.lock();
        match there.iter().position(found) {
            Some(number) => {
                self.inner.unmap(iova, len_bytes)?;
                if let Some(mapping) = there.get_mut(number) {
                    *mapping = None;
                }
                Ok(())
            }
            // Taken away: nothing is there any more.
            None => Ok(()),
        }
    }
    fn usable(&self) -> Vec<RangeInclusive<u64>> {
        self.inner.usable()
    }
    fn mappings_left(&self) -> Option<usize> {
        self.inner.mappings_left()
    }
}

impl Transport for Meddled {
    fn name(&self) -> String {
        self.device.name()
    }
    fn read32(&self, offset: usize) -> Result<u32, TransportError> {
        self.device.read32(offset)
    }
    fn read64(&self, offset: usize) -> Result<u64, TransportError> {
        self.device.read64(offset)
    }
    fn write32(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        self.device.write32(offset, value)
    }
    fn write64(&self, offset: usize, value: u64) -> Result<(), TransportError> {
        self.device.write64(offset, value)
    }
    fn ring(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        self.device.ring(offset, value)
    }
    fn doorbell_word(&self, offset: usize) -> Option<Word32> {
        self.device.doorbell_word(offset)
    }
    fn mapper(&self) -> Arc<dyn Mapper> {
        Arc::clone(&self.mappings) as Arc<dyn Mapper>
    }
    fn interrupt_count(&self) -> u16 {
        self.device.interrupt_count()
    }
    fn interrupt(&self, vector: u16) -> Result<Event, TransportError> {
        self.device.interrupt(vector)
    }
    fn mask(&self, vector: u16, masked: bool) -> Result<(), TransportError> {
        self.device.mask(vector, masked)
    }
    fn on_loss(&self, tell: Box<dyn Fn(Failure) + Send + Sync>) {
        self.device.on_loss(tell);
    }
    fn sever(&self) -> Result<(), TransportError> {
        self.device.sever()
    }
}

/// Addresses at which nothing is.
#[derive(Debug)]
pub(crate) struct Nowhere {
    pub(crate) space: SpaceId,
    pub(crate) span: Span,
}

// SAFETY: it names no memory; the IOMMU keeps a device from what is not mapped.
unsafe impl Payload for Nowhere {
    fn space_id(&self) -> SpaceId {
        self.space
    }
    fn span(&self, _index: usize) -> Span {
        self.span
    }
}
