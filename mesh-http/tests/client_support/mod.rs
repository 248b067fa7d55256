//! Clients over pipes in memory: an HTTP/1 server of hyper's at every address, plain or under TLS.

// Each test program uses its part.
#![allow(dead_code, unused_imports)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod said;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
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
    resolve::{Resolve, Resolved, Resolving},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, duplex},
    time::sleep,
};

pub(crate) use self::said::{Said, steering};

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

    /// Passes a connection on.
    pub(crate) fn take(&self, address: SocketAddr, stream: DuplexStream) {
        (self.accept)(address, stream);
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

/// How long the answers of a [`Zone`] are valid.
pub(crate) const TTL: Duration = Duration::from_secs(30);

/// What names mean at the moment. One that is not in it is a failure.
#[derive(Clone)]
pub(crate) struct Zone {
    pub(crate) names: Arc<Mutex<BTreeMap<String, Name>>>,
    pub(crate) valid_for: Duration,
}

#[derive(Clone, Default)]
pub(crate) struct Name {
    /// The last parts of its addresses; none is a failure.
    addresses: Option<Vec<u8>>,
    takes: Duration,
    asked: usize,
}

impl Zone {
    pub(crate) fn new() -> Self {
        Self { names: Arc::default(), valid_for: TTL }
    }

    /// What a name means from now on; none is a failure.
    pub(crate) fn set(&self, name: &str, numbers: Option<&[u8]>) -> &Self {
        self.change(name, |name| name.addresses = numbers.map(<[u8]>::to_vec))
    }

    /// How long a look-up of a name takes.
    pub(crate) fn takes(&self, name: &str, time: Duration) -> &Self {
        self.change(name, |name| name.takes = time)
    }

    /// How often a name was looked up.
    pub(crate) fn asked(&self, name: &str) -> usize {
        self.names.lock().unwrap().get(name).map_or(0, |name| name.asked)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Name)) -> &Self {
        change(self.names.lock().unwrap().entry(name.to_owned()).or_default());
        self
    }
}

impl Resolve for Zone {
    fn resolve(&self, host: &str) -> Resolving {
        self.change(host, |name| name.asked += 1);
        let (zone, host) = (self.clone(), host.to_owned());
        Box::pin(async move {
            let name = || zone.names.lock().unwrap()[&host].clone();
            sleep(name().takes).await;
            let numbers = name().addresses.ok_or("no such name")?;
            let addresses = numbers.into_iter().map(|last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last))).collect();
            Ok(Resolved { addresses, valid_for: zone.valid_for })
        })
    }
}

/// Servers that answer with their addresses.
pub(crate) fn named() -> Net {
    Net::serving(|address, _| says(address.to_string()))
}

/// Who answers, by the last part of the address, of a number of requests that reaches everybody.
pub(crate) async fn answering(client: &Client) -> BTreeSet<u8> {
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        let uri = format!("http://{}/", client.target());
        let address: SocketAddr = text(client.get(uri).await.unwrap()).await.parse().unwrap();
        let IpAddr::V4(ip) = address.ip() else { panic!("only IPv4 here") };
        seen.insert(ip.octets()[3]);
    }
    seen
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
