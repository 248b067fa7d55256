//! The endpoints that a request has been to already.

use super::EndpointId;

/// The last few endpoints that a request has been to, so that another attempt goes elsewhere.
///
/// Every attempt carries it, and nearly all are first attempts: so it is one word, and allocates when there is something to
/// remember.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried(Option<Box<Places>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Places {
    ids: [Option<EndpointId>; Tried::CAPACITY],
    next: u8,
}

// === impl Tried ===

impl Tried {
    /// How many are remembered; a further one displaces the oldest.
    pub const CAPACITY: usize = 8;

    /// None.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Remembers one.
    pub fn push(&mut self, id: EndpointId) {
        if self.contains(id) {
            return;
        }
        let Places { ids, next } = &mut **self.0.get_or_insert_default();
        ids[usize::from(*next)] = Some(id);
        *next = (*next + 1) % Self::CAPACITY as u8;
    }

    /// Whether one is remembered.
    #[inline]
    pub fn contains(&self, id: EndpointId) -> bool {
        self.0.as_ref().is_some_and(|places| places.ids.contains(&Some(id)))
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |places| places.ids.iter().flatten().count())
    }

    /// Whether none is.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    #[test]
    fn oldest_is_forgotten_first() {
        let id = |n| EndpointId::new(NonZeroU64::new(n).expect("not zero"));
        let mut tried = Tried::new();
        assert!(tried.is_empty() && !tried.contains(id(1)));
        (1..=9).for_each(|n| tried.push(id(n)));
        tried.push(id(9));
        assert_eq!(tried.len(), 8);
        assert!(!tried.contains(id(1)) && tried.contains(id(2)) && tried.contains(id(9)));
    }
}
