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
//! - they are *warming*: the routes before them go on serving, and so do those routes' clusters; in the dialect of sidecars
//!   they do so as long as a cluster has no endpoints that says to wait for them (`initial_fetch_timeout` of 0);
//! - there are none, and never were: the target is unavailable, and says why.
//!
//! A cluster warms in the same way where it moves to other endpoints, or comes to be made of other clusters; what it is made of
//! is reached through it. A cluster that does not exist is simply not in the snapshot, and fails what is routed to it and
//! nothing else.
//!
//! All of it goes in slices, since there may be thousands of everything. What is held is locked for a look at a time, and the
//! worker changes nothing of it, nor of the targets, until the snapshot is there. Dropped half-way, it leaves the last one
//! in force, and has to be done again from the beginning.
//!
//! Which clusters requests name themselves (`cluster_header`) cannot be told in advance. They are demanded one by one, and in
//! the snapshot as soon as they are warm.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::config::{Cluster, Discovery, Endpoints, Listener, Snapshot, TargetState};

use crate::{
    Dialect, ResourceKind,
    pace::Pace,
    status::Shared,
    store::{Changes, Known},
};

mod lead;
mod reach;
mod target;
mod wanted;

pub(crate) use self::{lead::Lead, wanted::Wanted};
use self::{reach::Entries, target::Target};

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
    /// The clusters of the snapshot whose endpoints go by another name than they do, by that name.
    aliases: Aliases,
    /// What was replaced, until [`let_go`](Self::let_go).
    retired: Retired,
}

/// The snapshot before the last, to be brought up to date and published in its turn: among ten thousand clusters of which one
/// has changed, to change one costs less than to copy all.
#[derive(Debug)]
struct Spare {
    snapshot: Arc<Snapshot>,
    /// The clusters that have other endpoints in the last one.
    behind: Vec<Arc<str>>,
}

type Aliases = BTreeMap<Arc<str>, Vec<Arc<str>>>;

/// What was replaced, and should not be dropped in one go.
#[derive(Debug, Default)]
struct Retired {
    snapshots: Vec<Arc<Snapshot>>,
    listeners: Vec<Arc<Listener>>,
    names: Vec<BTreeSet<Arc<str>>>,
    aliases: Vec<Aliases>,
}

/// What came of assembling.
#[derive(Debug)]
pub(crate) struct Assembled {
    /// The snapshot, if it differs from the last one.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// The names to ask for, if they may differ from the last ones.
    pub(crate) wanted: Option<Wanted>,
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
            aliases: Aliases::new(),
            retired: Retired::default(),
        }
    }

    /// Another user of `target`, to whose routes this leads, or nothing for this reason.
    pub(crate) fn watch(&mut self, target: Arc<str>, lead: impl FnOnce() -> Result<Lead, Arc<str>>) {
        self.targets.entry(target).or_insert_with(|| Target::new(lead())).users += 1;
    }

    /// A user of `target` less.
    pub(crate) fn release(&mut self, target: &str) {
        let Some(watched) = self.targets.get_mut(target) else { return };
        watched.users -= 1;
        if watched.users == 0
            && let Some(target) = self.targets.remove(target)
        {
            target.retire(&mut self.retired);
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
    pub(crate) async fn assemble(&mut self, shared: &Shared, changes: &Changes, pace: &mut Pace) -> Assembled {
        if changes.structure {
            return self.rebuild(shared, pace).await;
        }
        Assembled { snapshot: self.refresh(shared, &changes.endpoints, pace).await, wanted: None }
    }

    /// Takes apart what was replaced. To be called when the new has been published.
    pub(crate) async fn let_go(&mut self, pace: &mut Pace) {
        let Retired { snapshots, listeners, names, aliases } = std::mem::take(&mut self.retired);
        for snapshot in snapshots {
            pace.let_go(snapshot.take_apart()).await;
        }
        for listener in listeners {
            pace.let_go(listener.take_apart()).await;
        }
        pace.let_go(names.into_iter().flatten()).await;
        pace.let_go(aliases.into_iter().flatten()).await;
    }

    async fn rebuild(&mut self, shared: &Shared, pace: &mut Pace) -> Assembled {
        for target in self.targets.values_mut() {
            target.advance(shared, &self.node_id, &mut self.retired, pace).await;
            pace.step().await;
        }
        let wanted = self.wanted(shared, pace).await;
        let clusters = self.clusters(shared, pace).await;
        let states = self.targets.iter().filter_map(|(name, target)| Some((name.clone(), target.state()?.clone())));
        let targets = states.collect();
        if clusters.are_those_of_before() && are_same(&targets, &self.snapshot.targets) {
            pace.let_go(clusters.entries).await;
            return Assembled { snapshot: None, wanted: Some(wanted) };
        }
        let Entries { entries, aliases, .. } = clusters;
        self.retired.aliases.push(std::mem::replace(&mut self.aliases, aliases));
        let generation = self.snapshot.generation + 1;
        let snapshot = self.publish(Snapshot { generation, targets, clusters: entries });
        Assembled { snapshot: Some(snapshot), wanted: Some(wanted) }
    }

    /// All names that are to be asked for.
    async fn wanted(&self, shared: &Shared, pace: &mut Pace) -> Wanted {
        let mut wanted = Wanted::of_dialect(self.dialect);
        for target in self.targets.values() {
            target.mark(&shared.held().store, &mut wanted);
            pace.step().await;
            for cluster in target.clusters() {
                wanted.add(ResourceKind::Cluster, cluster);
                pace.step().await;
            }
        }
        self.demanded.keys().for_each(|name| wanted.add(ResourceKind::Cluster, name));
        wanted.mark_below(shared, &self.snapshot, pace).await;
        wanted
    }

    /// The clusters of all routes that serve, and those that are asked for beside them, as soon as they are warm.
    async fn clusters(&self, shared: &Shared, pace: &mut Pace) -> Entries<'_> {
        let last = &self.snapshot.clusters;
        let mut entries = Entries::new(last);
        for name in self.targets.values().flat_map(Target::serving) {
            entries.add(&shared.held().store, name);
            pace.step().await;
        }
        for name in self.demanded.keys() {
            let serves = last.contains_key(name) || reach::is_warm(&shared.held().store, name);
            if serves {
                entries.add(&shared.held().store, name);
            }
            pace.step().await;
        }
        entries.descend(shared, pace).await;
        entries
    }

    /// The same snapshot with other endpoints: by far the most frequent change.
    async fn refresh(
        &mut self,
        shared: &Shared,
        changed: &BTreeSet<Arc<str>>,
        pace: &mut Pace,
    ) -> Option<Arc<Snapshot>> {
        changed.iter().find(|name| self.users(name).next().is_some())?;
        let spare = match self.spare.take() {
            Some(spare) => spare.follow(&self.snapshot, pace).await,
            None => None,
        };
        let mut next = match spare {
            Some(spare) => spare,
            None => self.copy(pace).await,
        };
        next.generation = self.snapshot.generation + 1;
        let mut behind = Vec::new();
        for name in changed {
            if let Known::Good(endpoints) = shared.held().store.endpoints(name) {
                for cluster in self.users(name) {
                    let Some(entry) = next.clusters.get_mut(cluster) else { continue };
                    entry.endpoints = Some(endpoints.clone());
                    behind.push(cluster.clone());
                }
            }
            pace.step().await;
        }
        let last = self.snapshot.clone();
        let present = self.publish(next);
        self.spare = Some(Spare { snapshot: last, behind });
        Some(present)
    }

    /// The clusters of the snapshot that have the endpoints of this name.
    fn users(&self, endpoints: &Arc<str>) -> impl Iterator<Item = &Arc<str>> {
        let namesake = self.snapshot.clusters.get_key_value(endpoints);
        let namesake = namesake.filter(|(name, entry)| reach::is_namesake(name, &entry.cluster));
        namesake.map(|(name, _)| name).into_iter().chain(self.aliases.get(endpoints).into_iter().flatten())
    }

    async fn copy(&self, pace: &mut Pace) -> Snapshot {
        let Snapshot { generation, targets, clusters } = &*self.snapshot;
        let mut copy = Snapshot { generation: *generation, targets: targets.clone(), clusters: BTreeMap::new() };
        for (name, entry) in clusters {
            copy.clusters.insert(name.clone(), entry.clone());
            pace.step().await;
        }
        copy
    }

    fn publish(&mut self, snapshot: Snapshot) -> Arc<Snapshot> {
        let snapshot = Arc::new(snapshot);
        self.retired.snapshots.extend(self.spare.take().map(|spare| spare.snapshot));
        self.retired.snapshots.push(std::mem::replace(&mut self.snapshot, snapshot.clone()));
        snapshot
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
fn are_same(a: &BTreeMap<Arc<str>, TargetState>, b: &BTreeMap<Arc<str>, TargetState>) -> bool {
    let same_state = |a: &TargetState, b: &TargetState| match (a, b) {
        (TargetState::Ready(a), TargetState::Ready(b)) => Arc::ptr_eq(a, b),
        (TargetState::Unavailable(a), TargetState::Unavailable(b)) => a == b,
        _ => false,
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && same_state(a.1, b.1))
}

// === impl Spare ===

impl Spare {
    /// The same as `present`, unless somebody reads the spare still.
    async fn follow(self, present: &Snapshot, pace: &mut Pace) -> Option<Snapshot> {
        let mut snapshot = Arc::into_inner(self.snapshot)?;
        for name in &self.behind {
            let entry = snapshot.clusters.get_mut(name)?;
            entry.endpoints.clone_from(&present.clusters.get(name)?.endpoints);
            pace.step().await;
        }
        Some(snapshot)
    }
}

#[cfg(all(test, feature = "testkit"))]
mod tests;
