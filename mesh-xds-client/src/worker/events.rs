//! What the sessions say of control planes and of what those do not have, and what follows from it.

use std::time::Duration;

use mesh_core::source::ResourceState;
use tokio::time::Instant;

use super::{Worker, decoding::Decoding, streams::Streams};
use crate::{
    ResourceKind,
    agreement::Presence,
    session::{AbsenceReason, Event, Variant},
    store::{Denial, Entry},
};

/// How often the age of the configuration is shown, and then each time that it has grown by a part of itself. Nobody can tell
/// here whether there is a recorder: without one it is a waking of this task, while no control plane answers.
const AGE_INTERVAL: Duration = Duration::from_secs(1);
const AGE_PART: u32 = 100;

impl Worker {
    /// Acts on what the sessions say.
    pub(super) fn heed(&mut self, streams: &mut Streams) {
        for place in 0..self.federation.upstreams.len() {
            while let Some(event) = self.federation.upstreams[place].session.poll_event() {
                self.act(streams, place, event);
            }
        }
    }

    fn act(&mut self, streams: &mut Streams, place: usize, event: Event) {
        match event {
            Event::Connect => {
                let dialer = self.federation.upstreams[place].dialer.clone();
                streams.open(place, Box::pin(async move { dialer.open().await }));
            }
            Event::Live => self.connected(place),
            Event::Deliver(batch) => self.decoding = Some(Decoding::new(place, *batch)),
            Event::Absent { kind, name, reason } => self.absent(place, kind, &name, reason),
            Event::Denied { kind, name, code, message } => self.denied(place, kind, &name, Denial { code, message }),
            Event::Lost { cause, was_live, retry_in } => self.lost(place, cause, was_live, retry_in),
            Event::Ignored { type_url } => {
                tracing::warn!(node.id = self.node_id(), type_url, "response of an unknown type is ignored");
            }
        }
    }

    fn connected(&mut self, place: usize) {
        let upstream = &mut self.federation.upstreams[place];
        upstream.came();
        self.shared.held().servers[place].connected = true;
        tracing::info!(server = %upstream.name, node.id = self.bootstrap.node().id, "control plane is there");
    }

    /// Notes whose control planes stand by what is held, and whose word counts most.
    pub(super) fn agree(&mut self) {
        let now = Instant::now();
        let mut held = self.shared.held();
        held.main = self.federation.main();
        for (authority, presence) in self.federation.presences() {
            held.agreements.update(authority, presence, now);
        }
        let has_moved = held.agreements.take_moved();
        drop(held);
        if has_moved {
            self.show_age(now);
            self.cache.outlive();
        }
        // What is being restored may name more that is wanted, of the same run and the same mind.
        if self.decoding.is_none() {
            let Self { federation, cache, .. } = self;
            let is_present = |authority| federation.presence(authority) == Presence::Present;
            cache.let_go(|kind, name| federation.authority_of(kind, name).is_ok_and(is_present));
        }
    }

    pub(super) fn show_age(&mut self, now: Instant) {
        let held = self.shared.held();
        let age = held.agreements.age(now);
        self.meters.age.set(age.as_secs_f64());
        self.age_due = held.agreements.is_past().then(|| now + AGE_INTERVAL.max(age / AGE_PART));
    }

    fn lost(&mut self, place: usize, cause: String, was_live: bool, retry_in: Duration) {
        let upstream = &mut self.federation.upstreams[place];
        upstream.left(was_live);
        let (server, node_id) = (&upstream.name, &self.bootstrap.node().id);
        if was_live {
            tracing::info!(server, node.id = node_id, cause, ?retry_in, "stream to the control plane ended");
        } else {
            tracing::warn!(server, node.id = node_id, cause, ?retry_in, "control plane is not there");
        }
        let mut held = self.shared.held();
        held.last_error = Some(cause.clone());
        held.servers[place].connected = false;
        held.servers[place].last_error = Some(cause);
    }

    fn denied(&self, place: usize, kind: ResourceKind, name: &str, denial: Denial) {
        let (code, message) = (denial.code, &denial.message);
        tracing::warn!(%kind, name, ?code, message, node.id = self.node_id(), "resource is denied");
        let terms = self.federation.upstreams[place].terms(kind);
        self.shared.held().store.deny(kind, name, denial, terms);
        if terms.is_strict {
            // It may be the first answer of this run, and what it takes away is in the file.
            self.cache.tell();
            self.cache.touch();
        }
    }

    fn absent(&self, place: usize, kind: ResourceKind, name: &str, reason: AbsenceReason) {
        let upstream = &self.federation.upstreams[place];
        let terms = upstream.terms(kind);
        let mut held = self.shared.held();
        let by_the_clock = matches!(reason, AbsenceReason::NotFoundTimer | AbsenceReason::Expired);
        let Some(entry) = held.store.get(kind, name) else { return };
        let is_stood_in_for = |authority| self.federation.is_stood_in_for(place, authority);
        if by_the_clock && entry.authority().is_some_and(is_stood_in_for) {
            return;
        }
        let reason = match reason {
            AbsenceReason::NotFoundTimer => upstream.silence_about(kind, entry.is_cached()),
            reason => reason,
        };
        if reason == AbsenceReason::NotFoundTimer && entry.is_served_anew() && !upstream.is_told[kind.index()] {
            // Another server has given it. gRPC's clients have no clock for what they hold.
            return;
        }
        held.store.absent(kind, name, reason, terms);
        drop(held);
        self.cache.touch();
        tracing::warn!(%kind, name, ?reason, node.id = self.node_id(), "resource is absent");
    }

    /// Waits no longer for what was expected and has not come. Silence tells nothing while nobody is there to speak.
    pub(super) fn give_up(&mut self, now: Instant) {
        while let Some((kind, name)) = self.expected.pop(now) {
            let mut held = self.shared.held();
            let waiting = held.store.get(kind, &name).filter(|entry| entry.state() == ResourceState::Requested);
            let Some(is_cached) = waiting.map(Entry::is_cached) else { continue };
            let place = held.main;
            if held.servers[place].connected {
                let upstream = &self.federation.upstreams[place];
                let reason = upstream.silence_about(kind, is_cached);
                held.store.absent(kind, &name, reason, upstream.terms(kind));
                drop(held);
                self.cache.touch();
                tracing::warn!(%kind, %name, node.id = self.node_id(), "resource has not come");
            } else {
                drop(held);
                self.expected.wait_for(kind, &name, now);
            }
        }
    }

    /// A response has come of which every name could be read.
    pub(super) fn told(&mut self, place: usize, kind: ResourceKind) {
        if self.is_full(place, kind) {
            self.federation.upstreams[place].is_told[kind.index()] = true;
            self.disown(place, kind);
        }
    }

    /// Whether a response of a kind leaves nothing out that a server has and is asked for. In delta one that brings everything
    /// may be followed by more of it, for which there is the same time as for what is asked for by name.
    fn is_full(&self, place: usize, kind: ResourceKind) -> bool {
        let variant = self.federation.upstreams[place].server.variant();
        let is_everything = || self.shared.held().store.is_everything(kind);
        kind.is_full_state() && (variant == Variant::StateOfTheWorld || is_everything())
    }

    /// A full state has come, later than there was time for. What serves by what an earlier run has kept, and is still not in it,
    /// does not exist.
    fn disown(&self, place: usize, kind: ResourceKind) {
        let (federation, upstream) = (&self.federation, &self.federation.upstreams[place]);
        if upstream.silence_about(kind, true) == AbsenceReason::NotFoundTimer {
            return;
        }
        let is_spoken_for =
            |authority| federation.is_heeded(place, authority) && !federation.is_stood_in_for(place, authority);
        let mut held = self.shared.held();
        let unspoken_of = held.store.unspoken_of(kind);
        let gone = unspoken_of.filter(|(_, entry)| entry.authority().is_some_and(is_spoken_for));
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        for name in &gone {
            held.store.absent(kind, name, AbsenceReason::Unknown, upstream.terms(kind));
        }
        drop(held);
        for name in gone {
            self.cache.touch();
            tracing::warn!(%kind, %name, node.id = self.node_id(), "what an earlier run has kept is not there any longer");
        }
    }

    fn node_id(&self) -> &str {
        &self.bootstrap.node().id
    }
}
