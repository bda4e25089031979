//! Waiting for a queue's completions: blocking, or armed for somebody else's event loop.
use super::QueuePair;
use crate::Armed;
use crate::dma::Payload;
use crate::dma::rt::{self, Event, Instant};
use std::time::Duration;

impl<B: Payload> QueuePair<B> {
    /// Waits as the queue's [`Waiting`](crate::Waiting) says until [`poll`](Self::poll) would
    /// find something, no longer than until `deadline`. Rings first.
    ///
    /// True when there is something to poll: a completion, or the end of the requests of a
    /// controller that has failed. False when the deadline has passed, or when nothing is in
    /// flight, so that nothing can come.
    ///
    /// A command that is late, and a device that is gone, are noticed while asleep, too.
    ///
    /// ```
    /// use std::time::Duration;
    /// use underpin_dma::{DmaBuf, DmaSpace};
    /// use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions, QueuePair, Waiting};
    ///
    /// let space = DmaSpace::new();
    /// let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// let ns = controller.namespace(None)?;
    /// let options = QueueOptions { waiting: Waiting::ADAPTIVE, ..QueueOptions::default() };
    /// let mut queue: QueuePair<DmaBuf> = controller.queue_pair(options)?;
    ///
    /// queue.submit(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
    /// let mut ended = 0;
    /// while queue.wait(None) {
    ///     ended += queue.poll(64, |completion| assert!(completion.result.is_ok()));
    /// }
    /// assert_eq!(ended, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(&mut self, deadline: Option<Instant>) -> bool {
        self.ring();
        loop {
            if self.has_news() {
                self.was_busy();
                return true;
            }
            let now = Instant::now();
            if !self.queue().is_owed() || deadline.is_some_and(|deadline| now >= deadline) {
                return false;
            }
            if self.waiter.interrupt.is_none() {
                // Polling: until something is there, or the clock wants to be looked at.
                let until = self.queue_mut().next_look().into_iter().chain(deadline);
                let _ = rt::wait(until.min(), |_now| self.has_news().then_some(()));
                continue;
            }
            let spin_until = self.waiter.pace.idle(now);
            if spin_until > now {
                let until = deadline.into_iter().fold(spin_until, Instant::min);
                let _ = rt::wait(Some(until), |_now| self.has_news().then_some(()));
                continue;
            }
            if let Armed::Sleep { until } = self.arm() {
                self.sleep(until.into_iter().chain(deadline).min());
            }
        }
    }

    /// Sleeps until the event is set, or until then.
    fn sleep(&mut self, until: Option<Instant>) {
        let Some(event) = self.waiter.event() else {
            return;
        };
        let told = event.wait(until) || event.is_set();
        let missed = !told && self.has_news();
        self.queue_mut().stats.missed_interrupts += u64::from(missed);
    }

    /// For an event loop of the caller's own: rings, makes [`event`](Self::event) tell of what
    /// comes from now on, and looks once more. With [`Armed::Sleep`] the loop may wait for the
    /// event; with [`Armed::Ready`] it polls first.
    ///
    /// A polled queue has no event: it is `Ready` as long as anything is in flight.
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
    /// let event = queue.event().expect("it has an interrupt").clone();
    ///
    /// queue.submit(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
    /// let mut ended = 0;
    /// while ended == 0 {
    ///     match queue.arm() {
    ///         Armed::Ready => ended += queue.poll(64, |completion| assert!(completion.result.is_ok())),
    ///         // Here an event loop would wait for this and other descriptors.
    ///         Armed::Sleep { until } => {
    ///             event.wait(until);
    ///             ended += queue.poll(64, |completion| assert!(completion.result.is_ok()));
    ///         }
    ///     }
    /// }
    /// assert_eq!(ended, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn arm(&mut self) -> Armed {
        if !self.stash.is_empty() {
            return Armed::Ready;
        }
        let Self { queue, waiter, .. } = self;
        match (queue, &mut waiter.interrupt) {
            (Some(queue), Some(interrupt)) => {
                let armed = queue.arm(interrupt);
                if armed != Armed::Ready {
                    waiter.pace.slept();
                    queue.stats.sleeps += 1;
                }
                armed
            }
            (Some(queue), None) if queue.is_owed() => {
                queue.ring();
                Armed::Ready
            }
            _ => Armed::Sleep { until: None },
        }
    }

    /// What the queue's interrupt signals; its descriptor is for `epoll` or an executor. It stays
    /// readable until the next [`arm`](Self::arm). `None` with
    /// [`Waiting::Poll`](crate::Waiting::Poll).
    pub fn event(&self) -> Option<&Event> {
        self.waiter.event()
    }

    /// So many signals of the event are no interrupts.
    pub(crate) fn add_own_signals(&mut self, count: u64) {
        if let Some(interrupt) = &mut self.waiter.interrupt {
            interrupt.add_own_signals(count);
        }
    }

    /// True when a poll would find something.
    pub(crate) fn has_news(&self) -> bool {
        !self.stash.is_empty() || self.queue().has_news()
    }

    /// Nothing was found: until when to go on looking. `None` when there is nothing to look for. A
    /// polled queue is looked for all the time; its polls look at the clock.
    pub(crate) fn spins_until(&mut self, now: Instant) -> Option<Instant> {
        const POLLED: Duration = Duration::from_micros(50);
        match self.waiter.interrupt {
            _ if !self.queue().is_owed() => None,
            Some(_) => Some(self.waiter.pace.idle(now)),
            None => Some(now + POLLED),
        }
    }

    /// The waiter found something awake.
    pub(crate) fn was_busy(&mut self) {
        if let Err(error) = self.waiter.busy() {
            self.queue().transport_failed(&error);
        }
    }
}
