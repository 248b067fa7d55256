//! Everything that a source knows at one moment, consistent in itself.

use std::{collections::BTreeMap, sync::Arc};

use super::{Cluster, Endpoints, Listener, VirtualHost};

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

/// What is left of a snapshot that was replaced.
#[expect(dead_code, reason = "it is there to be dropped, one at a time")]
enum Piece {
    Cluster(Arc<str>, ClusterEntry),
    Host(Arc<VirtualHost>),
}

// === impl Snapshot ===

impl Snapshot {
    /// Takes a snapshot apart that was replaced: to drop the pieces as they come is to drop the snapshot, and whoever does it
    /// on a thread that serves requests can give these their turn in between.
    ///
    /// Nothing comes where somebody else holds it still, who is then the one to take it apart. Of what is shared with other
    /// snapshots only this share goes.
    pub fn take_apart(self: Arc<Self>) -> impl Iterator<Item = impl Send> + Send {
        let Self { targets, clusters, .. } = Arc::into_inner(self).unwrap_or_default();
        let entries = clusters.into_iter().map(|(name, entry)| Piece::Cluster(name, entry));
        let listeners = targets.into_values().filter_map(|state| match state {
            TargetState::Ready(listener) => Some(listener),
            TargetState::Unavailable(_) => None,
        });
        entries.chain(listeners.flat_map(Listener::take_apart).map(Piece::Host))
    }
}

#[cfg(test)]
mod tests {
    use super::super::RouteConfig;
    use super::*;

    fn snapshot() -> Arc<Snapshot> {
        let cluster = Arc::new(Cluster::new("a").expect("a name"));
        let listener = Arc::new(Listener::new("web", Arc::new(RouteConfig::to_cluster("web", "a"))));
        Arc::new(Snapshot {
            generation: 1,
            targets: [("web".into(), TargetState::Ready(listener))].into(),
            clusters: [("a".into(), ClusterEntry { cluster, endpoints: None })].into(),
        })
    }

    #[test]
    fn the_last_who_holds_it_takes_it_apart() {
        let snapshot = snapshot();
        let other = snapshot.clone();
        assert_eq!(snapshot.take_apart().count(), 0, "somebody reads it still");
        assert_eq!(other.take_apart().count(), 2, "a cluster and a virtual host");
    }

    #[test]
    fn what_others_share_is_left_to_them() {
        let snapshot = snapshot();
        let next = Arc::new(Snapshot::clone(&snapshot));
        assert_eq!(snapshot.take_apart().count(), 1, "the cluster's entry; the routes are in use");
        assert_eq!(next.take_apart().count(), 2);
    }
}
