//! What a mesh occupies that came over xDS and that nobody calls: what the protocol's client holds to compare with, what it
//! publishes, and what the mesh makes of it, by a counting allocator.
//!
//! A client of 1,000 clusters with 100,000 endpoints is told all of them by a control plane in another thread, which is not
//! counted. `bytes-cluster` is what another cluster of one endpoint adds, its route and its virtual host included,
//! `bytes-endpoint` what another endpoint of a cluster does, and `bytes-metadata` what Istio's metadata adds to an endpoint,
//! of which there are as many kinds as workloads. `cargo bench -p mesh-tests --bench memory`.
//!
//! Where the bytes are is told by building the same mesh without xDS: `of-cluster` and `of-endpoint` are the configuration as
//! values, what a mesh adds that is given it in code, and what it takes more when it comes over xDS.
#![allow(clippy::print_stdout, missing_docs)]

use std::{net::SocketAddr, time::Duration};

use allocation_counter::measure;
use mesh_core::config::{
    Action, Cluster, ClusterChoice, Domain, Endpoint, Endpoints, Forward, PathMatch, Route, RouteConfig, RouteMatch,
    VirtualHost,
};
use mesh_http::{Client, Control};
use mesh_xds_client::session::Variant;
use tokio::time::sleep;

mod support;
use support::{Elsewhere, Size, TARGET, called, host, name, runtime};

const CLUSTERS: usize = 1_000;
const ENDPOINTS: usize = 100;

/// One cluster of one endpoint, many of one endpoint, and many of many.
const ONE: Size = Size { clusters: 1, endpoints: 1 };
const FEW: Size = Size { clusters: CLUSTERS + 1, endpoints: 1 };
const MANY: Size = Size { clusters: CLUSTERS + 1, endpoints: ENDPOINTS };

/// What another cluster adds, and another endpoint.
#[derive(Clone, Copy)]
struct Cost {
    cluster: i64,
    endpoint: i64,
}

/// A mesh as values.
type Configuration = (RouteConfig, Vec<(Cluster, Endpoints)>);

fn main() {
    // The first mesh makes what a process has once.
    over_xds(Variant::Delta, ONE, false);
    let values = Cost::of(|size| measure_kept(|| configuration(size)));
    let in_code = Cost::of(in_code);
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        let whole = Cost::of(|size| over_xds(variant, size, false));
        let described = over_xds(variant, MANY, true) - over_xds(variant, MANY, false);
        let name = called(variant);
        println!("bytes-cluster {name} {}", whole.cluster);
        println!("bytes-endpoint {name} {}", whole.endpoint);
        println!("bytes-metadata {name} {}", described / (CLUSTERS * ENDPOINTS) as i64);
        println!("of-cluster {name} {}", parts(values.cluster, in_code.cluster, whole.cluster));
        println!("of-endpoint {name} {}", parts(values.endpoint, in_code.endpoint, whole.endpoint));
    }
}

fn parts(values: i64, in_code: i64, whole: i64) -> String {
    format!("configuration {values}, mesh {}, xds {}", in_code - values, whole - in_code)
}

fn over_xds(variant: Variant, size: Size, has_metadata: bool) -> i64 {
    let elsewhere = Elsewhere::start();
    elsewhere.offer_described(size, has_metadata);
    let runtime = runtime();
    measure_kept(|| {
        runtime.block_on(async {
            let mesh = elsewhere.mesh(variant, Control::Runtime);
            let client = Client::builder(TARGET).mesh(&mesh).build().expect("a legal configuration");
            client.ready().await.expect("it is told");
            let all = 1 + (size.clusters - 1) * size.endpoints;
            while mesh.status().clusters.iter().map(|cluster| cluster.endpoints.len()).sum::<usize>() < all {
                sleep(Duration::from_millis(50)).await;
            }
            // What the push set off has come to rest.
            sleep(Duration::from_millis(500)).await;
            client
        })
    })
}

/// The same mesh, by a client that is given it.
fn in_code(size: Size) -> i64 {
    let runtime = runtime();
    measure_kept(|| {
        runtime.block_on(async {
            let (routes, clusters) = configuration(size);
            let builder = Client::builder(TARGET).routes(routes);
            let builder =
                clusters.into_iter().fold(builder, |builder, (cluster, endpoints)| builder.cluster(cluster, endpoints));
            let client = builder.build().expect("a legal configuration");
            client.ready().await.expect("the configuration is here");
            client
        })
    })
}

/// What a control plane says, in the end.
fn configuration(size: Size) -> Configuration {
    let virtual_host = |number: usize| {
        let forward = Forward::to(ClusterChoice::One(name(number).into()));
        let route = Route::new(RouteMatch::path(PathMatch::prefix("/")), Action::Forward(forward));
        let domain = Domain::parse(&host(number)).expect("a host");
        VirtualHost::new(host(number), vec![domain], vec![route.into()]).expect("one domain")
    };
    let cluster = |number: usize| {
        let address = |host: usize| SocketAddr::from(([10, (number >> 8) as u8, number as u8, host as u8], 80));
        let endpoints = (0..size.endpoints).map(|host| Endpoint::new(address(host))).collect();
        let endpoints = Endpoints::flat(endpoints).expect("at least one, and none twice");
        (Cluster::new(name(number)).expect("a name"), endpoints)
    };
    let routes = RouteConfig::new("routes", (0..size.clusters).map(virtual_host).collect()).expect("no host twice");
    (routes, (0..size.clusters).map(cluster).collect())
}

/// What is still occupied by that which `make` makes, while it is there.
fn measure_kept<T>(make: impl FnOnce() -> T) -> i64 {
    let mut kept = None;
    measure(|| kept = Some(make())).bytes_current
}

// === impl Cost ===

impl Cost {
    fn of(occupied: impl Fn(Size) -> i64) -> Self {
        let [one, few, many] = [ONE, FEW, MANY].map(occupied);
        Self { cluster: (few - one) / CLUSTERS as i64, endpoint: (many - few) / (CLUSTERS * (ENDPOINTS - 1)) as i64 }
    }
}
