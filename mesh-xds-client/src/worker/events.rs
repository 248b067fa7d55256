//! What the sessions say of control planes and of what those do not have, and what follows from it.

use std::time::Duration;

use mesh_core::source::ResourceState;
use tokio::time::Instant;

use super::{Worker, decoding::Decoding, streams::Streams};
use crate::{
    ResourceKind,
    session::{AbsenceReason, Event},
    status::Agreement,
    store::Denial,
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
        if self.agree() {
            self.cache.let_go();
        }
    }

    /// Notes whether the control planes stand by what is held. Returns that.
    fn agree(&mut self) -> bool {
        let (are_present, now) = (self.federation.are_present(), Instant::now());
        self.shared.held().agreement.update(are_present, now);
        self.show_age(now);
        are_present
    }

    pub(super) fn show_age(&mut self, now: Instant) {
        let agreement = self.shared.held().agreement;
        let age = agreement.age(now);
        self.meters.age.set(age.as_secs_f64());
        self.age_due = matches!(agreement, Agreement::Past { .. }).then(|| now + AGE_INTERVAL.max(age / AGE_PART));
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
        drop(held);
        self.agree();
    }

    fn denied(&self, place: usize, kind: ResourceKind, name: &str, denial: Denial) {
        let (code, message) = (denial.code, &denial.message);
        tracing::warn!(%kind, name, ?code, message, node.id = self.node_id(), "resource is denied");
        let terms = self.federation.upstreams[place].terms(kind);
        self.shared.held().store.deny(kind, name, denial, terms);
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
        // A server that has sent its full state, and in all the time since nothing of this name, has said that there is none.
        let has_spoken = upstream.is_told[kind.index()];
        if reason == AbsenceReason::NotFoundTimer && !has_spoken && entry.is_served_anew() {
            // Another server has given it. gRPC's clients have no clock for what they hold.
            return;
        }
        let is_denied = reason == AbsenceReason::NotFoundTimer && has_spoken && entry.is_cached();
        held.store.absent(kind, name, if is_denied { AbsenceReason::Unknown } else { reason }, terms);
        drop(held);
        self.cache.touch();
        tracing::warn!(%kind, name, ?reason, node.id = self.node_id(), "resource is absent");
    }

    /// Waits no longer for what was expected and has not come. Silence tells nothing while nobody is there to speak.
    pub(super) fn give_up(&mut self, now: Instant) {
        while let Some((kind, name)) = self.expected.pop(now) {
            let mut held = self.shared.held();
            if held.store.get(kind, &name).is_none_or(|entry| entry.state() != ResourceState::Requested) {
                continue;
            }
            let place = held.main;
            if held.servers[place].connected {
                let terms = self.federation.upstreams[place].terms(kind);
                held.store.absent(kind, &name, AbsenceReason::NotFoundTimer, terms);
                tracing::warn!(%kind, %name, node.id = self.node_id(), "resource has not come");
            } else {
                drop(held);
                self.expected.wait_for(kind, &name, now);
            }
        }
    }

    fn node_id(&self) -> &str {
        &self.bootstrap.node().id
    }
}
