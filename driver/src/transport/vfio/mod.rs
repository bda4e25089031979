//! A controller on the PCI bus, given to this process by the kernel's VFIO: BAR0 mapped, DMA held
//! by the IOMMU, interrupts by eventfd, and an end that is proven whatever becomes of the device.
//!
//! `sysfs` says what is in the way, `context` is the IOMMU's side with its `groups`, `device` the
//! function's, `bar` its registers; `info` and `config` read what kernel and device say; `kernel` makes the calls.
mod bar;
mod config;
mod context;
mod device;
mod groups;
mod info;
mod kernel;
mod sysfs;
mod watch;

use super::{Transport, TransportError};
use crate::{Failure, PciAddress};
use bar::Bar;
use context::Context;
use device::Device;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sysfs::Places;
use underpin_dma::rt::sync::{Mutex, OnceLock};
use underpin_dma::rt::{Event, thread};
use underpin_dma::{DmaSpace, Mapper, Word32};
use vfio_bindings::bindings::vfio;
use watch::Watched;

/// A controller on the PCI bus that is bound to `vfio-pci`.
///
/// Root is not needed where the nodes under `/dev/vfio` may be opened and enough memory may be
/// locked (RLIMIT_MEMLOCK); what is missing is told in one message. Where the kernel offers both,
/// it is opened through iommufd, else by its group in a container of type 1; devices opened into
/// one [`DmaSpace`] share the container or address space.
///
/// A thread sleeps until the kernel wants the device back: then the controller fails with
/// [`Failure::Reclaimed`], and the device is let go at once.
#[derive(Debug)]
pub struct Vfio {
    shared: Arc<Shared>,
    watched: Arc<Watched>,
    watcher: Option<thread::JoinHandle<()>>,
}

/// What the thread that watches has a part in.
struct Shared {
    name: String,
    context: Arc<Context>,
    bar: Bar,
    vectors: u16,
    /// `None` once it has been let go.
    device: Mutex<Option<Device>>,
    /// The device is let go, or is being: registers are nobody's.
    is_closed: AtomicBool,
    /// How its end went.
    end: OnceLock<Result<(), String>>,
    /// What each vector signals.
    events: Mutex<Vec<(u16, Event)>>,
    loss: Mutex<Loss>,
}

/// The device's loss, and who is told of it.
#[derive(Default)]
struct Loss {
    tell: Option<Box<dyn Fn(Failure) + Send + Sync>>,
    /// It came before anybody asked.
    came: Option<Failure>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.name)
            .field("context", &self.context)
            .field("is_closed", &self.is_closed)
            .finish_non_exhaustive()
    }
}

impl Vfio {
    /// Opens the function at `address` for `space`. The kernel resets it, which can take 100 ms
    /// and more.
    ///
    /// # Errors
    /// [`TransportError`] with one message that names what is missing and what grants it: there is
    /// no such function, no IOMMU, another driver has it or one of its group, its nodes may not be
    /// opened, somebody else has it open, or this process has, it is no NVMe controller.
    pub fn open(address: PciAddress, space: &DmaSpace) -> Result<Arc<Self>, TransportError> {
        let name = format!("pci:{address}");
        Self::open_in(&Places::default(), address, space)
            .map_err(|what| TransportError { device: name, what })
    }

    fn open_in(
        places: &Places,
        address: PciAddress,
        space: &DmaSpace,
    ) -> Result<Arc<Self>, String> {
        let watched = Arc::new(Watched::new().map_err(|error| error.to_string())?);
        let function = places.examine(address)?;
        let way = places.choose(&function)?;
        let (context, file) = context::enter(places, &function, way, space.id())?;
        let device = Device::new(&context, file, (&function).into())?;
        let bar0 = device.bar0();
        let mapped = Bar::map(device.file(), bar0.offset, &bar0.areas);
        let bar = mapped.unwrap_or_else(|error| {
            tracing::warn!(device = %address, %error, "BAR0 is not mapped; registers by system calls");
            Bar::default()
        });
        let vectors = device.vectors;
        tracing::debug!(device = %address, bar0_bytes = bar0.size, areas = ?bar0.areas, vectors, numa_node = function.numa_node, "device open");
        let shared = Arc::new(Shared {
            name: format!("pci:{address}"),
            context,
            bar,
            vectors: u16::try_from(vectors).unwrap_or(u16::MAX),
            device: Mutex::new(Some(device)),
            is_closed: AtomicBool::new(false),
            end: OnceLock::new(),
            events: Mutex::new(Vec::new()),
            loss: Mutex::new(Loss::default()),
        });
        let mut vfio = Self {
            shared: Arc::clone(&shared),
            watched,
            watcher: None,
        };
        vfio.watch().map_err(|error| {
            format!(
                "its requests cannot be watched, so the kernel would wait for it for ever: {error}"
            )
        })?;
        Ok(Arc::new(vfio))
    }

    fn watch(&mut self) -> std::io::Result<()> {
        let watched = &self.watched;
        if let Some(device) = self.shared.device.lock().as_ref() {
            for (what, index, event) in [
                ("requests", vfio::VFIO_PCI_REQ_IRQ_INDEX, &watched.request),
                ("errors", vfio::VFIO_PCI_ERR_IRQ_INDEX, &watched.error),
            ] {
                if !device.watch(index, event)? {
                    tracing::info!(
                        device = self.shared.name,
                        what,
                        "the kernel does not tell of them"
                    );
                }
            }
        }
        let (shared, watched) = (Arc::clone(&self.shared), Arc::clone(&self.watched));
        let watcher = thread::spawn("underpin-vfio", move || watched.run(&shared))?;
        self.watcher = Some(watcher);
        Ok(())
    }

    /// Resets the function (VFIO_DEVICE_RESET). A controller that is up fails then: its queues are
    /// gone.
    ///
    /// # Errors
    /// [`TransportError`] with the kernel's word: the function cannot be reset by itself, or did
    /// not come back.
    pub fn reset(&self) -> Result<(), TransportError> {
        let device = self.shared.device.lock();
        let device = device.as_ref().ok_or_else(|| self.shared.gone())?;
        device.reset().map_err(|error| {
            self.shared
                .error(format!("the function reset failed: {error}"))
        })
    }
}

impl Drop for Vfio {
    fn drop(&mut self) {
        self.watched.stop.signal();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
        if let Err(error) = self.shared.close() {
            tracing::error!(device = self.shared.name, error, "closed without proof");
        }
    }
}

impl Shared {
    fn error(&self, what: impl Into<String>) -> TransportError {
        TransportError {
            device: self.name.clone(),
            what: what.into(),
        }
    }

    fn gone(&self) -> TransportError {
        self.error("it was given back to the kernel; open it again when it is there")
    }

    /// Ends the device's DMA and lets the device go, once; how that went is known ever after.
    fn close(&self) -> Result<(), String> {
        // First, so that whoever waits for the lock finds nothing.
        self.is_closed.store(true, Ordering::Release);
        // Held to the end: a second caller has the first one's answer.
        let mut open = self.device.lock();
        if let Some(device) = open.take() {
            let ended = device.close(&self.context, || self.bar.retire());
            match &ended {
                Ok(proof) => tracing::debug!(device = self.name, proof, "let go"),
                Err(error) => tracing::warn!(device = self.name, error, "let go without proof"),
            }
            let _ = self.end.set(ended.map(|_proof| ()));
        }
        let never = || Err("it was not open".to_owned());
        self.end.get().cloned().unwrap_or_else(never)
    }

    /// The device is lost: whoever uses it is told.
    fn lose(&self, failure: Failure) {
        let mut loss = self.loss.lock();
        match &loss.tell {
            Some(tell) => tell(failure),
            None => loss.came = Some(failure),
        }
    }

    /// Wakes who sleeps on an interrupt that will not come any more.
    fn wake(&self) {
        for (_, event) in self.events.lock().iter() {
            event.signal();
        }
    }

    fn read32(&self, offset: usize) -> Result<u32, TransportError> {
        let mapped = self.bar.read32(offset);
        // Looked at afterwards: what was read meanwhile may be nobody's.
        if self.is_closed.load(Ordering::Acquire) {
            return Err(self.gone());
        }
        if let Some(value) = mapped {
            return Ok(value);
        }
        let device = self.device.lock();
        let device = device.as_ref().ok_or_else(|| self.gone())?;
        device
            .read32(offset)
            .map_err(|error| self.unreachable(offset, &error))
    }

    fn write32(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(self.gone());
        }
        if self.bar.write32(offset, value) {
            return Ok(());
        }
        let device = self.device.lock();
        let device = device.as_ref().ok_or_else(|| self.gone())?;
        device
            .write32(offset, value)
            .map_err(|error| self.unreachable(offset, &error))
    }

    fn unreachable(&self, offset: usize, error: &std::io::Error) -> TransportError {
        self.error(format!("register {offset:#x} cannot be reached: {error}"))
    }
}

impl Transport for Vfio {
    fn name(&self) -> String {
        self.shared.name.clone()
    }

    fn read32(&self, offset: usize) -> Result<u32, TransportError> {
        self.shared.read32(offset)
    }

    /// Two halves, the low one first: every controller allows that (NVMe over PCIe Transport 1.0,
    /// 3.1), and not every one takes eight bytes at once.
    fn read64(&self, offset: usize) -> Result<u64, TransportError> {
        let low = self.shared.read32(offset)?;
        let high = self.shared.read32(offset.saturating_add(4))?;
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    fn write32(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        self.shared.write32(offset, value)
    }

    fn write64(&self, offset: usize, value: u64) -> Result<(), TransportError> {
        self.shared.write32(offset, value as u32)?;
        self.shared
            .write32(offset.saturating_add(4), (value >> 32) as u32)
    }

    fn doorbell_word(&self, offset: usize) -> Option<Word32> {
        self.shared.bar.word(offset)
    }

    fn mapper(&self) -> Arc<dyn Mapper> {
        Arc::clone(&self.shared.context) as Arc<dyn Mapper>
    }

    fn interrupt_count(&self) -> u16 {
        self.shared.vectors
    }

    fn interrupt(&self, vector: u16) -> Result<Event, TransportError> {
        let shared = &self.shared;
        let event = Event::new();
        let event =
            event.map_err(|error| shared.error(format!("no event could be made: {error}")))?;
        let mut device = shared.device.lock();
        let device = device.as_mut().ok_or_else(|| shared.gone())?;
        device.tie(u32::from(vector), &event).map_err(|error| {
            shared.error(format!("interrupt vector {vector} cannot be had: {error}"))
        })?;
        let mut events = shared.events.lock();
        events.retain(|(known, _)| *known != vector);
        events.push((vector, event.clone()));
        Ok(event)
    }

    fn on_loss(&self, tell: Box<dyn Fn(Failure) + Send + Sync>) {
        let mut loss = self.shared.loss.lock();
        if let Some(failure) = loss.came.take() {
            tell(failure);
        }
        loss.tell = Some(tell);
    }

    /// Bus master off, read back; or the function reset; or closed, and its group detached.
    fn sever(&self) -> Result<(), TransportError> {
        self.shared
            .close()
            .map_err(|error| self.shared.error(error))
    }
}
