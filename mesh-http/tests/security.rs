//! Endpoints of one cluster that are reached in different ways, by what their metadata says, and what never falls back.
#![cfg(any(feature = "tls-aws-lc", feature = "tls-ring"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;
mod tls_support;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use client_support::{Net, Said, says, serve, steering, text};
use http::Request;
use http_body_util::Full;
use mesh_core::{
    config::{
        Aggregate, Cluster, ClusterEntry, Discovery, Endpoint, Endpoints, LoadBalancing, Metadata, MetadataValue,
        Security, SecurityMatch, Snapshot, Trust, UpstreamTls,
    },
    identity::FixedIdentity,
};
use mesh_http::{CallOptions, Client, Mesh, tls::TlsError};
use tls_support::{Authority, provider};
use tokio::{
    io::AsyncReadExt as _,
    sync::watch,
    time::{Instant, sleep},
};
use tokio_rustls::TlsAcceptor;

/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;

/// Servers that tell TLS from plaintext by the first byte, as a permissive sidecar does, and how each connection began.
struct Permissive {
    net: Net,
    begun: Arc<Mutex<Vec<(SocketAddr, &'static str)>>>,
}

impl Permissive {
    fn new(authority: &Authority) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(authority.issue(["reviews"]).server_demanding(authority)));
        let begun = Arc::<Mutex<Vec<_>>>::default();
        let beginning = begun.clone();
        let net = Net::new(move |address, mut stream| {
            let (acceptor, begun) = (acceptor.clone(), beginning.clone());
            tokio::spawn(async move {
                let mut first = [0];
                if stream.read_exact(&mut first).await.is_err() {
                    return;
                }
                let (read, write) = tokio::io::split(stream);
                let stream = tokio::io::join(std::io::Cursor::new(first).chain(read), write);
                if first == [HANDSHAKE] {
                    begun.lock().unwrap().push((address, "tls"));
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    serve(stream, |_| says("secret")).await;
                } else {
                    begun.lock().unwrap().push((address, "plain"));
                    serve(stream, |_| says("open")).await;
                }
            });
        });
        Self { net, begun }
    }

    fn begun(&self) -> Vec<(SocketAddr, &'static str)> {
        let mut begun = self.begun.lock().unwrap().clone();
        begun.sort_unstable();
        begun
    }
}

fn address(number: u8) -> SocketAddr {
    ([10, 0, 0, number], 80).into()
}

/// An endpoint whose `tlsMode` is this, as Istio tells it.
fn endpoint(number: u8, mode: Option<&str>) -> Endpoint {
    let endpoint = Endpoint::new(address(number));
    let Some(mode) = mode else { return endpoint };
    let facts = BTreeMap::from([("tlsMode".into(), MetadataValue::String(mode.into()))]);
    endpoint.with_metadata(Arc::new(Metadata(BTreeMap::from([(SecurityMatch::NAMESPACE.into(), facts)]))))
}

fn mutual() -> Arc<UpstreamTls> {
    Arc::new(UpstreamTls::new(Trust::Identity("default".into())).with_identity("default"))
}

/// TLS for `tlsMode: istio`, and what comes after it.
fn istio_then(rest: &[SecurityMatch]) -> Arc<[SecurityMatch]> {
    let facts = BTreeMap::from([("tlsMode".into(), MetadataValue::String("istio".into()))]);
    let secured = SecurityMatch { name: "tlsMode-istio".into(), facts, security: Security::Tls(mutual()) };
    [secured].into_iter().chain(rest.iter().cloned()).collect()
}

fn plaintext_for_the_rest() -> SecurityMatch {
    SecurityMatch { name: "tlsMode-disabled".into(), facts: BTreeMap::new(), security: Security::Plaintext }
}

/// All requests to one cluster of these endpoints.
fn steered(security: Arc<[SecurityMatch]>, endpoints: Vec<Endpoint>) -> Arc<Snapshot> {
    let mut cluster = Cluster::new("reviews").unwrap();
    cluster.policy.security = security;
    // In turns, so that counts are exact.
    cluster.policy.load_balancing = Some(LoadBalancing::RoundRobin);
    steering("reviews", cluster, Arc::new(Endpoints::flat(endpoints).unwrap()))
}

fn mesh(authority: &Authority, net: &Net, say: &watch::Sender<Arc<Snapshot>>) -> Mesh {
    let own = authority.issue(["cart"]).identity().with_default_bundle([authority.root()]).unwrap();
    let mesh = Mesh::builder().source(Said(say.clone())).connector(net.clone()).crypto(provider());
    mesh.identity("default", FixedIdentity::new(own)).seed(1).build().unwrap()
}

/// How many of so many answers were these.
async fn answers(client: &Client, calls: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        *counts.entry(text(client.get("http://reviews/").await.unwrap()).await).or_default() += 1;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_is_reached_as_its_metadata_says() {
    let authority = Authority::new("shop");
    let servers = Permissive::new(&authority);
    let endpoints = vec![endpoint(1, Some("istio")), endpoint(2, Some("disabled")), endpoint(3, None)];
    let say = watch::channel(steered(istio_then(&[plaintext_for_the_rest()]), endpoints)).0;
    let client = Client::builder("reviews").mesh(&mesh(&authority, &servers.net, &say)).build().unwrap();
    assert_eq!(answers(&client, 30).await, [("open".to_owned(), 20), ("secret".to_owned(), 10)].into());
    assert_eq!(servers.begun(), [(address(1), "tls"), (address(2), "plain"), (address(3), "plain")]);
}

#[tokio::test(start_paused = true)]
async fn endpoint_that_fits_nothing_is_not_reached_at_all() {
    let authority = Authority::new("shop");
    let servers = Permissive::new(&authority);
    let say = watch::channel(steered(istio_then(&[]), vec![endpoint(1, None)])).0;
    let client = Client::builder("reviews").mesh(&mesh(&authority, &servers.net, &say)).build().unwrap();
    let error = client.get("http://reviews/").await.unwrap_err();
    assert!(error.is_tls(), "{error:?}");
    assert!(matches!(TlsError::find(&error), Some(TlsError::Unavailable { .. })), "{error:?}");
    assert_eq!(servers.begun(), []);
}

#[tokio::test(start_paused = true)]
async fn endpoint_that_joins_the_mesh_is_reached_by_tls_from_then_on() {
    let authority = Authority::new("shop");
    let servers = Permissive::new(&authority);
    let matches = istio_then(&[plaintext_for_the_rest()]);
    let said = |mode| steered(matches.clone(), vec![endpoint(1, mode), endpoint(2, None)]);
    let say = watch::channel(said(None)).0;
    let client = Client::builder("reviews").mesh(&mesh(&authority, &servers.net, &say)).build().unwrap();
    assert_eq!(answers(&client, 10).await, [("open".to_owned(), 10)].into());
    for (mode, secret) in [(Some("istio"), 5), (Some("disabled"), 0), (Some("istio"), 5)] {
        say.send_replace(said(mode));
        sleep(Duration::from_millis(1)).await;
        assert_eq!(answers(&client, 10).await.get("secret").copied().unwrap_or(0), secret, "{mode:?}");
    }
    let of = |number| servers.begun().iter().filter(|(at, _)| *at == address(number)).count();
    assert_eq!((of(1), of(2)), (4, 1), "the connections of the endpoint that did not change stay");
}

/// There is an identity for nobody, and one part of the aggregate asks for none.
#[tokio::test(start_paused = true)]
async fn call_that_waits_goes_to_another_part_of_an_aggregate_before_it_waits_for_an_identity() {
    let servers = Permissive::new(&Authority::new("shop"));
    let part = |name: &str, security, number| {
        let mut cluster = Cluster::new(name).unwrap();
        cluster.policy.security = security;
        let endpoints = Endpoints::flat(vec![endpoint(number, Some("istio"))]).unwrap();
        (name.into(), ClusterEntry { cluster: Arc::new(cluster), endpoints: Some(Arc::new(endpoints)) })
    };
    let mut all = Cluster::new("reviews").unwrap();
    all.discovery = Discovery::Aggregate(Arc::new(Aggregate::of(["secured", "open"]).unwrap()));
    let steering = steering("reviews", all, Arc::new(Endpoints::none()));
    let mut snapshot = Arc::unwrap_or_clone(steering);
    snapshot.clusters.extend([part("secured", istio_then(&[]), 1), part("open", Arc::default(), 2)]);
    snapshot.clusters.get_mut("reviews").unwrap().endpoints = None;

    let source = Said(watch::Sender::new(Arc::new(snapshot)));
    let mesh = Mesh::builder().source(source).connector(servers.net.clone()).crypto(provider()).build().unwrap();
    let client = Client::builder("reviews").mesh(&mesh).build().unwrap();
    let mut request = Request::get("http://reviews/").body(Full::default()).unwrap();
    request.extensions_mut().insert(CallOptions::new().wait_for_ready());
    let start = Instant::now();
    assert_eq!(text(client.request(request).await.unwrap()).await, "open");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn tls_that_code_demands_is_not_weakened_by_a_match() {
    let authority = Authority::new("shop");
    let servers = Permissive::new(&authority);
    let say = watch::channel(steered([plaintext_for_the_rest()].into(), vec![endpoint(1, None)])).0;
    let mesh = mesh(&authority, &servers.net, &say);
    let client = Client::builder("reviews").mesh(&mesh).tls((*mutual()).clone()).build().unwrap();
    assert_eq!(answers(&client, 3).await, [("secret".to_owned(), 3)].into());
    assert_eq!(servers.begun(), [(address(1), "tls")]);
}

#[tokio::test(start_paused = true)]
async fn connections_outlive_a_policy_that_secures_them_in_the_same_way() {
    let authority = Authority::new("shop");
    let servers = Permissive::new(&authority);
    let endpoints = || vec![endpoint(1, Some("istio")), endpoint(2, None)];
    let before = istio_then(&[plaintext_for_the_rest()]);
    let say = watch::channel(steered(before.clone(), endpoints())).0;
    let client = Client::builder("reviews").mesh(&mesh(&authority, &servers.net, &say)).build().unwrap();
    answers(&client, 4).await;
    // Other matches by other names that come to the same.
    let facts = BTreeMap::from([("tlsMode".into(), MetadataValue::String("istio".into()))]);
    let secured = SecurityMatch { name: "again".into(), facts, security: Security::Tls(mutual()) };
    let other: Arc<[SecurityMatch]> = [secured, plaintext_for_the_rest()].into();
    for matches in [other, before] {
        say.send_replace(steered(matches, endpoints()));
        sleep(Duration::from_millis(1)).await;
        assert_eq!(answers(&client, 4).await, [("open".to_owned(), 2), ("secret".to_owned(), 2)].into());
    }
    assert_eq!(servers.begun(), [(address(1), "tls"), (address(2), "plain")]);
}
