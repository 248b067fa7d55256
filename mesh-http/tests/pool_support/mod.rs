//! Pools over pipes in memory, and servers of hyper's at their far end.

// Each test program uses its part.
#![allow(dead_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_core::{
    cluster::Undelivered,
    config::{Address, CircuitBreakers, ConnectionPolicy, HttpProtocol, RequestPriority},
    limit::{Figures, Limits},
    outcome::{Failure, FailureKind, Sent},
};
use mesh_http::{
    connect::{Connect, Connecting, Stream},
    pool::{Pool, PoolBody, PoolContext, PoolFigures, Task},
};
use tokio::{
    io::{DuplexStream, duplex},
    sync::{Semaphore, oneshot},
};

pub(crate) type TestBody = UnsyncBoxBody<Bytes, io::Error>;
pub(crate) type Answer = Result<Response<PoolBody>, Undelivered<Request<TestBody>>>;

/// What connecting comes to, by the number of the connection, from 0.
type Script = Box<dyn Fn(usize) -> Outcome + Send + Sync>;

pub(crate) enum Outcome {
    /// The far end of a pipe goes to this.
    Accept(Box<dyn FnOnce(DuplexStream) + Send>),
    Refuse,
    Hang,
}

/// A network of one endpoint.
pub(crate) struct Net {
    script: Script,
    pub(crate) connects: AtomicUsize,
}

/// What the servers of one test share: requests to `/wait` are answered when the gate opens for them.
pub(crate) struct Backend {
    pub(crate) gate: Semaphore,
    /// Connection and path of each request, as they arrived.
    pub(crate) seen: Mutex<Vec<(usize, String)>>,
}

/// A pool under test, and what it is limited by.
pub(crate) struct Bench {
    pub(crate) pool: Pool<TestBody>,
    pub(crate) context: PoolContext,
    pub(crate) limits: Arc<Limits>,
    pub(crate) net: Arc<Net>,
}

pub(crate) fn whole(bytes: impl Into<Bytes>) -> TestBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn get(path: &str) -> Request<TestBody> {
    let body = Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
    Request::get(format!("http://peer{path}")).body(body).unwrap()
}

pub(crate) fn post(path: &str, body: TestBody) -> Request<TestBody> {
    Request::post(format!("http://peer{path}")).body(body).unwrap()
}

pub(crate) async fn text(answer: Answer) -> String {
    let body = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Kind, whether it was sent, and whether the request came back.
pub(crate) fn blame<T>(answer: Result<T, Undelivered<Request<TestBody>>>) -> (FailureKind, Sent, bool) {
    let Err(Undelivered { request, error }) = answer else { panic!("it should fail") };
    let failure = Failure::of(&*error);
    (failure.kind, failure.sent, request.is_some())
}

/// Waits until every task waits: a paused clock moves on only then, so what can happen has happened.
pub(crate) async fn all_is_quiet() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

// === impl Net ===

impl Net {
    pub(crate) fn new(script: impl Fn(usize) -> Outcome + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { script: Box::new(script), connects: AtomicUsize::new(0) })
    }

    /// Each connection goes to `serve`.
    pub(crate) fn accept(serve: impl Fn(usize, DuplexStream) + Send + Sync + 'static) -> Arc<Self> {
        let serve = Arc::new(serve);
        Self::new(move |number| {
            let serve = serve.clone();
            Outcome::Accept(Box::new(move |stream| serve(number, stream)))
        })
    }

    pub(crate) fn connects(&self) -> usize {
        self.connects.load(Ordering::Relaxed)
    }
}

pub(crate) struct Pipes(pub(crate) Arc<Net>);

impl Connect for Pipes {
    fn connect(&self, _: &Address) -> Connecting {
        let outcome = (self.0.script)(self.0.connects.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move {
            match outcome {
                Outcome::Accept(serve) => {
                    let (near, far) = duplex(16 * 1024);
                    serve(far);
                    Ok(Box::new(near) as Stream)
                }
                Outcome::Refuse => Err(io::ErrorKind::ConnectionRefused.into()),
                Outcome::Hang => pending().await,
            }
        })
    }
}

// === impl Backend ===

impl Backend {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { gate: Semaphore::new(0), seen: Mutex::default() })
    }

    pub(crate) fn h1(self: &Arc<Self>) -> Arc<Net> {
        let backend = self.clone();
        Net::accept(move |number, stream| backend.serve_h1(number, stream))
    }

    pub(crate) fn serve_h1(self: &Arc<Self>, number: usize, stream: DuplexStream) {
        let backend = self.clone();
        let service = service_fn(move |request| backend.clone().answer(number, request));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }

    pub(crate) fn h2(self: &Arc<Self>, max_streams: u32) -> Arc<Net> {
        let backend = self.clone();
        Net::accept(move |number, stream| drop(backend.serve_h2(number, stream, max_streams)))
    }

    /// Sending to what is returned has the server say GOAWAY and finish.
    pub(crate) fn serve_h2(
        self: &Arc<Self>,
        number: usize,
        stream: DuplexStream,
        max_streams: u32,
    ) -> oneshot::Sender<()> {
        let backend = self.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = service_fn(move |request| backend.clone().answer(number, request));
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(max_streams)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            let mut serving = std::pin::pin!(serving);
            let was_stopped = tokio::select! {
                biased;
                _ = serving.as_mut() => false,
                stopped = stopped => stopped.is_ok(),
            };
            if was_stopped {
                serving.as_mut().graceful_shutdown();
            }
            let _ = serving.await;
        });
        stop
    }

    async fn answer(
        self: Arc<Self>,
        number: usize,
        request: Request<Incoming>,
    ) -> Result<Response<TestBody>, Infallible> {
        let path = request.uri().path().to_owned();
        self.seen.lock().unwrap().push((number, path.clone()));
        if path.starts_with("/wait") {
            self.gate.acquire().await.unwrap().forget();
        }
        if path == "/echo" {
            return Ok(Response::new(request.into_body().map_err(io::Error::other).boxed_unsync()));
        }
        Ok(Response::new(whole(format!("{number}"))))
    }

    pub(crate) fn seen(&self) -> Vec<(usize, String)> {
        self.seen.lock().unwrap().clone()
    }
}

// === impl Bench ===

impl Bench {
    pub(crate) fn new(net: &Arc<Net>, change: impl FnOnce(PoolContext) -> PoolContext) -> Self {
        Self::limited(net, &CircuitBreakers::default(), change)
    }

    pub(crate) fn limited(
        net: &Arc<Net>,
        breakers: &CircuitBreakers,
        change: impl FnOnce(PoolContext) -> PoolContext,
    ) -> Self {
        let limits = Limits::new(breakers);
        let spawn = Arc::new(|task: Task| drop(tokio::spawn(task)));
        let context = change(PoolContext::new(Arc::new(Pipes(net.clone())), spawn, limits.clone()));
        let address = Address::from(SocketAddr::from(([127, 0, 0, 1], 80)));
        let pool = Pool::new(Arc::new(context.clone()), [address], None);
        Self { pool, context, limits, net: net.clone() }
    }

    pub(crate) fn h1(net: &Arc<Net>) -> Self {
        Self::new(net, |context| context)
    }

    pub(crate) fn h2(net: &Arc<Net>) -> Self {
        Self::new(net, |context| context.policy(&h2()))
    }

    pub(crate) fn send(&self, request: Request<TestBody>) -> mesh_http::pool::Sending<TestBody> {
        self.pool.send(request, RequestPriority::Default)
    }

    /// Which connection served it.
    pub(crate) async fn served(&self, path: &str) -> String {
        text(self.send(get(path)).await).await
    }

    /// Sends from a task of its own.
    pub(crate) fn start(&self, path: &str) -> tokio::task::JoinHandle<Answer> {
        tokio::spawn(self.send(get(path)))
    }

    pub(crate) fn figures(&self) -> PoolFigures {
        self.pool.figures()
    }

    pub(crate) fn counts(&self) -> Figures {
        self.limits.figures(RequestPriority::Default)
    }
}

pub(crate) fn h2() -> ConnectionPolicy {
    ConnectionPolicy { protocol: Some(HttpProtocol::Http2), ..ConnectionPolicy::default() }
}
