//! Tells the compiler the version that `--version` prints: with the commit, in a checkout of the
//! project; without, anywhere else. Reads a few files of `.git`; runs nothing, asks no network.
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let version = env("CARGO_PKG_VERSION");
    let commit = checkout(Path::new(&env("CARGO_MANIFEST_DIR"))).and_then(|git| commit(&git));
    let version = match commit {
        Some(commit) => format!("{version} ({commit})"),
        None => version,
    };
    println!("cargo::rustc-env=UNDERPIN_VERSION={version}");
    println!("cargo::rerun-if-changed=build.rs");
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// The `.git` of the project. A packaged crate may lie in somebody else's repository, whose commits
/// say nothing of it.
fn checkout(manifest: &Path) -> Option<PathBuf> {
    let root = manifest.ancestors().find(|at| at.join(".git").exists())?;
    if !root.join("driver/spec/Cargo.toml").exists() || manifest.join("Cargo.toml.orig").exists() {
        return None;
    }
    let git = root.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    // A worktree: the file says where its own part of the repository is.
    let text = fs::read_to_string(&git).ok()?;
    Some(root.join(text.trim().strip_prefix("gitdir: ")?))
}

/// The first seven digits of the commit that HEAD names.
fn commit(git: &Path) -> Option<String> {
    let head = read(&git.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref: ") else {
        return short(&head);
    };
    // In a worktree branches are kept with the repository that it belongs to.
    let common = read(&git.join("commondir")).map_or_else(|| git.to_owned(), |at| git.join(at));
    if let Some(id) = read(&common.join(name)) {
        return short(&id);
    }
    let packed = read(&common.join("packed-refs"))?;
    let line = packed.lines().find(|line| line.ends_with(name))?;
    short(line)
}

/// The file's text; built again when it changes.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    println!("cargo::rerun-if-changed={}", path.display());
    Some(text.trim().to_owned())
}

fn short(id: &str) -> Option<String> {
    let id = id.get(..7)?;
    id.bytes()
        .all(|digit| digit.is_ascii_hexdigit())
        .then(|| id.to_owned())
}
