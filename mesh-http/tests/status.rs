//! What the status of a mesh shows of the connections to each endpoint.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use client_support::{Net, Said, named, says, text};
use mesh_core::config::{
    CircuitBreakers, Cluster, ClusterEntry, Endpoint, Endpoints, Listener, LoadBalancing, RouteConfig, Snapshot,
    TargetState, Thresholds,
};
use mesh_http::{Client, ClientBuilder, Mesh, MeshStatus, pool::PoolFigures, protocol::Http};
use tokio::{task::JoinSet, time::sleep};

const ONE: &str = "10.0.0.1:80";
const TWO: &str = "10.0.0.2:80";

fn builder(net: Net, endpoints: &[&str]) -> ClientBuilder<Http> {
    let mesh = Mesh::builder().connector(net).seed(1).build().unwrap();
    Client::builder("reviews")
        .mesh(&mesh)
        .endpoints(endpoints.iter().copied())
        .load_balancing(LoadBalancing::RoundRobin)
}

/// The figures by address; every pool is one of an endpoint that the status shows.
fn pools(status: &MeshStatus) -> BTreeMap<String, PoolFigures> {
    let pools = status.pools.iter().map(|pool| {
        let cluster = status.clusters.iter().find(|cluster| cluster.name == pool.cluster).unwrap();
        let endpoint = cluster.endpoints.iter().find(|endpoint| endpoint.id == pool.endpoint).unwrap();
        assert_eq!(endpoint.addresses, pool.addresses);
        assert!(endpoint.is_open);
        (pool.addresses[0].to_string(), pool.figures)
    });
    pools.collect()
}

#[tokio::test(start_paused = true)]
async fn endpoint_shows_its_connections_once_it_is_used() {
    let client = builder(named(), &[ONE, TWO]).build().unwrap();
    assert!(client.status().pools.is_empty());

    let held = client.get("http://reviews/").await.unwrap();
    let mut first = pools(&client.status());
    let (address, figures) = first.pop_first().unwrap();
    assert!(first.is_empty(), "the other one is not in use");
    assert_eq!((figures.connections, figures.idle, figures.opened), (1, 0, 1));

    assert_eq!(text(held).await, address);
    sleep(Duration::from_secs(1)).await;
    let figures = pools(&client.status())[&address];
    assert_eq!((figures.connections, figures.idle, figures.opened), (1, 1, 1));
    assert_eq!((figures.connecting, figures.pending, figures.failed), (0, 0, 0));

    text(client.get("http://reviews/").await.unwrap()).await;
    assert_eq!(pools(&client.status()).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn failures_to_connect_are_those_of_their_endpoint() {
    let net = named();
    net.dead.lock().unwrap().insert(ONE.parse().unwrap());
    let client = builder(net, &[ONE, TWO]).build().unwrap();
    for _ in 0..4 {
        assert_eq!(text(client.get("http://reviews/").await.unwrap()).await, TWO);
    }
    let pools = pools(&client.status());
    let (dead, alive) = (pools[ONE], pools[TWO]);
    assert!(dead.failed > 0);
    assert_eq!((dead.opened, dead.connections), (0, 0));
    assert_eq!((alive.failed, alive.opened, alive.connections), (0, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_are_shown_until_they_have_a_connection() {
    let one = Thresholds { max_connections: Some(1), ..Thresholds::default() };
    let builder = builder(Net::serving(|_, _| says("ok")), &[ONE]);
    let client = builder.circuit_breakers(CircuitBreakers { default: one, ..Default::default() }).build().unwrap();
    let held = client.get("http://reviews/").await.unwrap();
    let mut waiting = JoinSet::new();
    (0..3).for_each(|_| drop(waiting.spawn(client.get("http://reviews/"))));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(pools(&client.status())[ONE].pending, 3);

    text(held).await;
    while let Some(answer) = waiting.join_next().await {
        text(answer.unwrap().unwrap()).await;
    }
    let figures = pools(&client.status())[ONE];
    assert_eq!((figures.pending, figures.opened), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn endpoint_that_has_left_is_shown_no_more() {
    let source = Said::default();
    let says = |endpoints: &[&str]| {
        let at = |address: &&str| Endpoint::new(address.parse::<SocketAddr>().unwrap());
        let endpoints = Endpoints::flat(endpoints.iter().map(at).collect()).unwrap();
        let listener = Listener::new("reviews", Arc::new(RouteConfig::to_cluster("r", "books")));
        let books =
            ClusterEntry { cluster: Arc::new(Cluster::new("books").unwrap()), endpoints: Some(Arc::new(endpoints)) };
        source.0.send_modify(|snapshot| {
            *snapshot = Arc::new(Snapshot {
                generation: snapshot.generation + 1,
                targets: [("reviews".into(), TargetState::Ready(Arc::new(listener)))].into(),
                clusters: [("books".into(), books)].into(),
            });
        });
    };
    let mesh = Mesh::builder().source(source.clone()).connector(named()).seed(1).build().unwrap();
    let client = Client::builder("reviews").mesh(&mesh).load_balancing(LoadBalancing::RoundRobin).build().unwrap();
    says(&[ONE, TWO]);
    let held = [client.get("http://reviews/").await.unwrap(), client.get("http://reviews/").await.unwrap()];
    assert_eq!(pools(&client.status()).len(), 2);

    says(&[TWO]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(pools(&client.status()).into_keys().collect::<Vec<_>>(), [TWO]);
    for answer in held {
        text(answer).await;
    }
}
