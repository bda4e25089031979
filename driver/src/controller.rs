//! A controller that works: its namespaces, its queues, and its end with proof.
//! Everything its device may still touch is kept here until the device provably cannot.
use crate::admin::{Admin, Call};
use crate::bring_up::{self, BringUp};
use crate::commands::Abilities;
use crate::dma::rt::sync::{Mutex, OnceLock};
use crate::dma::rt::{self, Instant};
use crate::dma::{Attachment, DmaBuf, DmaSpace, Iova, Payload, Word32};
use crate::doorbell::Shadow;
use crate::generations::Generation;
use crate::health::Health;
use crate::queue::{Queue, QueueSpec};
use crate::registers::{self, Identity};
use crate::sgl::SglRule;
use crate::stats::{ControllerCounts, ControllerStats, Ledger};
use crate::transport::{Embedded, VfioUser, VfioUserOptions};
use crate::wait::Waiter;
use crate::{
    ControllerOptions, DeviceAddress, DeviceUrl, Error, Failure, Namespace, QueueOptions,
    QueuePair, Transport,
};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;
use underpin_nvme_spec::admin::{CreateIoCq, CreateIoSq, DeleteIoCq, DeleteIoSq};
use underpin_nvme_spec::identify::IdentifyController;
use underpin_nvme_spec::registers::offset;
use underpin_nvme_spec::{AdminOpcode, Nsid, NvmOpcode, Qid, Sgls};

/// Whether completed writes may be lost with power, until a flush.
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// use underpin_nvme::WriteCache;
///
/// if controller.write_cache() == WriteCache::Enabled {
///     controller.set_write_cache(false)?;
/// }
/// assert_eq!(controller.write_cache(), WriteCache::Disabled);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteCache {
    /// There is none: completed writes are durable, a flush does nothing.
    #[default]
    Absent,
    /// There is one and it is on: only flushed writes, and those with Force Unit Access, last.
    Enabled,
    /// There is one and it is off.
    Disabled,
}

impl WriteCache {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Absent => 0,
            Self::Enabled => 1,
            Self::Disabled => 2,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Absent,
            2 => Self::Disabled,
            _ => Self::Enabled,
        }
    }
}

/// An NVMe controller. Clones share it; it is shut down when the last clone and the last of its
/// queues are gone.
///
/// ```
/// use underpin_dma::{DmaBuf, DmaSpace};
/// use underpin_nvme::{Controller, ControllerOptions, Nsid, QueueOptions, WriteCache};
///
/// let space = DmaSpace::new();
/// let url = "emu:size=1m,queues=2,ns2.lba=4096";
/// let controller = Controller::open(url, &space, ControllerOptions::default())?;
///
/// // What it is.
/// assert_eq!(controller.name(), url);
/// assert!(controller.identify().mn().to_string().starts_with("Underpin"));
/// assert_eq!(controller.version().to_string(), "2.0.0");
/// assert_eq!(controller.capabilities().page_min_bytes(), 4096);
/// assert_eq!(controller.space().id(), space.id());
///
/// // What it can.
/// assert_eq!(controller.granted_queues(), 2);
/// assert_eq!(controller.max_transfer_bytes(), 128 << 10);
/// assert!(controller.has_shadow_doorbells());
/// assert_eq!(controller.write_cache(), WriteCache::Enabled);
/// assert_eq!(controller.namespaces().len(), 2);
/// assert_eq!(controller.namespace(Some(Nsid(2)))?.lba_bytes(), 4096);
///
/// // One queue pair for each thread, as many as were granted.
/// let first = controller.queue_pair::<DmaBuf>(QueueOptions::default())?;
/// let second = controller.queue_pair::<DmaBuf>(QueueOptions::default())?;
/// assert!(controller.queue_pair::<DmaBuf>(QueueOptions::default()).is_err());
///
/// // How it fares, and its end: with the last handle, or with an answer.
/// assert_eq!(controller.failure(), None);
/// drop((first, second));
/// assert_eq!(controller.quarantined_queues(), 0);
/// controller.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Controller(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    /// Tells one controller's namespaces from another's.
    number: AtomicU32,
    /// How often its namespaces, or their number, have changed.
    renewals: Mutex<u64>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) space: DmaSpace,
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) options: ControllerOptions,
    pub(crate) health: Arc<Health>,
    /// Taken out only at the end, to be freed with proof or not at all.
    pub(crate) admin: Mutex<Option<Admin>>,
    facts: OnceLock<Facts>,
    free_qids: Mutex<Vec<u16>>,
    quarantine: Mutex<Vec<Retired>>,
    /// What its queues have counted.
    pub(crate) ledger: Mutex<Ledger>,
    /// Pages that the device may have taken for its doorbells, or not: it never answered.
    doubtful: OnceLock<DoorbellBuffers>,
    attachment: Option<Attachment>,
}

/// What the registers allow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) page_bytes: u64,
    /// The most entries a queue may have.
    pub(crate) max_entries: u16,
    pub(crate) dstrd: u8,
    pub(crate) disable_timeout: Duration,
    pub(crate) ready_timeout: Duration,
}

/// What the controller said of itself.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) identify: Box<IdentifyController>,
    pub(crate) namespaces: Generation,
    pub(crate) granted: u16,
    pub(crate) max_transfer_bytes: u64,
    /// [`WriteCache`] as a number; the feature can be set at any time.
    pub(crate) write_cache: AtomicU8,
    pub(crate) abilities: Arc<Abilities>,
    pub(crate) doorbells: Option<DoorbellBuffers>,
}

/// A queue whose owner has dropped it: all that its commands own, until the device lets go.
pub(crate) struct Retired {
    pub(crate) qid: Qid,
    held_bytes: u64,
    /// The device has deleted its submission queue; only the completion queue is left.
    sq_deleted: bool,
    _holds: Box<dyn Send>,
}

impl Retired {
    pub(crate) fn new<B: Payload>(queue: Box<Queue<B>>) -> Self {
        Self {
            qid: queue.qid(),
            held_bytes: queue.held_bytes(),
            sq_deleted: false,
            _holds: queue,
        }
    }
}

impl std::fmt::Debug for Retired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retired")
            .field("qid", &self.qid)
            .finish_non_exhaustive()
    }
}

/// The two pages of shadow doorbells and EventIdx (NVMe Base 2.0, 5.8).
#[derive(Debug)]
pub(crate) struct DoorbellBuffers {
    shadow: DmaBuf,
    event_idx: DmaBuf,
    stride: usize,
}

/// Entries of the admin queues: calls are few, and one at a time is the rule.
const ADMIN_ENTRIES: u16 = 32;
/// The largest memory page that can be used: regions are aligned to 2 MiB.
const LARGEST_PAGE: u64 = 2 << 20;

impl Controller {
    /// Opens the controller that `url` names and brings it up; see [`DeviceUrl`]. A namespace in
    /// the URL is not looked at here; see [`namespace`](Self::namespace).
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::Emulator`], and whatever [`with_transport`](Self::with_transport)
    /// gives.
    ///
    /// ```
    /// use underpin_dma::DmaSpace;
    /// use underpin_nvme::{Controller, ControllerOptions, Error};
    ///
    /// let space = DmaSpace::new();
    /// let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// assert_eq!(controller.namespace(None)?.len_bytes(), 1 << 20);
    ///
    /// let typo = Controller::open("emo:size=1m", &space, ControllerOptions::default());
    /// assert!(matches!(typo, Err(Error::Url(_))));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn open(url: &str, space: &DmaSpace, options: ControllerOptions) -> Result<Self, Error> {
        let url: DeviceUrl = url.parse()?;
        Self::open_device(&url.device, space, options)
    }

    /// As [`open`](Self::open), with a parsed address.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// ```
    /// # use underpin_dma::DmaSpace;
    /// # use underpin_nvme::{Controller, ControllerOptions, DeviceUrl, Error};
    /// let url: DeviceUrl = "emu:size=1m,ns=3?ns=2".parse()?;
    /// let controller =
    ///     Controller::open_device(&url.device, &DmaSpace::new(), ControllerOptions::default())?;
    /// let namespace = controller.namespace(url.nsid)?;
    /// assert_eq!(namespace.nsid().0, 2);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn open_device(
        device: &DeviceAddress,
        space: &DmaSpace,
        options: ControllerOptions,
    ) -> Result<Self, Error> {
        match device {
            DeviceAddress::Embedded(body) => {
                let emulator = underpin_emulator::Emulator::new(body.parse()?)?;
                emulator.start_thread()?;
                let transport = Embedded::owning(&device.to_string(), emulator);
                Self::with_transport(transport, space, options)
            }
            DeviceAddress::VfioUser(path) => {
                let transport = VfioUser::connect(path, VfioUserOptions::default())?;
                Self::with_transport(transport, space, options)
            }
            #[cfg(not(underpin_sim))]
            DeviceAddress::Pci(address) => {
                let transport = crate::transport::Vfio::open(*address, space)?;
                Self::with_transport(transport, space, options)
            }
            // It has one thread and virtual time; a device has neither.
            #[cfg(underpin_sim)]
            DeviceAddress::Pci(_) => Err(Error::Unsupported {
                device: device.to_string(),
                why: "a simulated build has no real devices".to_owned(),
            }),
        }
    }

    /// Brings up the controller behind `transport`. Waits no longer than the controller says
    /// that it needs (CAP.TO, CRTO) for each state, and the admin timeout for each command.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the controller cannot be driven, in words;
    /// [`Error::NotInTime`]; [`Error::Failed`] when it is gone, in fatal status, or breaks the
    /// protocol; [`Error::BadAnswer`]; [`Error::Dma`] for memory.
    ///
    /// With an [`Embedded`](crate::transport::Embedded) controller of one's own, which can be told to
    /// misbehave later:
    ///
    /// ```
    /// use underpin_dma::DmaSpace;
    /// use underpin_emulator::Emulator;
    /// use underpin_nvme::{Controller, ControllerOptions, transport::Embedded};
    ///
    /// let emulator = Emulator::new("size=1m".parse()?)?;
    /// emulator.start_thread()?;
    /// let transport = Embedded::new("mine", emulator.clone());
    /// let controller =
    ///     Controller::with_transport(transport, &DmaSpace::new(), ControllerOptions::default())?;
    /// assert_eq!(controller.name(), "mine");
    ///
    /// emulator.inject("status:0x6@op=log".parse()?);
    /// assert!(controller.smart_log().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_transport(
        transport: Arc<dyn Transport>,
        space: &DmaSpace,
        options: ControllerOptions,
    ) -> Result<Self, Error> {
        let inner = Arc::new(Inner::new(transport, space, options)?);
        let mut bring_up = BringUp::new(Arc::clone(&inner));
        // Every state of the machine has a deadline of its own, so this wait needs none.
        let outcome = rt::wait(None, |now| bring_up.poll(now));
        outcome.unwrap_or_else(|_| Err(inner.failed()))?;
        Ok(Self(inner))
    }

    /// Its name: the URL without a namespace.
    pub fn name(&self) -> String {
        self.0.transport.name()
    }

    /// The space that its buffers must come from.
    pub fn space(&self) -> &DmaSpace {
        &self.0.space
    }

    /// The identify page as the device gave it.
    pub fn identify(&self) -> &IdentifyController {
        &self.0.facts().identify
    }

    /// The version of the specification that the device states.
    pub fn version(&self) -> underpin_nvme_spec::registers::Vs {
        self.0.identity.vs
    }

    /// The controller's capabilities register.
    pub fn capabilities(&self) -> underpin_nvme_spec::registers::Cap {
        self.0.identity.cap
    }

    /// Its namespaces, in ascending order.
    pub fn namespaces(&self) -> &[Namespace] {
        self.0.facts().namespaces.namespaces()
    }

    /// The namespace `nsid`, or the first one if `None`.
    ///
    /// # Errors
    /// [`Error::NoNamespace`] when there is no such namespace, naming those there are.
    ///
    /// ```
    /// use underpin_nvme::{Error, Nsid};
    ///
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m,ns=2", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// assert_eq!(controller.namespace(None)?.nsid(), Nsid(1));
    /// assert_eq!(controller.namespace(Some(Nsid(2)))?.nsid(), Nsid(2));
    /// match controller.namespace(Some(Nsid(3))) {
    ///     Err(Error::NoNamespace { available, .. }) => assert_eq!(available, "1, 2"),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn namespace(&self, nsid: Option<Nsid>) -> Result<Namespace, Error> {
        let namespaces = self.namespaces();
        let found = match nsid {
            None => namespaces.first(),
            Some(nsid) => namespaces.iter().find(|namespace| namespace.nsid() == nsid),
        };
        found.cloned().ok_or_else(|| {
            let ids: Vec<_> = namespaces.iter().map(|ns| ns.nsid().to_string()).collect();
            let available = if ids.is_empty() {
                "none".to_owned()
            } else {
                ids.join(", ")
            };
            Error::NoNamespace {
                device: self.name(),
                nsid: nsid.unwrap_or(Nsid(1)),
                available,
            }
        })
    }

    /// Whether completed writes need a flush to last.
    pub fn write_cache(&self) -> WriteCache {
        WriteCache::from_number(self.0.facts().write_cache.load(Ordering::Relaxed))
    }

    /// How many I/O queue pairs the device grants.
    pub fn granted_queues(&self) -> u16 {
        self.0.facts().granted
    }

    /// The longest transfer of one command; longer requests are split.
    pub fn max_transfer_bytes(&self) -> u64 {
        self.0.facts().max_transfer_bytes
    }

    /// True when I/O queues use shadow doorbells.
    pub fn has_shadow_doorbells(&self) -> bool {
        self.0.facts().doorbells.is_some()
    }

    /// Why the controller is of no use any more, if it is.
    ///
    /// ```
    /// use underpin_nvme::Failure;
    ///
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m,fault=cfs@op=read", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    /// assert_eq!(controller.failure(), None);
    /// let page = space.alloc(4096, 4096)?;
    /// assert!(queue.run(ns.read(Lba(0), 8)?, page).is_err());
    /// assert!(matches!(controller.failure(), Some(Failure::Fatal { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn failure(&self) -> Option<Failure> {
        self.0.health.failure()
    }

    /// What is known of it and its queues: commands by kind, bytes, errors by status, waits,
    /// quarantine. Those of a queue that another thread owns are as of the last time that it
    /// looked at the clock (once in 64 polls, before it sleeps, at the end of calls that wait); its
    /// owner has them as of now, from [`QueuePair::stats`].
    ///
    /// Interrupts lost, sleeps and doorbells are the queues'; what the device counts itself is in
    /// [`smart_log`](Self::smart_log).
    pub fn stats(&self) -> ControllerStats {
        let inner = &*self.0;
        if let Some(admin) = inner.admin.lock().as_ref() {
            admin.queue().publish();
        }
        let (admin, io, queues, errors) = inner.ledger.lock().read();
        let failure = self.failure();
        let (quarantined_queues, quarantined_bytes) = {
            let quarantine = inner.quarantine.lock();
            let bytes = quarantine.iter().map(|queue| queue.held_bytes).sum();
            (quarantine.len() as u64, bytes)
        };
        let counts = ControllerCounts {
            resets: 1,
            timeouts: u64::from(matches!(failure, Some(Failure::Timeout { .. }))),
            granted_queues: u64::from(self.granted_queues()),
            open_queues: queues.len() as u64,
            quarantined_queues,
            quarantined_bytes,
            namespaces: self.namespaces().len() as u64,
        };
        ControllerStats {
            device: self.name(),
            failure: failure.map(|failure| failure.to_string()),
            counts,
            admin,
            io,
            queues,
            errors,
        }
    }

    /// Queues whose memory is still in quarantine: dropped, but the device has not let go.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// let queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    /// drop(queue);
    /// assert_eq!(controller.quarantined_queues(), 0, "the device said that it let go");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn quarantined_queues(&self) -> usize {
        self.0.quarantine.lock().len()
    }

    /// Shuts the controller down and says whether that went well; what is merely dropped is shut
    /// down as well, but can tell nobody. Waits no longer than CAP.TO for each of two states.
    ///
    /// The memory of its queues and of what is in quarantine is freed, if the device's DMA has
    /// provably ended; otherwise it is left to the device for ever, and that is an error.
    ///
    /// ```
    /// # use underpin_nvme::{Controller, ControllerOptions, Error};
    /// # use underpin_dma::DmaSpace;
    /// let controller = Controller::open("emu:size=1m", &DmaSpace::new(), ControllerOptions::default())?;
    /// let other = controller.clone();
    /// assert!(matches!(controller.close(), Err(Error::InUse { others: 1, .. })));
    /// other.close()?;
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InUse`] when clones or queues of it are left: the last of them closes it.
    /// [`Error::Failed`] when it had failed before, or does now; [`Error::NotInTime`] when it does
    /// not end its shutdown: completed writes that were not flushed may be lost then.
    pub fn close(self) -> Result<(), Error> {
        let device = self.name();
        match Arc::try_unwrap(self.0) {
            Ok(mut inner) => inner.close(),
            Err(shared) => Err(Error::InUse {
                device,
                others: Arc::strong_count(&shared) - 1,
            }),
        }
    }

    /// Makes a queue pair for one thread.
    ///
    /// # Errors
    /// [`Error::NoQueue`] when all that were granted are in use; [`Error::Dma`] for memory;
    /// [`Error::Admin`] when the device refuses; [`Error::Unsupported`] when the device has too
    /// few interrupts for the [`Waiting`](crate::Waiting) wanted; [`Error::Failed`].
    ///
    /// ```
    /// use underpin_nvme::{Error, QueueOptions, QueuePair};
    ///
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m,queues=1", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// // Each buffer travels with a number of the caller's own.
    /// let options = QueueOptions { depth: 16, ..QueueOptions::default() };
    /// let mut queue: QueuePair<(DmaBuf, u32)> = controller.queue_pair(options)?;
    /// assert_eq!(queue.depth(), 16);
    /// let page = space.alloc(4096, 4096)?;
    /// let (_page, number) = queue.run(ns.read(Lba(0), 8)?, (page, 7))?;
    /// assert_eq!(number, 7);
    ///
    /// let more = controller.queue_pair::<DmaBuf>(options);
    /// assert!(matches!(more, Err(Error::NoQueue { granted: 1, .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn queue_pair<B: Payload>(&self, options: QueueOptions) -> Result<QueuePair<B>, Error> {
        let (queue, waiter) = self.0.create_queue(options)?;
        let controller = Arc::clone(&self.0);
        Ok(QueuePair::new(Box::new(queue), waiter, controller))
    }
}

impl Inner {
    fn new(
        transport: Arc<dyn Transport>,
        space: &DmaSpace,
        options: ControllerOptions,
    ) -> Result<Self, Error> {
        let identity = registers::identity(&*transport)?;
        let limits = limits(&*transport, identity)?;
        let attachment = space.attach(transport.mapper())?;
        let health = Arc::new(Health::default());
        let (told, device) = (Arc::clone(&health), transport.name());
        transport.on_loss(Box::new(move |failure| told.fail(&device, failure)));
        let entries = ADMIN_ENTRIES.min(limits.max_entries);
        let spec = QueueSpec {
            qid: Qid::ADMIN,
            depth: entries - 1,
            sq_entries: entries,
            cq_entries: entries,
            page_bytes: limits.page_bytes,
            max_transfer_bytes: limits.page_bytes,
            // Admin commands have PRPs (Base 2.0, 4.1.2).
            sgl: SglRule::default(),
            max_runs: 1,
            timeout: options.admin_timeout,
            dstrd: limits.dstrd,
            shadows: None,
        };
        let admin = Admin::new(Queue::new(space, &transport, &health, spec)?);
        let mut ledger = Ledger::default();
        ledger.enter(Arc::clone(admin.queue().published()));
        Ok(Self {
            number: AtomicU32::new(new_number()),
            renewals: Mutex::new(0),
            transport,
            space: space.clone(),
            identity,
            limits,
            options,
            health,
            admin: Mutex::new(Some(admin)),
            facts: OnceLock::new(),
            free_qids: Mutex::new(Vec::new()),
            quarantine: Mutex::new(Vec::new()),
            ledger: Mutex::new(ledger),
            doubtful: OnceLock::new(),
            attachment: Some(attachment),
        })
    }

    pub(crate) fn facts(&self) -> &Facts {
        match self.facts.get() {
            Some(facts) => facts,
            // A `Controller` is made only after `up`.
            None => panic!("a controller was used before it was up"),
        }
    }

    /// The controller works.
    pub(crate) fn up(&self, facts: Facts) {
        *self.free_qids.lock() = (1..=facts.granted).rev().collect();
        tracing::info!(
            device = self.transport.name(),
            namespaces = facts.namespaces.namespaces().len(),
            queues = facts.granted,
            max_transfer_bytes = facts.max_transfer_bytes,
            shadow_doorbells = facts.doorbells.is_some(),
            "controller up"
        );
        let _ = self.facts.set(facts);
    }

    /// Tells its namespaces, as they are now, from those of others and of before.
    pub(crate) fn number(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }

    /// Blocks may have another size from now on: requests made before are nobody's. There are no
    /// queues that could take them.
    pub(crate) fn renew_number(&self) {
        let mut renewals = self.renewals.lock();
        *renewals += 1;
        self.number.store(new_number(), Ordering::Relaxed);
    }

    /// For [`renew`](Self::renew), to be asked before namespaces are identified.
    pub(crate) fn renewals(&self) -> u64 {
        *self.renewals.lock()
    }

    /// These are the namespaces from now on; with another number if `resized`. False, and nothing
    /// done, when others have changed them after `before`: what was found may be older than that.
    pub(crate) fn renew(&self, before: u64, resized: bool, namespaces: Vec<Namespace>) -> bool {
        let mut renewals = self.renewals.lock();
        if *renewals != before {
            return false;
        }
        *renewals += 1;
        if resized {
            self.number.store(new_number(), Ordering::Relaxed);
        }
        let number = self.number();
        let facts = self.facts();
        let known = namespaces.into_iter();
        let known = known.map(|namespace| namespace.with_abilities(number, &facts.abilities));
        facts.namespaces.renew(known.collect());
        true
    }

    /// Takes all I/O queues, so that none is made; how many are in use where some are.
    pub(crate) fn take_all_queues(&self) -> Result<Vec<u16>, usize> {
        self.reap();
        let granted = usize::from(self.facts().granted);
        let mut free = self.free_qids.lock();
        match granted - free.len().min(granted) {
            0 => Ok(std::mem::take(&mut *free)),
            in_use => Err(in_use),
        }
    }

    /// Gives them back.
    pub(crate) fn put_queues(&self, qids: Vec<u16>) {
        self.free_qids.lock().extend(qids);
    }

    /// False where the device says that it has no such admin command.
    pub(crate) fn has_admin(&self, opcode: AdminOpcode) -> bool {
        self.facts().abilities.has_admin(opcode)
    }

    /// The volatile write cache, where there is one, was switched on or off.
    pub(crate) fn cache_is(&self, on: bool) {
        let number = self.facts().write_cache.load(Ordering::Relaxed);
        if WriteCache::from_number(number) == WriteCache::Absent {
            return;
        }
        let cache = if on {
            WriteCache::Enabled
        } else {
            WriteCache::Disabled
        };
        let number = cache.number();
        self.facts().write_cache.store(number, Ordering::Relaxed);
    }

    /// Keeps pages until proof: their command failed together with the controller.
    pub(crate) fn doubt(&self, buffers: DoorbellBuffers) {
        let _ = self.doubtful.set(buffers);
    }

    pub(crate) fn failed(&self) -> Error {
        Error::Failed(self.health.failure().unwrap_or(Failure::Closed))
    }

    pub(crate) fn not_in_time(&self, state: &'static str, timeout: Duration) -> Error {
        Error::NotInTime {
            device: self.transport.name(),
            state,
            timeout,
        }
    }

    pub(crate) fn bad_answer(&self, what: &'static str, why: String) -> Error {
        Error::BadAnswer {
            device: self.transport.name(),
            what,
            why,
        }
    }

    pub(crate) fn page_align(&self) -> usize {
        usize::try_from(self.limits.page_bytes).unwrap_or(4096)
    }

    /// Where the admin rings lie, and how many entries they have.
    pub(crate) fn admin_rings(&self) -> Result<(Iova, Iova, u16, u16), Error> {
        let admin = self.admin.lock();
        let Some(admin) = admin.as_ref() else {
            return Err(self.failed());
        };
        let queue = admin.queue();
        let entries = queue.depth() as u16 + 1;
        Ok((queue.sq_iova(), queue.cq_iova(), entries, entries))
    }

    /// What we need of the identify page.
    pub(crate) fn check_controller(&self, identify: &IdentifyController) -> Result<(), Error> {
        let (sqes, cqes) = (identify.sqes(), identify.cqes());
        let holds = |range: u8, size: u8| (range & 0xf..=range >> 4).contains(&size);
        if !holds(sqes, 6) || !holds(cqes, 4) {
            return Err(self.bad_answer(
                "Identify (controller)",
                format!("queue entry sizes SQES {sqes:#x}, CQES {cqes:#x} exclude 64 and 16 bytes"),
            ));
        }
        Ok(())
    }

    /// MDTS counts in pages of CAP.MPSMIN, as a power of two; 0 is no limit.
    pub(crate) fn max_transfer(&self, mdts: u8) -> u64 {
        let page = self.limits.page_bytes;
        // 65,536 blocks of 512 bytes: what a command's block count can say on any format.
        let most = 65_536 * 512;
        let device = match mdts {
            0 => most,
            _ => page
                .checked_shl(u32::from(mdts))
                .filter(|&max| max >> mdts == page)
                .unwrap_or(most),
        };
        let wanted = self.options.max_transfer_bytes.min(device).min(most);
        (wanted / page * page).max(page)
    }

    fn create_queue<B: Payload>(&self, options: QueueOptions) -> Result<(Queue<B>, Waiter), Error> {
        if self.health.is_failed() {
            return Err(self.failed());
        }
        self.reap();
        let facts = self.facts();
        let qid = self.free_qids.lock().pop().map(Qid);
        let qid = qid.ok_or_else(|| Error::NoQueue {
            device: self.transport.name(),
            granted: facts.granted,
        })?;
        let built = Waiter::new(&self.transport, qid, options.waiting)
            .and_then(|waiter| Ok((self.build_queue(qid, options, facts)?, waiter)));
        match built {
            Ok((queue, waiter)) => Ok((self.announce(queue, waiter.vector())?, waiter)),
            Err(error) => {
                self.free_qids.lock().push(qid.0);
                Err(error)
            }
        }
    }

    /// A queue in our memory, of which the device does not know.
    fn build_queue<B: Payload>(
        &self,
        qid: Qid,
        options: QueueOptions,
        facts: &Facts,
    ) -> Result<Queue<B>, Error> {
        let most = self.limits.max_entries;
        let depth = options.depth.clamp(1, most - 1);
        let sq_entries = depth + 1;
        // Twice as long as can be in flight, so that one head doorbell serves several polls; and no
        // shorter than 64, for the doorbell of a queue of one command would be rung at each third.
        let cq_entries = sq_entries.saturating_mul(2).max(64).min(most);
        let spec = QueueSpec {
            qid,
            depth,
            sq_entries,
            cq_entries,
            page_bytes: self.limits.page_bytes,
            max_transfer_bytes: facts.max_transfer_bytes,
            sgl: SglRule::new(Sgls(facts.identify.sgls()), self.options.data_pointers),
            max_runs: self.options.max_runs,
            timeout: self.options.command_timeout,
            dstrd: self.limits.dstrd,
            shadows: facts
                .doorbells
                .as_ref()
                .map(|buffers| buffers.shadows(qid))
                .transpose()?,
        };
        Queue::new(&self.space, &self.transport, &self.health, spec)
    }

    /// Makes a queue known to the device, its completion side first. If that does not succeed,
    /// its memory is freed only when the device has none of its rings.
    fn announce<B: Payload>(
        &self,
        queue: Queue<B>,
        vector: Option<u16>,
    ) -> Result<Queue<B>, Error> {
        let qid = queue.qid();
        // Kept, should the transport panic while the device learns of the rings.
        let queue = ManuallyDrop::new(queue);
        let cq = CreateIoCq {
            qid,
            entries: queue.cq_entries(),
            prp1: queue.cq_iova().get(),
            contiguous: true,
            interrupts: vector.is_some(),
            vector: vector.unwrap_or(0),
        };
        let sq = CreateIoSq {
            qid,
            entries: queue.sq_entries(),
            prp1: queue.sq_iova().get(),
            contiguous: true,
            priority: 0,
            cqid: qid,
        };
        if let Err(error) = Call::new(cq.to_sqe(), None).wait(self) {
            let queue = ManuallyDrop::into_inner(queue);
            if self.health.is_failed() {
                // Whether the device knows the ring is not known.
                self.quarantine.lock().push(Retired::new(Box::new(queue)));
            } else {
                self.free_qids.lock().push(qid.0);
            }
            return Err(error);
        }
        let created = Call::new(sq.to_sqe(), None).wait(self);
        let queue = ManuallyDrop::into_inner(queue);
        match created {
            Ok(_) => {
                let (depth, entries) = (queue.depth(), queue.cq_entries());
                tracing::debug!(device = self.transport.name(), %qid, depth, completion_entries = entries, vector, "queue pair made");
                self.ledger.lock().enter(Arc::clone(queue.published()));
                Ok(queue)
            }
            Err(error) => {
                self.retire(Retired {
                    sq_deleted: true,
                    ..Retired::new(Box::new(queue))
                });
                Err(error)
            }
        }
    }

    /// Takes a queue that its owner has dropped, and frees it as soon as the device lets go.
    pub(crate) fn retire(&self, retired: Retired) {
        if self.health.is_failed() {
            tracing::warn!(
                device = self.transport.name(),
                qid = %retired.qid,
                held_bytes = retired.held_bytes,
                "the controller has failed: a queue's memory stays in quarantine until it is closed"
            );
        }
        self.quarantine.lock().push(retired);
        self.reap();
    }

    /// Deletes retired queues on the device. Delete I/O Submission Queue completed with success
    /// by a live controller ends the queue's DMA (Base 2.0, 5.7): proof, and memory is freed.
    fn reap(&self) {
        if self.health.is_failed() {
            return;
        }
        let retired = self.quarantine.lock().len();
        for _ in 0..retired {
            // One at a time: freeing a queue runs the owner's own code, which may panic, and the
            // others must still be here then.
            let Some(queue) = self.next_retired() else {
                return;
            };
            let qid = queue.qid;
            // Kept, should the transport panic.
            let mut queue = ManuallyDrop::new(queue);
            let deleted = self.delete(&mut queue);
            let queue = ManuallyDrop::into_inner(queue);
            match deleted {
                Ok(()) => {
                    tracing::debug!(device = self.transport.name(), %qid, "queue pair deleted");
                    self.free_qids.lock().push(qid.0);
                    drop(queue);
                }
                Err(error) => {
                    tracing::warn!(device = self.transport.name(), %qid, held_bytes = queue.held_bytes, %error, "a queue's memory stays in quarantine");
                    self.quarantine.lock().push(queue);
                }
            }
        }
    }

    fn next_retired(&self) -> Option<Retired> {
        let mut quarantine = self.quarantine.lock();
        (!quarantine.is_empty()).then(|| quarantine.remove(0))
    }

    fn delete(&self, queue: &mut Retired) -> Result<(), Error> {
        let qid = queue.qid;
        if !queue.sq_deleted {
            Call::new(DeleteIoSq { qid }.to_sqe(), None).wait(self)?;
            queue.sq_deleted = true;
        }
        Call::new(DeleteIoCq { qid }.to_sqe(), None).wait(self)?;
        Ok(())
    }

    /// Ends the device's DMA and frees what it held; says what did not go well. Only once.
    fn close(&mut self) -> Result<(), Error> {
        let failed = self.health.failure();
        let mut shutdown = Ok(());
        self.end(&mut shutdown)?;
        failed.map_or(shutdown, |failure| Err(failure.into()))
    }

    /// The end, for `close` and for `drop`, whichever comes first.
    fn end(&mut self, shutdown: &mut Result<(), Error>) -> Result<(), Error> {
        // Freed with proof only: neither without it nor when a transport panics on the way.
        let held = ManuallyDrop::new((
            self.admin.lock().take(),
            std::mem::take(&mut *self.quarantine.lock()),
            self.facts.take(),
            self.doubtful.take(),
            self.attachment.take(),
        ));
        if held.4.is_none() {
            return Ok(());
        }
        let ended = self.end_dma(shutdown);
        match &ended {
            Ok(()) => {
                tracing::debug!(device = self.transport.name(), "controller closed");
                drop(ManuallyDrop::into_inner(held));
            }
            // Nothing shows that the device has stopped: its memory is never used again.
            Err(error) => {
                tracing::error!(device = self.transport.name(), %error, "memory is left to the device");
            }
        }
        ended
    }

    /// Ends all DMA of the device, with proof. How its orderly shutdown went is told apart: that
    /// is about its data.
    fn end_dma(&self, shutdown: &mut Result<(), Error>) -> Result<(), Error> {
        let disabled = self.disable(shutdown);
        if let Err(error) = &disabled {
            tracing::warn!(device = self.transport.name(), %error, "not disabled; severing");
            self.transport.sever()?;
        }
        if shutdown.is_ok() {
            *shutdown = disabled;
        }
        Ok(())
    }

    /// Orderly shutdown where the controller still works, then CC.EN = 0 and CSTS.RDY = 0, with
    /// CAP and VS as they were at first: a dead device's registers prove nothing.
    fn disable(&self, shutdown: &mut Result<(), Error>) -> Result<(), Error> {
        let transport = &*self.transport;
        let cc = registers::cc(transport)?;
        if cc.en() && !self.health.is_failed() {
            // Base 2.0, 3.6.1: SHN 01b, until CSTS.SHST says 10b. A device that does not manage
            // in time is disabled all the same.
            registers::set_cc(transport, cc.with_shn(0b01))?;
            let deadline = Instant::now() + self.limits.disable_timeout;
            let shut = rt::wait(Some(deadline), |_now| {
                match registers::check_alive(transport) {
                    Ok(csts) if csts.shst() == 0b10 => Some(Ok(())),
                    Ok(_) => None,
                    Err(failure) => Some(Err(failure.into())),
                }
            });
            *shutdown = shut.unwrap_or_else(|_| {
                Err(self.not_in_time("shut down", self.limits.disable_timeout))
            });
        }
        registers::set_cc(transport, cc.with_en(false).with_shn(0))?;
        let deadline = Instant::now() + self.limits.disable_timeout;
        let disabled = rt::wait(Some(deadline), |_now| match registers::csts(transport) {
            Ok(csts) if csts.0 == u32::MAX => Some(Err(Failure::Gone {
                register: "CSTS",
                value: u64::from(csts.0),
            }
            .into())),
            Ok(csts) if csts.rdy() => None,
            Ok(_) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        });
        disabled
            .unwrap_or_else(|_| Err(self.not_in_time("disabled", self.limits.disable_timeout)))?;
        let now = registers::identity(transport)?;
        if now != self.identity {
            let value = transport.read64(offset::CAP)?;
            return Err(Failure::Gone {
                register: "CAP",
                value,
            }
            .into());
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut shutdown = Ok(());
        let _ = self.end(&mut shutdown);
        if let Err(error) = shutdown {
            tracing::warn!(device = self.transport.name(), %error, "not shut down in order");
        }
    }
}

/// Of no controller before.
fn new_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn limits(transport: &dyn Transport, identity: Identity) -> Result<Limits, Error> {
    let cap = identity.cap;
    let refuse = |why: String| Error::Unsupported {
        device: transport.name(),
        why,
    };
    let page_bytes = cap.page_min_bytes();
    if page_bytes > LARGEST_PAGE {
        return Err(refuse(format!(
            "its smallest memory page has {page_bytes} bytes (CAP.MPSMIN); {LARGEST_PAGE} is the most that is supported"
        )));
    }
    if cap.mpsmax() < cap.mpsmin() {
        return Err(refuse("CAP.MPSMAX is below CAP.MPSMIN".to_owned()));
    }
    // CAP.CSS: bit 0 NVM command set, bit 6 command sets by Identify, bit 7 admin only.
    if cap.css() & (1 | 1 << 6) == 0 {
        return Err(refuse(format!(
            "it has no I/O command set (CAP.CSS {:#x})",
            cap.css()
        )));
    }
    if cap.mqes() == 0 {
        return Err(refuse(
            "its queues hold a single entry (CAP.MQES 0)".to_owned(),
        ));
    }
    let (disable_timeout, ready_timeout) = bring_up::timeouts(transport, cap)?;
    Ok(Limits {
        page_bytes,
        max_entries: cap.mqes().saturating_add(1),
        dstrd: cap.dstrd(),
        disable_timeout,
        ready_timeout,
    })
}

impl DoorbellBuffers {
    pub(crate) fn new(inner: &Inner) -> Result<Self, Error> {
        let page = inner.page_align();
        let stride = 4_usize << inner.limits.dstrd;
        Ok(Self {
            shadow: inner.space.alloc(page, page)?,
            event_idx: inner.space.alloc(page, page)?,
            stride,
        })
    }

    /// How many I/O queues one page of shadow doorbells serves, the admin queue's place aside.
    pub(crate) fn queues(&self) -> u16 {
        let pairs = self.shadow.len_bytes() / (2 * self.stride);
        u16::try_from(pairs.saturating_sub(1)).unwrap_or(u16::MAX)
    }

    pub(crate) fn iovas(&self) -> (Iova, Iova) {
        (self.shadow.iova(), self.event_idx.iova())
    }

    /// The words of a queue: its submission tail, then its completion head, laid out as the
    /// doorbell registers are. They begin at zero, whatever an earlier queue left there.
    fn shadows(&self, qid: Qid) -> Result<(Shadow, Shadow), Error> {
        let word = |at: usize| -> Result<Shadow, underpin_dma::OutOfBounds> {
            let offset = (2 * usize::from(qid.0) + at) * self.stride;
            let value = Word32::new(&self.shadow.slice()?, offset)?;
            let event_idx = Word32::new(&self.event_idx.slice()?, offset)?;
            value.store(0, Ordering::SeqCst);
            event_idx.store(0, Ordering::SeqCst);
            Ok(Shadow { value, event_idx })
        };
        let both = word(0).and_then(|tail| Ok((tail, word(1)?)));
        both.map_err(|error| Error::Dma(error.into()))
    }
}

/// An opcode by name: admin or NVM, as the queue has it.
pub(crate) fn opcode_name(qid: Qid, opcode: u8) -> String {
    if qid == Qid::ADMIN {
        AdminOpcode(opcode).to_string()
    } else {
        NvmOpcode(opcode).to_string()
    }
}
