//! The client: a target, and requests to it.

mod builder;
mod endpoint;
mod inline;
mod plain;

use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Uri};
use http_body::Body as HttpBody;
use http_body_util::Empty;
use mesh_core::{
    RequestHead,
    outcome::{BoxError, FailureKind},
    route::Explanation,
};
use tower_service::Service;

pub use self::{
    builder::ClientBuilder,
    endpoint::{EndpointSpec, IntoEndpoint},
};
use crate::{
    Body, Error, Mesh, MeshStatus,
    call::{Caller, ResponseFuture},
    mesh::Routes,
    protocol::{Http, Protocol},
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
/// It does not switch protocols: a 101 is an answer like any other, and neither `CONNECT` nor WebSockets get a byte stream.
/// Routing, retries and limits are about requests, and such a stream is none.
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
    caller: Arc<Caller>,
    protocol: PhantomData<fn() -> P>,
}

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
            Err(error) => ResponseFuture::failed(Error::new(FailureKind::Request, error)),
        }
    }
}

impl<P: Protocol> Client<P> {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller: Arc::new(caller), protocol: PhantomData }
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
        ResponseFuture::new(&self.caller, request)
    }

    /// Waits, as long as it takes, until the target's configuration is there.
    ///
    /// # Errors
    ///
    /// When the source says that there is none.
    pub async fn ready(&self) -> Result<(), Error> {
        match self.caller.target().known().await.lacking() {
            Some(reason) => Err(self.caller.unavailable(&reason)),
            None => Ok(()),
        }
    }

    /// Which route a request would take, and why, found by the code that routes requests. None before there is a
    /// configuration. Shares of traffic are drawn as for the next call.
    pub fn explain<B>(&self, request: &Request<B>) -> Option<Explanation> {
        match &**self.caller.target().routes() {
            Routes::Ready(compiled) => Some(compiled.table.explain(&RequestHead::of(request), self.caller.next_roll())),
            _ => None,
        }
    }

    /// How everything stands that the client's mesh holds: [`Mesh::status`].
    pub fn status(&self) -> MeshStatus {
        self.mesh().status()
    }

    /// Ends the client's mesh, and with it every client of that mesh: [`Mesh::shutdown`].
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.mesh().shutdown(grace).await
    }

    /// The mesh that the client belongs to.
    pub fn mesh(&self) -> &Mesh {
        self.caller.mesh()
    }

    /// The name of the target.
    pub fn target(&self) -> &str {
        &self.caller.target().name
    }
}

impl<P: Protocol> Clone for Client<P> {
    fn clone(&self) -> Self {
        Self { caller: self.caller.clone(), protocol: PhantomData }
    }
}

impl<P: Protocol> fmt::Debug for Client<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("target", &self.target()).finish_non_exhaustive()
    }
}

/// A client is a service, and so is a reference to one: who has only that need not clone.
macro_rules! service {
    ($client:ty) => {
        impl<B, P> Service<Request<B>> for $client
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
    };
}

service!(Client<P>);
service!(&Client<P>);
