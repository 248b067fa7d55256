//! Automatic mutual TLS with istiod's word on who can: each endpoint is reached as it can be, and none in plaintext that could
//! do better.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use mesh_tests::identity::{Authority, Identity};
use mesh_tests::kubernetes::{destination_rule, object};
use mesh_tests::load::under_load;
use mesh_tests::sim::{Caller, Speaks, failure_of};
use mesh_xds_client::Dialect;

use crate::shop::{GRPC_PORT, HTTP_PORT, Ours, Shop};

const HOST: &str = "secure.test";
/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;

/// A workload that takes TLS and plaintext, as a permissive sidecar does, and answers with its name and how it was reached.
struct Permissive {
    ip: Ipv4Addr,
    ports: [u16; 2],
    _serving: JoinSet<()>,
}

// === impl Permissive ===

impl Permissive {
    /// Shows `identity`, and demands a certificate of the same authority.
    async fn start(number: u8, identity: &Identity) -> Self {
        let ip = Ipv4Addr::new(127, 0, 7, number);
        let mut serving = JoinSet::new();
        let mut ports = [0; 2];
        for (port, speaks) in ports.iter_mut().zip([Speaks::Http1, Speaks::Http2]) {
            let listener = TcpListener::bind(SocketAddr::from((ip, 0))).await.unwrap();
            *port = listener.local_addr().unwrap().port();
            // What a sidecar selects, whatever else it is offered.
            let protocol = if speaks == Speaks::Http1 { "http/1.1" } else { "h2" };
            let acceptor = TlsAcceptor::from(identity.server_config(&[protocol]));
            serving.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(take(stream, acceptor.clone(), number, speaks));
                }
            });
        }
        Self { ip, ports, _serving: serving }
    }

    /// The endpoint, with a service account where it can do mutual TLS.
    fn endpoint(&self, can: bool) -> Value {
        let [http, h2] = self.ports;
        let mut endpoint = json!({ "address": self.ip, "ports": { "http": http, "http2": h2 } });
        if can {
            endpoint["serviceAccount"] = json!("secure");
            endpoint["labels"] = json!({ "security.istio.io/tlsMode": "istio" });
        }
        endpoint
    }
}

async fn take(stream: TcpStream, acceptor: TlsAcceptor, number: u8, speaks: Speaks) {
    let mut first = [0];
    if !matches!(stream.peek(&mut first).await, Ok(1)) {
        return;
    }
    if first != [HANDSHAKE] {
        return serve(stream, format!("{number} plain"), speaks).await;
    }
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let offered = stream.get_ref().1.alpn_protocol().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    serve(stream, format!("{number} tls {offered}"), speaks).await;
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, answer: String, speaks: Speaks) {
    let service = service_fn(move |_: Request<Incoming>| {
        let answer = Response::new(Full::new(Bytes::from(answer.clone())));
        async move { Ok::<_, Infallible>(answer) }
    });
    let io = TokioIo::new(stream);
    match speaks {
        Speaks::Http1 => drop(http1::Builder::new().serve_connection(io, service).await),
        _ => drop(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await),
    }
}

/// The files of an identity as Istio's agent calls them.
fn agents_files(identity: &Identity) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (file, name) in
        [(&identity.certificate, "cert-chain.pem"), (&identity.key, "key.pem"), (&identity.roots, "root-cert.pem")]
    {
        fs::copy(file, directory.path().join(name)).unwrap();
    }
    directory
}

fn service(endpoints: &[Value]) -> Value {
    let spec = json!({
        "hosts": [HOST],
        "resolution": "STATIC",
        "location": "MESH_INTERNAL",
        "ports": [
            { "number": HTTP_PORT, "name": "http", "protocol": "HTTP" },
            { "number": GRPC_PORT, "name": "http2", "protocol": "HTTP2" },
        ],
        "endpoints": endpoints,
    });
    object("networking.istio.io/v1", "ServiceEntry", HOST, spec)
}

/// A client of each port.
fn callers(ours: &Ours) -> [Caller; 2] {
    [(HTTP_PORT, Speaks::Http1), (GRPC_PORT, Speaks::Http2)]
        .map(|(port, speaks)| Caller::of(&ours.mesh, &format!("{HOST}:{port}"), speaks))
}

/// Calls until the answers of as many calls as are likely to reach every endpoint are these.
async fn answered(callers: &[Caller; 2], expected: [&[&str]; 2]) {
    for (caller, expected) in callers.iter().zip(expected) {
        let is_so = async {
            loop {
                let mut answers = std::collections::BTreeSet::new();
                for _ in 0..40 {
                    answers.insert(caller.call().await.unwrap());
                }
                if answers.iter().eq(expected) {
                    return;
                }
            }
        };
        let patience = std::time::Duration::from_secs(20);
        assert!(tokio::time::timeout(patience, is_so).await.is_ok(), "{}: {expected:?}", caller.target());
    }
}

#[tokio::test]
async fn endpoints_join_and_leave_mutual_tls_one_by_one_without_a_failed_call() {
    let Some(mut shop) = Shop::open(Dialect::Sidecar).await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    let authority = Authority::new();
    let [ours, theirs] = ["caller", "secure"].map(|name| authority.identify(&format!("ns/shop/sa/{name}")));
    let [one, two] = [Permissive::start(21, &theirs).await, Permissive::start(22, &theirs).await];
    shop.istiod.apply(&service(&[one.endpoint(true), two.endpoint(false)])).await;
    let files = agents_files(&ours);
    let ours = shop.clients_as(&shop.caller().service_account("caller").certificates(files.path())).await;
    let callers = callers(&ours);
    for caller in &callers {
        caller.ready().await.unwrap();
    }

    let ((), tally) = under_load(4, || callers[0].call(), async {
        answered(&callers, [&["21 tls http/1.1", "22 plain"], &["21 tls h2", "22 plain"]]).await;
        for _ in 0..2 {
            shop.istiod.apply(&service(&[one.endpoint(true), two.endpoint(true)])).await;
            answered(&callers, [&["21 tls http/1.1", "22 tls http/1.1"], &["21 tls h2", "22 tls h2"]]).await;
            shop.istiod.apply(&service(&[one.endpoint(false), two.endpoint(true)])).await;
            answered(&callers, [&["21 plain", "22 tls http/1.1"], &["21 plain", "22 tls h2"]]).await;
        }
        // By name, the rule speaks for all endpoints.
        shop.istiod.apply(&destination_rule(HOST, &[], json!({ "tls": { "mode": "DISABLE" } }))).await;
        answered(&callers, [&["21 plain", "22 plain"]; 2]).await;
        shop.istiod.apply(&destination_rule(HOST, &[], json!({ "tls": { "mode": "ISTIO_MUTUAL" } }))).await;
        answered(&callers, [&["21 tls http/1.1", "22 tls http/1.1"], &["21 tls h2", "22 tls h2"]]).await;
    })
    .await;
    tally.assert_none_failed();
}

// This generator says mutual TLS where a rule does so by name, and nothing where Istio would decide by itself.
#[tokio::test]
async fn mutual_tls_by_name_is_spoken_in_the_dialect_of_grpc_too() {
    let Some(mut shop) = Shop::open(Dialect::Grpc).await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    let authority = Authority::new();
    let [ours, theirs] = ["caller", "secure"].map(|name| authority.identify(&format!("ns/shop/sa/{name}")));
    let one = Permissive::start(24, &theirs).await;
    shop.istiod.apply(&service(&[one.endpoint(true)])).await;
    let files = agents_files(&ours);
    let ours = shop.clients_as(&shop.caller().service_account("caller").certificates(files.path())).await;
    let callers = callers(&ours);
    for caller in &callers {
        caller.ready().await.unwrap();
    }

    let ((), tally) = under_load(4, || callers[0].call(), async {
        answered(&callers, [&["24 plain"]; 2]).await;
        shop.istiod.apply(&destination_rule(HOST, &[], json!({ "tls": { "mode": "ISTIO_MUTUAL" } }))).await;
        answered(&callers, [&["24 tls http/1.1"], &["24 tls h2"]]).await;
    })
    .await;
    tally.assert_none_failed();
}

#[tokio::test]
async fn client_without_an_identity_reaches_only_who_is_meant_to_be_reached_in_plaintext() {
    let Some(mut shop) = Shop::open(Dialect::Sidecar).await else { return };
    shop.add("v1-a", 1, &["echo"]).await;
    let identity = Authority::new().identify("ns/shop/sa/secure");
    let one = Permissive::start(23, &identity).await;
    shop.istiod.apply(&service(&[one.endpoint(true)])).await;
    let ours = shop.clients().await;
    let [http, _] = callers(&ours);
    http.ready().await.unwrap();
    let error = http.call().await.unwrap_err();
    assert!(failure_of(&error).is_some(), "{error}");
    shop.istiod.apply(&service(&[one.endpoint(false)])).await;
    let reached = async { while http.call().await.ok().as_deref() != Some("23 plain") {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), reached).await.unwrap();
}
