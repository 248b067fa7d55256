//! From a control plane's address to a live ADS stream, over the connections of mesh-http.
//!
//! It spawns nothing: the driver of the connection is part of the [`AdsStream`], and runs while the stream is polled. Names
//! are looked up, and identities read, anew for every stream.

use std::{
    error::Error as StdError,
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use http::{
    HeaderValue, Request, Response, Uri,
    header::{AUTHORIZATION, USER_AGENT},
    uri::PathAndQuery,
};
use mesh_core::{
    config::{Address, IdentityName, Trust, UpstreamTls},
    identity::{Identities, IdentityError, IdentitySource, Work},
    outcome::BoxError,
};
use mesh_http::{
    conn::{self, Http2Options, KeepAlive, h2},
    connect::{self, Connect, connect_any},
    resolve::Resolve,
    tls::{Connector, FileIdentity, PeerName, Provider, TlsClient, TlsError},
};
use prost::Message;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::timeout,
};
use tonic::{Code, Status, Streaming, body::Body, client::Grpc, codegen::Service};

use crate::{
    bootstrap::{CallCredentials, CertificateFiles, ChannelCredentials, Server, ServerUri},
    session::{Sealed as Answer, SealedDelta, SealedState, Variant},
    token::{TokenError, TokenFile},
};

mod messages;
mod portions;
mod requests;

pub(crate) use self::requests::encode;

use self::{
    messages::{Divided, Messages},
    portions::Portions,
    requests::Encoded,
};

/// How to reach one control plane.
pub(crate) struct Dialer {
    connector: Arc<dyn Connect>,
    resolver: Arc<dyn Resolve>,
    uri: ServerUri,
    variant: Variant,
    origin: Uri,
    tls: Option<Tls>,
    /// Shown by each stream, over TLS only.
    tokens: Arc<[TokenFile]>,
    limits: Limits,
}

/// What a stream may cost and how long it may take.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// For everything up to the connection's readiness for a request.
    pub(crate) connect_timeout: Duration,
    /// Bytes of one response.
    pub(crate) message: usize,
    pub(crate) http2: Http2Options,
}

/// The parts that are put in from outside.
pub(crate) struct Parts {
    pub(crate) connector: Arc<dyn Connect>,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) provider: Option<Provider>,
    pub(crate) limits: Limits,
}

/// What secures the connection.
struct Tls {
    connector: Connector,
    name: PeerName,
    files: Option<Arc<FileIdentity>>,
}

/// A stream to a control plane, from its first request on, and the connection beneath.
pub(crate) struct AdsStream {
    requests: mpsc::Sender<Bytes>,
    answers: Answers,
    /// Gone once it has ended; what had arrived until then is still read.
    driver: Option<h2::Driver<Portions<connect::Stream>, Body>>,
    /// Why the driver ended, until somebody is told.
    failure: Option<conn::Error>,
    /// Whether a request found no room. Set by [`room`](Self::room), cleared when there is room again.
    is_full: bool,
    variant: Variant,
    limit: usize,
    /// What it has shown.
    tokens: Arc<[TokenFile]>,
}

/// Servers may hold their response headers back until they have something to say, so the call is not waited for.
enum Answers {
    Called(Pin<Box<dyn Future<Output = Result<Incoming, Status>> + Send>>),
    Streaming(Incoming),
}

type Incoming = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

/// The server's half of the stream, of either variant.
struct Responses<M>(Messages<M>);

/// What happened to a stream.
pub(crate) enum Heard {
    Response(Box<Answer>),
    /// There is room for a request, where there was none.
    Room,
    Ended(StreamError),
}

/// The client's half of the stream, with room for one request: the session builds the next when this one has left.
struct Outgoing(mpsc::Receiver<Bytes>);

/// The connection as the generated client wants to see it.
struct Channel {
    sender: h2::Sender<Body>,
    /// What each call shows.
    authorizations: Vec<HeaderValue>,
}

/// Why there is no stream to the control plane, or no longer.
#[derive(Debug)]
pub(crate) enum StreamError {
    /// The name of the control plane cannot be resolved.
    Resolve(BoxError),
    /// No address of the control plane takes connections.
    Connect(io::Error),
    /// The handshake failed.
    Tls(TlsError),
    /// The token that the stream should show cannot be had.
    Token(TokenError),
    /// The connection was not ready in time.
    ConnectTimeout(Duration),
    /// The connection failed.
    Connection(conn::Error),
    /// A response was larger than the limit. The stream has to start again, since the rest of it cannot be passed over.
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The control plane has no incremental xDS.
    NoDelta(Box<Status>),
    /// The control plane ended the stream with this status.
    Status(Box<Status>),
    /// The control plane ended the stream without trouble.
    Ended,
}

/// The parts of a client cannot be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum SetupError {
    /// TLS is asked for, and there is no cryptography: neither a feature `tls-…` nor a provider.
    NoCryptography,
    /// The certificates cannot be had.
    Identity(IdentityError),
    /// The name of the control plane is none that a certificate could bear, or roots cannot be used.
    Tls(TlsError),
}

/// By this name the identity of the control plane's credentials is known, in a registry of its own.
const OWN_IDENTITY: &str = "control plane credentials";

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        let mut http2 = Http2Options::default();
        let (interval, timeout) = (Duration::from_secs(5 * 60), Duration::from_secs(20));
        http2.keep_alive = Some(KeepAlive { interval, timeout, while_idle: false });
        Self { connect_timeout: Duration::from_secs(20), message: 128 * 1024 * 1024, http2 }
    }
}

// === impl Dialer ===

impl Dialer {
    /// Reads certificates with blocking I/O.
    pub(crate) fn new(server: &Server, parts: &Parts) -> Result<Self, SetupError> {
        let tls = match server.credentials() {
            ChannelCredentials::Insecure => None,
            ChannelCredentials::Tls(files) => {
                let provider = parts.provider.as_ref().ok_or(SetupError::NoCryptography)?;
                let name = server.tls_name().map_or_else(|| host(server.uri()), str::to_owned);
                Some(Tls::new(files, &name, provider)?)
            }
        };
        Ok(Self {
            connector: parts.connector.clone(),
            resolver: parts.resolver.clone(),
            uri: server.uri().clone(),
            variant: server.variant(),
            origin: origin(server.uri(), tls.is_some()),
            tls,
            tokens: server
                .call_credentials()
                .iter()
                .map(|CallCredentials::JwtTokenFile(path)| TokenFile::new(path))
                .collect(),
            limits: parts.limits.clone(),
        })
    }

    /// Keeps the certificates current, where there are any.
    pub(crate) fn background(&self) -> Option<Work> {
        let files = self.tls.as_ref()?.files.clone()?;
        Some(files.work())
    }

    /// Opens a stream. It is there when requests can be given to it, which may be before the control plane has said a word.
    pub(crate) async fn open(&self) -> Result<Box<AdsStream>, StreamError> {
        let (time_limit, limit) = (self.limits.connect_timeout, self.limits.message);
        let connected = timeout(time_limit, async { Ok((self.authorizations().await?, self.connect().await?)) }).await;
        let (authorizations, (sender, driver)) = connected.unwrap_or(Err(StreamError::ConnectTimeout(time_limit)))?;
        let (requests, outgoing) = mpsc::channel(1);
        let channel = Channel { sender, authorizations };
        let client = Grpc::with_origin(channel, self.origin.clone()).max_decoding_message_size(limit);
        let answers = Answers::Called(match self.variant {
            Variant::StateOfTheWorld => {
                Box::pin(call::<SealedState>(client, limit, STATE_OF_THE_WORLD, Outgoing(outgoing)))
            }
            Variant::Delta => Box::pin(call::<SealedDelta>(client, limit, DELTA, Outgoing(outgoing))),
        });
        Ok(Box::new(AdsStream {
            requests,
            answers,
            driver: Some(driver),
            failure: None,
            is_full: false,
            variant: self.variant,
            limit: self.limits.message,
            tokens: self.tokens.clone(),
        }))
    }

    /// Read before the connection is made, so that a client without a token bothers nobody.
    async fn authorizations(&self) -> Result<Vec<HeaderValue>, StreamError> {
        let mut headers = Vec::with_capacity(self.tokens.len());
        for token in &*self.tokens {
            headers.push(token.header().await.map_err(StreamError::Token)?);
        }
        Ok(headers)
    }

    async fn connect(&self) -> Result<(h2::Sender<Body>, h2::Driver<Portions<connect::Stream>, Body>), StreamError> {
        let addresses = self.addresses().await?;
        let socket = connect_any(&self.connector, &addresses).await.map_err(StreamError::Connect)?;
        let stream = match &self.tls {
            None => socket,
            Some(tls) => Box::new(tls.connector.connect(socket, &tls.name).await.map_err(StreamError::Tls)?),
        };
        h2::handshake(Portions(stream), &self.limits.http2).await.map_err(StreamError::Connection)
    }

    async fn addresses(&self) -> Result<Vec<Address>, StreamError> {
        let (host, port) = match &self.uri {
            ServerUri::Unix(path) => return Ok(vec![Address::Unix(path.as_path().into())]),
            ServerUri::Tcp { host, port, .. } => (host, *port),
        };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port).into()]);
        }
        let resolved = self.resolver.resolve(host).await.map_err(StreamError::Resolve)?;
        Ok(resolved.addresses.into_iter().map(|ip| SocketAddr::new(ip, port).into()).collect())
    }
}

fn host(uri: &ServerUri) -> String {
    match uri {
        ServerUri::Tcp { host, .. } => host.clone(),
        // A socket has no name of its own; this is what gRPC takes for it.
        ServerUri::Unix(_) => "localhost".to_owned(),
    }
}

fn origin(uri: &ServerUri, is_secure: bool) -> Uri {
    let authority = match uri {
        ServerUri::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
        ServerUri::Tcp { host, port, .. } => format!("{host}:{port}"),
        ServerUri::Unix(_) => host(uri),
    };
    let scheme = if is_secure { "https" } else { "http" };
    let parts = Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build();
    parts.expect("a server address holds letters, digits, `-`, `.` and `_`, or is an IP address")
}

// === impl Tls ===

impl Tls {
    fn new(files: &CertificateFiles, peer: &str, provider: &Provider) -> Result<Self, SetupError> {
        let name = || IdentityName::from(OWN_IDENTITY);
        let source = identity(files, provider).map_err(SetupError::Identity)?;
        let trust = if files.ca.is_some() { Trust::Identity(name()) } else { Trust::System };
        let mut tls = UpstreamTls::new(trust);
        if files.identity.is_some() {
            tls = tls.with_identity(name());
        }
        let identities = Identities::new();
        if let Some(source) = &source {
            identities.insert(name(), source.clone());
        }
        let connector = TlsClient::new(provider.clone(), identities).connector(&tls, &["h2"]);
        let connector = connector.map_err(SetupError::Tls)?;
        let name = connector.peer_name(peer, None).map_err(SetupError::Tls)?;
        Ok(Self { connector, name, files: source })
    }
}

/// The identity in these files, if any are named. Reads them, with blocking I/O.
pub(crate) fn identity(
    files: &CertificateFiles,
    provider: &Provider,
) -> Result<Option<Arc<FileIdentity>>, IdentityError> {
    let builder = match (&files.identity, &files.ca) {
        (Some(own), Some(ca)) => FileIdentity::builder(&own.certificate, &own.private_key).ca(ca),
        (Some(own), None) => FileIdentity::builder(&own.certificate, &own.private_key),
        (None, Some(ca)) => FileIdentity::roots(ca),
        (None, None) => return Ok(None),
    };
    builder.interval(files.refresh_interval).build(provider).map(|source| Some(Arc::new(source)))
}

/// The methods of `envoy.service.discovery.v3.AggregatedDiscoveryService`.
const STATE_OF_THE_WORLD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Calls a method. Its generated client would decode every resource of a response in one go.
async fn call<A>(
    mut client: Grpc<Channel>,
    limit: usize,
    method: &'static str,
    requests: Outgoing,
) -> Result<Incoming, Status>
where
    A: Message + Default + Into<Answer> + 'static,
{
    // The channel is ready when it is made.
    let (path, codec) = (PathAndQuery::from_static(method), Encoded::<A>::new());
    let response = client.streaming(tonic::Request::new(requests), path, codec).await?;
    Ok(Box::pin(Responses::new(response, limit)))
}

// === impl AdsStream ===

impl AdsStream {
    /// Room for a request in [bytes](encode). Where there is none, [`poll_next`](Self::poll_next) tells of it.
    pub(crate) fn room(&mut self) -> Option<mpsc::Permit<'_, Bytes>> {
        let room = self.requests.try_reserve();
        self.is_full = matches!(room, Err(TrySendError::Full(())));
        room.ok()
    }

    /// Whether the last look for [`room`](Self::room) found none, and there may be some later.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Does the work of the connection until something happens. Responses are taken only where `listen` says so.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>, listen: bool) -> Poll<Heard> {
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(outcome) = Pin::new(driver).poll(cx)
        {
            self.driver = None;
            self.failure = outcome.err();
        }
        if listen && let Poll::Ready(heard) = self.poll_answers(cx) {
            return Poll::Ready(heard);
        }
        // Requests are taken by the connection, which runs in this very poll and nowhere else: no waker is needed.
        if self.is_full && self.requests.capacity() > 0 {
            self.is_full = false;
            return Poll::Ready(Heard::Room);
        }
        Poll::Pending
    }

    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        loop {
            match &mut self.answers {
                Answers::Called(call) => match call.as_mut().poll(cx) {
                    Poll::Ready(Ok(streaming)) => self.answers = Answers::Streaming(streaming),
                    Poll::Ready(Err(status)) => return Poll::Ready(Heard::Ended(self.reason(status))),
                    Poll::Pending => break,
                },
                Answers::Streaming(streaming) => match streaming.as_mut().poll_next(cx) {
                    Poll::Ready(Some(Ok(response))) => return Poll::Ready(Heard::Response(Box::new(response))),
                    Poll::Ready(Some(Err(status))) => return Poll::Ready(Heard::Ended(self.reason(status))),
                    Poll::Ready(None) => return Poll::Ready(Heard::Ended(StreamError::Ended)),
                    Poll::Pending => break,
                },
            }
        }
        // Without its connection a stream comes to no end of its own.
        if self.driver.is_none() {
            let reason = self.failure.take().map_or(StreamError::Ended, StreamError::Connection);
            return Poll::Ready(Heard::Ended(reason));
        }
        Poll::Pending
    }

    /// tonic tells everything by status: what the server says, and what happens on this side, which has a source.
    fn reason(&mut self, status: Status) -> StreamError {
        if status.code() == Code::OutOfRange && status.message().contains("message length too large") {
            return StreamError::TooLarge { limit: self.limit };
        }
        if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) {
            self.tokens.iter().for_each(TokenFile::refused);
        }
        match self.failure.take() {
            Some(failure) if status.source().is_some() => StreamError::Connection(failure),
            _ if self.variant == Variant::Delta && status.code() == Code::Unimplemented => {
                StreamError::NoDelta(Box::new(status))
            }
            _ => StreamError::Status(Box::new(status)),
        }
    }
}

// === impl Responses ===

impl<M: Message + Default + Into<Answer> + 'static> Responses<M> {
    /// Those of a response that a [`Channel`] gave.
    fn new(response: tonic::Response<Streaming<M>>, limit: usize) -> Self {
        let body = response.extensions().get::<Divided>().expect("the channel puts it into every response").clone();
        Self(Messages::new(response, body, limit))
    }
}

impl<M: Message + Default + Into<Answer> + 'static> Stream for Responses<M> {
    type Item = Result<Answer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(cx).map(|next| next.map(|answer| answer.map(Into::into)))
    }
}

// === impl Outgoing ===

impl Stream for Outgoing {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.0.poll_recv(cx)
    }
}

// === impl Channel ===

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = conn::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), conn::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        const AGENT: HeaderValue =
            HeaderValue::from_static(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, AGENT);
        for authorization in &self.authorizations {
            request.headers_mut().append(AUTHORIZATION, authorization.clone());
        }
        let response = self.sender.send(request);
        Box::pin(async move {
            let response = response.await.map_err(conn::SendError::into_error)?;
            let (mut head, body) = response.into_parts();
            let body = Divided::new(Body::new(body));
            head.extensions.insert(body.clone());
            Ok(Response::from_parts(head, Body::new(body)))
        })
    }
}

// === impl StreamError ===

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(_) => f.write_str("the control plane's name cannot be resolved"),
            Self::Connect(_) => f.write_str("the control plane takes no connections"),
            Self::Tls(_) => f.write_str("the TLS handshake with the control plane failed"),
            Self::Token(_) => f.write_str("there is no token to show to the control plane"),
            Self::ConnectTimeout(limit) => write!(f, "the control plane was not connected within {limit:?}"),
            Self::Connection(_) => f.write_str("the connection to the control plane failed"),
            Self::TooLarge { limit } => write!(f, "the control plane sent a response of more than {limit} bytes"),
            Self::NoDelta(status) => write!(
                f,
                "the control plane does not speak delta, and is not asked in state of the world instead: take `mesh.delta` \
                 out of its server_features ({:?}: {})",
                status.code(),
                status.message()
            ),
            Self::Status(status) => {
                write!(f, "the control plane ended the stream with {:?}: {}", status.code(), status.message())
            }
            Self::Ended => f.write_str("the control plane ended the stream"),
        }
    }
}

impl StdError for StreamError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Resolve(source) => Some(&**source),
            Self::Connect(source) => Some(source),
            Self::Tls(source) => Some(source),
            Self::Token(source) => Some(source),
            Self::Connection(source) => Some(source),
            Self::NoDelta(status) | Self::Status(status) => status.source(),
            Self::ConnectTimeout(_) | Self::TooLarge { .. } | Self::Ended => None,
        }
    }
}

// === impl SetupError ===

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCryptography => {
                "TLS is asked for and there is no cryptography: enable the feature `tls-aws-lc` or `tls-ring`, or give a \
                 provider"
            }
            Self::Identity(_) => "certificates that the bootstrap names cannot be had",
            Self::Tls(_) => "TLS cannot be set up as the bootstrap says",
        })
    }
}

impl StdError for SetupError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NoCryptography => None,
            Self::Identity(source) => Some(source),
            Self::Tls(source) => Some(source),
        }
    }
}
