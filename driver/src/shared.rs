//! A queue for many threads: as many queue pairs as the device grants, each behind a lock that
//! nobody waits for. Whoever polls, polls for all, so nobody's command needs its own thread again.
use crate::dma::Payload;
use crate::dma::rt::sync::Mutex;
use crate::dma::rt::sync::atomic::{AtomicUsize, Ordering};
use crate::namespace::Io;
use crate::{Completion, Controller, Error, Failure, QueueOptions, QueuePair, QueueStats, Refused};
use std::fmt;

/// Completions that one look at a lane takes, so that it is not locked for long.
const BATCH: usize = 32;

/// Gives each thread a number, so that threads spread over lanes.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    MINE.with(|mine| *mine)
}

/// Queue pairs that threads share, for those who do not care which thread sees a command's end: a
/// file cache, whose commands carry all that is to be done then.
///
/// Thread n uses lane n modulo how many there are, and another one while that is full or in use.
/// [`poll`](Self::poll) takes from all lanes. No call waits, and none holds a lane while it calls
/// the caller's code.
///
/// What a command owns should not own the controller: what stays in quarantine until that is closed
/// would keep it open.
///
/// ```
/// use underpin_dma::{DmaBuf, DmaSpace};
/// use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions, SharedQueue};
///
/// let space = DmaSpace::new();
/// let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// let disk = controller.namespace(None)?;
/// let queue: SharedQueue<DmaBuf> = SharedQueue::new(&controller, 2, QueueOptions::default())?;
/// assert_eq!(queue.lanes(), 2);
///
/// queue.submit(disk.write(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
/// let mut ended = 0;
/// while queue.in_flight() > 0 {
///     // Any thread may do this.
///     ended += queue.poll(|completion| assert!(completion.result.is_ok()));
/// }
/// assert_eq!(ended, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SharedQueue<B: Payload> {
    lanes: Box<[Lane<B>]>,
    controller: Controller,
}

struct Lane<B: Payload> {
    inner: Mutex<Inner<B>>,
    /// As of the last look; to pass idle lanes over without a lock.
    in_flight: AtomicUsize,
}

struct Inner<B: Payload> {
    queue: QueuePair<B>,
    /// Where completions wait until the lane is given back; kept for its memory.
    ended: Vec<Completion<B>>,
}

impl<B: Payload> SharedQueue<B> {
    /// `lanes` queue pairs, or as many as the device grants; at least one.
    ///
    /// # Errors
    /// As [`Controller::queue_pair`], when there is not even one.
    pub fn new(
        controller: &Controller,
        lanes: usize,
        options: QueueOptions,
    ) -> Result<Self, Error> {
        let mut had = vec![Lane::new(controller.queue_pair(options)?)];
        while had.len() < lanes {
            match controller.queue_pair(options) {
                Ok(queue) => had.push(Lane::new(queue)),
                Err(Error::NoQueue { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            lanes: had.into(),
            controller: controller.clone(),
        })
    }

    /// How many queue pairs there are.
    pub const fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Requests whose end was not told yet; a hint while other threads are at work. Those of a failed
    /// controller are told as lost, and count no longer then, though their buffers stay in quarantine.
    pub fn in_flight(&self) -> usize {
        let lanes = self.lanes.iter();
        lanes
            .map(|lane| lane.in_flight.load(Ordering::Acquire))
            .sum()
    }

    /// Why nothing ends well any more, if that is so. Buffers in flight stay in quarantine then.
    pub fn failure(&self) -> Option<Failure> {
        self.controller.failure()
    }

    /// The controller.
    pub const fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Figures of all lanes; those that are in use by others at this moment are left out.
    pub fn stats(&self) -> Vec<QueueStats> {
        let lanes = self.lanes.iter().filter_map(|lane| lane.inner.try_lock());
        lanes.map(|lane| lane.queue.stats()).collect()
    }

    fn mine_first(&self) -> impl Iterator<Item = &Lane<B>> {
        let (before, mine) = self.lanes.split_at(thread_number() % self.lanes.len());
        mine.iter().chain(before)
    }

    /// Sends a request, and owns its buffer until its end.
    ///
    /// # Errors
    /// As [`QueuePair::submit`], with the buffer. [`Error::QueueFull`] when every lane is full or in
    /// use: poll, then try again.
    pub fn submit(&self, io: Io, buffer: B) -> Result<(), Refused<B>> {
        let mut refused = Refused {
            error: Error::QueueFull {
                depth: 0,
                needed: 1,
            },
            buffer,
        };
        for lane in self.mine_first() {
            let Some(mut inner) = lane.inner.try_lock() else {
                continue;
            };
            match inner.queue.submit(io, refused.buffer) {
                Ok(_) => {
                    inner.queue.ring();
                    lane.in_flight
                        .store(inner.queue.in_flight(), Ordering::Release);
                    return Ok(());
                }
                Err(
                    full @ Refused {
                        error: Error::QueueFull { .. },
                        ..
                    },
                ) => refused = full,
                Err(other) => return Err(other),
            }
        }
        Err(refused)
    }

    /// Takes requests that have ended, of all lanes that nobody else is at, and gives each to
    /// `each`, which may submit. Returns how many. Never waits.
    ///
    /// When the controller has failed every request ends here with
    /// [`CommandError::Lost`](crate::CommandError::Lost) and without its buffer.
    pub fn poll(&self, mut each: impl FnMut(Completion<B>)) -> usize {
        let mut count = 0;
        for lane in self.mine_first() {
            if lane.in_flight.load(Ordering::Acquire) == 0 {
                continue;
            }
            let Some(mut inner) = lane.inner.try_lock() else {
                continue;
            };
            let Inner { queue, ended } = &mut *inner;
            queue.poll(BATCH, |completion| ended.push(completion));
            lane.in_flight.store(queue.owed(), Ordering::Release);
            if ended.is_empty() {
                continue;
            }
            let mut mine = std::mem::take(ended);
            drop(inner);
            count += mine.len();
            mine.drain(..).for_each(&mut each);
            // For its memory; somebody else's may be there by now.
            if let Some(mut inner) = lane.inner.try_lock()
                && inner.ended.capacity() == 0
            {
                inner.ended = mine;
            }
        }
        count
    }
}

impl<B: Payload> Lane<B> {
    fn new(queue: QueuePair<B>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                queue,
                ended: Vec::with_capacity(BATCH),
            }),
            in_flight: AtomicUsize::new(0),
        }
    }
}

impl<B: Payload> fmt::Debug for SharedQueue<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedQueue")
            .field("controller", &self.controller)
            .field("lanes", &self.lanes.len())
            .field("in_flight", &self.in_flight())
            .finish()
    }
}
