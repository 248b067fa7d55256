//! Which clusters are reached: those that routes name, and those that these are made of (gRFC A37).

use std::{
    collections::{BTreeMap, HashSet, btree_map},
    sync::Arc,
};

use mesh_core::{
    config::{Aggregate, Cluster, ClusterEntry, Snapshot},
    source::ResourceState,
};

use super::{Aliases, own_endpoints};
use crate::{
    ResourceKind,
    name::{canonical, canonical_arc},
    pace::Pace,
    status::Shared,
    store::{Known, Store},
};

/// The clusters that serve those who name some of them.
pub(super) struct Entries<'a> {
    last: &'a BTreeMap<Arc<str>, ClusterEntry>,
    pub(super) entries: BTreeMap<Arc<str>, ClusterEntry>,
    pub(super) aliases: Aliases,
    /// Whether each of them is the one of its name in `last`.
    are_old: bool,
    /// What those are made of that were added last.
    below: Vec<Arc<str>>,
}

// === impl Entries ===

impl<'a> Entries<'a> {
    /// None yet. Before there were those of `last`.
    pub(super) fn new(last: &'a BTreeMap<Arc<str>, ClusterEntry>) -> Self {
        Self { last, entries: BTreeMap::new(), aliases: Aliases::new(), are_old: true, below: Vec::new() }
    }

    /// Adds a cluster. One that has moved to other endpoints or other clusters, which have not come, serves as it did in the last
    /// snapshot until they have.
    pub(super) fn add(&mut self, store: &Store, name: &Arc<str>) {
        let btree_map::Entry::Vacant(vacant) = self.entries.entry(name.clone()) else { return };
        let before = self.last.get(name);
        let Some(entry) = entry(store, before, name) else { return };
        self.are_old &= before.is_some_and(|before| is_same(before, &entry));
        self.below.extend(parts(&entry.cluster));
        if let Some(endpoints) = entry.cluster.endpoints_name()
            && !is_namesake(name, &entry.cluster)
        {
            self.aliases.entry(canonical_arc(endpoints)).or_default().push(name.clone());
        }
        vacant.insert(entry);
    }

    /// Adds what they are made of, as deep as clusters may stand above one another.
    pub(super) async fn descend(&mut self, shared: &Shared, pace: &mut Pace) {
        for _ in 0..Aggregate::DEPTH {
            for name in std::mem::take(&mut self.below) {
                self.add(&shared.held().store, &name);
                pace.step().await;
            }
        }
    }

    /// Whether a reader who compares pointers would find nothing new.
    pub(super) fn are_those_of_before(&self) -> bool {
        self.are_old && self.entries.len() == self.last.len()
    }
}

/// What a cluster is made of.
fn parts(cluster: &Cluster) -> Vec<Arc<str>> {
    cluster.aggregate().map(|aggregate| aggregate.clusters().to_vec()).unwrap_or_default()
}

/// Whether the endpoints of the cluster `name` go by the same name.
pub(super) fn is_namesake(name: &str, cluster: &Cluster) -> bool {
    cluster.endpoints_name().is_some_and(|endpoints| *canonical(endpoints) == *name)
}

/// What is to be asked for on account of a cluster: what it is made of, and while that is not warm what it was made of when it
/// was last published.
pub(super) fn wanted_parts(store: &Store, last: &Snapshot, name: &str, cluster: &Cluster) -> Vec<Arc<str>> {
    let mut wanted = parts(cluster);
    let before = last.clusters.get(name).and_then(|entry| entry.cluster.aggregate());
    if let Some(before) = before
        && !is_warm(store, name)
    {
        wanted.extend_from_slice(before.clusters());
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
    descend(name, |name| match store.cluster(name) {
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

/// Visits `name`, and whatever a visit comes upon below, each once, as deep as clusters may stand above one another. A control
/// plane without end is not followed without end.
fn descend(name: &str, mut visit: impl FnMut(&Arc<str>) -> Vec<Arc<str>>) {
    let mut seen = HashSet::new();
    let mut level: Vec<Arc<str>> = vec![name.into()];
    for _ in 0..=Aggregate::DEPTH {
        level.retain(|name| seen.insert(name.clone()));
        level = level.iter().flat_map(&mut visit).collect();
    }
}

/// Whether the endpoints of a cluster are known, or known not to come.
fn has_endpoints(store: &Store, cluster: &Cluster) -> bool {
    let endpoints = cluster.endpoints_name().map(|name| store.endpoints(name));
    !matches!(endpoints, Some(Known::Awaited))
}

/// Whether the endpoints of a cluster were waited for in vain, though it says that they are to be waited for however long they take.
pub(super) fn has_silent_endpoints(store: &Store, name: &str) -> bool {
    let Known::Good(cluster) = store.cluster(name) else { return false };
    if !store.is_patient(name) {
        return false;
    }
    let endpoints = cluster.endpoints_name().and_then(|name| store.get(ResourceKind::ClusterLoadAssignment, name));
    endpoints.is_some_and(|entry| !entry.is_there() && entry.state() == ResourceState::TimedOut)
}

fn entry(store: &Store, before: Option<&ClusterEntry>, name: &str) -> Option<ClusterEntry> {
    let Known::Good(cluster) = store.cluster(name) else { return None };
    let endpoints = match cluster.endpoints_name().map(|name| store.endpoints(name)) {
        None if !is_warm(store, name) => return before.cloned(),
        None => own_endpoints(cluster),
        Some(Known::Missing) => None,
        Some(Known::Good(endpoints)) => Some(endpoints.clone()),
        Some(Known::Awaited) => return before.cloned(),
    };
    Some(ClusterEntry { cluster: cluster.clone(), endpoints })
}

fn is_same(a: &ClusterEntry, b: &ClusterEntry) -> bool {
    let have_same_endpoints = match (&a.endpoints, &b.endpoints) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    Arc::ptr_eq(&a.cluster, &b.cluster) && have_same_endpoints
}
