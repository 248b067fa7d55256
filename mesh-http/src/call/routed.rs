//! A request that has a route, and what the retry layer reads of it.

use std::{sync::Arc, time::Duration};

use http::Request;
use mesh_core::{
    Dice,
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

// === impl Facts ===

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
        let is_nearer = self.deadline.is_none_or(|deadline| self.start + per_try < deadline.at());
        is_nearer.then_some(per_try)
    }

    fn silence(&self) -> Option<Silence> {
        self.forward.limits.silence
    }

    fn is_idempotent(&self) -> bool {
        self.idempotent
    }
}
