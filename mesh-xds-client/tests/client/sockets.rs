//! One story over real sockets, told in either variant: updates, a refusal, a removal, a server that is away and comes back.

use std::time::Duration;

use mesh_core::source::{ConfigSource, ResourceState};
use mesh_xds_client::ResourceKind::{Cluster, ClusterLoadAssignment, RouteConfiguration};
use mesh_xds_client::bootstrap::{Bootstrap, ChannelCredentials, Node, ServerFeature};
use mesh_xds_client::testkit::resource::{cluster, endpoints, route_config};
use mesh_xds_client::testkit::{ControlPlane, Place, Request};
use mesh_xds_client::{XdsClient, XdsClientBuilder};
use tokio::time::timeout;

use crate::support::{address, offer, reached, routed, run, set};

const PATIENCE: Duration = Duration::from_secs(60);

fn client_of(server: &str, features: &[ServerFeature]) -> XdsClientBuilder {
    let bootstrap = Bootstrap::builder()
        .server_with_features(server, ChannelCredentials::Insecure, features.iter().copied())
        .node(Node::new("socket-node"))
        .build()
        .expect("a valid bootstrap");
    XdsClient::builder(bootstrap).reconnect(Duration::from_millis(10), Duration::from_millis(50))
}

/// The whole story. Returns what the client said on its last stream.
async fn story(features: &[ServerFeature]) -> Vec<Request> {
    // 1. What is watched comes, and is followed.
    let plane = ControlPlane::new();
    let place = Place::new([127, 0, 0, 1]).expect("a port");
    tokio::spawn(plane.serve(place.listen().expect("nobody else listens")));
    offer(&plane, "echo", &["v1", "v2"]);
    let mut running = run(client_of(&place.address().to_string(), features));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1", "v2"]).await;
    plane.set(endpoints("v1", [address(7)]));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.7:80"]).await;

    // 2. A bad resource is refused by its name; what was good serves, and so does its neighbour's new version.
    let mut unusable = cluster("v1");
    unusable.eds_cluster_config = None;
    plane.update(|tx| {
        tx.set(unusable).set(endpoints("v2", [address(8)]));
    });
    let refused = plane.wait_acked(Cluster, &plane.version(Cluster)).await.expect_err("refused");
    assert!(refused.to_string().contains(r#"resource "v1""#), "{refused}");
    let snapshot = running.until(|snapshot| reached(snapshot, "v2") == ["10.0.0.8:80"]).await;
    assert_eq!(reached(&snapshot, "v1"), ["10.0.0.7:80"]);
    assert_eq!(running.state(Cluster, "v1"), Some(ResourceState::Rejected));
    plane.wait_acked(Cluster, &plane.set(cluster("v1"))).await.expect("accepted");

    // 3. A target that comes late shares the stream.
    offer(&plane, "late", &["v3"]);
    let late = running.client.watch("late");
    running.until_routed("late", &["v3"]).await;
    assert_eq!(plane.streams(), 1);
    drop(late);
    running.until(|snapshot| !snapshot.targets.contains_key("late")).await;

    // 4. The server goes away, changes its mind meanwhile, and comes back.
    plane.stop().await;
    plane.set(route_config("echo", [("v2", 1)]));
    let present = running.present();
    assert_eq!(routed(&present, "echo"), Some(set(&["v1", "v2"])), "the last good serves");
    tokio::spawn(plane.serve(place.listen().expect("it is kept")));
    running.until_routed("echo", &["v2"]).await;
    plane.wait_acked(RouteConfiguration, &plane.version(RouteConfiguration)).await.expect("accepted");
    let last = plane.events().iter().filter_map(|event| event.request()).map(|one| one.stream).max();
    let requests = plane.events().into_iter().filter_map(|event| event.request().cloned());
    requests.filter(|request| Some(request.stream) == last).collect()
}

fn first(requests: &[Request], kind: mesh_xds_client::ResourceKind) -> &Request {
    requests.iter().find(|request| request.kind == Some(kind)).expect("asked for")
}

#[tokio::test]
async fn story_is_the_same_in_state_of_the_world() {
    let requests = timeout(PATIENCE, story(&[])).await.expect("in time");
    let clusters = first(&requests, Cluster);
    assert!(!clusters.is_delta);
    assert_eq!(clusters.names, ["v1", "v2"]);
}

#[tokio::test]
async fn story_is_the_same_in_delta() {
    let requests = timeout(PATIENCE, story(&[ServerFeature::Delta])).await.expect("in time");
    let clusters = first(&requests, Cluster);
    assert!(clusters.is_delta);
    assert_eq!(clusters.subscribes, ["v1", "v2"]);
    assert_eq!(
        clusters.holds.keys().collect::<Vec<_>>(),
        ["v2"],
        "one is left out, for the server to have a word to say"
    );
    let endpoints = first(&requests, ClusterLoadAssignment);
    assert_eq!(
        endpoints.holds.keys().collect::<Vec<_>>(),
        ["v1", "v2"],
        "what is held is told, and need not come again"
    );
}
