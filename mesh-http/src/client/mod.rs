//! The client: a target, and requests to it.

mod builder;
mod options;

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Uri};
use http_body::Body as HttpBody;
use http_body_util::Empty;
use mesh_core::{
    Dice,
    config::RequestHead,
    deadline::Expiry,
    outcome::{BoxError, FailureKind, Sent},
    route::Explanation,
};
use tokio::time::{Instant, timeout, timeout_at};
use tower_service::Service;

pub use self::{
    builder::{ClientBuilder, EndpointSpec, IntoEndpoint},
    options::CallOptions,
};
use crate::{
    Body, Error, Mesh,
    call::{Caller, ResponseFuture},
    mesh::{State, Target},
    protocol::{Http, Protocol},
    scope::Scope,
};

/// Sends requests to one target, by the rules of its configuration.
///
/// A client is a handle: clones are cheap and share everything, and so do clients of one [`Mesh`] with those of equal
/// policy. It keeps its mesh alive. Requests go out as soon as there is a configuration; until then a call waits up to the
/// builder's [`ready_timeout`](ClientBuilder::ready_timeout).
///
/// It has the methods of hyper-util's `Client`, and is a [`tower::Service`](Service) for everything else. `P` is the protocol
/// that is spoken over HTTP; mesh-grpc stands on this same client with its own.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), mesh_http::Error> {
/// let client = mesh_http::Client::builder("reviews").endpoints(["10.0.0.5:9080", "10.0.0.6:9080"]).build()?;
/// let page = client.get("http://reviews/v1/7").await?;
/// assert_eq!(page.status(), 200);
/// # Ok(())
/// # }
/// ```
pub struct Client<P: Protocol = Http> {
    shared: Arc<Shared>,
    protocol: PhantomData<fn() -> P>,
}

/// What clones of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    mesh: Mesh,
    target: Arc<Target>,
    seed: u64,
    number: u64,
    calls: AtomicU64,
    ready_timeout: Duration,
}

/// Waits for a target's configuration.
pub(crate) type Known = Pin<Box<dyn Future<Output = Result<Arc<State>, Error>> + Send>>;

// === impl Client ===

impl Client<Http> {
    /// Builds a client of `target`.
    pub fn builder(target: impl Into<String>) -> ClientBuilder<Http> {
        ClientBuilder::new(target)
    }

    /// Sends a `GET` for `uri`.
    pub fn get<U>(&self, uri: U) -> ResponseFuture<Empty<Bytes>>
    where
        U: TryInto<Uri>,
        U::Error: Into<http::Error>,
    {
        match Request::get(uri).body(Empty::new()) {
            Ok(request) => self.request(request),
            Err(error) => ResponseFuture::failed(Error::new(FailureKind::RequestBody, error)),
        }
    }
}

impl<P: Protocol> Client<P> {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared), protocol: PhantomData }
    }

    /// Sends a request.
    ///
    /// # Errors
    ///
    /// See [`Error`]; bad statuses are responses, not errors.
    pub fn request<B>(&self, request: Request<B>) -> ResponseFuture<B, P>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        ResponseFuture::new(&self.shared, request)
    }

    /// Waits, as long as it takes, until the target's configuration is there.
    ///
    /// # Errors
    ///
    /// When the source says that there is none.
    pub async fn ready(&self) -> Result<(), Error> {
        match &*self.shared.target.known().await {
            State::Unavailable(reason) => Err(self.shared.unavailable(reason)),
            State::Waiting | State::Ready(_) => Ok(()),
        }
    }

    /// Which route a request would take, and why, found by the code that routes requests. None before there is a
    /// configuration. Shares of traffic are drawn as for the next call.
    pub fn explain<B>(&self, request: &Request<B>) -> Option<Explanation> {
        let roll = self.shared.dice_of(self.shared.calls.load(Ordering::Relaxed)).roll();
        match &**self.shared.target.state() {
            State::Ready(compiled) => Some(compiled.table.explain(&RequestHead::of(request), roll)),
            State::Waiting | State::Unavailable(_) => None,
        }
    }

    /// The mesh that the client belongs to.
    pub fn mesh(&self) -> &Mesh {
        &self.shared.mesh
    }

    /// The name of the target.
    pub fn target(&self) -> &str {
        &self.shared.target.name
    }
}

impl<P: Protocol> Clone for Client<P> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), protocol: PhantomData }
    }
}

impl<P: Protocol> fmt::Debug for Client<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("target", &self.target()).finish_non_exhaustive()
    }
}

impl<B, P> Service<Request<B>> for Client<P>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    P: Protocol,
{
    type Response = http::Response<Body<P>>;
    type Error = Error;
    type Future = ResponseFuture<B, P>;

    /// Always ready: what a request needs is reserved when it is sent, since it depends on the request.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.request(request)
    }
}

impl<B, P> Service<Request<B>> for &Client<P>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    P: Protocol,
{
    type Response = http::Response<Body<P>>;
    type Error = Error;
    type Future = ResponseFuture<B, P>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.request(request)
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// The dice, the first clock reading and the scope of the next call, which is made on this task.
    pub(crate) fn next_call(&self) -> Caller {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        Caller { dice: self.dice_of(call), start: Instant::now(), scope: Scope::current() }
    }

    fn dice_of(&self, call: u64) -> Dice {
        Dice::of_call(self.seed, self.number, call)
    }

    /// Waits for the configuration: as long as the builder said, or the call itself, whichever is less. A call that waits
    /// for ready has only its own limit.
    pub(crate) fn known(self: Arc<Self>, own: Option<Expiry>, waits_for_ready: bool) -> Known {
        let bound = (!waits_for_ready).then_some(self.ready_timeout);
        Box::pin(async move {
            let waiting = async {
                match bound {
                    Some(bound) => timeout(bound, self.target.known()).await.ok(),
                    None => Some(self.target.known().await),
                }
            };
            let state = match own {
                Some(own) => match timeout_at(own.at(), waiting).await {
                    Ok(state) => state,
                    Err(_) => return Err(Error::from_below(own.elapsed(Sent::No).into())),
                },
                None => waiting.await,
            };
            state.ok_or_else(|| self.mesh.why_waiting(&self.target.name, self.ready_timeout))
        })
    }

    pub(crate) fn unavailable(&self, reason: &str) -> Error {
        Error::new(FailureKind::NoConfig, format!("target `{}` has no configuration: {reason}", self.target.name))
    }
}
