//! tonic's server, with a closure for its handler.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{Request as HttpRequest, Response as HttpResponse};
use mesh_grpc::{server::DeadlineLayer, testkit::Raw};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status, Streaming,
    server::{ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService, UnaryService},
    transport::{Server as TonicServer, server::Router},
};
use tower_service::Service;

use super::{
    Alive, answer, joined,
    network::{Pipes, Place},
    until,
};

/// Messages on their way back.
pub(crate) type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

type Handled = Pin<Box<dyn Future<Output = Result<Response<Messages>, Status>> + Send>>;

/// A server, which ends with it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Connections that it was given so far.
    pub(crate) accepted: watch::Receiver<usize>,
    place: Place,
    stop: oneshot::Sender<()>,
    serving: JoinSet<()>,
}

/// What answers calls.
#[derive(Clone)]
enum Handler {
    /// Any kind of them: on the wire all are streams both ways.
    Scripted(Arc<dyn Fn(Request<Streaming<Bytes>>) -> Handled + Send + Sync>),
    /// Each kind by the service that generated code has for it: it sends back what it gets.
    Echo,
}

// === impl Server ===

impl Server {
    /// Answers every call by `handler`.
    pub(crate) fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Request<Streaming<Bytes>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<Messages>, Status>> + Send + 'static,
    {
        Self::at(Place::new(), handler)
    }

    /// The same, at a place.
    pub(crate) fn at<H, F>(place: Place, handler: H) -> Self
    where
        H: Fn(Request<Streaming<Bytes>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<Messages>, Status>> + Send + 'static,
    {
        Self::serve(place, TonicServer::builder().add_service(Handler::scripted(handler)))
    }

    /// The same, with connections that are closed when they are of this age.
    pub(crate) fn aging<H, F>(age: Duration, handler: H) -> Self
    where
        H: Fn(Request<Streaming<Bytes>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<Messages>, Status>> + Send + 'static,
    {
        let mut server = TonicServer::builder().max_connection_age(age);
        Self::serve(Place::new(), server.add_service(Handler::scripted(handler)))
    }

    /// All four kinds of call, by the services that generated code has.
    pub(crate) fn echo() -> Self {
        Self::serve(Place::new(), TonicServer::builder().add_service(Handler::Echo))
    }

    /// Never answers; `alive` counts the calls.
    pub(crate) fn silent(alive: &Alive) -> Self {
        let alive = alive.clone();
        Self::start(move |_| {
            let guard = alive.enter();
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        })
    }

    fn serve(place: Place, router: Router) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (count, accepted) = watch::channel(0);
        let incoming = TcpListenerStream::new(place.listen());
        let incoming = incoming.inspect(move |_| count.send_modify(|count| *count += 1));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let stopped = async { drop(stopped.await) };
            router.serve_with_incoming_shutdown(incoming, stopped).await.expect("it serves");
        });
        Self { address: place.address, accepted, place, stop, serving }
    }

    /// In memory. It serves as long as somebody can connect.
    pub(crate) fn in_memory<H, F>(handler: H) -> Pipes
    where
        H: Fn(Request<Streaming<Bytes>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<Messages>, Status>> + Send + 'static,
    {
        let (pipes, incoming) = Pipes::new();
        let router = TonicServer::builder().add_service(Handler::scripted(handler));
        tokio::spawn(router.serve_with_incoming(incoming));
        pipes
    }

    /// In memory, with the layer that ends calls by their deadline.
    pub(crate) fn with_deadlines<H, F>(handler: H) -> Pipes
    where
        H: Fn(Request<Streaming<Bytes>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<Messages>, Status>> + Send + 'static,
    {
        let (pipes, incoming) = Pipes::new();
        let mut server = TonicServer::builder().layer(DeadlineLayer::new());
        tokio::spawn(server.add_service(Handler::scripted(handler)).serve_with_incoming(incoming));
        pipes
    }

    /// Sends GOAWAY, lets calls finish, and is gone. Gives back its place.
    pub(crate) async fn drain(self) -> Place {
        let Self { place, stop, mut serving, .. } = self;
        drop(stop);
        let gone = until("its connections are closed", serving.join_next()).await;
        gone.expect("it was serving").expect("no panic");
        place
    }
}

// === impl Handler ===

impl Handler {
    fn scripted<H, F>(handler: H) -> Self
    where
        H: Fn(Request<Streaming<Bytes>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response<Messages>, Status>> + Send + 'static,
    {
        Self::Scripted(Arc::new(move |request| Box::pin(handler(request))))
    }
}

impl NamedService for Handler {
    const NAME: &'static str = "mesh.interop.Echo";
}

impl Service<HttpRequest<tonic::body::Body>> for Handler {
    type Response = HttpResponse<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<tonic::body::Body>) -> Self::Future {
        let handler = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw).max_decoding_message_size(usize::MAX);
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match (handler, &*method) {
                (Self::Scripted(script), _) => grpc.streaming(Script(script), request).await,
                (Self::Echo, "Unary") => grpc.unary(EchoBack, request).await,
                (Self::Echo, "ClientStream") => grpc.client_streaming(EchoBack, request).await,
                (Self::Echo, "ServerStream") => grpc.server_streaming(EchoBack, request).await,
                (Self::Echo, _) => grpc.streaming(EchoBack, request).await,
            })
        })
    }
}

struct Script(Arc<dyn Fn(Request<Streaming<Bytes>>) -> Handled + Send + Sync>);

impl StreamingService<Bytes> for Script {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Handled;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Handled {
        (self.0)(request)
    }
}

struct EchoBack;

type Single = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Status>> + Send>>;

impl UnaryService<Bytes> for EchoBack {
    type Response = Bytes;
    type Future = Single;

    fn call(&mut self, request: Request<Bytes>) -> Single {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

impl ClientStreamingService<Bytes> for EchoBack {
    type Response = Bytes;
    type Future = Single;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Single {
        Box::pin(async move { Ok(Response::new(joined(request.into_inner()).await?)) })
    }
}

impl ServerStreamingService<Bytes> for EchoBack {
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

impl StreamingService<Bytes> for EchoBack {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Handled;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Handled {
        Box::pin(async move { Ok(answer(request.into_inner())) })
    }
}
