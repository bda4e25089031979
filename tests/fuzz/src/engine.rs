//! Runs a target: the kept inputs first, then ones made of them from a seed that is printed. What
//! does something new is kept in memory; what finds something is saved, and its path printed.
use crate::{Features, Target};
use anyhow::{Context, Result, bail};
use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use underpin_dma::rt::Rng;
use underpin_dma::rt::sync::Mutex;

/// How long, in real time, one input may take before it is a hang.
const HANG_S: u64 = 20;
const LONGEST_INPUT: usize = 4096;

/// What a run shall do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Real time for made inputs, the kept ones aside.
    pub seconds: u64,
    /// No more than so many made inputs.
    pub most: u64,
    /// Of all randomness.
    pub seed: u64,
    /// Where kept inputs lie.
    pub corpus: PathBuf,
    /// Where an input goes that finds something.
    pub findings: PathBuf,
    /// Add inputs to the corpus that do something new.
    pub keep: bool,
}

/// What a run has done.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Kept inputs.
    pub kept: u64,
    /// Inputs made.
    pub made: u64,
    /// Kinds of things that happened.
    pub features: usize,
    /// The input that found something.
    pub finding: Option<PathBuf>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Real time: the targets' own is virtual.
#[derive(Clone, Copy)]
struct RealTime(std::time::Instant);

impl RealTime {
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a fuzzer runs is no part of the simulation"
    )]
    fn now() -> Self {
        Self(std::time::Instant::now())
    }

    fn passed(self) -> Duration {
        self.0.elapsed()
    }
}

/// The input that is running, for the thread that watches for hangs.
#[derive(Debug, Default)]
struct Running {
    number: AtomicU64,
    input: Mutex<Vec<u8>>,
}

impl Running {
    fn begin(&self, input: &[u8]) {
        input.clone_into(&mut self.input.lock());
        self.number.fetch_add(1, Ordering::Relaxed);
    }
}

/// One for the process: hangs end it.
static RUNNING: OnceLock<Arc<Running>> = OnceLock::new();

fn running(target: &Target, findings: &Path) -> Result<&'static Arc<Running>> {
    if let Some(running) = RUNNING.get() {
        return Ok(running);
    }
    let running = Arc::new(Running::default());
    let (watched, name, findings) = (Arc::clone(&running), target.name, findings.to_owned());
    let watch = move || {
        let (mut seen, mut same) = (0, 0);
        loop {
            #[expect(clippy::disallowed_methods, reason = "rt's sleep is virtual here")]
            std::thread::sleep(Duration::from_secs(1));
            let now = watched.number.load(Ordering::Relaxed);
            same = if now == seen { same + 1 } else { 0 };
            seen = now;
            if same == HANG_S && now != 0 {
                let input = watched.input.lock().clone();
                let path = save(name, &findings, &input);
                eprintln!("HANG: {name} has been on one input for {HANG_S} s; saved as {path:?}");
                std::process::exit(1);
            }
        }
    };
    drop(underpin_dma::rt::thread::spawn("hangs", watch).context("a thread to watch for hangs")?);
    Ok(RUNNING.get_or_init(|| running))
}

fn save(name: &str, findings: &Path, input: &[u8]) -> Option<PathBuf> {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = findings.join(format!("{name}-{:016x}", hasher.finish()));
    std::fs::create_dir_all(findings).ok()?;
    std::fs::write(&path, input).ok()?;
    Some(path)
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// One input: what happened, or the panic.
fn run_one(target: &Target, running: &Running, input: &[u8]) -> Result<Features, String> {
    running.begin(input);
    QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    QUIET.set(false);
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        text.unwrap_or_else(|| "a panic without words".to_owned())
    })
}

/// Panics of targets are told once, with the input's path, and not by the hook.
fn quiet_panics() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if QUIET.get() {
                eprintln!("finding: {panic}");
            } else {
                usual(panic);
            }
        }));
    });
}

/// The inputs of a folder, in the order of their names.
fn read_corpus(folder: &Path) -> Result<Vec<Vec<u8>>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("{}", path.display()));
    paths.iter().map(read).collect()
}

/// Runs the inputs in these files, and nothing else.
///
/// # Errors
/// When a file cannot be read, or one of them finds something.
pub fn replay(target: &Target, files: &[PathBuf], findings: &Path) -> Result<()> {
    quiet_panics();
    let running = running(target, findings)?;
    for file in files {
        let input = std::fs::read(file).with_context(|| format!("{}", file.display()))?;
        match run_one(target, running, &input) {
            Ok(features) => println!(
                "{}: {} kinds of things, no finding",
                file.display(),
                features.count()
            ),
            Err(what) => bail!("{}: {what}", file.display()),
        }
    }
    Ok(())
}

/// Runs a target as `plan` has it, until the first finding.
///
/// # Errors
/// When files cannot be read or written.
pub fn fuzz(target: &Target, plan: &Plan) -> Result<Outcome> {
    quiet_panics();
    let running = running(target, &plan.findings)?;
    let begin = RealTime::now();
    let mut outcome = Outcome::default();
    let mut all = Features::default();
    let mut pool = read_corpus(&plan.corpus)?;
    let found = |input: &[u8], outcome: &mut Outcome| {
        outcome.finding = save(target.name, &plan.findings, input);
        outcome.seconds = begin.passed().as_secs_f64();
    };
    for input in &pool {
        outcome.kept += 1;
        match run_one(target, running, input) {
            Ok(features) => _ = all.add(&features),
            Err(_) => {
                found(input, &mut outcome);
                return Ok(outcome);
            }
        }
    }
    let mut rng = Rng::seeded(plan.seed);
    let made_from = RealTime::now();
    let limit = Duration::from_secs(plan.seconds);
    while outcome.made < plan.most && made_from.passed() < limit {
        let input = make(&pool, &mut rng);
        outcome.made += 1;
        match run_one(target, running, &input) {
            Ok(features) => {
                if all.add(&features) {
                    if plan.keep {
                        save("input", &plan.corpus, &input)
                            .context("the corpus cannot be written")?;
                    }
                    pool.push(input);
                }
            }
            Err(_) => {
                found(&input, &mut outcome);
                return Ok(outcome);
            }
        }
    }
    outcome.features = all.count();
    outcome.seconds = begin.passed().as_secs_f64();
    Ok(outcome)
}

/// An input made of others, or of nothing.
fn make(pool: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let base = match rng.below(12) {
        0 => None,
        _ => rng.pick(pool),
    };
    let Some(mut input) = base.cloned() else {
        let len = 1 << rng.below(11);
        return (0..len).map(|_| byte(rng)).collect();
    };
    for _ in 0..1 + rng.below(8) {
        mutate(&mut input, pool, rng);
    }
    input.truncate(LONGEST_INPUT);
    input
}

fn byte(rng: &mut Rng) -> u8 {
    const OFTEN: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xc0, 0xfe, 0xff];
    match rng.below(3) {
        0 => rng.pick(&OFTEN).copied().unwrap_or(0),
        _ => rng.next_u64() as u8,
    }
}

fn mutate(input: &mut Vec<u8>, pool: &[Vec<u8>], rng: &mut Rng) {
    let at = |rng: &mut Rng, len: usize| rng.below(len.max(1) as u64) as usize;
    let here = at(rng, input.len());
    match rng.below(8) {
        0 => {
            if let Some(byte) = input.get_mut(here) {
                *byte ^= 1 << rng.below(8);
            }
        }
        1 | 2 => {
            let new = byte(rng);
            if let Some(old) = input.get_mut(here) {
                *old = new;
            }
        }
        3 => {
            let new: Vec<u8> = (0..1 + rng.below(8)).map(|_| byte(rng)).collect();
            drop(input.splice(here..here, new));
        }
        4 => {
            let end = (here + 1 + at(rng, 16)).min(input.len());
            drop(input.drain(here.min(end)..end));
        }
        5 => {
            let end = (here + 1 + at(rng, 64)).min(input.len());
            let part = input.get(here.min(end)..end).unwrap_or(&[]).to_vec();
            let to = at(rng, input.len());
            drop(input.splice(to..to, part));
        }
        6 => {
            // The end of another: the streams of a device lie there.
            if let Some(other) = rng.pick(pool) {
                let from = at(rng, other.len());
                input.truncate(here);
                input.extend(other.get(from..).unwrap_or(&[]));
            }
        }
        _ => {
            let value = byte(rng);
            let end = (here + 1 + at(rng, 12)).min(input.len());
            input
                .get_mut(here.min(end)..end)
                .into_iter()
                .flatten()
                .for_each(|byte| *byte = value);
        }
    }
}
