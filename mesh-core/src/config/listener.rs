//! What stands before the routes of a target: its filters (`HttpConnectionManager`).

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use super::{ConfigError, Fraction, HeaderMatcher, RouteConfig, RoutePolicy, VirtualHost};

/// A target whose routes are known: what a client of it obeys.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    name: Arc<str>,
    /// What requests pass before they are routed on, in order; the router itself is not listed.
    pub filters: Vec<HttpFilter>,
    /// The routes.
    pub routes: Arc<RouteConfig>,
    /// What holds for every route that does not say otherwise (`common_http_protocol_options`, `stream_idle_timeout`).
    pub policy: RoutePolicy,
}

/// One filter of the chain.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpFilter {
    /// Its name in the chain, by which routes replace its configuration.
    pub name: Arc<str>,
    /// What it does.
    pub kind: FilterKind,
}

/// What a filter does.
#[derive(Clone, Debug, PartialEq)]
pub enum FilterKind {
    /// Delays and aborts requests on purpose.
    Faults(Arc<FaultInjection>),
}

/// Faults on purpose (`envoy.extensions.filters.http.fault.v3.HTTPFault`, gRFC A33). The delay comes first, then the
/// abort, each drawn for itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultInjection {
    /// Hold requests back.
    pub delay: Option<FaultDelay>,
    /// Answer requests here.
    pub abort: Option<FaultAbort>,
    /// Only requests that pass all of these.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests to this cluster.
    pub cluster: Option<Arc<str>>,
    /// The most requests that are held or aborted at a time.
    pub max_active: Option<u32>,
}

/// A delay for some requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultDelay {
    /// How long.
    pub duration: Duration,
    /// How many.
    pub share: Fraction,
}

/// An answer on the spot for some requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultAbort {
    /// Which.
    pub with: AbortStatus,
    /// How many.
    pub share: Fraction,
}

/// The answer of an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    /// An HTTP status.
    Http(StatusCode),
    /// A gRPC status.
    Grpc(u32),
}

// === impl Listener ===

impl Listener {
    /// A target without filters.
    pub fn new(name: impl Into<Arc<str>>, routes: Arc<RouteConfig>) -> Self {
        Self { name: name.into(), filters: Vec::new(), routes, policy: RoutePolicy::default() }
    }

    /// The name of the target.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Takes a listener apart that was replaced, unless somebody else holds it: to drop the virtual hosts of its routes as they
    /// come is to drop it. See [`Snapshot::take_apart`](super::Snapshot::take_apart).
    pub fn take_apart(self: Arc<Self>) -> impl Iterator<Item = Arc<VirtualHost>> + Send {
        Arc::into_inner(self).into_iter().flat_map(|listener| listener.routes.take_apart())
    }
}

// === impl FaultAbort ===

impl FaultAbort {
    /// Answers a share of requests.
    ///
    /// # Errors
    ///
    /// Refuses an HTTP status outside 200 to 599.
    pub fn new(with: AbortStatus, share: Fraction) -> Result<Self, ConfigError> {
        match with {
            AbortStatus::Http(status) if !(200..600).contains(&status.as_u16()) => {
                Err(ConfigError::new("abort.http_status", status, "use 200 to 599"))
            }
            _ => Ok(Self { with, share }),
        }
    }
}
