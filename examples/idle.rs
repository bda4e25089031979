//! What an open but idle controller costs: nothing to speak of. Works, then idles for 10 s, and
//! prints the processor time of the whole process, the embedded controller's thread included.
use std::error::Error;
use std::time::Duration;
use underpin::dma::rt::{Instant, thread};
use underpin::{Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, QueueOptions, QueuePair};

/// The idle stack must stay below this part of one core.
const LIMIT_PERCENT: f64 = 2.0;

/// Processor time of this process so far: fields 14 and 15 of /proc/self/stat, in the ticks of
/// 10 ms that Linux gives to user space.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name in field 2 may hold anything, but ends at the last parenthesis.
    let (_, fields) = stat
        .rsplit_once(')')
        .ok_or("no command in /proc/self/stat")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(10 * ticks))
}

fn read_some(queue: &mut QueuePair<DmaBuf>, controller: &Controller) -> Result<(), Box<dyn Error>> {
    let namespace = controller.namespace(None)?;
    let mut page = controller.space().alloc(4096, 4096)?;
    for lba in 0..1000 {
        page = queue.run(namespace.read(Lba(lba), 8)?, page)?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let space = DmaSpace::new();
    let controller = Controller::open("emu:size=64m", &space, ControllerOptions::default())?;
    let mut queue = controller.queue_pair(QueueOptions::default())?;
    read_some(&mut queue, &controller)?;

    let (cpu_before, began) = (cpu_time()?, Instant::now());
    thread::sleep(Duration::from_secs(10));
    let cpu = cpu_time()?.saturating_sub(cpu_before);
    let percent = 100.0 * cpu.as_secs_f64() / Instant::now().since(began).as_secs_f64();
    println!("idle for 10 s: {percent:.1} % of a core (limit {LIMIT_PERCENT} %)");

    // It was asleep, not dead.
    read_some(&mut queue, &controller)?;
    if percent >= LIMIT_PERCENT {
        return Err(format!("{percent:.1} % of a core is too much for doing nothing").into());
    }
    Ok(())
}
