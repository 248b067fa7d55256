//! Finds the parts of a resource in the version before, by what stands for their bytes.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hash, Hasher},
};

/// A way through the version before, alongside the new one.
#[derive(Debug)]
pub(super) struct Former<P> {
    /// Where the next part is looked for first: behind the one found last.
    next: usize,
    /// The places by print. Made when a part is not where it was.
    places: Option<HashMap<P, usize, BuildHasherDefault<Folded>>>,
}

/// The hash of what is a hash itself.
#[derive(Debug, Default)]
struct Folded(u64);

// === impl Former ===

impl<P: Copy + Eq + Hash> Former<P> {
    /// Where the next part of the new version stands in the one before, whose parts have these prints. The error is the place
    /// of what it is most likely in place of.
    pub(super) fn find<T>(&mut self, prints: &[T], of: impl Fn(&T) -> P, print: P) -> Result<usize, usize> {
        let here = self.next;
        let place = match prints.get(here) {
            Some(there) if of(there) == print => Some(here),
            _ => self.places(prints, of).get(&print).copied(),
        };
        self.next = place.unwrap_or(here) + 1;
        place.ok_or(here)
    }

    /// Whether the places of all parts are listed, which the first part that is not where it was has done in one go.
    pub(super) fn is_listed(&self) -> bool {
        self.places.is_some()
    }

    fn places<T>(&mut self, prints: &[T], of: impl Fn(&T) -> P) -> &HashMap<P, usize, BuildHasherDefault<Folded>> {
        self.places.get_or_insert_with(|| prints.iter().map(of).zip(0..).collect())
    }
}

impl<P> Default for Former<P> {
    fn default() -> Self {
        Self { next: 0, places: None }
    }
}

// === impl Folded ===

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = self.0.rotate_left(5) ^ number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
