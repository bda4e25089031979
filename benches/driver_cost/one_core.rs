//! The driver's own time: driver and inline emulator on one thread, less a bare host with the same
//! emulator on the same thread. Also what callgrind runs.
use crate::bare::BareHost;
use crate::by_hand::ByHand;
use crate::inline::{InlineDevice, read_so_far};
use crate::ledger::Ledger;
use crate::ours::{self, OurHost};
use crate::rounds::{Spread, interleave, paired};
use std::error::Error;
use underpin::dma::DmaSpace;
use underpin::dma::rt::Instant;
use underpin::emulator::InlineCore;
use underpin::nvme::transport::Embedded;
use underpin::{Controller, ControllerOptions};

/// Reads per round and arm: a few milliseconds.
const READS: usize = 1 << 16;
const ROUNDS: usize = 61;

/// What one depth costs.
#[derive(Debug)]
pub(crate) struct DriverOnly {
    pub(crate) ours_ns: Spread,
    pub(crate) bare_ns: Spread,
    /// Of the rounds' differences.
    pub(crate) driver_ns: Spread,
}

/// The driver over an inline emulator.
#[derive(Debug)]
pub(crate) struct Ours {
    host: OurHost,
    /// What the device read before the first measured command.
    before: Ledger,
    _controller: Controller,
    /// Dropped last: the queue and the controller take their leave of a device that works.
    device: InlineDevice,
}

impl Ours {
    pub(crate) fn new(space: &DmaSpace, depth: u16) -> Result<Self, Box<dyn Error>> {
        let device = InlineDevice::new()?;
        let transport = Embedded::new("inline", device.emulator.clone());
        let options = ControllerOptions::default();
        let controller = Controller::with_transport(transport, space, options)?;
        let host = OurHost::new(&controller, space, depth)?;
        let before = read_so_far(&device.emulator);
        Ok(Self {
            host,
            before,
            _controller: controller,
            device,
        })
    }

    fn check(&self) -> Result<(), String> {
        let read = read_so_far(&self.device.emulator).since(self.before);
        self.host.check(read)
    }
}

/// Batches of `depth` reads, until `reads` are done; nanoseconds per read.
fn drive(
    core: &mut InlineCore,
    reads: usize,
    depth: usize,
    mut submit: impl FnMut(usize),
    mut poll: impl FnMut() -> usize,
) -> Result<f64, String> {
    let began = Instant::now();
    for _ in 0..reads / depth {
        submit(depth);
        batch(core, depth, &mut poll)?;
    }
    let nanos = Instant::now().since(began).as_nanos();
    Ok(nanos as f64 / (reads / depth * depth) as f64)
}

/// Steps the device and polls until `depth` reads are done.
#[inline(always)]
fn batch(
    core: &mut InlineCore,
    depth: usize,
    poll: &mut impl FnMut() -> usize,
) -> Result<(), String> {
    let mut done = 0;
    for _ in 0..1000 {
        core.run_batch();
        done += poll();
        if done >= depth {
            return Ok(());
        }
    }
    Err(format!(
        "{done} of {depth} reads completed, and no more come"
    ))
}

/// Measures at `depth`.
pub(crate) fn driver_only(depth: u16) -> Result<DriverOnly, Box<dyn Error>> {
    let space = DmaSpace::new();
    let count = usize::from(depth);
    let mut ours = Ours::new(&space, depth)?;
    let bare_device = InlineDevice::new()?;
    let step = || {
        bare_device.core().run_batch();
    };
    let mut bare = ByHand::new(&bare_device.emulator, &step, &space, count)?;
    let bare_before = read_so_far(&bare_device.emulator);

    let [ours_ns, bare_ns] = interleave(
        ROUNDS,
        [
            &mut || {
                let Ours { device, host, .. } = &mut ours;
                run_ours(host, &mut device.core(), count)
            },
            &mut || run_bare(&mut bare.host, &mut bare_device.core(), count),
        ],
    )?;
    ours.check()?;
    let read = read_so_far(&bare_device.emulator).since(bare_before);
    bare.host.check(read)?;
    Ok(DriverOnly {
        driver_ns: Spread::of(paired(&ours_ns, &bare_ns, |ours, bare| ours - bare)),
        ours_ns: Spread::of(ours_ns),
        bare_ns: Spread::of(bare_ns),
    })
}

#[inline(never)]
fn run_ours(host: &mut OurHost, core: &mut InlineCore, depth: usize) -> Result<f64, String> {
    let host = std::cell::RefCell::new(host);
    let submit = |count| {
        let mut host = host.borrow_mut();
        host.prepare(count);
        host.submit(count);
    };
    drive(core, READS, depth, submit, || host.borrow_mut().poll())
}

#[inline(never)]
fn run_bare(host: &mut BareHost, core: &mut InlineCore, depth: usize) -> Result<f64, String> {
    let host = std::cell::RefCell::new(host);
    let submit = |count| {
        let mut host = host.borrow_mut();
        host.prepare(count);
        host.submit(count);
    };
    drive(core, READS, depth, submit, || host.borrow_mut().poll())
}

/// Reads that callgrind counts.
pub(crate) const COUNTED_READS: usize = 1 << 15;

/// Warms up, then calls the marked functions for `COUNTED_READS`; callgrind counts those.
pub(crate) fn count(depth: u16) -> Result<(), Box<dyn Error>> {
    let space = DmaSpace::new();
    let mut ours = Ours::new(&space, depth)?;
    let depth = usize::from(depth);
    {
        let Ours { device, host, .. } = &mut ours;
        let mut core = device.core();
        for nth in 0..(256 + COUNTED_READS) / depth {
            host.prepare(depth);
            if nth < 256 / depth {
                host.submit(depth);
                batch(&mut core, depth, &mut || host.poll())?;
            } else {
                ours::marked_submit(host, depth);
                batch(&mut core, depth, &mut || ours::marked_poll(host))?;
            }
            host.check_trouble()?;
        }
    }
    ours.check()?;
    Ok(())
}
