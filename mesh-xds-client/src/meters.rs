//! What the client counts, through the `metrics` facade.
//!
//! The names and labels are a promise, and stand in the crate's documentation.

use std::time::SystemTime;

use mesh_core::source::ResourceState;
use metrics::{Counter, Gauge, counter, gauge};

use crate::{ResourceKind, store::Tally};

/// The handles, taken once: a recorder has to be installed before the client is built.
pub(crate) struct Meters {
    pub(crate) age: Gauge,
    cached: Gauge,
    last_update: Gauge,
    /// By [`ResourceKind::index`].
    updates: [Updates; ResourceKind::ALL.len()],
    /// In the order of [`Tally::iter`].
    resources: Vec<Gauge>,
    shown: Tally,
}

struct Updates {
    accepted: Counter,
    rejected: Counter,
}

// === impl Meters ===

impl Meters {
    pub(crate) fn new() -> Self {
        let updates = ResourceKind::ALL.map(|kind| Updates {
            accepted: counter!("mesh_xds_updates_accepted_total", "kind" => kind.name()),
            rejected: counter!("mesh_xds_updates_rejected_total", "kind" => kind.name()),
        });
        let shown = Tally::default();
        let gauges = shown.iter().map(|(kind, state, _)| {
            let gauge = gauge!("mesh_xds_resources", "kind" => kind.name(), "state" => label(state));
            gauge.set(0.0);
            gauge
        });
        let (age, cached) = (gauge!("mesh_xds_config_age_seconds"), gauge!("mesh_xds_config_from_cache"));
        age.set(0.0);
        cached.set(0.0);
        Self {
            age,
            cached,
            last_update: gauge!("mesh_xds_last_update_timestamp_seconds"),
            updates,
            resources: gauges.collect(),
            shown,
        }
    }

    pub(crate) fn updated(&self, kind: ResourceKind, accepted: usize, rejected: usize) {
        let updates = &self.updates[kind.index()];
        updates.accepted.increment(accepted as u64);
        updates.rejected.increment(rejected as u64);
        if accepted > 0 {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            self.last_update.set(now.unwrap_or_default().as_secs_f64());
        }
    }

    pub(crate) fn resources(&mut self, tally: Tally) {
        if tally == self.shown {
            return;
        }
        for (gauge, (_, _, count)) in self.resources.iter().zip(tally.iter()) {
            gauge.set(count as f64);
        }
        self.cached.set(tally.cached() as f64);
        self.shown = tally;
    }
}

/// Whether this control plane has answered on the present stream.
pub(crate) fn connected(server: &str) -> Gauge {
    gauge!("mesh_xds_connected", "server" => server.to_owned())
}

/// A cache file could not be written.
pub(crate) fn cache_failure() {
    counter!("mesh_xds_cache_write_failures_total").increment(1);
}

fn label(state: ResourceState) -> &'static str {
    match state {
        ResourceState::Requested => "requested",
        ResourceState::Synced => "synced",
        ResourceState::Rejected => "rejected",
        ResourceState::Absent => "absent",
        ResourceState::TimedOut => "timed_out",
        ResourceState::Failed => "failed",
        _ => "other",
    }
}
