//! Picking an endpoint of a cluster for one request.
//!
//! A pick happens on the caller's task: it reads an immutable set and a few atomics, takes no lock and allocates nothing,
//! and costs the same for three endpoints and for a thousand. It goes from priority to locality to policy
//! ([`LoadBalancing`](crate::config::LoadBalancing)), as Envoy does, and passes over endpoints that are ejected, cannot be
//! reached or were tried before by the same request, as long as there are others. It fails only where there is nobody.
//!
//! [`Picked`] is the endpoint and the guard at once: it counts as a request in flight until it is dropped, and learns from
//! the [`Outcome`](crate::outcome::Outcome) that it is settled with.

use std::{error::Error as StdError, fmt};

use crate::outcome::{Failed, Failure, FailureKind, Sent};

mod draw;
mod index;
mod load;
mod picked;
mod set;
mod terms;
mod wheel;

pub(crate) use self::{
    index::{Index, Rules},
    load::{Level, available},
    set::EndpointSet,
};
pub use self::{
    picked::Picked,
    terms::{OwnDice, Terms},
};

/// No endpoint could be picked, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoEndpoint {
    /// The cluster has none.
    Empty,
    /// All are on their way out.
    Draining,
    /// All are unhealthy, and health is not to be ignored.
    Unhealthy,
    /// No locality has a weight, and by gRPC's rules one without takes no traffic.
    Unweighted,
    /// All are ejected or out of reach, and the request would rather wait.
    Unreachable,
}

// === impl NoEndpoint ===

impl NoEndpoint {
    /// What it stands for: flag UH, nothing sent.
    pub fn failure(&self) -> Failure {
        Failure::new(FailureKind::NoEndpoint, Sent::No)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "the cluster has no endpoints",
            Self::Draining => "all endpoints are draining",
            Self::Unhealthy => "all endpoints are unhealthy",
            Self::Unweighted => "no locality has a weight",
            Self::Unreachable => "no endpoint is available now",
        }
    }
}

impl fmt::Display for NoEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl StdError for NoEndpoint {}

impl From<NoEndpoint> for Failed {
    fn from(none: NoEndpoint) -> Self {
        Self::because(none.failure(), none)
    }
}
