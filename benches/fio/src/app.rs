//! The program from arguments to exit status.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::{self, Format, Invocation, RunRequest};
use crate::clock::Clock;
use crate::control::Control;
use crate::engine::Devices;
use crate::job::{self, EngineKind, JobSpec, Jobs};
use crate::log::{self, complain};
use crate::measure;
use crate::options::{OptionError, Origin};
use crate::plan::Plan;
use crate::report::status::StatusLine;
use crate::report::{PROGRAM, RunReport, json, normal};
use crate::run::Environment;
use crate::schedule::{self, Watching};
use crate::signals::{self, EXIT_INTERRUPTED};
use crate::sys::os;

/// An I/O or verification failed.
const EXIT_FAILED: u8 = 1;
/// The command line or a job file is wrong.
const EXIT_USAGE: u8 = 2;

/// Does what the arguments ask for.
pub(crate) fn run(arguments: Vec<OsString>) -> ExitCode {
    let arguments = match texts(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&[error]),
    };
    let request = match cli::parse(&arguments) {
        Ok(Invocation::Print(text)) => return print(&text),
        Ok(Invocation::Run(request)) => request,
        Ok(Invocation::Pins { quick }) => return pins(quick),
        Err(errors) => return usage(&errors),
    };
    let environment = |name: &str| std::env::var(name).ok();
    let jobs = match job::resolve(&request.sections, &request.only_sections, &environment) {
        Ok(jobs) => jobs,
        Err(errors) => return usage(&errors),
    };
    for warning in &jobs.warnings {
        complain!("note: {warning}");
    }
    if let Err(error) = check(&request, &jobs) {
        return usage(&[error]);
    }
    match Printer::new(&request) {
        Ok(printer) => start(&request, jobs, printer),
        Err(error) => usage(&[error]),
    }
}

/// The arguments as text. A name that is not would have to be changed to be read, and the report or
/// the data would go to a file that nobody named.
fn texts(arguments: Vec<OsString>) -> Result<Vec<String>, OptionError> {
    (1..)
        .zip(arguments)
        .map(|(index, argument)| {
            argument
                .into_string()
                .map_err(|argument| OptionError::Grammar {
                    origin: Origin::Argument { index },
                    text: format!("{argument:?} is not UTF-8; file names have to be"),
                })
        })
        .collect()
}

/// Prints what was asked for: help, version, manual. A reader that has seen enough is no failure;
/// an output that takes nothing is a mistake of the command line, as a closed one is.
fn print(text: &str) -> ExitCode {
    if let Err(error) = output_is_open() {
        return usage(&[error]);
    }
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain!("cannot write the answer: {error}");
            ExitCode::from(EXIT_USAGE)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Measures what pins cost here.
fn pins(quick: bool) -> ExitCode {
    if let Err(error) = output_is_open() {
        return usage(&[error]);
    }
    match measure::print(quick, &mut io::stdout()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            complain!("pins: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// A report that nobody can get is not worth a run, which may overwrite data.
fn output_is_open() -> Result<(), OptionError> {
    if os::output_was_closed() {
        return Err(OptionError::Usage(
            "standard output is closed; open it, or name a file with --output=FILE".to_owned(),
        ));
    }
    Ok(())
}

fn usage(errors: &[OptionError]) -> ExitCode {
    for error in errors {
        complain!("{error}");
    }
    ExitCode::from(EXIT_USAGE)
}

/// What the program's switches forbid.
fn check(request: &RunRequest, jobs: &Jobs) -> Result<(), OptionError> {
    if request.warnings_fatal && !jobs.warnings.is_empty() {
        return Err(OptionError::Usage(
            "--warnings-fatal: the notes above are errors".to_owned(),
        ));
    }
    let writes = |spec: &&JobSpec| spec.touches_media() || spec.engine == EngineKind::UnderpinFile;
    if let Some(spec) = jobs.specs.iter().find(writes)
        && request.read_only
    {
        return Err(OptionError::Usage(format!(
            "--readonly: job '{}' writes",
            spec.name
        )));
    }
    if jobs.specs.is_empty() {
        return Err(OptionError::Usage(
            "the job files have no job, only [global] sections".to_owned(),
        ));
    }
    Ok(())
}

fn start(request: &RunRequest, jobs: Jobs, mut printer: Printer) -> ExitCode {
    let global_options = jobs.global_options;
    let plan = Plan::new(jobs.specs);
    printer.announce(&plan);
    if request.parse_only {
        return ExitCode::SUCCESS;
    }
    log::install();
    let control = Arc::new(Control::default());
    if let Err(error) = signals::install(&control.stop) {
        complain!("cannot handle signals: {error}");
    }
    let environment = Environment {
        clock: Clock::start(),
        control: Arc::clone(&control),
        devices: Arc::new(Devices::default()),
        entropy: RandomState::new().build_hasher().finish(),
    };
    let shares_output = request.output.is_none() && !printer.has_text();
    printer.begin(&plan);
    let formats = printer.formats.clone();
    let mut interim = printer.clone_handle();
    let mut lines = printer.clone_handle();
    let report = schedule::execute(
        &plan,
        &environment,
        Watching {
            status: StatusLine::new(request.eta, shares_output),
            status_interval_ns: request.status_interval_ns,
            on_report: &mut |report| interim.print(report, &formats),
            tell: &mut |line| lines.line(&line),
        },
        &global_options,
    );
    let interrupted = control.stopping();
    let formats = printer.formats.clone();
    printer.print(&report, &formats);
    let troubles = environment.devices.close();
    for trouble in &troubles {
        complain!("{trouble}");
    }
    if interrupted {
        ExitCode::from(EXIT_INTERRUPTED)
    } else if report.failed() || printer.failed || !troubles.is_empty() {
        ExitCode::from(EXIT_FAILED)
    } else {
        ExitCode::SUCCESS
    }
}

/// Where reports go.
struct Printer {
    formats: Vec<Format>,
    file: Option<Arc<std::fs::File>>,
    failed: bool,
}

impl Printer {
    fn new(request: &RunRequest) -> Result<Self, OptionError> {
        let file = match &request.output {
            Some(path) if !request.parse_only => {
                let file = std::fs::File::create(path).map_err(|error| {
                    OptionError::Usage(format!("--output={}: {error}", path.display()))
                })?;
                Some(Arc::new(file))
            }
            Some(_) => None,
            None => {
                output_is_open()?;
                None
            }
        };
        Ok(Self {
            formats: request.formats.clone(),
            file,
            failed: false,
        })
    }

    fn clone_handle(&self) -> Self {
        Self {
            formats: self.formats.clone(),
            file: self.file.clone(),
            failed: false,
        }
    }

    /// Whether text may be mixed into the output without spoiling JSON.
    fn has_text(&self) -> bool {
        self.formats.contains(&Format::Normal)
    }

    fn write(&mut self, text: &str) {
        let result = match &self.file {
            Some(file) => (&**file).write_all(text.as_bytes()),
            None => {
                let mut out = io::stdout();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
        };
        if let Err(error) = result
            && !std::mem::replace(&mut self.failed, true)
        {
            complain!("cannot write the report: {error}");
        }
    }

    /// A line of text, to the report if that is text, else to standard error.
    fn line(&mut self, line: &str) {
        if self.has_text() {
            self.write(&format!("{line}\n"));
        } else {
            log::line(line);
        }
    }

    fn announce(&mut self, plan: &Plan) {
        if !self.has_text() {
            return;
        }
        for thread in plan.threads() {
            match thread.clone {
                0 => self.line(&normal::announcement(&thread.spec, thread.group)),
                1 => self.line("..."),
                _ => {}
            }
        }
    }

    fn begin(&mut self, plan: &Plan) {
        if !self.has_text() {
            return;
        }
        let count = plan.threads().count();
        self.line(PROGRAM);
        self.line(&format!(
            "Starting {count} thread{}",
            if count == 1 { "" } else { "s" }
        ));
    }

    fn print(&mut self, report: &RunReport, formats: &[Format]) {
        for format in formats {
            let text = match format {
                Format::Normal => normal::render(report),
                Format::Json => json::render(report, false),
                Format::JsonPlus => json::render(report, true),
            };
            self.write(&text);
        }
    }
}
