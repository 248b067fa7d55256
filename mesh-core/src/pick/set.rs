//! What is picked from: the endpoints of a cluster at one moment, and the index over them.

use std::sync::Arc;

use super::{Index, Rules};
use crate::endpoint::Roster;

/// The endpoints of a cluster at one moment, immutable. An ejection makes a new index over the same roster.
pub(crate) struct EndpointSet<H> {
    pub(crate) roster: Arc<Roster<H>>,
    pub(crate) index: Index,
    pub(crate) rules: Rules,
}

// === impl EndpointSet ===

impl<H> EndpointSet<H> {
    /// The set of `roster`, under `rules`, with ejections as they are now. `turn` is where taking turns starts.
    pub(crate) fn new(roster: Arc<Roster<H>>, rules: Rules, turn: u64) -> Self {
        let index = Index::new(&roster, &rules, turn);
        Self { roster, index, rules }
    }
}
