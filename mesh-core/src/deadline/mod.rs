//! Time limits of a request: the layer that enforces one over all of it, the one timer that a request has, and the body
//! that goes on watching after the head.
//!
//! Set against tower's `Timeout`: a limit may come from the request itself, it can guard the response body too, and a
//! request that is answered without waiting never touches the timer wheel.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//!
//! use mesh_core::{deadline::{DeadlineLayer, Elapsed}, outcome::find_cause};
//! use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let service = ServiceBuilder::new()
//!     .layer(DeadlineLayer::new(Duration::from_secs(2)))
//!     .service(service_fn(async |seconds: u64| {
//!         tokio::time::sleep(Duration::from_secs(seconds)).await;
//!         Ok::<_, BoxError>(seconds)
//!     }));
//!
//! assert_eq!(service.clone().oneshot(1).await.expect("in time"), 1);
//! let error = service.oneshot(3).await.expect_err("too late");
//! assert!(find_cause::<Elapsed>(&*error).is_some());
//! # }
//! ```
//!
//! # Cancellation
//!
//! When time is up the inner future, or the response body, is dropped at once, before the error is seen. The guards inside
//! hear that it was for want of time ([`give_up`]); a call that its caller drops is nobody's fault.

mod body;
mod error;
mod future;
mod layer;
mod progress;
mod timer;

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower_service::Service;

pub use self::{
    body::{BodyLimits, Silence, TimedBody},
    error::{Bound, Elapsed},
    future::ResponseFuture,
    layer::DeadlineLayer,
    progress::Progress,
    timer::Timer,
};
use crate::{
    carry::PolicyOf,
    hold::{AtOnce, Hold, give_up},
    macros::inner_service,
    outcome::{BoxError, EndpointId, Sent},
};

/// When a request's time is up, and which limit says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    at: Instant,
    limit: Duration,
    bound: Bound,
}

/// The same time for every request, counted from `call`.
#[derive(Clone, Copy, Debug)]
pub struct After(pub Duration);

/// Ends requests that take too long. See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Deadline<S, P = After, H = AtOnce> {
    inner: S,
    policy: P,
    hold: H,
}

/// `wait` after `start`; decades after it where the clock cannot count as far.
#[inline]
pub fn later(start: Instant, wait: Duration) -> Instant {
    const DECADES: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);
    start.checked_add(wait).unwrap_or_else(|| start + DECADES)
}

// === impl Expiry ===

impl Expiry {
    /// `limit` after `start`, as [`later`] has it; `bound` says which limit it is.
    #[inline]
    pub fn new(bound: Bound, start: Instant, limit: Duration) -> Self {
        Self { at: later(start, limit), limit, bound }
    }

    /// The one of two that comes first; the one there is, where there is only one.
    #[inline]
    pub fn nearer(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        one.into_iter().chain(other).min_by_key(|expiry| expiry.at)
    }

    /// When time is up.
    pub const fn at(&self) -> Instant {
        self.at
    }

    /// Which limit it is.
    pub const fn bound(&self) -> Bound {
        self.bound
    }

    /// The error that says so, given how far the request got.
    pub const fn elapsed(&self, sent: Sent) -> Elapsed {
        Elapsed::new(self.bound, self.limit, sent)
    }

    /// Time is up: `end` drops what took too long, and the endpoint that has it, which is returned, is blamed for that.
    pub(crate) fn give_up(&self, sent: Sent, end: impl FnOnce()) -> Option<EndpointId> {
        if matches!(self.bound, Bound::StreamDuration | Bound::Idle) {
            // Streams that last are cut off however well they do, and a silence may be as much the caller's.
            end();
            return None;
        }
        give_up(self.elapsed(sent).failure(), end)
    }
}

// === impl After ===

impl<R> PolicyOf<R, Option<Expiry>> for After {
    fn policy_of(&self, _: &mut R) -> Option<Expiry> {
        Some(Expiry::new(Bound::Request, Instant::now(), self.0))
    }
}

// === impl Deadline ===

impl<S> Deadline<S> {
    /// Ends calls of `inner` that have no response after `limit`.
    pub const fn new(inner: S, limit: Duration) -> Self {
        Self::with_parts(inner, After(limit), AtOnce)
    }
}

impl<S, P, H> Deadline<S, P, H> {
    const fn with_parts(inner: S, policy: P, hold: H) -> Self {
        Self { inner, policy, hold }
    }

    inner_service!(S);
}

impl<R, S, P, H> Service<R> for Deadline<S, P, H>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    P: PolicyOf<R, Option<Expiry>>,
    H: Hold<S::Response, BodyLimits> + Clone,
{
    type Response = H::Held;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, H>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: R) -> Self::Future {
        let expiry = self.policy.policy_of(&mut request);
        ResponseFuture::new(self.inner.call(request), expiry, self.hold.clone())
    }
}

#[cfg(test)]
mod tests;
