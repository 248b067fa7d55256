//! What a call may say of itself, in its request's extensions.

use std::time::Duration;

use http::Request;
use mesh_core::config::RequestPriority;

/// What one call asks for; put it into the request's extensions. It counts above the route's configuration.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use mesh_http::CallOptions;
///
/// let mut request = http::Request::post("http://orders/v1/42").body(String::from("paid"))?;
/// // The order number makes a repetition harmless, whatever the method says.
/// request.extensions_mut().insert(CallOptions::new().idempotent().within(Duration::from_millis(800)));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: Option<RequestPriority>,
    pub(crate) idempotent: bool,
    pub(crate) wait_for_ready: bool,
    pub(crate) detached: bool,
}

impl CallOptions {
    /// Nothing special.
    pub const fn new() -> Self {
        Self { timeout: None, priority: None, idempotent: false, wait_for_ready: false, detached: false }
    }

    /// What a request asks for, which is of no use to anybody further on.
    pub(crate) fn take<B>(request: &mut Request<B>) -> Self {
        request.extensions_mut().remove().unwrap_or_default()
    }

    /// Ends the request after `limit`, or earlier where its route or the [scope](crate::scope) says so.
    #[must_use]
    pub const fn within(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Says that repeating the request does no harm, so that it is retried like an idempotent method.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Waits for an endpoint rather than fail for want of one, for as long as the request's time lasts (gRPC's
    /// wait-for-ready).
    #[must_use]
    pub const fn wait_for_ready(mut self) -> Self {
        self.wait_for_ready = true;
        self
    }

    /// Counts against the circuit breaker of this priority.
    #[must_use]
    pub const fn priority(mut self, priority: RequestPriority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Lets the request outlive the [scope](crate::scope) that it is made in.
    #[must_use]
    pub const fn detached(mut self) -> Self {
        self.detached = true;
        self
    }
}
