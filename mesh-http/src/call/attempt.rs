//! One attempt at a request, and what the breaker and the balancer read of it.

use std::sync::Arc;

use http::Request;
use mesh_core::{
    balance::{Attempted, Terms},
    carry::Carries,
    cluster as core,
    config::{HostRewrite, RequestPriority},
    endpoint::EndpointId,
    limit::Breaker,
    retry::ReplayBody,
};

use super::{route, routed::Facts};
use crate::cluster::{Cluster, Transport};

/// One attempt at a request.
pub(crate) struct Attempt {
    request: Request<ReplayBody>,
    /// Taken when the attempt is balanced.
    terms: Option<Terms>,
    parts: AttemptParts,
}

/// What an attempt is beside its request, which the transport takes and may give back. It is balanced by then.
pub(crate) struct AttemptParts {
    cluster: Arc<Cluster>,
    priority: RequestPriority,
    /// Whether the hostname of the endpoint replaces the authority (`auto_host_rewrite`).
    takes_hostname: bool,
}

// === impl Attempt ===

impl Attempt {
    /// An attempt at a request of which `facts` were decided.
    pub(crate) fn new(request: Request<ReplayBody>, terms: Terms, facts: &Facts) -> Self {
        let parts = AttemptParts {
            cluster: facts.cluster.clone(),
            priority: facts.priority,
            takes_hostname: matches!(facts.forward.host_rewrite, Some(HostRewrite::Endpoint)),
        };
        Self { request, terms: Some(terms), parts }
    }

    /// An endpoint was picked; where the route says so, its hostname becomes the request's authority.
    pub(crate) fn meets(&mut self, hostname: Option<&Arc<str>>) {
        if let (true, Some(hostname)) = (self.parts.takes_hostname, hostname) {
            // A hostname that is no authority leaves the request's own.
            let _ = route::set_authority(&mut self.request, hostname);
        }
    }

    pub(crate) fn from_parts(request: Request<ReplayBody>, parts: AttemptParts) -> Self {
        Self { request, terms: None, parts }
    }

    pub(crate) fn into_parts(self) -> (Request<ReplayBody>, AttemptParts) {
        (self.request, self.parts)
    }
}

impl Carries<Breaker> for Attempt {
    fn carried(&self) -> Breaker {
        Breaker { limits: self.parts.cluster.limits().clone(), priority: self.parts.priority }
    }
}

impl Carries<Arc<core::Cluster<Transport>>> for Attempt {
    fn carried(&self) -> Arc<core::Cluster<Transport>> {
        self.parts.cluster.balanced().clone()
    }
}

impl Attempted for Attempt {
    fn terms(&mut self) -> Terms {
        self.terms.take().expect("an attempt is balanced once")
    }

    fn picked(&mut self, _: EndpointId) {}
}

// === impl AttemptParts ===

impl AttemptParts {
    pub(crate) fn priority(&self) -> RequestPriority {
        self.priority
    }
}
