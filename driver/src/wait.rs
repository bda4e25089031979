//! How the owner of a queue waits for its completions: by polling, by interrupt, or by both in
//! turn. What is chosen here is done in [`QueuePair::wait`](crate::QueuePair::wait).
use crate::adaptive::Pace;
use crate::dma::rt::{Event, Instant};
use crate::interrupt::Interrupt;
use crate::{Error, Transport};
use std::sync::Arc;
use std::time::Duration;
use underpin_nvme_spec::Qid;

/// How a queue is waited for. `submit`, `ring` and `poll` are the same for all.
///
/// ```
/// use std::time::Duration;
/// use underpin_nvme::{QueueOptions, QueuePair, Waiting};
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let patient = Waiting::Adaptive { spin: Duration::from_micros(20) };
/// for waiting in [Waiting::Poll, Waiting::Interrupt, Waiting::ADAPTIVE, patient] {
///     let options = QueueOptions { waiting, ..QueueOptions::default() };
///     let mut queue: QueuePair<DmaBuf> = controller.queue_pair(options)?;
///     // The same calls, whichever it is.
///     queue.run(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
///     assert_eq!(queue.event().is_some(), waiting != Waiting::Poll);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiting {
    /// The completion ring is read until something is there; no interrupt is asked for. Waiting
    /// spins, then yields, then sleeps up to 1 ms at a time. The lowest latency for a busy queue,
    /// and the default.
    #[default]
    Poll,
    /// The thread sleeps at once and the device's interrupt wakes it. For queues that are seldom
    /// used, and for those whose event somebody else watches.
    ///
    /// The kernel gives its own driver's vectors to the processors that submit. Those of VFIO are the
    /// administrator's to place (`/proc/irq/N/smp_affinity`): one that comes to another processor than
    /// the thread's has to wake that first, which in a guest cost a quarter of the I/Os per second.
    Interrupt,
    /// Polls while there is something to do; when nothing has come for `spin`, sleeps until the
    /// interrupt. While the queue stays busy the interrupt is masked, so that the device need not
    /// raise it.
    Adaptive {
        /// How long to look for the next completion before sleeping. More than a wake-up costs
        /// (tens of microseconds) is processor time without gain.
        spin: Duration,
    },
}

impl Waiting {
    /// [`Adaptive`](Self::Adaptive) with a spin of 50 us: about what a sleep and a wake-up cost.
    pub const ADAPTIVE: Self = Self::Adaptive {
        spin: Duration::from_micros(50),
    };
}

/// What [`QueuePair::arm`](crate::QueuePair::arm) found.
///
/// ```
/// use underpin_nvme::{Armed, QueueOptions, QueuePair, Waiting};
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let options = QueueOptions { waiting: Waiting::Interrupt, ..QueueOptions::default() };
/// let mut queue: QueuePair<DmaBuf> = controller.queue_pair(options)?;
/// assert_eq!(queue.arm(), Armed::Sleep { until: None }, "nothing is in flight");
/// queue.submit(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
/// assert_ne!(queue.arm(), Armed::Sleep { until: None }, "a command has a deadline");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// There is something to poll, or the queue has no interrupt: do not sleep.
    Ready,
    /// Nothing is there, and the event will tell of what comes. Sleep until it is readable.
    Sleep {
        /// Poll at this time though the event told nothing: a deadline or a look at the device
        /// is due then. `None` while nothing is in flight.
        until: Option<Instant>,
    },
}

/// How one queue is waited for.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) interrupt: Option<Interrupt>,
    pub(crate) pace: Pace,
}

impl Waiter {
    pub(crate) fn new(
        transport: &Arc<dyn Transport>,
        qid: Qid,
        waiting: Waiting,
    ) -> Result<Self, Error> {
        let spin = match waiting {
            Waiting::Poll => {
                let (interrupt, pace) = (None, Pace::new(Duration::ZERO));
                return Ok(Self { interrupt, pace });
            }
            Waiting::Interrupt => Duration::ZERO,
            Waiting::Adaptive { spin } => spin,
        };
        let masks = waiting != Waiting::Interrupt;
        Ok(Self {
            interrupt: Some(Interrupt::new(transport, qid, masks)?),
            pace: Pace::new(spin),
        })
    }

    /// The vector that the completion queue shall raise.
    pub(crate) fn vector(&self) -> Option<u16> {
        self.interrupt.as_ref().map(Interrupt::vector)
    }

    pub(crate) fn event(&self) -> Option<&Event> {
        self.interrupt.as_ref().map(Interrupt::event)
    }

    /// Something was found without a sleep. Masks the interrupt once that goes on for a while.
    pub(crate) fn busy(&mut self) -> Result<(), crate::TransportError> {
        match &mut self.interrupt {
            Some(interrupt) if self.pace.busy() => interrupt.mask(),
            _ => Ok(()),
        }
    }
}
