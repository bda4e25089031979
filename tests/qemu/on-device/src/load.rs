//! Load on a queue until something happens to the controller: every command has to be accounted
//! for, whatever it was, and everything has to let go of the device.
use anyhow::{Context, Result, bail, ensure};
use std::time::Duration;
use underpin::dma::rt::{Instant, Rng};
use underpin::nvme::Refused;
use underpin::{
    CommandError, Completion, Controller, ControllerOptions, DmaBuf, DmaSpace, Error, Failure, Lba,
    Namespace, QueueOptions, QueuePair, Waiting,
};

/// What a command transfers.
const LEN_BYTES: usize = 4096;

#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// The device
    url: String,
    /// How many commands to keep in flight
    #[arg(long, default_value_t = 64)]
    depth: u16,
    /// A command that takes longer fails the controller
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
    /// Sleep for an interrupt
    #[arg(long)]
    interrupts: bool,
    /// Write every doorbell's register, also where the controller takes shadow doorbells
    #[arg(long)]
    no_shadow_doorbells: bool,
    /// Ring for every command, and not once for as many as there are
    #[arg(long)]
    ring_each: bool,
    /// End after this time if nothing happens; that is a failure when it is not given
    #[arg(long)]
    seconds: Option<u64>,
    /// Give up after this time
    #[arg(long, default_value_t = 60)]
    give_up_s: u64,
}

/// How commands ended.
#[derive(Debug, Default)]
struct Ends {
    submitted: u64,
    well: u64,
    with_status: u64,
    lost: u64,
    /// Buffers that came back.
    spare: Vec<DmaBuf>,
}

impl Ends {
    fn told(&self) -> u64 {
        self.well + self.with_status + self.lost
    }

    fn take(&mut self, completion: Completion<DmaBuf>) {
        match completion.result {
            Ok(()) => self.well += 1,
            Err(CommandError::Lost(_)) => self.lost += 1,
            Err(_) => self.with_status += 1,
        }
        self.spare.extend(completion.buffer);
    }
}

pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    let space = DmaSpace::new();
    let options = ControllerOptions {
        command_timeout: Duration::from_millis(args.timeout_ms),
        admin_timeout: Duration::from_millis(args.timeout_ms),
        shadow_doorbells: !args.no_shadow_doorbells,
        ..ControllerOptions::default()
    };
    let controller = Controller::open(&args.url, &space, options)?;
    let namespace = controller.namespace(None)?;
    let waiting = match args.interrupts {
        true => Waiting::Interrupt,
        false => Waiting::Poll,
    };
    let mut queue = controller.queue_pair(QueueOptions {
        depth: args.depth,
        waiting,
    })?;
    let mut ends = Ends::default();
    let failure = until_failed(args, &controller, &namespace, &mut queue, &mut ends)?;
    println!(
        "commands: {} submitted, {} ended well, {} with a status, {} lost",
        ends.submitted, ends.well, ends.with_status, ends.lost
    );
    let stats = queue.stats();
    println!(
        "doorbells: {} rings, {} register writes",
        stats.rings, stats.register_writes
    );
    ensure!(
        queue.in_flight() as u64 == ends.lost,
        "{} commands are in quarantine",
        queue.in_flight()
    );
    drop(queue);
    let Some(failure) = failure else {
        controller.close().context("it does not close")?;
        println!("ok      load without an end, closed");
        return Ok(());
    };
    println!("failure: {failure}");
    println!("quarantined queues: {}", controller.quarantined_queues());
    match Controller::open(&args.url, &DmaSpace::new(), ControllerOptions::default()) {
        Ok(_) => bail!("it can be opened twice"),
        Err(error) => println!("a second opening meanwhile: {error}"),
    }
    match controller.close() {
        Ok(()) => println!("closed"),
        Err(error) => println!("closed with an error: {error}"),
    }
    crate::proof::is_had(&space)?;
    println!(
        "ok      load until the controller failed, {} lost",
        ends.lost
    );
    Ok(())
}

/// Keeps the queue full. Ends with the failure, once nothing is in flight any more.
fn until_failed(
    args: &LoadArgs,
    controller: &Controller,
    namespace: &Namespace,
    queue: &mut QueuePair<DmaBuf>,
    ends: &mut Ends,
) -> Result<Option<Failure>> {
    let began = Instant::now();
    let mut rng = Rng::seeded(1);
    let blocks = (LEN_BYTES as u64).div_ceil(namespace.lba_bytes().into());
    let places = namespace.blocks() / blocks;
    let mut is_loaded = false;
    loop {
        let elapsed = Instant::now().since(began);
        let is_over = args
            .seconds
            .is_some_and(|s| elapsed >= Duration::from_secs(s));
        while !is_over && controller.failure().is_none() && queue.free() > 0 {
            let buffer = match ends.spare.pop() {
                Some(buffer) => buffer,
                None => controller.space().alloc(LEN_BYTES, 4096)?,
            };
            let lba = Lba(rng.next_u64() % places * blocks);
            let io = match rng.next_u64() % 2 {
                0 => namespace.read(lba, blocks)?,
                _ => namespace.write(lba, blocks)?,
            };
            match queue.submit(io, buffer) {
                Ok(_) => ends.submitted += 1,
                Err(Refused {
                    error: Error::Failed(_),
                    ..
                }) => break,
                Err(refused) => return Err(refused.error.into()),
            }
            if args.ring_each {
                queue.ring();
            }
        }
        queue.ring();
        if args.interrupts {
            queue.wait(Some(Instant::now() + Duration::from_millis(200)));
        }
        queue.poll(usize::MAX, |completion| ends.take(completion));
        if !is_loaded && ends.well > u64::from(args.depth) {
            is_loaded = true;
            println!("loaded");
        }
        // What is in quarantine counts as in flight; its commands have ended all the same.
        if ends.told() == ends.submitted && (is_over || controller.failure().is_some()) {
            return Ok(controller.failure());
        }
        ensure!(
            elapsed < Duration::from_secs(args.give_up_s),
            "not over in {} s: {} commands submitted, {} ended, {:?}",
            args.give_up_s,
            ends.submitted,
            ends.told(),
            controller.failure()
        );
    }
}
