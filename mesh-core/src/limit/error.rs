//! The one way in which a limit fails a request: there was no room.

use std::{error::Error as StdError, fmt};

use super::Resource;
use crate::{
    config::RequestPriority,
    outcome::{Failed, Failure, FailureKind, Sent},
};

/// A limit was reached, and what it bounds was refused at once. Nothing was sent, so that another try is safe, though it
/// is seldom wise: Envoy never retries an overflow.
///
/// Whoever answers a request with it raises it as a [`Failed`], which is how the layers further out know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overloaded {
    resource: Resource,
    priority: RequestPriority,
    limit: u32,
}

impl Overloaded {
    pub(super) const fn new(resource: Resource, priority: RequestPriority, limit: u32) -> Self {
        Self { resource, priority, limit }
    }

    /// What there was too much of.
    pub const fn resource(&self) -> Resource {
        self.resource
    }

    /// The priority whose limit it was.
    pub const fn priority(&self) -> RequestPriority {
        self.priority
    }

    /// The limit as it stood; for retries under a budget, what the budget came to.
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// What it stands for: flag UO, nothing sent.
    pub const fn failure(&self) -> Failure {
        Failure::new(FailureKind::Overflow, Sent::No)
    }
}

impl fmt::Display for Overloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, limit, .. } = self;
        match self.priority {
            RequestPriority::Default => write!(f, "limit of {limit} {resource} reached"),
            RequestPriority::High => write!(f, "limit of {limit} high-priority {resource} reached"),
        }
    }
}

impl StdError for Overloaded {}

impl From<Overloaded> for Failed {
    fn from(overloaded: Overloaded) -> Self {
        Self::because(overloaded.failure(), overloaded)
    }
}
