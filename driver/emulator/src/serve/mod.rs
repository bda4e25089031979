//! The controller as a vfio-user device: other processes drive it through a Unix socket.
//!
//! A client finds a PCI device: BAR0 with the registers, and the doorbells at 0x1000 also as a
//! page that it can map; MSI-X interrupts by eventfd; a configuration space. It gives memory by
//! descriptor; what it takes back, or leaves behind, no DMA reaches any more.
//!
//! [`Served`] shows one that serves a client of its own process.
mod dma;
mod irqs;
mod pci;

use crate::doorbells::{self, DoorbellPage};
use crate::{Emulator, EmulatorConfig, EmulatorError};
use dma::DmaTable;
use irqs::Irqs;
use pci::ConfigSpace;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use underpin_dma::rt::{self, Instant};
use underpin_nvme_spec::registers::{Cc, Csts, offset};
use underpin_vfio_user::{
    Area, Device, DeviceInfo, DmaMap, DmaUnmap, IrqInfo, Listener, Refusal, RegionInfo,
    ServerOptions, SetIrqs, device_flags, irq, region_flags,
};

/// Choices about serving.
///
/// ```
/// use underpin_emulator::serve::ServeOptions;
///
/// let for_spdk = ServeOptions { allow_unsealed: true, ..ServeOptions::default() };
/// assert!(!ServeOptions::default().allow_unsealed && for_spdk.allow_unsealed);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ServeOptions {
    /// Take memory whose owner could shrink it, too, as SPDK and QEMU give it. Such a client can
    /// end this process with SIGBUS.
    pub allow_unsealed: bool,
    /// Deadlines and limits of the protocol.
    pub protocol: ServerOptions,
}

/// Why a controller cannot be served.
///
/// ```
/// use underpin_emulator::serve::{ServeError, ServeOptions, Served};
///
/// let path = "/nowhere/nvme.sock".as_ref();
/// let error = Served::bind(path, "size=1m".parse()?, ServeOptions::default()).unwrap_err();
/// assert!(matches!(error, ServeError::Socket(_)));
/// # Ok::<(), underpin_emulator::EmulatorError>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The controller itself cannot be had.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// The socket cannot be had, or failed.
    #[error(transparent)]
    Socket(#[from] underpin_vfio_user::Error),
    /// The doorbell page cannot be had.
    #[error("no memory for the doorbells: {0}")]
    Memory(#[from] underpin_dma::Error),
}

/// A controller and the socket at which it is served.
///
/// ```
/// use underpin_dma::rt::{Event, thread};
/// use underpin_emulator::serve::{ServeOptions, Served};
/// use underpin_vfio_user::{Client, ClientOptions};
///
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("nvme.sock");
/// let served = Served::bind(&path, "size=1m".parse()?, ServeOptions::default())?;
/// assert_eq!(served.path(), path);
/// let emulator = served.emulator().clone();
/// let stop = Event::new()?;
/// let stopped = stop.clone();
/// let server = thread::spawn("server", move || served.run(&stopped))?;
///
/// let client = Client::connect(&path, ClientOptions::default())?;
/// let mut vs = [0; 4];
/// client.region_read(0, 0x08, &mut vs)?;
/// assert_eq!(u32::from_le_bytes(vs), emulator.read32(0x08));
/// client.end()?;
///
/// stop.signal();
/// server.join().expect("no panic")?;
/// assert!(!path.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Served {
    // Dropped first: nobody may connect to a controller that is going.
    listener: Listener,
    emulator: Emulator,
    options: ServeOptions,
}

impl Served {
    /// Makes the controller, starts it, and makes the socket. Clients can connect from now on;
    /// they are served by [`run`](Self::run).
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn bind(
        path: &Path,
        mut config: EmulatorConfig,
        options: ServeOptions,
    ) -> Result<Self, ServeError> {
        // The client knows what its own IOMMU could do; this one can reach everything.
        config.usable = vec![0..=u64::MAX];
        let emulator = Emulator::new(config)?;
        let listener = Listener::bind(path)?;
        emulator.start_thread()?;
        Ok(Self {
            listener,
            emulator,
            options,
        })
    }

    /// The controller, for its figures and faults.
    pub const fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// Where it is served.
    pub fn path(&self) -> &Path {
        self.listener.path()
    }

    /// Serves one client after another until `stop` becomes readable.
    ///
    /// # Errors
    /// [`ServeError`] when the socket fails or there is no memory for a page of doorbells; what
    /// clients do wrong ends with them.
    pub fn run(&self, stop: &impl AsFd) -> Result<(), ServeError> {
        let mut device = NvmeDevice::new(&self.emulator, self.options)?;
        self.listener
            .serve(&mut device, self.options.protocol, stop.as_fd())?;
        Ok(())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.emulator.stop();
    }
}

/// The region with the registers.
const BAR0: u32 = 0;
/// The region with the MSI-X table and its pending bits.
const BAR4: u32 = 4;
/// The region of the configuration space.
const CONFIG: u32 = 7;
/// Regions of a PCI device: six BARs, ROM, configuration space, VGA.
const REGIONS: u32 = 9;
const BAR4_BYTES: u64 = 0x2000;
/// How long a controller may take to stop.
const RESET_TIMEOUT: Duration = Duration::from_secs(2);

/// The controller as the protocol sees it.
#[derive(Debug)]
struct NvmeDevice {
    emulator: Emulator,
    config: ConfigSpace,
    dma: DmaTable,
    irqs: Irqs,
    page: Arc<DoorbellPage>,
    bar0_bytes: u64,
    doorbell_bytes: u64,
}

impl NvmeDevice {
    fn new(emulator: &Emulator, options: ServeOptions) -> Result<Self, ServeError> {
        let bar = &emulator.shared().bar;
        let doorbell_bytes = doorbells::bytes(bar.doorbell_count(), bar.stride_bytes()) as u64;
        let bar0_bytes = (offset::DOORBELLS as u64 + doorbell_bytes).next_power_of_two();
        let page = DoorbellPage::new(bar.doorbell_count(), bar.stride_bytes())?;
        bar.set_page(Some(Arc::clone(&page)));
        let iommu = Arc::clone(&emulator.shared().iommu);
        Ok(Self {
            emulator: emulator.clone(),
            config: ConfigSpace::new(bar0_bytes, BAR4_BYTES, emulator.vector_count()),
            dma: DmaTable::new(iommu, options),
            irqs: Irqs::new(emulator.clone()),
            page,
            bar0_bytes,
            doorbell_bytes,
        })
    }

    /// CC.EN = 0, and wait until the controller has followed: no DMA is under way then.
    fn disable(&self) -> Result<(), Refusal> {
        let bar = &self.emulator.shared().bar;
        let cc = Cc(self.emulator.read32(offset::CC));
        self.emulator
            .write32(offset::CC, cc.with_en(false).with_shn(0).0);
        let deadline = Instant::now() + RESET_TIMEOUT;
        let stopped = rt::wait(Some(deadline), |_now| {
            let disabled = !Csts(self.emulator.read32(offset::CSTS)).rdy();
            (bar.is_followed() && (disabled || bar.is_removed())).then_some(())
        });
        stopped.map_err(|_| {
            Refusal::io(format!(
                "the controller is not disabled after {RESET_TIMEOUT:?}"
            ))
        })
    }

    fn read_registers(&self, at: u64, data: &mut [u8]) -> Result<(), Refusal> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        // Registers are 4 or 8 bytes; narrower reads get their part of one.
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let place = at + done;
            if place.is_multiple_of(8) && rest.len() >= 8 {
                let value = self.emulator.read64(place).to_le_bytes();
                rest.iter_mut().zip(value).for_each(|(to, from)| *to = from);
                done += 8;
            } else {
                let skip = place % 4;
                let value = self.emulator.read32(place - skip).to_le_bytes();
                let part = value.get(skip..).unwrap_or_default();
                rest.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
                done += part.len().min(rest.len());
            }
        }
        Ok(())
    }

    fn write_registers(&self, at: u64, data: &[u8]) -> Result<(), Refusal> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        // Base 2.0, 3.1.1: host software does not write a register in parts.
        if !at.is_multiple_of(4) || !data.len().is_multiple_of(4) {
            return Err(Refusal::invalid(format!(
                "{} bytes written to registers at {at:#x}",
                data.len()
            )));
        }
        for (index, word) in data.as_chunks::<4>().0.iter().enumerate() {
            self.emulator
                .write32(at + 4 * index, u32::from_le_bytes(*word));
        }
        Ok(())
    }
}

impl Device for NvmeDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            flags: device_flags::PCI | device_flags::RESET,
            num_regions: REGIONS,
            num_irqs: irq::PCI_KINDS,
            ..DeviceInfo::default()
        }
    }

    fn region(&self, index: u32) -> Option<RegionInfo> {
        let both = region_flags::READ | region_flags::WRITE;
        Some(match index {
            BAR0 => RegionInfo {
                flags: both | region_flags::MMAP,
                size: self.bar0_bytes,
                offset: 0,
                areas: vec![Area {
                    offset: offset::DOORBELLS as u64,
                    size: self.doorbell_bytes,
                }],
            },
            BAR4 => RegionInfo {
                flags: both,
                size: BAR4_BYTES,
                ..RegionInfo::default()
            },
            CONFIG => RegionInfo {
                flags: both,
                size: self.config.len_bytes(),
                ..RegionInfo::default()
            },
            index if index < REGIONS => RegionInfo::default(),
            _ => return None,
        })
    }

    fn region_file(&mut self, index: u32) -> Option<BorrowedFd<'_>> {
        if index != BAR0 {
            return None;
        }
        // From now on doorbells may be written without a message.
        self.emulator.shared().bar.watch_page();
        self.page.file()
    }

    fn irq(&self, index: u32) -> Option<IrqInfo> {
        let (flags, count) = match index {
            irq::MSIX => (
                irq::CAN_EVENTFD | irq::MASKABLE | irq::NO_RESIZE,
                self.irqs.count(),
            ),
            index if index < irq::PCI_KINDS => (0, 0),
            _ => return None,
        };
        Some(IrqInfo {
            flags,
            count,
            ..IrqInfo::default()
        })
    }

    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Refusal> {
        match region {
            BAR0 => self.read_registers(offset, data),
            CONFIG => {
                self.config.read(offset, data);
                Ok(())
            }
            // The MSI-X table is the client's own affair: it ties vectors to eventfds.
            _ => {
                data.fill(0);
                Ok(())
            }
        }
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        match region {
            BAR0 => self.write_registers(offset, data),
            CONFIG => {
                self.config.write(offset, data);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn set_irqs(
        &mut self,
        request: &SetIrqs,
        bools: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        self.irqs.set(request, bools, fds)
    }

    fn map(&mut self, map: &DmaMap, file: Option<OwnedFd>) -> Result<(), Refusal> {
        self.dma.map(map, file)
    }

    fn unmap(&mut self, unmap: &DmaUnmap) -> Result<(), Refusal> {
        self.dma.unmap(unmap)
    }

    fn reset(&mut self) -> Result<(), Refusal> {
        self.disable()?;
        self.irqs.clear();
        self.config.reset();
        Ok(())
    }

    fn gone(&mut self) {
        // The mappings first: whatever the controller is about, it reaches nothing after this.
        self.dma.clear();
        self.irqs.clear();
        self.config.reset();
        if let Err(refusal) = self.disable() {
            tracing::warn!(emulator = self.emulator.name(), %refusal, "left as it is");
        }
        // The client may have the page mapped for as long as it likes; the next gets another.
        let bar = &self.emulator.shared().bar;
        match DoorbellPage::new(bar.doorbell_count(), bar.stride_bytes()) {
            Ok(page) => {
                bar.set_page(Some(Arc::clone(&page)));
                self.page = page;
            }
            Err(error) => {
                tracing::error!(%error, "no fresh page of doorbells; messages only from now on");
                bar.set_page(None);
            }
        }
    }
}
