//! Everything that a source knows at one moment, consistent in itself.

use std::{collections::BTreeMap, sync::Arc};

use super::{Cluster, Endpoints, Listener};

/// Everything that a source knows at one moment.
///
/// A source publishes a snapshot only when it is whole: a target that is [`Ready`](TargetState::Ready) names only
/// clusters that stand here, or are known not to exist. What did not change keeps its `Arc` from one snapshot to the
/// next, so that a reader finds what changed by comparing pointers.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts the snapshots of this source.
    pub generation: u64,
    /// What is known of each target that is watched.
    pub targets: BTreeMap<Arc<str>, TargetState>,
    /// The clusters that routes of the targets name.
    pub clusters: BTreeMap<Arc<str>, ClusterEntry>,
}

/// What is known of a target.
#[derive(Clone, Debug)]
pub enum TargetState {
    /// Its configuration.
    Ready(Arc<Listener>),
    /// There is none, and why; requests fail.
    Unavailable(Arc<str>),
}

/// A cluster and its endpoints.
#[derive(Clone, Debug)]
pub struct ClusterEntry {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Its endpoints, where they come from the same source; none while they are unknown or known not to exist.
    pub endpoints: Option<Arc<Endpoints>>,
}
