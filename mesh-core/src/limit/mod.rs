//! How much may be under way at a time: the circuit-breaker limits of a cluster, and the layer that refuses requests
//! beyond them.
//!
//! A [`Limits`] counts what one cluster has under way and is shared by everything that works towards it: the layer here
//! counts requests, or the [balancer](crate::balance::Terms::breaker) of the cluster does; retries count themselves, a
//! connection pool counts connections and those that wait for one. What is over a limit is refused at once with
//! [`Overloaded`]; nothing queues. That is the difference from tower's
//! `ConcurrencyLimit`, which makes callers wait and whose `Pending` cannot tell one request from another.
//!
//! # Examples
//!
//! ```
//! use mesh_core::{config::CircuitBreakers, limit::{LimitLayer, Limits, Overloaded}, outcome::find_cause};
//! use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let mut breakers = CircuitBreakers::default();
//! breakers.default.max_requests = Some(1);
//! let limits = Limits::new(&breakers);
//!
//! let mut service = ServiceBuilder::new()
//!     .layer(LimitLayer::new(limits))
//!     .service(service_fn(async |name: &'static str| Ok::<_, BoxError>(name.len())));
//!
//! let first = service.ready().await?.call("one");
//! let refused = service.ready().await?.call("two").await.expect_err("one is under way");
//! assert_eq!(find_cause::<Overloaded>(&*refused).map(Overloaded::limit), Some(1));
//! assert_eq!(first.await?, 3);
//! # Ok(())
//! # }
//! ```
//!
//! # Readiness and cancellation
//!
//! The layer is ready when its inner service is, and takes its permit in `call`, since which limits count depends on the
//! request. Dropping a call, or a response that is still arriving, gives the permit back.

mod error;
mod future;
mod layer;
mod permits;

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tower_service::Service;

pub use self::{
    error::Overloaded,
    future::ResponseFuture,
    layer::LimitLayer,
    permits::{Figure, Figures, Limits, Permit, Resource},
};
use crate::{
    carry::{Fixed, PolicyOf},
    config::RequestPriority,
    hold::{AtOnce, Hold},
    macros::inner_service,
    outcome::BoxError,
};

/// Whose limits a request counts against.
#[derive(Clone, Debug)]
pub struct Breaker {
    /// The cluster's limits.
    pub limits: Arc<Limits>,
    /// The priority of the request.
    pub priority: RequestPriority,
}

/// Refuses requests beyond a limit: the request breaker. See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Limit<S, P = Fixed<Breaker>, H = AtOnce> {
    inner: S,
    policy: P,
    hold: H,
}

// === impl Limit ===

impl<S> Limit<S> {
    /// Counts requests to `inner` against `limits`, from `call` to response.
    pub const fn new(inner: S, limits: Arc<Limits>) -> Self {
        Self::with_parts(inner, Fixed(Breaker { limits, priority: RequestPriority::Default }), AtOnce)
    }
}

impl<S, P, H> Limit<S, P, H> {
    const fn with_parts(inner: S, policy: P, hold: H) -> Self {
        Self { inner, policy, hold }
    }

    inner_service!(S);
}

impl<R, S, P, H> Service<R> for Limit<S, P, H>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    P: PolicyOf<R, Breaker>,
    H: Hold<S::Response, Permit> + Clone,
{
    type Response = H::Held;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, H>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, mut request: R) -> Self::Future {
        let Breaker { limits, priority } = self.policy.policy_of(&mut request);
        match limits.admit(Resource::Requests, priority) {
            Ok(permit) => ResponseFuture::admitted(self.inner.call(request), permit, self.hold.clone()),
            Err(overloaded) => ResponseFuture::refused(overloaded),
        }
    }
}

#[cfg(test)]
mod tests;
