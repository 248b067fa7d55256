//! How the mesh keeps a request for another attempt: as mesh-core's replay does, with what was decided beside it.

use std::{marker::PhantomData, task::Context};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use mesh_core::{
    Dice,
    balance::{AtEndpoint, Terms},
    endpoint::Tried,
    outcome::BoxError,
    retry::{Keep, Kept, Observe, Replay, Replayed, Try},
};
use tokio::time::Instant;

use super::{
    attempt::Attempt,
    routed::{Facts, Routed},
};
use crate::{
    body::AttemptBody,
    protocol::{Announcement, Protocol},
};

/// Keeps routed requests.
#[derive(Clone)]
pub(crate) struct KeepRouted<P>(PhantomData<fn() -> P>);

/// A routed request that is kept.
pub(crate) struct KeptRouted<B, P> {
    replayed: Replayed<B>,
    facts: Facts,
    /// One roll for each attempt.
    dice: Dice,
    tried: Tried,
    protocol: PhantomData<fn() -> P>,
}

// === impl KeepRouted ===

impl<P> KeepRouted<P> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<B, P> Keep<Routed<B>> for KeepRouted<P>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    P: Protocol,
{
    type Kept = KeptRouted<B, P>;

    fn keep(&self, routed: Routed<B>, repeatable: bool) -> Self::Kept {
        let Routed { request, facts } = routed;
        let replay = if P::ANNOUNCES_LENGTH { Replay::new() } else { Replay::new().hide_size() };
        KeptRouted {
            replayed: replay.keep(request, repeatable),
            dice: facts.dice,
            facts,
            tried: Tried::new(),
            protocol: PhantomData,
        }
    }
}

// === impl KeptRouted ===

impl<B, P> Kept for KeptRouted<B, P>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    P: Protocol,
{
    type Attempt = Attempt;

    fn gather(&mut self, cx: &mut Context<'_>) {
        self.replayed.gather(cx);
    }

    fn attempt(&mut self, this: Try) -> Option<Attempt> {
        let mut request = self.replayed.attempt(this)?;
        // The first attempt begins with the request: one reading of the clock serves both.
        let now = if this.id == 0 { self.facts.start } else { Instant::now() };
        let announcement = Announcement {
            number: this.number,
            remaining: self.facts.deadline.map(|deadline| deadline.at().saturating_duration_since(now)),
            numbered: self.facts.forward.announce_attempt,
        };
        P::announce(request.headers_mut(), &announcement);
        self.facts.cluster.metrics().attempted();
        let terms = Terms {
            dice: Dice::new(self.dice.roll()),
            tried: self.tried.clone(),
            now,
            wait_for_ready: self.facts.wait_for_ready,
        };
        Some(Attempt::new(request, terms, &self.facts))
    }

    fn retire(&mut self, this: Try) -> bool {
        self.replayed.retire(this)
    }

    fn commit(&mut self, this: Try) {
        self.replayed.commit(this);
    }

    fn is_idempotent(&self) -> bool {
        self.replayed.is_idempotent()
    }
}

impl<B, P: Protocol> Observe<Response<AttemptBody<P>>> for KeptRouted<B, P> {
    fn observe(&mut self, _: Try, result: &Result<Response<AttemptBody<P>>, BoxError>) {
        let avoids = self.facts.forward.retry.as_ref().is_some_and(|retry| retry.avoids_previous());
        let endpoint = match result {
            Ok(response) => crate::body::endpoint_of::<P>(response.body()),
            Err(error) => AtEndpoint::of(&**error),
        };
        if let Some(endpoint) = endpoint.filter(|_| avoids) {
            self.tried.push(endpoint);
        }
    }
}
