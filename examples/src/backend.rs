//! Backends on loopback: they echo, say who they are, and can be slowed down and killed.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
    time::sleep,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

use crate::echo::{
    SayReply, SayRequest,
    echo_server::{Echo, EchoServer},
};

/// One running backend; dropping it kills it, connections and all.
pub struct Backend {
    address: SocketAddr,
    state: Arc<State>,
    _task: JoinSet<()>,
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2: `GET` anything; `/broken` is answered with 503.
    Http,
    /// The echo service.
    Grpc,
}

/// What a backend is, and how it behaves at the moment.
#[derive(Debug)]
struct State {
    name: String,
    version: String,
    delay_ms: AtomicU64,
    served: AtomicU64,
}

// === impl Backend ===

impl Backend {
    /// Starts a backend on a free port of loopback, over TLS where there is a configuration for it.
    pub async fn start(
        name: &str,
        version: &str,
        protocol: Protocol,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            name: name.to_owned(),
            version: version.to_owned(),
            delay_ms: AtomicU64::new(0),
            served: AtomicU64::new(0),
        });
        let mut task = JoinSet::new();
        task.spawn(accept(listener, protocol, tls.map(TlsAcceptor::from), state.clone()));
        Ok(Self { address, state, _task: task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Holds every answer back this long from now on.
    pub fn slow_down(&self, delay: Duration) {
        self.state.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// How many requests it has answered.
    pub fn served(&self) -> u64 {
        self.state.served.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, protocol: Protocol, tls: Option<TlsAcceptor>, state: Arc<State>) {
    // Connections belong to this task, so that they die with the backend.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // Without this, a small answer waits for the peer's delayed acknowledgement. It fails only on a dead socket.
        let _ = stream.set_nodelay(true);
        let (tls, state) = (tls.clone(), state.clone());
        connections.spawn(async move {
            match tls {
                None => serve(stream, protocol, state).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, protocol, state).await,
                    // A client that cannot prove who it is has no business here.
                    Err(_refused) => {}
                },
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: IO, protocol: Protocol, state: Arc<State>) {
    let server = auto::Builder::new(TokioExecutor::new());
    let io = TokioIo::new(io);
    // A connection that ends badly has told its client so; nobody else needs to know.
    let _ended = match protocol {
        Protocol::Grpc => server.serve_connection(io, TowerToHyperService::new(EchoServer::new(Answers(state)))).await,
        Protocol::Http => {
            let service = service_fn(move |request| {
                let state = state.clone();
                async move { Ok::<_, Infallible>(state.answer(&request).await) }
            });
            server.serve_connection(io, service).await
        }
    };
}

// === impl State ===

impl State {
    async fn pause(&self) {
        let delay = self.delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            sleep(Duration::from_millis(delay)).await;
        }
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        self.pause().await;
        let mut response = Response::new(Full::from(format!("{} hears {}\n", self.name, request.uri().path())));
        if request.uri().path() == "/broken" {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        for (name, value) in [("x-backend", &self.name), ("x-version", &self.version)] {
            if let Ok(value) = value.parse() {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    async fn reply(&self, request: SayRequest) -> SayReply {
        self.pause().await;
        SayReply { text: request.text, backend: self.name.clone(), version: self.version.clone() }
    }
}

/// The echo service of a backend.
struct Answers(Arc<State>);

#[tonic::async_trait]
impl Echo for Answers {
    type ChatStream = std::pin::Pin<Box<dyn Stream<Item = Result<SayReply, Status>> + Send>>;

    async fn say(&self, request: tonic::Request<SayRequest>) -> Result<tonic::Response<SayReply>, Status> {
        Ok(tonic::Response::new(self.0.reply(request.into_inner()).await))
    }

    async fn chat(
        &self,
        request: tonic::Request<Streaming<SayRequest>>,
    ) -> Result<tonic::Response<Self::ChatStream>, Status> {
        let state = self.0.clone();
        let replies = request.into_inner().then(move |heard| {
            let state = state.clone();
            async move { Ok(state.reply(heard?).await) }
        });
        Ok(tonic::Response::new(Box::pin(replies)))
    }
}
