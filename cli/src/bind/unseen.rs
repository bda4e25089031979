//! Block devices of which it cannot be seen whether somebody uses them: the nodes through which that
//! is asked are missing or another device's, as in a container, or must not be opened.
use super::uses::Part;
use crate::machine::{Hands, Machine};
use std::io;

/// What a container is told, and whoever has another `/dev` than the machine's.
const ELSEWHERE: &str = "run the command where /dev has the machine's disks, as on the host and not in \
    a container; --force takes the function, used or not, and what was not written yet is lost";
const AS_ROOT: &str = "run the same command as root, as with sudo";

/// A device that cannot be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unseen {
    /// Why, in words that begin with the device.
    pub(crate) why: String,
    /// The next step.
    pub(crate) hint: &'static str,
}

impl Unseen {
    /// A device that could not be claimed, though nobody else has claimed it.
    pub(super) fn claim(machine: &Machine, part: &Part, error: &io::Error) -> Self {
        let node = machine.shown(&machine.dev(&part.node.name));
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => AS_ROOT,
            _ => ELSEWHERE,
        };
        Self {
            why: format!("{node}: {error}"),
            hint,
        }
    }
}

/// Looks whether the node below `/dev` is the device's own: only then does opening it say anything
/// about the device. One that has gone meanwhile is nobody's.
pub(super) fn node(machine: &Machine, hands: &mut dyn Hands, part: &Part) -> Result<(), Unseen> {
    let path = machine.dev(&part.node.name);
    let shown = machine.shown(&path);
    let seen = hands.number(&path);
    if !part.path.exists() {
        return Ok(());
    }
    let why = match (seen, part.node.number) {
        (Ok(Some(found)), Some(wanted)) if found == wanted => return Ok(()),
        (Ok(Some((major, minor))), Some(wanted)) => format!(
            "{shown} is the node of another device: {major}:{minor}, where {} is {}:{}",
            part.node.name, wanted.0, wanted.1
        ),
        (_, None) => format!(
            "sysfs does not tell the number of {}, so its node cannot be known",
            part.node.name
        ),
        (Ok(None), _) => format!("{shown} is not the node of a block device"),
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => {
            format!("there is no {shown} here")
        }
        (Err(error), _) => format!("{shown}: {error}"),
    };
    Err(Unseen {
        why,
        hint: ELSEWHERE,
    })
}
