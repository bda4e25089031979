//! The driver over vfio-user: the emulator in a process of its own, as `underpin serve` has it,
//! against the bare pair of the same run. This program started once more is that process.
use crate::cores::Cores;
use crate::inline::{null_config, read_so_far};
use crate::ledger::Ledger;
use crate::ours::OurHost;
use crate::rounds::{Spread, interleave, paired};
use crate::two_cores::{SLICE, START_UP, Slice, bare_slice, drain, pump, rounds};
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use underpin::dma::DmaSpace;
use underpin::dma::rt::{Instant, thread};
use underpin::emulator::serve::{ServeOptions, Served};
use underpin::{Controller, ControllerOptions};

/// What one depth gives.
#[derive(Debug)]
pub(crate) struct VfioUser {
    pub(crate) ours_iops: Spread,
    pub(crate) bare_iops: Spread,
    /// Of the rounds' quotients.
    pub(crate) ratio: Spread,
    /// Of reads one by one: what a submission with its doorbell takes, and what the poll takes that
    /// finds the completion; ns, a look at the clock included.
    pub(crate) submit_ns: Spread,
    pub(crate) complete_ns: Spread,
    /// Of our arm: doorbell messages sent by the driver per thousand reads.
    pub(crate) messages_per_1000: f64,
}

/// The server's side, in its own process: serves at `path`, and for every line that it is sent
/// says what the device has read so far. Ends with its input.
pub(crate) fn serve(path: &Path) -> Result<(), Box<dyn Error>> {
    let (stop, stopped) = UnixStream::pair()?;
    let served = Served::bind(path, null_config()?, ServeOptions::default())?;
    let served = Arc::new(served);
    let server = thread::spawn("server", {
        let served = Arc::clone(&served);
        move || served.run(&stopped).map_err(|error| error.to_string())
    })?;
    println!("listening");
    for line in std::io::stdin().lines() {
        line?;
        // At the latest when it goes to sleep, the device has published what it has read.
        thread::sleep(Duration::from_millis(20));
        let Ledger { commands, sum } = read_so_far(served.emulator());
        println!("{commands} {sum}");
    }
    drop(stop);
    server.join().map_err(|_| "the server panicked")??;
    Ok(())
}

/// The server as its client has it.
struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    path: PathBuf,
}

impl Server {
    fn start() -> Result<Self, Box<dyn Error>> {
        let path = std::env::temp_dir().join(format!("driver_cost.{}.sock", std::process::id()));
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("no output of the server")?;
        let mut server = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
            path,
        };
        match server.line()?.as_str() {
            "listening" => Ok(server),
            other => Err(format!("the server said {other:?}").into()),
        }
    }

    fn line(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// What the device has read.
    fn read_so_far(&mut self) -> Result<Ledger, Box<dyn Error>> {
        let stdin = self.stdin.as_mut().ok_or("the server was ended")?;
        writeln!(stdin)?;
        let line = self.line()?;
        let (commands, sum) = line.split_once(' ').ok_or("the server has gone")?;
        Ok(Ledger {
            commands: commands.parse()?,
            sum: sum.parse()?,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input is its end; its CPU time counts as ours once it was waited for.
        self.stdin = None;
        let _ = self.child.wait();
    }
}

fn slice(host: &mut OurHost, depth: usize) -> Result<Slice, String> {
    let host = std::cell::RefCell::new(host);
    let submit = |count| {
        let mut host = host.borrow_mut();
        host.prepare(count);
        host.submit(count);
    };
    let poll = || host.borrow_mut().poll();
    submit(depth);
    pump(START_UP, submit, poll)?;
    let slice = pump(SLICE, submit, poll)?;
    drain(depth, poll)?;
    Ok(slice)
}

/// So many reads, one by one.
const ONE_BY_ONE: usize = 1 << 16;

/// What the calls of a read take by themselves.
fn calls(host: &mut OurHost) -> (Spread, Spread) {
    let (mut submits, mut completes) = (Vec::new(), Vec::new());
    for _ in 0..ONE_BY_ONE {
        host.prepare(1);
        let began = Instant::now();
        host.submit(1);
        let mut looked = Instant::now();
        submits.push(looked.since(began).as_nanos() as f64);
        // A failed host never completes anything; its trouble is told by `check`.
        for _ in 0..1 << 24 {
            let done = host.poll();
            let now = Instant::now();
            if done > 0 {
                completes.push(now.since(looked).as_nanos() as f64);
                break;
            }
            looked = now;
        }
    }
    (Spread::of(submits), Spread::of(completes))
}

/// Measures at `depth`.
pub(crate) fn vfio_user(depth: u16, cores: Option<Cores>) -> Result<VfioUser, Box<dyn Error>> {
    let mut server = Cores::start_device(cores, Server::start)?;
    let space = DmaSpace::new();
    let url = format!("vfio-user:{}", server.path.display());
    let controller = Controller::open(&url, &space, ControllerOptions::default())?;
    let mut host = OurHost::new(&controller, &space, depth)?;
    let before = server.read_so_far()?;
    let count = usize::from(depth);
    let bare_space = DmaSpace::new();
    let [ours, bare] = interleave(
        rounds(depth),
        [
            &mut || slice(&mut host, count).map_err(Into::into),
            &mut || bare_slice(&bare_space, count, cores),
        ],
    )?;
    let (submit_ns, complete_ns) = calls(&mut host);
    host.check(server.read_so_far()?.since(before))?;
    let stats = host.stats();
    let iops = |slices: &[Slice]| Spread::of(slices.iter().map(|slice| slice.iops()));
    let quotient = |ours: Slice, bare: Slice| ours.iops() / bare.iops();
    Ok(VfioUser {
        ours_iops: iops(&ours),
        bare_iops: iops(&bare),
        ratio: Spread::of(paired(&ours, &bare, quotient)),
        submit_ns,
        complete_ns,
        messages_per_1000: stats.register_writes as f64 / stats.commands as f64 * 1000.0,
    })
}
