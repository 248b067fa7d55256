//! Clusters that requests name themselves (`RouteAction.cluster_header`), where no route does: asked for by the first request,
//! let go of when none has come for a while (Envoy's on-demand CDS).
//!
//! Who sends requests may be a stranger, so names are bounded in length and number. One that came to nothing makes room for
//! another after the time that requests wait for it, and one that leads somewhere keeps its place while it is used. Which names
//! may not be asked for at all is for the source to say, who knows what they would mean.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use mesh_core::source::{ConfigSource, Interest};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{Parts, Target};
use crate::cluster::Found;

/// How many clusters the requests of a target may have asked for at a time.
const MOST: usize = 256;
/// The longest name that is asked for, in bytes.
const LONGEST: usize = 256;
/// How long requests wait for a cluster that is asked for, from the first of them on (Envoy's default).
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a cluster is kept that no request goes to.
const IDLE: Duration = Duration::from_secs(300);

/// The clusters that the requests of a target have named.
pub(crate) struct OnDemand {
    epoch: Instant,
    demands: Mutex<Demands>,
    reached: ArcSwap<Reached>,
    /// Rung when others are reached.
    changed: Notify,
}

#[derive(Default)]
struct Demands {
    by_name: BTreeMap<Arc<str>, Demand>,
    /// Whether a task looks for those that are idle.
    are_watched: bool,
}

/// A cluster that is asked for.
struct Demand {
    since: Instant,
    last_use: Arc<LastUse>,
    _interest: Interest,
}

/// The clusters that requests find.
#[derive(Default)]
struct Reached {
    by_name: BTreeMap<Arc<str>, (Found, Arc<LastUse>)>,
    /// What those are made of.
    parts: BTreeSet<Arc<str>>,
}

/// In milliseconds from the epoch.
#[derive(Default)]
struct LastUse(AtomicU64);

// === impl OnDemand ===

impl OnDemand {
    /// Nothing is asked for yet.
    pub(super) fn new() -> Self {
        let epoch = Instant::now();
        Self { epoch, demands: Mutex::default(), reached: ArcSwap::default(), changed: Notify::new() }
    }

    /// The cluster `name`, for a request at `now`, if it was asked for and is there.
    pub(crate) fn find(&self, name: &str, now: Instant) -> Option<Found> {
        let reached = self.reached.load();
        let (found, last_use) = reached.by_name.get(name)?;
        last_use.0.store(self.millis(now), Ordering::Relaxed);
        Some(found.clone())
    }

    /// Waits until the cluster `name` is there, and can be used.
    pub(crate) async fn reached(&self, name: &str) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.reached.load().leads_to(name) {
                return;
            }
            changed.await;
        }
    }

    /// Until when a request may wait for the cluster `name`, which is asked for if it was not before; none where there is no
    /// more to wait for, or no room.
    pub(super) fn ask(&self, name: &str, now: Instant, source: &dyn ConfigSource) -> Option<Instant> {
        let mut demands = self.demands();
        let reached = self.reached.load();
        if let Some(demand) = demands.by_name.get(name) {
            demand.last_use.0.store(self.millis(now), Ordering::Relaxed);
            // One that is there and cannot be used will be no better for waiting.
            let is_useless = reached.by_name.contains_key(name) && !reached.leads_to(name);
            return Some(demand.since + PATIENCE).filter(|until| *until > now && !is_useless);
        }
        if name.is_empty() || name.len() > LONGEST || !demands.have_room(&reached, now) {
            tracing::debug!(cluster = name, "cluster is not asked for: its name is too long, or there are too many");
            return None;
        }
        let interest = source.demand(name)?;
        let last_use = LastUse(AtomicU64::new(self.millis(now)));
        let demand = Demand { since: now, last_use: Arc::new(last_use), _interest: interest };
        demands.by_name.insert(name.into(), demand);
        Some(now + PATIENCE)
    }

    /// Lets go of what is idle, from now on, as long as anything is asked for. Does nothing where that is done already.
    pub(super) fn watch(target: &Arc<Target>, parts: &Parts) {
        let this = &target.on_demand;
        if std::mem::replace(&mut this.demands().are_watched, true) {
            return;
        }
        let (target, poke) = (Arc::downgrade(target), parts.poke.clone());
        parts.tasks.work(async move {
            loop {
                sleep(IDLE / 2).await;
                match Weak::upgrade(&target).map(|target| target.on_demand.release_idle()) {
                    Some(Left::None) | None => return poke.notify_one(),
                    Some(Left::Fewer) => poke.notify_one(),
                    Some(Left::All) => {}
                }
            }
        });
    }

    /// Everything that is asked for.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.demands().by_name.keys().cloned().collect()
    }

    /// Whether requests find the cluster `name`, by itself or as a part of another.
    pub(super) fn uses(&self, name: &str) -> bool {
        let reached = self.reached.load();
        reached.by_name.contains_key(name) || reached.parts.contains(name)
    }

    /// Requests find these from now on, which are made of `parts`.
    pub(super) fn publish(&self, found: Vec<(Arc<str>, Found)>, parts: BTreeSet<Arc<str>>) {
        let demands = self.demands();
        let last_use = |name: &Arc<str>| Some(demands.by_name.get(name)?.last_use.clone());
        let by_name: BTreeMap<_, _> =
            found.into_iter().filter_map(|(name, found)| Some((name.clone(), (found, last_use(&name)?)))).collect();
        if by_name.is_empty() && self.reached.load().by_name.is_empty() {
            return;
        }
        self.reached.store(Arc::new(Reached { by_name, parts }));
        drop(demands);
        self.changed.notify_waiters();
    }

    fn release_idle(&self) -> Left {
        let now = self.millis(Instant::now());
        let mut demands = self.demands();
        let before = demands.by_name.len();
        demands.by_name.retain(|_, demand| demand.last_use.0.load(Ordering::Relaxed) + IDLE.as_millis() as u64 > now);
        match demands.by_name.len() {
            0 => {
                demands.are_watched = false;
                Left::None
            }
            after if after < before => Left::Fewer,
            _ => Left::All,
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_millis() as u64
    }

    fn demands(&self) -> MutexGuard<'_, Demands> {
        self.demands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// What is left when idle ones have gone.
enum Left {
    None,
    Fewer,
    All,
}

// === impl Reached ===

impl Reached {
    fn leads_to(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|(found, _)| found.is_ok())
    }
}

// === impl Demands ===

impl Demands {
    /// Whether one more may be asked for, if need be in place of the oldest that came to nothing.
    fn have_room(&mut self, reached: &Reached, now: Instant) -> bool {
        if self.by_name.len() < MOST {
            return true;
        }
        let in_vain = self
            .by_name
            .iter()
            .filter(|(name, demand)| demand.since + PATIENCE <= now && !reached.by_name.contains_key(*name));
        let oldest = in_vain.min_by_key(|(_, demand)| demand.since).map(|(name, _)| name.clone());
        oldest.is_some_and(|name| self.by_name.remove(&name).is_some())
    }
}
