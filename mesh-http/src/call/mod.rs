//! One request on its way: from the caller to an endpoint, through the stack of layers, and back.
//!
//! ```text
//! route -> change headers -> faults -> Retry  (deadline, attempts, back-off: one timer)
//!                                        per attempt: Balance (breaker, pick) -> pool -> endpoint
//! ```
//!
//! What was decided about a request travels in its type: [`Routed`] down to the retry layer, [`Attempt`] below it. The
//! layers are mesh-core's own, told by [`Carried`] to find their policy there.

mod caller;
mod delivery;
mod faults;
mod future;
mod keep;
mod local;
mod options;
mod route;
mod rules;

use std::{sync::Arc, time::Duration};

use http::Request;
use mesh_core::{
    Dice,
    balance::{Attempted, Balance, Terms},
    carry::{Carried, Carries},
    cluster as core,
    config::{RequestPriority, RetryPolicy},
    deadline::{Bound, Expiry, Silence},
    hold::{JoinEnd, UntilEnd},
    limit::Breaker,
    retry::{AttemptPolicy, Retry, RetryLayer},
};
use tokio::time::Instant;
use tower_layer::Layer;

pub(crate) use self::caller::Caller;
pub use self::{future::ResponseFuture, options::CallOptions};
use self::{keep::KeepRouted, rules::Rules};
use crate::{
    body::Outgoing,
    cluster::{Cluster, Transport},
    plan::{ForwardPlan, Plan, Step},
    protocol::Protocol,
};

/// What every request of a protocol passes after it was routed.
pub(crate) type Stack<P> = Retry<Balanced<P>, KeepRouted<P>, Rules<P>, JoinEnd>;

type Balanced<P> = Balance<Transport, Carried, Carried, UntilEnd<<P as Protocol>::Classifier>>;

/// The stack; it holds nothing, since every request brings what its layers need.
pub(crate) fn stack<P: Protocol>() -> Stack<P> {
    let balance = Balance::new(Carried, Carried, UntilEnd(P::classifier()));
    RetryLayer::with_parts(KeepRouted::new(), Rules::new(), JoinEnd).layer(balance)
}

/// A request that has a route, and what was decided for all its attempts.
pub(crate) struct Routed<B> {
    pub(crate) request: Request<B>,
    pub(crate) facts: Facts,
}

/// What was decided about a request before its first attempt.
pub(crate) struct Facts {
    /// Always a forwarding one.
    pub(crate) plan: Arc<Plan<Arc<Cluster>>>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) start: Instant,
    pub(crate) deadline: Option<Expiry>,
    pub(crate) dice: Dice,
    pub(crate) idempotent: bool,
    pub(crate) wait_for_ready: bool,
    pub(crate) priority: RequestPriority,
}

/// One attempt at a request. Boxed, since every layer below moves it on, and would return it with every result.
pub(crate) struct Attempt(Box<AttemptParts>);

struct AttemptParts {
    request: Request<Outgoing>,
    /// Taken when the attempt is balanced, as are its terms.
    cluster: Option<Arc<core::Cluster<Transport>>>,
    terms: Option<Terms>,
    rest: AttemptRest,
}

/// What an attempt is beside its request, which the transport takes and may give back. It is balanced by then.
pub(crate) struct AttemptRest {
    priority: RequestPriority,
    /// Whether the hostname of the endpoint replaces the authority (`auto_host_rewrite`).
    takes_hostname: bool,
}

// === impl Facts ===

impl Facts {
    pub(crate) fn forward(&self) -> &ForwardPlan<Arc<Cluster>> {
        match &self.plan.step {
            Step::Forward(forward) => forward,
            _ => unreachable!("only forwarding plans become facts"),
        }
    }

    /// The overall limit of a request that may take `limit`, by the caller's or the route's word.
    pub(crate) fn expiry(start: Instant, limit: Duration) -> Expiry {
        Expiry::new(Bound::Request, start, limit)
    }
}

impl AttemptPolicy for Facts {
    fn retry(&self) -> Option<&RetryPolicy> {
        self.forward().retry.as_deref()
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
        let per_try = self.forward().limits.per_try?;
        let is_nearer = self.deadline.is_none_or(|deadline| self.start + per_try < deadline.at());
        is_nearer.then_some(per_try)
    }

    fn silence(&self) -> Option<Silence> {
        let limits = &self.forward().limits;
        let per_try = limits.per_try_idle.map(|limit| Silence { bound: Bound::PerTryIdle, limit });
        let idle = limits.idle.map(|limit| Silence { bound: Bound::Idle, limit });
        match (per_try, idle) {
            (Some(per_try), Some(idle)) => Some(if idle.limit < per_try.limit { idle } else { per_try }),
            (one, other) => one.or(other),
        }
    }

    fn is_idempotent(&self) -> bool {
        self.idempotent
    }
}

// === impl Attempt ===

impl Attempt {
    fn new(
        request: Request<Outgoing>,
        cluster: Arc<core::Cluster<Transport>>,
        terms: Terms,
        rest: AttemptRest,
    ) -> Self {
        Self(Box::new(AttemptParts { request, cluster: Some(cluster), terms: Some(terms), rest }))
    }

    /// An endpoint was picked; where the route says so, its hostname becomes the request's authority.
    pub(crate) fn meets(&mut self, hostname: Option<&Arc<str>>) {
        if let (true, Some(hostname)) = (self.0.rest.takes_hostname, hostname) {
            // A hostname that is no authority leaves the request's own.
            let _ = route::set_authority(&mut self.0.request, hostname);
        }
    }

    pub(crate) fn split(self) -> (Request<Outgoing>, AttemptRest) {
        let AttemptParts { request, rest, .. } = *self.0;
        (request, rest)
    }
}

// === impl AttemptRest ===

impl AttemptRest {
    pub(crate) fn join(self, request: Request<Outgoing>) -> Attempt {
        Attempt(Box::new(AttemptParts { request, cluster: None, terms: None, rest: self }))
    }

    pub(crate) fn priority(&self) -> RequestPriority {
        self.priority
    }
}

impl Carries<Arc<core::Cluster<Transport>>> for Attempt {
    fn carried(&mut self) -> Arc<core::Cluster<Transport>> {
        self.0.cluster.take().expect("an attempt is balanced once")
    }
}

impl Attempted for Attempt {
    fn terms(&mut self) -> Terms {
        self.0.terms.take().expect("an attempt is balanced once")
    }
}
