//! What an open but idle controller costs: nothing to speak of. Works, then idles, and prints the
//! processor time of the whole process, the controller's thread included: embedded, and served
//! over vfio-user in both ways that doorbells can go.
use std::error::Error;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use underpin::dma::rt::{Instant, thread};
use underpin::emulator::serve::{ServeOptions, Served};
use underpin::{Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, QueueOptions, QueuePair};

/// The idle stack must stay below this part of one core.
const LIMIT_PERCENT: f64 = 2.0;
/// How long nothing is done.
const IDLE: Duration = Duration::from_secs(5);

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

/// Works, idles, and says what the idling cost.
fn idles(what: &str, url: &str) -> Result<(), Box<dyn Error>> {
    let space = DmaSpace::new();
    let controller = Controller::open(url, &space, ControllerOptions::default())?;
    let mut queue = controller.queue_pair(QueueOptions::default())?;
    read_some(&mut queue, &controller)?;

    let (cpu_before, began) = (cpu_time()?, Instant::now());
    thread::sleep(IDLE);
    let cpu = cpu_time()?.saturating_sub(cpu_before);
    let percent = 100.0 * cpu.as_secs_f64() / Instant::now().since(began).as_secs_f64();
    println!("{what}, idle for {IDLE:?}: {percent:.1} % of a core (limit {LIMIT_PERCENT} %)");

    // It was asleep, not dead.
    read_some(&mut queue, &controller)?;
    if percent >= LIMIT_PERCENT {
        return Err(format!("{what}: {percent:.1} % of a core is too much for nothing").into());
    }
    Ok(())
}

/// The same over vfio-user, the server being a thread of this process.
fn served_idles(what: &str, config: &str) -> Result<(), Box<dyn Error>> {
    let socket = std::env::temp_dir().join(format!("underpin-idle.{}", std::process::id()));
    let (stop, stopped) = UnixStream::pair()?;
    let served = Served::bind(&socket, config.parse()?, ServeOptions::default())?;
    let server = thread::spawn("server", move || served.run(&stopped))?;
    let url = format!("vfio-user:{}", socket.display());
    idles(what, &url)?;
    drop(stop);
    server.join().map_err(|_| "the server panicked")??;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    idles("embedded", "emu:size=64m")?;
    served_idles("served, shadow doorbells", "size=64m")?;
    // The client writes doorbells into shared memory, so the idle device looks for itself now and
    // then.
    served_idles("served, mapped doorbells", "size=64m,dbbuf=off")
}
