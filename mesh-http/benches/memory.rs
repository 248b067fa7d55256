//! What a cluster that nobody uses occupies in a mesh, by a counting allocator.
//!
//! A sidecar's view of a mesh has thousands of clusters, of which a process talks to a few: the others must cost their
//! configuration and a little more. Counted is all that a client with that many clusters of one endpoint occupies once it is
//! ready, its routes included, less what it does with one, divided by their number.
#![allow(clippy::print_stdout, missing_docs)]

use std::net::SocketAddr;

use allocation_counter::measure;
use mesh_core::config::{
    Action, Cluster, ClusterChoice, Endpoint, Endpoints, Forward, PathMatch, Route, RouteConfig, RouteMatch,
    VirtualHost,
};
use mesh_http::Client;
use tokio::runtime::Builder;

const CLUSTERS: usize = 1_000;

fn main() {
    // The first mesh makes what a process has once.
    occupied(1);
    println!("bytes-cluster {}", (occupied(CLUSTERS + 1) - occupied(1)) / CLUSTERS as i64);
}

fn occupied(clusters: usize) -> i64 {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut client = None;
    let counted = measure(|| client = Some(runtime.block_on(ready(clusters))));
    counted.bytes_current
}

async fn ready(clusters: usize) -> Client {
    let names: Vec<String> = (0..clusters).map(|number| format!("service-{number}")).collect();
    let routes = names.iter().map(|name| {
        let forward = Forward::to(ClusterChoice::One(name.as_str().into()));
        Route::new(RouteMatch::path(PathMatch::prefix(&format!("/{name}/"))), Action::Forward(forward))
    });
    let routes = VirtualHost::any("all", routes.collect());
    let mut builder = Client::builder("mesh.bench").routes(RouteConfig::new("all", vec![routes]).expect("legal"));
    for name in &names {
        let endpoint = Endpoint::new(SocketAddr::from(([10, 0, 0, 1], 80)));
        let endpoints = Endpoints::flat(vec![endpoint]).expect("one");
        builder = builder.cluster(Cluster::new(name.as_str()).expect("a name"), endpoints);
    }
    let client = builder.build().expect("a legal configuration");
    client.ready().await.expect("the configuration is here");
    client
}
