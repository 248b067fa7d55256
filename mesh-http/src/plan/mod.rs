//! Routes made ready for requests: whatever can be decided before a request is there is decided here, once per update.
//!
//! A plan holds the effective policy of its route (pin, control plane, code and preset laid over each other, Envoy's or
//! gRPC's rules applied), the handles of its clusters, and the header changes of all levels in the order in which they apply.
//! A request that is forwarded keeps the `Arc` of that part of its plan for its whole life: route and policy are one version.
//!
//! gRPC's rules are rules for reading control planes. What stands in code means what its documentation says, in channels too.

use std::sync::{Arc, atomic::AtomicU32};

use http::{HeaderName, StatusCode};
use mesh_core::{
    RequestHead,
    config::{
        DirectResponse, FaultInjection, HeaderMutations, HostRewrite, PathMatch, PathRewrite, Redirect,
        RequestPriority, RetryPolicy, Route, WeightedClusters,
    },
};

use crate::cluster::Found;

mod faults;
mod limits;
mod planner;
mod profile;

pub(crate) use self::{
    faults::ActiveFaults,
    limits::{Limit, TimeLimits},
    planner::Planner,
    profile::Profile,
};

/// A route, ready for requests.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) route: Arc<Route>,
    pub(crate) step: Step,
    /// Changes to responses that do not come from a cluster, most specific first unless turned round.
    pub(crate) response_headers: Vec<HeaderMutations>,
}

/// What happens to a request of the route.
#[derive(Debug)]
pub(crate) enum Step {
    Forward(Arc<ForwardPlan>),
    Redirect(Redirect),
    Respond(DirectResponse),
    /// The action is one that this side of the mesh, or this kind of client, does not have.
    Refuse(Arc<str>),
}

/// How a request goes to a cluster.
#[derive(Debug)]
pub(crate) struct ForwardPlan {
    pub(crate) to: Destinations,
    pub(crate) limits: TimeLimits,
    pub(crate) retry: Option<Arc<RetryPolicy>>,
    pub(crate) priority: RequestPriority,
    pub(crate) path_rewrite: Option<PathRewrite>,
    pub(crate) host_rewrite: Option<HostRewrite>,
    pub(crate) cluster_not_found: StatusCode,
    pub(crate) announce_attempt: bool,
}

/// The clusters of a route.
#[derive(Debug)]
pub(crate) enum Destinations {
    One(Destination),
    Weighted {
        shares: WeightedClusters,
        each: Vec<Destination>,
    },
    /// The one that the request names in this header.
    Named {
        by: HeaderName,
        treatment: Treatment,
    },
}

/// One cluster of a route.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) name: Arc<str>,
    /// Why there is none, where requests cannot go to it.
    pub(crate) cluster: Found,
    pub(crate) treatment: Treatment,
}

/// What holds for requests that go to a cluster by a route. Changes stand in the order in which they apply.
#[derive(Debug)]
pub(crate) struct Treatment {
    pub(crate) request_headers: Vec<HeaderMutations>,
    pub(crate) response_headers: Vec<HeaderMutations>,
    pub(crate) faults: Vec<Fault>,
}

/// A fault that requests may meet, and how many meet those of its filter now.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) says: Arc<FaultInjection>,
    pub(crate) active: Arc<AtomicU32>,
}

// === impl Plan ===

impl Plan {
    pub(crate) fn path_match(&self) -> &PathMatch {
        &self.route.matches.path
    }
}

// === impl Destinations ===

impl Destinations {
    /// The cluster that a request names, where that is what counts: the first value of the header (Envoy).
    pub(crate) fn named_by<'a>(&self, head: &RequestHead<'a>) -> Option<&'a str> {
        match self {
            Self::Named { by, .. } => head.headers.get(by)?.to_str().ok(),
            Self::One(_) | Self::Weighted { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
