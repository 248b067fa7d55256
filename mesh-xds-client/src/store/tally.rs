//! How many resources there are of each kind, by how they stand.

use mesh_core::source::ResourceState;

use crate::ResourceKind;

/// How many resources of each kind are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    states: [[usize; STATES.len()]; ResourceKind::ALL.len()],
    cached: usize,
}

/// What counts of a resource: its state, and whether it is cached.
pub(super) type Counted = (ResourceState, bool);

/// Every state, in the order in which they are counted.
const STATES: [ResourceState; 6] = [
    ResourceState::Requested,
    ResourceState::Synced,
    ResourceState::Rejected,
    ResourceState::Absent,
    ResourceState::TimedOut,
    ResourceState::Failed,
];

// === impl Tally ===

impl Tally {
    pub(super) fn add(&mut self, kind: ResourceKind, (state, is_cached): Counted) {
        self.states[kind.index()][place(state)] += 1;
        self.cached += usize::from(is_cached);
    }

    pub(super) fn remove(&mut self, kind: ResourceKind, (state, is_cached): Counted) {
        self.states[kind.index()][place(state)] -= 1;
        self.cached -= usize::from(is_cached);
    }

    pub(super) fn move_one(&mut self, kind: ResourceKind, from: Counted, to: Counted) {
        self.remove(kind, from);
        self.add(kind, to);
    }

    /// How many serve by what an earlier run has kept.
    pub(crate) fn cached(&self) -> usize {
        self.cached
    }

    /// Every kind and state, and how many there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ResourceKind, ResourceState, usize)> {
        ResourceKind::ALL
            .into_iter()
            .zip(self.states)
            .flat_map(|(kind, counts)| STATES.into_iter().zip(counts).map(move |(state, count)| (kind, state, count)))
    }
}

fn place(state: ResourceState) -> usize {
    STATES.iter().position(|known| *known == state).expect("every state that is set here is listed")
}
