//! The next snapshot, and what it asks for.
//!
//! It goes in slices, between which the worker does nothing else: nothing is read from the streams, no command is obeyed and
//! no clock looked at. So nothing that is held changes under it, and what has come in between is seen to right after, as if
//! it had come then. The handles look at what is held, which is whole at all times, and serve by the snapshot before.

use std::sync::Arc;

use mesh_core::config::Snapshot;
use tokio::time::Instant;

use super::{Worker, federation::Federation};
use crate::{
    ResourceKind,
    assemble::{Assembled, Wanted},
    pace::{self, Pace},
    store::{AuthorityId, Store},
};

impl Worker {
    /// Publishes what has changed, and asks for what is needed now. Returns whether anything had changed.
    ///
    /// Nothing is published of a response that is half decoded: what it brings is seen as a whole or not at all. What an earlier
    /// run has kept is not looked at piece by piece either.
    ///
    /// Where it is dropped half-way it has to be done again from the beginning, as [`run`](Worker::run) does.
    pub(super) async fn assemble(&mut self) -> bool {
        if self.decoding.is_some() || self.cache.is_restoring() {
            return false;
        }
        let changes = self.shared.held().store.take_changes();
        if changes.is_empty() {
            return false;
        }
        let mut pace = Pace::new();
        let Assembled { snapshot, wanted } = self.assembly.assemble(&self.shared, &changes, &mut pace).await;
        if let Some(snapshot) = snapshot {
            // At once: the assembly takes it for published.
            self.publish(snapshot);
        }
        if let Some(wanted) = wanted {
            self.reconcile(&wanted, &mut pace).await;
            pace.let_go(wanted.into_names()).await;
        }
        self.meters.resources(self.shared.held().store.tally());
        self.assembly.let_go(&mut pace).await;
        pace.let_go(changes.endpoints).await;
        true
    }

    fn publish(&self, snapshot: Arc<Snapshot>) {
        tracing::debug!(
            generation = snapshot.generation,
            targets = snapshot.targets.len(),
            clusters = snapshot.clusters.len(),
            "configuration published"
        );
        self.shared.snapshots.send_replace(snapshot);
    }

    /// Asks for what is wanted and not yet asked for, and forgets the rest. Where everything is asked for, names are waited for.
    async fn reconcile(&mut self, wanted: &Wanted, pace: &mut Pace) {
        for kind in ResourceKind::ALL {
            let is_everything = wanted.everything(kind);
            if is_everything && self.shared.held().store.want_everything(kind) {
                self.federation.subscribe_all(kind);
            }
            self.forget(kind, wanted, pace).await;
            if !is_everything {
                self.federation.make_room(kind, wanted.of(kind).len());
            }
            for name in wanted.of(kind) {
                self.want(kind, name, is_everything);
                pace.step().await;
            }
        }
    }

    /// Forgets the names of a kind that need not be held any longer.
    async fn forget(&mut self, kind: ResourceKind, wanted: &Wanted, pace: &mut Pace) {
        let mut after = None;
        loop {
            let slice = self.shared.held().store.sweep(kind, wanted.of(kind), after.as_ref(), pace::SLICE);
            for name in slice.dispensable {
                self.cache.forgetting(&self.shared, kind, &name);
                let authority = self.shared.held().store.forget(kind, &name);
                self.expected.forget(kind, &name);
                if let Some(authority) = authority.filter(|_| !wanted.everything(kind)) {
                    self.federation.unsubscribe(authority, kind, &name);
                }
                pace.step().await;
            }
            after = slice.last;
            if after.is_none() {
                return;
            }
            pace.end_slice().await;
        }
    }

    /// Asks for a name, unless it is asked for.
    fn want(&mut self, kind: ResourceKind, name: &Arc<str>, is_everything: bool) {
        let mut held = self.shared.held();
        let store = &mut held.store;
        if store.get(kind, name).is_some() {
            return;
        }
        if is_everything {
            store.want(kind, name, AuthorityId::default());
            self.expected.wait_for(kind, name, Instant::now());
        } else {
            ask(kind, name, store, &mut self.federation);
        }
        self.cache.want(kind, name);
    }
}

fn ask(kind: ResourceKind, name: &Arc<str>, store: &mut Store, federation: &mut Federation) {
    match federation.authority_of(kind, name) {
        Ok(authority) => {
            store.want(kind, name, authority);
            federation.subscribe(authority, kind, name);
        }
        Err(reason) => {
            tracing::warn!(%kind, %name, reason, "resource cannot be asked for");
            store.refuse_name(kind, name, reason);
        }
    }
}
