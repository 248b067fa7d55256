//! What is known, as handles see it: how the control plane and every resource stand, and the latest snapshot.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_core::{config::Snapshot, source::SourceStatus};
use tokio::sync::watch;

use crate::{bootstrap::Bootstrap, store::Store};

/// What the worker shares with the handles.
pub(crate) struct Shared {
    /// In every error that people read, as the key to the control plane's own logs.
    node_id: String,
    held: Mutex<Held>,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
}

/// What is known, for the worker to change and for anybody to look at.
pub(crate) struct Held {
    pub(crate) store: Store,
    pub(crate) server: String,
    pub(crate) is_connected: bool,
    pub(crate) last_error: Option<String>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(bootstrap: &Bootstrap) -> Self {
        let server = bootstrap.servers()[0].uri().to_string();
        let held = Held { store: Store::default(), server, is_connected: false, last_error: None };
        Self { node_id: bootstrap.node().id.clone(), held: Mutex::new(held), snapshots: watch::Sender::default() }
    }

    pub(crate) fn status(&self) -> SourceStatus {
        let held = self.held();
        let mut status = SourceStatus::new(held.server.clone());
        status.connected = held.is_connected;
        status.last_error.clone_from(&held.last_error);
        status.resources = held.store.status();
        drop(held);
        let errors = status.resources.iter_mut().filter_map(|resource| resource.error.as_mut());
        for error in errors.chain(&mut status.last_error) {
            let _ = write!(error, " (node id `{}`)", self.node_id);
        }
        status
    }

    /// The decoders do not panic, and should they, what was stored before is whole.
    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
