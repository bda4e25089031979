//! The IOMMU groups of a context, and how many of their devices are in it. The IOMMU knows groups
//! only: what one device of a group reaches, all do, until the last of them has left.
use std::fs::File;
use std::io;

/// Who is in a context.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<Group>);

#[derive(Debug)]
struct Group {
    number: u32,
    /// Its file, where the context has groups and not devices.
    file: Option<File>,
    devices: usize,
}

impl Groups {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn position(&self, number: u32) -> Option<usize> {
        self.0.iter().position(|group| group.number == number)
    }

    /// The file of a group that is in.
    pub(super) fn file(&self, number: u32) -> Option<&File> {
        self.0.get(self.position(number)?)?.file.as_ref()
    }

    /// One more device of a group is in; `file` is the group's, should it be the first.
    pub(super) fn enter(&mut self, number: u32, file: Option<File>) {
        match self.position(number) {
            Some(at) => self.0[at].devices += 1,
            None => self.0.push(Group {
                number,
                file,
                devices: 1,
            }),
        }
    }

    /// A device of a group leaves by `end`, which is told the group's file and whether it is the
    /// last. `Ok` is proof that nothing of the group reaches the context any more: the last one
    /// has left, and `end` has succeeded.
    ///
    /// # Errors
    /// What `end` says: it may be in all the same, and is counted as such. That others of its group
    /// are still in. That it is not in: then nothing is known.
    pub(super) fn leave(
        &mut self,
        number: u32,
        end: impl FnOnce(Option<&File>, bool) -> io::Result<()>,
    ) -> io::Result<()> {
        let position = self.position(number);
        let unknown = || io::Error::other(format!("its group {number} is not in"));
        let at = position.ok_or_else(unknown)?;
        let group = &mut self.0[at];
        let is_last = group.devices == 1;
        end(group.file.as_ref(), is_last)?;
        if is_last {
            self.0.remove(at);
            return Ok(());
        }
        group.devices -= 1;
        Err(io::Error::other(format!(
            "{} more of its IOMMU group {number} in use, and the group is detached with the last one",
            match group.devices {
                1 => "one device is".to_owned(),
                more => format!("{more} devices are"),
            }
        )))
    }

    /// A group whose end is not known is not counted on any more; its file is closed.
    pub(super) fn forget(&mut self, number: u32) {
        self.0.retain(|group| group.number != number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Detaching one of two functions leaves the group's domain, and so the other's and its own
    /// reach, as they are: only the last one's end is proof.
    #[test]
    fn only_the_last_of_a_group_proves_its_end() {
        let mut groups = Groups::default();
        for number in [7, 9, 7] {
            groups.enter(number, None);
        }
        let error = groups.leave(7, |_, is_last| {
            assert!(!is_last);
            Ok(())
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("one device is"), "{error}");
        groups
            .leave(9, |_, is_last| {
                assert!(is_last);
                Ok(())
            })
            .unwrap();
        groups
            .leave(7, |_, is_last| {
                assert!(is_last);
                Ok(())
            })
            .unwrap();
        assert!(groups.is_empty());
    }

    /// One whose end failed may be in for ever, so nobody after it is the last.
    #[test]
    fn whoever_could_not_leave_is_counted() {
        let mut groups = Groups::default();
        groups.enter(7, None);
        groups.enter(7, None);
        let failed = || Err(io::Error::other("refused"));
        assert!(groups.leave(7, |_, _| failed()).is_err());
        assert!(groups.leave(7, |_, _| Ok(())).is_err(), "the other is in");
        groups.enter(7, None);
        assert!(groups.leave(7, |_, _| Ok(())).is_err(), "and still is");
        groups.forget(7);
        assert!(groups.is_empty());
    }

    /// Whoever is not in proves nothing by leaving.
    #[test]
    fn a_stranger_proves_nothing() {
        let mut groups = Groups::default();
        groups.enter(7, None);
        assert!(groups.leave(8, |_, _| Ok(())).is_err());
        groups.leave(7, |_, _| Ok(())).unwrap();
        assert!(groups.leave(7, |_, _| Ok(())).is_err());
    }

    /// The first one's file is the group's as long as anybody is in.
    #[test]
    fn a_groups_file_stays_until_the_last() {
        let mut groups = Groups::default();
        groups.enter(7, Some(tempfile::tempfile().unwrap()));
        groups.enter(7, None);
        assert!(groups.file(7).is_some() && groups.file(8).is_none());
        let _ = groups.leave(7, |file, _| {
            assert!(file.is_some());
            Ok(())
        });
        assert!(groups.file(7).is_some());
        groups
            .leave(7, |file, _| {
                assert!(file.is_some());
                Ok(())
            })
            .unwrap();
        assert!(groups.file(7).is_none());
    }
}
