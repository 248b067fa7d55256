//! How much a cluster could take at this moment, for whoever chooses among clusters.

use tokio::time::Instant;

use super::{Cluster, Transport};
use crate::{
    config::Semantics,
    pick::{Level, available},
};

/// Of a hundred requests, how many a cluster could take, all its priorities together.
///
/// By Envoy's arithmetic of health and overprovisioning; by gRPC's rules all, where any endpoint is fit (gRFC A37). A cluster of
/// which no endpoint can be reached takes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// By endpoints that are healthy.
    pub healthy: u32,
    /// By endpoints that are to be used after the healthy ones, of any cluster.
    pub degraded: u32,
    /// Whether there is no endpoint at all, fit or not.
    pub is_empty: bool,
}

impl<T: Transport> Cluster<T> {
    /// How much it could take at `now`. Costs a look at the priorities, and at endpoints until one is found that is available.
    pub fn capacity(&self, now: Instant) -> Capacity {
        let set = self.set.load();
        let (levels, members) = (&set.index.levels, &set.roster.members);
        if !set.is_available(self.home.millis(now)) {
            return Capacity { is_empty: members.is_empty(), ..Capacity::default() };
        }
        let factor = set.roster.overprovisioning;
        let of = |fit: fn(&Level) -> u32| match self.semantics {
            Semantics::Grpc => 100 * u32::from(levels.iter().any(|level| fit(level) > 0)),
            Semantics::Envoy => {
                levels.iter().map(|level| available(fit(level), level.total, factor)).sum::<u32>().min(100)
            }
        };
        Capacity { healthy: of(|level| level.healthy), degraded: of(|level| level.degraded), is_empty: false }
    }
}
