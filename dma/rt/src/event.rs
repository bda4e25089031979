//! An event that one side signals and the other waits for: an eventfd, so that it can also be an
//! interrupt, be sent to another process, or be watched by any executor.
use crate::Instant;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Something that has happened, or has not, since somebody last looked. Clones are the same event.
///
/// Signals add up to one: however often it was signalled, [`clear`](Self::clear) takes it back. Its
/// file descriptor is readable while it is set, which is what `poll`, `epoll` and executors watch.
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
#[derive(Clone, Debug)]
pub struct Event(Arc<OwnedFd>);

impl Event {
    /// A new event, not set.
    ///
    /// # Errors
    /// What the operating system says when the process may have no further file descriptor.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(rustix::event::eventfd(0, flags)?)))
    }

    /// The event behind an eventfd that somebody else made. It becomes non-blocking, for both.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a descriptor of another kind: a write to a pipe or a
    /// socket could wait for its reader. What the system says when it cannot be examined.
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
        Ok(Self(Arc::new(fd)))
    }

    /// Sets it and wakes who waits. Writes made before are seen by whoever then sees it set.
    pub fn signal(&self) {
        // A full counter is a set event, too; nothing else can go wrong with an eventfd.
        while rustix::io::write(&*self.0, &1_u64.to_ne_bytes()) == Err(Errno::INTR) {}
    }

    /// Takes it back. True when it was set.
    pub fn clear(&self) -> bool {
        let mut count = [0; 8];
        loop {
            match rustix::io::read(&*self.0, &mut count) {
                Err(Errno::INTR) => {}
                read => return read.is_ok(),
            }
        }
    }

    /// True while it is set.
    pub fn is_set(&self) -> bool {
        self.poll(Some(&Timespec::default()))
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
            if self.poll(left.as_ref()) {
                return true;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return false;
            }
        }
    }

    /// False when it was not set in time, or a signal handler ran meanwhile.
    fn poll(&self, timeout: Option<&Timespec>) -> bool {
        let mut fds = [PollFd::new(&*self.0, PollFlags::IN)];
        matches!(rustix::event::poll(&mut fds, timeout), Ok(1..))
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Event {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
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
