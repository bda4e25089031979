//! Every queue has an interrupt vector of its own: one after the other sleeps for its completions, and
//! both the driver and the kernel have to have counted.
use anyhow::{Context, Result, ensure};
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, QueueOptions, QueuePair, Waiting,
};

const QUEUES: u16 = 4;
const READS: u64 = 20;

/// How often each vector that VFIO gave out has interrupted a processor, by its name.
fn vectors() -> Result<Vec<(String, u64)>> {
    let text = std::fs::read_to_string("/proc/interrupts").context("/proc/interrupts")?;
    let mut lines = text.lines();
    // `CPU0 CPU1 ...`
    let processors = lines.next().unwrap_or("").split_whitespace().count();
    let vfio = lines.filter(|line| line.contains("vfio-msi"));
    let vectors = vfio.map(|line| {
        let counts = line.split_whitespace().skip(1).take(processors);
        let name = line.split_whitespace().last().unwrap_or("");
        let count = counts.filter_map(|count| count.parse::<u64>().ok()).sum();
        (name.to_owned(), count)
    });
    Ok(vectors.collect())
}

pub(crate) fn run(url: &str) -> Result<()> {
    let space = DmaSpace::new();
    let options = ControllerOptions {
        io_queues: QUEUES,
        ..ControllerOptions::default()
    };
    let controller = Controller::open(url, &space, options)?;
    let namespace = controller.namespace(None)?;
    let blocks = 4096 / u64::from(namespace.lba_bytes());
    let mut queues = Vec::new();
    for _ in 0..QUEUES {
        let queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions {
            depth: 8,
            waiting: Waiting::Interrupt,
        })?;
        queues.push(queue);
    }
    for (number, queue) in (1..).zip(&mut queues) {
        let before = vectors()?;
        let mut buffer = space.alloc(4096, 4096)?;
        for read in 0..READS {
            buffer = queue.run(namespace.read(Lba(read * blocks), blocks)?, buffer)?;
        }
        let stats = queue.stats();
        ensure!(
            stats.interrupts > 0 && stats.missed_interrupts == 0,
            "queue {number}: {} interrupts, {} missed",
            stats.interrupts,
            stats.missed_interrupts
        );
        let woke: Vec<(String, u64)> = (vectors()?.into_iter().zip(before))
            .filter(|((_, after), (_, before))| after > before)
            .map(|((name, after), (_, before))| (name, after - before))
            .collect();
        let [(name, count)] = woke.as_slice() else {
            anyhow::bail!("queue {number} has interrupted by {woke:?}, and not by one vector");
        };
        println!("ok      queue {number}: {count} interrupts by {name}, for {READS} reads");
    }
    drop(queues);
    controller.close()?;
    Ok(())
}
