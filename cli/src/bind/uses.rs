//! Who uses a function's block devices: mounts, swap, device-mapper and RAID, whoever claimed or
//! opened one. To take the function away would take their data away.
use super::unseen::{self, Unseen};
use crate::machine::{Hands, Machine, device_number};
use crate::processes::{self, Node, Opener};
use crate::sysfs::{self, BlockDevice, PciController};
use serde::Serialize;
use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// One use of one block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Use {
    /// `nvme0n1p1`.
    pub(crate) device: String,
    pub(crate) kind: Kind,
    /// Who or what has it, in words that follow the device's name.
    pub(crate) said: String,
}

/// How a block device is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// By a filesystem.
    Mounted,
    Swap,
    /// By device-mapper, RAID, bcache: the kernel's `holders`.
    Holder,
    /// Opened with `O_EXCL`, by a process or within the kernel.
    Exclusive,
    /// Opened by a process.
    Open,
}

impl Use {
    /// What goes with it when the function is taken away.
    pub(crate) const fn lost(&self) -> &'static str {
        match self.kind {
            Kind::Mounted => {
                "what has not been written back is lost, and its files give I/O errors"
            }
            Kind::Swap => "programs whose memory lies there are killed",
            Kind::Holder => "what has not been written through it is lost, and it loses this disk",
            Kind::Exclusive | Kind::Open => "its holder gets I/O errors",
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.device, self.said)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) uses: Vec<Use>,
    /// The devices that nobody uses, claimed: as long as these are kept nobody can begin to.
    pub(crate) claims: Vec<File>,
    /// The devices of which it cannot be seen whether somebody uses them.
    pub(crate) unseen: Vec<Unseen>,
}

/// A block device or a partition of one.
pub(super) struct Part {
    pub(super) node: Node,
    pub(super) path: PathBuf,
    /// Index of the whole device among the parts.
    whole: usize,
}

/// Looks for users of every block device of the function.
pub(crate) fn of(machine: &Machine, hands: &mut dyn Hands, function: &PciController) -> Found {
    let parts = parts(&function.block_devices);
    let mut found = Found::default();
    if parts.is_empty() {
        return found;
    }
    let mounts = Mounts::read(machine);
    let swaps = swaps(machine);
    for part in &parts {
        let mut add = |kind, said: String| {
            found.uses.push(Use {
                device: part.node.name.clone(),
                kind,
                said,
            });
        };
        for place in mounts.of(machine, &part.node) {
            add(Kind::Mounted, format!("is mounted at {place}"));
        }
        for filesystem in btrfs(machine, &part.node.name) {
            add(
                Kind::Mounted,
                format!("belongs to the mounted btrfs {filesystem}"),
            );
        }
        if swaps.iter().any(|swap| is_swap(machine, swap, &part.node)) {
            add(Kind::Swap, "is swapped on".to_owned());
        }
        for holder in sysfs::children(&part.path.join("holders"), |_| true) {
            add(Kind::Holder, held_by(machine, &mounts, &holder));
        }
    }
    let mut nodes: Vec<Node> = parts.iter().map(|part| part.node.clone()).collect();
    nodes.extend(wholes(&parts).filter_map(|whole| generic(&parts.get(whole)?.node)));
    let openers = processes::openers(machine, &nodes);
    for whole in wholes(&parts) {
        let members = || parts.iter().filter(|part| part.whole == whole);
        let hidden = members().filter_map(|part| unseen::node(machine, hands, part).err());
        let hidden: Vec<Unseen> = hidden.collect();
        if !hidden.is_empty() {
            // What stands in its place must not be claimed in its stead.
            found.unseen.extend(hidden);
            continue;
        }
        match claim(machine, hands, &parts, whole) {
            Ok(Claim::Ours(claim)) => found.claims.extend(claim),
            Ok(Claim::Busy(busy)) => {
                let told = exclusive(machine, &parts, &busy, &openers, &found.uses);
                found.uses.extend(told);
            }
            Err(unseen) => found.unseen.push(unseen),
        }
    }
    for Opener { pid, node } in openers {
        let Some(node) = nodes.get(node) else {
            continue;
        };
        let is_told = |told: &Use| told.device == node.name && told.kind == Kind::Exclusive;
        if !found.uses.iter().any(is_told) {
            found.uses.push(Use {
                device: node.name.clone(),
                kind: Kind::Open,
                said: format!("is open in {}", machine.process(pid)),
            });
        }
    }
    found
}

/// The character device of the same namespace (`ng0n1`), through which commands are sent by io_uring
/// or ioctl, past the block device and whoever has claimed it.
fn generic(block: &Node) -> Option<Node> {
    let rest = block.name.strip_prefix("nvme")?;
    Some(Node {
        name: format!("ng{rest}"),
        number: None,
    })
}

/// The parts that are whole devices.
fn wholes(parts: &[Part]) -> impl Iterator<Item = usize> {
    let whole = |(index, part): (usize, &Part)| (part.whole == index).then_some(index);
    parts.iter().enumerate().filter_map(whole)
}

/// How a device was claimed.
enum Claim {
    /// Nobody else has claimed it or a part of it; `None`: it has gone meanwhile.
    Ours(Option<File>),
    /// Somebody has claimed these: the device first, then partitions of it.
    Busy(Vec<usize>),
}

/// Claims a whole device. To claim it is to claim every part of it, and fails while somebody has
/// one; which ones that are is asked only then, as our own claim would be in the way.
fn claim(
    machine: &Machine,
    hands: &mut dyn Hands,
    parts: &[Part],
    whole: usize,
) -> Result<Claim, Unseen> {
    let mut busy = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        if part.whole != whole {
            continue;
        }
        match hands.claim(&machine.dev(&part.node.name)) {
            Ok(claim) if index == whole => return Ok(Claim::Ours(Some(claim))),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => busy.push(index),
            // Gone while it was looked at: nobody's.
            Err(_) if !part.path.exists() => {}
            Err(error) => return Err(Unseen::claim(machine, part, &error)),
        }
    }
    if busy.is_empty() {
        return Ok(Claim::Ours(None));
    }
    Ok(Claim::Busy(busy))
}

/// What is claimed and not explained by a use that is known already.
fn exclusive(
    machine: &Machine,
    parts: &[Part],
    busy: &[usize],
    openers: &[Opener],
    known: &[Use],
) -> Vec<Use> {
    let name_of = |index: usize| parts.get(index).map(|part| part.node.name.as_str());
    let is_known = |index: usize| {
        known
            .iter()
            .any(|used| Some(used.device.as_str()) == name_of(index))
    };
    let Some(whole) = busy
        .first()
        .and_then(|&index| Some(parts.get(index)?.whole))
    else {
        return Vec::new();
    };
    let is_open = |index: usize| openers.iter().any(|opener| opener.node == index);
    let partitions: Vec<usize> = busy
        .iter()
        .copied()
        .filter(|&index| index != whole)
        .collect();
    let told: Vec<usize> = if is_known(whole) {
        Vec::new()
    } else if partitions.is_empty() || (is_open(whole) && !partitions.iter().any(|&at| is_open(at)))
    {
        // Its partitions are taken with it.
        vec![whole]
    } else {
        partitions
            .into_iter()
            .filter(|&index| !is_known(index))
            .collect()
    };
    let told = told.into_iter().filter_map(|index| {
        let mut names: Vec<String> = Vec::new();
        let holders = openers.iter().filter(|opener| opener.node == index);
        for name in holders.map(|opener| machine.process(opener.pid)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let holder = match names.is_empty() {
            true => UNSEEN.to_owned(),
            false => names.join(", "),
        };
        Some(Use {
            device: name_of(index)?.to_owned(),
            kind: Kind::Exclusive,
            said: format!("is held exclusively (O_EXCL) by {holder}"),
        })
    });
    told.collect()
}

/// Whoever holds a device and is not found among the processes.
const UNSEEN: &str = "somebody that cannot be seen from here: a part of the kernel, or a process \
    of another user or container";

/// Every block device, each followed by its partitions.
fn parts(devices: &[BlockDevice]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for device in devices {
        // A path of a multipath device, which only the kernel itself opens.
        if sysfs::attribute(&device.path.join("hidden")).is_some_and(|hidden| hidden == "1") {
            continue;
        }
        let whole = parts.len();
        let partitions = sysfs::children(&device.path, |name| name.starts_with(&device.name));
        let partitions = partitions
            .into_iter()
            .filter(|path| path.join("partition").exists());
        for path in std::iter::once(device.path.clone()).chain(partitions) {
            parts.push(Part {
                node: Node {
                    name: sysfs::name_of(&path),
                    number: number_of(&path),
                },
                path,
                whole,
            });
        }
    }
    parts
}

/// The number in a block device's attribute `dev`.
fn number_of(path: &Path) -> Option<(u32, u32)> {
    parse_number(&sysfs::attribute(&path.join("dev"))?)
}

fn parse_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `is part of dm-0 (vg-root), which is mounted at /`.
fn held_by(machine: &Machine, mounts: &Mounts, holder: &Path) -> String {
    let name = sysfs::name_of(holder);
    let block = machine.sys("class/block").join(&name);
    let mut said = format!("is part of {name}");
    if let Some(mapped) = sysfs::attribute(&block.join("dm/name")) {
        said = format!("{said} ({mapped})");
    }
    let node = Node {
        number: number_of(&block),
        name,
    };
    let places = mounts.of(machine, &node);
    if !places.is_empty() {
        said = format!("{said}, which is mounted at {}", places.join(" and "));
    }
    said
}

/// A line of mountinfo, as far as it matters.
struct Mount {
    number: Option<(u32, u32)>,
    place: String,
    /// In whose eyes, if they are not ours.
    whose: String,
    source: String,
}

/// The mounts of every mount namespace that can be seen.
struct Mounts(Vec<Mount>);

impl Mounts {
    fn read(machine: &Machine) -> Self {
        let mut mounts = Vec::new();
        let mut seen: HashSet<PathBuf> = HashSet::new();
        let own = fs::read_link(machine.proc("self/ns/mnt"));
        seen.extend(own);
        if let Some(text) = machine.proc_text("self/mountinfo") {
            mounts.extend(text.lines().filter_map(|line| mount(line, "")));
        }
        for pid in machine.processes() {
            let namespace = fs::read_link(machine.proc(&format!("{pid}/ns/mnt")));
            if namespace.is_ok_and(|namespace| !seen.insert(namespace)) {
                continue;
            }
            let Some(text) = machine.proc_text(&format!("{pid}/mountinfo")) else {
                continue;
            };
            let whose = format!(" (as {} sees it)", machine.process(pid));
            mounts.extend(text.lines().filter_map(|line| mount(line, &whose)));
        }
        Self(mounts)
    }

    /// Where the device is mounted. A filesystem over several devices has a number of its own, and
    /// tells one of them by name only.
    fn of(&self, machine: &Machine, node: &Node) -> Vec<String> {
        let mut places: Vec<String> = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for mount in &self.0 {
            let by_number = node.number.is_some() && mount.number == node.number;
            if !by_number && !is_node(machine, &mount.source, &node.name) {
                continue;
            }
            // The same place again, through a namespace that was copied from the first.
            if !seen.contains(&mount.place.as_str()) {
                seen.push(&mount.place);
                places.push(format!("{}{}", mount.place, mount.whose));
            }
        }
        places
    }
}

/// A line of mountinfo (proc(5)); `whose` follows the place.
fn mount(line: &str, whose: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let number = parse_number(fields.nth(2)?);
    let place = fields.nth(1)?;
    // Any number of optional fields ends with a hyphen; then the type, then the source.
    let source = fields.skip_while(|&field| field != "-").nth(2)?;
    Some(Mount {
        number,
        place: crate::text::escape(&unescape(place)),
        whose: whose.to_owned(),
        source: unescape(source),
    })
}

/// proc writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() {
            after.get(3..).unwrap_or_default()
        } else {
            after
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a path such as `/dev/disk/by-label/data` is the node of that name.
fn is_node(machine: &Machine, path: &str, name: &str) -> bool {
    let Some(below) = path.strip_prefix("/dev/") else {
        return false;
    };
    if below == name {
        return true;
    }
    let resolved = fs::canonicalize(machine.dev(below));
    resolved.is_ok_and(|resolved| resolved.file_name().is_some_and(|last| last == name))
}

/// The places of swap, as proc tells them.
fn swaps(machine: &Machine) -> Vec<String> {
    let text = machine.proc_text("swaps").unwrap_or_default();
    let places = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    places.map(unescape).collect()
}

fn is_swap(machine: &Machine, place: &str, node: &Node) -> bool {
    if is_node(machine, place, &node.name) {
        return true;
    }
    // Any name will do for swapon.
    let at = machine.dev("..").join(place.trim_start_matches('/'));
    fs::metadata(at).is_ok_and(|found| {
        found.file_type().is_block_device() && Some(device_number(found.rdev())) == node.number
    })
}

/// The mounted btrfs filesystems that have the device.
fn btrfs(machine: &Machine, name: &str) -> Vec<String> {
    let all = sysfs::children(&machine.sys("fs/btrfs"), |_| true);
    let having = all
        .iter()
        .filter(|at| at.join("devices").join(name).exists());
    having.map(|at| sysfs::name_of(at)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// Lines of mountinfo with and without optional fields, with escaped places; what is no such
    /// line is none.
    #[test]
    fn mountinfo_is_understood() {
        let line =
            r"36 35 259:1 / /mnt/a\040b\134 rw,noatime master:1 shared:2 - ext4 /dev/nvme0n1p1 rw";
        let found = mount(line, "").unwrap();
        assert_eq!(found.number, Some((259, 1)));
        assert_eq!(found.place, "/mnt/a b\\");
        assert_eq!(found.source, "/dev/nvme0n1p1");
        assert_eq!(
            mount("1 2 0:5 / / rw - tmpfs none rw", "").unwrap().source,
            "none"
        );
        for broken in ["", "1 2 3", "1 2 259:1 / /x rw ext4 /dev/a", "\0\u{fffd}"] {
            assert!(mount(broken, "").is_none(), "{broken}");
        }
        assert_eq!(unescape(r"\04"), r"\04");
        assert_eq!(unescape(r"\777"), r"\777");
        assert_eq!(unescape(r"a\011"), "a\t");
    }
}
