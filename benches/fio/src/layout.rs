//! Files before and after the run: made long enough beforehand, filled if they
//! will be read, removed afterwards if asked.

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};

use crate::control::Control;
use crate::job::JobSpec;
use crate::options::units::Amount;
use crate::random;
use crate::sys::os;

/// Bytes written at a time when a file is filled.
const FILL_BYTES: usize = 1 << 20;

/// A file that could not be prepared.
#[derive(Debug, thiserror::Error)]
#[error("job '{job}': cannot lay out '{path}': {source}")]
pub(crate) struct LayoutError {
    pub(crate) job: String,
    pub(crate) path: String,
    pub(crate) source: io::Error,
}

impl LayoutError {
    /// The message for a place that names the job already.
    pub(crate) fn without_job(&self) -> String {
        format!("cannot lay out '{}': {}", self.path, self.source)
    }
}

/// Makes the files of a clone as long as the job needs them. `tell` gets a line
/// for each job that has to wait for that. Ends early, with the files as far as they
/// are, when the run is to end.
pub(crate) fn lay_out(
    spec: &JobSpec,
    clone: u32,
    control: &Control,
    tell: &mut dyn FnMut(String),
) -> Result<(), LayoutError> {
    // A job that only checks must find the file as somebody else left it.
    let checks_only = spec.checks_reads() || (spec.verify && spec.verify_only);
    if spec.engine.takes_device() || checks_only {
        return Ok(());
    }
    let targets = spec.targets(clone);
    let mut told = false;
    for path in &targets {
        if control.stopping() {
            break;
        }
        let failed = |source| LayoutError {
            job: spec.name.clone(),
            path: path.clone(),
            source,
        };
        let existing = match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => continue,
            Ok(metadata) => Some(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let needed = needed_bytes(spec, clone, targets.len() as u64, existing).map_err(failed)?;
        let have = existing.unwrap_or(0);
        if existing.is_some() && have >= needed {
            continue;
        }
        let fill = spec.pattern.reads();
        if fill && !std::mem::replace(&mut told, true) {
            tell(format!(
                "{}: Laying out IO file{} ({} file{} / {}MiB)",
                spec.name,
                if targets.len() > 1 { "s" } else { "" },
                targets.len(),
                if targets.len() > 1 { "s" } else { "" },
                needed >> 20
            ));
        }
        extend(path, have, needed, fill, control).map_err(failed)?;
    }
    Ok(())
}

/// Length that a file must have; an error if nothing says how long.
fn needed_bytes(spec: &JobSpec, clone: u32, files: u64, existing: Option<u64>) -> io::Result<u64> {
    let whole = existing.unwrap_or(0);
    let step = spec
        .offset_increment
        .of(whole)
        .saturating_mul(u64::from(clone));
    let start = spec.offset.of(whole).saturating_add(step);
    let region = match spec.size {
        Some(Amount::Bytes(bytes)) => Some(start.saturating_add(bytes / files.max(1))),
        _ => None,
    };
    let file = match spec.filesize {
        Some(Amount::Bytes(bytes)) => Some(bytes),
        _ => None,
    };
    match region.max(file) {
        Some(bytes) => Ok(bytes),
        None if whole > 0 => Ok(whole),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it does not exist or is empty, so the job needs size=BYTES",
        )),
    }
}

fn extend(path: &str, have: u64, needed: u64, fill: bool, control: &Control) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    if fill {
        return write_data(&mut file, have, needed, control);
    }
    if !os::preallocate(&file, needed)? {
        file.set_len(needed)?;
    }
    Ok(())
}

fn write_data(file: &mut File, from: u64, to: u64, control: &Control) -> io::Result<()> {
    let mut chunk = vec![0; FILL_BYTES];
    random::fill(&mut chunk, to);
    file.seek(SeekFrom::Start(from))?;
    let mut left = to - from;
    while left > 0 && !control.stopping() {
        let part = usize::try_from(left).unwrap_or(FILL_BYTES).min(FILL_BYTES);
        file.write_all(&chunk[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// Removes the regular files of a clone, as far as they exist.
pub(crate) fn remove(spec: &JobSpec, clone: u32) {
    if spec.engine.takes_device() {
        return;
    }
    for path in spec.targets(clone) {
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            let _ = std::fs::remove_file(&path);
        }
    }
}
