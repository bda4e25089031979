//! What waiting costs: processor time while idle, and how late the first read after a second of
//! idleness is. Prints `ratio NAME VALUE` lines for scripts and the rest for people.
//!
//! ```text
//! cargo bench --bench waiting              everything
//! cargo bench --bench waiting -- --quick   fewer rounds, no verdict
//! ```
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;
use underpin::dma::rt::{Event, Instant, thread};
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, Namespace, QueueOptions, QueuePair,
    Waiting,
};

/// What must hold on a quiet machine.
const IDLE_PERCENT_MOST: f64 = 2.0;
const FIRST_IO_US_MOST: f64 = 200.0;
const IDLE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    match run(quick) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("waiting: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(quick: bool) -> Result<bool, Box<dyn Error>> {
    let space = DmaSpace::new();
    let controller = Controller::open("emu:size=64m", &space, ControllerOptions::default())?;
    let namespace = controller.namespace(None)?;
    let rounds = if quick { 3 } else { 21 };
    let mut holds = true;
    for (name, waiting) in [
        ("poll", Waiting::Poll),
        ("interrupt", Waiting::Interrupt),
        ("adaptive", Waiting::ADAPTIVE),
    ] {
        let options = QueueOptions {
            waiting,
            ..QueueOptions::default()
        };
        let mut queue: QueuePair<DmaBuf> = controller.queue_pair(options)?;
        let mut page = space.alloc(4096, 4096)?;
        let (first_us, sleeping_us);
        (first_us, page) = first_after_idle(&mut queue, &namespace, page, rounds)?;
        (sleeping_us, _) = back_to_back(&mut queue, &namespace, page)?;
        println!(
            "{name:9}: first read after {IDLE:?} idle {first_us:7.1} us, busy {sleeping_us:.2} us (medians)"
        );
        if name == "adaptive" {
            println!("ratio first_io_after_idle_us {first_us:.1}");
            holds &= first_us <= FIRST_IO_US_MOST;
        }
    }
    let percent = idle(&controller, &namespace, if quick { 1 } else { 10 })?;
    println!("ratio idle_percent_of_a_core {percent:.2}");
    holds &= percent < IDLE_PERCENT_MOST;
    if !holds {
        println!(
            "bars: first read <= {FIRST_IO_US_MOST} us, idle < {IDLE_PERCENT_MOST} % of a core: missed"
        );
    }
    Ok(holds || quick)
}

/// The median of reads that each come after a second in which nothing happened.
fn first_after_idle(
    queue: &mut QueuePair<DmaBuf>,
    namespace: &Namespace,
    mut page: DmaBuf,
    rounds: u64,
) -> Result<(f64, DmaBuf), Box<dyn Error>> {
    let mut times = Vec::new();
    for round in 0..rounds {
        thread::sleep(IDLE);
        let began = Instant::now();
        page = queue.run(namespace.read(Lba(8 * round), 8)?, page)?;
        times.push(Instant::now() - began);
    }
    Ok((median_us(times), page))
}

/// The median of reads that come one after the other.
fn back_to_back(
    queue: &mut QueuePair<DmaBuf>,
    namespace: &Namespace,
    mut page: DmaBuf,
) -> Result<(f64, DmaBuf), Box<dyn Error>> {
    let mut times = Vec::new();
    for round in 0..20_000 {
        let began = Instant::now();
        page = queue.run(namespace.read(Lba(8 * (round % 1000)), 8)?, page)?;
        times.push(Instant::now() - began);
    }
    Ok((median_us(times), page))
}

fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    median.as_secs_f64() * 1e6
}

/// The whole process, its controller's thread included, with a queue that is driven and has
/// nothing to do: percent of one core.
fn idle(
    controller: &Controller,
    namespace: &Namespace,
    seconds: u64,
) -> Result<f64, Box<dyn Error>> {
    let options = QueueOptions {
        waiting: Waiting::ADAPTIVE,
        ..QueueOptions::default()
    };
    let queue = controller.async_queue::<DmaBuf>(options)?;
    let page = controller.space().alloc(4096, 4096)?;
    queue.block_on(queue.run(namespace.read(Lba(0), 8)?, page))?;
    let alarm = Event::new()?;
    let ringer = {
        let alarm = alarm.clone();
        let (done, is_done) = std::sync::mpsc::channel::<std::task::Waker>();
        let body = move || {
            thread::sleep(Duration::from_secs(seconds));
            alarm.signal();
            if let Ok(waker) = is_done.recv() {
                waker.wake();
            }
        };
        (thread::spawn("alarm", body)?, done)
    };
    let (before, began) = (cpu_time()?, Instant::now());
    let mut sent = false;
    queue.block_on(std::future::poll_fn(|cx| {
        if !std::mem::replace(&mut sent, true) {
            let _ = ringer.1.send(cx.waker().clone());
        }
        match alarm.is_set() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    }));
    let spent = cpu_time()?.saturating_sub(before);
    let percent = 100.0 * spent.as_secs_f64() / (Instant::now() - began).as_secs_f64();
    ringer.0.join().map_err(|_| "the alarm's thread panicked")?;
    println!("idle for {seconds} s, driven: {spent:?} of processor time, {percent:.2} % of a core");
    Ok(percent)
}

/// Processor time of all threads of this process so far, in nanoseconds: the first field of their
/// schedstat.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let mut nanos = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().ok_or("schedstat is empty")?;
        nanos += first.parse::<u64>()?;
    }
    if nanos == 0 {
        return Err("this kernel keeps no schedstat: nothing can be said of idleness".into());
    }
    Ok(Duration::from_nanos(nanos))
}
