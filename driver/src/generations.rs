//! The namespaces of a controller as they were identified last, and before: who has a reference to
//! older ones keeps it.
use crate::Namespace;
use crate::dma::rt::sync::OnceLock;

/// One identification, and the one after it.
#[derive(Debug)]
pub(crate) struct Generation {
    namespaces: Vec<Namespace>,
    next: OnceLock<Box<Generation>>,
}

impl Generation {
    pub(crate) fn new(namespaces: Vec<Namespace>) -> Self {
        Self {
            namespaces,
            next: OnceLock::new(),
        }
    }

    /// The last of them.
    fn last(&self) -> &Self {
        let mut last = self;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last
    }

    pub(crate) fn namespaces(&self) -> &[Namespace] {
        &self.last().namespaces
    }

    /// The namespaces of every identification there was.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Namespace> {
        let each = std::iter::successors(Some(self), |one| one.next.get().map(Box::as_ref));
        each.flat_map(|one| &one.namespaces)
    }

    /// From now on these are the namespaces.
    pub(crate) fn renew(&self, namespaces: Vec<Namespace>) {
        // A list that grows with every look would be the device's to fill.
        let same = self.namespaces().iter().eq(&namespaces);
        if same {
            return;
        }
        let mut new = Box::new(Self::new(namespaces));
        // Another thread may have been as fast: then ours comes behind it.
        while let Err(back) = self.last().next.set(new) {
            new = back;
        }
    }
}

impl Drop for Generation {
    /// One after the other: a long list would not fit the stack.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut dropped) = next {
            next = dropped.next.take();
        }
    }
}
