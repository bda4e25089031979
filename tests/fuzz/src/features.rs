//! What happened while an input ran, as numbers: an input that does something no other did is kept.
//! A poor man's coverage, which needs no instrumented build.
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Kinds of things that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features(BTreeSet<u64>);

impl Features {
    /// Something of this kind happened, after what happened before.
    pub fn saw(&mut self, what: impl Hash) {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        self.0.insert(hasher.finish());
    }

    /// The same for something with words: numbers in them do not make another kind of it.
    pub fn saw_text(&mut self, what: &str) {
        let plain: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
        self.saw(plain);
    }

    /// Takes in what others saw; true when any of it is new.
    pub fn add(&mut self, other: &Self) -> bool {
        let before = self.0.len();
        self.0.extend(&other.0);
        self.0.len() > before
    }

    /// How many kinds there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}
