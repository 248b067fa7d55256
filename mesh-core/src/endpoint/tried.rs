//! The endpoints that a request has been to already.

use super::EndpointId;

/// The last few endpoints that a request has been to, so that another attempt goes elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    ids: [Option<EndpointId>; Self::CAPACITY],
    next: u8,
}

impl Tried {
    /// How many are remembered; a further one displaces the oldest.
    pub const CAPACITY: usize = 8;

    /// None.
    pub const fn new() -> Self {
        Self { ids: [None; Self::CAPACITY], next: 0 }
    }

    /// Remembers one.
    pub fn push(&mut self, id: EndpointId) {
        if self.contains(id) {
            return;
        }
        let place = usize::from(self.next);
        self.ids[place] = Some(id);
        self.next = ((place + 1) % Self::CAPACITY) as u8;
    }

    /// Whether one is remembered.
    #[inline]
    pub fn contains(&self, id: EndpointId) -> bool {
        !self.is_empty() && self.ids.contains(&Some(id))
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.ids.iter().flatten().count()
    }

    /// Whether none is.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ids[0].is_none()
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
