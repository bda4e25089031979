//! What a read costs this processor: submit, ring and the poll that finds it, by the clock of a guest
//! in which every instruction takes the same time. `tests/qemu/icount` makes instructions of it.
use anyhow::{Context, Result, ensure};
use std::sync::Arc;
use std::time::Duration;
use underpin::dma::rt::{Instant, thread};
use underpin::nvme::spec::registers::offset;
use underpin::nvme::transport::Vfio;
use underpin::nvme::{DeviceAddress, Transport};
use underpin::{
    Controller, ControllerOptions, DeviceUrl, DmaBuf, DmaSpace, Lba, Namespace, QueueOptions,
    QueuePair, Waiting,
};

/// What a command transfers.
const LEN_BYTES: usize = 4096;
/// This processor is asleep while the device has a batch, and polls once. QEMU lets a sleeper's clock
/// leap, whether its device has finished or not: with every time that it falls asleep it has another chance.
const ASLEEP: [Duration; 5] = [Duration::from_micros(200); 5];
/// Batches before those that count.
const WARM_UP: usize = 64;

#[derive(Debug, clap::Args)]
pub(crate) struct CostArgs {
    /// The device
    url: String,
    /// So many reads are submitted, rung and polled together
    #[arg(long, default_value_t = 32)]
    depth: u16,
    /// How many batches count
    #[arg(long, default_value_t = 600)]
    batches: usize,
    /// Read CSTS so many times with every command, as a driver should not
    #[arg(long, default_value_t = 0)]
    register_reads: u32,
}

struct Bench {
    device: Arc<Vfio>,
    namespace: Namespace,
    queue: QueuePair<DmaBuf>,
    spare: Vec<DmaBuf>,
    depth: usize,
    register_reads: u32,
    next: u64,
}

pub(crate) fn run(args: &CostArgs) -> Result<()> {
    let space = DmaSpace::new();
    let url: DeviceUrl = args.url.parse()?;
    let DeviceAddress::Pci(address) = url.device else {
        anyhow::bail!("{url} is no pci: device");
    };
    let device = Vfio::open(address, &space)?;
    let transport = Arc::clone(&device) as Arc<dyn Transport>;
    let controller = Controller::with_transport(transport, &space, ControllerOptions::default())?;
    let queue = controller.queue_pair(QueueOptions {
        depth: args.depth,
        waiting: Waiting::Poll,
    })?;
    let buffer = |_| space.alloc(LEN_BYTES, 4096);
    let mut bench = Bench {
        device,
        namespace: controller.namespace(None)?,
        queue,
        spare: (0..args.depth).map(buffer).collect::<Result<_, _>>()?,
        depth: args.depth.into(),
        register_reads: args.register_reads,
        next: 0,
    };
    let mut found = Vec::new();
    let mut clock = Vec::new();
    let mut in_pieces = 0;
    for nth in 0..WARM_UP + args.batches {
        let batch = bench.batch()?;
        match batch {
            _ if nth < WARM_UP => {}
            Some(took) => {
                found.push(took);
                let began = Instant::now();
                clock.push(Instant::now().since(began));
            }
            None => in_pieces += 1,
        }
    }
    ensure!(
        in_pieces * 2 <= args.batches,
        "{in_pieces} of {} batches did not end in one poll",
        args.batches
    );
    let of_all = Costs::of(&mut found)?;
    let of_clock = Costs::of(&mut clock)?;
    println!(
        "cost: depth {} reads {} batch_ns {} least_ns {} most_ns {} clock_ns {} batches {} in_pieces {in_pieces}",
        args.depth,
        bench.next,
        of_all.mean_ns,
        of_all.least_ns,
        of_all.most_ns,
        of_clock.mean_ns,
        found.len(),
    );
    drop(bench);
    controller.close()?;
    Ok(())
}

impl Bench {
    /// The time of a batch less the device's; `None` if one poll did not find all of it.
    fn batch(&mut self) -> Result<Option<Duration>> {
        let blocks = LEN_BYTES as u64 / u64::from(self.namespace.lba_bytes());
        let places = self.namespace.blocks() / blocks;
        let began = Instant::now();
        for _ in 0..self.depth {
            let buffer = self.spare.pop().context("a buffer has not come back")?;
            // A prime's steps: neither one after the other nor at random.
            let lba = Lba(self.next * 7919 % places * blocks);
            self.next += 1;
            let io = self.namespace.read(lba, blocks)?;
            self.queue
                .submit(io, buffer)
                .map_err(|refused| refused.error)?;
            for _ in 0..self.register_reads {
                self.device.read32(offset::CSTS)?;
            }
        }
        self.queue.ring();
        let submitted = Instant::now().since(began);
        ASLEEP.into_iter().for_each(thread::sleep);
        let began = Instant::now();
        let found = self.poll()?;
        let polled = Instant::now().since(began);
        while self.spare.len() < self.depth {
            self.queue.wait(None);
            self.poll()?;
        }
        Ok((found == self.depth).then_some(submitted + polled))
    }

    fn poll(&mut self) -> Result<usize> {
        let Self { queue, spare, .. } = self;
        let mut failed = None;
        let ended = queue.poll(usize::MAX, |completion| {
            if let Err(error) = completion.result {
                failed = Some(error);
            }
            spare.extend(completion.buffer);
        });
        failed.map_or(Ok(ended), |error| Err(error.into()))
    }
}

/// Of batches, or of looks at the clock.
struct Costs {
    mean_ns: u128,
    least_ns: u128,
    most_ns: u128,
}

impl Costs {
    /// Of all but the dearest twentieth, in which the guest's kernel took an interrupt.
    fn of(times: &mut [Duration]) -> Result<Self> {
        times.sort_unstable();
        let kept = times
            .get(..times.len() - times.len() / 20)
            .context("more than all")?;
        let nanos =
            |time: Option<&Duration>| time.map(Duration::as_nanos).context("nothing measured");
        let (least_ns, most_ns) = (nanos(kept.first())?, nanos(kept.last())?);
        let sum: u128 = kept.iter().map(Duration::as_nanos).sum();
        Ok(Self {
            mean_ns: sum / kept.len() as u128,
            least_ns,
            most_ns,
        })
    }
}
