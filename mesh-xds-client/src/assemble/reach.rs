//! Which clusters are reached: those that routes name, and those that these are made of (gRFC A37).

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use mesh_core::config::{Aggregate, Cluster, ClusterEntry, Snapshot};

use super::own_endpoints;
use crate::store::{Known, Store};

/// Visits each of `names` once, and whatever a visit comes upon below, as deep as clusters may stand above one another. A
/// control plane without end is not followed without end.
pub(super) fn descend(names: impl IntoIterator<Item = Arc<str>>, mut visit: impl FnMut(&Arc<str>) -> Vec<Arc<str>>) {
    let mut seen = HashSet::new();
    let mut level: Vec<_> = names.into_iter().collect();
    for _ in 0..=Aggregate::DEPTH {
        level.retain(|name| seen.insert(name.clone()));
        level = level.iter().flat_map(&mut visit).collect();
    }
}

/// What a cluster is made of.
pub(super) fn parts(cluster: &Cluster) -> Vec<Arc<str>> {
    cluster.aggregate().map(|aggregate| aggregate.clusters().to_vec()).unwrap_or_default()
}

/// What is to be asked for on account of the cluster `name`: what it is made of, and while that is not warm what it was made of
/// when it was last published.
pub(super) fn wanted_parts(store: &Store, last: &Snapshot, name: &str) -> Vec<Arc<str>> {
    let Known::Good(cluster) = store.cluster(name) else { return Vec::new() };
    let mut wanted = parts(cluster);
    if !is_warm(store, name)
        && let Some(entry) = last.clusters.get(name)
    {
        wanted.extend(parts(&entry.cluster));
    }
    wanted
}

/// Whether a cluster, its endpoints and all that it is made of are known, or known not to come.
pub(super) fn is_warm(store: &Store, name: &str) -> bool {
    if let Known::Good(cluster) = store.cluster(name)
        && cluster.aggregate().is_none()
    {
        // Nearly all are, and a push asks for thousands: there is nothing to descend to.
        return has_endpoints(store, cluster);
    }
    let mut is_warm = true;
    descend([name.into()], |name| match store.cluster(name) {
        Known::Awaited => {
            is_warm = false;
            Vec::new()
        }
        Known::Missing => Vec::new(),
        Known::Good(cluster) => {
            is_warm &= has_endpoints(store, cluster);
            parts(cluster)
        }
    });
    is_warm
}

/// Whether the endpoints of a cluster are known, or known not to come.
fn has_endpoints(store: &Store, cluster: &Cluster) -> bool {
    let endpoints = cluster.endpoints_name().map(|name| store.endpoints(name));
    !matches!(endpoints, Some(Known::Awaited))
}

/// The clusters that serve those who name `names`. One that has moved to other endpoints or other clusters, which have not come,
/// serves as it did in `last` until they have.
pub(super) fn entries(
    store: &Store,
    last: &Snapshot,
    names: impl IntoIterator<Item = Arc<str>>,
) -> BTreeMap<Arc<str>, ClusterEntry> {
    let mut entries = BTreeMap::new();
    descend(names, |name| {
        let Some(entry) = entry(store, last, name) else { return Vec::new() };
        let parts = parts(&entry.cluster);
        entries.insert(name.clone(), entry);
        parts
    });
    entries
}

fn entry(store: &Store, last: &Snapshot, name: &str) -> Option<ClusterEntry> {
    let Known::Good(cluster) = store.cluster(name) else { return None };
    let kept = || last.clusters.get(name).cloned();
    let endpoints = match cluster.endpoints_name().map(|name| store.endpoints(name)) {
        None if !is_warm(store, name) => return kept(),
        None => own_endpoints(cluster),
        Some(Known::Missing) => None,
        Some(Known::Good(endpoints)) => Some(endpoints.clone()),
        Some(Known::Awaited) => return kept(),
    };
    Some(ClusterEntry { cluster: cluster.clone(), endpoints })
}
