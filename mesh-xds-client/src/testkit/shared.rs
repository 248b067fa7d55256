//! What handles, connections and streams of a control plane share: what it offers, what is wrong with it, what was seen, and
//! whom to tell.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, mpsc::UnboundedSender};
use tonic::metadata::MetadataMap;

use super::{
    Event, Held, Transaction,
    command::{Command, StreamHandle},
    faults::Faults,
    store::Store,
};
use crate::ResourceKind;

/// What handles, connections and streams share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Something was recorded.
    pub(super) recorded: Notify,
    /// Connections may be served again.
    pub(super) resumed: Notify,
    /// Something that served has ended.
    pub(super) ended: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) store: Store,
    pub(super) faults: Faults,
    pub(super) record: Vec<Event>,
    /// How many events were taken out of the record: the place of its first.
    pub(super) taken: usize,
    /// The last number given to a stream, a connection or a listener.
    pub(super) last_id: u64,
    /// Ordered, as the others below, so that telling them all something happens in one order.
    pub(super) streams: BTreeMap<u64, StreamHandle>,
    /// What is told to a connection ends it.
    pub(super) connections: BTreeMap<u64, Arc<Notify>>,
    /// What is told to a listener closes it.
    pub(super) listeners: BTreeMap<u64, Arc<Notify>>,
}

// === impl Shared ===

impl Shared {
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.lock())
    }

    /// A panic in a user's closure under `update` leaves the state usable, so poison says nothing here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, event: Event) {
        self.with(|state| state.record.push(event));
        self.recorded.notify_waiters();
    }

    pub(super) fn hold(&self, held: Held) {
        self.with(|state| state.faults.held.get_or_insert_default().push(held));
        self.recorded.notify_waiters();
    }

    pub(super) fn open_stream(&self, commands: UnboundedSender<Command>, metadata: MetadataMap) -> u64 {
        let stream = self.with(|state| {
            let stream = state.next_id();
            state
                .streams
                .insert(stream, StreamHandle { commands, names: BTreeMap::new(), unanswered: BTreeMap::new() });
            stream
        });
        self.record(Event::StreamOpened { stream, metadata });
        stream
    }

    pub(super) fn close_stream(&self, stream: u64) {
        self.with(|state| state.streams.remove(&stream));
        self.record(Event::StreamClosed { stream });
    }
}

// === impl State ===

impl State {
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn update(&mut self, change: impl FnOnce(&mut Transaction<'_>)) {
        change(&mut self.store.begin());
        self.tell_streams(|| Command::Changed);
    }

    pub(super) fn version(&self, kind: ResourceKind) -> String {
        self.store.shelf(kind).version.to_string()
    }

    pub(super) fn tell_streams(&self, command: impl Fn() -> Command) {
        for stream in self.streams.values() {
            // A stream whose task has ended is about to leave the map.
            let _ = stream.commands.send(command());
        }
    }

    /// Tells everything that serves to end. Returns whether nothing did.
    pub(super) fn end_serving(&mut self) -> bool {
        notify_all(&self.listeners);
        notify_all(&self.connections);
        self.listeners.is_empty() && self.connections.is_empty()
    }
}

pub(super) fn notify_all(tasks: &BTreeMap<u64, Arc<Notify>>) {
    for task in tasks.values() {
        task.notify_one();
    }
}
