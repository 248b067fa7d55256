//! One request on its way: from the caller to an endpoint, through the stack of layers, and back.
//!
//! ```text
//! route -> change headers -> faults -> Retry  (deadline, attempts, back-off: one timer)
//!                                        per attempt: Limit (breaker) -> Balance (pick) -> pool -> endpoint
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
    endpoint::EndpointId,
    hold::{JoinEnd, UntilEnd},
    limit::{Breaker, Limit, LimitLayer},
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
pub(crate) type Stack<P> = Retry<Attempts<P>, KeepRouted<P>, Rules<P>, JoinEnd, Carried, CallPolicy>;

type Attempts<P> = Limit<Balanced<P>, Carried, JoinEnd>;

type Balanced<P> = Balance<Transport, Carried, Carried, UntilEnd<<P as Protocol>::Classifier>>;

/// The stack; it holds nothing, since every request brings what its layers need.
pub(crate) fn stack<P: Protocol>() -> Stack<P> {
    let balance = Balance::new(Carried, Carried, UntilEnd(P::classifier()));
    let attempts = LimitLayer::with_policy(Carried).hold(JoinEnd).layer(balance);
    RetryLayer::with_parts(KeepRouted::new(), Rules::new(), JoinEnd, Carried).layer(attempts)
}

/// A request that has a route, and what was decided for all its attempts.
pub(crate) struct Routed<B> {
    pub(crate) request: Request<B>,
    pub(crate) facts: Facts,
}

/// What was decided about a request before its first attempt.
#[derive(Clone)]
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
    /// Taken when the attempt is balanced.
    terms: Option<Terms>,
    rest: AttemptRest,
}

/// What an attempt is beside its request, which the transport takes and may give back. It is balanced by then.
pub(crate) struct AttemptRest {
    cluster: Arc<Cluster>,
    priority: RequestPriority,
    /// Whether the hostname of the endpoint replaces the authority (`auto_host_rewrite`).
    takes_hostname: bool,
}

/// What the retry layer reads of a request.
pub(crate) struct CallPolicy(Facts);

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

impl<B> Carries<CallPolicy> for Routed<B> {
    fn carried(&self) -> CallPolicy {
        CallPolicy(self.facts.clone())
    }
}

// === impl CallPolicy ===

impl AttemptPolicy for CallPolicy {
    fn retry(&self) -> Option<&RetryPolicy> {
        self.0.forward().retry.as_deref()
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
        let per_try = self.0.forward().limits.per_try?;
        let is_nearer = self.0.deadline.is_none_or(|deadline| self.0.start + per_try < deadline.at());
        is_nearer.then_some(per_try)
    }

    fn silence(&self) -> Option<Silence> {
        let limits = &self.0.forward().limits;
        let per_try = limits.per_try_idle.map(|limit| Silence { bound: Bound::PerTryIdle, limit });
        let idle = limits.idle.map(|limit| Silence { bound: Bound::Idle, limit });
        match (per_try, idle) {
            (Some(per_try), Some(idle)) => Some(if idle.limit < per_try.limit { idle } else { per_try }),
            (one, other) => one.or(other),
        }
    }

    fn is_idempotent(&self) -> bool {
        self.0.idempotent
    }

    /// Always: HTTP/2 may bounce any request unprocessed, and hyper gives a sent one back to nobody.
    fn is_kept(&self) -> bool {
        true
    }
}

// === impl Attempt ===

impl Attempt {
    fn new(request: Request<Outgoing>, terms: Terms, rest: AttemptRest) -> Self {
        Self(Box::new(AttemptParts { request, terms: Some(terms), rest }))
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
        Attempt(Box::new(AttemptParts { request, terms: None, rest: self }))
    }

    pub(crate) fn priority(&self) -> RequestPriority {
        self.priority
    }
}

impl Carries<Breaker> for Attempt {
    fn carried(&self) -> Breaker {
        Breaker { limits: self.0.rest.cluster.limits().clone(), priority: self.0.rest.priority }
    }
}

impl Carries<Arc<core::Cluster<Transport>>> for Attempt {
    fn carried(&self) -> Arc<core::Cluster<Transport>> {
        self.0.rest.cluster.balanced().clone()
    }
}

impl Attempted for Attempt {
    fn terms(&mut self) -> Terms {
        self.0.terms.take().expect("an attempt is balanced once")
    }

    fn picked(&mut self, _: EndpointId) {}
}
