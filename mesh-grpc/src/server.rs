//! Layers for tonic servers: what an inbound call's deadline means for the handler, and for the calls that the handler makes.
//!
//! tonic's own server ends handlers by `grpc-timeout` too, but answers CANCELLED, starts handlers whose time is over, leaves
//! response streams alone and tells nobody. [`DeadlineLayer`] answers DEADLINE_EXCEEDED, runs the handler and its response
//! stream in a [`Scope`], and so ends every call that they make through this crate or mesh-http at the same time.
//!
//! # Examples
//!
//! ```no_run
//! # async fn example(routes: tonic::service::Routes) -> Result<(), Box<dyn std::error::Error>> {
//! use mesh_grpc::server::DeadlineLayer;
//! use tonic::transport::Server;
//!
//! Server::builder()
//!     .layer(DeadlineLayer::new())
//!     .add_routes(routes) // or .add_service(EchoServer::new(..)), as generated
//!     .serve("0.0.0.0:7070".parse()?)
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Cancellation
//!
//! When time is up the handler, or the response stream, is dropped where it stands, like one whose client has gone away.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use mesh_http::scope::{Scope, Scoped};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tower_layer::Layer;
use tower_service::Service;

use crate::timeout;

/// Ends inbound calls, and the calls made for them, by their `grpc-timeout`. See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct DeadlineLayer {
    most: Option<Duration>,
}

/// Ends inbound calls by their `grpc-timeout`; made by [`DeadlineLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Deadline<S> {
    inner: S,
    most: Option<Duration>,
}

/// A call that is handled.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F> {
    /// None when there was no time to begin with.
    #[pin]
    handler: Option<Scoped<F>>,
    #[pin]
    time: Time,
}

/// The body of a response that ends in time.
#[pin_project]
pub struct Body<B> {
    /// None when it has ended.
    #[pin]
    inner: Option<B>,
    #[pin]
    time: Time,
}

/// The time of a call.
#[pin_project]
struct Time {
    scope: Scope,
    /// None without a deadline of its own.
    #[pin]
    up: Option<Sleep>,
}

// === impl DeadlineLayer ===

impl DeadlineLayer {
    /// Ends calls when their clients say so. Calls that come without a deadline have none.
    pub const fn new() -> Self {
        Self { most: None }
    }

    /// Gives no call longer than `most`, whatever its client says. Default: no such limit.
    #[must_use]
    pub const fn at_most(mut self, most: Duration) -> Self {
        self.most = Some(most);
        self
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, most: self.most }
    }
}

// === impl Deadline ===

impl<S> Deadline<S> {
    /// Puts a deadline on calls of `inner`, as [`DeadlineLayer::new`] does.
    pub const fn new(inner: S) -> Self {
        Self { inner, most: None }
    }

    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn limit(&self, headers: &HeaderMap) -> Option<Duration> {
        timeout::asked(headers).into_iter().chain(self.most).min()
    }
}

impl<S, A, B> Service<Request<A>> for Deadline<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: HttpBody,
{
    type Response = Response<Body<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let now = Instant::now();
        let until = self.limit(request.headers()).and_then(|limit| now.checked_add(ahead(limit)));
        let time = Time::new(until);
        let is_over = until.is_some_and(|until| until <= now);
        let handler = (!is_over).then(|| {
            let scope = time.scope;
            scope.run(scope.enter(|| self.inner.call(request)))
        });
        ResponseFuture { handler, time }
    }
}

/// A moment before tonic's own timer, which is set to the same time and answers CANCELLED.
fn ahead(limit: Duration) -> Duration {
    limit.saturating_sub(Duration::from_millis(1))
}

fn too_late() -> Status {
    Status::deadline_exceeded("the deadline of the call is over")
}

// === impl ResponseFuture ===

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
{
    type Output = Result<Response<Body<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(handler) = this.handler.as_mut().as_pin_mut() {
            if let Poll::Ready(response) = handler.poll(cx) {
                let time = this.time.again();
                return Poll::Ready(response.map(|response| response.map(|body| Body { inner: Some(body), time })));
            }
            ready!(this.time.as_mut().poll_up(cx));
            // What it holds is given back before the client hears that it is over.
            this.handler.set(None);
        }
        Poll::Ready(Ok(too_late().into_http()))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("scope", &self.time.scope).finish_non_exhaustive()
    }
}

// === impl Body ===

impl<B> Default for Body<B> {
    fn default() -> Self {
        Self { inner: None, time: Time::new(None) }
    }
}

impl<B: HttpBody> HttpBody for Body<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        // First, as a stream that always has something to say would never let it be heard.
        if this.time.as_mut().poll_up(cx).is_ready() {
            this.inner.set(None);
            let mut trailers = HeaderMap::with_capacity(2);
            return match too_late().add_header(&mut trailers) {
                Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Err(_) => Poll::Ready(None),
            };
        }
        this.time.scope.enter(|| inner.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl<B> fmt::Debug for Body<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("scope", &self.time.scope).finish_non_exhaustive()
    }
}

// === impl Time ===

impl Time {
    /// Of a call that ends at `until`, in the scope that is there.
    fn new(until: Option<Instant>) -> Self {
        let scope = Scope::current();
        Self { scope: until.map_or(scope, |until| scope.until(until)), up: until.map(sleep_until) }
    }

    /// The same, with a timer of its own.
    fn again(&self) -> Self {
        Self { scope: self.scope, up: self.up.as_ref().map(|up| sleep_until(up.deadline())) }
    }

    fn poll_up(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.project().up.as_pin_mut() {
            Some(up) => up.poll(cx),
            None => Poll::Pending,
        }
    }
}
