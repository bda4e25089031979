//! Two controllers in one space: one buffer goes to both, and the end of one is none of the other's
//! business, whatever container they share.
use anyhow::{Context, Result, bail, ensure};
use std::time::Duration;
use underpin::dma::rt::Instant;
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, Namespace, QueueOptions, QueuePair,
};

const LEN_BYTES: usize = 8192;
/// Commands that the second controller has in flight when the first one goes.
const DEPTH: u16 = 32;
/// Whoever waits so long hangs.
const HANG: Duration = Duration::from_secs(20);

struct End {
    // Dropped in this order.
    queue: QueuePair<DmaBuf>,
    namespace: Namespace,
    controller: Controller,
}

impl End {
    fn open(url: &str, space: &DmaSpace) -> Result<Self> {
        let controller = Controller::open(url, space, ControllerOptions::default())?;
        let depth = DEPTH;
        let queue = controller.queue_pair(QueueOptions {
            depth,
            ..QueueOptions::default()
        })?;
        Ok(Self {
            namespace: controller.namespace(None)?,
            queue,
            controller,
        })
    }

    fn blocks(&self) -> u64 {
        LEN_BYTES as u64 / u64::from(self.namespace.lba_bytes())
    }

    fn read(&mut self, buffer: DmaBuf) -> Result<DmaBuf> {
        let io = self.namespace.read(Lba(0), self.blocks())?;
        self.queue
            .run(io, buffer)
            .map_err(|failed| anyhow::anyhow!("{failed:?}"))
    }

    fn write(&mut self, buffer: DmaBuf) -> Result<DmaBuf> {
        let io = self.namespace.write(Lba(0), self.blocks())?;
        self.queue
            .run(io, buffer)
            .map_err(|failed| anyhow::anyhow!("{failed:?}"))
    }

    /// Fills the queue with reads of what is at its start.
    fn submit_all(&mut self, space: &DmaSpace) -> Result<()> {
        while self.queue.free() > 0 {
            let io = self.namespace.read(Lba(0), self.blocks())?;
            let buffer = space.alloc(LEN_BYTES, 4096)?;
            self.queue
                .submit(io, buffer)
                .map_err(|refused| refused.error)?;
        }
        self.queue.ring();
        Ok(())
    }

    /// All of them come back with these bytes.
    fn take_all(&mut self, wanted: &[u8]) -> Result<()> {
        let deadline = Instant::now() + HANG;
        while self.queue.in_flight() > 0 {
            ensure!(self.queue.wait(Some(deadline)), "HANG");
            let mut wrong = 0;
            self.queue.poll(usize::MAX, |ended| {
                let holds = ended.result.is_ok()
                    && ended.buffer.is_some_and(|buffer| bytes(&buffer) == wanted);
                wrong += u32::from(!holds);
            });
            ensure!(wrong == 0, "{wrong} reads brought something else");
        }
        Ok(())
    }
}

fn bytes(buffer: &DmaBuf) -> Vec<u8> {
    let mut bytes = vec![0; LEN_BYTES];
    // What is left as it is will not compare.
    let _ = buffer.copy_to(0, &mut bytes);
    bytes
}

fn pattern(round: usize) -> Vec<u8> {
    (0..LEN_BYTES)
        .map(|at| (at * 7 + at / 251 + round * 13) as u8)
        .collect()
}

/// What this process has open and mapped of VFIO, and all that it has open.
fn held() -> Result<(usize, usize, usize)> {
    let files: Vec<_> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .collect();
    let vfio = files
        .iter()
        .filter(|path| path.to_string_lossy().contains("vfio"));
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mapped = maps.lines().filter(|line| line.contains("vfio"));
    Ok((vfio.count(), mapped.count(), files.len()))
}

pub(crate) fn run(first: &str, second: &str) -> Result<()> {
    let before = held()?;
    both(first, second)?;
    let after = held()?;
    ensure!(
        before.0 == 0 && before == after,
        "{before:?} files of VFIO, mappings and files became {after:?}"
    );
    println!("ok      no file and no mapping is left");
    Ok(())
}

fn both(first: &str, second: &str) -> Result<()> {
    let space = DmaSpace::new();
    let mut one = End::open(first, &space)?;
    let mut two = End::open(second, &space)?;
    let (mut wanted, mut buffer) = (Vec::new(), space.alloc(LEN_BYTES, 4096)?);
    for round in 0..50 {
        wanted = pattern(round);
        buffer.copy_from(0, &wanted)?;
        buffer = one.write(buffer)?;
        buffer.fill(0);
        // Read by one, written by the other, from the same memory at the same address.
        buffer = one.read(buffer)?;
        ensure!(bytes(&buffer) == wanted, "round {round}: {first}");
        buffer = two.write(buffer)?;
        buffer.fill(0);
        buffer = two.read(buffer)?;
        ensure!(bytes(&buffer) == wanted, "round {round}: {second}");
    }
    println!("ok      what {first} read {second} wrote, from the same buffer");
    let (files, mapped, _) = held()?;
    ensure!(
        files >= 2 && mapped >= 2,
        "{files} files of VFIO, {mapped} mappings: is it looked for rightly?"
    );

    // A container would give the device a second time, and whoever opens it disables it.
    for space in [&space, &DmaSpace::new()] {
        let again = Controller::open(first, space, ControllerOptions::default());
        let Err(error) = again else {
            bail!("{first} can be opened twice");
        };
        println!("a second opening: {error}");
    }
    buffer = one.read(buffer)?;
    ensure!(bytes(&buffer) == wanted, "{first}, after a second opening");
    println!("ok      nobody opens {first} a second time");

    two.submit_all(&space)?;
    let End {
        queue,
        namespace,
        controller,
    } = one;
    drop((queue, namespace));
    controller.close().context("the first does not close")?;
    two.take_all(&wanted)?;
    for _ in 0..50 {
        two.submit_all(&space)?;
        two.take_all(&wanted)?;
    }
    println!(
        "ok      with {first} closed, {DEPTH} reads of {second} in flight and those after are whole"
    );

    // Memory comes and goes in what is left of the container; the first one comes back into it.
    drop(space.region("extra", 2 << 20)?);
    let late = space.region("late", 2 << 20)?;
    let mut one = End::open(first, &space)?;
    buffer.fill(0);
    buffer = one.read(buffer)?;
    ensure!(bytes(&buffer) == wanted, "{first}, opened again");
    two.submit_all(&space)?;
    let End {
        queue,
        namespace,
        controller,
    } = one;
    drop((queue, namespace));
    controller.close().context("it does not close again")?;
    two.take_all(&wanted)?;
    drop((late, buffer));
    drop(two.queue);
    two.controller
        .close()
        .context("the second does not close")?;
    println!("ok      {first} came back and left again, and {second} closed");
    Ok(())
}
