//! The io_uring of a host file, and the one place with `unsafe`: it owns the memory of a request,
//! and the list of its pages, until the kernel has said that it ended.
#![allow(unsafe_code)]
use super::job::{Job, Op};
use crate::store::{PAGE_BYTES, StoreError};
use crossbeam::queue::SegQueue;
use io_uring::{IoUring, opcode, types};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;
use underpin_dma::rt;
use underpin_dma::rt::sync::atomic::{AtomicUsize, Ordering};
use underpin_dma::rt::sync::{Arc, Mutex, OnceLock};

/// The kernel takes no longer lists (UIO_MAXIOV).
const MOST_IOVECS: usize = 1024;

/// How often whoever has the lock looks for what others kept meanwhile, at a time.
const LOOKS: usize = 16;

/// How long one waits for the kernel when the ring is dropped, before its memory is given up.
const LET_GO: Duration = Duration::from_secs(30);

/// Requests in flight, and those for which there was no room.
#[derive(Debug)]
pub(super) struct Ring {
    /// What no request was made of yet.
    kept: SegQueue<Job>,
    inner: Mutex<Inner>,
    /// Free places, as of the last look under the lock.
    room: AtomicUsize,
    /// Kept, and in flight.
    busy: AtomicUsize,
    failed: OnceLock<StoreError>,
}

struct Inner {
    ring: IoUring,
    /// Open as long as requests may name it.
    file: Arc<File>,
    slots: Box<[Slot]>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    /// What the request in flight names; neither is touched before its end.
    iovecs: Iovecs,
    job: Option<Job>,
}

/// A list of pages as the kernel wants it.
#[derive(Default)]
struct Iovecs(Vec<libc::iovec>);

// SAFETY: addresses, which this process's threads share; nothing is reached through them here.
unsafe impl Send for Iovecs {}

impl Iovecs {
    /// Makes it the list of what is left of a job.
    fn list(&mut self, job: &Job) {
        let left = job.run.host_pages().skip(job.done_pages());
        self.0.clear();
        self.0
            .extend(left.take(MOST_IOVECS).map(|page| libc::iovec {
                iov_base: page.cast(),
                iov_len: PAGE_BYTES as usize,
            }));
    }

    /// No longer than [`MOST_IOVECS`].
    const fn len(&self) -> u32 {
        self.0.len() as u32
    }
}

/// A job whose request has ended, with its result: a count of bytes, or an errno below zero.
pub(super) type Ended = (Job, i32);

impl Ring {
    /// A ring with so many requests in flight at most.
    ///
    /// Of the cheaper modes none is asked for. With `DEFER_TASKRUN` the last step of a request is
    /// made by the one thread that may make requests, when it asks for completions: if that
    /// sleeps for ever, its pages are kept from everybody (R8). With `COOP_TASKRUN` it is made
    /// when the thread happens to enter the kernel, and one that spins does so at a timer's tick.
    pub(super) fn new(depth: u32, file: Arc<File>) -> io::Result<Self> {
        let ring = IoUring::builder().dontfork().build(depth)?;
        Ok(Self {
            kept: SegQueue::new(),
            inner: Mutex::new(Inner {
                ring,
                file,
                slots: (0..depth).map(|_| Slot::default()).collect(),
                free: (0..depth).rev().collect(),
            }),
            room: AtomicUsize::new(depth as usize),
            busy: AtomicUsize::new(0),
            failed: OnceLock::new(),
        })
    }

    /// Why nothing ends any more.
    pub(super) fn failure(&self) -> Option<&StoreError> {
        self.failed.get()
    }

    /// Jobs that are kept or in flight.
    pub(super) fn busy(&self) -> usize {
        self.busy.load(Ordering::Acquire)
    }

    /// Keeps a job until [`send`](Self::send).
    pub(super) fn keep(&self, job: Job) {
        self.busy.fetch_add(1, Ordering::AcqRel);
        self.kept.push(job);
    }

    /// A job that is kept, when there is no sense in sending it any more.
    pub(super) fn take_back(&self) -> Option<Job> {
        let job = self.kept.pop()?;
        self.busy.fetch_sub(1, Ordering::AcqRel);
        Some(job)
    }

    /// Makes requests of what is kept, as far as there is room. When another thread is at it, that
    /// one does.
    pub(super) fn send(&self) {
        for _ in 0..LOOKS {
            if self.kept.is_empty() || self.room.load(Ordering::Acquire) == 0 {
                return;
            }
            let Some(mut inner) = self.inner.try_lock() else {
                return;
            };
            let sent = inner.send(&self.kept);
            self.leave(&inner, sent);
            drop(inner);
            // Whoever kept a job meanwhile found the lock taken, and relies on another look.
            if self.failed.get().is_some() {
                return;
            }
        }
    }

    /// Takes what has ended, and sends what is kept. Nobody has the lock when it returns.
    pub(super) fn poll(&self) -> Vec<Ended> {
        let mut ended = Vec::new();
        if let Some(mut inner) = self.inner.try_lock() {
            let polled = inner.reap(&mut ended).and_then(|()| {
                // What the kernel did not take in last time goes again, too.
                inner.send(&self.kept)
            });
            self.leave(&inner, polled);
            self.busy.fetch_sub(ended.len(), Ordering::AcqRel);
        }
        self.send();
        ended
    }

    /// Before the lock is given back.
    fn leave(&self, inner: &Inner, result: io::Result<()>) {
        self.room.store(inner.free.len(), Ordering::Release);
        if let Err(error) = result {
            tracing::error!(%error, "the io_uring of a file has failed");
            let _ = self.failed.set(StoreError::Os {
                what: "the file's io_uring has failed".to_owned(),
                errno: error.raw_os_error().unwrap_or(libc::EIO),
            });
        }
    }

    /// Waits, with a bound, until nothing is in flight any more, and gives `end` what has ended.
    /// What is kept fails.
    pub(super) fn close(&self, mut end: impl FnMut(Ended)) {
        while let Some(job) = self.take_back() {
            drop(job);
        }
        let until = rt::Instant::now() + LET_GO;
        let waited = rt::wait(Some(until), |_now| {
            self.poll().into_iter().for_each(&mut end);
            (self.busy() == 0 || self.failed.get().is_some()).then_some(())
        });
        if waited.is_err() || self.busy() > 0 {
            tracing::error!(
                in_flight = self.busy(),
                "the kernel does not end requests of a file that is closed; their memory is given up"
            );
        }
    }
}

impl Inner {
    fn send(&mut self, kept: &SegQueue<Job>) -> io::Result<()> {
        while let Some(place) = self.free.last().copied() {
            let Some(job) = kept.pop() else {
                break;
            };
            let Some(slot) = self.slots.get_mut(place as usize) else {
                return Err(io::Error::other("no such slot"));
            };
            self.free.pop();
            slot.generation = slot.generation.wrapping_add(1);
            slot.iovecs.list(&job);
            let fd = types::Fd(self.file.as_raw_fd());
            let (list, count) = (slot.iovecs.0.as_ptr(), slot.iovecs.len());
            let entry = match job.op {
                Op::Read => opcode::Readv::new(fd, list, count)
                    .offset(job.offset())
                    .build(),
                Op::Write { .. } => opcode::Writev::new(fd, list, count)
                    .offset(job.offset())
                    .build(),
                Op::Flush { metadata, .. } => {
                    let flags = match metadata {
                        true => types::FsyncFlags::empty(),
                        false => types::FsyncFlags::DATASYNC,
                    };
                    opcode::Fsync::new(fd).flags(flags).build()
                }
            };
            job.run.tell_watch(job.direction());
            // In its place before the kernel can know of it.
            slot.job = Some(job);
            let tag = u64::from(slot.generation) << 32 | u64::from(place);
            // SAFETY: the request names `count` iovecs of this slot, each of which is a page of the
            // slot's run, and the file. The run keeps its pages mapped and from being anybody
            // else's, and all three stay as they are until the request's completion has been
            // taken off the ring: `reap` alone takes jobs out of slots and frees places, and the
            // drop of the ring gives the memory up rather than free it.
            let pushed = unsafe { self.ring.submission().push(&entry.user_data(tag)) };
            if pushed.is_err() {
                // The ring has as many entries as there are slots, so the kernel has left some of
                // them there. It never saw this one.
                self.free.push(place);
                if let Some(job) = slot.job.take() {
                    kept.push(job);
                }
                break;
            }
        }
        self.submit()
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.ring.submission().is_empty() {
            return Ok(());
        }
        match self.ring.submit() {
            Ok(_) => Ok(()),
            // The kernel is short of something, or a signal came: the next poll sends them.
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn reap(&mut self, ended: &mut Vec<Ended>) -> io::Result<()> {
        for entry in self.ring.completion() {
            let tag = entry.user_data();
            let (place, generation) = (tag as u32, (tag >> 32) as u32);
            let slot = self.slots.get_mut(place as usize);
            let job = slot
                .filter(|slot| slot.generation == generation)
                .and_then(|slot| slot.job.take());
            let Some(job) = job else {
                return Err(io::Error::other(format!(
                    "a request ended that is not in flight: {tag:#x}"
                )));
            };
            job.run.tell_watch(job.direction());
            self.free.push(place);
            ended.push((job, entry.result()));
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.busy() == 0 {
            return;
        }
        self.close(|(job, _)| drop(job));
        let mut inner = self.inner.lock();
        let left: Vec<_> = inner
            .slots
            .iter_mut()
            .filter_map(|slot| Some((slot.job.take()?, std::mem::take(&mut slot.iovecs))))
            .collect();
        drop(inner);
        for (job, iovecs) in left {
            // The kernel may still use both: they are nobody's for the life of the process.
            std::mem::forget((job.run, iovecs));
            drop(job.ticket);
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("slots", &self.slots.len())
            .field("free", &self.free.len())
            .finish_non_exhaustive()
    }
}

/// Does a job with an ordinary system call, on the caller's thread.
pub(super) fn call(file: &File, job: &Job) -> i32 {
    let mut iovecs = Iovecs::default();
    iovecs.list(job);
    let (fd, list) = (file.as_raw_fd(), iovecs.0.as_ptr());
    let count = iovecs.len() as libc::c_int;
    let Ok(offset) = libc::off64_t::try_from(job.offset()) else {
        return -libc::EFBIG;
    };
    job.run.tell_watch(job.direction());
    let rc = match job.op {
        // SAFETY: the iovecs name pages of the job's run, which keeps them mapped and from being
        // anybody else's while it is borrowed here. They are DMA memory, to which no references
        // exist, so whoever writes there harms nothing but data.
        Op::Read => unsafe { libc::preadv64(fd, list, count, offset) },
        // SAFETY: as for a read; these are only read.
        Op::Write { .. } => unsafe { libc::pwritev64(fd, list, count, offset) },
        // SAFETY: no memory is involved.
        Op::Flush { metadata: true, .. } => unsafe { libc::fsync(fd) as isize },
        // SAFETY: no memory is involved.
        Op::Flush { .. } => unsafe { libc::fdatasync(fd) as isize },
    };
    let result = match rc < 0 {
        true => -io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
        // No more than MOST_IOVECS pages.
        false => i32::try_from(rc).unwrap_or(i32::MAX),
    };
    job.run.tell_watch(job.direction());
    result
}
