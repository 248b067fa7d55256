//! A control plane that says what the test says.

use std::sync::Arc;

use mesh_core::{
    config::Snapshot,
    source::{ConfigSource, Interest, SourceStatus, Work},
};
use tokio::sync::watch;

/// A source that says what the test sends here; nothing, until the test does.
#[derive(Clone, Default)]
pub(crate) struct Said(pub(crate) watch::Sender<Arc<Snapshot>>);

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
