//! From a device that answers to a controller that works (NVMe Base 2.0, 3.5.1), step by step.
//! A state machine: `poll(now)` never waits, and every state has a deadline.
use crate::admin::{Answer, Call};
use crate::commands::Abilities;
use crate::controller::{DoorbellBuffers, Facts, Inner, WriteCache};
use crate::dma::rt::Instant;
use crate::generations::Generation;
use crate::namespace::Namespace;
use crate::{Error, Failure, registers};
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;
use underpin_nvme_spec::admin::{
    Cns, DoorbellBufferConfig, FeatureId, GetFeatures, GetLogPage, Identify, LogId, QueueCounts,
    SetFeatures,
};
use underpin_nvme_spec::identify::{
    Descriptor, IdentifyController, IdentifyNamespace, IdentifyNvmController, NamespaceDescriptors,
    NamespaceList,
};
use underpin_nvme_spec::log::CommandEffectsLog;
use underpin_nvme_spec::registers::{Aqa, Cc, offset};
use underpin_nvme_spec::{AdminOpcode, Nsid};

/// A controller on its way up.
pub(crate) struct BringUp {
    inner: Arc<Inner>,
    state: State,
    found: Found,
    /// Nothing but namespaces is asked for.
    again: bool,
}

enum State {
    Begin,
    BeginAgain,
    Disabling { deadline: Instant },
    Enabling { deadline: Instant },
    IdentifyController(Call),
    QueueCounts(Call),
    ListNamespaces(Call),
    Descriptors(Call, Nsid),
    IdentifyNamespace(Call, Nsid),
    NvmLimits(Call),
    Effects(Call),
    WriteCache(Call),
    Doorbells(Call, DoorbellBuffers),
    Done,
}

impl State {
    const fn name(&self) -> &'static str {
        match self {
            Self::Begin => "beginning",
            Self::BeginAgain => "begin again",
            Self::Disabling { .. } => "disabling",
            Self::Enabling { .. } => "enabling",
            Self::IdentifyController(..) => "identify controller",
            Self::QueueCounts(..) => "number of queues",
            Self::ListNamespaces(..) => "list of namespaces",
            Self::Descriptors(..) => "descriptors of a namespace",
            Self::IdentifyNamespace(..) => "identify namespace",
            Self::NvmLimits(..) => "nvm limits",
            Self::Effects(..) => "effects",
            Self::WriteCache(..) => "write cache",
            Self::Doorbells(..) => "shadow doorbells",
            Self::Done => "done",
        }
    }
}

/// What was learnt so far.
#[derive(Default)]
struct Found {
    identify: Option<Box<IdentifyController>>,
    granted: u16,
    nsids: Vec<Nsid>,
    /// What the controller has beyond `max_namespaces` was left out.
    cut: bool,
    namespaces: Vec<Namespace>,
    abilities: Abilities,
    write_cache: WriteCache,
    doorbells: Option<DoorbellBuffers>,
}

/// CC.CSS: the NVM command set, or all that the device supports where it wants to be asked so.
const CSS_NVM: u8 = 0b000;
const CSS_ALL: u8 = 0b110;
/// The command set identifier of the NVM command set (Base 2.0, figure 274).
const CSI_NVM: u8 = 0;

impl BringUp {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            state: State::Begin,
            found: Found::default(),
            again: false,
        }
    }

    /// Only what there is of namespaces, of a controller that is up.
    pub(crate) fn again(inner: Arc<Inner>) -> Self {
        let identify = Some(inner.facts().identify.clone());
        Self {
            inner,
            state: State::BeginAgain,
            found: Found {
                identify,
                ..Found::default()
            },
            again: true,
        }
    }

    /// What was found of namespaces.
    pub(crate) fn into_namespaces(self) -> Vec<Namespace> {
        self.found.namespaces
    }

    /// Makes what progress can be made now; answers when the controller works or has refused.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Result<(), Error>> {
        loop {
            let state = std::mem::replace(&mut self.state, State::Done);
            match self.step(state, now) {
                Ok(Next::Again(state)) => {
                    let (device, state_name) = (self.inner.transport.name(), state.name());
                    tracing::debug!(device, state = state_name, "bring-up");
                    self.state = state;
                }
                Ok(Next::Later(state)) => {
                    self.state = state;
                    return None;
                }
                Ok(Next::Finished) => return Some(Ok(())),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn step(&mut self, state: State, now: Instant) -> Result<Next, Error> {
        let inner = Arc::clone(&self.inner);
        let transport = &*inner.transport;
        match state {
            State::Begin => {
                let cc = registers::cc(transport)?;
                if cc.en() {
                    registers::set_cc(transport, cc.with_en(false))?;
                }
                Ok(Next::Again(State::Disabling {
                    deadline: now + inner.limits.disable_timeout,
                }))
            }
            State::BeginAgain => Ok(Next::Again(self.list_namespaces(Nsid(0))?)),
            State::Disabling { deadline } => {
                let csts = registers::csts(transport)?;
                if csts.0 == u32::MAX {
                    return Err(gone(csts.0));
                }
                if !csts.rdy() {
                    self.enable(transport)?;
                    let deadline = now + inner.limits.ready_timeout;
                    return Ok(Next::Again(State::Enabling { deadline }));
                }
                if now >= deadline {
                    return Err(inner.not_in_time("disabled", inner.limits.disable_timeout));
                }
                Ok(Next::Later(State::Disabling { deadline }))
            }
            State::Enabling { deadline } => {
                let csts = registers::check_alive(transport)?;
                if csts.rdy() {
                    return Ok(Next::Again(State::IdentifyController(
                        self.identify(Cns::CONTROLLER, Nsid(0))?,
                    )));
                }
                if now >= deadline {
                    return Err(inner.not_in_time("ready", inner.limits.ready_timeout));
                }
                Ok(Next::Later(State::Enabling { deadline }))
            }
            State::IdentifyController(mut call) => match call.poll(&inner) {
                None => Ok(Next::Later(State::IdentifyController(call))),
                Some(answer) => {
                    let identify = Box::new(IdentifyController::from_bytes(&*page(answer?)?));
                    inner.check_controller(&identify)?;
                    self.found.identify = Some(identify);
                    Ok(Next::Again(State::QueueCounts(self.ask_for_queues())))
                }
            },
            State::QueueCounts(mut call) => match call.poll(&inner) {
                None => Ok(Next::Later(State::QueueCounts(call))),
                Some(answer) => {
                    let counts = QueueCounts::from_cdw(answer?.dw0);
                    // The device may grant more than was asked for; what was asked for is used.
                    let granted = counts.submission.min(counts.completion);
                    self.found.granted = granted.clamp(1, inner.options.io_queues.max(1));
                    Ok(Next::Again(self.list_namespaces(Nsid(0))?))
                }
            },
            State::ListNamespaces(mut call) => match call.poll(&inner) {
                None => Ok(Next::Later(State::ListNamespaces(call))),
                Some(answer) => self.read_list(&answer?),
            },
            State::Descriptors(mut call, nsid) => match call.poll(&inner) {
                None => Ok(Next::Later(State::Descriptors(call, nsid))),
                // Required where command sets are told apart; without it nothing is known of the
                // namespace that could be relied on.
                Some(Err(Error::Admin { status, .. })) => {
                    let namespace = Namespace::unidentified(inner.number(), nsid, status);
                    self.found.namespaces.push(namespace);
                    self.next_namespace()
                }
                Some(answer) => self.read_descriptors(&answer?, nsid),
            },
            State::IdentifyNamespace(mut call, nsid) => match call.poll(&inner) {
                None => Ok(Next::Later(State::IdentifyNamespace(call, nsid))),
                // Detached meanwhile, or of another command set: the others are none the worse.
                Some(Err(Error::Admin { status, .. })) => {
                    let namespace = Namespace::unidentified(inner.number(), nsid, status);
                    self.found.namespaces.push(namespace);
                    self.next_namespace()
                }
                Some(answer) => {
                    let identify = Box::new(IdentifyNamespace::from_bytes(&*page(answer?)?));
                    let (atomic, mdts) = match &self.found.identify {
                        Some(controller) => {
                            ((controller.awun(), controller.awupf()), controller.mdts())
                        }
                        None => ((0, 0), 0),
                    };
                    let most = inner.max_transfer(mdts);
                    let namespace = Namespace::new(inner.number(), nsid, identify, atomic, most);
                    self.found.namespaces.push(namespace);
                    self.next_namespace()
                }
            },
            State::NvmLimits(mut call) => match call.poll(&inner) {
                None => Ok(Next::Later(State::NvmLimits(call))),
                // A page that older controllers do not have; without it there is no limit.
                Some(Err(Error::Admin { .. })) => self.ask_for_effects(),
                Some(answer) => {
                    let page = IdentifyNvmController::from_bytes(&*page(answer?)?);
                    self.found.abilities.limits = Some(Box::new(page));
                    self.ask_for_effects()
                }
            },
            State::Effects(mut call) => match call.poll(&inner) {
                None => Ok(Next::Later(State::Effects(call))),
                Some(Err(Error::Admin { .. })) => self.ask_for_write_cache(),
                Some(answer) => {
                    let page = CommandEffectsLog::from_bytes(&*page(answer?)?);
                    // One that has not even Identify says nothing.
                    if page.admin(AdminOpcode::IDENTIFY).is_supported() {
                        self.found.abilities.effects = Some(Box::new(page));
                    }
                    self.ask_for_write_cache()
                }
            },
            State::WriteCache(mut call) => match call.poll(&inner) {
                None => Ok(Next::Later(State::WriteCache(call))),
                Some(answer) => {
                    // Base 2.0, 5.27.1.4: bit 0 is WCE. A device that has a cache but not the
                    // feature is taken at its worst: the cache is on.
                    self.found.write_cache = match answer {
                        Ok(answer) if answer.dw0 & 1 == 0 => WriteCache::Disabled,
                        Ok(_) | Err(Error::Admin { .. }) => WriteCache::Enabled,
                        Err(error) => return Err(error),
                    };
                    self.ask_for_doorbells()
                }
            },
            State::Doorbells(mut call, buffers) => match call.poll(&inner) {
                None => Ok(Next::Later(State::Doorbells(call, buffers))),
                Some(Ok(_)) => {
                    self.found.doorbells = Some(buffers);
                    self.finish()
                }
                // An offer that is not honoured: plain doorbells work everywhere.
                Some(Err(Error::Admin { .. })) => self.finish(),
                Some(Err(error)) => {
                    inner.doubt(buffers);
                    Err(error)
                }
            },
            State::Done => Ok(Next::Finished),
        }
    }

    /// Admin queue addresses, then CC with EN (Base 2.0, 3.5.1, steps 2 to 4).
    fn enable(&self, transport: &dyn crate::Transport) -> Result<(), Error> {
        let inner = &self.inner;
        let (asq, acq, sq_entries, cq_entries) = inner.admin_rings()?;
        let aqa = Aqa::default()
            .with_asqs(sq_entries - 1)
            .with_acqs(cq_entries - 1);
        transport.write32(offset::AQA, aqa.0)?;
        transport.write64(offset::ASQ, asq.get())?;
        transport.write64(offset::ACQ, acq.get())?;
        let cap = inner.identity.cap;
        // CAP.CSS bit 6: the device supports I/O command sets and wants 110b.
        let css = if self.asks_for_command_sets() {
            CSS_ALL
        } else {
            CSS_NVM
        };
        // Ready independent of media (CRIME) only where the device offers nothing else.
        let crime = cap.crims() && !cap.crwms();
        let cc = Cc::default()
            .with_css(css)
            .with_mps(cap.mpsmin())
            .with_iosqes(6)
            .with_iocqes(4)
            .with_crime(crime)
            .with_en(true);
        registers::set_cc(transport, cc)
    }

    fn identify(&self, cns: Cns, nsid: Nsid) -> Result<Call, Error> {
        let page = self.inner.space.alloc(4096, self.inner.page_align())?;
        let sqe = Identify {
            cns,
            nsid,
            ..Identify::default()
        }
        .to_sqe();
        Ok(Call::new(sqe, Some(page)))
    }

    fn ask_for_queues(&self) -> Call {
        let wanted = self.inner.options.io_queues.max(1);
        let counts = QueueCounts {
            submission: wanted,
            completion: wanted,
        };
        let command = SetFeatures {
            fid: FeatureId::NUMBER_OF_QUEUES,
            cdw11: counts.to_cdw(),
            ..SetFeatures::default()
        };
        Call::new(command.to_sqe(), None)
    }

    fn list_namespaces(&self, after: Nsid) -> Result<State, Error> {
        Ok(State::ListNamespaces(
            self.identify(Cns::ACTIVE_NAMESPACES, after)?,
        ))
    }

    /// One page of the list: identifiers in ascending order, ended by a zero
    /// (Base 2.0, 5.17.2.3). A device that repeats itself would keep us here for ever.
    fn read_list(&mut self, answer: &Answer) -> Result<Next, Error> {
        let list = NamespaceList::from_bytes(&*page_ref(answer)?);
        let before = self.found.nsids.len();
        for nsid in list.iter() {
            let ascending = self.found.nsids.last().is_none_or(|&last| last < nsid);
            if !ascending || nsid == Nsid::ALL {
                return Err(self.inner.bad_answer(
                    "Identify (active namespaces)",
                    format!("{nsid} does not follow in ascending order"),
                ));
            }
            self.found.nsids.push(nsid);
        }
        let (read, limit) = (
            self.found.nsids.len() - before,
            self.inner.options.max_namespaces,
        );
        let more = read == 1024 && self.found.nsids.len() < limit;
        self.found.cut |= self.found.nsids.len() > limit || read == 1024 && !more;
        self.found.nsids.truncate(limit);
        match self.found.nsids.last() {
            Some(&last) if more => Ok(Next::Again(self.list_namespaces(last)?)),
            _ => self.next_namespace(),
        }
    }

    /// A namespace of another command set may look like an NVM one in all that is read later: its
    /// blocks could be written where a zone's write pointer is not (Base 2.0, 5.17.2.4).
    fn read_descriptors(&mut self, answer: &Answer, nsid: Nsid) -> Result<Next, Error> {
        let list = NamespaceDescriptors::from_bytes(&*page_ref(answer)?);
        let of_csi = |entry: Descriptor<'_>| match (entry.nidt, entry.nid) {
            (Descriptor::CSI, &[csi]) => Some(csi),
            _ => None,
        };
        let csi = list.iter().find_map(of_csi);
        if csi == Some(CSI_NVM) {
            let call = self.identify(Cns::NAMESPACE, nsid)?;
            return Ok(Next::Again(State::IdentifyNamespace(call, nsid)));
        }
        let number = self.inner.number();
        let namespace = Namespace::of_other_command_set(number, nsid, csi);
        self.found.namespaces.push(namespace);
        self.next_namespace()
    }

    /// CC.CSS 110b was set: namespaces say themselves of which command set they are.
    fn asks_for_command_sets(&self) -> bool {
        self.inner.identity.cap.css() & 1 << 6 != 0
    }

    fn next_namespace(&mut self) -> Result<Next, Error> {
        match self.found.nsids.get(self.found.namespaces.len()) {
            Some(&nsid) if self.asks_for_command_sets() => {
                let call = self.identify(Cns::DESCRIPTORS, nsid)?;
                Ok(Next::Again(State::Descriptors(call, nsid)))
            }
            Some(&nsid) => {
                let call = self.identify(Cns::NAMESPACE, nsid)?;
                Ok(Next::Again(State::IdentifyNamespace(call, nsid)))
            }
            None => {
                if self.found.cut {
                    tracing::warn!(
                        device = self.inner.transport.name(),
                        max_namespaces = self.inner.options.max_namespaces,
                        "the device has more namespaces; raise ControllerOptions::max_namespaces to see them"
                    );
                }
                self.ask_for_limits()
            }
        }
    }

    /// How much the commands without data may do at a time, from version 2.0 on (NVM Command Set
    /// 1.0, 4.1.5.4).
    fn ask_for_limits(&mut self) -> Result<Next, Error> {
        if self.again {
            return Ok(Next::Finished);
        }
        if self.inner.identity.vs.major() < 2 {
            return self.ask_for_effects();
        }
        let call = self.identify(Cns::COMMAND_SET_CONTROLLER, Nsid(0))?;
        Ok(Next::Again(State::NvmLimits(call)))
    }

    /// Which commands there are (LPA bit 1).
    fn ask_for_effects(&mut self) -> Result<Next, Error> {
        let offered = self.found.identify.as_ref();
        if offered.is_none_or(|page| page.lpa() & 1 << 1 == 0) {
            return self.ask_for_write_cache();
        }
        let page = self.inner.space.alloc(4096, self.inner.page_align())?;
        let command = GetLogPage {
            lid: LogId::COMMAND_EFFECTS,
            nsid: Nsid::ALL,
            len_bytes: 4096,
            ..GetLogPage::default()
        };
        let call = Call::new(command.to_sqe(), Some(page));
        Ok(Next::Again(State::Effects(call)))
    }

    fn ask_for_write_cache(&mut self) -> Result<Next, Error> {
        let has_cache = self
            .found
            .identify
            .as_ref()
            .is_some_and(|identify| identify.vwc() & 1 != 0);
        if !has_cache {
            return self.ask_for_doorbells();
        }
        let fid = FeatureId::VOLATILE_WRITE_CACHE;
        let command = GetFeatures {
            fid,
            ..GetFeatures::default()
        };
        Ok(Next::Again(State::WriteCache(Call::new(
            command.to_sqe(),
            None,
        ))))
    }

    fn ask_for_doorbells(&mut self) -> Result<Next, Error> {
        // OACS bit 8: Doorbell Buffer Config (Base 2.0, 5.17.2.1).
        let offered = self
            .found
            .identify
            .as_ref()
            .is_some_and(|page| page.oacs() & 1 << 8 != 0);
        if !offered || !self.inner.options.shadow_doorbells {
            return self.finish();
        }
        let buffers = DoorbellBuffers::new(&self.inner)?;
        if buffers.queues() == 0 {
            // CAP.DSTRD spaces the words so far apart that the page holds none of an I/O queue.
            return self.finish();
        }
        let (shadow, event_idx) = buffers.iovas();
        let command = DoorbellBufferConfig {
            shadow: shadow.get(),
            event_idx: event_idx.get(),
        };
        Ok(Next::Again(State::Doorbells(
            Call::new(command.to_sqe(), None),
            buffers,
        )))
    }

    fn finish(&mut self) -> Result<Next, Error> {
        let found = std::mem::take(&mut self.found);
        let Some(identify) = found.identify else {
            return Err(self
                .inner
                .bad_answer("Identify", "there was none".to_owned()));
        };
        let most = found
            .doorbells
            .as_ref()
            .map_or(u16::MAX, DoorbellBuffers::queues);
        let abilities = Arc::new(Abilities {
            oncs: identify.oncs(),
            page_bytes: self.inner.limits.page_bytes,
            ..found.abilities
        });
        let number = self.inner.number();
        let namespaces = found.namespaces.into_iter();
        let facts = Facts {
            max_transfer_bytes: self.inner.max_transfer(identify.mdts()),
            identify,
            namespaces: Generation::new(
                namespaces
                    .map(|namespace| namespace.with_abilities(number, &abilities))
                    .collect(),
            ),
            abilities,
            granted: found.granted.min(most),
            write_cache: AtomicU8::new(found.write_cache.number()),
            doorbells: found.doorbells,
        };
        self.inner.up(facts);
        Ok(Next::Finished)
    }
}

enum Next {
    /// Go on at once.
    Again(State),
    /// Nothing more can be done now.
    Later(State),
    Finished,
}

fn gone(csts: u32) -> Error {
    Failure::Gone {
        register: "CSTS",
        value: u64::from(csts),
    }
    .into()
}

fn page(answer: Answer) -> Result<Box<[u8; 4096]>, Error> {
    page_ref(&answer)
}

fn page_ref(answer: &Answer) -> Result<Box<[u8; 4096]>, Error> {
    let mut page = Box::new([0; 4096]);
    if let Some(buffer) = &answer.buffer {
        buffer
            .copy_to(0, &mut *page)
            .map_err(underpin_dma::Error::from)?;
    }
    Ok(page)
}

/// The time the controller gives itself (CAP.TO, and CRTO where CAP.CRMS says it counts), and no
/// less than one unit of it: some devices state 0 and mean "soon".
pub(crate) fn timeouts(
    transport: &dyn crate::Transport,
    cap: underpin_nvme_spec::registers::Cap,
) -> Result<(Duration, Duration), Error> {
    const UNIT_MS: u64 = 500;
    let disable = cap.timeout_ms().max(UNIT_MS);
    let mut ready = disable;
    if cap.crwms() || cap.crims() {
        let crto = underpin_nvme_spec::registers::Crto(transport.read32(offset::CRTO)?);
        let units = if cap.crwms() {
            crto.crwmt()
        } else {
            crto.crimt()
        };
        // Devices exist that state 0 here; CAP.TO is the floor.
        ready = ready.max(u64::from(units) * UNIT_MS);
    }
    Ok((Duration::from_millis(disable), Duration::from_millis(ready)))
}
