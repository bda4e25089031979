//! The emulator on the caller's own thread, stepped by hand: what it costs is the same for every
//! host that drives it, and can be subtracted.
use crate::ledger::{BLOCKS, Ledger};
use std::error::Error;
use std::sync::Arc;
use underpin::dma::rt::sync::{Mutex, MutexGuard};
use underpin::dma::rt::{self, Instant, Step, Task, TaskHandle};
use underpin::emulator::{Emulator, EmulatorConfig, EmulatorError, InlineCore};

/// A medium that moves no data.
pub(crate) fn null_config() -> Result<EmulatorConfig, EmulatorError> {
    format!("media=null,lba=4096,size={}", BLOCKS * 4096).parse()
}

/// An emulator with a medium that moves no data.
pub(crate) fn null_emulator() -> Result<Emulator, Box<dyn Error>> {
    Ok(Emulator::new(null_config()?)?)
}

/// What the device has read so far.
pub(crate) fn read_so_far(emulator: &Emulator) -> Ledger {
    let stats = emulator.stats();
    Ledger {
        commands: stats.sqes,
        sum: stats.sqe_sum,
    }
}

/// An emulator whose core is stepped by whoever holds it, and while nobody does, by the waits of
/// this thread (bring-up, the end).
#[derive(Debug)]
pub(crate) struct InlineDevice {
    pub(crate) emulator: Emulator,
    core: Arc<Mutex<InlineCore>>,
    _task: TaskHandle,
}

impl InlineDevice {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let emulator = null_emulator()?;
        let core = Arc::new(Mutex::new(emulator.inline_core()));
        let task = Box::new(InWaits(Arc::clone(&core)));
        Ok(Self {
            emulator,
            core,
            _task: rt::spawn_local("inline-emulator", task),
        })
    }

    /// Takes the core for a round of measuring.
    pub(crate) fn core(&self) -> MutexGuard<'_, InlineCore> {
        self.core.lock()
    }
}

struct InWaits(Arc<Mutex<InlineCore>>);

impl Task for InWaits {
    fn step(&mut self, _now: Instant) -> Step {
        let done = self.0.try_lock().map_or(0, |mut core| core.run_batch());
        match done {
            0 => Step::Idle { until: None },
            _ => Step::Busy,
        }
    }
}
