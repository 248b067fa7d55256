//! What is known, as handles see it: how every control plane and every resource stand, and the latest snapshot.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use envoy_types::pb::envoy::config::core::v3::Node;
use mesh_core::{
    config::Snapshot,
    source::{ServerStatus, SourceStatus},
};
use tokio::{sync::watch, time::Instant};

use crate::{agreement::Agreements, store::Store};

/// What the worker shares with the handles.
pub(crate) struct Shared {
    /// In every error that people read, as the key to the control plane's own logs.
    node_id: String,
    /// Who the client is, as it introduces itself.
    pub(crate) node: Node,
    held: Mutex<Held>,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
}

/// What is known, for the worker to change and for anybody to look at.
pub(crate) struct Held {
    pub(crate) store: Store,
    /// The control planes, by their place.
    pub(crate) servers: Vec<ServerStatus>,
    /// The place of the one whose word counts most.
    pub(crate) main: usize,
    /// The last trouble with any.
    pub(crate) last_error: Option<String>,
    /// By authority, whether its control planes stand by what is held.
    pub(crate) agreements: Agreements,
}

// === impl Shared ===

impl Shared {
    /// Nothing is known yet of these control planes, of which there is at least one.
    pub(crate) fn new(node: Node, servers: impl IntoIterator<Item = String>) -> Self {
        let servers = servers.into_iter().map(ServerStatus::new).collect();
        let held =
            Held { store: Store::default(), servers, main: 0, last_error: None, agreements: Agreements::default() };
        Self { node_id: node.id.clone(), node, held: Mutex::new(held), snapshots: watch::Sender::default() }
    }

    pub(crate) fn status(&self) -> SourceStatus {
        let held = self.held();
        let main = &held.servers[held.main];
        let mut status = SourceStatus::new(main.server.clone());
        status.connected = main.connected;
        status.last_error.clone_from(&held.last_error);
        status.servers.clone_from(&held.servers);
        status.age = held.agreements.age(Instant::now());
        status.resources = held.store.status();
        drop(held);
        let of_resources = status.resources.iter_mut().filter_map(|resource| resource.error.as_mut());
        let of_servers = status.servers.iter_mut().filter_map(|server| server.last_error.as_mut());
        for error in of_resources.chain(of_servers).chain(&mut status.last_error) {
            let _ = write!(error, " (node id `{}`)", self.node_id);
        }
        status
    }

    /// The decoders do not panic, and should they, what was stored before is whole.
    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
