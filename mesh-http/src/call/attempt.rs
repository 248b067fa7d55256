//! One attempt at a request, and what the balancer reads of it.

use std::sync::Arc;

use http::Request;
use mesh_core::{
    balance::Terms,
    carry::Carries,
    cluster as core,
    config::{HostRewrite, RequestPriority},
};

use super::{route, routed::Facts};
use crate::{cluster::Transport, outgoing::Outgoing};

/// One attempt at a request. Boxed, since every layer below moves it on, and would return it with every result.
pub(crate) struct Attempt(Box<Balanced>);

struct Balanced {
    request: Request<Outgoing>,
    /// Taken when the attempt is balanced, as are its terms.
    cluster: Option<Arc<core::Cluster<Transport>>>,
    terms: Option<Terms>,
    parts: AttemptParts,
}

/// What an attempt is beside its request, which the transport takes and may give back. It is balanced by then.
pub(crate) struct AttemptParts {
    priority: RequestPriority,
    /// Whether the hostname of the endpoint replaces the authority (`auto_host_rewrite`).
    takes_hostname: bool,
}

// === impl Attempt ===

impl Attempt {
    /// An attempt, in this cluster, at a request of which `facts` were decided.
    pub(crate) fn new(
        request: Request<Outgoing>,
        cluster: Arc<core::Cluster<Transport>>,
        terms: Terms,
        facts: &Facts,
    ) -> Self {
        let parts = AttemptParts {
            priority: facts.priority,
            takes_hostname: matches!(facts.forward.host_rewrite, Some(HostRewrite::Endpoint)),
        };
        Self(Box::new(Balanced { request, cluster: Some(cluster), terms: Some(terms), parts }))
    }

    /// An endpoint was picked; where the route says so, its hostname becomes the request's authority.
    pub(crate) fn meets(&mut self, hostname: Option<&Arc<str>>) {
        if let (true, Some(hostname)) = (self.0.parts.takes_hostname, hostname) {
            // A hostname that is no authority leaves the request's own.
            let _ = route::set_authority(&mut self.0.request, hostname);
        }
    }

    pub(crate) fn from_parts(request: Request<Outgoing>, parts: AttemptParts) -> Self {
        Self(Box::new(Balanced { request, cluster: None, terms: None, parts }))
    }

    pub(crate) fn into_parts(self) -> (Request<Outgoing>, AttemptParts) {
        let Balanced { request, parts, .. } = *self.0;
        (request, parts)
    }
}

impl Carries<Arc<core::Cluster<Transport>>> for Attempt {
    fn carried(&mut self) -> Arc<core::Cluster<Transport>> {
        self.0.cluster.take().expect("an attempt is balanced once")
    }
}

impl Carries<Terms> for Attempt {
    fn carried(&mut self) -> Terms {
        self.0.terms.take().expect("an attempt is balanced once")
    }
}

// === impl AttemptParts ===

impl AttemptParts {
    pub(crate) fn priority(&self) -> RequestPriority {
        self.priority
    }
}
