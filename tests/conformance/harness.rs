//! Runs tests one after the other, judges what they skip, and counts. It understands as much of the
//! test programs' command line as cargo-nextest uses, so that the suite runs like any other test.
use crate::foreign::Foreign;
use crate::skips::{self, Skips};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use tempfile::TempDir;
use underpin::dma::rt::Instant;
use underpin::dma::rt::sync::Mutex;
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Error, Lba, Namespace, Payload, QueueOptions,
    QueuePair,
};

/// How a test ended that did not fail by a panic.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done,
    /// The device lacks what is tested.
    Lacks(String),
}

pub(crate) fn lacks(what: impl Into<String>) -> Verdict {
    Verdict::Lacks(what.into())
}

/// A name, `family::rule`, and what checks the rule.
pub(crate) type Test = (&'static str, fn(&Device) -> Verdict);

/// The device that is tested.
///
/// `foreign:CONFIG` is the emulator behind the `vfio_user` crate's server, in this process: somebody
/// else's protocol code is between. That server has one client in its life, so each opening makes
/// one.
pub(crate) struct Device {
    url: String,
    second: Option<String>,
    foreign: Mutex<Vec<(Foreign, TempDir)>>,
}

/// Two namespaces of different blocks, a transfer limit that is soon exceeded.
const EMBEDDED: &str = "emu:size=32m,ns=2,ns2.lba=4096,queues=4,mqes=256,mdts=5";

impl Device {
    fn from_environment() -> Self {
        let told = |name| std::env::var(name).ok().filter(|url| !url.is_empty());
        let url = told("UNDERPIN_TEST_DEVICE").unwrap_or_else(|| EMBEDDED.to_owned());
        let second = told("UNDERPIN_TEST_DEVICE_2");
        // Another one in software costs nothing.
        let is_here = url.starts_with("emu:") || url.starts_with("foreign:");
        let second = second.or_else(|| is_here.then(|| url.clone()));
        Self {
            url,
            second,
            foreign: Mutex::new(Vec::new()),
        }
    }

    /// What its URL begins with.
    pub(crate) fn kind(&self) -> &str {
        self.url.split(':').next().unwrap_or("")
    }

    /// True when what is written ends with the controller.
    pub(crate) fn forgets(&self) -> bool {
        self.kind() == "foreign" || (self.kind() == "emu" && !self.url.contains("file="))
    }

    fn open_url(
        &self,
        url: &str,
        space: &DmaSpace,
        options: ControllerOptions,
    ) -> Result<Controller, Error> {
        let Some(config) = url.strip_prefix("foreign:") else {
            return Controller::open(url, space, options);
        };
        let folder = TempDir::new().unwrap();
        let server = Foreign::new(folder.path(), config);
        let url = format!("vfio-user:{}", server.socket.display());
        self.foreign.lock().push((server, folder));
        Controller::open(&url, space, options)
    }

    /// Between tests: nobody is a client any more.
    fn tidy(&self) {
        for (server, _folder) in std::mem::take(&mut *self.foreign.lock()) {
            server.end();
        }
    }

    pub(crate) fn try_open(
        &self,
        space: &DmaSpace,
        options: ControllerOptions,
    ) -> Result<Controller, Error> {
        self.open_url(&self.url, space, options)
    }

    #[track_caller]
    pub(crate) fn open_with(&self, options: ControllerOptions) -> Controller {
        match self.try_open(&DmaSpace::new(), options) {
            Ok(controller) => controller,
            Err(error) => panic!("{} does not open: {error}", self.url),
        }
    }

    #[track_caller]
    pub(crate) fn open(&self) -> Controller {
        self.open_with(ControllerOptions::default())
    }

    /// Another device of the kind, in the same space.
    pub(crate) fn open_second(&self, space: &DmaSpace) -> Option<Controller> {
        let url = self.second.as_ref()?;
        let opened = self.open_url(url, space, ControllerOptions::default());
        Some(opened.unwrap())
    }
}

/// A controller, its first namespace and a queue.
pub(crate) struct Open<B: Payload = DmaBuf> {
    pub(crate) queue: QueuePair<B>,
    pub(crate) namespace: Namespace,
    pub(crate) controller: Controller,
    pub(crate) space: DmaSpace,
}

impl<B: Payload> Open<B> {
    #[track_caller]
    pub(crate) fn new(device: &Device) -> Self {
        Self::with(
            device,
            ControllerOptions::default(),
            QueueOptions::default(),
        )
    }

    #[track_caller]
    pub(crate) fn with(device: &Device, options: ControllerOptions, queue: QueueOptions) -> Self {
        let controller = device.open_with(options);
        Self {
            queue: controller.queue_pair(queue).unwrap(),
            namespace: controller.namespace(None).unwrap(),
            space: controller.space().clone(),
            controller,
        }
    }

    pub(crate) fn lba_bytes(&self) -> usize {
        self.namespace.lba_bytes() as usize
    }

    pub(crate) fn blocks(&self, blocks: usize) -> DmaBuf {
        self.space.alloc(blocks * self.lba_bytes(), 4096).unwrap()
    }
}

impl Open {
    /// Writes blocks of a pattern from `lba` on.
    #[track_caller]
    pub(crate) fn write(&mut self, lba: u64, blocks: usize, tag: u64) {
        let mut buffer = self.blocks(blocks);
        buffer
            .copy_from(0, &pattern(buffer.len_bytes(), tag))
            .unwrap();
        let io = self.namespace.write(Lba(lba), blocks as u64).unwrap();
        self.queue.run(io, buffer).unwrap();
    }

    /// Reads blocks from `lba` on.
    #[track_caller]
    pub(crate) fn read(&mut self, lba: u64, blocks: usize) -> Vec<u8> {
        let io = self.namespace.read(Lba(lba), blocks as u64).unwrap();
        let buffer = self.blocks(blocks);
        contents(&self.queue.run(io, buffer).unwrap())
    }

    /// Reads them and compares with the pattern.
    #[track_caller]
    pub(crate) fn expect(&mut self, lba: u64, blocks: usize, tag: u64) {
        let len = blocks * self.lba_bytes();
        assert!(
            self.read(lba, blocks) == pattern(len, tag),
            "blocks from {lba} on, {tag}"
        );
    }
}

/// Bytes that depend on a tag.
pub(crate) fn pattern(len_bytes: usize, tag: u64) -> Vec<u8> {
    let mut rng = underpin::dma::rt::Rng::seeded(tag ^ 0x5eed_0000);
    let words = std::iter::repeat_with(|| rng.next_u64().to_le_bytes());
    words.flatten().take(len_bytes).collect()
}

pub(crate) fn contents(buffer: &DmaBuf) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len_bytes()];
    buffer.copy_to(0, &mut bytes).unwrap();
    bytes
}

/// What the command line asks for.
#[derive(Default)]
struct Asked {
    list: bool,
    /// Nothing is ever ignored.
    ignored: bool,
    exact: bool,
    filters: Vec<String>,
    skips: Option<String>,
    /// What the list names may also pass.
    may: bool,
}

const USAGE: &str = "\
usage: conformance [--list] [--exact] [--skips FILE | --may-skip FILE] [NAME...]
Runs the tests whose names contain one of NAME, or are one with --exact; all of them without.
--skips FILE           exactly those tests skip (otherwise: the committed list's)
--may-skip FILE        those tests may skip and may pass
UNDERPIN_TEST_DEVICE   a device URL; its namespaces are written to
UNDERPIN_TEST_DEVICE_2 another device of the kind, for tests of two";

fn asked() -> Result<Asked, String> {
    let mut asked = Asked::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--list" => asked.list = true,
            "--ignored" => asked.ignored = true,
            "--exact" => asked.exact = true,
            "--nocapture" | "--no-capture" | "-q" | "--quiet" | "--include-ignored" => {}
            "--format" | "--color" | "--test-threads" => {
                let _ = args.next();
            }
            "--skips" => asked.skips = Some(args.next().ok_or("--skips needs a file")?),
            "--may-skip" => {
                asked.skips = Some(args.next().ok_or("--may-skip needs a file")?);
                asked.may = true;
            }
            "--help" | "-h" => return Err(USAGE.to_owned()),
            other if other.starts_with('-') => return Err(format!("{other}?\n{USAGE}")),
            name => asked.filters.push(name.to_owned()),
        }
    }
    Ok(asked)
}

pub(crate) fn main(tests: &[Test]) -> ExitCode {
    let asked = match asked() {
        Ok(asked) => asked,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let wanted = |name: &str| {
        let fits = |filter: &String| match asked.exact {
            true => name == filter,
            false => name.contains(filter.as_str()),
        };
        !asked.ignored && (asked.filters.is_empty() || asked.filters.iter().any(fits))
    };
    let chosen: Vec<&Test> = tests.iter().filter(|(name, _)| wanted(name)).collect();
    if asked.list {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let names: Vec<&str> = tests.iter().map(|&(name, _)| name).collect();
    let skips = match skips::load(asked.skips.as_deref(), &names) {
        Ok(skips) => skips,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    run(&chosen, &Device::from_environment(), &skips, asked.may)
}

fn run(tests: &[&Test], device: &Device, skips: &Skips, may: bool) -> ExitCode {
    let (mut passed, mut failed, mut skipped, mut stale) = (0, Vec::new(), 0, 0);
    for &&(name, test) in tests {
        let began = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let verdict = test(device);
            device.tidy();
            verdict
        }));
        let ms = Instant::now().since(began).as_millis();
        let listed = skips.reason(device.kind(), name);
        match (ended, listed) {
            (Ok(Verdict::Done), None) => {
                passed += 1;
                println!("ok      {name} ({ms} ms)");
            }
            (Ok(Verdict::Done), Some(_)) if may => {
                passed += 1;
                println!("ok      {name} ({ms} ms)");
            }
            (Ok(Verdict::Done), Some(_)) => {
                stale += 1;
                println!("FAILED  {name} ({ms} ms): it passes; take it off the list of skips");
                failed.push(name);
            }
            (Ok(Verdict::Lacks(what)), Some(reason)) => {
                skipped += 1;
                println!("skipped {name}: {what}; allowed: {reason}");
            }
            (Ok(Verdict::Lacks(what)), None) => {
                println!("FAILED  {name}: skipped ({what}), and not on the list of skips");
                failed.push(name);
            }
            (Err(_), _) => {
                println!("FAILED  {name} ({ms} ms)");
                failed.push(name);
            }
        }
    }
    failed.iter().for_each(|name| println!("failed: {name}"));
    let (kind, count) = (device.kind(), failed.len());
    println!(
        "conformance {kind}: {passed} passed, {count} failed, {skipped} skipped, {stale} stale"
    );
    match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
