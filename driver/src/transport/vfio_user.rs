//! A controller that another process serves: registers by messages, memory by descriptor,
//! doorbells in mapped memory where the server offers it.
use super::{Transport, TransportError};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use underpin_dma::rt::Event;
use underpin_dma::rt::sync::{Mutex, OnceLock};
use underpin_dma::{Access, Iova, MapRequest, Mapper, MapperError, MemSlice, Memory, Word32};
use underpin_vfio_user::{
    Area, AskedRead, Client, ClientOptions, DmaMap, IrqInfo, dma_flags, irq, region_flags,
};

/// The region with the registers.
const BAR0: u32 = 0;
/// Doorbells and the registers before them.
const LEAST_BAR0_BYTES: u64 = 0x1008;

/// Choices about a connection.
///
/// ```
/// use std::time::Duration;
/// use underpin_nvme::transport::{VfioUser, VfioUserOptions};
///
/// let options = VfioUserOptions {
///     timeout: Duration::from_millis(200),
///     ..VfioUserOptions::default()
/// };
/// let error = VfioUser::connect("/nobody/serves/here.sock".as_ref(), options).unwrap_err();
/// assert_eq!(error.device, "vfio-user:/nobody/serves/here.sock");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct VfioUserOptions {
    /// How long the server may take to answer a message: a register access, a mapping. One that
    /// takes longer has failed.
    pub timeout: Duration,
    /// Map the server's doorbells though their file can be made shorter: a server that did so
    /// would end this process with SIGBUS. Without it such doorbells are written by messages.
    pub unsealed_doorbells: bool,
}

impl Default for VfioUserOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            unsealed_doorbells: false,
        }
    }
}

/// A controller behind a vfio-user socket.
///
/// A server that hangs or is gone is a [`TransportError`] in time; the controller fails then.
/// That its DMA has ended is proven by its reply to DEVICE_RESET, or by its side of the
/// connection being closed: a server closes it when it has let go of our memory, and the kernel
/// closes it when the process is gone, after its memory.
///
/// ```
/// use underpin_dma::{DmaSpace, rt::{Event, thread}};
/// use underpin_emulator::serve::Served;
/// use underpin_nvme::transport::{VfioUser, VfioUserOptions};
/// use underpin_nvme::{Controller, ControllerOptions};
///
/// # let path = std::env::temp_dir().join(format!("underpin-doc-{}.sock", std::process::id()));
/// // In most programs this is another process: `underpin serve`.
/// let served = Served::bind(&path, "size=1m".parse()?, Default::default())?;
/// let stop = Event::new()?;
/// let stopped = stop.clone();
/// let server = thread::spawn("server", move || served.run(&stopped))?;
///
/// let transport = VfioUser::connect(&path, VfioUserOptions::default())?;
/// let options = ControllerOptions::default();
/// let controller = Controller::with_transport(transport, &DmaSpace::new(), options)?;
/// assert_eq!(controller.namespace(None)?.len_bytes(), 1 << 20);
/// controller.close()?;
///
/// stop.signal();
/// server.join().expect("no panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct VfioUser {
    name: String,
    context: Arc<Context>,
    options: VfioUserOptions,
    /// MSI-X as the server has it.
    msix: IrqInfo,
    /// The doorbells as memory, once somebody asked for them.
    doorbells: OnceLock<Option<Doorbells>>,
    /// Registers that somebody has asked for who does not wait, with the answer to come.
    asked: Mutex<Vec<(usize, AskedRead<4>)>>,
}

/// The part of BAR0 that is mapped.
#[derive(Debug)]
struct Doorbells {
    area: Area,
    memory: MemSlice,
}

/// The server's address space.
#[derive(Debug)]
struct Context {
    name: String,
    client: Client,
    /// DMA has ended, with proof; nothing need be unmapped any more.
    severed: AtomicBool,
    /// The end of a connection that has failed was waited for.
    ending: AtomicBool,
    mapped: AtomicUsize,
}

impl VfioUser {
    /// Connects to the server at `path`.
    ///
    /// # Errors
    /// [`TransportError`] when nobody answers there, when the server serves somebody else and
    /// does not get to us in time, or when what it serves is no NVMe controller.
    pub fn connect(path: &Path, options: VfioUserOptions) -> Result<Arc<Self>, TransportError> {
        let name = format!("vfio-user:{}", path.display());
        let fail = |what: String| TransportError {
            device: name.clone(),
            what,
        };
        let timeout = options.timeout;
        let connected = Client::connect(path, ClientOptions { timeout });
        let client = connected.map_err(|error| fail(error.to_string()))?;
        let bar0 = client
            .is_pci()
            .and_then(|is_pci| Ok((is_pci, client.region_info(BAR0)?, msix(&client)?)));
        let (is_pci, bar0, msix) = bar0.map_err(|error| fail(error.to_string()))?;
        let both = region_flags::READ | region_flags::WRITE;
        if !is_pci || bar0.size < LEAST_BAR0_BYTES || bar0.flags & both != both {
            return Err(fail(format!(
                "what it serves is no NVMe controller (a PCI device: {is_pci}, BAR0: {} bytes, \
                 flags {:#x})",
                bar0.size, bar0.flags
            )));
        }
        let context = Context {
            name: name.clone(),
            client,
            severed: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            mapped: AtomicUsize::new(0),
        };
        Ok(Arc::new(Self {
            name,
            context: Arc::new(context),
            options,
            msix,
            doorbells: OnceLock::new(),
            asked: Mutex::new(Vec::new()),
        }))
    }

    fn fail(&self, error: &underpin_vfio_user::Error) -> TransportError {
        TransportError {
            device: self.name.clone(),
            what: error.to_string(),
        }
    }

    fn read<const N: usize>(&self, offset: usize) -> Result<[u8; N], TransportError> {
        let mut bytes = [0; N];
        let read = self
            .context
            .client
            .region_read(BAR0, offset as u64, &mut bytes);
        read.map_err(|error| self.fail(&error))?;
        Ok(bytes)
    }

    fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), TransportError> {
        let written = self.context.client.region_write(BAR0, offset as u64, bytes);
        written.map_err(|error| self.fail(&error))
    }

    /// Maps what the server offers of BAR0; `None` when that is nothing, or nothing we take.
    fn map_doorbells(&self) -> Option<Doorbells> {
        let asked = self.context.client.region_file(BAR0);
        let (info, file) = match asked {
            Ok(found) => found?,
            Err(error) => {
                tracing::warn!(device = self.name, %error, "doorbells by messages");
                return None;
            }
        };
        let page = 4096;
        let area = *info.areas.iter().find(|area| {
            area.offset <= 0x1000 && area.offset + area.size > 0x1000 && area.offset % page == 0
        })?;
        let offset = info.offset.checked_add(area.offset)?;
        let unsealed = self.options.unsealed_doorbells;
        let memory = Memory::received(&self.name, file, offset, area.size, unsealed);
        let slice = memory.and_then(|memory| Ok(MemSlice::new(&memory, 0, memory.len_bytes())?));
        match slice {
            Ok(memory) => Some(Doorbells { area, memory }),
            Err(error) => {
                tracing::warn!(device = self.name, %error, "doorbells by messages");
                None
            }
        }
    }
}

impl Transport for VfioUser {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn read32(&self, offset: usize) -> Result<u32, TransportError> {
        self.read(offset).map(u32::from_le_bytes)
    }

    fn read64(&self, offset: usize) -> Result<u64, TransportError> {
        self.read(offset).map(u64::from_le_bytes)
    }

    fn ask32(&self, offset: usize) -> Result<Option<u32>, TransportError> {
        let client = &self.context.client;
        let mut open = self.asked.lock();
        let known = open.iter().position(|(of, _)| *of == offset);
        let asked = match known {
            Some(at) => open.swap_remove(at).1,
            None => {
                let asked = client.region_ask(BAR0, offset as u64);
                asked.map_err(|error| self.fail(&error))?
            }
        };
        match client.region_answer(&asked) {
            Ok(Some(bytes)) => Ok(Some(u32::from_le_bytes(bytes))),
            Ok(None) => {
                open.push((offset, asked));
                Ok(None)
            }
            Err(error) => Err(self.fail(&error)),
        }
    }

    fn write32(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        self.write(offset, &value.to_le_bytes())
    }

    fn write64(&self, offset: usize, value: u64) -> Result<(), TransportError> {
        self.write(offset, &value.to_le_bytes())
    }

    fn ring(&self, offset: usize, value: u32) -> Result<(), TransportError> {
        let bytes = value.to_le_bytes();
        let posted = self.context.client.region_post(BAR0, offset as u64, &bytes);
        posted.map_err(|error| self.fail(&error))
    }

    fn doorbell_word(&self, offset: usize) -> Option<Word32> {
        let doorbells = self
            .doorbells
            .get_or_init(|| self.map_doorbells())
            .as_ref()?;
        let at = (offset as u64).checked_sub(doorbells.area.offset)?;
        Word32::new(&doorbells.memory, usize::try_from(at).ok()?).ok()
    }

    fn mapper(&self) -> Arc<dyn Mapper> {
        Arc::clone(&self.context) as Arc<dyn Mapper>
    }

    fn interrupt_count(&self) -> u16 {
        match self.msix.flags & irq::CAN_EVENTFD {
            0 => 0,
            // What MSI-X can have.
            _ => self.msix.count.min(2048) as u16,
        }
    }

    fn interrupt(&self, vector: u16) -> Result<Event, TransportError> {
        let failed = |error: std::io::Error| TransportError {
            device: self.name.clone(),
            what: format!("no event could be made: {error}"),
        };
        let event = Event::new().map_err(failed)?;
        // The server gets its descriptor.
        event.watch().map_err(failed)?;
        let tied = self
            .context
            .client
            .set_irqs(irq::MSIX, u32::from(vector), &[event.as_fd()]);
        tied.map_err(|error| self.fail(&error))?;
        Ok(event)
    }

    fn mask(&self, vector: u16, masked: bool) -> Result<(), TransportError> {
        if self.msix.flags & irq::MASKABLE == 0 {
            return Ok(());
        }
        let client = &self.context.client;
        let masked = client.mask_irqs(irq::MSIX, u32::from(vector), 1, masked);
        masked.map_err(|error| self.fail(&error))
    }

    /// A reset that is replied to, or the server's side of the connection seen closed.
    fn sever(&self) -> Result<(), TransportError> {
        let client = &self.context.client;
        let reset = client.reset();
        // Closed either way: nobody else may set the device up again through this connection.
        let ended = client.end();
        if let (Err(reset), Err(_)) = (&reset, &ended) {
            return Err(self.fail(reset));
        }
        self.context.severed.store(true, Ordering::Release);
        Ok(())
    }
}

/// MSI-X as the server has it; one that knows of none has none.
fn msix(client: &Client) -> Result<IrqInfo, underpin_vfio_user::Error> {
    match client.irq_info(irq::MSIX) {
        Err(underpin_vfio_user::Error::Refused { .. }) => Ok(IrqInfo::default()),
        other => other,
    }
}

impl Context {
    fn error(&self, error: impl std::fmt::Display) -> MapperError {
        MapperError {
            context: self.name.clone(),
            what: error.to_string(),
        }
    }
}

impl Mapper for Context {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn map(&self, request: &MapRequest) -> Result<(), MapperError> {
        let Some((file, offset)) = request.memory.fd() else {
            return Err(self.error(format!(
                "{:?} has no file to share with a server; make it with DmaSpace::region or \
                 register_file",
                request.name
            )));
        };
        let map = DmaMap {
            argsz: 0,
            flags: match request.access {
                Access::ReadWrite => dma_flags::READ | dma_flags::WRITE,
                Access::ReadOnly => dma_flags::READ,
            },
            offset,
            address: request.iova.get(),
            size: request.len_bytes(),
        };
        let mapped = self.client.dma_map(&map, file);
        mapped.map_err(|error| self.error(format!("{:?}: {error}", request.name)))?;
        self.mapped.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), MapperError> {
        if self.severed.load(Ordering::Acquire) || self.client.has_ended() {
            return Ok(());
        }
        match self.client.dma_unmap(iova.get(), len_bytes) {
            Ok(()) => {
                self.mapped.fetch_sub(1, Ordering::Relaxed);
                Ok(())
            }
            // It ended while we waited: the same proof.
            Err(_) if self.client.has_ended() => Ok(()),
            Err(error @ underpin_vfio_user::Error::Refused { .. }) => Err(self.error(error)),
            // Nothing more can be asked of this connection: its end is the proof that is left. Waited
            // for once, however much there is to unmap.
            Err(error) => {
                match !self.ending.swap(true, Ordering::AcqRel) && self.client.end().is_ok() {
                    true => Ok(()),
                    false => Err(self.error(error)),
                }
            }
        }
    }

    fn usable(&self) -> Vec<std::ops::RangeInclusive<u64>> {
        // The protocol has no way to say less.
        vec![0..=u64::MAX]
    }

    fn mappings_left(&self) -> Option<usize> {
        let most = self.client.server().max_dma_maps as usize;
        Some(most.saturating_sub(self.mapped.load(Ordering::Relaxed)))
    }
}
