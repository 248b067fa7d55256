//! Trying a request again: attempts, their time limits, and what bounds them, in one driver.
//!
//! Set against tower's `Retry`: the number of retries under way is bounded by a budget and not only the number per request;
//! a streaming body can be sent again; attempts and the whole call have time limits, kept by one timer; and what no peer
//! has processed is repeated at once, without asking a policy.
//!
//! # Examples
//!
//! HTTP, with a layer of tower-http between the retries and the service, so that it sees every attempt:
//!
//! ```
//! use std::{sync::atomic::{AtomicU32, Ordering}, time::Duration};
//!
//! use bytes::Bytes;
//! use http::{HeaderName, HeaderValue, Request, Response};
//! use http_body_util::Full;
//! use mesh_core::{config::{RetryOn, RetryPolicy}, retry::{ReplayBody, RetryLayer}};
//! use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
//! use tower_http::set_header::SetRequestHeaderLayer;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! static SEEN: AtomicU32 = AtomicU32::new(0);
//!
//! let policy = RetryPolicy::on(RetryOn::GATEWAY_ERROR | RetryOn::CONNECT_FAILURE).max_retries(2)?;
//! let service = ServiceBuilder::new()
//!     .layer(RetryLayer::new(policy).timeout(Duration::from_secs(5)).per_try_timeout(Duration::from_secs(1)))
//!     .layer(SetRequestHeaderLayer::overriding(
//!         HeaderName::from_static("x-client"),
//!         HeaderValue::from_static("docs"),
//!     ))
//!     .service(service_fn(async |request: Request<ReplayBody>| {
//!         assert_eq!(request.headers()["x-client"], "docs");
//!         let status = if SEEN.fetch_add(1, Ordering::Relaxed) == 0 { 503 } else { 200 };
//!         Ok::<_, BoxError>(Response::builder().status(status).body(())?)
//!     }));
//!
//! let response = service.oneshot(Request::new(Full::<Bytes>::from("hello"))).await?;
//! assert_eq!((response.status().as_u16(), SEEN.load(Ordering::Relaxed)), (200, 2));
//! # Ok(())
//! # }
//! ```
//!
//! Anything else that can be cloned, with a judge of its own:
//!
//! ```
//! use mesh_core::{config::{RetryOn, RetryPolicy}, retry::{RetryLayer, Tried, Verdict, Wait}};
//! use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! let mut answers = [None, Some(7)].into_iter();
//! let service = ServiceBuilder::new()
//!     .layer(RetryLayer::cloning(RetryPolicy::on(RetryOn::default())).judge(|tried: Tried<'_, Option<u32>>| {
//!         if tried.result.is_ok_and(Option::is_none) { Verdict::Retry(Wait::Backoff) } else { Verdict::Deliver }
//!     }))
//!     .service(service_fn(move |_: &'static str| std::future::ready(Ok::<_, BoxError>(answers.next().flatten()))));
//!
//! assert_eq!(service.oneshot("how many?").await?, Some(7));
//! # Ok(())
//! # }
//! ```
//!
//! # What is tried again
//!
//! - What no peer has processed, whatever the policy: as often as it takes, within reason, when it never left, and once
//!   when a peer has refused it. Such a repetition is no attempt and costs no budget.
//! - What the judge finds worth while, up to the policy's number of retries, where the budget has room, where the request
//!   can be repeated, and where the wait ends before the deadline. A failure to connect costs no budget.
//!
//! When there is no further attempt, the last result is delivered, with a note why: see [`Judge::note`].
//!
//! # Cloning, readiness, cancellation
//!
//! A call takes the ready service and leaves a clone. The layer is ready when its inner service is; a further attempt waits
//! for it to be ready again, within the deadline. A call that is dropped ends its attempt and gives its permits back.

mod attempts;
mod backoff;
mod date;
mod future;
mod govern;
mod judge;
mod keep;
mod layer;
mod policy;
mod replay;
mod rules;

use std::{
    mem,
    task::{Context, Poll},
};

use tower_service::Service;

pub use self::{
    backoff::Wait,
    future::ResponseFuture,
    govern::{Govern, Governed, Under},
    judge::{Judge, Tried, Verdict},
    keep::{ByClone, Cloned, Keep, Kept, Observe, Try},
    layer::RetryLayer,
    policy::{AttemptPolicy, Standalone, StandaloneCall},
    replay::{Replay, ReplayBody, Replayed},
    rules::{FailureRules, HttpRules},
};
use crate::{
    deadline::BodyLimits,
    hold::{AtOnce, Hold},
    macros::inner_service,
    outcome::BoxError,
};

/// Tries requests again. See the [module](self).
#[derive(Clone, Debug)]
pub struct Retry<S, G = Under, J = HttpRules, H = AtOnce> {
    inner: S,
    recipe: RetryLayer<G, J, H>,
}

type KeptBy<G, R> = <<G as Govern<R>>::Governed as Governed>::Kept;

// === impl Retry ===

impl<S, G, J, H> Retry<S, G, J, H> {
    inner_service!(S);
}

impl<R, S, G, J, H> Service<R> for Retry<S, G, J, H>
where
    G: Govern<R>,
    KeptBy<G, R>: Observe<S::Response>,
    S: Service<<KeptBy<G, R> as Kept>::Attempt> + Clone,
    S::Error: Into<BoxError>,
    J: Judge<S::Response> + Clone,
    H: Hold<S::Response, BodyLimits> + Clone,
{
    type Response = H::Held;
    type Error = BoxError;
    type Future = ResponseFuture<S, S::Future, G::Governed, J, H>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        let RetryLayer { govern, judge, hold } = &self.recipe;
        let clone = self.inner.clone();
        // The call takes the service that is ready, and the clone, which may not be, stays.
        let ready = mem::replace(&mut self.inner, clone);
        let (judge, hold) = (judge.clone(), hold.clone());
        ResponseFuture::new(ready, govern.govern(request), judge, hold)
    }
}
