//! What clients of a mesh share, and how it follows the snapshots: targets with their compiled routes, and clusters.
//!
//! Everything here happens off the way of requests, under one lock that no request takes. An update goes make before
//! break: clusters first, then the routes that use them, then whatever nothing uses any more. It goes in slices (`pass`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use arc_swap::ArcSwap;
use mesh_core::{
    config::{self, Aggregate, ClusterEntry, Discovery, Endpoints, Listener, Snapshot},
    route::RouteTable,
    source::Interest,
};
use tokio::sync::Notify;

mod pass;
mod retired;

pub(super) use self::{pass::Pass, retired::Retired};
use super::{Parts, dns::LookUps, on_demand::OnDemand};
use crate::{
    cluster::{Cluster, Found},
    plan::{ActiveFaults, Plan, Profile},
};

/// The targets and clusters of a mesh.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    targets: Vec<Weak<Target>>,
    clusters: BTreeMap<Key, Entry>,
    snapshot: Arc<Snapshot>,
    faults: ActiveFaults,
    is_closed: bool,
}

/// Whose cluster it is. Clients that say the same of their clusters share them, under the name that the source gives; what a
/// client's own code named is its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    scope: u64,
    name: Arc<str>,
}

/// A cluster, and what it was last told.
#[derive(Debug)]
struct Entry {
    cluster: Arc<Cluster>,
    config: Arc<config::Cluster>,
    /// What its source said they are; none where they are looked up.
    endpoints: Option<Arc<Endpoints>>,
    /// Set where its endpoints come by DNS.
    look_ups: Option<LookUps>,
}

/// What a client is for: one route configuration, which may hold many hosts.
pub(crate) struct Target {
    pub(crate) name: Arc<str>,
    pub(crate) profile: Arc<Profile>,
    origin: Origin,
    routes: ArcSwap<Routes>,
    changed: Notify,
    /// What requests name themselves.
    pub(crate) on_demand: OnDemand,
    /// The clusters that the latest pass has found for it, in routes or not yet: one that is warm may wait for others.
    gathered: Mutex<BTreeSet<Arc<str>>>,
    retired: Arc<Retired>,
    /// Rung when the last client is gone, so that the clusters that only it used are let go of.
    poke: Arc<Notify>,
}

/// Where the configuration of a target comes from.
enum Origin {
    /// From code: this snapshot, for ever. The number keeps its clusters apart from everybody else's.
    Code { snapshot: Arc<Snapshot>, scope: u64 },
    /// From the source of the mesh. Targets of equal profile share the number, and so their clusters.
    Source { scope: u64, _interest: Interest },
}

/// What requests to a target find.
#[derive(Debug)]
pub(crate) enum Routes {
    /// Nothing is known yet.
    Waiting,
    /// They are here.
    Ready(Compiled),
    /// There are none, and why.
    Unavailable(Arc<str>),
    /// There never will be any more: the mesh was shut down.
    Closed,
}

/// The routes of a target, ready for requests.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) table: RouteTable<Plan>,
    listener: Arc<Listener>,
    /// Every cluster that routes name, as it was found when they were compiled; then those that they are made of.
    clusters: BTreeMap<Arc<str>, Found>,
}

/// The clusters of a snapshot on their way into the routes of a target.
struct Gathering<'a> {
    parts: &'a Parts,
    target: &'a Target,
    snapshot: &'a Snapshot,
    named: BTreeMap<Arc<str>, Found>,
    /// What those are made of.
    leaves: BTreeMap<Arc<str>, Found>,
    /// Whether the endpoints of all are known, or known not to be had.
    is_warm: bool,
}

// === impl Registry ===

impl Registry {
    /// Adds a target whose configuration stands in code, to be brought up to date.
    pub(crate) fn add_code(
        &mut self,
        parts: &Parts,
        name: Arc<str>,
        profile: Profile,
        snapshot: Snapshot,
    ) -> Arc<Target> {
        let origin = Origin::Code { snapshot: Arc::new(snapshot), scope: parts.next_number() };
        self.add(Target::new(parts, name, Arc::new(profile), origin))
    }

    /// Adds a target that the source of the mesh knows, to be brought up to date.
    pub(crate) fn add_steered(
        &mut self,
        parts: &Parts,
        name: Arc<str>,
        profile: Profile,
        interest: Interest,
    ) -> Arc<Target> {
        let twin = self.targets().find(|target| target.shares_scope_with(&profile));
        let (profile, scope) = match twin {
            Some(twin) => (twin.profile.clone(), twin.scope()),
            None => (Arc::new(profile), parts.next_number()),
        };
        self.add(Target::new(parts, name, profile, Origin::Source { scope, _interest: interest }))
    }

    fn add(&mut self, target: Target) -> Arc<Target> {
        let target = Arc::new(target);
        self.targets.push(Arc::downgrade(&target));
        target
    }

    /// Every cluster that is in use, by name.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.values().map(|entry| &entry.cluster)
    }

    /// Lets go of every cluster: their connections take nothing new.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        for target in self.targets().collect::<Vec<_>>() {
            target.publish(Routes::Closed);
        }
        for (_, Entry { cluster, look_ups, .. }) in std::mem::take(&mut self.clusters) {
            // They end first: nothing that they find may come after.
            drop(look_ups);
            cluster.update_endpoints(&Endpoints::none());
        }
    }

    /// The targets that clients hold.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Arc<Target>> + '_ {
        self.targets.iter().filter_map(Weak::upgrade)
    }

    /// Where the configuration of `target` stands.
    fn snapshot_of(&self, target: &Target) -> Arc<Snapshot> {
        match &target.origin {
            Origin::Code { snapshot, .. } => snapshot.clone(),
            Origin::Source { .. } => self.snapshot.clone(),
        }
    }

    /// Finds the clusters that requests of `target` have named, as far as they are there.
    fn reach(&mut self, parts: &Parts, target: &Target, snapshot: &Snapshot) {
        let names = target.on_demand.names();
        let (mut found, mut made_of) = (Vec::new(), BTreeSet::new());
        for name in names.into_iter().filter(|name| snapshot.clusters.contains_key(name)) {
            let mut gathering = Gathering::new(parts, target, snapshot);
            let cluster = gathering.find(self, &name);
            made_of.extend(gathering.leaves.into_keys());
            // One that has been found is not lost while it finds other endpoints.
            if gathering.is_warm || target.on_demand.uses(&name) {
                found.push((name, cluster));
            }
        }
        target.on_demand.publish(found, made_of);
    }

    /// The cluster that `said` speaks of, brought up to date.
    fn cluster(&mut self, parts: &Parts, target: &Target, said: &ClusterEntry) -> &Entry {
        let key = Key { scope: target.scope(), name: said.cluster.name().clone() };
        let make = || Entry::new(parts, &target.profile, said);
        let entry = self.clusters.entry(key).or_insert_with(make);
        if entry.cluster.leaves().is_some() != said.cluster.aggregate().is_some() {
            // It is another thing under the same name.
            *entry = make();
        }
        entry.update(parts, &target.profile, said);
        entry
    }

    /// Lets go of those that nothing uses among the next clusters. Returns the last that was looked at.
    fn sweep(&mut self, after: Option<Key>, most: usize) -> Option<Key> {
        let next = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let keys: Vec<_> = self.clusters.range(next).take(most).map(|(key, _)| key.clone()).collect();
        let targets: Vec<_> = self.targets().collect();
        let routes: Vec<_> = targets.iter().map(|target| (target, target.routes())).collect();
        let is_used = |key: &Key| {
            routes.iter().any(|(target, routes)| {
                target.scope() == key.scope
                    && (routes.names(&key.name)
                        || target.on_demand.uses(&key.name)
                        || target.gathered().contains(&key.name))
            })
        };
        for key in keys.iter().filter(|key| !is_used(key)) {
            // It serves the requests that have it, and retires its endpoints with the last of them.
            self.clusters.remove(key);
        }
        keys.last().cloned()
    }
}

// === impl Gathering ===

impl<'a> Gathering<'a> {
    fn new(parts: &'a Parts, target: &'a Target, snapshot: &'a Snapshot) -> Self {
        Self { parts, target, snapshot, named: BTreeMap::new(), leaves: BTreeMap::new(), is_warm: true }
    }

    /// Finds a cluster that routes name, and those that it is made of.
    fn add(&mut self, registry: &mut Registry, name: &Arc<str>) {
        let found = self.find(registry, name);
        self.named.insert(name.clone(), found);
    }

    fn find(&mut self, registry: &mut Registry, name: &Arc<str>) -> Found {
        let snapshot = self.snapshot;
        let said = snapshot.clusters.get(name).ok_or_else(unknown)?;
        match &said.cluster.discovery {
            Discovery::Unsupported(why) => Err(useless(why)),
            Discovery::Aggregate(_) => self.made_of_others(registry, name, said),
            _ => {
                let (cluster, is_warm) = self.bring_up_to_date(registry, said);
                self.is_warm &= is_warm;
                Ok(cluster)
            }
        }
    }

    /// A cluster that is made of others, which are brought up to date too. It changes over to them when they are warm.
    fn made_of_others(&mut self, registry: &mut Registry, name: &Arc<str>, said: &ClusterEntry) -> Found {
        let snapshot = self.snapshot;
        let known = |name: &str| snapshot.clusters.get(name).filter(|entry| is_honoured(&entry.cluster.discovery));
        let leaves = Aggregate::leaves(name, |name| known(name).map(|entry| &entry.cluster)).map_err(useless)?;
        let leaves = leaves.into_iter().filter_map(|name| known(&name).map(|said| (name, said)));
        let (mut found, mut are_warm) = (Vec::new(), true);
        for (name, said) in leaves {
            let (leaf, is_warm) = self.bring_up_to_date(registry, said);
            are_warm &= is_warm;
            found.push(leaf.clone());
            self.leaves.insert(name, Ok(leaf));
        }
        let (cluster, _) = self.bring_up_to_date(registry, said);
        if are_warm {
            cluster.update_leaves(found);
        }
        self.is_warm &= are_warm;
        Ok(cluster)
    }

    fn bring_up_to_date(&self, registry: &mut Registry, said: &ClusterEntry) -> (Arc<Cluster>, bool) {
        let entry = registry.cluster(self.parts, self.target, said);
        self.target.gathered().insert(said.cluster.name().clone());
        (entry.cluster.clone(), entry.is_warm())
    }

    /// All that was found.
    fn finish(self) -> BTreeMap<Arc<str>, Found> {
        let Self { mut named, leaves, .. } = self;
        for (name, found) in leaves {
            named.entry(name).or_insert(found);
        }
        named
    }
}

fn is_honoured(discovery: &Discovery) -> bool {
    !matches!(discovery, Discovery::Unsupported(_))
}

/// Whether requests that look for a cluster find the same.
fn is_same(a: &Found, b: &Found) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => Arc::ptr_eq(a, b),
        (Err(a), Err(b)) => a == b,
        _ => false,
    }
}

/// Why a cluster that nobody knows takes no requests.
fn unknown() -> Arc<str> {
    "is not known".into()
}

/// Why a cluster that is known takes none.
fn useless(why: impl fmt::Display) -> Arc<str> {
    format!("cannot be used: {why}").into()
}

// === impl Entry ===

impl Entry {
    fn new(parts: &Parts, profile: &Profile, said: &ClusterEntry) -> Self {
        let cluster = parts.new_cluster(profile, &said.cluster);
        let look_ups = LookUps::begin(parts, (&cluster, profile.rules), &said.cluster.discovery, None, false);
        // No endpoints yet: the first update sets them.
        Self { cluster, config: said.cluster.clone(), endpoints: None, look_ups }
    }

    /// Whether its endpoints are known, or known not to be had.
    fn is_warm(&self) -> bool {
        self.look_ups.as_ref().is_none_or(LookUps::are_warm)
    }

    fn update(&mut self, parts: &Parts, profile: &Profile, said: &ClusterEntry) {
        let has_moved = self.config.discovery != said.cluster.discovery;
        if has_moved {
            self.follow(parts, profile, &said.cluster.discovery);
        }
        if !Arc::ptr_eq(&self.config, &said.cluster) {
            self.cluster.update_policy(profile.cluster_policy(&said.cluster.policy));
            self.config = said.cluster.clone();
        }
        let endpoints = match &said.cluster.discovery {
            Discovery::Endpoints(_) => said.endpoints.as_ref(),
            Discovery::Static(own) => Some(own),
            Discovery::Dns(dns) if dns.hosts().is_empty() => None,
            // The look-ups find them, or they are other clusters'.
            Discovery::Dns(_) | Discovery::Aggregate(_) | Discovery::Unsupported(_) => return,
        };
        let is_known = match (&self.endpoints, endpoints) {
            (Some(held), Some(said)) => Arc::ptr_eq(held, said),
            (None, None) => true,
            _ => false,
        };
        if has_moved || !is_known {
            let none = Endpoints::none();
            self.cluster.update_endpoints(endpoints.map_or(&none, Arc::as_ref));
            self.endpoints = endpoints.cloned();
        }
    }

    /// Finds the endpoints in another way from now on. Those that are known serve until others are.
    fn follow(&mut self, parts: &Parts, profile: &Profile, discovery: &Discovery) {
        let others_serve = self.endpoints.take().is_some_and(|endpoints| !endpoints.is_empty());
        self.look_ups =
            LookUps::begin(parts, (&self.cluster, profile.rules), discovery, self.look_ups.take(), others_serve);
    }
}

// === impl Target ===

impl Target {
    fn new(parts: &Parts, name: Arc<str>, profile: Arc<Profile>, origin: Origin) -> Self {
        let (routes, changed) = (ArcSwap::from_pointee(Routes::Waiting), Notify::new());
        let on_demand = OnDemand::new();
        let (gathered, retired, poke) = (Mutex::default(), parts.retired.clone(), parts.poke.clone());
        Self { name, profile, origin, routes, changed, on_demand, gathered, retired, poke }
    }

    /// What requests find at this moment.
    pub(crate) fn routes(&self) -> arc_swap::Guard<Arc<Routes>> {
        self.routes.load()
    }

    /// Waits until something is known: routes, or that there are none.
    pub(crate) async fn known(&self) -> Arc<Routes> {
        let routes = self.routes.load_full();
        if matches!(*routes, Routes::Waiting) { self.other_than(&routes).await } else { routes }
    }

    /// Waits until something else is known than `seen`.
    pub(crate) async fn other_than(&self, seen: &Arc<Routes>) -> Arc<Routes> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let routes = self.routes.load_full();
            if !Arc::ptr_eq(seen, &routes) {
                return routes;
            }
            changed.await;
        }
    }

    /// Whether requests find that there are no routes for this reason.
    fn lacks_for(&self, reason: &str) -> bool {
        matches!(&**self.routes(), Routes::Unavailable(known) if **known == *reason)
    }

    /// The names of the clusters that the latest pass has found for it.
    fn gathered(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests find these from now on.
    fn publish(&self, routes: Routes) {
        self.retired.put(self.routes.swap(Arc::new(routes)));
        self.changed.notify_waiters();
    }

    fn scope(&self) -> u64 {
        match self.origin {
            Origin::Code { scope, .. } | Origin::Source { scope, .. } => scope,
        }
    }

    /// Whether the source of the mesh steers it.
    pub(super) fn is_steered(&self) -> bool {
        matches!(self.origin, Origin::Source { .. })
    }

    fn shares_scope_with(&self, profile: &Profile) -> bool {
        self.is_steered() && *self.profile == *profile
    }

    /// Whether the routes in force were compiled from just these.
    fn has(&self, listener: &Arc<Listener>, clusters: &BTreeMap<Arc<str>, Found>) -> bool {
        self.routes().compiled().is_some_and(|compiled| {
            let mut pairs = compiled.clusters.iter().zip(clusters);
            Arc::ptr_eq(&compiled.listener, listener)
                && compiled.clusters.len() == clusters.len()
                && pairs.all(|(a, b)| (Arc::ptr_eq(a.0, b.0) || a.0 == b.0) && is_same(a.1, b.1))
        })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.publish(Routes::Closed);
        self.poke.notify_one();
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl Compiled ===

impl Compiled {
    /// The cluster of this name, if routes of the target name it.
    pub(crate) fn cluster(&self, name: &str) -> Option<&Found> {
        self.clusters.get(name)
    }
}

// === impl Routes ===

impl Routes {
    /// Why there are none, where there are none.
    pub(crate) fn lacking(&self) -> Option<Arc<str>> {
        match self {
            Self::Waiting => Some("waiting for its configuration".into()),
            Self::Ready(_) => None,
            Self::Unavailable(reason) => Some(reason.clone()),
            Self::Closed => Some("the mesh was shut down".into()),
        }
    }

    fn compiled(&self) -> Option<&Compiled> {
        if let Self::Ready(compiled) = self { Some(compiled) } else { None }
    }

    /// Whether the routes name a cluster.
    fn names(&self, cluster: &str) -> bool {
        self.compiled().is_some_and(|compiled| compiled.clusters.contains_key(cluster))
    }
}
