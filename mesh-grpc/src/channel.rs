//! The channel: what every client that tonic generates takes in place of tonic's own.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, Uri,
    header::USER_AGENT,
    uri::{Authority, Scheme},
};
use mesh_http::{Client, ClientBuilder, Mesh, MeshStatus};
use pin_project::pin_project;
use tonic::Status;
use tower_service::Service;

use crate::{
    body::Body,
    classify::is_grpc,
    status::{status_of, status_of_stranger},
    wire::{GRPC_STATUS, Grpc},
};

/// Builds a [`Channel`]; see [`ClientBuilder`] for what it knows.
pub type ChannelBuilder = ClientBuilder<Grpc>;

/// A gRPC channel to one target, for the clients that tonic generates.
///
/// It is a handle: `Clone`, `Send` and `Sync`, and cheap. Calls go out as soon as there is a configuration, by the rules of
/// the target's routes; see [`mesh_http::Client`] for what holds of both.
///
/// # Errors
///
/// What fails on this side is a [`Status`] whose source is the [`mesh_http::Error`] with its response flags, which
/// [`flags`](crate::flags) reads: UNAVAILABLE for want of a route, an endpoint, a connection or a permit, DEADLINE_EXCEEDED
/// when time is up. Generated clients show it as it is. An answer that is not gRPC's, such as a proxy's page, is the status
/// that its HTTP status stands for.
///
/// # Cancellation
///
/// Dropping a call, or its response stream, resets the HTTP/2 stream.
///
/// # Examples
///
/// ```no_run
/// # async fn example<E>(echo_client: impl Fn(mesh_grpc::Channel) -> E) -> Result<(), mesh_http::Error> {
/// use mesh_grpc::Channel;
///
/// let channel = Channel::builder("echo.shop:7070").endpoints(["10.0.0.5:7070", "10.0.0.6:7070"]).build()?;
/// let echo = echo_client(channel); // EchoClient::new(channel), as generated
/// # let _ = echo;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Channel {
    client: Client<Grpc>,
    authority: Authority,
}

/// A call in flight. Dropping it cancels the call.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    #[pin]
    response: mesh_http::ResponseFuture<tonic::body::Body, Grpc>,
}

// === impl Channel ===

impl Channel {
    /// Builds a channel to `target`: `host:port`, `xds:///host:port`, which is the same, or `xds://authority/host:port`, where the
    /// mesh's source knows that authority (gRFC A47).
    pub fn builder(target: impl Into<String>) -> ChannelBuilder {
        ChannelBuilder::new(target)
    }

    /// Waits, as long as it takes, until the target's configuration is there.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE when the source says that there is none.
    #[allow(clippy::result_large_err, reason = "it is tonic's error type")]
    pub async fn ready(&self) -> Result<(), Status> {
        self.client.ready().await.map_err(status_of)
    }

    /// How everything stands that the channel's mesh holds: [`Mesh::status`].
    pub fn status(&self) -> MeshStatus {
        self.client.status()
    }

    /// Ends the channel's mesh, and with it every channel of that mesh: [`Mesh::shutdown`].
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.client.shutdown(grace).await
    }

    /// The mesh that the channel belongs to.
    pub fn mesh(&self) -> &Mesh {
        self.client.mesh()
    }

    /// The client below, which sends any request that is shaped like gRPC's.
    pub fn client(&self) -> &Client<Grpc> {
        &self.client
    }
}

impl From<Client<Grpc>> for Channel {
    fn from(client: Client<Grpc>) -> Self {
        let authority = client.target().parse().expect("the builder has checked the target");
        Self { client, authority }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("target", &self.client.target()).finish_non_exhaustive()
    }
}

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = ResponseFuture;

    /// Always ready: what a call needs is reserved when it is sent.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<tonic::body::Body>) -> ResponseFuture {
        address(&self.authority, request.uri_mut());
        request.headers_mut().entry(USER_AGENT).or_insert(OUR_NAME);
        ResponseFuture { response: self.client.request(request) }
    }
}

/// What a call says of who made it, where the caller's metadata does not.
const OUR_NAME: HeaderValue = HeaderValue::from_static(concat!("mesh-grpc/", env!("CARGO_PKG_VERSION")));

/// Completes a target that is only a path, as tonic's clients make it. An origin that the user gave stays.
fn address(authority: &Authority, uri: &mut Uri) {
    if uri.authority().is_some() {
        return;
    }
    let mut parts = std::mem::take(uri).into_parts();
    parts.scheme.get_or_insert(Scheme::HTTP);
    parts.authority = Some(authority.clone());
    parts.path_and_query.get_or_insert_with(|| http::uri::PathAndQuery::from_static("/"));
    *uri = Uri::from_parts(parts).expect("scheme, authority and path make a target");
}

// === impl ResponseFuture ===

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().response.poll(cx));
        Poll::Ready(response.map_err(status_of).and_then(|response| {
            if response.headers().contains_key(GRPC_STATUS) || is_grpc(response.status(), response.headers()) {
                return Ok(response.map(Body::new));
            }
            Err(status_of_stranger(&response))
        }))
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
