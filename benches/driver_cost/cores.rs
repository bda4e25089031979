//! Which processor each side runs on. Left to the scheduler, host and device at times share one for
//! many rounds, and what is measured then is the scheduler.
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A processor for the host and another for the device, the first two that this process may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    host: usize,
    device: usize,
}

impl Cores {
    /// `None` where there is only one, or the system does not let a thread choose.
    pub(crate) fn choose() -> Option<Self> {
        let allowed = sched_getaffinity(None).ok()?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
        let (host, device) = (cores.next()?, cores.next()?);
        Some(Self { host, device })
    }

    /// Moves the calling thread to the host's processor.
    pub(crate) fn stay(self) {
        pin(self.host);
    }

    /// Runs `start` on the device's processor: the threads and processes that it starts stay
    /// there. The calling thread comes back to the host's.
    pub(crate) fn start_device<T>(this: Option<Self>, start: impl FnOnce() -> T) -> T {
        let Some(cores) = this else { return start() };
        pin(cores.device);
        let started = start();
        pin(cores.host);
        started
    }
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, device } = self;
        write!(f, "host on {host}, device on {device}")
    }
}

/// Where it fails the thread stays where it is: the figures only vary more.
fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    let _ = sched_setaffinity(None, &only);
}
