//! While nobody works on the streams no control plane counts as connected.

use std::sync::Arc;

use metrics::Gauge;
use tokio::time::Instant;

use super::federation::Federation;
use crate::status::Shared;

/// Marks every control plane as not connected when it is dropped, which the worker's future does when that is.
pub(super) struct Online {
    shared: Arc<Shared>,
    gauges: Vec<Gauge>,
}

// === impl Online ===

impl Online {
    pub(super) fn new(shared: &Arc<Shared>, federation: &Federation) -> Self {
        let gauges = federation.upstreams.iter().map(|upstream| upstream.connected.clone());
        Self { shared: shared.clone(), gauges: gauges.collect() }
    }
}

impl Drop for Online {
    fn drop(&mut self) {
        let mut held = self.shared.held();
        held.servers.iter_mut().for_each(|server| server.connected = false);
        held.agreements.end(Instant::now());
        drop(held);
        self.gauges.iter().for_each(|gauge| gauge.set(0.0));
    }
}
