//! A lock on the file behind a namespace, between emulators of any process: one writes, or many read.
//! It goes with the open file, so that a process that is killed leaves none behind.
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

/// What came of it.
#[derive(Debug)]
pub(crate) enum Locked {
    Yes,
    /// Somebody else has it.
    Held {
        /// Its process's number and name, where the system tells.
        holder: Option<String>,
    },
    /// The filesystem knows no such locks.
    Unsupported(io::Error),
}

/// Locks the file for reading, or for writing too; does not wait.
pub(crate) fn lock(file: &File, shared: bool) -> io::Result<Locked> {
    let operation = if shared {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    match flock(file, operation) {
        Ok(()) => Ok(Locked::Yes),
        Err(Errno::WOULDBLOCK) => Ok(Locked::Held {
            holder: holder(file),
        }),
        Err(error @ (Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK)) => {
            Ok(Locked::Unsupported(error.into()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Who holds a lock on the file, as `/proc/locks` has it.
fn holder(file: &File) -> Option<String> {
    let metadata = file.metadata().ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let process = holder_in(&locks, metadata.dev(), metadata.ino())?;
    let name = std::fs::read_to_string(format!("/proc/{process}/comm"));
    Some(match name {
        Ok(name) => format!("process {process} ({})", name.trim_end().escape_default()),
        Err(_) => format!("process {process}"),
    })
}

/// The process in the line of a file's lock: `1: FLOCK  ADVISORY  WRITE 1234 08:02:5678 0 EOF`.
fn holder_in(locks: &str, dev: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_flock = words.next()? == "FLOCK";
        let process: u32 = words.nth(2)?.parse().ok()?;
        (is_flock && words.next()? == place).then_some(process)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The holder is found by device and inode, among locks of other kinds and other files; a
    /// lock that waits (`->`) is nobody's.
    #[test]
    fn the_holder_is_read_from_the_list_of_locks() {
        let dev = rustix::fs::makedev(8, 18);
        let locks = "1: POSIX  ADVISORY  WRITE 11 08:12:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 08:12:76 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 08:12:77 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 14 08:12:78 0 EOF\n\
                     4: nonsense\n";
        assert_eq!(holder_in(locks, dev, 77), Some(13));
        assert_eq!(holder_in(locks, dev, 78), None);
        assert_eq!(holder_in(locks, dev, 79), None);
    }
}
