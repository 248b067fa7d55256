//! Where the items of a list stand in the list that came before it.

use std::iter;

/// A way through the list before, alongside the new one. It goes forward only, so that no place is found twice.
#[derive(Debug, Default)]
pub(crate) struct Former {
    /// Behind the last that was found.
    next: usize,
    /// How many were not found since.
    missed: usize,
}

/// How many may have been left out in a row.
const WINDOW: usize = 256;

// === impl Former ===

impl Former {
    /// The place that the next item of the new list has in the list before, of which `is_it` knows whether it is there.
    ///
    /// A list mostly keeps its order, so what is looked at is where the item stands if those that were not found have been
    /// changed, and then what follows the last that was. Whoever sorts a list anew loses what could have been used again, and
    /// nothing else.
    pub(crate) fn find(&mut self, length: usize, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let changed = iter::once(self.next + self.missed).filter(|place| *place < length);
        let left_out = self.next..length.min(self.next + WINDOW);
        let found = changed.chain(left_out).find(|place| is_it(*place));
        *self = match found {
            Some(place) => Self { next: place + 1, missed: 0 },
            None => Self { next: self.next, missed: self.missed + 1 },
        };
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(before: &str, now: &str) -> Vec<Option<usize>> {
        let (before, mut former) = (before.as_bytes(), Former::default());
        now.bytes().map(|item| former.find(before.len(), |place| before[place] == item)).collect()
    }

    #[test]
    fn what_stays_is_found_beside_what_is_changed_added_and_removed() {
        assert_eq!(places("abcd", "abcd"), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(places("abcd", "a--d"), [Some(0), None, None, Some(3)]);
        assert_eq!(places("abcd", "-ab-cd"), [None, Some(0), Some(1), None, Some(2), Some(3)]);
        assert_eq!(places("abcd", "ad"), [Some(0), Some(3)]);
        assert_eq!(places("", "a"), [None]);
    }

    #[test]
    fn no_place_is_found_twice() {
        assert_eq!(places("ab", "aab"), [Some(0), None, Some(1)]);
        assert_eq!(places("ab", "ba"), [Some(1), None]);
    }

    #[test]
    fn long_run_of_changes_does_not_lose_the_way() {
        let before: Vec<usize> = (0..10_000).collect();
        let mut former = Former::default();
        let found = (0..10_000).filter(|item| {
            let is_changed = *item < 5_000;
            former.find(before.len(), |place| before[place] == *item && !is_changed).is_some()
        });
        assert_eq!(found.count(), 5_000);
    }
}
