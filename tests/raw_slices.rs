//! R23: memory that a device may write is never a slice. Lists every place of the workspace that
//! makes one of a raw pointer; a new one is added here with its reason, or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::path::{Path, PathBuf};

/// File, how many there are in it, and why none is of memory that a device may reach.
const KNOWN: &[(&str, usize, &str)] = &[(
    "benches/fio/src/sys/memory.rs",
    2,
    "buffers of the engines for host files: the process's own memory, in no IOMMU",
)];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// What is looked for, in two parts: else this file were in its own list.
fn needle() -> String {
    ["from_raw", "_parts"].concat()
}

#[test]
fn no_device_memory_is_a_slice() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(root, &mut files);
    assert!(files.len() > 100, "the workspace is here");
    let mut seen: Vec<(String, usize)> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let count = code.filter(|line| line.contains(&needle())).count();
        if count > 0 {
            let name = file
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            println!("{count} in {name}");
            seen.push((name, count));
        }
    }
    seen.sort();
    let known: Vec<_> = KNOWN
        .iter()
        .map(|(name, count, _)| ((*name).to_owned(), *count))
        .collect();
    assert_eq!(seen, known);
}
