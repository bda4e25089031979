//! An event that one side signals and the other waits for: an eventfd, so that it can also be an
//! interrupt, be sent to another process, or be watched by any executor.
#[cfg(not(underpin_sim))]
mod watch;

use crate::Instant;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Something that has happened, or has not, since somebody last looked. Clones are the same event.
///
/// Signals add up: however often it was signalled, [`clear`](Self::clear) takes it back. Its file
/// descriptor is readable while it is set, which is what `poll`, `epoll` and executors watch.
///
/// ```
/// use std::time::Duration;
/// use underpin_rt::{Event, Instant};
///
/// let event = Event::new()?;
/// assert!(!event.wait(Some(Instant::now() + Duration::from_millis(1))), "nobody signalled it");
/// event.signal();
/// event.signal();
/// assert!(event.wait(None) && event.clear());
/// assert!(!event.is_set());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Descriptors that a stranger holds, too
/// Whoever was given the descriptor, or gave it, can make it blocking and fill its counter at any
/// time. [`clear`](Self::clear) and [`is_set`](Self::is_set) never wait for all that. Nor does
/// [`signal`](Self::signal), unless the stranger fills the counter in the moment between its look
/// and its write: the system has no write to an eventfd that could not wait. One that is
/// [watched](Self::watch) keeps its signaller no longer than for seconds then.
#[derive(Clone, Debug)]
pub struct Event(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    /// Threads that are signalling.
    signalling: AtomicUsize,
    /// A stranger may hold the descriptor, too.
    watched: AtomicBool,
}

impl Event {
    fn of(fd: OwnedFd) -> Self {
        Self(Arc::new(Inner {
            fd,
            signalling: AtomicUsize::new(0),
            watched: AtomicBool::new(false),
        }))
    }

    /// A new event, not set.
    ///
    /// # Errors
    /// What the operating system says when the process may have no further file descriptor.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self::of(rustix::event::eventfd(0, flags)?))
    }

    /// The event behind an eventfd that somebody else made. It becomes non-blocking, for both, and
    /// is [watched](Self::watch).
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a descriptor of another kind: a write to a pipe or a
    /// socket could wait for its reader. What the system says when it cannot be examined or watched.
    pub fn from_eventfd(fd: OwnedFd) -> io::Result<Self> {
        let kind = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        if kind.as_os_str() != "anon_inode:[eventfd]" {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("an eventfd is wanted, and this is {}", kind.display()),
            ));
        }
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        let event = Self::of(fd);
        event.watch()?;
        Ok(event)
    }

    /// Sets it and wakes who waits. Writes made before are seen by whoever then sees it set.
    pub fn signal(&self) {
        self.0.signalling.fetch_add(1, Ordering::SeqCst);
        // A full counter is a set event, too; nothing else can go wrong with an eventfd.
        if !self.is_full() {
            let _ = self.add_one();
        }
        self.0.signalling.fetch_sub(1, Ordering::SeqCst);
    }

    fn add_one(&self) -> Result<usize, Errno> {
        rustix::io::retry_on_intr(|| rustix::io::write(&self.0.fd, &1_u64.to_ne_bytes()))
    }

    /// Says that a stranger holds its descriptor, too, who may want to keep who signals it: within
    /// seconds the signaller is let go.
    ///
    /// # Errors
    /// What the operating system says when it grants no thread to watch.
    pub fn watch(&self) -> io::Result<()> {
        #[cfg(not(underpin_sim))]
        watch::begin(self)?;
        self.0.watched.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// True when a stranger holds its descriptor, too, and so can take its signals away: who waits
    /// for it looks by himself now and then.
    pub fn is_watched(&self) -> bool {
        self.0.watched.load(Ordering::Relaxed)
    }

    #[cfg(not(underpin_sim))]
    fn is_signalling(&self) -> bool {
        self.0.signalling.load(Ordering::SeqCst) > 0
    }

    fn is_full(&self) -> bool {
        !self.poll(PollFlags::OUT, Some(&Timespec::default()))
    }

    /// Takes it back. True when it was set.
    pub fn clear(&self) -> bool {
        self.take() > 0
    }

    /// Takes it back, and says how often it was signalled since the last time.
    pub fn take(&self) -> u64 {
        let mut count = [0; 8];
        let read = loop {
            let parts = &mut [IoSliceMut::new(&mut count)];
            // `NOWAIT`: whoever else has the descriptor may have made it blocking.
            match rustix::io::preadv2(&self.0.fd, parts, u64::MAX, ReadWriteFlags::NOWAIT) {
                Err(Errno::INTR) => {}
                // Linux before 5.8 knows that for no eventfd.
                Err(Errno::OPNOTSUPP) if !self.is_set() => break Err(Errno::AGAIN),
                Err(Errno::OPNOTSUPP) => break rustix::io::read(&self.0.fd, &mut count),
                read => break read,
            }
        };
        read.map_or(0, |_| u64::from_ne_bytes(count))
    }

    /// True while it is set.
    pub fn is_set(&self) -> bool {
        self.poll(PollFlags::IN, Some(&Timespec::default()))
    }

    /// Waits until it is set, no longer than until `deadline`. True when it is; it stays so.
    ///
    /// The thread sleeps in the system, unless it carries tasks of its own (see
    /// [`spawn_local`](crate::spawn_local)): then it is a [`wait`](crate::wait), which steps them.
    pub fn wait(&self, deadline: Option<Instant>) -> bool {
        #[cfg(not(underpin_sim))]
        if !crate::local::carries_tasks() {
            return self.sleep(deadline);
        }
        crate::wait(deadline, |_now| self.is_set().then_some(())).is_ok()
    }

    #[cfg(not(underpin_sim))]
    fn sleep(&self, deadline: Option<Instant>) -> bool {
        loop {
            let left = deadline.map(|deadline| {
                let left = deadline.since(Instant::now());
                Timespec {
                    tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                    tv_nsec: left.subsec_nanos().into(),
                }
            });
            if self.poll(PollFlags::IN, left.as_ref()) {
                return true;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return false;
            }
        }
    }

    /// False when it did not become readable or writable in time, or a signal handler ran
    /// meanwhile.
    fn poll(&self, wanted: PollFlags, timeout: Option<&Timespec>) -> bool {
        let mut fds = [PollFd::new(&self.0.fd, wanted)];
        let any = matches!(rustix::event::poll(&mut fds, timeout), Ok(1..));
        any && fds.iter().all(|fd| fd.revents().contains(wanted))
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl AsRawFd for Event {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    /// Signals add up to one, and one look takes all of them.
    #[test]
    fn signals_are_remembered_until_cleared() {
        let event = Event::new().unwrap();
        assert!(!event.is_set() && !event.clear());
        (0..3).for_each(|_| event.clone().signal());
        assert_eq!((event.take(), event.take()), (3, 0));
        (0..3).for_each(|_| event.clone().signal());
        assert!(event.wait(Some(Instant::START)), "set, whatever the time");
        assert!(event.clear() && !event.is_set() && !event.clear());
        let soon = Instant::now() + Duration::from_millis(2);
        assert!(!event.wait(Some(soon)));
        assert!(Instant::now() >= soon);
    }

    /// Only an eventfd is taken, and a full counter does not stop who signals.
    #[test]
    fn a_foreign_descriptor_cannot_block_the_signaller() {
        let (_read, write) = std::io::pipe().unwrap();
        let refused = Event::from_eventfd(write.into()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        let blocking = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&blocking, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let event = Event::from_eventfd(blocking).unwrap();
        event.signal();
        assert!(event.clear() && !event.is_set());
    }

    /// Nor does one whose maker takes the agreed flag away again.
    #[test]
    fn a_descriptor_made_blocking_again_does_not_block_the_signaller() {
        let theirs = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let event = Event::of(theirs.try_clone().unwrap());
        rustix::fs::fcntl_setfl(&theirs, OFlags::empty()).unwrap();
        rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        let signaller = event.clone();
        crate::thread::spawn("signaller", move || {
            signaller.signal();
            let _ = done.send(());
        })
        .unwrap();
        let told = is_done.recv_timeout(Duration::from_secs(20));
        // Lets a signaller that hangs go.
        event.clear();
        assert!(told.is_ok(), "it hangs");
        assert!(!event.clear() && !event.clear(), "nor who clears it");
    }

    /// A stranger who fills the counter between a signaller's look and its write keeps that thread
    /// no longer than until somebody looks, and the signal is not lost.
    #[test]
    #[cfg(not(underpin_sim))]
    fn a_stranger_cannot_keep_a_signaller() {
        let theirs = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let event = Event::from_eventfd(theirs.try_clone().unwrap()).unwrap();
        rustix::fs::fcntl_setfl(&theirs, OFlags::empty()).unwrap();
        rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        assert!(event.is_full());
        // As a signaller that has looked before.
        let caught = event.clone();
        let signaller = crate::thread::spawn("signaller", move || {
            caught.0.signalling.fetch_add(1, Ordering::SeqCst);
            let written = caught.add_one();
            caught.0.signalling.fetch_sub(1, Ordering::SeqCst);
            written
        })
        .unwrap();
        let soon = Some(Instant::now() + Duration::from_secs(20));
        let ended = crate::wait(soon, |_now| signaller.is_finished().then_some(()));
        assert!(ended.is_ok(), "it hangs");
        signaller.join().unwrap().unwrap();
        assert_eq!(event.take(), 1);
    }

    /// A thread that carries tasks goes on stepping them while it waits for an event.
    #[test]
    fn tasks_of_the_thread_run_meanwhile() {
        struct Signaller(Event, u32);
        impl crate::Task for Signaller {
            fn step(&mut self, _now: Instant) -> crate::Step {
                self.1 += 1;
                if self.1 == 10 {
                    self.0.signal();
                }
                crate::Step::Busy
            }
        }
        let event = Event::new().unwrap();
        let _task = crate::spawn_local("signaller", Box::new(Signaller(event.clone(), 0)));
        assert!(event.wait(Some(Instant::now() + Duration::from_secs(20))));
    }
}
