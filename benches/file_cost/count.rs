//! Instructions of a command on a pinned page and of one on a plain buffer: this program once more
//! under callgrind, which counts between entry and return of one function.
use crate::pinned::{COUNTED, Commands};
use std::error::Error;
use std::process::Command;

/// Instructions of each command, the device's own included.
pub(crate) fn instructions(kind: &str) -> Result<f64, Box<dyn Error>> {
    let process = std::process::id();
    let out = std::env::temp_dir().join(format!("underpin-file-cost.{process}.{kind}"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect=*marked_{kind}*"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["--count", kind])
        .output()
        .map_err(|error| format!("valgrind does not start ({error}); apt-get install valgrind"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the run under callgrind failed: {}\n{said}", output.status).into());
    }
    let text = std::fs::read_to_string(&out)?;
    std::fs::remove_file(&out)?;
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let count: u64 = totals.ok_or("callgrind wrote no totals")?.trim().parse()?;
    if count == 0 {
        return Err(format!("callgrind saw no marked_{kind}").into());
    }
    Ok(count as f64 / COUNTED as f64)
}

/// What runs under callgrind.
pub(crate) fn count(kind: &str) -> Result<(), Box<dyn Error>> {
    let mut commands = Commands::new()?;
    match kind {
        "pinned" => commands.marked_pinned(),
        "plain" => commands.marked_plain(),
        other => Err(format!("there is nothing {other:?} to count").into()),
    }
}
