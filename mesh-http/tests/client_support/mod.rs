//! Clients over pipes in memory: an HTTP/1 server of hyper's at every address, plain or under TLS.

// Each test program uses its part.
#![allow(dead_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::{
    collections::BTreeSet,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use mesh_core::config::Address;
use mesh_http::{
    Client, Mesh,
    connect::{Connect, Connecting, Stream},
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};

/// Takes connections, and knows which addresses are dead.
#[derive(Clone)]
pub(crate) struct Net {
    accept: Arc<dyn Fn(SocketAddr, DuplexStream) + Send + Sync>,
    pub(crate) dead: Arc<Mutex<BTreeSet<SocketAddr>>>,
}

impl Net {
    /// Every connection goes to `accept`.
    pub(crate) fn new(accept: impl Fn(SocketAddr, DuplexStream) + Send + Sync + 'static) -> Self {
        Self { accept: Arc::new(accept), dead: Arc::default() }
    }

    /// Servers that answer by `answer`, which is told at which address.
    pub(crate) fn serving(
        answer: impl Fn(SocketAddr, &Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::new(move |address, stream| {
            let answer = answer.clone();
            tokio::spawn(serve(stream, move |request: &_| answer(address, request)));
        })
    }
}

impl Connect for Net {
    fn connect(&self, address: &Address) -> Connecting {
        let Address::Socket(address) = *address else { panic!("only sockets here") };
        if self.dead.lock().unwrap().contains(&address) {
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        }
        let (near, far) = duplex(16 * 1024);
        (self.accept)(address, far);
        Box::pin(async move { Ok(Box::new(near) as Stream) })
    }
}

/// Serves one connection.
pub(crate) async fn serve<I>(io: I, answer: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>>)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| {
        let response = answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
}

pub(crate) fn says(text: impl Into<String>) -> Response<Full<Bytes>> {
    Response::new(Full::from(text.into()))
}

pub(crate) async fn text(response: Response<mesh_http::Body>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// A client of a server that says which trace it was told of.
pub(crate) fn client_that_is_told() -> Client {
    let net = Net::serving(|_, request| {
        let header = |name| request.headers().get(name).map_or("none", |value| value.to_str().unwrap());
        says(format!("{} {}", header("traceparent"), header("tracestate")))
    });
    let mesh = Mesh::builder().connector(net).seed(1).build().unwrap();
    Client::builder("reviews").mesh(&mesh).endpoints(["10.0.0.1:80"]).build().unwrap()
}

/// What the server was told.
pub(crate) async fn told(client: &Client) -> String {
    text(client.get("http://reviews/").await.unwrap()).await
}
