//! Asynchronous events (NVMe Base 2.0, 5.2): requests that the driver keeps posted, and what the
//! device tells with them, for whoever polls.
use super::call::{AdminCall, Data};
use crate::dma::DmaBuf;
use crate::dma::rt::{self, Instant};
use crate::queue::{Allowed, Ended, Outcome, Queue};
use crate::slots::Token;
use crate::{Controller, Error, Failure};
use std::collections::VecDeque;
use std::time::Duration;
use underpin_nvme_spec::Status;
use underpin_nvme_spec::admin::{AsyncEvent, AsyncEventRequest, EventMask, FeatureId, SetFeatures};

/// Requests kept posted at most: a device tells of one event of a kind at a time.
const POSTED: usize = 4;
/// Events kept for who does not ask for them.
const KEPT: usize = 64;

/// The requests on the admin queue, and what came of them.
#[derive(Debug, Default)]
pub(crate) struct EventWatch {
    /// How many are to be posted.
    wanted: usize,
    posted: Vec<Token>,
    told: VecDeque<AsyncEvent>,
    lost: u64,
    /// The device takes no more of them.
    refused: Option<Status>,
}

impl EventWatch {
    /// True when this was one of the requests; its event is kept then.
    pub(crate) fn take(&mut self, ended: &Ended<DmaBuf>) -> bool {
        let Some(at) = self.posted.iter().position(|&token| token == ended.token) else {
            return false;
        };
        self.posted.swap_remove(at);
        match ended.outcome {
            Outcome::Done { dw0 } if self.told.len() < KEPT => {
                self.told.push_back(AsyncEvent(dw0));
            }
            Outcome::Done { .. } => self.lost += 1,
            Outcome::Error { status, .. } => self.refused = Some(status),
            Outcome::Lost => {}
        }
        true
    }

    /// Posts what is missing. A device that answers at once again and again is answered once a
    /// poll, no more.
    pub(crate) fn post(&mut self, queue: &mut Queue<DmaBuf>) {
        let mut pushed = false;
        while self.refused.is_none() && self.posted.len() < self.wanted {
            match queue.push_within(AsyncEventRequest.to_sqe(), Allowed::Forever, None) {
                Ok(token) => self.posted.push(token),
                // Ordinary calls come first; the next poll tries again.
                Err(_) => break,
            }
            pushed = true;
        }
        if pushed {
            queue.ring();
        }
    }
}

/// What the controller has to tell of itself, without being asked. Clones, and whatever
/// [`Controller::events`] gives of the same controller, share what is told: each event goes to the
/// first who asks.
///
/// An event of one kind is told once, until the log page that it names was read
/// ([`Controller::smart_log`], [`Controller::changed_namespaces`]).
///
/// ```
/// use std::time::Duration;
/// use underpin_dma::DmaSpace;
/// use underpin_emulator::{Emulator, Notice};
/// use underpin_nvme::spec::admin::{AsyncEvent, EventMask};
/// use underpin_nvme::{Controller, ControllerOptions, transport::Embedded};
///
/// let emulator = Emulator::new("size=1m".parse()?)?;
/// emulator.start_thread()?;
/// let transport = Embedded::new("emu0", emulator.clone());
/// let controller =
///     Controller::with_transport(transport, &DmaSpace::new(), ControllerOptions::default())?;
///
/// let events = controller.events(EventMask::NAMESPACES)?;
/// assert_eq!(events.poll()?, None);
/// emulator.notify(Notice::NamespaceChanged(1));
/// assert_eq!(events.wait(Duration::from_secs(5))?, Some(AsyncEvent::NAMESPACE_CHANGED));
/// // Reading its page lets the next event of the kind through.
/// assert!(controller.changed_namespaces()?.iter().eq([underpin_nvme::Nsid(1)]));
/// assert_eq!(events.lost(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Events {
    controller: Controller,
}

impl Controller {
    /// Asks the device for events of these kinds, as far as it offers them (OAES), and keeps
    /// requests for them posted until the controller is closed. Critical warnings of the SMART log
    /// and changes of namespaces are what most programs want.
    ///
    /// # Errors
    /// [`Error::NotSupported`] when the admin queue is too short for it; [`Error::Admin`] with the
    /// device's status; [`Error::Failed`].
    ///
    /// ```
    /// # use underpin_dma::DmaSpace;
    /// # use underpin_nvme::{Controller, ControllerOptions, spec::admin::EventMask};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// let wanted = EventMask::CRITICAL_WARNINGS.with(EventMask::NAMESPACES);
    /// let events = controller.events(wanted)?;
    /// while let Some(event) = events.poll()? {
    ///     println!("{event}");
    /// }
    /// # Ok::<(), underpin_nvme::Error>(())
    /// ```
    pub fn events(&self, wanted: EventMask) -> Result<Events, Error> {
        let mask = wanted.offered(self.identify().oaes());
        let command = SetFeatures {
            fid: FeatureId::ASYNC_EVENTS,
            cdw11: mask.0,
            ..SetFeatures::default()
        };
        let sqe = command.to_sqe();
        AdminCall::new(&self.0, sqe, &Data::None, None, |_, _| Ok(()))?.wait()?;
        let posted = {
            let mut admin = self.0.admin.lock();
            let Some(admin) = admin.as_mut() else {
                return Err(Failure::Closed.into());
            };
            // Half of the queue is left to ordinary calls.
            let room = admin.queue().depth() / 2;
            let limit = usize::from(self.identify().aerl()) + 1;
            let (watch, queue) = admin.events();
            watch.wanted = POSTED.min(limit).min(room);
            watch.post(queue);
            watch.wanted
        };
        self.0.need(
            posted > 0,
            "asynchronous events",
            "its queues are too short to keep a request posted (CAP.MQES)",
        )?;
        Ok(Events {
            controller: self.clone(),
        })
    }
}

impl Events {
    /// The next event, if there is one. Never waits.
    ///
    /// # Errors
    /// [`Error::Admin`] when the device takes no requests; [`Error::Failed`].
    pub fn poll(&self) -> Result<Option<AsyncEvent>, Error> {
        let inner = &self.controller.0;
        if inner.health.is_failed() {
            return Err(inner.failed());
        }
        let mut admin = inner.admin.lock();
        let Some(admin) = admin.as_mut() else {
            return Err(Failure::Closed.into());
        };
        admin.poll();
        let (watch, queue) = admin.events();
        watch.post(queue);
        if let Some(event) = watch.told.pop_front() {
            return Ok(Some(event));
        }
        match watch.refused {
            Some(status) if watch.posted.is_empty() => Err(Error::Admin {
                opcode: underpin_nvme_spec::AdminOpcode::ASYNC_EVENT_REQUEST,
                status,
            }),
            _ => Ok(None),
        }
    }

    /// Waits for the next event; `None` after `time` without one.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn wait(&self, time: Duration) -> Result<Option<AsyncEvent>, Error> {
        let deadline = Instant::now() + time;
        let event = rt::wait(Some(deadline), |_now| self.poll().transpose());
        event.map_or(Ok(None), |event| event.map(Some))
    }

    /// Events that were dropped, as nobody had asked for so long.
    pub fn lost(&self) -> u64 {
        let mut admin = self.controller.0.admin.lock();
        admin.as_mut().map_or(0, |admin| admin.events().0.lost)
    }
}
