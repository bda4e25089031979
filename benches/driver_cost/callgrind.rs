//! Counts instead of times: runs this program under callgrind, which counts between entry and
//! return of the two marked functions, and reads what it wrote.
use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;

/// What callgrind counted between the markers.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) instructions: u64,
    /// Instructions that lock the bus: every atomic exchange, so every lock taken, inlined or not.
    pub(crate) locked: u64,
    /// By function: the object it lies in, its name, its own instructions.
    pub(crate) functions: Vec<Function>,
}

/// One function that ran between the markers.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) object: String,
    pub(crate) name: String,
    pub(crate) instructions: u64,
    /// Whether it made any. Their number is of no use: callgrind adds those made before the markers
    /// to the first one between them.
    pub(crate) system_calls: bool,
}

/// Runs `this program --count-at DEPTH` under callgrind.
pub(crate) fn run(depth: u16) -> Result<Counted, Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let out = std::env::temp_dir().join(format!(
        "underpin-driver-cost.{}.{depth}",
        std::process::id()
    ));
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .args([
            "--collect-atstart=no",
            "--collect-systime=yes",
            "--collect-bus=yes",
        ])
        .args([
            "--toggle-collect=*marked_submit*",
            "--toggle-collect=*marked_poll*",
        ])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(&program)
        .args(["--count-at", &depth.to_string()])
        .output()
        .map_err(|error| format!("valgrind does not start ({error}); apt-get install valgrind"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the run under callgrind failed: {}\n{said}", output.status).into());
    }
    let text = std::fs::read_to_string(&out)?;
    std::fs::remove_file(&out)?;
    let counted = parse(&text)?;
    if counted.instructions == 0 {
        return Err("callgrind saw neither marked_submit nor marked_poll".into());
    }
    Ok(counted)
}

/// Reads callgrind's profile format: `ob=` and `fn=` name whom the cost lines after them belong to;
/// a cost line after `calls=` is the callee's and is counted there.
fn parse(text: &str) -> Result<Counted, String> {
    let mut events: Vec<&str> = Vec::new();
    let mut positions = 1;
    let mut objects = Names::default();
    let mut names = Names::default();
    let mut here = (String::new(), String::new());
    let mut costs: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    let mut callee = false;
    for line in text.lines() {
        if let Some(list) = line.strip_prefix("events: ") {
            events = list.split_whitespace().collect();
        } else if let Some(list) = line.strip_prefix("positions: ") {
            positions = list.split_whitespace().count();
        } else if let Some(name) = line.strip_prefix("ob=") {
            here.0 = objects.resolve(name);
        } else if let Some(name) = line.strip_prefix("fn=") {
            here.1 = names.resolve(name);
        } else if let Some(name) = line.strip_prefix("cob=") {
            objects.resolve(name);
        } else if let Some(name) = line.strip_prefix("cfn=") {
            names.resolve(name);
        } else if line.starts_with("calls=") {
            callee = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c))
            && !std::mem::take(&mut callee)
        {
            let cost = costs.entry(here.clone()).or_default();
            cost.resize(events.len(), 0);
            for (sum, word) in cost.iter_mut().zip(line.split_whitespace().skip(positions)) {
                *sum += word
                    .parse::<u64>()
                    .map_err(|error| format!("{line:?}: {error}"))?;
            }
        }
    }
    let column = |name: &str| events.iter().position(|&event| event == name);
    let of = |cost: &[u64], event: &str| {
        let at = column(event)?;
        cost.get(at).copied()
    };
    for event in ["Ir", "Ge", "sysCount"] {
        if column(event).is_none() {
            return Err(format!("callgrind counted {events:?} and not {event}"));
        }
    }
    let mut counted = Counted::default();
    for ((object, name), cost) in &costs {
        let function = Function {
            object: object.clone(),
            name: name.clone(),
            instructions: of(cost, "Ir").unwrap_or(0),
            system_calls: of(cost, "sysCount").unwrap_or(0) != 0,
        };
        counted.instructions += function.instructions;
        counted.locked += of(cost, "Ge").unwrap_or(0);
        if function.instructions != 0 || function.system_calls {
            counted.functions.push(function);
        }
    }
    counted
        .functions
        .sort_by_key(|function| std::cmp::Reverse(function.instructions));
    Ok(counted)
}

/// Names are written once as `(7) name`, then as `(7)`.
#[derive(Debug, Default)]
struct Names(BTreeMap<String, String>);

impl Names {
    fn resolve(&mut self, text: &str) -> String {
        let Some((number, name)) = text.split_once(')') else {
            return text.to_owned();
        };
        match name.trim() {
            "" => self
                .0
                .get(number)
                .cloned()
                .unwrap_or_else(|| text.to_owned()),
            name => {
                self.0.insert(number.to_owned(), name.to_owned());
                name.to_owned()
            }
        }
    }
}

/// What must not run on the data path, by parts of names.
const BANNED: &[&str] = &[
    "alloc",
    "free",
    "mutex",
    "lock",
    "futex",
    "syscall",
    "park",
    "Condvar",
    "Once",
    "semaphore",
    "channel",
];

fn banned(name: &str) -> Option<&'static str> {
    let name = name.replace("clock", "");
    BANNED.iter().copied().find(|part| name.contains(part))
}

/// Functions outside of this program that may run, and why.
const ALLOWED_OUTSIDE: &[(&str, &str)] = &[
    // The deadline check looks at the clock once in 64 polls. On Linux that reads the vDSO page;
    // valgrind hides the vDSO, and so callgrind alone sees a system call.
    (
        "clock_gettime",
        "the clock, once in 64 polls; no system call outside of valgrind",
    ),
    ("memcpy", "a move of a value"),
    ("memmove", "a move of a value"),
];

/// The most instructions that lock the bus, per batch: two shadow doorbells, and a register write
/// with its wake-up now and then. One lock per command would be far more.
const LOCKED_PER_BATCH: f64 = 3.0;

/// Everything that should not have run between the markers, in words.
pub(crate) fn violations(counted: &Counted, batches: f64) -> Vec<String> {
    let program = std::env::current_exe().unwrap_or_default();
    let program = program.to_string_lossy();
    let mut found = Vec::new();
    let locked = counted.locked as f64 / batches;
    if locked > LOCKED_PER_BATCH {
        found.push(format!(
            "{locked:.1} instructions a batch lock the bus, more than {LOCKED_PER_BATCH}: a lock?"
        ));
    }
    for function in &counted.functions {
        let Function {
            object,
            name,
            instructions,
            system_calls,
        } = function;
        let ours = *object == *program;
        let allowed = ALLOWED_OUTSIDE.iter().any(|(part, _)| name.contains(part));
        if !ours && !allowed {
            found.push(format!(
                "{name} of {object} ran, {instructions} instructions"
            ));
        } else if ours && let Some(banned) = banned(name) {
            found.push(format!(
                "{name} ran, {instructions} instructions: {banned:?} is banned"
            ));
        }
        if *system_calls && !name.contains("clock_gettime") {
            found.push(format!("{name} made a system call"));
        }
    }
    found
}
