//! What the figures were taken on, and whether the machine was doing anything else meanwhile.
use std::fs;
use std::process::Command;
use underpin::dma::rt::Instant;

/// CPU time since boot in clock ticks, of the whole machine and of this process and its children
/// that have ended.
#[derive(Clone, Copy, Debug, Default)]
struct Ticks {
    busy: u64,
    stolen: u64,
    ours: u64,
}

/// Watches the machine from its making until [`verdict`](Self::verdict).
#[derive(Debug)]
pub(crate) struct Watch {
    began: Instant,
    ticks: Ticks,
}

/// How much of one processor others used, and what the host of a virtual machine withheld.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Others {
    pub(crate) busy_percent: f64,
    pub(crate) stolen_percent: f64,
}

impl Others {
    /// Figures taken now stand for the code alone.
    pub(crate) fn quiet(self) -> bool {
        self.busy_percent < 10.0 && self.stolen_percent < 10.0
    }
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self {
            began: Instant::now(),
            ticks: ticks().unwrap_or_default(),
        }
    }

    /// What others did since the start; `None` where /proc does not tell.
    pub(crate) fn verdict(&self) -> Option<Others> {
        let now = ticks()?;
        // USER_HZ is 100 on every architecture that Linux runs on today.
        let passed = Instant::now().since(self.began).as_secs_f64() * 100.0;
        let busy = now.busy.saturating_sub(self.ticks.busy);
        let ours = now.ours.saturating_sub(self.ticks.ours);
        let stolen = now.stolen.saturating_sub(self.ticks.stolen);
        Some(Others {
            busy_percent: busy.saturating_sub(ours) as f64 / passed * 100.0,
            stolen_percent: stolen as f64 / passed * 100.0,
        })
    }
}

fn ticks() -> Option<Ticks> {
    let all = fs::read_to_string("/proc/stat").ok()?;
    let cpu: Vec<u64> = numbers(all.lines().next()?.strip_prefix("cpu ")?);
    // user nice system idle iowait irq softirq steal (proc_stat(5)).
    let field = |at: usize| cpu.get(at).copied().unwrap_or(0);
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    // After the name in parentheses: state is field 3, utime 14, stime 15, and of children
    // that were waited for 16 and 17 (proc_pid_stat(5)).
    let own = numbers(own.rsplit_once(')')?.1.get(3..)?);
    let own = |number: usize| own.get(number - 4).copied().unwrap_or(0);
    Some(Ticks {
        busy: field(0) + field(1) + field(2) + field(5) + field(6),
        stolen: field(7),
        ours: own(14) + own(15) + own(16) + own(17),
    })
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace()
        .map(|word| word.parse().unwrap_or(0))
        .collect()
}

/// The CPU time of all threads of this process.
pub(crate) fn cpu_ns() -> u64 {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return 0;
    };
    let of = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        numbers(&text).first().copied().unwrap_or(0)
    };
    threads.flatten().map(|thread| of(thread.path())).sum()
}

/// The compiler that built this, as it names itself.
pub(crate) fn rustc() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(rustc).arg("--version").output();
    match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => format!("unknown ({error})"),
    }
}

/// One line a fact, of the machine itself.
pub(crate) fn facts() -> [String; 2] {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    [
        format!(
            "machine: {model}, {cores} processors, {}",
            std::env::consts::ARCH
        ),
        format!("loadavg at start: {}", load.trim()),
    ]
}

/// The same on standard output, and the compiler.
#[allow(clippy::print_stdout, reason = "only where a lost line is no loss")]
pub(crate) fn print_facts() {
    let [machine, load] = facts();
    println!("{machine}");
    println!("rustc: {}", rustc());
    println!("{load}");
}
