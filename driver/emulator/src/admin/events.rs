//! Asynchronous events (Base 2.0, 5.2): requests wait here until there is something to tell, and
//! what was told of one kind is not told again before its log page was read.
use super::Reaction;
use crate::core::{Cx, Machine};
use crate::faults::Plan;
use crate::health::TOO_WARM;
use crate::job::Outgoing;
use std::collections::{BTreeSet, VecDeque};
use underpin_dma::rt::sync::Mutex;
use underpin_nvme_spec::admin::{AsyncEvent, EventMask, FeatureId, LogId, TemperatureThreshold};
use underpin_nvme_spec::identify::NamespaceList;
use underpin_nvme_spec::log::CriticalWarning;
use underpin_nvme_spec::{Nsid, Sqe, Status};

/// Asynchronous Event Requests that can be outstanding.
pub(crate) const ASYNC_EVENTS: u8 = 4;

/// Something that happens to a controller without a command: for tests of what its host makes of
/// it.
///
/// ```
/// use underpin_emulator::{Emulator, Notice};
/// use underpin_nvme_spec::log::CriticalWarning;
///
/// let emulator = Emulator::new("size=1m".parse()?)?;
/// emulator.start_thread()?;
/// // The host reads them in the SMART log, and is told if it has asked for events.
/// emulator.notify(Notice::Temperature(273 + 90));
/// emulator.notify(Notice::Warnings(CriticalWarning(0x01)));
/// emulator.notify(Notice::NamespaceChanged(1));
/// # Ok::<(), underpin_emulator::EmulatorError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// From now on its SMART log has these critical warnings.
    Warnings(CriticalWarning),
    /// From now on it has this temperature, in kelvins; beyond a threshold it warns.
    Temperature(u16),
    /// What this namespace is has changed.
    NamespaceChanged(u32),
}

/// Notices from the handle, for the controller's next step.
#[derive(Debug, Default)]
pub(crate) struct NoticeBoard(Mutex<Vec<Notice>>);

impl NoticeBoard {
    pub(crate) fn add(&self, notice: Notice) {
        self.0.lock().push(notice);
    }

    fn take(&self) -> Vec<Notice> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Requests, and what is to be told.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Command identifiers, oldest first.
    requests: VecDeque<u16>,
    pending: VecDeque<AsyncEvent>,
    /// Told, and their log page not read since.
    masked: Vec<AsyncEvent>,
    /// Namespaces that changed since their log page was read.
    changed: BTreeSet<u32>,
    /// Events of a fault that were not told yet; no reading of pages holds them up.
    storm: u32,
}

impl Events {
    /// A reset forgets requests and events.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Machine {
    pub(super) fn request_event(&mut self, sqe: &Sqe) -> Reaction {
        if self.events.requests.len() == usize::from(ASYNC_EVENTS) {
            return Status::ASYNC_EVENT_LIMIT_EXCEEDED
                .with_do_not_retry()
                .into();
        }
        self.events.requests.push_back(sqe.cid().0);
        self.tell_events();
        Reaction::Held
    }

    /// Ends a request that waits. False when there is none with this identifier.
    pub(super) fn abort_event_request(&mut self, cid: u16) -> bool {
        let requests = &mut self.events.requests;
        let Some(at) = requests.iter().position(|&request| request == cid) else {
            return false;
        };
        requests.remove(at);
        self.end_request(cid, Status::ABORT_REQUESTED, 0);
        true
    }

    fn end_request(&mut self, cid: u16, status: Status, dw0: u32) {
        self.outbox.push_back(Outgoing {
            sqid: 0,
            cqid: 0,
            cid,
            status,
            dw0,
            plan: Plan::default(),
        });
        self.go_slowly();
    }

    /// What the handle has said since.
    pub(crate) fn hear_notices(&mut self, cx: &Cx<'_>) {
        for notice in cx.shared.notices.take() {
            match notice {
                Notice::Warnings(warnings) => self.warn(warnings),
                Notice::Temperature(kelvins) => {
                    self.health.kelvins = kelvins;
                    self.weigh_temperature();
                }
                Notice::NamespaceChanged(nsid) => self.namespace_changed(nsid),
            }
        }
    }

    /// These critical warnings hold from now on; those that are new are told.
    pub(crate) fn warn(&mut self, warnings: CriticalWarning) {
        let new = CriticalWarning(warnings.0 & !self.health.warnings.0);
        self.health.warnings = warnings;
        let wanted = EventMask(self.features.kept_value(FeatureId::ASYNC_EVENTS));
        for (warning, _) in CriticalWarning::ALL {
            if new.contains(*warning) && wanted.contains(EventMask(u32::from(warning.0))) {
                self.raise(match *warning {
                    CriticalWarning::SPARE => AsyncEvent::SPARE,
                    CriticalWarning::TEMPERATURE => AsyncEvent::TEMPERATURE,
                    _ => AsyncEvent::RELIABILITY,
                });
            }
        }
    }

    /// Warns of a temperature beyond a threshold, or takes the warning back.
    pub(crate) fn weigh_temperature(&mut self) {
        let feature = FeatureId::TEMPERATURE_THRESHOLD;
        let set = TemperatureThreshold::from_cdw(self.features.kept_value(feature));
        let limit = match set.kelvins {
            0 => TOO_WARM,
            kelvins => kelvins,
        };
        let kelvins = self.health.kelvins;
        let beyond = match set.under {
            true => kelvins <= limit,
            false => kelvins >= limit,
        };
        let others = self.health.warnings.0 & !CriticalWarning::TEMPERATURE.0;
        let warning = match beyond {
            true => CriticalWarning::TEMPERATURE.0,
            false => 0,
        };
        self.warn(CriticalWarning(others | warning));
    }

    /// What a namespace is has changed, or whether it is there.
    pub(crate) fn namespace_changed(&mut self, nsid: u32) {
        self.events.changed.insert(nsid);
        let wanted = EventMask(self.features.kept_value(FeatureId::ASYNC_EVENTS));
        if wanted.contains(EventMask::NAMESPACES) {
            self.raise(AsyncEvent::NAMESPACE_CHANGED);
        }
    }

    fn raise(&mut self, event: AsyncEvent) {
        let same_kind = |other: &AsyncEvent| other.kind() == event.kind();
        let events = &mut self.events;
        if events.masked.iter().any(same_kind) || events.pending.contains(&event) {
            return;
        }
        events.pending.push_back(event);
        self.tell_events();
    }

    /// So many events come at once, and go on coming.
    pub(crate) fn storm(&mut self, times: u32) {
        self.events.storm = self.events.storm.saturating_add(times);
        self.tell_events();
    }

    fn tell_events(&mut self) {
        const KINDS: [AsyncEvent; 3] = [
            AsyncEvent::TEMPERATURE,
            AsyncEvent::NAMESPACE_CHANGED,
            AsyncEvent::SPARE,
        ];
        while self.events.storm > 0
            && let Some(cid) = self.events.requests.pop_front()
        {
            let kind = KINDS.get(self.events.storm as usize % KINDS.len());
            self.events.storm -= 1;
            self.stats.events += 1;
            let event = kind.copied().unwrap_or(AsyncEvent::SPARE);
            self.end_request(cid, Status::SUCCESS, event.0);
        }
        while let Some(&event) = self.events.pending.front() {
            let same_kind = |other: &AsyncEvent| other.kind() == event.kind();
            if self.events.masked.iter().any(same_kind) {
                // Told by the same log page as the one before.
                self.events.pending.pop_front();
                continue;
            }
            let Some(cid) = self.events.requests.pop_front() else {
                return;
            };
            self.events.pending.pop_front();
            self.events.masked.push(event);
            self.stats.events += 1;
            self.end_request(cid, Status::SUCCESS, event.0);
        }
    }

    /// A log page was read, which clears the events that name it.
    pub(super) fn page_was_read(&mut self, lid: LogId) {
        let events = &mut self.events;
        events.masked.retain(|event| event.log_page() != lid);
        events.pending.retain(|event| event.log_page() != lid);
        if lid == LogId::CHANGED_NAMESPACES {
            events.changed.clear();
        }
    }

    /// The Changed Namespace List (Base 2.0, 5.16.1.5).
    pub(super) fn changed_namespaces(&self) -> NamespaceList {
        let changed = &self.events.changed;
        match changed.len() > NamespaceList::CAPACITY {
            true => NamespaceList::from_nsids([Nsid::ALL]),
            false => NamespaceList::from_nsids(changed.iter().map(|&nsid| Nsid(nsid))),
        }
    }
}
