//! A snapshot of many clusters is followed in slices: others of the thread have their turn meanwhile, and see it as a whole.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use std::{future::poll_fn, net::SocketAddr, pin::pin, sync::Arc, task::Poll};

use client_support::{Said, named};
use mesh_core::config::{
    Action, Cluster, ClusterChoice, ClusterEntry, Discovery, Domain, Endpoint, Endpoints, Forward, Listener, Route,
    RouteConfig, RouteMatch, Snapshot, TargetState, VirtualHost,
};
use mesh_http::{Client, Mesh};
use tokio::task::yield_now;

const CLUSTERS: usize = 500;

fn name(number: usize) -> String {
    format!("service-{number}")
}

/// Each cluster behind a virtual host of its own.
fn snapshot(generation: u64) -> Arc<Snapshot> {
    let host = |number: usize| {
        let forward = Forward::to(ClusterChoice::One(name(number).as_str().into()));
        let route = Route::new(RouteMatch::any(), Action::Forward(forward));
        VirtualHost::new(name(number), vec![Domain::parse(&name(number)).unwrap()], vec![Arc::new(route)]).unwrap()
    };
    let entry = |number: usize| {
        let mut cluster = Cluster::new(name(number).as_str()).unwrap();
        cluster.discovery = Discovery::Endpoints(name(number).as_str().into());
        let endpoint = Endpoint::new(SocketAddr::from(([10, 0, 0, 1], 80)));
        let endpoints = Some(Arc::new(Endpoints::flat(vec![endpoint]).unwrap()));
        (name(number).as_str().into(), ClusterEntry { cluster: Arc::new(cluster), endpoints })
    };
    let routes = RouteConfig::new("all", (0..CLUSTERS).map(host).collect()).unwrap();
    let listener = Listener::new("all", Arc::new(routes));
    Arc::new(Snapshot {
        generation,
        targets: [("all".into(), TargetState::Ready(Arc::new(listener)))].into(),
        clusters: (0..CLUSTERS).map(entry).collect(),
    })
}

/// How often another task of this thread has its turn until `done`.
async fn turns_until(done: impl Future) -> usize {
    let mut done = pin!(done);
    for turns in 0.. {
        let is_done = poll_fn(|cx| Poll::Ready(done.as_mut().poll(cx).is_ready())).await;
        if is_done {
            return turns;
        }
        yield_now().await;
    }
    unreachable!("the range has no end")
}

#[tokio::test(start_paused = true)]
async fn others_have_their_turn_while_a_large_snapshot_is_followed() {
    let said = Said::default();
    let mesh = Mesh::builder().source(said.clone()).connector(named()).seed(1).build().unwrap();
    let client = Client::builder("all").mesh(&mesh).build().unwrap();
    said.0.send_replace(snapshot(1));
    let turns = turns_until(async { client.ready().await.unwrap() }).await;
    assert!(turns > CLUSTERS / 10, "{turns} turns");
    // The routes came last, and so are those of everything.
    assert_eq!(client.status().clusters.len(), CLUSTERS);
    for number in [0, CLUSTERS - 1] {
        let request = http::Request::get(format!("http://{}/", name(number))).body(()).unwrap();
        assert!(client.explain(&request).unwrap().outcome().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn newest_of_two_snapshots_is_followed_though_it_comes_meanwhile() {
    let said = Said::default();
    let mesh = Mesh::builder().source(said.clone()).connector(named()).seed(1).build().unwrap();
    let client = Client::builder("all").mesh(&mesh).build().unwrap();
    said.0.send_replace(snapshot(1));
    yield_now().await;
    yield_now().await;
    let gone = Arc::new(Snapshot {
        generation: 2,
        targets: [("all".into(), TargetState::Unavailable("gone".into()))].into(),
        clusters: [].into(),
    });
    said.0.send_replace(gone);
    turns_until(async {
        while client.status().targets[0].unavailable.as_deref() != Some("gone") || !client.status().clusters.is_empty()
        {
            yield_now().await;
        }
    })
    .await;
}
