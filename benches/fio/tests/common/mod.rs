//! Running underpin-fio and stock fio side by side.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A folder for a test's files, on a filesystem that takes O_DIRECT.
pub(crate) fn folder() -> tempfile::TempDir {
    let base =
        std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new()
        .prefix("underpin-fio-")
        .tempdir_in(base)
        .unwrap()
}

/// underpin-fio, ready for arguments.
pub(crate) fn ours() -> Command {
    Command::new(env!("CARGO_BIN_EXE_underpin-fio"))
}

/// Stock fio, ready for arguments. These tests compare with it, so it has to be
/// there.
pub(crate) fn stock() -> Command {
    let found = Command::new("fio").arg("--version").output();
    assert!(
        found.is_ok_and(|output| output.status.success()),
        "these tests need stock fio: apt-get install fio"
    );
    Command::new("fio")
}

/// Runs and returns the output with its texts.
pub(crate) fn output(command: &mut Command) -> (Output, String, String) {
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, stdout, stderr)
}

/// Runs a command that has to succeed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let (result, stdout, stderr) = output(command);
    assert!(
        result.status.success(),
        "{command:?}: {:?}\n{stdout}\n{stderr}",
        result.status
    );
    stdout
}

/// Runs a command in `folder` with `--output-format=json+` and reads its report.
pub(crate) fn report(mut command: Command, folder: &Path, arguments: &[&str]) -> Value {
    command
        .current_dir(folder)
        .arg("--output-format=json+")
        .args(arguments);
    let text = succeed(&mut command);
    // Stock fio may print notes in front of its JSON.
    let start = text.find('{').unwrap_or_else(|| panic!("no JSON: {text}"));
    serde_json::from_str(&text[start..]).unwrap()
}

/// Writes a file into a folder.
pub(crate) fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Overwrites bytes of a file in place.
pub(crate) fn damage(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, offset)
        .unwrap();
}
