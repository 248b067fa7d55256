//! A control plane that says what the test says.

use std::sync::Arc;

use mesh_core::{
    config::{Cluster, ClusterEntry, Endpoints, Listener, RouteConfig, Snapshot, TargetState},
    source::{ConfigSource, Interest, SourceStatus, Work},
};
use tokio::sync::watch;

/// A source that says what the test sends here; nothing, until the test does.
#[derive(Clone, Default)]
pub(crate) struct Said(pub(crate) watch::Sender<Arc<Snapshot>>);

/// All requests of `target` to one cluster, which has these endpoints.
pub(crate) fn steering(target: &str, cluster: Cluster, endpoints: Arc<Endpoints>) -> Arc<Snapshot> {
    let listener = Listener::new(target, Arc::new(RouteConfig::to_cluster(target, cluster.name().clone())));
    let name = cluster.name().clone();
    let entry = ClusterEntry { cluster: Arc::new(cluster), endpoints: Some(endpoints) };
    Arc::new(Snapshot {
        generation: 1,
        targets: [(target.into(), TargetState::Ready(Arc::new(listener)))].into(),
        clusters: [(name, entry)].into(),
    })
}

impl ConfigSource for Said {
    fn watch(&self, _: &str) -> Interest {
        Interest::new(|| {})
    }

    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        let mut snapshots = self.0.subscribe();
        // What was said before counts as news.
        snapshots.mark_changed();
        snapshots
    }

    fn work(&self) -> Work {
        Box::pin(std::future::pending())
    }

    fn status(&self) -> SourceStatus {
        SourceStatus::new("a test")
    }
}
