//! One pass over the targets after something has changed, in slices between which others have their turn.
//!
//! To go through thousands of clusters and their routes takes tens of milliseconds, and it may be done on the runtime that
//! serves requests; where it is not, the source has its turn in between. So the registry is locked for a step at a time, and
//! each step stands by itself: a cluster is brought up to date whole; routes are compiled aside, and published whole when the
//! clusters that they use are there; what nothing uses any more goes last. What was published before is taken apart in slices
//! as well, and here (`retired`).
//!
//! What was planned before serves again: the plans of a virtual host that is the same, to clusters that are the same, behind
//! a listener that says the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt;
use mesh_core::{
    config::{Listener, Snapshot, TargetState, VirtualHost},
    memory,
    route::RouteTable,
};
use tokio::task::yield_now;

use super::{Compiled, Gathering, Parts, Registry, Routes, Target, is_same, unknown};
use crate::{
    cluster::Found,
    plan::{Plan, Planner},
};

/// A pass under way.
pub(in crate::mesh) struct Pass<'a> {
    parts: &'a Parts,
    registry: &'a Mutex<Registry>,
    /// How much is left of this slice.
    left: usize,
    /// How much a slice is.
    slice: usize,
}

/// Clusters to bring up to date, or virtual hosts to plan: some 50 us of them.
///
/// Counted rather than timed, so that a run under a paused clock takes the same steps twice.
pub(super) const SLICE: usize = 16 * STEP;

/// What one of those costs, where to see that something is the same costs one.
pub(super) const STEP: usize = 32;

// === impl Pass ===

impl<'a> Pass<'a> {
    /// Brings every target up to date, with the new snapshot of the source if there is one, and lets go of what nothing uses.
    pub(in crate::mesh) async fn over_all(
        parts: &'a Parts,
        registry: &'a Mutex<Registry>,
        snapshot: Option<Arc<Snapshot>>,
    ) {
        let mut pass = Self { parts, registry, left: SLICE, slice: SLICE };
        let (targets, before): (Vec<_>, _) = {
            let mut registry = pass.registry();
            registry.targets.retain(|target| target.strong_count() > 0);
            let before = snapshot.map(|snapshot| std::mem::replace(&mut registry.snapshot, snapshot));
            (registry.targets().collect(), before)
        };
        for target in targets {
            pass.refresh(&target).await;
            drop(target);
            parts.retired.take_apart().await;
        }
        pass.sweep().await;
        // Where the last target is gone, there was no turn for its routes above.
        parts.retired.take_apart().await;
        if let Some(before) = before {
            pass.let_go(before.take_apart()).await;
        }
    }

    /// Brings a target up to date that was just added, in one go: what its client asks for next should find it.
    pub(in crate::mesh) fn over_one(parts: &'a Parts, registry: &'a Mutex<Registry>, target: &Arc<Target>) {
        let mut pass = Self { parts, registry, left: usize::MAX, slice: usize::MAX };
        pass.refresh(target).now_or_never().expect("it waits at the end of a slice only");
        // Who follows the source may have given the same target routes at the same time.
        if !parts.retired.is_empty() {
            parts.poke.notify_one();
        }
    }

    async fn refresh(&mut self, target: &Arc<Target>) {
        let snapshot = self.registry().snapshot_of(target);
        let before = std::mem::take(&mut *target.gathered());
        self.let_go(before).await;
        match snapshot.targets.get(&target.name) {
            None => {}
            Some(TargetState::Ready(listener)) => self.compile(target, &snapshot, listener).await,
            // Who waits for it to change is not woken by the same again.
            Some(TargetState::Unavailable(reason)) if target.lacks_for(reason) => {}
            Some(TargetState::Unavailable(reason)) => {
                if let Some(_current) = self.current(target, &snapshot) {
                    target.publish(Routes::Unavailable(reason.clone()));
                }
            }
        }
        if let Some(mut registry) = self.current(target, &snapshot) {
            registry.reach(self.parts, target, &snapshot);
        }
    }

    async fn compile(&mut self, target: &Arc<Target>, snapshot: &Arc<Snapshot>, listener: &Arc<Listener>) {
        let mut gathering = Gathering::new(self.parts, target, snapshot);
        for route in listener.routes.virtual_hosts().iter().flat_map(|host| &host.routes) {
            for name in route.action.clusters() {
                if gathering.named.contains_key(&name) {
                    continue;
                }
                let added = self.current(target, snapshot).map(|mut registry| gathering.add(&mut registry, &name));
                if added.is_none() {
                    return;
                }
                self.step().await;
            }
        }
        let is_warm = gathering.is_warm;
        let clusters = gathering.finish();
        // The task that warms a cluster has everything refreshed again when it is done.
        if !is_warm || target.has(listener, &clusters) {
            return self.let_go(clusters).await;
        }
        let table = self.plan(target, listener, &clusters).await;
        let routes = Routes::Ready(Compiled { table, listener: listener.clone(), clusters });
        if let Some(_current) = self.current(target, snapshot) {
            target.publish(routes);
        }
    }

    /// The routes of `listener`, compiled. What was planned before and is the same is taken from there.
    async fn plan(
        &mut self,
        target: &Target,
        listener: &Listener,
        clusters: &BTreeMap<Arc<str>, Found>,
    ) -> RouteTable<Plan> {
        let active = |filter: &Arc<str>| self.registry().faults.of(target.scope(), listener.name(), filter);
        let find = |name: &str| clusters.get(name).cloned().unwrap_or_else(|| Err(unknown()));
        let planner = Planner::new(&target.profile, listener, active, &find);
        let mut compiling = RouteTable::begin(&listener.routes);
        let before = target.routes.load_full();
        let before = before.compiled().filter(|before| Planner::plans_alike(&before.listener, listener));
        let mut others = BTreeSet::new();
        if let Some(before) = before {
            compiling = compiling.after(&before.table);
            others = self.others(&before.clusters, clusters).await;
        }
        let is_same = |host: &VirtualHost| {
            let names = |name: &Arc<str>| others.contains(name);
            others.is_empty() || !host.routes.iter().any(|route| route.action.clusters().iter().any(names))
        };
        loop {
            let taken = compiling.take_over(STEP, is_same);
            self.spend(taken).await;
            if taken == STEP {
                continue;
            }
            if !compiling.advance(|host, route| planner.plan(host, route)) {
                return compiling.finish();
            }
            self.step().await;
        }
    }

    /// The clusters of `now` that are not the same as in `before`.
    async fn others(
        &mut self,
        before: &BTreeMap<Arc<str>, Found>,
        now: &BTreeMap<Arc<str>, Found>,
    ) -> BTreeSet<Arc<str>> {
        let mut others = BTreeSet::new();
        let mut before = before.iter().peekable();
        for (name, found) in now {
            while before.next_if(|(known, _)| !Arc::ptr_eq(known, name) && *known < name).is_some() {
                self.spend(1).await;
            }
            let known = before.next_if(|(known, _)| Arc::ptr_eq(known, name) || *known == name);
            if !known.is_some_and(|(_, known)| is_same(known, found)) {
                others.insert(name.clone());
            }
            self.spend(1).await;
        }
        others
    }

    async fn let_go<T>(&mut self, pieces: impl IntoIterator<Item = T>) {
        for piece in pieces {
            drop(piece);
            self.step().await;
        }
    }

    async fn sweep(&mut self) {
        let mut after = None;
        loop {
            after = self.registry().sweep(after, self.slice / STEP);
            if after.is_none() {
                return;
            }
            memory::settle();
            yield_now().await;
        }
    }

    /// The registry, as long as `snapshot` is what `target` is to follow. Otherwise somebody else's pass is newer.
    fn current(&self, target: &Target, snapshot: &Arc<Snapshot>) -> Option<MutexGuard<'a, Registry>> {
        let registry = self.registry();
        let is_current = !registry.is_closed && Arc::ptr_eq(&registry.snapshot_of(target), snapshot);
        is_current.then_some(registry)
    }

    fn registry(&self) -> MutexGuard<'a, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a step, and at the end of the slice gives others their turn.
    async fn step(&mut self) {
        self.spend(STEP).await;
    }

    async fn spend(&mut self, cost: usize) {
        self.left = self.left.saturating_sub(cost);
        if self.left == 0 {
            self.left = self.slice;
            memory::settle();
            yield_now().await;
        }
    }
}
