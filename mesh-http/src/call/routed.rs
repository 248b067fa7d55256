//! A request that has a route, and what the retry layer reads of it.

use std::{sync::Arc, time::Duration};

use http::Request;
use mesh_core::{
    Dice,
    carry::Carries,
    config::{RequestPriority, RetryPolicy},
    deadline::{Expiry, Silence},
    limit::Breaker,
    retry::AttemptPolicy,
};
use tokio::time::Instant;

use crate::{cluster::Cluster, plan::ForwardPlan};

/// A request that has a route, and what was decided for all its attempts.
pub(crate) struct Routed<B> {
    pub(crate) request: Request<B>,
    pub(crate) facts: Facts,
}

/// What was decided about a request before its first attempt.
#[derive(Clone)]
pub(crate) struct Facts {
    pub(crate) forward: Arc<ForwardPlan>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) start: Instant,
    pub(crate) deadline: Option<Expiry>,
    pub(crate) dice: Dice,
    pub(crate) idempotent: bool,
    pub(crate) wait_for_ready: bool,
    pub(crate) priority: RequestPriority,
}

/// What the retry layer reads of a request.
pub(crate) struct CallPolicy(Facts);

// === impl Routed ===

impl<B> Carries<CallPolicy> for Routed<B> {
    fn carried(&self) -> CallPolicy {
        CallPolicy(self.facts.clone())
    }
}

// === impl CallPolicy ===

impl AttemptPolicy for CallPolicy {
    fn retry(&self) -> Option<&RetryPolicy> {
        self.0.forward.retry.as_deref()
    }

    fn dice(&self) -> Dice {
        // Jitter and balancing must not draw the same numbers.
        let mut dice = self.0.dice;
        Dice::new(!dice.roll())
    }

    fn budget(&self) -> Option<Breaker> {
        Some(Breaker { limits: self.0.cluster.limits().clone(), priority: self.0.priority })
    }

    fn deadline(&self) -> Option<Expiry> {
        self.0.deadline
    }

    fn per_try(&self) -> Option<Duration> {
        // A limit at or past the whole request's says nothing (Envoy).
        let per_try = self.0.forward.limits.per_try?;
        let is_nearer = self.0.deadline.is_none_or(|deadline| self.0.start + per_try < deadline.at());
        is_nearer.then_some(per_try)
    }

    fn silence(&self) -> Option<Silence> {
        self.0.forward.limits.silence
    }

    fn is_idempotent(&self) -> bool {
        self.0.idempotent
    }

    /// Always: HTTP/2 may bounce any request unprocessed, and hyper gives a sent one back to nobody.
    fn is_kept(&self) -> bool {
        true
    }
}
