//! The binary as a user runs it, and sysfs trees made up for it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// What a run of the binary gave.
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Its standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON: {error}\n{}\n{}", self.stdout, self.stderr))
    }

    /// Fails unless it ended with `status`.
    #[track_caller]
    pub(crate) fn ends(self, status: i32) -> Self {
        assert_eq!(
            self.status, status,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }
}

pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_underpin"));
    command
        .args(args)
        .stdin(Stdio::null())
        .env_remove("RUST_LOG");
    command
}

/// Runs the binary with these arguments.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Run {
    let Output {
        status,
        stdout,
        stderr,
    } = command(args).output().expect("the binary starts");
    Run {
        status: status.code().expect("the binary exits by itself"),
        stdout: String::from_utf8(stdout).expect("standard output is UTF-8"),
        stderr: String::from_utf8(stderr).expect("standard error is UTF-8"),
    }
}

/// Fails unless the text is the program's version: with seven digits of the commit in a checkout,
/// which is where tests run.
#[track_caller]
pub(crate) fn is_version(text: &str, program: &str) {
    let rest = text.strip_prefix(&format!("{program}{} (", env!("CARGO_PKG_VERSION")));
    let commit = rest.and_then(|rest| rest.strip_suffix(')'));
    let is_commit = |id: &str| id.len() == 7 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    assert!(commit.is_some_and(is_commit), "{text}");
}

/// A sysfs that holds what a test puts there.
pub(crate) struct Sysfs(TempDir);

impl Sysfs {
    /// One with a PCI bus without devices.
    pub(crate) fn new() -> Self {
        let sysfs = Self(TempDir::new().unwrap());
        fs::create_dir_all(sysfs.devices()).unwrap();
        sysfs
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn devices(&self) -> PathBuf {
        self.root().join("bus/pci/devices")
    }

    /// Writes a file below the root, with its directories.
    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Makes a link below the root; where it points to need not exist.
    pub(crate) fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
        self
    }

    /// A device with attributes, each ending with a newline as the kernel has it.
    pub(crate) fn device(&self, address: &str, attributes: &[(&str, &str)]) -> &Self {
        for (name, text) in attributes {
            self.write(
                &format!("bus/pci/devices/{address}/{name}"),
                format!("{text}\n"),
            );
        }
        self
    }

    /// Runs `underpin list --sysfs` on it with more arguments.
    pub(crate) fn list(&self, args: &[&str]) -> Run {
        let root = self.root().to_str().unwrap().to_owned();
        let fixed = ["list".to_owned(), "--sysfs".to_owned(), root];
        run(fixed
            .into_iter()
            .chain(args.iter().map(|&arg| arg.to_owned())))
    }
}
