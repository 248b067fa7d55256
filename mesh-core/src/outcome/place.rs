//! Where it happened: the number of an endpoint, and the error that says at which one a request failed; layers further out
//! read it to go elsewhere or to lay blame.

use std::{error::Error as StdError, fmt, num::NonZeroU64};

use super::{BoxError, find_cause};

/// The number of an endpoint within its cluster: the same as long as the identity stays in the cluster, never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(NonZeroU64);

/// A request failed at this endpoint; what happened is the source.
#[derive(Debug)]
pub struct AtEndpoint {
    endpoint: EndpointId,
    source: BoxError,
}

// === impl EndpointId ===

impl EndpointId {
    pub(crate) fn new(number: NonZeroU64) -> Self {
        Self(number)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl AtEndpoint ===

impl AtEndpoint {
    pub(crate) fn new(endpoint: EndpointId, source: BoxError) -> Self {
        Self { endpoint, source }
    }

    /// `error`, which happened there if anywhere.
    pub(crate) fn wrap(endpoint: Option<EndpointId>, error: impl Into<BoxError>) -> BoxError {
        match endpoint {
            Some(endpoint) => Self::new(endpoint, error.into()).into(),
            None => error.into(),
        }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> EndpointId {
        self.endpoint
    }

    /// The endpoint at which `error`, or anything in its chain of sources, happened.
    pub fn of(error: &(dyn StdError + 'static)) -> Option<EndpointId> {
        find_cause(error).map(Self::endpoint)
    }
}

impl fmt::Display for AtEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint {} failed", self.endpoint)
    }
}

impl StdError for AtEndpoint {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}
