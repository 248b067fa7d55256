//! The other end of the calls: a process on three ports that answers as little as its protocol allows.

use std::{
    convert::Infallible,
    env,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    process::{Child, Command, Stdio},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

/// Which protocol a backend speaks.
#[derive(Clone, Copy)]
pub(crate) enum Speaks {
    /// HTTP/1.1 on even ports of its list, HTTP/2 on odd ones: what both benches of mesh-http need is one process.
    Http,
    /// Answers with the message that it gets.
    Grpc,
}

/// Bytes in an answer.
const SIZE: usize = 1024;
const PORTS: usize = 4;

/// A backend that runs until it is dropped.
pub(crate) struct Backend {
    process: Child,
    addresses: Vec<SocketAddr>,
}

// === impl Backend ===

impl Backend {
    /// Starts this program once more, to serve.
    pub(crate) fn start() -> Self {
        let program = env::current_exe().expect("this program is a file");
        let mut process = Command::new(program)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was started before");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let lines = output.lines().take(PORTS).map(|line| line.expect("text"));
        let addresses = lines.map(|line| line.parse().expect("an address")).collect();
        Self { process, addresses }
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // The end of its input is its end.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Tells its addresses and serves until the input ends.
pub(crate) fn serve(speaks: Speaks) {
    let runtime = super::runtime();
    runtime.block_on(async move {
        for port in 0..PORTS {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
            println!("{}", listener.local_addr().expect("bound"));
            tokio::spawn(accept(speaks, port, listener));
        }
        // Whoever started it closes the pipe, or dies, which closes it too.
        let input = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let _ = input.await;
    });
}

async fn accept(speaks: Speaks, port: usize, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("a socket of ours");
        match speaks {
            Speaks::Http if port.is_multiple_of(2) => tokio::spawn(http1(stream)),
            Speaks::Http | Speaks::Grpc => tokio::spawn(http2(stream)),
        };
    }
}

async fn http1(stream: TcpStream) {
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
}

async fn http2(stream: TcpStream) {
    let server = http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
    if request.headers().get(header::CONTENT_TYPE) != Some(&GRPC) {
        return Ok(Response::new(Answer { data: Some(Bytes::from_static(&[b'x'; SIZE])), trailers: None }));
    }
    let message = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let trailers =
        HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let mut response = Response::new(Answer { data: Some(message), trailers: Some(trailers) });
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    Ok(response)
}

/// One piece of data, and trailers where there are any.
struct Answer {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(Frame::data);
        Poll::Ready(data.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match (&self.data, &self.trailers) {
            (Some(data), None) => Full::new(data.clone()).size_hint(),
            _ => http_body::SizeHint::default(),
        }
    }
}
