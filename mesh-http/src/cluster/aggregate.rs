//! A cluster made of others: which of them an attempt goes to (gRFC A37, Envoy's aggregate cluster).
//!
//! The clusters are preferred in their order, all priorities of one before those of the next, and share by the arithmetic by
//! which priorities do: what the first could not take goes to the second. How much each could take is asked at each attempt. An
//! attempt then goes to a cluster as if a route had named it, under the limits, TLS, ejections and balancing of that cluster.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use mesh_core::{
    Dice,
    cluster::Capacity,
    outcome::{Class, Failure, FailureKind, Sent},
};
use tokio::time::Instant;

use super::Cluster;

/// The clusters that a cluster is made of, those that are made of others resolved. Replaced whole when the source says so.
pub(crate) struct Leaves(ArcSwap<Vec<Arc<Cluster>>>);

/// Where one request has been among the clusters of an aggregate.
#[derive(Debug, Default)]
pub(crate) struct Itinerary {
    latest: Option<Arc<Cluster>>,
    /// Where the first attempt goes, set before and taken by it.
    first: Option<Arc<Cluster>>,
    /// Those that it could not even leave for.
    passed: Vec<Arc<Cluster>>,
}

// === impl Leaves ===

impl Leaves {
    /// Of no cluster yet.
    pub(super) fn new() -> Self {
        Self(ArcSwap::default())
    }

    /// Is made of these from now on.
    pub(super) fn replace(&self, leaves: Vec<Arc<Cluster>>) {
        self.0.store(Arc::new(leaves));
    }

    /// Where an attempt at `now` goes; none while it is made of nothing, which no route sees.
    pub(super) fn choose(&self, dice: &mut Dice, now: Instant, passed: &[Arc<Cluster>]) -> Option<Arc<Cluster>> {
        let leaves = self.0.load();
        let capacity = |leaf: &Arc<Cluster>| match is_among(passed, leaf) {
            true => Capacity::default(),
            false => leaf.balanced().capacity(now),
        };
        // Nearly always: nobody else need be asked.
        let first = leaves.first()?;
        if capacity(first).healthy == 100 {
            return Some(first.clone());
        }
        let capacities: Vec<_> = leaves.iter().map(capacity).collect();
        let place = share(&capacities, dice).or_else(|| {
            // Nobody is fit, and who is chosen decides whether health is to be ignored.
            let is_left = |(leaf, capacity): (&Arc<Cluster>, &Capacity)| !capacity.is_empty && !is_among(passed, leaf);
            leaves.iter().zip(&capacities).position(is_left)
        });
        Some(leaves[place.unwrap_or(0)].clone())
    }

    /// Whether any but these could take something.
    fn have_others(&self, passed: &[Arc<Cluster>], now: Instant) -> bool {
        let takes = |leaf: &Arc<Cluster>| {
            let Capacity { healthy, degraded, .. } = leaf.balanced().capacity(now);
            healthy + degraded > 0
        };
        self.0.load().iter().any(|leaf| !is_among(passed, leaf) && takes(leaf))
    }
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.load().iter().map(|leaf| leaf.name())).finish()
    }
}

fn is_among(clusters: &[Arc<Cluster>], one: &Arc<Cluster>) -> bool {
    clusters.iter().any(|other| Arc::ptr_eq(other, one))
}

/// Whose turn it is: the healthy of all, in order, as far as a hundred requests go, then the degraded. Where they cannot take a
/// hundred together, each takes more in proportion.
fn share(capacities: &[Capacity], dice: &mut Dice) -> Option<usize> {
    let in_order = || {
        let healthy = capacities.iter().map(|capacity| capacity.healthy).enumerate();
        healthy.chain(capacities.iter().map(|capacity| capacity.degraded).enumerate())
    };
    let total = in_order().map(|(_, takes)| takes).sum::<u32>().min(100);
    if total == 0 {
        return None;
    }
    let mut point = dice.below(total);
    in_order().find_map(|(place, takes)| {
        if point < takes {
            return Some(place);
        }
        point -= takes;
        None
    })
}

// === impl Itinerary ===

impl Itinerary {
    /// The cluster that the latest attempt went to.
    pub(crate) fn latest(&self) -> Option<&Arc<Cluster>> {
        self.latest.as_ref()
    }

    /// The cluster that the first attempt is going to.
    pub(crate) fn begin(&mut self, leaves: &Leaves, dice: &mut Dice, now: Instant) -> Option<&Arc<Cluster>> {
        self.first = leaves.choose(dice, now, &[]);
        self.first.as_ref()
    }

    /// The cluster that the next attempt goes to.
    pub(crate) fn next(&mut self, leaves: &Leaves, dice: &mut Dice, now: Instant) -> Option<Arc<Cluster>> {
        self.latest = self.first.take().or_else(|| leaves.choose(dice, now, &self.passed));
        self.latest.clone()
    }

    /// Whether there is another cluster than those that attempts went to, which takes requests: one that waits would rather go there.
    pub(crate) fn has_others(&self, leaves: &Leaves, now: Instant) -> bool {
        let gone: Vec<_> = self.passed.iter().chain(&self.latest).cloned().collect();
        leaves.have_others(&gone, now)
    }

    /// Whether a request that has failed is to be tried in another cluster at once: it never left, as nobody could be reached,
    /// and somebody else is there. What a cluster refused by its own limits stays refused.
    pub(crate) fn moves_on(&mut self, leaves: &Leaves, failure: &Failure) -> bool {
        let is_own = matches!(failure.kind, FailureKind::NoEndpoint | FailureKind::Identity);
        let is_unreached = failure.class() != Class::Local || is_own;
        if failure.sent != Sent::No || !is_unreached {
            return false;
        }
        self.passed.extend(self.latest.clone());
        leaves.have_others(&self.passed, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(healthy: u32, degraded: u32) -> Capacity {
        Capacity { healthy, degraded, is_empty: false }
    }

    /// Of ten thousand requests, in hundredths.
    fn shares<const N: usize>(capacities: [Capacity; N]) -> [u32; N] {
        let mut hits = [0_u32; N];
        for call in 0..10_000 {
            let place = share(&capacities, &mut Dice::of_call(1, 1, call)).expect("somebody is fit");
            hits[place] += 1;
        }
        hits.map(|hits| (hits + 50) / 100)
    }

    fn near<const N: usize>(found: [u32; N], expected: [u32; N]) -> bool {
        found.iter().zip(expected).all(|(found, expected)| found.abs_diff(expected) <= 2)
    }

    #[test]
    fn next_takes_what_the_one_before_could_not() {
        for (capacities, expected) in [
            ([takes(100, 0), takes(100, 0), takes(100, 0)], [100, 0, 0]),
            ([takes(70, 0), takes(100, 0), takes(100, 0)], [70, 30, 0]),
            ([takes(0, 0), takes(100, 0), takes(100, 0)], [0, 100, 0]),
            ([takes(20, 0), takes(20, 0), takes(0, 0)], [50, 50, 0]),
        ] {
            let found = shares(capacities);
            assert!(near(found, expected), "{found:?} instead of {expected:?}");
        }
    }

    #[test]
    fn degraded_come_after_the_healthy_of_all() {
        let found = shares([takes(0, 100), takes(60, 0)]);
        assert!(near(found, [40, 60]), "{found:?}");
    }

    #[test]
    fn nobody_is_chosen_where_nobody_is_fit() {
        assert_eq!(share(&[takes(0, 0), takes(0, 0)], &mut Dice::new(1)), None);
    }
}
