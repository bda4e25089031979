//! The requests that have begun, each with who waits for it: what a future remembers is a number
//! here. Grows only while futures that have ended are not polled.
use super::error::Outcome;
use super::mailbox::Reply;
use crate::{Io, Token};
use std::sync::Arc;
use std::task::Waker;

/// Who waits for a request.
#[derive(Debug)]
pub(super) enum Owner<B> {
    /// A future on the queue's thread, and what wakes its task.
    Task(Option<Waker>),
    /// A future on another thread.
    Remote(Arc<Reply<B>>),
    /// The future was dropped.
    Nobody,
}

/// Where a request stands.
#[derive(Debug)]
pub(super) enum Stage<B> {
    Free {
        next: u32,
    },
    /// It waits for room in the queue. `None`: it was given up, or is being submitted just now.
    Waiting(Option<(Io, Option<B>)>),
    InFlight(Token),
    /// Until its future looks.
    Ended(Outcome<B>),
}

#[derive(Debug)]
pub(super) struct Entry<B> {
    pub(super) stage: Stage<B>,
    pub(super) owner: Owner<B>,
}

/// The requests of one queue.
#[derive(Debug)]
pub(super) struct Slab<B> {
    entries: Vec<Entry<B>>,
    free: u32,
}

const NONE: u32 = u32::MAX;

impl<B> Slab<B> {
    pub(super) fn new(room: usize) -> Self {
        Self {
            entries: Vec::with_capacity(room),
            free: NONE,
        }
    }

    /// A place for a request that waits.
    pub(super) fn insert(&mut self, owner: Owner<B>) -> u32 {
        let entry = Entry {
            stage: Stage::Waiting(None),
            owner,
        };
        let at = self.free;
        if let Some(place) = self.entries.get_mut(at as usize)
            && let Stage::Free { next } = place.stage
        {
            self.free = next;
            *place = entry;
            return at;
        }
        self.entries.push(entry);
        (self.entries.len() - 1) as u32
    }

    pub(super) fn get(&mut self, at: u32) -> Option<&mut Entry<B>> {
        self.entries.get_mut(at as usize)
    }

    /// Frees a place and gives back what was in it, to be dropped where foreign code may run.
    pub(super) fn remove(&mut self, at: u32) -> Option<Entry<B>> {
        let place = self.entries.get_mut(at as usize)?;
        if matches!(place.stage, Stage::Free { .. }) {
            return None;
        }
        let free = Entry {
            stage: Stage::Free { next: self.free },
            owner: Owner::Nobody,
        };
        self.free = at;
        Some(std::mem::replace(place, free))
    }

    /// The request in flight of this name. For the few ends that do not bring their place along.
    pub(super) fn find(&self, token: Token) -> Option<u32> {
        let named = |entry: &Entry<B>| matches!(entry.stage, Stage::InFlight(t) if t == token);
        self.entries.iter().position(named).map(|at| at as u32)
    }

    /// Everything in it, taken out.
    pub(super) fn drain(&mut self) -> Vec<Entry<B>> {
        self.free = NONE;
        std::mem::take(&mut self.entries)
    }

    /// Requests that have begun and not been forgotten.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let used = |entry: &&Entry<B>| !matches!(entry.stage, Stage::Free { .. });
        self.entries.iter().filter(used).count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Places are used again, and none is given out twice.
    #[test]
    fn places_are_used_again() {
        let mut slab = Slab::<()>::new(2);
        let places: Vec<_> = (0..3).map(|_| slab.insert(Owner::Nobody)).collect();
        assert_eq!(places, [0, 1, 2]);
        assert!(slab.remove(1).is_some() && slab.remove(0).is_some());
        assert!(slab.remove(0).is_none(), "freed twice");
        assert_eq!(slab.len(), 1);
        assert_eq!(
            (slab.insert(Owner::Nobody), slab.insert(Owner::Nobody)),
            (0, 1)
        );
        assert_eq!(slab.insert(Owner::Nobody), 3);
        slab.get(3).unwrap().stage = Stage::InFlight(Token(7));
        assert_eq!((slab.find(Token(7)), slab.find(Token(8))), (Some(3), None));
        assert_eq!(slab.drain().len(), 4);
        assert_eq!(slab.insert(Owner::Nobody), 0);
    }
}
