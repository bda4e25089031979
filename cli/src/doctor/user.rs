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
}

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
        }
    }

    /// Whether RLIMIT_MEMLOCK does not count.
    pub(crate) const fn may_lock_any(&self) -> bool {
        self.capabilities >> CAP_IPC_LOCK & 1 == 1
    }

    /// Whether the user may read and write a node.
    pub(crate) fn may_use(&self, machine: &Machine, node: &Path) -> Result<(), NoAccess> {
        let Ok(found) = std::fs::metadata(node) else {
            return Err(NoAccess::Missing);
        };
        let mode = found.mode();
        let bits = if self.uid == Some(found.uid()) {
            mode >> 6
        } else if self.groups.contains(&found.gid()) {
            mode >> 3
        } else {
            mode
        };
        if bits & 0o6 == 0o6 || self.capabilities >> CAP_DAC_OVERRIDE & 1 == 1 {
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

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uid {
            Some(uid) => write!(f, "user {uid}"),
            None => f.write_str("this user"),
        }
    }
}
