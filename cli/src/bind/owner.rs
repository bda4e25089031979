//! Gives the nodes of a function that is bound to a user, so that root is not needed to drive it.
use crate::failure::Failure;
use crate::iommu::Group;
use crate::machine::{Hands, Machine};
use crate::sysfs;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How often udev is asked whether it has done its work, and how many times: five seconds.
const UDEV_PAUSE: Duration = Duration::from_millis(10);
const UDEV_TRIES: u32 = 500;

/// A user, and a group if one was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    uid: u32,
    gid: Option<u32>,
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The highest number means "leave it" to chown(2).
        let number = |text: &str| {
            let number = text.parse::<u32>().ok().filter(|&id| id != u32::MAX);
            let is_plain = sysfs::is_number(text);
            number
                .filter(|_| is_plain)
                .ok_or("an owner is a number, as `id -u` prints it, or two: UID:GID")
        };
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (number(uid)?, Some(number(gid)?)),
            None => (number(text)?, None),
        };
        Ok(Self { uid, gid })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gid {
            Some(gid) => write!(f, "{}:{gid}", self.uid),
            None => write!(f, "{}", self.uid),
        }
    }
}

impl Owner {
    /// As a udev rule has it.
    pub(crate) fn udev(self) -> String {
        match self.gid {
            Some(gid) => format!("OWNER=\"{}\", GROUP=\"{gid}\"", self.uid),
            None => format!("OWNER=\"{}\"", self.uid),
        }
    }
}

/// The node of a function's IOMMU group, whether or not it is there.
pub(crate) fn group_node(machine: &Machine, group: &Group) -> PathBuf {
    machine.dev(&format!("vfio/{}", group.number))
}

/// The node of the function alone, where the kernel has such (iommufd), whether or not it is there.
pub(crate) fn own_node(machine: &Machine, address: &str) -> Option<PathBuf> {
    let own = sysfs::children(&machine.function(address).join("vfio-dev"), |_| true);
    // A kernel without these nodes has the directory all the same, and no number in it.
    let own = own.iter().find(|path| path.join("dev").exists());
    let name = sysfs::name_of(own?);
    Some(machine.dev(&format!("vfio/devices/{name}")))
}

/// The nodes through which a function that is bound to vfio-pci is opened: its group's, and its own
/// where the kernel has that. Only those that are there.
pub(crate) fn nodes(machine: &Machine, address: &str, group: &Group) -> Vec<PathBuf> {
    let mut nodes = vec![group_node(machine, group)];
    nodes.extend(own_node(machine, address));
    nodes.retain(|node| node.exists());
    nodes
}

/// Gives the nodes of a function to a user; they are told back.
pub(crate) fn give(
    machine: &Machine,
    hands: &mut dyn Hands,
    address: &str,
    group: &Group,
    owner: Owner,
) -> Result<(), Failure> {
    settled(machine, hands);
    let nodes = nodes(machine, address, group);
    if nodes.is_empty() {
        return Err(Failure::machine(
            "file",
            format!(
                "{address} is bound to vfio-pci, but there is neither {} nor a node of its own",
                machine.shown(&group_node(machine, group))
            ),
            "run the command where /dev is the machine's own, not in a container",
        ));
    }
    for node in &nodes {
        hands.chown(node, owner.uid, owner.gid).map_err(|error| {
            Failure::machine(
                "file",
                format!(
                    "{address} is bound to vfio-pci, but {} could not be given to {owner}: {error}",
                    machine.shown(node)
                ),
                format!("run as root: underpin bind {address} --owner {owner}"),
            )
        })?;
    }
    Ok(())
}

/// Waits until udev has no event left, as it would give a new node to root again. Without udev, or
/// when it takes too long, this is done at once.
fn settled(machine: &Machine, hands: &mut dyn Hands) {
    for _ in 0..UDEV_TRIES {
        if !machine.run("udev/queue").exists() {
            return;
        }
        hands.pause(UDEV_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn owners_are_numbers() {
        assert_eq!(
            "1000".parse(),
            Ok(Owner {
                uid: 1000,
                gid: None
            })
        );
        assert_eq!(
            "0:7".parse(),
            Ok(Owner {
                uid: 0,
                gid: Some(7)
            })
        );
        for wrong in [
            "",
            "alice",
            ":",
            "1:",
            ":1",
            "-1",
            "+1",
            "4294967295",
            "1:2:3",
            "1 ",
        ] {
            assert!(wrong.parse::<Owner>().is_err(), "{wrong}");
        }
    }
}
