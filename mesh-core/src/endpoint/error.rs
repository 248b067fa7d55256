//! The error that says at which endpoint a request failed; layers further out read it to go elsewhere or to lay blame.

use std::{error::Error as StdError, fmt};

use super::EndpointId;
use crate::outcome::BoxError;

/// A request failed at this endpoint; what happened is the source.
#[derive(Debug)]
pub struct AtEndpoint {
    endpoint: EndpointId,
    source: BoxError,
}

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
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(at) = error.downcast_ref::<Self>() {
                return Some(at.endpoint);
            }
            next = error.source();
        }
        None
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
