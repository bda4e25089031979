//! Two threads: the driver and the emulator's thread, against a bare host and a bare device, the
//! same number of commands in flight, in turn. Throughput, and the CPU time that it takes.
use crate::bare::{self, BareDevice, BareHost};
use crate::by_hand;
use crate::by_hand::ByHand;
use crate::cores::Cores;
use crate::inline::{null_emulator, read_so_far};
use crate::ledger::Ledger;
use crate::machine::cpu_ns;
use crate::ours::OurHost;
use crate::rounds::{Spread, interleave, paired};
use std::error::Error;
use std::time::Duration;
use underpin::dma::DmaSpace;
use underpin::dma::rt::{Instant, thread};
use underpin::emulator::Emulator;
use underpin::nvme::transport::Embedded;
use underpin::{Controller, ControllerOptions, PoolOptions};

/// How often each arm runs. Depths that are held to a bar are looked at for a quarter of a minute:
/// the processors of a virtual machine move, and few rounds see only where they were just then.
pub(crate) const fn rounds(depth: u16) -> usize {
    if depth == 1 { 101 } else { 401 }
}

/// Of each round and arm, after a start-up that is not counted.
pub(crate) const SLICE: Duration = Duration::from_millis(15);
pub(crate) const START_UP: Duration = Duration::from_millis(2);

/// One arm in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    reads: u64,
    ns: u64,
    cpu_ns: u64,
}

impl Slice {
    pub(crate) fn iops(self) -> f64 {
        self.reads as f64 / self.ns as f64 * 1e9
    }
}

/// What one depth gives.
#[derive(Debug)]
pub(crate) struct TwoCores {
    pub(crate) ours_iops: Spread,
    pub(crate) bare_iops: Spread,
    /// The bare host over the emulator: what the emulator alone allows.
    pub(crate) mixed_iops: Spread,
    /// Of the rounds' quotients.
    pub(crate) ratio: Spread,
    pub(crate) ours_cpu_ns: f64,
    pub(crate) bare_cpu_ns: f64,
    /// Of our arm: doorbell registers written by the driver per thousand reads.
    pub(crate) register_writes_per_1000: f64,
}

/// Keeps `depth` reads in flight for `duration`: polls, refills, rings.
#[inline(always)]
pub(crate) fn pump(
    duration: Duration,
    mut submit: impl FnMut(usize),
    mut poll: impl FnMut() -> usize,
) -> Result<Slice, String> {
    let cpu_before = cpu_ns();
    let began = Instant::now();
    let mut reads = 0_u64;
    let mut idle_polls = 0_u32;
    let ns = loop {
        // The clock is looked at once in many polls.
        for _ in 0..256 {
            let done = poll();
            if done == 0 {
                idle_polls += 1;
                bare::spin_or_yield(idle_polls);
                continue;
            }
            idle_polls = 0;
            reads += done as u64;
            submit(done);
        }
        let passed = Instant::now().since(began);
        if passed >= duration {
            break passed.as_nanos() as u64;
        }
        if idle_polls > 100_000_000 {
            return Err("no read completes any more".to_owned());
        }
    };
    Ok(Slice {
        reads,
        ns,
        cpu_ns: cpu_ns().saturating_sub(cpu_before),
    })
}

/// Waits for the `left` reads still in flight.
pub(crate) fn drain(mut left: usize, mut poll: impl FnMut() -> usize) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while left != 0 {
        left -= poll();
        if Instant::now() >= deadline {
            return Err(format!("{left} reads were never completed"));
        }
    }
    Ok(())
}

struct Ours {
    host: OurHost,
    emulator: Emulator,
    before: Ledger,
    _controller: Controller,
}

impl Ours {
    fn new(space: &DmaSpace, depth: u16, cores: Option<Cores>) -> Result<Self, Box<dyn Error>> {
        let emulator = null_emulator()?;
        Cores::start_device(cores, || emulator.start_thread())?;
        let transport = Embedded::new("threaded", emulator.clone());
        let controller =
            Controller::with_transport(transport, space, ControllerOptions::default())?;
        let host = OurHost::new(&controller, space, depth)?;
        let before = settled(&emulator);
        Ok(Self {
            host,
            emulator,
            before,
            _controller: controller,
        })
    }

    fn slice(&mut self, depth: usize) -> Result<Slice, String> {
        let host = std::cell::RefCell::new(&mut self.host);
        let submit = |count| {
            let mut host = host.borrow_mut();
            host.prepare(count);
            host.submit(count);
        };
        let poll = || host.borrow_mut().poll();
        submit(depth);
        pump(START_UP, submit, poll)?;
        let slice = pump(SLICE, submit, poll)?;
        drain(depth, poll)?;
        Ok(slice)
    }
}

pub(crate) fn bare_slice(
    space: &DmaSpace,
    depth: usize,
    cores: Option<Cores>,
) -> Result<Slice, Box<dyn Error>> {
    let (memory, _rings) = bare::pair_memory(space, depth)?;
    let pool = space.pool(
        "bare",
        PoolOptions {
            buf_bytes: 4096,
            count: depth,
        },
    )?;
    let pages = (0..depth).map(|_| pool.alloc()).collect::<Result<_, _>>()?;
    let mut host = BareHost::new(&memory, 1, pages)?;
    let device = Cores::start_device(cores, || BareDevice::start(&memory))?;
    let slice = {
        let host = std::cell::RefCell::new(&mut host);
        let submit = |count| {
            let mut host = host.borrow_mut();
            host.prepare(count);
            host.submit(count);
        };
        let poll = || host.borrow_mut().poll();
        submit(depth);
        pump(START_UP, submit, poll)?;
        let slice = pump(SLICE, submit, poll)?;
        drain(depth, poll)?;
        slice
    };
    host.check(device.stop()?)?;
    Ok(slice)
}

/// The bare host over an emulator's thread: what the emulator costs without the driver.
struct Mixed {
    hand: ByHand,
    emulator: Emulator,
    before: Ledger,
}

impl Mixed {
    fn new(space: &DmaSpace, depth: usize, cores: Option<Cores>) -> Result<Self, Box<dyn Error>> {
        let emulator = null_emulator()?;
        Cores::start_device(cores, || emulator.start_thread())?;
        let hand = ByHand::new(&emulator, &thread::yield_now, space, depth)?;
        let before = settled(&emulator);
        Ok(Self {
            hand,
            emulator,
            before,
        })
    }

    fn slice(&mut self, depth: usize) -> Result<Slice, String> {
        let host = std::cell::RefCell::new(&mut self.hand.host);
        let idle = std::cell::Cell::new(0_u32);
        let submit = |count| {
            let mut host = host.borrow_mut();
            host.prepare(count);
            host.submit(count);
        };
        let poll = || {
            let done = host.borrow_mut().poll();
            idle.set(if done == 0 { idle.get() + 1 } else { 0 });
            // It knows nothing of EventIdx: a device that may be asleep is woken on suspicion.
            if idle.get() & 0xfff == 0xfff {
                by_hand::kick(&self.emulator, &host.borrow());
            }
            done
        };
        submit(depth);
        by_hand::kick(&self.emulator, &host.borrow());
        pump(START_UP, submit, poll)?;
        let slice = pump(SLICE, submit, poll)?;
        drain(depth, poll)?;
        Ok(slice)
    }
}

/// What the device has read, once it has published it: at the latest when it goes to sleep.
fn settled(emulator: &Emulator) -> Ledger {
    thread::sleep(Duration::from_millis(20));
    read_so_far(emulator)
}

/// Measures at `depth`.
pub(crate) fn two_cores(depth: u16, cores: Option<Cores>) -> Result<TwoCores, Box<dyn Error>> {
    let space = DmaSpace::new();
    let count = usize::from(depth);
    let mut ours = Ours::new(&space, depth, cores)?;
    let mut mixed = Mixed::new(&space, count, cores)?;
    let [ours_slices, bare_slices, mixed_slices] = interleave(
        rounds(depth),
        [
            &mut || ours.slice(count).map_err(Into::into),
            &mut || bare_slice(&space, count, cores),
            &mut || mixed.slice(count).map_err(Into::into),
        ],
    )?;
    let read = settled(&ours.emulator).since(ours.before);
    ours.host.check(read)?;
    let read = settled(&mixed.emulator).since(mixed.before);
    mixed.hand.host.check(read)?;
    let stats = ours.host.stats();
    let cpu_ns = |slices: &[Slice]| {
        let (cpu, reads) = slices.iter().fold((0, 0), |(cpu, reads), slice| {
            (cpu + slice.cpu_ns, reads + slice.reads)
        });
        cpu as f64 / reads as f64
    };
    let iops = |slices: &[Slice]| Spread::of(slices.iter().map(|slice| slice.iops()));
    let quotient = |ours: Slice, bare: Slice| ours.iops() / bare.iops();
    Ok(TwoCores {
        ours_iops: iops(&ours_slices),
        bare_iops: iops(&bare_slices),
        mixed_iops: iops(&mixed_slices),
        ratio: Spread::of(paired(&ours_slices, &bare_slices, quotient)),
        ours_cpu_ns: cpu_ns(&ours_slices),
        bare_cpu_ns: cpu_ns(&bare_slices),
        register_writes_per_1000: stats.register_writes as f64 / stats.commands as f64 * 1000.0,
    })
}
