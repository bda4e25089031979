//! The handle of an emulated controller: made from a configuration, started one way or another,
//! reached through its registers and its IOMMU, and stopped with proof that no DMA follows.
use crate::admin::{Notice, NoticeBoard};
use crate::bar::Bar;
use crate::bus::Bus;
use crate::config::EmulatorConfig;
use crate::core::Machine;
use crate::faults::{Fault, FaultBoard, FaultReport};
use crate::identify::VERSION;
use crate::interrupt::Vectors;
use crate::iommu::{Iommu, IommuFault};
use crate::stats::{EmulatorStats, PublishedStats};
use crate::task::{Core, EmulatorTask};
use crate::{EmulatorError, Referee};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use underpin_dma::Mapper;
use underpin_dma::rt::sync::Mutex;
use underpin_dma::rt::{self, Event, Instant, NotJoined, Step, TaskHandle};
use underpin_nvme_spec::registers::{Cap, Crto};

/// What handle and controller share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) bar: Bar,
    pub(crate) iommu: Arc<Iommu>,
    pub(crate) vectors: Vectors,
    pub(crate) faults: FaultBoard,
    pub(crate) notices: NoticeBoard,
    pub(crate) stats: PublishedStats,
}

/// Who steps the controller.
#[derive(Debug)]
enum Runner {
    /// Nobody yet.
    Built(Box<Core>),
    Task(TaskHandle),
    /// Whoever holds the [`InlineCore`].
    Inline,
    Stopped,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    referee: Option<Arc<Referee>>,
    runner: Mutex<Runner>,
}

/// An NVMe controller in software. Clones are the same controller; it is stopped and joined when
/// the last of them is dropped.
///
/// ```
/// use underpin_emulator::{Emulator, EmulatorConfig};
///
/// let config: EmulatorConfig = "size=16m,lba=4096".parse()?;
/// let emulator = Emulator::new(config)?;
/// emulator.start_thread()?;
/// assert_eq!(emulator.read32(0x08), 0x0002_0000, "VS says NVMe 2.0.0");
/// emulator.stop()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What a host does to find it and to reach it, and what can be asked of it meanwhile:
///
/// ```
/// use underpin_dma::DmaSpace;
/// use underpin_dma::rt::Event;
/// use underpin_emulator::Emulator;
///
/// let emulator = Emulator::new("size=1m,queues=2,fault=never-ready@op=enable".parse()?)?;
/// let space = DmaSpace::new();
/// let attachment = space.attach(emulator.mapper())?;
///
/// // MSI-X: a vector for the admin queue and one for each I/O queue.
/// assert_eq!(emulator.vector_count(), 3);
/// assert!(emulator.set_vector(0, Some(Event::new()?)));
/// assert!(emulator.mask_vector(0, true) && !emulator.mask_vector(3, true));
///
/// let mut core = emulator.inline_core();
/// emulator.write32(0x14, 0x0046_0001); // CC.EN, and it will never be ready.
/// core.run_batch();
/// assert_eq!(emulator.read32(0x1c) & 1, 0);
/// assert_eq!(emulator.faults()[0].fired, 1);
/// assert_eq!(emulator.stats().completions, 0);
/// assert!(emulator.iommu_faults().is_empty());
///
/// emulator.remove();
/// assert_eq!(emulator.read64(0x00), u64::MAX, "CAP of a device that is gone");
/// # drop(attachment);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Emulator(Arc<Handle>);

impl Emulator {
    /// Builds a controller. Nothing runs yet: start it one of three ways.
    ///
    /// # Errors
    /// [`EmulatorError::Option`] for a configuration that no controller can have;
    /// [`EmulatorError::File`] and [`EmulatorError::Memory`] when a medium cannot be had.
    pub fn new(config: EmulatorConfig) -> Result<Self, EmulatorError> {
        config.check()?;
        let iommu = Iommu::new(
            config.name.clone(),
            config.usable.clone(),
            config.max_mappings,
        );
        let bus = Bus::new(Arc::clone(&iommu), config.referee.clone());
        let machine = Machine::new(&config, bus)?;
        let shared = Arc::new(Shared {
            name: config.name.clone(),
            bar: bar(&config),
            iommu,
            vectors: Vectors::new(config.queues.saturating_add(1)),
            faults: FaultBoard::default(),
            notices: NoticeBoard::default(),
            stats: PublishedStats::default(),
        });
        config
            .faults
            .iter()
            .for_each(|fault| shared.faults.add(*fault));
        let core = Box::new(Core {
            shared: Arc::clone(&shared),
            machine,
            idle_since: None,
        });
        Ok(Self(Arc::new(Handle {
            shared,
            referee: config.referee,
            runner: Mutex::new(Runner::Built(core)),
        })))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Takes the core out, if nobody runs it yet.
    fn take_core(&self, runner: &mut Runner) -> Option<Box<Core>> {
        match std::mem::replace(runner, Runner::Stopped) {
            Runner::Built(core) => Some(core),
            other => {
                *runner = other;
                None
            }
        }
    }

    fn run(&self, runner: &mut Runner, handle: TaskHandle) {
        let waker = handle.waker();
        self.0.shared.bar.set_waker(waker.clone());
        self.0.shared.iommu.set_waker(waker.clone());
        *runner = Runner::Task(handle);
        // A register may have been written before there was anybody to wake.
        waker.wake();
    }

    /// Runs the controller on a thread of its own; in a simulated build, under the scheduler.
    ///
    /// # Errors
    /// [`EmulatorError::Started`] when it was started already; [`EmulatorError::Thread`] when the
    /// operating system grants no thread.
    ///
    /// ```
    /// use underpin_emulator::{Emulator, EmulatorError};
    ///
    /// let emulator = Emulator::new("size=1m".parse()?)?;
    /// emulator.start_thread()?;
    /// assert!(matches!(emulator.start_thread(), Err(EmulatorError::Started)));
    /// # Ok::<(), EmulatorError>(())
    /// ```
    pub fn start_thread(&self) -> Result<(), EmulatorError> {
        let mut runner = self.0.runner.lock();
        let core = self.take_core(&mut runner).ok_or(EmulatorError::Started)?;
        let task = EmulatorTask {
            core: *core,
            spins: !rt::sim::is_simulated(),
        };
        let handle =
            rt::spawn(&self.0.shared.name, Box::new(task)).map_err(EmulatorError::Thread)?;
        self.run(&mut runner, handle);
        Ok(())
    }

    /// Runs the controller on the calling thread, whenever that thread is inside
    /// [`rt::wait`]. Does nothing when the controller was started already.
    ///
    /// ```
    /// use underpin_dma::rt;
    /// use underpin_emulator::Emulator;
    ///
    /// let emulator = Emulator::new("size=1m".parse()?)?;
    /// emulator.start_local();
    /// emulator.write32(0x24, 0x000f_000f); // AQA: admin queues of 16 entries,
    /// emulator.write64(0x28, 0x10_0000); // ASQ and ACQ: somewhere.
    /// emulator.write64(0x30, 0x20_0000);
    /// emulator.write32(0x14, 0x0046_0001); // CC.EN
    /// // This wait runs the controller.
    /// let deadline = rt::Instant::now() + std::time::Duration::from_secs(10);
    /// let ready = rt::wait(Some(deadline), |_now| (emulator.read32(0x1c) & 1 == 1).then_some(()));
    /// assert!(ready.is_ok());
    /// # Ok::<(), underpin_emulator::EmulatorError>(())
    /// ```
    pub fn start_local(&self) {
        let mut runner = self.0.runner.lock();
        let Some(core) = self.take_core(&mut runner) else {
            tracing::warn!(emulator = %self.0.shared.name, "it was started already");
            return;
        };
        let task = EmulatorTask {
            core: *core,
            spins: false,
        };
        let handle = rt::spawn_local(&self.0.shared.name, Box::new(task));
        self.run(&mut runner, handle);
    }

    /// The controller itself, for a caller that steps it by hand: for measuring the host's side
    /// alone. It is inert when the controller was started already.
    pub fn inline_core(&self) -> InlineCore {
        let mut runner = self.0.runner.lock();
        let core = self.take_core(&mut runner);
        if core.is_some() {
            *runner = Runner::Inline;
        }
        InlineCore { core }
    }

    /// Ends the controller: blocks all its DMA, then stops and joins what runs it. The device is
    /// gone afterwards: registers read all ones. `Ok` is proof that no DMA follows.
    ///
    /// # Errors
    /// [`NotJoined`] when it runs on another thread's waits and that thread does not wait.
    pub fn stop(&self) -> Result<(), NotJoined> {
        let runner = std::mem::replace(&mut *self.0.runner.lock(), Runner::Stopped);
        // First of all, and enough for itself: every batch asks the table, which is locked now.
        self.0.shared.iommu.sever();
        self.0.shared.bar.unplug();
        self.0.shared.bar.remove();
        match runner {
            Runner::Task(handle) => handle.join(),
            Runner::Built(_) | Runner::Inline | Runner::Stopped => Ok(()),
        }
    }

    /// Reads a 32-bit register of BAR0. A device that was removed reads all ones.
    pub fn read32(&self, offset: usize) -> u32 {
        self.0.shared.bar.read32(offset)
    }

    /// Reads a 64-bit register of BAR0. A device that was removed reads all ones.
    pub fn read64(&self, offset: usize) -> u64 {
        self.0.shared.bar.read64(offset)
    }

    /// Writes a 32-bit register of BAR0: stores it and wakes the controller.
    pub fn write32(&self, offset: usize, value: u32) {
        self.0.shared.bar.write32(offset, value);
    }

    /// Writes a 64-bit register of BAR0, low half first.
    pub fn write64(&self, offset: usize, value: u64) {
        self.0.shared.bar.write64(offset, value);
    }

    /// How many interrupt vectors it has: one for the admin queue, and one for each I/O queue that
    /// it grants.
    pub fn vector_count(&self) -> u16 {
        self.0.shared.vectors.count()
    }

    /// From now on the interrupt `vector` signals `event`, or nothing. Completion queue 0 uses
    /// vector 0; others the one that they were created with, if interrupts were asked for then.
    ///
    /// One signal is sent for a batch of completions. False when there is no such vector.
    pub fn set_vector(&self, vector: u16, event: Option<Event>) -> bool {
        self.0.shared.vectors.set(vector, event)
    }

    /// Masks an interrupt vector, or unmasks it and delivers what was raised meanwhile. False when
    /// there is no such vector.
    pub fn mask_vector(&self, vector: u16, masked: bool) -> bool {
        self.0.shared.vectors.mask(vector, masked)
    }

    /// The controller's IOMMU context, to attach to a [`DmaSpace`](underpin_dma::DmaSpace).
    pub fn mapper(&self) -> Arc<dyn Mapper> {
        Arc::clone(&self.0.shared.iommu) as Arc<dyn Mapper>
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.0.shared.name
    }

    /// Figures since the controller was made. What a host has seen is in them: it waits for the
    /// end of a batch that is under way.
    pub fn stats(&self) -> EmulatorStats {
        let shared = &self.0.shared;
        let _between_batches = shared.iommu.pause();
        let mut stats = shared.stats.read();
        stats.blocked_dma = shared.iommu.fault_count();
        stats.interrupts = shared.vectors.raised.load(Ordering::Relaxed);
        stats.doorbell_writes = shared.bar.doorbell_writes.load(Ordering::Relaxed);
        stats.kicks = shared.bar.kicks.load(Ordering::Relaxed);
        stats.invalid_doorbells += shared.bar.invalid_doorbells.load(Ordering::Relaxed);
        stats
    }

    /// Every fault there is, and how often it fired.
    pub fn faults(&self) -> Vec<FaultReport> {
        self.0.shared.faults.reports()
    }

    /// Adds a fault. Commands whose doorbell is rung after this call meet it.
    ///
    /// ```
    /// use underpin_emulator::Emulator;
    ///
    /// let emulator = Emulator::new("size=1m".parse()?)?;
    /// let mut core = emulator.inline_core();
    /// emulator.inject("cfs@op=enable".parse()?);
    /// emulator.write32(0x14, 0x0046_0001); // CC.EN
    /// core.run_batch();
    /// assert_eq!(emulator.read32(0x1c) & 2, 2, "CSTS.CFS");
    /// assert_eq!(emulator.faults()[0].fired, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn inject(&self, fault: Fault) {
        self.0.shared.faults.add(fault);
    }

    /// Something happens to the controller: it is told to the host as an asynchronous event, if
    /// the host has asked for such events, and stands in a log page in any case. Before the
    /// controller is enabled it happens when it is.
    pub fn notify(&self, notice: Notice) {
        self.0.shared.notices.add(notice);
        self.0.shared.bar.knock();
    }

    /// Takes the device off the bus, now: registers read all ones, for ever, and the controller
    /// stops as soon as it notices. Unlike [`stop`](Self::stop) it proves nothing about DMA.
    pub fn remove(&self) {
        self.0.shared.bar.unplug();
        self.0.shared.bar.remove();
        self.0.shared.bar.wake();
    }

    /// Turns the controller on again after a `power-cut`, as if it had just been plugged in: it is
    /// disabled, knows no queues, and its namespaces hold what is left. False, and nothing happens,
    /// when the power had not failed, or the controller was stopped.
    ///
    /// ```
    /// use underpin_emulator::{Emulator, EmulatorConfig};
    ///
    /// let config: EmulatorConfig = "size=1m,fault=power-cut:torn@op=enable".parse()?;
    /// let emulator = Emulator::new(config)?;
    /// let mut core = emulator.inline_core();
    /// emulator.write32(0x14, 0x0046_0001); // CC.EN
    /// core.run_batch();
    /// assert_eq!(emulator.read32(0x1c), u32::MAX, "CSTS of a device without power");
    /// assert!(emulator.power_on());
    /// core.run_batch();
    /// assert_eq!(emulator.read32(0x1c), 0);
    /// # Ok::<(), underpin_emulator::EmulatorError>(())
    /// ```
    pub fn power_on(&self) -> bool {
        self.0.shared.bar.power_on()
    }

    /// Lets commands go on that a `hold` fault has held up to now.
    pub fn release_held(&self) {
        self.0.shared.faults.release_held();
        self.0.shared.bar.wake();
    }

    /// DMA that the IOMMU blocked: the first 256 accesses; all are counted in
    /// [`stats`](Self::stats).
    pub fn iommu_faults(&self) -> Vec<IommuFault> {
        self.0.shared.iommu.faults()
    }

    /// The referee it was configured with.
    pub fn referee(&self) -> Option<&Arc<Referee>> {
        self.0.referee.as_ref()
    }
}

fn bar(config: &EmulatorConfig) -> Bar {
    const UNIT_MS: u32 = 500;
    let units = |ms: u32| u64::from(ms.div_ceil(UNIT_MS));
    let timeout = units(config.timeout_ms).clamp(1, 255) as u8;
    let ready_ms = config.ready_timeout_ms.unwrap_or(config.timeout_ms);
    let crto = Crto(0).with_crwmt(units(ready_ms).clamp(1, 65535) as u16);
    // The NVM command set; others are told apart by descriptors (bit 6, CC.CSS 110b).
    let others = config.namespaces.iter().any(|ns| ns.csi != 0);
    let css = 1 | u8::from(others) << 6;
    let cap = Cap(0)
        .with_mqes((config.max_queue_entries - 1) as u16)
        .with_cqr(true)
        .with_to(timeout)
        .with_dstrd(config.dstrd)
        .with_css(css)
        .with_mpsmin(config.mpsmin)
        .with_mpsmax(config.mpsmax)
        // Ready with media.
        .with_crms(1);
    Bar::new(cap, VERSION, crto, usize::from(config.queues) + 1)
}

/// A controller that its holder steps by hand, on one thread with the host's side.
///
/// It takes one lock a batch, allocates nothing for reads, writes and flushes, and reads no clock
/// while no fault is armed.
///
/// A host of a few lines, and one command:
///
/// ```
/// use std::sync::atomic::Ordering::Relaxed;
/// use underpin_dma::{DmaSpace, Records, barrier};
/// use underpin_emulator::Emulator;
/// use underpin_nvme_spec::admin::{Cns, Identify};
/// use underpin_nvme_spec::{Cid, Cqe};
///
/// let emulator = Emulator::new("size=1m".parse()?)?;
/// let mut core = emulator.inline_core();
/// let space = DmaSpace::new();
/// let attachment = space.attach(emulator.mapper())?;
/// let (sq, cq, page) = (space.alloc(4096, 4096)?, space.alloc(4096, 4096)?, space.alloc(4096, 4096)?);
///
/// emulator.write32(0x24, 0x000f_000f); // AQA: 16 entries each.
/// emulator.write64(0x28, sq.iova().get());
/// emulator.write64(0x30, cq.iova().get());
/// emulator.write32(0x14, 0x0046_0001); // CC.EN
/// core.run_batch();
///
/// let identify = Identify { cns: Cns::CONTROLLER, prp1: page.iova().get(), ..Identify::default() };
/// let ring = Records::<8>::new(sq.slice()?, 16)?;
/// ring.write(0, identify.to_sqe().with_cid(Cid(7)).as_u64s());
/// barrier::write();
/// emulator.write32(0x1000, 1); // The admin queue's tail.
/// core.run_batch();
///
/// let cqe = Cqe::from_u64s(Records::<2>::new(cq.slice()?, 16)?.read(0));
/// assert!(cqe.phase() && cqe.status().is_success());
/// assert_eq!(cqe.cid(), Cid(7));
/// let mut model = [0; 8];
/// page.copy_to(24, &mut model)?;
/// assert_eq!(&model, b"Underpin");
/// assert!(core.before_sleep(), "there is nothing more to do");
/// # drop(attachment);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct InlineCore {
    core: Option<Box<Core>>,
}

impl InlineCore {
    /// Does what there is to do, up to 64 commands of each queue, and says what comes next.
    /// [`Step::Done`] when the controller was started otherwise.
    pub fn step(&mut self, now: Instant) -> Step {
        match &mut self.core {
            Some(core) => core.step(now),
            None => Step::Done,
        }
    }

    /// Does what there is to do, up to 64 commands of each queue. Returns how much was done.
    #[inline]
    pub fn run_batch(&mut self) -> usize {
        let Some(core) = &mut self.core else { return 0 };
        let timed = !core.machine.is_fast();
        core.batch(timed.then(Instant::now))
    }

    /// Publishes EventIdx and looks again, as a controller does that wants to sleep. True when it
    /// could.
    pub fn before_sleep(&mut self) -> bool {
        self.core.as_mut().is_none_or(|core| core.before_sleep())
    }
}
