//! From bytes to streams: listeners, connections, and the gRPC service on them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::server::{Grpc, StreamingService};
use tonic::{Response, Status, Streaming};

use super::drip::Drip;
use super::stream::Watch;
use super::{Shared, State, delta, state_of_the_world, stream};

/// What connections come from: a TCP or a Unix listener.
pub trait Accept: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Cancel safe: a dropped future has accepted nothing.
    ///
    /// # Errors
    ///
    /// When this connection cannot be had. The next may be.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// The gRPC service of both variants.
#[derive(Debug, Clone)]
struct Discovery(Arc<Shared>);

/// The method of one variant.
struct Method<W> {
    shared: Arc<Shared>,
    watch: PhantomData<fn() -> W>,
}

/// Requests as messages, responses as bytes: what is sent need not be what it claims to be.
struct Wire<R>(PhantomData<fn() -> R>);

/// What serves at present, in the list of those who serve. Leaves it on drop.
struct Serving {
    shared: Arc<Shared>,
    role: Role,
    id: u64,
    /// Told when it should end.
    end: Arc<Notify>,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Listener,
    Connection,
}

/// How many responses wait for a client that does not read before its stream stops working.
const RESPONSES_AHEAD: usize = 16;

/// The wait after a connection that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(10);

/// The largest request taken. A client that asks for a hundred thousand names sends more than tonic's 4 MiB.
const MAX_REQUEST: usize = 64 * 1024 * 1024;

pub(super) fn listener<L: Accept>(
    shared: Arc<Shared>,
    mut listener: L,
) -> impl Future<Output = ()> + Send + 'static + use<L> {
    let serving = Serving::begin(&shared, Role::Listener);
    async move {
        loop {
            tokio::select! {
                biased;
                () = serving.end.notified() => break,
                accepted = listener.accept() => match accepted {
                    Ok(io) => drop(tokio::spawn(connection(Arc::clone(&shared), io))),
                    // One connection that is gone already, or too many open files, which a busy loop would not mend.
                    Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
                },
            }
        }
        // The port is free before `stop` hears of it.
        drop(listener);
        drop(serving);
    }
}

pub(super) fn connection<I>(shared: Arc<Shared>, io: I) -> impl Future<Output = ()> + Send + 'static + use<I>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let serving = Serving::begin(&shared, Role::Connection);
    async move {
        let answering = async {
            unpaused(&shared).await;
            let service = Discovery(Arc::clone(&shared));
            let io = TokioIo::new(Drip::new(io, Arc::clone(&shared)));
            // How a connection ends is for its client to say; the record has the end of its streams.
            let _ = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .serve_connection(io, TowerToHyperService::new(service))
                .await;
        };
        tokio::select! {
            biased;
            () = serving.end.notified() => {}
            () = answering => {}
        }
    }
}

async fn unpaused(shared: &Shared) {
    loop {
        let mut resumed = pin!(shared.resumed.notified());
        resumed.as_mut().enable();
        if !shared.with(|state| state.faults.is_paused) {
            return;
        }
        resumed.await;
    }
}

// === impl Accept ===

impl Accept for TcpListener {
    type Io = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<Self::Io> {
        let (io, _) = TcpListener::accept(self).await?;
        io.set_nodelay(true)?;
        Ok(io)
    }
}

#[cfg(unix)]
impl Accept for tokio::net::UnixListener {
    type Io = tokio::net::UnixStream;

    async fn accept(&mut self) -> io::Result<Self::Io> {
        let (io, _) = tokio::net::UnixListener::accept(self).await?;
        Ok(io)
    }
}

// === impl Discovery ===

impl Service<http::Request<Incoming>> for Discovery {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    /// Boxed once a stream.
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources" => {
                    service.answer::<state_of_the_world::Watch>(request).await
                }
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources" => {
                    service.answer::<delta::Watch>(request).await
                }
                _ => Status::unimplemented("this control plane speaks ADS alone").into_http(),
            })
        })
    }
}

impl Discovery {
    async fn answer<W: Watch>(self, request: http::Request<Incoming>) -> http::Response<tonic::body::Body> {
        let method = Method::<W> { shared: self.0, watch: PhantomData };
        let wire = Wire::<W::Request>(PhantomData);
        Grpc::new(wire).apply_max_message_size_config(Some(MAX_REQUEST), None).streaming(method, request).await
    }
}

// === impl Method ===

impl<W: Watch> StreamingService<W::Request> for Method<W> {
    type Response = Vec<u8>;
    type ResponseStream = ReceiverStream<Result<Vec<u8>, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<W::Request>>) -> Self::Future {
        if let Some(status) = self.shared.with(|state| state.faults.refusal.clone()) {
            return std::future::ready(Err(status));
        }
        let (sender, responses) = mpsc::channel(RESPONSES_AHEAD);
        let (metadata, _, requests) = request.into_parts();
        tokio::spawn(stream::serve::<W>(Arc::clone(&self.shared), metadata, requests, sender));
        std::future::ready(Ok(Response::new(ReceiverStream::new(responses))))
    }
}

// === impl Wire ===

impl<R: Message + Default + 'static> Codec for Wire<R> {
    type Encode = Vec<u8>;
    type Decode = R;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<R> Encoder for Wire<R> {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, response: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&response);
        Ok(())
    }
}

impl<R: Message + Default> Decoder for Wire<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        R::decode(from).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

// === impl Serving ===

impl Serving {
    fn begin(shared: &Arc<Shared>, role: Role) -> Self {
        let end = Arc::new(Notify::new());
        let id = shared.with(|state| {
            let id = state.next_id();
            role.list(state).insert(id, Arc::clone(&end));
            id
        });
        Self { shared: Arc::clone(shared), role, id, end }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shared.with(|state| self.role.list(state).remove(&self.id));
        self.shared.ended.notify_waiters();
    }
}

// === impl Role ===

impl Role {
    fn list(self, state: &mut State) -> &mut BTreeMap<u64, Arc<Notify>> {
        match self {
            Self::Listener => &mut state.listeners,
            Self::Connection => &mut state.connections,
        }
    }
}
