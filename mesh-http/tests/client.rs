//! The client over real sockets: routing, spreading, failing over, refusing.

mod client_support;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use client_support::text;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use mesh_core::{
    config::{
        Action, CircuitBreakers, ClusterChoice, Forward, HttpProtocol, PathMatch, Route, RouteConfig, RouteMatch,
        Thresholds, VirtualHost,
    },
    outcome::Flags,
};
use mesh_http::Client;
use tokio::{
    net::TcpSocket,
    task::{JoinSet, yield_now},
    time::timeout,
};

/// A backend that answers with its name; `/slow` never answers, `/fail` answers 503.
struct Backend {
    address: SocketAddr,
    /// Does not listen. While it is there nobody else is given the port, to answer what is meant for nobody.
    _keeper: TcpSocket,
    tasks: JoinSet<()>,
}

impl Backend {
    async fn start(name: &'static str) -> Self {
        let keeper = shared_socket((Ipv4Addr::LOCALHOST, 0).into());
        let address = keeper.local_addr().expect("bound");
        let listener = shared_socket(address).listen(128).expect("nobody else listens");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(name, request));
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, _keeper: keeper, tasks }
    }

    /// Closes its connections, and refuses others from now on.
    async fn die(&mut self) {
        self.tasks.shutdown().await;
    }
}

/// A bound socket of a port that several may be bound to, one of them listening.
fn shared_socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseport(true).expect("an option");
    socket.bind(address).expect("it is free, or kept for us");
    socket
}

async fn answer(name: &'static str, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/slow" => std::future::pending().await,
        "/fail" => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            Ok(response)
        }
        _ => {
            let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            Ok(Response::new(Full::from([name.as_bytes(), b" ", &body].concat())))
        }
    }
}

fn in_flight(client: &Client) -> usize {
    let clusters = client.mesh().status().clusters;
    clusters.iter().flat_map(|cluster| &cluster.endpoints).map(|endpoint| endpoint.in_flight as usize).sum()
}

async fn tally(client: &Client, requests: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..requests {
        let response = client.get("http://reviews/").await.expect("an answer");
        *tally.entry(text(response).await).or_default() += 1;
    }
    tally
}

#[tokio::test]
async fn requests_spread_over_endpoints_by_either_protocol() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    for protocol in [HttpProtocol::Http1, HttpProtocol::Http2] {
        let client = Client::builder("reviews")
            .endpoints([one.address, two.address])
            .protocol(protocol)
            .build()
            .expect("a legal client");
        let tally = tally(&client, 40).await;
        assert!(tally["one "] >= 5 && tally["two "] >= 5, "{protocol:?}: {tally:?}");
    }
}

#[tokio::test]
async fn dead_endpoint_costs_no_request() {
    let one = Backend::start("one").await;
    let mut two = Backend::start("two").await;
    let client = Client::builder("reviews").endpoints([one.address, two.address]).build().expect("a legal client");
    assert!(tally(&client, 40).await.contains_key("two "), "it was in use");
    two.die().await;
    let after = tally(&client, 30).await;
    assert_eq!(after["one "], 30, "{after:?}");
}

#[tokio::test]
async fn body_of_a_post_arrives() {
    let one = Backend::start("one").await;
    let client = Client::builder("reviews").endpoints([one.address]).build().expect("a legal client");
    let request = Request::post("http://reviews/").body(Full::from("hello")).expect("a legal request");
    assert_eq!(text(client.request(request).await.expect("an answer")).await, "one hello");
}

#[tokio::test]
async fn authority_outside_the_target_has_no_route() {
    let one = Backend::start("one").await;
    let client = Client::builder("reviews").endpoints([one.address]).build().expect("a legal client");
    let error = client.get("http://ratings/").await.expect_err("no such host");
    assert!(error.is_unrouted() && error.flags().contains(Flags::NR), "{error:?}");
    assert_eq!(error.status(), StatusCode::NOT_FOUND);

    let client = Client::builder("reviews").endpoints([one.address]).any_authority().build().expect("a legal client");
    assert!(client.get("http://ratings/").await.is_ok());
}

#[tokio::test]
async fn bad_answers_are_retried_as_often_as_allowed_and_then_delivered() {
    let one = Backend::start("one").await;
    let client = Client::builder("reviews").endpoints([one.address]).build().expect("a legal client");
    let response = client.get("http://reviews/fail").await.expect("the last answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.extensions().get::<Flags>().is_some_and(|flags| flags.contains(Flags::URX)));
}

#[tokio::test]
async fn flood_is_refused_at_once() {
    let one = Backend::start("one").await;
    let thresholds = Thresholds { max_requests: Some(2), ..Thresholds::default() };
    let client = Client::builder("reviews")
        .endpoints([one.address])
        .circuit_breakers(CircuitBreakers { default: thresholds, high: thresholds })
        .build()
        .expect("a legal client");
    let mut calls = JoinSet::new();
    for _ in 0..2 {
        calls.spawn(client.get("http://reviews/slow"));
    }
    let both = async {
        while in_flight(&client) < 2 {
            yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), both).await.expect("two get under way");
    let error = client.get("http://reviews/").await.expect_err("two are under way");
    assert!(error.is_overloaded() && error.flags().contains(Flags::UO), "{error:?}");
    let response = error.into_response();
    assert_eq!(response.headers()["x-envoy-overloaded"], "true");
    calls.shutdown().await;
    assert!(client.get("http://reviews/").await.is_ok(), "permits come back");
}

#[tokio::test]
async fn routes_choose_the_cluster() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let to = |cluster: &str| Action::Forward(Forward::to(ClusterChoice::One(cluster.into())));
    let routes = RouteConfig::new(
        "routes",
        vec![VirtualHost::any(
            "all",
            vec![
                Route::new(RouteMatch::path(PathMatch::prefix("/two")), to("two")),
                Route::new(RouteMatch::any(), to("one")),
            ],
        )],
    )
    .expect("legal routes");
    let cluster = |name: &str| mesh_core::config::Cluster::new(name).expect("a legal name");
    let endpoints = |backend: &Backend| {
        mesh_core::config::Endpoints::flat(vec![mesh_core::config::Endpoint::new(backend.address)]).expect("legal")
    };
    let client = Client::builder("shop")
        .routes(routes)
        .cluster(cluster("one"), endpoints(&one))
        .cluster(cluster("two"), endpoints(&two))
        .build()
        .expect("a legal client");
    assert_eq!(text(client.get("http://shop/x").await.expect("an answer")).await, "one ");
    assert_eq!(text(client.get("http://shop/two/x").await.expect("an answer")).await, "two ");
}

#[tokio::test]
async fn shutdown_waits_for_responses_under_way() {
    let one = Backend::start("one").await;
    let client = Client::builder("reviews").endpoints([one.address]).build().expect("a legal client");
    let response = client.get("http://reviews/").await.expect("an answer");
    let mesh = client.mesh().clone();
    let shutdown = tokio::spawn(async move { mesh.shutdown(Duration::from_secs(5)).await });
    assert_eq!(text(response).await, "one ");
    assert!(shutdown.await.expect("no panic"), "nothing had to be cut");
    assert!(client.get("http://reviews/").await.expect_err("it is shut down").is_unrouted());
}
