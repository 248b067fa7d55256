//! A tonic server on loopback whose handler is a closure, a client of tonic's own making, and peers that speak HTTP/2 by hand.

use std::{
    convert::Infallible,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Request as HttpRequest, Response as HttpResponse, uri::PathAndQuery};
use http_body_util::{StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_grpc::{Channel, ChannelBuilder};
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status, Streaming,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{ClientStreamingService, NamedService, ServerStreamingService, StreamingService, UnaryService},
    transport::Server as TonicServer,
};

/// Messages on their way back.
pub(crate) type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

type Handled = Pin<Box<dyn Future<Output = Result<Response<Messages>, Status>> + Send>>;

/// What answers calls: any kind of them, as on the wire all are streams both ways.
type Handler = Arc<dyn Fn(Request<Streaming<Bytes>>) -> Handled + Send + Sync>;

/// Messages that are their own encoding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw;

/// A server, which ends with it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    tasks: JoinSet<()>,
}

/// How a server serves.
#[derive(Default)]
pub(crate) struct Terms {
    pub(crate) max_connection_age: Option<Duration>,
    pub(crate) deadlines: bool,
}

/// tonic's client, as generated code uses it.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) grpc: tonic::client::Grpc<Channel>,
    pub(crate) channel: Channel,
}

/// Counts what is alive.
#[derive(Clone, Default)]
pub(crate) struct Alive(Arc<AtomicUsize>);

pub(crate) struct AliveGuard(Alive);

// === impl Server ===

impl Server {
    /// Answers every call by `handler`.
    pub(crate) async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Request<Streaming<Bytes>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<Messages>, Status>> + Send + 'static,
    {
        Self::on(free_address().await, Terms::default(), handler).await
    }

    pub(crate) async fn on<H, F>(address: SocketAddr, terms: Terms, handler: H) -> Self
    where
        H: Fn(Request<Streaming<Bytes>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<Messages>, Status>> + Send + 'static,
    {
        Self::serve(address, terms, Scripted(Arc::new(move |request| Box::pin(handler(request))))).await
    }

    /// All four kinds of call, by the services that generated code has.
    pub(crate) async fn echo() -> Self {
        let echo: Handler = Arc::new(|_| unreachable!("the echo has its own services"));
        Self::serve_with(free_address().await, Terms::default(), Scripted(echo), true).await
    }

    async fn serve(address: SocketAddr, terms: Terms, service: Scripted) -> Self {
        Self::serve_with(address, terms, service, false).await
    }

    async fn serve_with(address: SocketAddr, terms: Terms, service: Scripted, echoes: bool) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(address).expect("the address is free");
        let listener = socket.listen(128).expect("bound");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let mut tasks = JoinSet::new();
        let service = Dispatch { service, echoes };
        tasks.spawn(async move {
            let mut server = TonicServer::builder();
            if let Some(age) = terms.max_connection_age {
                server = server.max_connection_age(age);
            }
            let incoming = TcpListenerStream::new(listener);
            let stopped = async { drop(stopped.await) };
            if terms.deadlines {
                let mut server = server.layer(mesh_grpc::server::DeadlineLayer::new());
                server.add_service(service).serve_with_incoming_shutdown(incoming, stopped).await.expect("it serves");
            } else {
                server.add_service(service).serve_with_incoming_shutdown(incoming, stopped).await.expect("it serves");
            }
        });
        Self { address, stop: Some(stop), tasks }
    }

    /// Sends GOAWAY, lets calls finish, and is gone.
    pub(crate) async fn drain(mut self) {
        drop(self.stop.take());
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// An address on which nobody listens now.
pub(crate) async fn reserved_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    listener.local_addr().expect("bound")
}

#[derive(Clone)]
struct Scripted(Handler);

#[derive(Clone)]
struct Dispatch {
    service: Scripted,
    echoes: bool,
}

impl NamedService for Dispatch {
    const NAME: &'static str = "test.Echo";
}

impl tower_service::Service<HttpRequest<tonic::body::Body>> for Dispatch {
    type Response = HttpResponse<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<tonic::body::Body>) -> Self::Future {
        let Self { service, echoes } = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw);
            grpc = grpc.max_decoding_message_size(64 << 20);
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match (echoes, &*method) {
                (true, "Unary") => grpc.unary(Echo, request).await,
                (true, "ClientStream") => grpc.client_streaming(Echo, request).await,
                (true, "ServerStream") => grpc.server_streaming(Echo, request).await,
                (true, _) => grpc.streaming(Echo, request).await,
                (false, _) => grpc.streaming(service, request).await,
            })
        })
    }
}

impl StreamingService<Bytes> for Scripted {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Handled;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Handled {
        (self.0)(request)
    }
}

/// Sends back what it gets.
struct Echo;

type Single = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Status>> + Send>>;

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Single;

    fn call(&mut self, request: Request<Bytes>) -> Single {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

impl ClientStreamingService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Single;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Single {
        Box::pin(async move { Ok(Response::new(joined(request.into_inner()).await?)) })
    }
}

impl ServerStreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Handled;

    /// Every byte a message.
    fn call(&mut self, request: Request<Bytes>) -> Handled {
        let bytes = request.into_inner();
        let each = (0..bytes.len()).map(move |at| Ok(bytes.slice(at..=at)));
        Box::pin(async move { Ok(answer(futures_util::stream::iter(each))) })
    }
}

impl StreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Handled;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Handled {
        Box::pin(async move { Ok(answer(request.into_inner())) })
    }
}

// === impl Client ===

impl Client {
    /// A client of the servers at `addresses`, by the defaults.
    pub(crate) fn of(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self::built(builder(addresses))
    }

    pub(crate) fn built(builder: ChannelBuilder) -> Self {
        let channel = builder.build().expect("a legal channel");
        let grpc = tonic::client::Grpc::new(channel.clone());
        Self { grpc: grpc.max_decoding_message_size(64 << 20), channel }
    }

    pub(crate) async fn unary(&mut self, request: impl tonic::IntoRequest<Bytes>) -> Result<Response<Bytes>, Status> {
        self.grpc.ready().await?;
        self.grpc.unary(request.into_request(), path("Unary"), Raw).await
    }

    pub(crate) async fn client_stream(
        &mut self,
        request: impl tonic::IntoStreamingRequest<Message = Bytes>,
    ) -> Result<Response<Bytes>, Status> {
        self.grpc.ready().await?;
        self.grpc.client_streaming(request.into_streaming_request(), path("ClientStream"), Raw).await
    }

    pub(crate) async fn server_stream(
        &mut self,
        request: impl tonic::IntoRequest<Bytes>,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        self.grpc.ready().await?;
        self.grpc.server_streaming(request.into_request(), path("ServerStream"), Raw).await
    }

    pub(crate) async fn both(
        &mut self,
        request: impl tonic::IntoStreamingRequest<Message = Bytes>,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        self.grpc.ready().await?;
        self.grpc.streaming(request.into_streaming_request(), path("Both"), Raw).await
    }
}

pub(crate) fn builder(addresses: impl IntoIterator<Item = SocketAddr>) -> ChannelBuilder {
    Channel::builder("echo.test").endpoints(addresses)
}

fn path(method: &str) -> PathAndQuery {
    format!("/test.Echo/{method}").parse().expect("a method makes a path")
}

pub(crate) fn message(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A response of these messages.
pub(crate) fn answer(messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Response<Messages> {
    Response::new(Box::pin(messages))
}

/// A response of one message.
pub(crate) fn one(bytes: impl Into<Bytes>) -> Response<Messages> {
    answer(tokio_stream::once(Ok(bytes.into())))
}

/// All that is sent, in one piece.
pub(crate) async fn joined(mut messages: Streaming<Bytes>) -> Result<Bytes, Status> {
    let mut all = Vec::new();
    while let Some(message) = messages.message().await? {
        all.extend_from_slice(&message);
    }
    Ok(all.into())
}

/// All messages, and how the stream ended.
pub(crate) async fn collect(mut messages: Streaming<Bytes>) -> (Vec<Bytes>, Result<(), Status>) {
    let mut all = Vec::new();
    loop {
        match messages.next().await {
            Some(Ok(message)) => all.push(message),
            Some(Err(status)) => return (all, Err(status)),
            None => return (all, Ok(())),
        }
    }
}

/// The attempts that a request says were before it.
pub(crate) fn attempts_before<T>(request: &Request<T>) -> u32 {
    let count = request.metadata().get("grpc-previous-rpc-attempts");
    count.map_or(0, |count| count.to_str().expect("digits").parse().expect("a number"))
}

/// Waits until something holds that other tasks bring about.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok(), "not in 20 s: {what}");
}

// === impl Alive ===

impl Alive {
    pub(crate) fn enter(&self) -> AliveGuard {
        self.0.fetch_add(1, Ordering::SeqCst);
        AliveGuard(self.clone())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for AliveGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

// === peers by hand ===

/// The body of a peer by hand: frames, or an error that resets the stream.
pub(crate) type RawBody = UnsyncBoxBody<Bytes, h2::Error>;

/// A peer that answers each request with the response that `respond` makes of its path.
pub(crate) async fn http2_peer(
    respond: impl Fn(&HttpRequest<Incoming>) -> HttpResponse<RawBody> + Clone + Send + 'static,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let respond = respond.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| std::future::ready(Ok::<_, Infallible>(respond(&request))));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, tasks)
}

/// A body of these frames.
pub(crate) fn frames(frames: Vec<Result<http_body::Frame<Bytes>, h2::Error>>) -> RawBody {
    UnsyncBoxBody::new(StreamBody::new(futures_util::stream::iter(frames)))
}

/// One message, as it is framed.
pub(crate) fn framed(text: &'static str) -> http_body::Frame<Bytes> {
    let mut frame = vec![0];
    frame.put_u32(text.len() as u32);
    frame.put_slice(text.as_bytes());
    http_body::Frame::data(frame.into())
}

pub(crate) fn trailers(status: &'static str) -> http_body::Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static(status));
    http_body::Frame::trailers(trailers)
}

// === impl Raw ===

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        if item == "unencodable" {
            return Err(Status::failed_precondition("this one cannot be encoded"));
        }
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
