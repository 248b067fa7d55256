//! A control plane that has said one thing.

use std::sync::Arc;

use mesh_core::{
    config::Snapshot,
    source::{ConfigSource, Interest, SourceStatus, Work},
};
use tokio::sync::watch;

/// A source that has said this; nothing, by default.
#[derive(Default)]
pub(crate) struct Said(pub(crate) Arc<Snapshot>);

impl ConfigSource for Said {
    fn watch(&self, _: &str) -> Interest {
        Interest::new(|| {})
    }

    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        let mut snapshots = watch::channel(self.0.clone()).1;
        snapshots.mark_changed();
        snapshots
    }

    fn work(&self) -> Work {
        Box::pin(std::future::pending())
    }

    fn status(&self) -> SourceStatus {
        SourceStatus::default()
    }
}
