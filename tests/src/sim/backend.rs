//! A well-behaved server: HTTP/1, HTTP/2 or gRPC on hyper's connection API, in a world or on loopback.

use std::{
    convert::Infallible,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_xds_client::testkit::Place;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use super::{
    World,
    network::{Accepted, Network},
    record::{Record, What},
};

/// A running backend. Dropping it kills it: its address refuses and its connections end. On loopback its port is free then, so
/// whoever is still to call it wants it [killed](Self::kill) and kept.
pub struct Backend {
    address: SocketAddr,
    site: Site,
    state: Arc<State>,
    task: JoinSet<()>,
}

/// Where a backend's address is.
enum Site {
    World(Network),
    Machine { _kept: Place },
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// gRPC: every method answers one message with one message.
    Grpc,
}

/// What a backend does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// It thinks for this long first.
    pub after: Duration,
    /// HTTP's status; of a gRPC backend, 200 is OK and everything else UNAVAILABLE.
    pub status: StatusCode,
}

/// Decides how a backend answers.
pub trait Manner: Send + Sync + 'static {
    /// The answer to this request, which is the backend's `number`th, from 0.
    fn answer(&self, request: &Request<Incoming>, number: usize) -> Answer;
}

impl<F: Fn(&Request<Incoming>, usize) -> Answer + Send + Sync + 'static> Manner for F {
    fn answer(&self, request: &Request<Incoming>, number: usize) -> Answer {
        self(request, number)
    }
}

/// Always this.
impl Manner for Answer {
    fn answer(&self, _: &Request<Incoming>, _: usize) -> Answer {
        *self
    }
}

struct State {
    name: String,
    speaks: Speaks,
    manner: Arc<dyn Manner>,
    record: Record,
    served: watch::Sender<usize>,
    in_flight: AtomicUsize,
}

type ServerBody = BoxBody<Bytes, Infallible>;

// === impl Answer ===

impl Answer {
    /// 200, at once.
    pub const OK: Self = Self { after: Duration::ZERO, status: StatusCode::OK };
    /// 503, at once.
    pub const UNAVAILABLE: Self = Self { after: Duration::ZERO, status: StatusCode::SERVICE_UNAVAILABLE };

    /// 200, after this long.
    pub const fn after(after: Duration) -> Self {
        Self { after, ..Self::OK }
    }
}

// === impl Backend ===

impl Backend {
    pub(super) fn start(
        world: &World,
        address: SocketAddr,
        name: &str,
        speaks: Speaks,
        manner: Arc<dyn Manner>,
    ) -> Self {
        let state = State::new(name, speaks, manner, world.record.clone());
        let (mut listener, serving) = (world.network.listen(address), state.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            // They belong to this task, so that they die with the backend.
            let mut connections = JoinSet::new();
            while let Some(Accepted { stream, .. }) = listener.accept().await {
                connections.spawn(serving.clone().serve(stream));
                while connections.try_join_next().is_some() {}
            }
            while connections.join_next().await.is_some() {}
        });
        Self { address, site: Site::World(world.network.clone()), state, task }
    }

    /// A backend on a free port of loopback.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn on_loopback(name: &str, speaks: Speaks, manner: impl Manner) -> io::Result<Self> {
        Self::listening_on(Ipv4Addr::LOCALHOST, name, speaks, manner).await
    }

    /// A backend on a free port of this address of the machine. All of `127.0.0.0/8` is its own.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn listening_on(ip: Ipv4Addr, name: &str, speaks: Speaks, manner: impl Manner) -> io::Result<Self> {
        let state = State::new(name, speaks, Arc::new(manner), Record::new());
        let place = Place::new(ip)?;
        let (listener, serving) = (place.listen()?, state.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // An answer is several writes, and a client may let the first wait for its acknowledgement.
                let _without = stream.set_nodelay(true);
                connections.spawn(serving.clone().serve(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address: place.address(), site: Site::Machine { _kept: place }, state, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests it has been given.
    pub fn served(&self) -> usize {
        *self.state.served.borrow()
    }

    /// Waits until it was given so many more requests.
    pub async fn serves_more(&self, requests: usize) {
        let mut served = self.state.served.subscribe();
        let goal = *served.borrow() + requests;
        served.wait_for(|served| *served >= goal).await.expect("its sender is here");
    }

    /// Ends it and its connections. Its address refuses for as long as this is held.
    pub async fn kill(&mut self) {
        self.leave();
        self.task.shutdown().await;
    }

    fn leave(&self) {
        if let Site::World(network) = &self.site {
            network.close(self.address);
        }
    }

    /// How many it has under way.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("name", &self.state.name).field("address", &self.address).finish()
    }
}

// === impl State ===

impl State {
    fn new(name: &str, speaks: Speaks, manner: Arc<dyn Manner>, record: Record) -> Arc<Self> {
        let (served, in_flight) = (watch::Sender::new(0), AtomicUsize::new(0));
        Arc::new(Self { name: name.to_owned(), speaks, manner, record, served, in_flight })
    }

    async fn serve(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let io = TokioIo::new(stream);
        let service = service_fn(|request| {
            let this = self.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        // A connection that ends badly has told its client so. No dates: they come from another clock.
        let _ended = match self.speaks {
            Speaks::Http1 => {
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .auto_date_header(false)
                    .serve_connection(io, service)
                    .await
            }
            Speaks::Http2 | Speaks::Grpc => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.timer(TokioTimer::new()).auto_date_header(false).serve_connection(io, service).await
            }
        };
    }

    /// One more request; how many were before it.
    fn count(&self) -> usize {
        let mut before = 0;
        self.served.send_modify(|served| before = std::mem::replace(served, *served + 1));
        before
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<ServerBody> {
        let number = self.count();
        let _under_way = UnderWay::begin(&self.in_flight);
        let call = request.headers().get("x-call").and_then(|call| call.to_str().ok());
        let call = call.unwrap_or(request.uri().path()).to_owned();
        self.record.note(What::Arrived { call, backend: self.name.clone() });
        let Answer { after, status } = self.manner.answer(&request, number);
        sleep(after).await;
        // An answer before the end of the request is another test's affair.
        let _whole = request.into_body().collect().await;
        let mut response = match self.speaks {
            Speaks::Grpc => grpc(&self.name, status),
            Speaks::Http1 | Speaks::Http2 => plain(&self.name, status),
        };
        if let Ok(name) = self.name.parse() {
            response.headers_mut().insert("x-backend", name);
        }
        response
    }
}

fn plain(name: &str, status: StatusCode) -> Response<ServerBody> {
    let mut response = Response::new(Full::from(name.to_owned()).boxed());
    *response.status_mut() = status;
    response
}

/// One message, which is the backend's name, or a status and nothing else.
fn grpc(name: &str, status: StatusCode) -> Response<ServerBody> {
    if status != StatusCode::OK {
        let mut response = Response::new(Empty::new().boxed());
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("14"));
        return as_grpc(response);
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(name.len() as u32);
    message.put_slice(name.as_bytes());
    let trailers: HeaderMap =
        [("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))].into_iter().collect();
    let frames = [Ok(Frame::data(message.freeze())), Ok(Frame::trailers(trailers))];
    as_grpc(Response::new(BoxBody::new(StreamBody::new(futures_util::stream::iter(frames)))))
}

fn as_grpc(mut response: Response<ServerBody>) -> Response<ServerBody> {
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// Counts a request while it is under way, and no longer when its client has gone away.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
