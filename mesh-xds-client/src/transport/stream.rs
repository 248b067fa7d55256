//! A live ADS stream: requests go out while there is room, responses come in while somebody listens.

use std::{
    error::Error as StdError,
    fmt, io,
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
use mesh_core::outcome::BoxError;
use mesh_http::{
    conn::{self, h2},
    connect,
    tls::TlsError,
};
use prost::Message;
use tokio::sync::mpsc::{self, error::TrySendError};
use tonic::{Code, Status, Streaming, body::Body, client::Grpc, codegen::Service};

use super::{
    messages::{Divided, Messages},
    portions::Portions,
    requests::Encoded,
};
use crate::{
    session::{Sealed as Answer, SealedDelta, SealedState, Variant},
    token::{TokenError, TokenFile},
};

/// A stream to a control plane, from its first request on, and the connection beneath.
pub(crate) struct AdsStream {
    requests: mpsc::Sender<Bytes>,
    answers: Answers,
    /// Gone once it has ended; what had arrived until then is still read.
    driver: Option<Driver>,
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

/// What runs the connection beneath a stream.
pub(super) type Driver = h2::Driver<Portions<connect::Stream>, Body>;

/// The connection as the generated client wants to see it.
pub(super) struct Channel {
    pub(super) sender: h2::Sender<Body>,
    /// What each call shows.
    pub(super) authorizations: Vec<HeaderValue>,
    /// What each call is addressed to.
    pub(super) origin: Uri,
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

// === impl AdsStream ===

impl AdsStream {
    /// Calls the method of this variant over a connection that has just been made. `limit` is of the bytes of one response;
    /// `tokens` are what the channel shows.
    pub(super) fn new(
        channel: Channel,
        driver: Driver,
        variant: Variant,
        limit: usize,
        tokens: Arc<[TokenFile]>,
    ) -> Self {
        let (requests, outgoing) = mpsc::channel(1);
        let origin = channel.origin.clone();
        let client = Grpc::with_origin(channel, origin).max_decoding_message_size(limit);
        let answers = Answers::Called(match variant {
            Variant::StateOfTheWorld => {
                Box::pin(call::<SealedState>(client, limit, STATE_OF_THE_WORLD, Outgoing(outgoing)))
            }
            Variant::Delta => Box::pin(call::<SealedDelta>(client, limit, DELTA, Outgoing(outgoing))),
        });
        Self { requests, answers, driver: Some(driver), failure: None, is_full: false, variant, limit, tokens }
    }

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
