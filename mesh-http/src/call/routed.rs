//! A request that has a route, and what the retry layer reads of it.

use std::{sync::Arc, time::Duration};

use http::Request;
use mesh_core::{
    Dice,
    cluster::Dropped,
    config::{RequestPriority, RetryPolicy},
    deadline::{Expiry, Silence, later},
    limit::Breaker,
    retry::AttemptPolicy,
};
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, Itinerary},
    plan::ForwardPlan,
};

/// A request that has a route, and what was decided for all its attempts.
pub(crate) struct Routed<B> {
    pub(crate) request: Request<B>,
    pub(crate) facts: Facts,
}

/// What was decided about a request before its first attempt.
pub(crate) struct Facts {
    pub(crate) forward: Arc<ForwardPlan>,
    pub(crate) cluster: Arc<Cluster>,
    /// Where it was among the clusters of an aggregate; boxed, as hardly any request goes to one.
    pub(crate) itinerary: Option<Box<Itinerary>>,
    pub(crate) start: Instant,
    pub(crate) deadline: Option<Expiry>,
    pub(crate) dice: Dice,
    pub(crate) idempotent: bool,
    pub(crate) wait_for_ready: bool,
    pub(crate) priority: RequestPriority,
}

// === impl Facts ===

impl Facts {
    /// Whether the request is to be refused, since the source of the endpoints sheds load. In an aggregate each cluster that it is
    /// made of has a source of its own, and sheds what goes to it: it is that of the first attempt, which is chosen here. Asked
    /// once a request: a cluster that another attempt goes to, which could not leave for the first, is not asked.
    pub(super) fn shed_load(&mut self) -> Option<Dropped> {
        let Some(leaves) = self.cluster.leaves() else { return self.cluster.balanced().drop_overload(&mut self.dice) };
        let itinerary = self.itinerary.get_or_insert_default();
        itinerary.begin(leaves, &mut self.dice, self.start)?.balanced().drop_overload(&mut self.dice)
    }
}

impl AttemptPolicy for Facts {
    fn retry(&self) -> Option<&RetryPolicy> {
        self.forward.retry.as_deref()
    }

    fn dice(&self) -> Dice {
        // Jitter and balancing must not draw the same numbers.
        let mut dice = self.dice;
        Dice::new(!dice.roll())
    }

    fn budget(&self) -> Option<Breaker> {
        Some(Breaker { limits: self.cluster.limits().clone(), priority: self.priority })
    }

    fn deadline(&self) -> Option<Expiry> {
        self.deadline
    }

    fn per_try(&self) -> Option<Duration> {
        // A limit at or past the whole request's says nothing (Envoy).
        let per_try = self.forward.limits.per_try?;
        let is_nearer = self.deadline.is_none_or(|deadline| later(self.start, per_try) < deadline.at());
        is_nearer.then_some(per_try)
    }

    fn silence(&self) -> Option<Silence> {
        self.forward.limits.silence
    }

    fn is_idempotent(&self) -> bool {
        self.idempotent
    }
}
