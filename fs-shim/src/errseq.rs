//! Errors of writeback: every handle that was open when one happened is told of it once, at its
//! next fsync, sync or close (R26).
use crate::store::StoreError;
use underpin_dma::rt::sync::Mutex;

/// The errors of one file so far: how many, and the last.
#[derive(Debug, Default)]
pub(crate) struct ErrSeq(Mutex<(u64, Option<StoreError>)>);

/// How far one handle has been told.
#[derive(Debug)]
pub(crate) struct Seen(Mutex<u64>);

impl ErrSeq {
    pub(crate) fn report(&self, error: StoreError) {
        let mut errors = self.0.lock();
        errors.0 += 1;
        errors.1 = Some(error);
    }

    /// What a handle that is opened now has no need to be told.
    pub(crate) fn seen(&self) -> Seen {
        Seen(Mutex::new(self.0.lock().0))
    }

    /// The last error that this handle was not told of.
    pub(crate) fn tell(&self, seen: &Seen) -> Result<(), StoreError> {
        let errors = self.0.lock();
        let mut seen = seen.0.lock();
        if *seen == errors.0 {
            return Ok(());
        }
        *seen = errors.0;
        errors.1.clone().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R26: each handle is told once, and one that is opened afterwards is not.
    #[test]
    fn each_handle_is_told_once() {
        let errors = ErrSeq::default();
        let (first, second) = (errors.seen(), errors.seen());
        assert_eq!(errors.tell(&first), Ok(()));
        errors.report(StoreError::Closed);
        let late = errors.seen();
        assert_eq!(errors.tell(&first), Err(StoreError::Closed));
        assert_eq!(errors.tell(&first), Ok(()));
        assert_eq!(errors.tell(&second), Err(StoreError::Closed));
        assert_eq!(errors.tell(&late), Ok(()));
    }
}
