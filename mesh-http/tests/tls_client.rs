//! TLS from a client's builder to the wire: who is let in, who is refused and as what, and that nothing ever falls back.
#![cfg(any(feature = "tls-aws-lc", feature = "tls-ring"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;
mod tls_support;

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use client_support::{Net, Said, says, serve, steering, text};
use http::Request;
use http_body_util::Empty;
use mesh_core::{
    config::{Cluster, Endpoint, Endpoints, Snapshot, SpiffeId, Trust, UpstreamTls},
    identity::{FixedIdentity, Identity, IdentityError, IdentitySource, IdentityStatus},
    outcome::{Flags, Sent},
};
use mesh_http::{CallOptions, Client, Mesh, tls::FileIdentity};
use rustls::ServerConfig;
use tls_support::{Authority, Issued, SHOP, provider};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch,
    time::{Instant, sleep},
};
use tokio_rustls::TlsAcceptor;

/// Certificates that clients have shown, and bytes that came in plaintext.
#[derive(Clone, Default)]
struct Seen {
    shown: Arc<Mutex<BTreeSet<Vec<u8>>>>,
    served: Arc<AtomicUsize>,
}

/// A server under TLS at every address.
fn secured(config: ServerConfig, seen: &Seen) -> Net {
    let (acceptor, seen) = (TlsAcceptor::from(Arc::new(config)), seen.clone());
    Net::new(move |_, stream| {
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            seen.shown.lock().unwrap().extend(certificates.first().map(|first| first.to_vec()));
            serve(stream, |_| {
                seen.served.fetch_add(1, Ordering::Relaxed);
                says("secret")
            })
            .await;
        });
    })
}

fn mesh(net: &Net, identity: impl IdentitySource) -> Mesh {
    Mesh::builder().connector(net.clone()).crypto(provider()).identity("default", identity).seed(1).build().unwrap()
}

fn fixed(issued: &Issued, authority: &Authority) -> FixedIdentity {
    FixedIdentity::new(issued.identity().with_default_bundle([authority.root()]).unwrap())
}

fn client(mesh: &Mesh, tls: UpstreamTls) -> Client {
    Client::builder("reviews").mesh(mesh).endpoints(["10.0.0.1:443"]).tls(tls).build().unwrap()
}

/// Trusts the identity's own authority, shows the identity, and asks for the name of the target.
fn mutual() -> UpstreamTls {
    UpstreamTls::new(Trust::Identity("default".into())).with_identity("default")
}

/// One call, which must fail for TLS's sake.
async fn refused(client: &Client, case: &str) {
    let error = client.get("http://reviews/").await.expect_err(case);
    assert!(error.is_tls() && error.is_connect(), "{case}: {error:?}");
    assert!(error.flags().contains(Flags::UF), "{case}: {error:?}");
}

#[tokio::test(start_paused = true)]
async fn mutual_tls_is_spoken_by_name_and_by_spiffe_id() {
    let authority = Authority::new("shop");
    let (own, seen) = (authority.issue(["cart", SHOP]), Seen::default());
    let net =
        secured(authority.issue(["reviews", "spiffe://shop.example/reviews"]).server_demanding(&authority), &seen);
    let mesh = mesh(&net, fixed(&own, &authority));
    let id = SpiffeId::parse("spiffe://shop.example/reviews").unwrap();
    for tls in [mutual(), mutual().with_spiffe_id(&id), mutual().with_trust_domain("shop.example").unwrap()] {
        let answer = client(&mesh, tls).get("http://reviews/").await.unwrap();
        assert_eq!(text(answer).await, "secret");
    }
    assert_eq!(*seen.shown.lock().unwrap(), [own.certificate.der().to_vec()].into());
}

#[tokio::test(start_paused = true)]
async fn peer_that_is_not_who_it_should_be_is_refused_and_hears_no_request() {
    let (authority, other) = (Authority::new("shop"), Authority::new("other"));
    let good = || mutual().with_trust_domain("shop.example").unwrap();
    let id = SpiffeId::parse("spiffe://shop.example/vault").unwrap();
    let cases = [
        ("wrong name", authority.issue(["ratings"]), mutual()),
        ("wrong SPIFFE id", authority.issue([SHOP]), mutual().with_spiffe_id(&id)),
        ("wrong trust domain", authority.issue(["spiffe://bank.example/reviews"]), good()),
        ("trust domain as a prefix", authority.issue(["spiffe://shop.example.evil/reviews"]), good()),
        ("expired", authority.issue_valid(["reviews"], (2010, 2015)), mutual()),
        ("not valid yet", authority.issue_valid(["reviews"], (3000, 4000)), mutual()),
        ("unknown authority", other.issue(["reviews"]), mutual()),
        ("its own authority", Issued::self_signed("reviews"), mutual()),
    ];
    for (case, issued, tls) in cases {
        let seen = Seen::default();
        let net = secured(issued.server(), &seen);
        let mesh = mesh(&net, fixed(&authority.issue(["cart"]), &authority));
        refused(&client(&mesh, tls), case).await;
        assert_eq!(seen.served.load(Ordering::Relaxed), 0, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn client_without_a_certificate_is_refused_where_one_is_demanded() {
    let (authority, other) = (Authority::new("shop"), Authority::new("other"));
    let anonymous = UpstreamTls::new(Trust::Identity("default".into()));
    for (case, own, tls) in [
        ("none shown", authority.issue(["cart"]), anonymous),
        ("of another authority", other.issue(["cart"]), mutual()),
        ("expired", authority.issue_valid(["cart"], (2010, 2015)), mutual()),
    ] {
        let seen = Seen::default();
        let net = secured(authority.issue(["reviews"]).server_demanding(&authority), &seen);
        let mesh = mesh(&net, fixed(&own, &authority));
        refused(&client(&mesh, tls), case).await;
        assert_eq!(seen.served.load(Ordering::Relaxed), 0, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn plaintext_peer_is_refused_and_never_sees_a_request() {
    let authority = Authority::new("shop");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = heard.clone();
    let net = Net::new(move |_, mut stream| {
        let heard = hearing.clone();
        tokio::spawn(async move {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                heard.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
    });
    let mesh = mesh(&net, fixed(&authority.issue(["cart"]), &authority));
    let error = client(&mesh, mutual()).get("http://reviews/very-private").await.unwrap_err();
    assert!(error.is_tls() && error.sent() == Sent::No, "{error:?}");
    let heard = heard.lock().unwrap();
    assert_eq!(heard.first(), Some(&22), "a handshake record");
    assert!(!heard.windows(12).any(|bytes| bytes == b"very-private"));
}

#[tokio::test(start_paused = true)]
async fn plaintext_client_of_a_tls_server_gets_nothing() {
    let authority = Authority::new("shop");
    let seen = Seen::default();
    let net = secured(authority.issue(["reviews"]).server(), &seen);
    let mesh = Mesh::builder().connector(net).seed(1).build().unwrap();
    let client = Client::builder("reviews").mesh(&mesh).endpoints(["10.0.0.1:443"]).build().unwrap();
    assert!(client.get("http://reviews/").await.is_err());
    assert_eq!(seen.served.load(Ordering::Relaxed), 0);
}

/// An identity that is there once it is set.
#[derive(Clone, Debug, Default)]
struct Late(Arc<Mutex<Option<Arc<Identity>>>>);

impl IdentitySource for Late {
    fn current(&self) -> Result<Arc<Identity>, IdentityError> {
        let identity = self.0.lock().unwrap().clone();
        identity.ok_or_else(|| IdentityError::absent("default", "it has not come yet", "wait"))
    }

    fn status(&self) -> IdentityStatus {
        IdentityStatus::default()
    }
}

#[tokio::test(start_paused = true)]
async fn identity_that_comes_late_serves_the_next_request() {
    let authority = Authority::new("shop");
    let seen = Seen::default();
    let net = secured(authority.issue(["reviews"]).server_demanding(&authority), &seen);
    let late = Late::default();
    let client = client(&mesh(&net, late.clone()), mutual());
    refused(&client, "no identity yet").await;
    refused(&client, "still none").await;

    let own = authority.issue(["cart"]).identity().with_default_bundle([authority.root()]).unwrap();
    *late.0.lock().unwrap() = Some(Arc::new(own));
    assert_eq!(text(client.get("http://reviews/").await.unwrap()).await, "secret");
}

#[tokio::test(start_paused = true)]
async fn want_of_an_identity_is_not_held_against_endpoints() {
    let authority = Authority::new("shop");
    let net = secured(authority.issue(["reviews"]).server_demanding(&authority), &Seen::default());
    let connections = Arc::new(AtomicUsize::new(0));
    let counting = (net, connections.clone());
    let net = Net::new(move |address, stream| {
        counting.1.fetch_add(1, Ordering::Relaxed);
        counting.0.take(address, stream);
    });
    let late = Late::default();
    let client = client(&mesh(&net, late.clone()), mutual());
    for _ in 0..20 {
        refused(&client, "no identity yet").await;
    }
    let mut request = Request::get("http://reviews/").body(Empty::<Bytes>::new()).unwrap();
    request.extensions_mut().insert(CallOptions::new().wait_for_ready());
    let waiting = tokio::spawn(client.request(request));
    sleep(Duration::from_secs(10)).await;
    assert!(!waiting.is_finished());
    assert_eq!(connections.load(Ordering::Relaxed), 0, "nobody was bothered");
    let clusters = client.mesh().status().clusters;
    assert!(clusters[0].endpoints.iter().all(|endpoint| !endpoint.is_ejected && !endpoint.is_unreachable));

    let own = authority.issue(["cart"]).identity().with_default_bundle([authority.root()]).unwrap();
    *late.0.lock().unwrap() = Some(Arc::new(own));
    let start = Instant::now();
    assert_eq!(text(waiting.await.unwrap().unwrap()).await, "secret");
    assert!(start.elapsed() <= Duration::from_secs(1), "{:?}", start.elapsed());
}

/// Everything to one cluster with these endpoints, under TLS that trusts these roots.
fn trusting(endpoints: &Arc<Endpoints>, roots: Trust) -> Arc<Snapshot> {
    let mut cluster = Cluster::new("reviews").unwrap();
    cluster.policy.tls = Some(Arc::new(UpstreamTls::new(roots)));
    steering("reviews", cluster, endpoints.clone())
}

#[tokio::test(start_paused = true)]
async fn roots_that_are_mended_serve_the_endpoints_that_were_refused_before() {
    let authority = Authority::new("shop");
    let net = secured(authority.issue(["reviews"]).server(), &Seen::default());
    let endpoints = Endpoints::flat(vec![Endpoint::new("10.0.0.1:443".parse::<std::net::SocketAddr>().unwrap())]);
    let endpoints = Arc::new(endpoints.unwrap());
    let broken = || Trust::Roots([Box::from(&b"no certificate"[..])].into());
    let say = watch::channel(trusting(&endpoints, broken())).0;
    let mesh = Mesh::builder().source(Said(say.clone())).connector(net).crypto(provider()).seed(1).build().unwrap();
    let client = Client::builder("reviews").mesh(&mesh).build().unwrap();
    refused(&client, "roots that are none").await;

    for _ in 0..2 {
        say.send_replace(trusting(&endpoints, authority.trust()));
        sleep(Duration::from_millis(1)).await;
        assert_eq!(text(client.get("http://reviews/").await.unwrap()).await, "secret");

        // And broken once more: there is a connection, which takes nothing new.
        say.send_replace(trusting(&endpoints, broken()));
        sleep(Duration::from_millis(1)).await;
        refused(&client, "roots that are none again").await;
    }
}

#[tokio::test(start_paused = true)]
async fn identity_files_are_rotated_under_load_without_a_failed_request() {
    let authority = Authority::new("shop");
    let folder = tempfile::tempdir().unwrap();
    let write = |issued: &Issued| {
        // The key first: between the two writes they do not fit, and the old pair serves on.
        fs::write(folder.path().join("key.pem"), issued.key.serialize_pem()).unwrap();
        fs::write(folder.path().join("chain.pem"), issued.certificate.pem()).unwrap();
    };
    let generations: Vec<_> = (0..4).map(|_| authority.issue(["cart"])).collect();
    write(&generations[0]);
    fs::write(folder.path().join("roots.pem"), authority.pem()).unwrap();
    let files = FileIdentity::builder(folder.path().join("chain.pem"), folder.path().join("key.pem"))
        .ca(folder.path().join("roots.pem"))
        .build(&provider())
        .unwrap();

    let seen = Seen::default();
    let net = secured(authority.issue(["reviews"]).server_demanding(&authority), &seen);
    let mesh = mesh(&net, files);
    let client = Client::builder("reviews")
        .mesh(&mesh)
        .endpoints(["10.0.0.1:443", "10.0.0.2:443"])
        .tls(mutual())
        // Connections are short, so that there are handshakes all the time.
        .policy(|policy| policy.cluster.connections.max_requests = Some(5))
        .no_retries()
        .build()
        .unwrap();
    let answers = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (client, answers) = (client.clone(), answers.clone());
            tokio::spawn(async move {
                loop {
                    assert_eq!(text(client.get("http://reviews/").await.unwrap()).await, "secret");
                    answers.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(200)).await;
                }
            })
        })
        .collect();
    for next in &generations[1..] {
        sleep(Duration::from_secs(15)).await;
        write(next);
    }
    sleep(Duration::from_secs(15)).await;

    assert!(load.iter().all(|caller| !caller.is_finished()), "no request failed");
    assert!(answers.load(Ordering::Relaxed) > 1_000, "{answers:?}");
    let all: BTreeSet<_> = generations.iter().map(|issued| issued.certificate.der().to_vec()).collect();
    assert_eq!(*seen.shown.lock().unwrap(), all, "each certificate had its time");
    load.into_iter().for_each(|caller| caller.abort());
}
