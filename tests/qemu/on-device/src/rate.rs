//! I/Os per second of the driver and nothing else: a loop that submits, rings and polls, at random
//! places. What a load generator does beside that (distributions of latencies, maps of what was read)
//! takes an emulated processor longer than the driver does.
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use underpin::dma::rt::{Instant, Rng};
use underpin::{Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, QueueOptions, Waiting};

/// What a command transfers.
const LEN_BYTES: usize = 4096;
/// A device that does not answer has failed long before.
const GIVE_UP: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct RateArgs {
    /// The device
    url: String,
    /// How many commands are in flight
    #[arg(long, default_value_t = 32)]
    depth: u16,
    /// For so long
    #[arg(long, default_value_t = 1000)]
    runtime_ms: u64,
    /// Write instead of reading
    #[arg(long)]
    write: bool,
    /// Only the first so many bytes of the namespace
    #[arg(long)]
    size_bytes: Option<u64>,
    /// Write every doorbell's register, also where the controller takes shadow doorbells
    #[arg(long)]
    no_shadow_doorbells: bool,
}

/// Prints the rate as a report of fio would, as far as that goes.
pub(crate) fn run(args: &RateArgs) -> Result<()> {
    let space = DmaSpace::new();
    let options = ControllerOptions {
        shadow_doorbells: !args.no_shadow_doorbells,
        ..ControllerOptions::default()
    };
    let controller = Controller::open(&args.url, &space, options)?;
    let namespace = controller.namespace(None)?;
    let mut queue = controller.queue_pair(QueueOptions {
        depth: args.depth,
        waiting: Waiting::Poll,
    })?;
    let blocks = LEN_BYTES as u64 / u64::from(namespace.lba_bytes());
    let size_bytes = args.size_bytes.unwrap_or(u64::MAX);
    let places = namespace.len_bytes().min(size_bytes) / LEN_BYTES as u64;
    ensure!(places > 0, "there is no room for an I/O");
    let buffer = |_| space.alloc(LEN_BYTES, 4096);
    let mut spare: Vec<DmaBuf> = (0..args.depth).map(buffer).collect::<Result<_, _>>()?;
    let mut rng = Rng::seeded(1);
    let mut failed = None;
    let (mut ended, mut ended_in_time) = (0_u64, None);
    let began = Instant::now();
    loop {
        let elapsed = Instant::now().since(began);
        if elapsed >= Duration::from_millis(args.runtime_ms) && ended_in_time.is_none() {
            ended_in_time = Some((ended, elapsed));
        }
        while ended_in_time.is_none()
            && let Some(buffer) = spare.pop()
        {
            let lba = Lba(rng.next_u64() % places * blocks);
            let io = match args.write {
                true => namespace.write(lba, blocks)?,
                false => namespace.read(lba, blocks)?,
            };
            let submitted = queue.submit(io, buffer);
            submitted.map_err(|refused| refused.error)?;
        }
        queue.ring();
        queue.poll(usize::MAX, |completion| {
            ended += 1;
            if let Err(error) = completion.result {
                failed = Some(error);
            }
            spare.extend(completion.buffer);
        });
        if let Some(error) = failed.take() {
            return Err(error.into());
        }
        ensure!(elapsed < GIVE_UP, "the device does not answer");
        if ended_in_time.is_some() && spare.len() == usize::from(args.depth) {
            break;
        }
    }
    drop(queue);
    controller.close()?;
    let (ended, elapsed) = ended_in_time.context("it never began")?;
    let rate = |counts| match counts {
        true => ended as f64 / elapsed.as_secs_f64(),
        false => 0.0,
    };
    let report = serde_json::json!({"jobs": [{
        "error": 0,
        "read": {"iops": rate(!args.write)},
        "write": {"iops": rate(args.write)},
    }]});
    println!("{report}");
    Ok(())
}
