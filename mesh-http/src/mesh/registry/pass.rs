//! One pass over the targets after something has changed, in slices between which others have their turn.
//!
//! To go through thousands of clusters and their routes takes tens of milliseconds, and it may be done on the runtime that
//! serves requests; where it is not, the source has its turn in between. So the registry is locked for a step at a time, and
//! each step stands by itself: a cluster is brought up to date whole; routes are compiled aside, and published whole when the
//! clusters that they use are there; what nothing uses any more goes last. What was published before is taken apart in slices
//! as well, and here (`retired`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use mesh_core::{
    config::{Listener, Snapshot, TargetState},
    route::RouteTable,
};
use tokio::task::yield_now;

use super::{Compiled, Gathering, Parts, Registry, Routes, Target, unknown};
use crate::plan::Planner;

/// A pass under way.
pub(in crate::mesh) struct Pass<'a> {
    parts: &'a Parts,
    registry: &'a Mutex<Registry>,
    /// How many steps are left of this slice.
    left: usize,
    /// How many steps a slice has.
    slice: usize,
}

/// Clusters to bring up to date, or routes to plan: some 50 us of them.
///
/// Counted rather than timed, so that a run under a paused clock takes the same steps twice.
pub(super) const SLICE: usize = 16;

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
            pass.forget(before).await;
        }
    }

    /// Brings a target up to date that was just added, in one go: what its client asks for next should find it.
    pub(in crate::mesh) fn over_one(parts: &'a Parts, registry: &'a Mutex<Registry>, target: &Arc<Target>) {
        let mut pass = Self { parts, registry, left: usize::MAX, slice: usize::MAX };
        pass.refresh(target).now_or_never().expect("it waits at the end of a slice only");
    }

    async fn refresh(&mut self, target: &Arc<Target>) {
        let snapshot = self.registry().snapshot_of(target);
        target.gathered().clear();
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
            return;
        }
        let active = |filter: &Arc<str>| self.registry().faults.of(target.scope(), listener.name(), filter);
        let find = |name: &str| clusters.get(name).cloned().unwrap_or_else(|| Err(unknown()));
        let planner = Planner::new(&target.profile, listener, active, &find);
        let mut compiling = RouteTable::begin(&listener.routes);
        while compiling.advance(|host, route| planner.plan(host, route)) {
            self.step().await;
        }
        let table = compiling.finish();
        drop(planner);
        let routes = Routes::Ready(Compiled { table, listener: listener.clone(), clusters });
        if let Some(_current) = self.current(target, snapshot) {
            target.publish(routes);
        }
    }

    /// Drops what was in the snapshot before and is not in the new one.
    async fn forget(&mut self, before: Arc<Snapshot>) {
        let Some(before) = Arc::into_inner(before) else { return };
        for (_, cluster) in before.clusters {
            drop(cluster);
            self.step().await;
        }
    }

    async fn sweep(&mut self) {
        let mut after = None;
        loop {
            after = self.registry().sweep(after, self.slice);
            if after.is_none() {
                return;
            }
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
        self.left -= 1;
        if self.left == 0 {
            self.left = self.slice;
            yield_now().await;
        }
    }
}
