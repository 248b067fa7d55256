//! What a builder takes and what it refuses, by field, value and remedy.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use client_support::{answering, named, text};
use mesh_core::config::{
    Address, Aggregate, Cluster, Discovery, DnsEndpoints, DnsName, Endpoint, Endpoints, LoadBalancing,
    OutlierDetection, Policy, RouteConfig, Trust, UpstreamTls, preset,
};
use mesh_http::{
    Client, ClientBuilder, Error, IntoEndpoint, Mesh,
    connect::{Connect, Connecting},
    protocol::Http,
};

/// The field and the value that are refused.
fn refused(built: Result<Client, Error>) -> (String, String) {
    let error = built.unwrap_err();
    assert!(error.is_config() && !error.is_connect(), "{error:?}");
    let error = error.config_error().unwrap();
    (error.field().to_owned(), error.value().to_owned())
}

fn pair(field: &str, value: &str) -> (String, String) {
    (field.to_owned(), value.to_owned())
}

fn one() -> ClientBuilder<Http> {
    Client::builder("a").endpoints(["1.2.3.4:5"])
}

fn endpoints(number: u8) -> Endpoints {
    Endpoints::flat(vec![Endpoint::new(SocketAddr::from(([10, 0, 0, number], 80)))]).unwrap()
}

/// A client of one cluster, which is found in this way.
fn of_cluster(discovery: Discovery, given: Option<Endpoints>) -> Result<Client, Error> {
    let mut cluster = Cluster::new("books").unwrap();
    cluster.discovery = discovery;
    let mesh = Mesh::builder().connector(named()).seed(1).build().unwrap();
    let routes = RouteConfig::to_cluster("routes", "books");
    Client::builder("shop").mesh(&mesh).routes(routes).cluster(cluster, given).build()
}

// --- targets and endpoints ---

#[tokio::test]
async fn target_is_an_authority_with_or_without_the_scheme_of_grpc() {
    for (given, name) in [
        ("shop:80", "shop:80"),
        ("xds:///shop:80", "shop:80"),
        ("xds:80", "xds:80"),
        ("xds://plane/shop:80", "xds://plane/shop:80"),
    ] {
        assert_eq!(Client::builder(given).endpoints(["1.2.3.4:5"]).build().unwrap().target(), name);
    }
    for bad in ["a b", "", "user@shop", "dns:///shop:80", "xds://plane", "xds:///"] {
        assert_eq!(refused(Client::builder(bad).endpoints(["1.2.3.4:5"]).build()), pair("target", bad));
    }
}

#[tokio::test]
async fn target_needs_endpoints_routes_or_a_source() {
    assert_eq!(refused(Client::builder("a").build()), pair("target", "a"));
}

#[tokio::test]
async fn endpoint_that_is_neither_address_nor_name_is_refused_by_its_place() {
    let cases = [
        ("1.2.3.4", "address", "1.2.3.4"),
        ("1.2.3.4:0", "port", "0"),
        ("unix:", "address", "unix:"),
        ("unix://host/run/x.sock", "address", "unix://host/run/x.sock"),
    ];
    for (given, field, value) in cases {
        let built = Client::builder("a").endpoints(["9.9.9.9:9", given]).build();
        assert_eq!(refused(built), pair(&format!("endpoints[1].{field}"), value));
    }
}

/// Remembers where connections were to go, and opens none.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Address>>>);

impl Connect for Seen {
    fn connect(&self, address: &Address) -> Connecting {
        self.0.lock().unwrap().push(address.clone());
        Box::pin(async { Err(std::io::ErrorKind::ConnectionRefused.into()) })
    }
}

#[tokio::test(start_paused = true)]
async fn socket_in_the_file_system_is_an_endpoint() {
    for given in ["unix:/run/x.sock", "unix:///run/x.sock"] {
        let seen = Seen::default();
        let mesh = Mesh::builder().connector(seen.clone()).build().unwrap();
        let client = Client::builder("a").mesh(&mesh).endpoints([given]).no_retries().build().unwrap();
        assert!(client.get("http://a/").await.is_err());
        assert_eq!(seen.0.lock().unwrap()[0].to_string(), "unix:/run/x.sock");
    }
    assert!("unix:relative.sock".into_endpoint().is_ok());
}

// --- clusters ---

#[tokio::test(start_paused = true)]
async fn endpoints_that_stand_in_the_cluster_serve() {
    let client = of_cluster(Discovery::Static(Arc::new(endpoints(1))), None).unwrap();
    assert_eq!(answering(&client).await, [1].into());
}

#[tokio::test]
async fn cluster_without_endpoints_or_with_two_kinds_is_refused() {
    let names = Endpoints::by_name([DnsName::new("books.example", 80).unwrap()]).unwrap();
    let by_name = Discovery::Dns(Arc::new(DnsEndpoints::logical(names).unwrap()));
    let by_source = Discovery::Endpoints("books".into());
    let none = pair("clusters[books].endpoints", "none");
    let twice = pair("clusters[books].endpoints", "set beside a discovery that finds them");
    for (discovery, given, refusal) in [
        (by_source.clone(), None, &none),
        (by_source, Some(Endpoints::none()), &none),
        (Discovery::Static(Arc::new(Endpoints::none())), None, &none),
        (Discovery::Dns(Arc::new(DnsEndpoints::strict(Endpoints::new(Vec::new()).unwrap()))), None, &none),
        (Discovery::Static(Arc::new(endpoints(1))), Some(endpoints(2)), &twice),
        (by_name, Some(endpoints(1)), &twice),
    ] {
        assert_eq!(refused(of_cluster(discovery, given)), *refusal);
    }
}

/// A client of `books`, which is made of these; `near` has an endpoint of its own, number 1.
fn of_aggregate(parts: &[&str]) -> Result<Client, Error> {
    let made_of = |name: &str, parts: &[&str]| {
        let mut cluster = Cluster::new(name).unwrap();
        cluster.discovery = Discovery::Aggregate(Arc::new(Aggregate::of(parts.iter().copied()).unwrap()));
        cluster
    };
    let mesh = Mesh::builder().connector(named()).seed(1).build().unwrap();
    let builder = Client::builder("shop").mesh(&mesh).routes(RouteConfig::to_cluster("routes", "books"));
    let builder = builder.cluster(made_of("books", parts), None).cluster(Cluster::new("near").unwrap(), endpoints(1));
    builder.cluster(made_of("inner", &["near"]), None).build()
}

#[tokio::test(start_paused = true)]
async fn cluster_made_of_others_serves_from_them() {
    for parts in [&["near"][..], &["inner"], &["books", "inner", "near"]] {
        assert_eq!(answering(&of_aggregate(parts).unwrap()).await, [1].into(), "{parts:?}");
    }
}

#[tokio::test]
async fn cluster_made_of_itself_or_of_nobody_is_refused() {
    assert_eq!(refused(of_aggregate(&["gone"])), pair("clusters[books].discovery", "gone"));
    assert_eq!(refused(of_aggregate(&["books"])), pair("clusters[books].discovery", "books"));
    let unusable = Discovery::Unsupported("by magic".into());
    assert_eq!(refused(of_cluster(unusable, None)), pair("clusters[books].discovery", "by magic"));
}

#[tokio::test]
async fn routes_and_clusters_that_do_not_fit_are_refused() {
    let cluster = || Cluster::new("books").unwrap();
    let shop = || Client::builder("shop");
    let routes = |to: &str| RouteConfig::to_cluster("routes", to);
    let twice = shop().routes(routes("books")).cluster(cluster(), endpoints(1)).cluster(cluster(), endpoints(1));
    assert_eq!(refused(twice.build()), pair("clusters", "books"));
    let missing = shop().routes(routes("toys")).cluster(cluster(), endpoints(1));
    assert_eq!(refused(missing.build()), pair("routes.cluster", "toys"));
    assert_eq!(refused(shop().cluster(cluster(), endpoints(1)).build()), pair("routes", "unset beside clusters"));
}

#[tokio::test]
async fn identity_that_nobody_registered_is_refused_wherever_it_is_named() {
    let shows = Arc::new(UpstreamTls::new(Trust::System).with_identity("nobody"));
    let trusts = Arc::new(UpstreamTls::new(Trust::Identity("nobody".into())));
    let mut cluster = Cluster::new("books").unwrap();
    cluster.policy.tls = Some(trusts.clone());
    let routes = RouteConfig::to_cluster("routes", "books");
    let in_a_cluster = Client::builder("shop").routes(routes).cluster(cluster, endpoints(1));
    let mut with_tls = preset::service();
    with_tls.cluster.tls = Some(shows.clone());
    for (client, field) in [
        (in_a_cluster, "clusters[books].policy.tls.trust"),
        (one().tls((*trusts).clone()), "pin.cluster.tls.trust"),
        (one().policy(|policy| policy.cluster.tls = Some(shows)), "policy.cluster.tls.identity"),
        (one().preset(with_tls), "preset.cluster.tls.identity"),
    ] {
        assert_eq!(refused(client.build()), pair(field, "nobody"));
    }
}

// --- values ---

#[tokio::test]
async fn zero_is_refused_by_the_name_of_the_method() {
    let zero = Duration::ZERO;
    assert_eq!(refused(one().timeout(zero).build()), pair("timeout", "0s"));
    assert_eq!(refused(one().per_try_timeout(zero).build()), pair("per_try_timeout", "0s"));
    assert_eq!(refused(one().ready_timeout(zero).build()), pair("ready_timeout", "0s"));
    assert_eq!(refused(one().connect_timeout(zero).build()), pair("policy.cluster.connect_timeout", "0s"));
}

#[tokio::test]
async fn value_that_would_fail_all_traffic_is_refused_whoever_says_it() {
    type Spoil = fn(&mut Policy);
    let cases: [(&str, &str, Spoil); 6] = [
        ("connect_timeout", "0s", |policy| policy.cluster.connect_timeout = Some(Duration::ZERO)),
        ("load_balancing.least_request.choice_count", "0", |policy| {
            policy.cluster.load_balancing = Some(LoadBalancing::LeastRequest { choices: 0 });
        }),
        ("outlier_detection.interval", "0s", |policy| {
            let rules = OutlierDetection { interval: Duration::ZERO, ..OutlierDetection::default() };
            policy.cluster.outlier_detection = Some(Arc::new(rules));
        }),
        ("connections.max_per_endpoint", "0", |policy| policy.cluster.connections.max_per_endpoint = Some(0)),
        ("connections.max_requests", "0", |policy| policy.cluster.connections.max_requests = Some(0)),
        ("connections.keep_alive_timeout", "0s", |policy| {
            policy.cluster.connections.keep_alive_timeout = Some(Duration::ZERO);
        }),
    ];
    for (field, value, spoil) in cases {
        let mut spoilt = preset::service();
        spoil(&mut spoilt);
        let mut cluster = Cluster::new("books").unwrap();
        cluster.policy = spoilt.cluster.clone();
        let routes = RouteConfig::to_cluster("routes", "books");
        for (client, place) in [
            (one().policy(spoil), "policy.cluster"),
            (one().pin(spoil), "pin.cluster"),
            (one().preset(spoilt), "preset.cluster"),
            (Client::builder("shop").routes(routes).cluster(cluster, endpoints(1)), "clusters[books].policy"),
        ] {
            assert_eq!(refused(client.build()), pair(&format!("{place}.{field}"), value));
        }
    }
}

#[test]
fn build_outside_a_runtime_is_refused() {
    assert_eq!(refused(one().build()), pair("runtime", "none"));
}

// --- what a client says of itself ---

#[tokio::test(start_paused = true)]
async fn client_shows_and_ends_its_mesh() {
    let mesh = Mesh::builder().connector(named()).seed(1).build().unwrap();
    let client = Client::builder("shop").mesh(&mesh).endpoints(["10.0.0.1:80"]).build().unwrap();
    assert_eq!(text(client.get("http://shop/").await.unwrap()).await, "10.0.0.1:80");
    let status = client.status();
    assert_eq!((&*status.targets[0].name, &status.targets[0].unavailable), ("shop", &None));
    assert_eq!(status.clusters[0].endpoints.len(), 1);
    assert!(client.shutdown(Duration::from_secs(1)).await, "nothing had to be cut");
    assert!(client.get("http://shop/").await.unwrap_err().is_unrouted());
    assert_eq!(client.status().targets[0].unavailable.as_deref(), Some("the mesh was shut down"));
}
