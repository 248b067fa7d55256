//! The names that are to be asked for.

use std::{collections::BTreeSet, sync::Arc};

use mesh_core::config::{Aggregate, Snapshot};

use super::reach;
use crate::{
    Dialect, ResourceKind,
    istio::names::INBOUND,
    name::canonical_arc,
    pace::Pace,
    status::Shared,
    store::{Known, Store},
};

/// The names to ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// By [`ResourceKind::index`].
    names: [BTreeSet<Arc<str>>; ResourceKind::ALL.len()],
    /// The kind of which everything is wanted that there is.
    everything: Option<ResourceKind>,
}

// === impl Wanted ===

impl Wanted {
    /// What a dialect wants whatever the targets are.
    pub(super) fn of_dialect(dialect: Dialect) -> Self {
        let mut wanted = Self::default();
        if dialect == Dialect::Sidecar {
            wanted.everything = Some(ResourceKind::Cluster);
            wanted.add(ResourceKind::Listener, &INBOUND.into());
        }
        wanted
    }

    /// The names of one kind.
    pub(crate) fn of(&self, kind: ResourceKind) -> &BTreeSet<Arc<str>> {
        &self.names[kind.index()]
    }

    /// Whether everything of a kind is wanted, and its names are only those that matter at present.
    pub(crate) fn everything(&self, kind: ResourceKind) -> bool {
        self.everything == Some(kind)
    }

    /// All names, of whatever kind.
    pub(crate) fn into_names(self) -> impl Iterator<Item = Arc<str>> {
        self.names.into_iter().flatten()
    }

    pub(super) fn add(&mut self, kind: ResourceKind, name: &Arc<str>) {
        self.is_news(kind, name);
    }

    /// Adds a name. Returns whether it was not wanted before.
    fn is_news(&mut self, kind: ResourceKind, name: &Arc<str>) -> bool {
        self.names[kind.index()].insert(canonical_arc(name))
    }

    /// Marks what the clusters that are wanted are made of, and the endpoints of all.
    pub(super) async fn mark_below(&mut self, shared: &Shared, last: &Snapshot, pace: &mut Pace) {
        let mut level = Vec::new();
        for name in self.of(ResourceKind::Cluster) {
            level.push(name.clone());
            pace.step().await;
        }
        for _ in 0..=Aggregate::DEPTH {
            let mut below = Vec::new();
            for name in level {
                self.mark_under(&shared.held().store, last, &name, &mut below);
                pace.step().await;
            }
            level = below;
        }
    }

    /// Marks what one cluster needs. What is wanted on its account alone goes `below`.
    fn mark_under(&mut self, store: &Store, last: &Snapshot, name: &Arc<str>, below: &mut Vec<Arc<str>>) {
        let Known::Good(cluster) = store.cluster(name) else { return };
        if let Some(endpoints) = cluster.endpoints_name() {
            self.add(ResourceKind::ClusterLoadAssignment, endpoints);
        }
        let parts = reach::wanted_parts(store, last, name, cluster).into_iter();
        below.extend(parts.filter(|part| self.is_news(ResourceKind::Cluster, part)));
    }
}
