//! What a pool does under TLS: which HTTP it speaks, whom a connection is for, and that nothing falls back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod pool_support;
#[path = "tls_support/mod.rs"]
mod tls_support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use mesh_core::{
    config::{Address, CircuitBreakers, ConnectionPolicy, HttpProtocol, RequestPriority, Sni, UpstreamTls},
    identity::Identities,
    limit::Limits,
    outcome::{Failure, FailureKind, Sent},
};
use mesh_http::{
    pool::{Pool, PoolContext, Task},
    tls::TlsError,
};
use pool_support::{Net, Pipes, TestBody, all_is_quiet, blame, get, text, whole};
use rustls::ServerConfig;
use tls_support::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// A server that says which HTTP was spoken, and over which connection.
fn serving(mut config: ServerConfig, alpn: &[&str]) -> Arc<Net> {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Net::accept(move |number, stream| {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| async move {
                let answer = format!("{number} {:?}", request.version());
                Ok::<_, std::convert::Infallible>(http::Response::new(whole(answer)))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
            let _ = builder.serve_connection(io, service).await;
        });
    })
}

fn context(net: &Arc<Net>, tls: &UpstreamTls, protocol: HttpProtocol) -> PoolContext {
    let connector = tls_support::client(Identities::new()).connector(tls, PoolContext::alpn(protocol)).unwrap();
    let spawn = Arc::new(|task: Task| drop(tokio::spawn(task)));
    let policy = ConnectionPolicy { protocol: Some(protocol), ..ConnectionPolicy::default() };
    let limits = Limits::new(&CircuitBreakers::default());
    PoolContext::new(Arc::new(Pipes(net.clone())), spawn, limits).policy(&policy).tls(connector)
}

fn pool(context: &PoolContext) -> Pool<TestBody> {
    let address = Address::from(SocketAddr::from(([127, 0, 0, 1], 443)));
    Pool::new(Arc::new(context.clone()), [address], None)
}

fn request_to(authority: &str) -> Request<TestBody> {
    Request::get(format!("https://{authority}/")).body(whole("")).unwrap()
}

async fn ask(pool: &Pool<TestBody>, authority: &str) -> String {
    text(pool.send(request_to(authority), RequestPriority::Default).await).await
}

fn authority() -> (Authority, ServerConfig) {
    let authority = Authority::new("root");
    let config = authority.issue(["peer", "other", "cart"]).server();
    (authority, config)
}

#[tokio::test(start_paused = true)]
async fn peer_chooses_the_version_by_alpn() {
    for (protocol, offered, spoken) in [
        (HttpProtocol::Auto, &["h2", "http/1.1"][..], "HTTP/2.0"),
        (HttpProtocol::Auto, &["http/1.1"], "HTTP/1.1"),
        (HttpProtocol::Auto, &[], "HTTP/1.1"),
        (HttpProtocol::Http2, &["h2", "http/1.1"], "HTTP/2.0"),
        (HttpProtocol::Http2, &[], "HTTP/2.0"),
        (HttpProtocol::Http1, &["h2", "http/1.1"], "HTTP/1.1"),
    ] {
        let (authority, config) = authority();
        let net = serving(config, offered);
        let pool = pool(&context(&net, &UpstreamTls::new(authority.trust()), protocol));
        assert_eq!(ask(&pool, "peer").await, format!("0 {spoken}"), "{protocol:?} {offered:?}");
        all_is_quiet().await;
        assert_eq!(ask(&pool, "peer").await, format!("0 {spoken}"), "{protocol:?} {offered:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_sidecars_of_istio_use_say_which_http_is_spoken() {
    let names = ["istio-h2", "istio-http/1.1", "istio", "h2", "http/1.1"];
    for (protocol, chosen, spoken) in [
        (HttpProtocol::Auto, "istio-h2", "HTTP/2.0"),
        (HttpProtocol::Auto, "istio-http/1.1", "HTTP/1.1"),
        (HttpProtocol::Auto, "istio", "HTTP/1.1"),
        (HttpProtocol::Http2, "istio", "HTTP/2.0"),
        (HttpProtocol::Http1, "istio", "HTTP/1.1"),
        (HttpProtocol::Http2, "h2", "HTTP/2.0"),
    ] {
        let (authority, config) = authority();
        let tls = UpstreamTls::new(authority.trust()).with_alpn(names);
        let pool = pool(&context(&serving(config, &[chosen]), &tls, protocol));
        assert_eq!(ask(&pool, "peer").await, format!("0 {spoken}"), "{protocol:?} {chosen}");
    }
    let (authority, config) = authority();
    let tls = UpstreamTls::new(authority.trust()).with_alpn(names);
    let pool = pool(&context(&serving(config, &["istio-h2"]), &tls, HttpProtocol::Http1));
    let refused = pool.send(request_to("peer"), RequestPriority::Default).await;
    assert_eq!(blame(refused), (FailureKind::Tls, Sent::No, true));
}

#[tokio::test(start_paused = true)]
async fn connection_is_not_shared_with_an_authority_that_it_was_not_verified_for() {
    let (authority, config) = authority();
    let net = serving(config, &["h2"]);
    let pool = pool(&context(&net, &UpstreamTls::new(authority.trust()), HttpProtocol::Http2));
    assert_eq!(ask(&pool, "peer").await, "0 HTTP/2.0");
    assert_eq!(ask(&pool, "other").await, "1 HTTP/2.0");
    assert_eq!(ask(&pool, "PEER:8443").await, "0 HTTP/2.0");
    let stranger = pool.send(request_to("stranger"), RequestPriority::Default).await;
    assert_eq!(blame(stranger), (FailureKind::Tls, Sent::No, true));
}

#[tokio::test(start_paused = true)]
async fn fixed_name_lets_authorities_share() {
    let (authority, config) = authority();
    let net = serving(config, &["h2"]);
    let tls = UpstreamTls::new(authority.trust()).with_sni(Sni::Name("cart".into()));
    let pool = pool(&context(&net, &tls, HttpProtocol::Http2));
    for name in ["peer", "anything", "else"] {
        assert_eq!(ask(&pool, name).await, "0 HTTP/2.0");
    }
}

#[tokio::test(start_paused = true)]
async fn authority_that_no_peer_could_prove_is_the_requests_fault() {
    let (authority, config) = authority();
    let pool = pool(&context(&serving(config, &[]), &UpstreamTls::new(authority.trust()), HttpProtocol::Http1));
    let request = Request::get("/").body(whole("")).unwrap();
    let failed = pool.send(request, RequestPriority::Default).await.unwrap_err();
    assert!(matches!(TlsError::find(&*failed.error), Some(TlsError::Name { .. })));
    assert!(!Failure::of(&*failed.error).class().is_failure());
    assert_eq!(pool.figures().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_in_plaintext() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let net = Net::accept(move |_, mut stream| {
        let log = log.clone();
        tokio::spawn(async move {
            let mut bytes = [0; 4096];
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                log.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
    });
    let (authority, _) = authority();
    let pool = pool(&context(&net, &UpstreamTls::new(authority.trust()), HttpProtocol::Auto));
    let failed = pool.send(get("/secret"), RequestPriority::Default).await.unwrap_err();
    assert!(matches!(TlsError::find(&*failed.error), Some(TlsError::Plaintext)));
    assert_eq!(blame(Err::<(), _>(failed)), (FailureKind::Tls, Sent::No, true));
    all_is_quiet().await;
    let heard = heard.lock().unwrap();
    assert_eq!(heard[0], 22, "a handshake record");
    assert!(!heard.windows(6).any(|window| window == b"secret"));
}

#[tokio::test(start_paused = true)]
async fn peer_that_never_speaks_tls_is_a_connect_timeout() {
    let net = Net::accept(|_, stream| {
        tokio::spawn(async move {
            let _open = stream;
            std::future::pending::<()>().await;
        });
    });
    let (authority, _) = authority();
    let context = context(&net, &UpstreamTls::new(authority.trust()), HttpProtocol::Auto);
    let pool = pool(&context.connect_timeout(Duration::from_secs(2)));
    let answer = pool.send(get("/"), RequestPriority::Default).await;
    assert_eq!(blame(answer), (FailureKind::ConnectTimeout, Sent::No, true));
}

#[tokio::test(start_paused = true)]
async fn refusal_of_our_certificate_is_a_tls_failure_in_both_versions() {
    for protocol in [HttpProtocol::Http1, HttpProtocol::Http2] {
        let authority = Authority::new("root");
        let config = authority.issue(["peer"]).server_demanding(&authority);
        let net = serving(config, PoolContext::alpn(protocol));
        let pool = pool(&context(&net, &UpstreamTls::new(authority.trust()), protocol));
        let answer = pool.send(get("/"), RequestPriority::Default).await;
        assert_eq!(blame(answer).0, FailureKind::Tls, "{protocol:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_tls_drains_what_was_opened_under_the_old() {
    let (authority, config) = authority();
    let net = serving(config, &["h2"]);
    let old = context(&net, &UpstreamTls::new(authority.trust()), HttpProtocol::Http2);
    let pool = pool(&old);
    assert_eq!(ask(&pool, "peer").await, "0 HTTP/2.0");
    let tls = UpstreamTls::new(authority.trust()).with_sni(Sni::Name("cart".into()));
    pool.update(Arc::new(context(&net, &tls, HttpProtocol::Http2).generation(1)));
    assert_eq!(ask(&pool, "peer").await, "1 HTTP/2.0");
    all_is_quiet().await;
    assert_eq!(pool.figures().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn pool_that_is_given_tls_opens_nothing_more_in_plaintext() {
    let backend = pool_support::Backend::new();
    let net = backend.h1();
    let tls = UpstreamTls::new(Authority::new("root").trust()).with_sni(Sni::Name("peer".into()));
    let bench = pool_support::Bench::h1(&net);
    let held = bench.send(get("/")).await.unwrap();
    let secured = context(&net, &tls, HttpProtocol::Http1);
    bench.pool.update(Arc::new(secured.clone()));
    assert_eq!(blame(bench.send(get("/")).await), (FailureKind::Tls, Sent::No, true));
    bench.pool.update(Arc::new(secured.no_tls(TlsError::Closed)));
    assert_eq!(blame(bench.send(get("/")).await), (FailureKind::Tls, Sent::No, true));
    assert_eq!(backend.seen().len(), 1);
    drop(held);
}
