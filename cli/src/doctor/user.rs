//! Who asks, and what that user may open, as proc tells it.
use crate::machine::Machine;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Capabilities by their bits (capabilities(7)).
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_IPC_LOCK: u32 = 14;

/// The user that this process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    /// Effective; `None` if proc does not tell.
    pub(crate) uid: Option<u32>,
    groups: Vec<u32>,
    capabilities: u64,
    /// In a user namespace of its own, as in a rootless container: capabilities count there for
    /// what belongs to the namespace, which neither VFIO nor RLIMIT_MEMLOCK does.
    is_mapped: bool,
}

/// The user namespace that the kernel starts with (`PROC_USER_INIT_INO`), and its map.
const FIRST_NAMESPACE: &str = "user:[4026531837]";
const FIRST_MAP: [&str; 3] = ["0", "0", "4294967295"];
/// Whom an owner is shown as that the namespace has no number for (proc(5), `overflowuid`).
const NOBODY: u32 = 65534;

/// Why a node cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoAccess {
    /// There is no such node.
    Missing,
    /// Its owner, group and mode, when these are known, do not let the user.
    Denied(String),
}

impl User {
    /// From `/proc/self/status`.
    pub(crate) fn read(machine: &Machine) -> Self {
        let text = machine.proc_text("self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().split_whitespace()
        };
        // Real, effective, saved, of the filesystem.
        let effective = |name| field(name).nth(1).and_then(|id| id.parse().ok());
        let mut groups: Vec<u32> = field("Groups:").filter_map(|id| id.parse().ok()).collect();
        groups.extend(effective("Gid:"));
        let capabilities = field("CapEff:").next();
        let capabilities = capabilities.and_then(|bits| u64::from_str_radix(bits, 16).ok());
        Self {
            uid: effective("Uid:"),
            groups,
            capabilities: capabilities.unwrap_or_default(),
            is_mapped: is_mapped(machine),
        }
    }

    /// Whether RLIMIT_MEMLOCK does not count.
    pub(crate) const fn may_lock_any(&self) -> bool {
        self.has(CAP_IPC_LOCK) && !self.is_mapped
    }

    /// Whether it looks as if RLIMIT_MEMLOCK did not count: the kernel asks for the capability in
    /// its first user namespace.
    pub(crate) const fn seems_to_lock_any(&self) -> bool {
        self.has(CAP_IPC_LOCK) && self.is_mapped
    }

    const fn has(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }

    /// Whether the number of an owner is that owner's alone.
    const fn is_somebody(&self, id: u32) -> bool {
        !(self.is_mapped && id == NOBODY)
    }

    /// Whether the user may read and write a node.
    pub(crate) fn may_use(&self, machine: &Machine, node: &Path) -> Result<(), NoAccess> {
        let Ok(found) = std::fs::metadata(node) else {
            return Err(NoAccess::Missing);
        };
        let mode = found.mode();
        let (knows_user, knows_group) =
            (self.is_somebody(found.uid()), self.is_somebody(found.gid()));
        let bits = if self.uid == Some(found.uid()) && knows_user {
            mode >> 6
        } else if self.groups.contains(&found.gid()) && knows_group {
            mode >> 3
        } else {
            mode
        };
        // In a user namespace it overrides for owners that have a number there.
        let overrides = self.has(CAP_DAC_OVERRIDE) && knows_user && knows_group;
        if bits & 0o6 == 0o6 || overrides {
            return Ok(());
        }
        // An access control list may say more than the mode.
        let both = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
        if machine.is_real() && rustix::fs::access(node, both).is_ok() {
            return Ok(());
        }
        Err(NoAccess::Denied(format!(
            "{}:{}, mode {:04o}",
            found.uid(),
            found.gid(),
            mode & 0o7777
        )))
    }

    /// As a command line takes it.
    pub(crate) fn owner(&self) -> String {
        self.uid
            .map_or_else(|| "UID".to_owned(), |uid| uid.to_string())
    }
}

/// Whether this process is in another user namespace than the first.
fn is_mapped(machine: &Machine) -> bool {
    let own = std::fs::read_link(machine.proc("self/ns/user"));
    if own.is_ok_and(|own| own.as_os_str() != FIRST_NAMESPACE) {
        return true;
    }
    let Some(map) = machine.proc_text("self/uid_map") else {
        // A kernel without user namespaces.
        return false;
    };
    !map.split_whitespace().eq(FIRST_MAP)
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uid {
            Some(uid) => write!(f, "user {uid}"),
            None => f.write_str("this user"),
        }
    }
}
