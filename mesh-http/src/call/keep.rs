//! How the mesh keeps a request for another attempt: as mesh-core's replay does, with what was decided beside it.

use std::{marker::PhantomData, sync::Arc, task::Context};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use mesh_core::{
    Dice,
    balance::{AtEndpoint, Terms},
    cluster as core,
    deadline::Progress,
    endpoint::Tried,
    outcome::{BoxError, Failure},
    retry::{Govern, Governed, Keep, Kept, Observe, Replay, Replayed, Try},
};
use tokio::time::Instant;

use super::{
    attempt::Attempt,
    routed::{Facts, Routed},
};
use crate::{
    body::AttemptBody,
    cluster::Transport,
    outgoing::Outgoing,
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

impl<B, P> Govern<Routed<B>> for KeepRouted<P>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    P: Protocol,
{
    type Governed = KeptRouted<B, P>;

    fn govern(&self, routed: Routed<B>) -> Self::Governed {
        let Routed { request, facts } = routed;
        let replay = if P::ANNOUNCES_LENGTH { Replay::new() } else { Replay::new().hide_size() };
        KeptRouted {
            // Repeatable whatever the policy: HTTP/2 may bounce any request unprocessed, and hyper gives a sent one back to
            // nobody.
            replayed: replay.keep(request, true),
            dice: facts.dice,
            facts,
            tried: Tried::new(),
            protocol: PhantomData,
        }
    }
}

// === impl KeptRouted ===

impl<B, P> Governed for KeptRouted<B, P>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    P: Protocol,
{
    type Kept = Self;
    type Policy = Facts;

    fn kept(&mut self) -> &mut Self {
        self
    }

    fn policy(&self) -> &Facts {
        &self.facts
    }
}

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
        let mut request = self.replayed.attempt(this)?.map(Outgoing::from);
        // The first attempt begins with the request: one reading of the clock serves both.
        let now = if this.id == 0 { self.facts.start } else { Instant::now() };
        let announcement = Announcement {
            number: this.number,
            remaining: self.facts.deadline.map(|deadline| deadline.at().saturating_duration_since(now)),
            numbered: self.facts.forward.announce_attempt,
        };
        P::announce(request.headers_mut(), &announcement);
        let mut dice = Dice::new(self.dice.roll());
        let (cluster, has_others) = match self.facts.cluster.leaves() {
            None => {
                self.facts.cluster.metrics().attempted();
                (self.facts.cluster.balanced().clone(), false)
            }
            Some(_) => self.choose(&mut dice, now),
        };
        let terms = Terms {
            dice,
            tried: self.tried.clone(),
            now,
            breaker: Some(self.facts.priority),
            wait_for_ready: self.facts.wait_for_ready && !has_others,
        };
        Some(Attempt::new(request, cluster, terms, &self.facts))
    }

    fn retire(&mut self, this: Try) -> bool {
        self.replayed.retire(this)
    }

    fn moves_on(&mut self, failure: &Failure) -> bool {
        let Facts { cluster, itinerary, .. } = &mut self.facts;
        match (cluster.leaves(), itinerary) {
            (Some(leaves), Some(itinerary)) => itinerary.moves_on(leaves, failure),
            _ => false,
        }
    }

    fn commit(&mut self, this: Try) {
        self.replayed.commit(this);
    }

    fn progress(&mut self) -> Option<Progress> {
        self.replayed.progress()
    }

    fn is_idempotent(&self) -> bool {
        self.replayed.is_idempotent()
    }
}

impl<B, P> KeptRouted<B, P> {
    /// The cluster that an attempt goes to, of those that an aggregate comes to, and whether one that waits would rather go to
    /// another than wait there.
    #[cold]
    fn choose(&mut self, dice: &mut Dice, now: Instant) -> (Arc<core::Cluster<Transport>>, bool) {
        let Facts { cluster: own, itinerary, wait_for_ready, .. } = &mut self.facts;
        let itinerary = itinerary.get_or_insert_default();
        let before = itinerary.latest().cloned();
        // Without any there are no endpoints either.
        let chosen = own.leaves().and_then(|leaves| itinerary.next(leaves, dice, now)).unwrap_or_else(|| own.clone());
        if before.is_some_and(|before| !Arc::ptr_eq(&before, &chosen)) {
            // Endpoints are numbered by their cluster.
            self.tried = Tried::new();
        }
        let has_others = *wait_for_ready && own.leaves().is_some_and(|leaves| itinerary.has_others(leaves, now));
        chosen.metrics().attempted();
        (chosen.balanced().clone(), has_others)
    }
}

impl<B, P: Protocol> Observe<Response<AttemptBody<P>>> for KeptRouted<B, P> {
    fn observe(&mut self, _: Try, result: Result<&Response<AttemptBody<P>>, &BoxError>) {
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
