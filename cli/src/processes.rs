//! Which processes have a device node open, as far as proc shows them to whoever asks.
use crate::machine::{Machine, device_number};
use crate::sysfs;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

/// The PID namespace that the kernel starts with (`PROC_PID_INIT_INO`): it holds every process.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// Whether no process is hidden by a PID namespace, as a container has one.
pub(crate) fn are_all_seen(machine: &Machine) -> bool {
    let own = fs::read_link(machine.proc("self/ns/pid"));
    own.map_or(true, |own| own.as_os_str() == FIRST_NAMESPACE)
}

/// A device node that somebody may have open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Below `/dev`: `nvme0n1`, `vfio/12`.
    pub(crate) name: String,
    /// Major and minor number, where they are known.
    pub(crate) number: Option<(u32, u32)>,
}

/// A process that has one of the nodes open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opener {
    pub(crate) pid: u32,
    /// Which of the nodes.
    pub(crate) node: usize,
}

/// Every process that has one of the nodes open, but this one; a process once for each node.
pub(crate) fn openers(machine: &Machine, nodes: &[Node]) -> Vec<Opener> {
    let mut found = Vec::new();
    // What was open in the shell that started us is open here, too: the shell is told of.
    let own = sysfs::link(&machine.proc("self"));
    for pid in machine.processes() {
        if own.as_ref().is_some_and(|own| *own == pid.to_string()) {
            continue;
        }
        // Not ours to look at, or gone: nothing to see.
        let Ok(descriptors) = fs::read_dir(machine.proc(&format!("{pid}/fd"))) else {
            continue;
        };
        for path in descriptors.flatten().map(|entry| entry.path()) {
            let Some(node) = which(nodes, &path) else {
                continue;
            };
            let opener = Opener { pid, node };
            if !found.contains(&opener) {
                found.push(opener);
            }
        }
    }
    found
}

/// Which of the nodes a descriptor is of. A container may have it under another name, so the
/// device's number counts, too.
fn which(nodes: &[Node], descriptor: &PathBuf) -> Option<usize> {
    let target = fs::read_link(descriptor).ok()?;
    let target = target.to_str()?;
    // A socket, a pipe, an ordinary file: a look at one on a server that does not answer waits.
    let name = target.strip_prefix("/dev/")?;
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    if let Some(node) = nodes.iter().position(|node| node.name == name) {
        return Some(node);
    }
    let metadata = fs::metadata(descriptor).ok()?;
    if !metadata.file_type().is_block_device() {
        return None;
    }
    let number = device_number(metadata.rdev());
    nodes.iter().position(|node| node.number == Some(number))
}
