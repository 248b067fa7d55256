//! From the resources that are held and the targets that are watched to one consistent snapshot, and to the names that must
//! be asked for.
//!
//! ```text
//! target -> Listener -> RouteConfiguration -> Cluster -> ClusterLoadAssignment
//! ```
//!
//! What leads from a target to its routes differs by dialect, and `lead` knows; in that of sidecars there is no listener, and
//! every cluster is held whether a route names it or not. What comes after the routes is the same.
//!
//! The graph is walked from the targets: what is reached is wanted, and whatever is no longer reached is not (mark and
//! sweep), so nothing is left behind when clusters come and go. On the way each target is in one of three conditions:
//!
//! - its routes are *warm*: every cluster that they name is known with its endpoints, or known not to come (absent, refused,
//!   or waited for in vain). They serve from now on;
//! - they are *warming*: the routes before them go on serving, and so do those routes' clusters;
//! - there are none, and never were: the target is unavailable, and says why.
//!
//! A cluster warms in the same way where it moves to other endpoints, or comes to be made of other clusters; what it is made of
//! is reached through it. A cluster that does not exist is simply not in the snapshot, and fails what is routed to it and
//! nothing else.
//!
//! Which clusters requests name themselves (`cluster_header`) cannot be told in advance. They are demanded one by one, and in
//! the snapshot as soon as they are warm.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::config::{Cluster, ClusterEntry, Discovery, Endpoints, Listener, RouteConfig, Snapshot, TargetState};

use crate::{
    Dialect, ResourceKind,
    istio::names::INBOUND,
    name::canonical_arc,
    resource::{ListenerResource, RouteSource},
    store::{Changes, Known, Store},
};

mod lead;
mod reach;

pub(crate) use self::lead::Lead;
use self::lead::{Found, Gone};

/// The targets that are watched, and what was last published of them.
#[derive(Debug)]
pub(crate) struct Assembly {
    /// Told to whoever reads why a target is unavailable, as the key to the control plane's own logs.
    node_id: String,
    dialect: Dialect,
    targets: BTreeMap<Arc<str>, Target>,
    /// The clusters that somebody asks for whatever routes name, and how many do.
    demanded: BTreeMap<Arc<str>, usize>,
    snapshot: Arc<Snapshot>,
    /// Set by a change of endpoints, taken by the next.
    spare: Option<Spare>,
    /// The clusters of the snapshot by the name of their endpoints.
    by_endpoints: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

/// The snapshot before the last, to be brought up to date and published in its turn: among ten thousand clusters of which one
/// has changed, to change one costs less than to copy all.
#[derive(Debug)]
struct Spare {
    snapshot: Arc<Snapshot>,
    /// The clusters that have other endpoints in the last one.
    behind: Vec<Arc<str>>,
}

/// The names to ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// By [`ResourceKind::index`].
    names: [BTreeSet<Arc<str>>; ResourceKind::ALL.len()],
    /// The kind of which everything is wanted that there is.
    everything: Option<ResourceKind>,
}

/// What came of assembling.
#[derive(Debug)]
pub(crate) struct Assembled {
    /// The snapshot, if it differs from the last one.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// The names to ask for, if they may differ from the last ones.
    pub(crate) wanted: Option<Wanted>,
}

/// A target that somebody watches.
#[derive(Debug)]
struct Target {
    users: usize,
    /// What leads to its routes, or why nothing does.
    lead: Result<Lead, Arc<str>>,
    /// The routes that serve.
    serving: Option<Candidate>,
    /// The routes that will serve once they are warm.
    warming: Option<Candidate>,
    /// What is published. None until there is anything to say.
    state: Option<TargetState>,
}

/// A listener whose routes are known.
#[derive(Debug)]
struct Candidate {
    source: Arc<ListenerResource>,
    listener: Arc<Listener>,
    clusters: Vec<Arc<str>>,
}

// === impl Assembly ===

impl Assembly {
    pub(crate) fn new(node_id: impl Into<String>, dialect: Dialect) -> Self {
        Self {
            node_id: node_id.into(),
            dialect,
            targets: BTreeMap::new(),
            demanded: BTreeMap::new(),
            snapshot: Arc::default(),
            spare: None,
            by_endpoints: BTreeMap::new(),
        }
    }

    /// Another user of `target`, to whose routes this leads, or nothing for this reason.
    pub(crate) fn watch(&mut self, target: Arc<str>, lead: impl FnOnce() -> Result<Lead, Arc<str>>) {
        let target = self.targets.entry(target).or_insert_with(|| Target {
            users: 0,
            lead: lead(),
            serving: None,
            warming: None,
            state: None,
        });
        target.users += 1;
    }

    /// A user of `target` less.
    pub(crate) fn release(&mut self, target: &str) {
        let Some(watched) = self.targets.get_mut(target) else { return };
        watched.users -= 1;
        if watched.users == 0 {
            self.targets.remove(target);
        }
    }

    /// Another user of the cluster `name`, whatever routes name.
    pub(crate) fn demand(&mut self, name: Arc<str>) {
        *self.demanded.entry(name).or_default() += 1;
    }

    /// A user of the cluster `name` less.
    pub(crate) fn waive(&mut self, name: &str) {
        let Some(users) = self.demanded.get_mut(name) else { return };
        *users -= 1;
        if *users == 0 {
            self.demanded.remove(name);
        }
    }

    /// Makes the next snapshot of what is held.
    pub(crate) fn assemble(&mut self, store: &Store, changes: &Changes) -> Assembled {
        if changes.structure {
            return self.rebuild(store);
        }
        Assembled { snapshot: self.refresh(store, &changes.endpoints), wanted: None }
    }

    fn rebuild(&mut self, store: &Store) -> Assembled {
        let mut wanted = Wanted::of_dialect(self.dialect);
        for target in self.targets.values_mut() {
            target.advance(store, &self.node_id);
            target.mark(store, &mut wanted);
        }
        self.demanded.keys().for_each(|name| wanted.add(ResourceKind::Cluster, name));
        wanted.mark_parts(store, &self.snapshot);
        wanted.mark_endpoints(store);

        let states = self.targets.iter().filter_map(|(name, target)| Some((name.clone(), target.state.clone()?)));
        let next = Snapshot {
            generation: self.snapshot.generation + 1,
            targets: states.collect(),
            clusters: self.clusters(store),
        };
        if is_same(&next, &self.snapshot) {
            return Assembled { snapshot: None, wanted: Some(wanted) };
        }
        self.by_endpoints.clear();
        for (name, entry) in &next.clusters {
            if let Some(endpoints) = entry.cluster.endpoints_name() {
                self.by_endpoints.entry(canonical_arc(endpoints)).or_default().push(name.clone());
            }
        }
        Assembled { snapshot: Some(self.publish(next)), wanted: Some(wanted) }
    }

    /// The clusters of all routes that serve, and those that are asked for beside them, as soon as they are warm.
    fn clusters(&self, store: &Store) -> BTreeMap<Arc<str>, ClusterEntry> {
        let serving = self.targets.values().filter_map(|target| target.serving.as_ref());
        let serves = |name: &&Arc<str>| self.snapshot.clusters.contains_key(*name) || reach::is_warm(store, name);
        let names = serving.flat_map(|candidate| &candidate.clusters).chain(self.demanded.keys().filter(serves));
        reach::entries(store, &self.snapshot, names.cloned())
    }

    /// The same snapshot with other endpoints: by far the most frequent change.
    fn refresh(&mut self, store: &Store, changed: &BTreeSet<Arc<str>>) -> Option<Arc<Snapshot>> {
        let users = || changed.iter().filter_map(|name| Some((name, self.by_endpoints.get(name)?)));
        users().next()?;
        let copy = || Snapshot::clone(&self.snapshot);
        let mut next = self.spare.take().and_then(|spare| spare.follow(&self.snapshot)).unwrap_or_else(copy);
        next.generation = self.snapshot.generation + 1;
        let mut behind = Vec::new();
        for (name, clusters) in users() {
            let Known::Good(endpoints) = store.endpoints(name) else { continue };
            for cluster in clusters {
                if let Some(entry) = next.clusters.get_mut(cluster) {
                    entry.endpoints = Some(endpoints.clone());
                    behind.push(cluster.clone());
                }
            }
        }
        let last = self.snapshot.clone();
        let present = self.publish(next);
        self.spare = Some(Spare { snapshot: last, behind });
        Some(present)
    }

    fn publish(&mut self, snapshot: Snapshot) -> Arc<Snapshot> {
        self.spare = None;
        self.snapshot = Arc::new(snapshot);
        self.snapshot.clone()
    }
}

/// The endpoints that a cluster brings along. Those of names are the mesh's to find.
fn own_endpoints(cluster: &Cluster) -> Option<Arc<Endpoints>> {
    match &cluster.discovery {
        Discovery::Static(endpoints) => Some(endpoints.clone()),
        _ => None,
    }
}

/// Whether a reader who compares pointers would find nothing new.
fn is_same(a: &Snapshot, b: &Snapshot) -> bool {
    let same_state = |a: &TargetState, b: &TargetState| match (a, b) {
        (TargetState::Ready(a), TargetState::Ready(b)) => Arc::ptr_eq(a, b),
        (TargetState::Unavailable(a), TargetState::Unavailable(b)) => a == b,
        _ => false,
    };
    let same_endpoints = |a: &ClusterEntry, b: &ClusterEntry| match (&a.endpoints, &b.endpoints) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    let same_entry = |a: &ClusterEntry, b: &ClusterEntry| Arc::ptr_eq(&a.cluster, &b.cluster) && same_endpoints(a, b);
    a.targets.len() == b.targets.len()
        && a.clusters.len() == b.clusters.len()
        && a.targets.iter().zip(&b.targets).all(|(a, b)| a.0 == b.0 && same_state(a.1, b.1))
        && a.clusters.iter().zip(&b.clusters).all(|(a, b)| a.0 == b.0 && same_entry(a.1, b.1))
}

// === impl Spare ===

impl Spare {
    /// The same as `present`, unless somebody reads the spare still.
    fn follow(self, present: &Snapshot) -> Option<Snapshot> {
        let mut snapshot = Arc::into_inner(self.snapshot)?;
        for name in &self.behind {
            let entry = snapshot.clusters.get_mut(name)?;
            entry.endpoints.clone_from(&present.clusters.get(name)?.endpoints);
        }
        Some(snapshot)
    }
}

// === impl Target ===

impl Target {
    /// Takes the step that the resources allow.
    fn advance(&mut self, store: &Store, node_id: &str) {
        let lead = match &self.lead {
            Ok(lead) => lead,
            Err(reason) => {
                self.state = Some(TargetState::Unavailable(reason.clone()));
                return;
            }
        };
        match lead.find(store) {
            Found::Routes(source, routes) => {
                let (source, routes) = (source.clone(), routes.clone());
                self.follow(store, &source, &routes);
            }
            Found::Awaited => {}
            // Only a removal by the server takes away what leads to routes, and the routes go with it.
            Found::Gone(gone) => {
                let reason = gone.why(store, node_id);
                self.serving = None;
                self.warming = None;
                self.state = Some(TargetState::Unavailable(reason));
            }
            Found::NoRoutes(routes) => {
                let reason = Gone::Resource(ResourceKind::RouteConfiguration, routes).why(store, node_id);
                self.warming = None;
                // Other routes that are missing leave those before them serving; these very routes were taken away.
                self.serving = self.serving.take().filter(|serving| !serving.is_by_name(routes));
                if self.serving.is_none() {
                    self.state = Some(TargetState::Unavailable(reason));
                }
            }
        }
    }

    /// Follows these routes, as soon as they are warm.
    fn follow(&mut self, store: &Store, source: &Arc<ListenerResource>, routes: &Arc<RouteConfig>) {
        let is_this = |candidate: &Candidate| candidate.is_of(source, routes);
        if self.serving.as_ref().is_some_and(is_this) {
            self.warming = None;
            return;
        }
        let candidate = self.warming.take().filter(is_this).unwrap_or_else(|| Candidate::new(source, routes));
        if !candidate.clusters.iter().all(|cluster| reach::is_warm(store, cluster)) {
            self.warming = Some(candidate);
            return;
        }
        self.state = Some(TargetState::Ready(candidate.listener.clone()));
        self.serving = Some(candidate);
    }

    /// Marks what leads to the routes, and the clusters of what serves and of what is to serve.
    fn mark(&self, store: &Store, wanted: &mut Wanted) {
        let Ok(lead) = &self.lead else { return };
        lead.mark(store, |kind, name| wanted.add(kind, name));
        for cluster in self.serving.iter().chain(&self.warming).flat_map(|candidate| &candidate.clusters) {
            wanted.add(ResourceKind::Cluster, cluster);
        }
    }
}

// === impl Candidate ===

impl Candidate {
    fn new(source: &Arc<ListenerResource>, routes: &Arc<RouteConfig>) -> Self {
        let mut listener = Listener::new(source.name.clone(), routes.clone());
        listener.filters.clone_from(&source.filters);
        listener.policy = source.policy.clone();
        Self { source: source.clone(), listener: Arc::new(listener), clusters: routes.clusters() }
    }

    /// Whether its routes go by this name.
    fn is_by_name(&self, name: &str) -> bool {
        matches!(&self.source.routes, RouteSource::Named(routes) if **routes == *name)
    }

    fn is_of(&self, source: &Arc<ListenerResource>, routes: &Arc<RouteConfig>) -> bool {
        Arc::ptr_eq(&self.source, source) && Arc::ptr_eq(&self.listener.routes, routes)
    }
}

// === impl Wanted ===

impl Wanted {
    /// What a dialect wants whatever the targets are.
    fn of_dialect(dialect: Dialect) -> Self {
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

    fn add(&mut self, kind: ResourceKind, name: &Arc<str>) {
        let names = &mut self.names[kind.index()];
        let name = canonical_arc(name);
        if !names.contains(&name) {
            names.insert(name);
        }
    }

    /// Marks what the clusters that are wanted are made of.
    fn mark_parts(&mut self, store: &Store, last: &Snapshot) {
        let named: Vec<_> = self.of(ResourceKind::Cluster).iter().cloned().collect();
        reach::descend(named, |name| {
            self.add(ResourceKind::Cluster, name);
            reach::wanted_parts(store, last, name)
        });
    }

    fn mark_endpoints(&mut self, store: &Store) {
        let clusters = self.of(ResourceKind::Cluster).iter().filter_map(|name| match store.cluster(name) {
            Known::Good(cluster) => cluster.endpoints_name().map(canonical_arc),
            Known::Awaited | Known::Missing => None,
        });
        self.names[ResourceKind::ClusterLoadAssignment.index()] = clusters.collect();
    }
}

#[cfg(all(test, feature = "testkit"))]
mod tests;
