//! A controller in this process: the emulator behind the driver's transport seam.
//! Registers are calls; its IOMMU is its own; joining its thread proves the end of DMA.
use super::{Transport, TransportError};
use std::sync::Arc;
use underpin_dma::Mapper;
use underpin_dma::rt::Event;
use underpin_emulator::Emulator;

/// The embedded NVMe controller as a transport.
///
/// ```
/// use underpin_emulator::Emulator;
/// use underpin_nvme::transport::{Embedded, Transport};
///
/// let emulator = Emulator::new("size=1m".parse()?)?;
/// emulator.start_thread()?;
/// let device = Embedded::new("emu0", emulator);
/// assert_eq!(device.read32(0x08)?, 0x0002_0000, "VS says NVMe 2.0.0");
/// assert_eq!(device.emulator().stats().sqes, 0);
/// device.sever()?;
/// assert_eq!(device.read32(0x08)?, u32::MAX, "it is gone, and so is its DMA");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Embedded {
    name: String,
    emulator: Emulator,
    /// Stop it when the transport goes.
    owns: bool,
}

impl Embedded {
    /// A transport to `emulator`, which the caller has started (or steps itself).
    pub fn new(name: &str, emulator: Emulator) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            emulator,
            owns: false,
        })
    }

    /// The same, and `emulator` stops with the transport.
    pub(crate) fn owning(name: &str, emulator: Emulator) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            emulator,
            owns: true,
        })
    }

    /// The controller behind it: for its figures, faults and referee.
    pub const fn emulator(&self) -> &Emulator {
        &self.emulator
    }
}

impl Transport for Embedded {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn read32(&self, offset: usize) -> Result<u32, TransportError> {
        Ok(self.emulator.read32(offset))
    }

    fn read64(&self, offset: usize) -> Result<u64, TransportError> {
        Ok(self.emulator.read64(offset))
    }

    fn write32(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        self.emulator.write32(offset, value);
        Ok(())
    }

    fn write64(&self, offset: usize, value: u64) -> Result<(), TransportError> {
        self.emulator.write64(offset, value);
        Ok(())
    }

    fn mapper(&self) -> Arc<dyn Mapper> {
        self.emulator.mapper()
    }

    fn interrupt_count(&self) -> u16 {
        self.emulator.vector_count()
    }

    fn interrupt(&self, vector: u16) -> Result<Event, TransportError> {
        let failed = |what| TransportError {
            device: self.name.clone(),
            what,
        };
        let event =
            Event::new().map_err(|error| failed(format!("no event could be made: {error}")))?;
        match self.emulator.set_vector(vector, Some(event.clone())) {
            true => Ok(event),
            false => Err(failed(format!("it has no interrupt vector {vector}"))),
        }
    }

    fn mask(&self, vector: u16, masked: bool) -> Result<(), TransportError> {
        self.emulator.mask_vector(vector, masked);
        Ok(())
    }

    fn sever(&self) -> Result<(), TransportError> {
        self.emulator.stop().map_err(|error| TransportError {
            device: self.name.clone(),
            what: error.to_string(),
        })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if self.owns {
            let _ = self.emulator.stop();
        }
    }
}
