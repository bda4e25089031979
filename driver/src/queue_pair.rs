//! A queue pair for one thread: submit, ring, poll. No lock, no allocation, no system call.
//! What is in flight belongs to the queue; dropping the queue, too, waits for proof.
mod wait;

use crate::controller::{Inner, Retired};
use crate::dma::Payload;
use crate::dma::rt;
use crate::namespace::{Io, Kind};
use crate::queue::{Ended, Outcome, Queue, Transfer};
use crate::wait::Waiter;
use crate::{CommandError, Error, Failure, QueueStats, Refused, Token};
use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use underpin_nvme_spec::{Lba, Nsid, NvmOpcode, Qid};

/// A request that has ended.
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// let token = queue.submit(ns.write(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
/// let completion = queue.wait_for(token);
/// assert_eq!(completion.token, token);
/// completion.result?;
/// let page = completion.buffer.expect("a good end gives it back");
/// assert_eq!(page.len_bytes(), 4096);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a completion carries the buffer and the command's error"]
pub struct Completion<B> {
    /// The request, as [`QueuePair::submit`] named it.
    pub token: Token,
    /// How it ended.
    pub result: Result<(), CommandError>,
    /// Dword 0 of the completion, where the command has one to tell; 0 with an error.
    pub dw0: u32,
    /// The buffer it owned. `None` for a request without one, and when the controller failed:
    /// then the device may still write the buffer, and it stays in quarantine.
    pub buffer: Option<B>,
}

/// A submission queue and its completion queue, for one thread at a time.
///
/// `B` is what a request owns while it is in flight: a [`DmaBuf`](crate::dma::DmaBuf), or a pair
/// of one and a context of the caller's own. The context should not own the controller: what
/// stays in quarantine until the controller is closed would keep it open.
///
/// ```
/// use underpin_dma::{DmaSpace, PoolOptions};
/// use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions};
///
/// let space = DmaSpace::new();
/// let controller = Controller::open("emu:size=16m", &space, ControllerOptions::default())?;
/// let ns = controller.namespace(None)?;
/// let mut queue = controller.queue_pair(QueueOptions::default())?;
/// let pool = space.pool("blocks", PoolOptions { buf_bytes: 4096, count: 8 })?;
///
/// let mut page = pool.alloc()?;
/// page.copy_from(0, b"written by a device's own hand")?;
/// let page = queue.run(ns.write(Lba(8), 8)?, page)?;
/// let page = queue.run(ns.read(Lba(8), 8)?, page)?;
/// let mut text = [0; 7];
/// page.copy_to(0, &mut text)?;
/// assert_eq!(&text, b"written");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Many at a time, one doorbell for sixteen of them:
///
/// ```
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// let pages: Result<Vec<_>, _> = (0..8).map(|_| space.alloc(4096, 4096)).collect();
/// for (index, page) in pages?.into_iter().enumerate() {
///     queue.submit(ns.write(Lba(8 * index as u64), 8)?, page)?;
/// }
/// assert_eq!((queue.in_flight(), queue.free()), (8, queue.depth() - 8));
/// queue.ring();
///
/// let mut back = Vec::new();
/// while queue.wait(None) {
///     // Whatever has ended, up to 64 at a time.
///     queue.poll(64, |completion| {
///         assert!(completion.result.is_ok());
///         back.extend(completion.buffer);
///     });
/// }
/// assert_eq!(back.len(), 8);
/// queue.flush(&ns)?;
/// let stats = queue.stats();
/// assert_eq!((stats.writes, stats.flushes, stats.errors), (8, 1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct QueuePair<B: Payload> {
    /// `None` only while it is being dropped.
    queue: Option<Box<Queue<B>>>,
    controller: Arc<Inner>,
    waiter: Waiter,
    /// The controller's.
    number: u32,
    /// Completions that [`run`](Self::run) saw while it waited for its own.
    stash: VecDeque<Completion<B>>,
    /// `!Sync`: one thread at a time, without a lock.
    _one_thread: PhantomData<Cell<()>>,
}

impl<B: Payload> QueuePair<B> {
    pub(crate) fn new(queue: Box<Queue<B>>, waiter: Waiter, controller: Arc<Inner>) -> Self {
        Self {
            queue: Some(queue),
            number: controller.number(),
            controller,
            waiter,
            stash: VecDeque::new(),
            _one_thread: PhantomData,
        }
    }

    #[inline(always)]
    fn queue(&self) -> &Queue<B> {
        match &self.queue {
            Some(queue) => queue,
            None => gone(),
        }
    }

    #[inline(always)]
    pub(crate) fn queue_mut(&mut self) -> &mut Queue<B> {
        match &mut self.queue {
            Some(queue) => queue,
            None => gone(),
        }
    }

    /// Its identifier on the device.
    pub fn qid(&self) -> Qid {
        self.queue().qid()
    }

    /// How many commands it can have in flight.
    pub fn depth(&self) -> usize {
        self.queue().depth()
    }

    /// How many commands are in flight (or in quarantine, once the controller has failed).
    pub fn in_flight(&self) -> usize {
        self.queue().in_flight()
    }

    /// How many commands can be submitted now. A request longer than the controller's
    /// `max_transfer_bytes` takes several.
    pub fn free(&self) -> usize {
        self.queue().free_count()
    }

    /// Figures about it, as of now. [`Controller::stats`](crate::Controller::stats) has them, too,
    /// as of the last time that this queue looked at the clock: once in 64 polls, before it sleeps,
    /// and at the end of calls that wait.
    pub fn stats(&self) -> QueueStats {
        self.queue().stats()
    }

    /// Writes the request's command, or commands if it must be split, into the ring. The device
    /// sees them at the next [`ring`](Self::ring) or [`poll`](Self::poll) at the latest: of a long
    /// batch it is told sixteen by sixteen, so that it works on the first while the rest are
    /// submitted; so this waits no more than [`ring`](Self::ring) does. The buffer belongs to
    /// the queue until the request ends; its first `io.len_bytes()` bytes are transferred.
    ///
    /// # Errors
    /// [`Refused`] gives the buffer back: [`Error::QueueFull`] (poll first), [`Error::TooLong`],
    /// [`Error::Buffer`] (too short, misaligned, of another space), [`Error::WrongController`],
    /// [`Error::Failed`].
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    /// let token = queue.submit(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
    /// // Nothing was sent yet; the first poll rings.
    /// let mut ended = None;
    /// while ended.is_none() {
    ///     queue.poll(1, |completion| ended = Some(completion.token));
    /// }
    /// assert_eq!(ended, Some(token));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    // Always: as a call, which the compiler makes of it where it has more callers than one, request
    // and buffer go through memory, and 128 reads in flight over vfio-user were 18 % fewer a second.
    #[inline(always)]
    pub fn submit(&mut self, io: Io, buffer: B) -> Result<Token, Refused<B>> {
        // Not `queue_mut`: where something can panic while the buffer is on its way, the compiler
        // keeps a copy of it for the unwinding. The same for the request, were it passed on whole.
        let Io {
            controller,
            kind,
            transfer,
        } = io;
        if kind == Kind::Transfer
            && controller == self.number
            && let Some(queue) = &mut self.queue
        {
            return queue.submit(&transfer, buffer);
        }
        self.submit_other(controller, kind, transfer, buffer)
    }

    #[cold]
    #[inline(never)]
    fn submit_other(
        &mut self,
        controller: u32,
        kind: Kind,
        transfer: Transfer,
        buffer: B,
    ) -> Result<Token, Refused<B>> {
        if controller != self.number {
            return Err(Refused {
                error: Error::WrongController,
                buffer,
            });
        }
        // A flush may carry something for its owner; the device never sees it.
        self.submit_dataless(kind, transfer, Some(buffer))
            .map_err(|(error, buffer)| match buffer {
                Some(buffer) => Refused { error, buffer },
                None => gone(),
            })
    }

    /// Writes the command or commands of a request that transfers nothing.
    fn submit_dataless(
        &mut self,
        kind: Kind,
        transfer: Transfer,
        buffer: Option<B>,
    ) -> Result<Token, (Error, Option<B>)> {
        let queue = self.queue_mut();
        match kind {
            Kind::Blocks { most_shift } => queue.submit_blocks(&transfer, 1 << most_shift, buffer),
            Kind::Transfer | Kind::Flush => {
                queue.push(transfer.bare(), transfer.describe(), buffer)
            }
        }
    }

    /// Requests whose end was not told; what is in quarantine is owed to nobody.
    pub(crate) fn owed(&self) -> usize {
        match self.controller.health.is_failed() && !self.queue().is_owed() {
            true => 0,
            false => self.queue().in_flight(),
        }
    }

    /// The space that its controller's memory comes from.
    pub(crate) fn space(&self) -> crate::dma::DmaSpace {
        self.controller.space.clone()
    }

    pub(crate) const fn inner(&self) -> &Arc<Inner> {
        &self.controller
    }

    /// Refuses what was made for another controller.
    pub(crate) fn check_controller(&self, number: u32) -> Result<(), Error> {
        match number == self.number {
            true => Ok(()),
            false => Err(Error::WrongController),
        }
    }

    /// Submits a request that transfers nothing, such as a flush.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); [`Error::Buffer`] for a request that needs a buffer.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    /// let token = queue.submit_bare(ns.flush())?;
    /// queue.wait_for(token).result?;
    /// assert!(queue.submit_bare(ns.read(Lba(0), 8)?).is_err(), "a read needs a buffer");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_bare(&mut self, io: Io) -> Result<Token, Error> {
        if io.controller != self.number {
            return Err(Error::WrongController);
        }
        if io.kind == Kind::Transfer {
            return Err(Error::Buffer("a read or a write needs one".to_owned()));
        }
        let submitted = self.submit_dataless(io.kind, io.transfer, None);
        submitted.map_err(|(error, _)| error)
    }

    /// Tells the device of everything submitted since the last ring: one doorbell for a batch, or for
    /// the rest of a long one.
    ///
    /// Never waits, with one exception: of a vfio-user server that has neither doorbells to map nor
    /// shadow doorbells it is a message, and when the socket is full of those because the server is
    /// frozen, one call waits for as long as a message may take, after which the controller has failed.
    #[inline]
    pub fn ring(&mut self) {
        self.queue_mut().ring();
    }

    /// Takes up to `budget` requests that have ended and gives each to `each`; returns how many.
    /// Rings first if something was submitted since the last ring. Waits no more than
    /// [`ring`](Self::ring).
    ///
    /// When the controller fails, every request in flight ends here with
    /// [`CommandError::Lost`] and without its buffer.
    #[inline]
    pub fn poll(&mut self, budget: usize, mut each: impl FnMut(Completion<B>)) -> usize {
        let mut told = 0;
        if !self.stash.is_empty() {
            told = self.unstash(budget, &mut each);
        }
        let Self {
            queue: Some(queue),
            controller,
            ..
        } = self
        else {
            gone()
        };
        let controller: &Inner = controller;
        told + queue.poll(budget - told, move |ended| {
            each(completion(ended, controller))
        })
    }

    #[cold]
    fn unstash(&mut self, budget: usize, each: &mut impl FnMut(Completion<B>)) -> usize {
        let mut told = 0;
        while told < budget
            && let Some(completion) = self.stash.pop_front()
        {
            told += 1;
            each(completion);
        }
        told
    }

    /// Submits a request and waits for its end. Others that end meanwhile are kept for the next
    /// [`poll`](Self::poll).
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`Error::Command`] with the command's own error. The
    /// buffer is dropped with an error; use [`submit`](Self::submit) and
    /// [`wait_for`](Self::wait_for) to keep it.
    pub fn run(&mut self, io: Io, buffer: B) -> Result<B, Error> {
        let token = self.submit(io, buffer)?;
        let Completion { result, buffer, .. } = self.wait_for(token);
        result?;
        buffer.ok_or_else(|| Error::Buffer("the request carried none".to_owned()))
    }

    /// Flushes a namespace and waits for the end.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn flush(&mut self, namespace: &crate::Namespace) -> Result<(), Error> {
        let token = self.submit_bare(namespace.flush())?;
        Ok(self.wait_for(token).result?)
    }

    /// Waits until the request ends; no longer than the commands' deadline, as a late command
    /// fails the controller and with it every request. A token that is not in flight on this
    /// queue ends as [`CommandError::Lost`] once nothing is in flight any more.
    ///
    /// ```
    /// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
    /// # let space = DmaSpace::new();
    /// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
    /// # let ns = controller.namespace(None)?;
    /// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    /// let first = queue.submit(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
    /// let second = queue.submit(ns.read(Lba(8), 8)?, space.alloc(4096, 4096)?)?;
    /// queue.wait_for(second).result?;
    /// // What ended meanwhile is not lost.
    /// queue.wait_for(first).result?;
    /// assert_eq!(queue.in_flight(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_for(&mut self, token: Token) -> Completion<B> {
        let mut others = VecDeque::new();
        let mut found = None;
        let mut look = |queue: &mut Self| {
            // Before the poll: the one that fails the controller tells nobody of it yet.
            let over = queue.in_flight() == 0 || queue.controller.health.is_failed();
            let polled = queue.poll(usize::MAX, |completion| {
                if completion.token == token {
                    found = Some(completion);
                } else {
                    others.push_back(completion);
                }
            });
            (found.is_some() || (polled == 0 && over)).then_some(())
        };
        if self.waiter.interrupt.is_none() {
            let _ = rt::wait(None, |_now| look(self));
        } else {
            while look(self).is_none() {
                self.wait(None);
            }
        }
        self.stash.append(&mut others);
        self.queue().publish();
        found.unwrap_or_else(|| Completion {
            token,
            result: Err(CommandError::Lost(
                self.controller.health.failure().unwrap_or(Failure::Closed),
            )),
            dw0: 0,
            buffer: None,
        })
    }
}

#[inline(always)]
fn completion<B>(ended: Ended<B>, controller: &Inner) -> Completion<B> {
    let mut told = 0;
    let result = match ended.outcome {
        Outcome::Done { dw0 } => {
            told = dw0;
            Ok(())
        }
        Outcome::Error {
            status,
            opcode,
            describe,
        } => Err(CommandError::Status {
            status,
            opcode: NvmOpcode(opcode),
            nsid: Nsid(describe.head.nsid()),
            lba: Lba(describe.lba),
            len_bytes: describe.len_bytes,
        }),
        Outcome::Lost => Err(lost(controller)),
    };
    Completion {
        token: ended.token,
        result,
        dw0: told,
        buffer: ended.buffer,
    }
}

#[cold]
fn lost(controller: &Inner) -> CommandError {
    CommandError::Lost(controller.health.failure().unwrap_or(Failure::Closed))
}

/// The queue is taken out only by `drop`, after which nobody can call.
#[cold]
#[inline(never)]
fn gone() -> ! {
    panic!("a queue pair was used while it was being dropped")
}

impl<B: Payload> Drop for QueuePair<B> {
    /// Deletes the queue on the device, which ends the DMA of what is in flight; only then are
    /// its buffers freed. On a controller that has failed they stay in quarantine until the
    /// controller is closed with proof.
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.publish();
            self.controller.ledger.lock().close(queue.qid());
            self.controller.retire(Retired::new(queue));
        }
    }
}
