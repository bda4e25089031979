//! Whether Linux would pin memory for a device for as long as the device wishes, told beforehand
//! and in words: a refused pin says only `EFAULT`.
//!
//! The rule, since Linux 6.5 (`FOLL_LONGTERM` in its mm/gup.c): never through a shared writable
//! mapping of a file whose filesystem writes pages back by itself, because writeback does not ask
//! whether a page is pinned, and cleans it while the device goes on writing. Memory whose pages
//! are nowhere else may be pinned: anonymous memory, memfds, tmpfs, ramfs, hugetlbfs. So may a
//! *private* writable mapping of any file: a pin for writing first gives the process copies of
//! the pages, so the file is never touched. What is not mapped writable cannot be pinned for a
//! device that writes.
use crate::{PageSize, sys};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

/// Why a verdict is no "yes".
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It cannot be pinned, and why.
    Why(String),
    /// The verdict itself could not be had: which step failed.
    Unknown(&'static str, io::Error),
}

const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
const HUGETLBFS: u64 = 0x9584_58f6;

/// Filesystems by `statfs` magic, for messages: those that people have.
const NAMES: [(u64, &str); 15] = [
    (0xef53, "ext4 (or ext2, ext3)"),
    (0x5846_5342, "XFS"),
    (0x9123_683e, "btrfs"),
    (0xf2f5_2010, "F2FS"),
    (0xca45_1a4e, "bcachefs"),
    (0x2fc1_2fc1, "ZFS"),
    (0x794c_7630, "overlayfs"),
    (0x6573_5546, "FUSE"),
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x4d44, "FAT"),
    (0x2011_bab0, "exFAT"),
    (0x5345_434d, "secretmem"),
];

/// What to do instead; ends every refusal of a file.
const INSTEAD: &str = "use a memfd, a file on tmpfs or hugetlbfs, or anonymous memory";

fn has_its_own_writeback(subject: &str, file_system: &str) -> String {
    format!(
        "{subject} is shared with a file on {file_system}, whose writeback never asks whether a \
         page is pinned for DMA: it would clean and write pages that a device is still writing, \
         so Linux (since 6.5) refuses such pins with EFAULT; {INSTEAD}"
    )
}

/// Whether a shared writable mapping of `file` could be pinned; its page size if so.
pub(crate) fn file(file: &File) -> Result<u64, Refusal> {
    let metadata = file
        .metadata()
        .map_err(|error| Refusal::Unknown("fstat", error))?;
    if !metadata.is_file() {
        return Err(Refusal::Why(format!(
            "it is no regular file (mode {:#o}), and only memory can be pinned; {INSTEAD}",
            metadata.mode()
        )));
    }
    let (magic, block_bytes) =
        sys::file_system(file).map_err(|error| Refusal::Unknown("fstatfs", error))?;
    match magic {
        TMPFS | RAMFS => Ok(PageSize::Small.bytes()),
        HUGETLBFS => Ok(block_bytes),
        _ => {
            let known = NAMES.iter().find(|(known, _)| *known == magic);
            let file_system = known.map_or_else(
                || format!("a filesystem of type {magic:#x}"),
                |(_, name)| (*name).to_owned(),
            );
            Err(Refusal::Why(has_its_own_writeback(
                "its mapping",
                &file_system,
            )))
        }
    }
}

/// Whether the mapped range `address..address + len_bytes` of this process could be pinned.
pub(crate) fn range(address: u64, len_bytes: u64) -> Result<(), Refusal> {
    let unknown = |error| Refusal::Unknown("reading /proc/self/maps", error);
    // The kernel writes paths as they are, in any encoding.
    let maps = fs::read("/proc/self/maps").map_err(unknown)?;
    let maps = String::from_utf8_lossy(&maps);
    let end = address.saturating_add(len_bytes);
    let mut devices = None;
    let mut at = address;
    for line in maps.lines() {
        let area = Area::parse(line).ok_or_else(|| {
            unknown(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("not understood: {line:?}"),
            ))
        })?;
        if area.end <= at {
            continue;
        }
        if area.start > at {
            break;
        }
        area.verdict(&mut devices)?;
        at = area.end;
        if at >= end {
            return Ok(());
        }
    }
    Err(Refusal::Why(format!(
        "nothing is mapped at {at:#x}; map the whole range readable and writable first"
    )))
}

/// One line of /proc/self/maps.
#[derive(Debug, PartialEq, Eq)]
struct Area<'a> {
    start: u64,
    end: u64,
    permissions: &'a str,
    /// Major and minor number of the file's filesystem; zeroes without a file.
    device: (u32, u32),
    path: &'a str,
}

impl<'a> Area<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (permissions, rest) = rest.split_once(' ')?;
        let (_offset, rest) = rest.split_once(' ')?;
        let (device, rest) = rest.split_once(' ')?;
        let (_inode, path) = rest.split_once(' ').unwrap_or((rest, ""));
        let (start, end) = range.split_once('-')?;
        let (major, minor) = device.split_once(':')?;
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            permissions: (permissions.len() >= 4).then_some(permissions)?,
            device: (
                u32::from_str_radix(major, 16).ok()?,
                u32::from_str_radix(minor, 16).ok()?,
            ),
            path: path.trim_start(),
        })
    }

    fn verdict(&self, devices: &mut Option<Devices>) -> Result<(), Refusal> {
        let Self {
            start,
            end,
            permissions,
            path,
            ..
        } = self;
        let path = if path.is_empty() { "anonymous" } else { path };
        let subject = format!("{start:#x}-{end:#x} ({permissions} {path})");
        if !permissions.starts_with("rw") {
            return Err(Refusal::Why(format!(
                "{subject} is not mapped readable and writable, and devices in this space may do \
                 both; map it with PROT_READ | PROT_WRITE"
            )));
        }
        if !permissions.ends_with('s') {
            return Ok(());
        }
        let devices = match devices {
            Some(devices) => devices,
            None => devices.insert(Devices::read()?),
        };
        match devices.find(self.device) {
            Some(name) if Devices::pinnable(name) => Ok(()),
            Some(name) => Err(Refusal::Why(has_its_own_writeback(&subject, name))),
            None => {
                let (major, minor) = self.device;
                Err(Refusal::Why(format!(
                    "{subject} is shared with a file on a filesystem (device {major}:{minor}) \
                     that this process cannot see, so nothing says that its pages may be pinned; \
                     give the file itself to DmaSpace::register_file, or {INSTEAD}"
                )))
            }
        }
    }
}

/// Which kind of filesystem has which device number. Paths would not do: a file may be deleted,
/// lie in another mount namespace, or be named like a memfd.
#[derive(Debug)]
struct Devices(Vec<((u32, u32), String)>);

impl Devices {
    fn read() -> Result<Self, Refusal> {
        let mut devices = Vec::new();
        // Memfds and shared anonymous memory live on mounts of the kernel's own, which no table
        // lists: an empty memfd tells their numbers. A kernel without 2 MiB pages has no such.
        for pages in [PageSize::Small, PageSize::Huge2M] {
            let probe = sys::memfd("probe", pages).and_then(|probe| probe.metadata());
            match probe {
                Ok(probe) => {
                    let number = (libc::major(probe.dev()), libc::minor(probe.dev()));
                    devices.push((number, "tmpfs".to_owned()));
                }
                Err(error) if pages == PageSize::Small => {
                    return Err(Refusal::Unknown("memfd_create", error));
                }
                Err(_) => {}
            }
        }
        let mounts = fs::read("/proc/self/mountinfo")
            .map_err(|error| Refusal::Unknown("reading /proc/self/mountinfo", error))?;
        let mounts = String::from_utf8_lossy(&mounts);
        devices.extend(mounts.lines().filter_map(mount));
        Ok(Self(devices))
    }

    fn find(&self, device: (u32, u32)) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| *known == device);
        found.map(|(_, name)| name.as_str())
    }

    fn pinnable(name: &str) -> bool {
        matches!(name, "tmpfs" | "ramfs" | "hugetlbfs")
    }
}

/// Device number and filesystem type of a line of /proc/self/mountinfo.
fn mount(line: &str) -> Option<((u32, u32), String)> {
    let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
    let (_, rest) = line.split_once(" - ")?;
    let name = rest.split(' ').next()?;
    Some(((major.parse().ok()?, minor.parse().ok()?), name.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Area, mount};

    /// Lines as kernels write them, with and without a path, spaces in it, long device numbers.
    #[test]
    fn lines_are_understood() {
        let area = Area::parse(
            "7f0a2c000000-7f0a2c021000 rw-s 00000000 103:02 42                         /a b (deleted)",
        );
        let area = area.unwrap();
        assert_eq!((area.start, area.end), (0x7f0a_2c00_0000, 0x7f0a_2c02_1000));
        assert_eq!((area.permissions, area.device), ("rw-s", (0x103, 2)));
        assert_eq!(area.path, "/a b (deleted)");
        let bare = Area::parse("1000-2000 rw-p 00000000 00:00 0 ").unwrap();
        assert_eq!((bare.path, bare.device), ("", (0, 0)));
        assert_eq!(
            Area::parse("1000-2000 rw-p 00000000 00:00 0").unwrap(),
            bare
        );
        for broken in ["", "1000-2000", "x-y rw-p 0 00:00 0 ", "1-2 rw 0 0:0 0 "] {
            assert_eq!(Area::parse(broken), None, "{broken:?}");
        }
        assert_eq!(
            mount("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"),
            Some(((98, 0), "ext3".to_owned()))
        );
        assert_eq!(mount("36 35"), None);
    }
}
