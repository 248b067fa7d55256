//! Which resources are sent to whom, and when, in state of the world.

use envoy_types::pb::google::protobuf::Any;
use mesh_xds_client::ResourceKind::{ClusterLoadAssignment, Listener, RouteConfiguration};
use mesh_xds_client::testkit::resource::{cluster, endpoints, listener, route_config};
use mesh_xds_client::testkit::{ControlPlane, Event};

use crate::client::{CDS, Client, address, cluster_names};

#[tokio::test(start_paused = true)]
async fn named_clusters_come_whole_and_only_those_named() {
    let plane = ControlPlane::new();
    for name in ["a", "b", "c"] {
        plane.set(cluster(name));
    }
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a", "b"]).await;
    let response = client.take(&["a", "b"]).await;
    assert_eq!(cluster_names(&response), ["a", "b"]);
    assert_eq!(response.version_info, plane.version(CDS));

    plane.set(cluster("a"));
    assert_eq!(cluster_names(&client.take(&["a", "b"]).await), ["a", "b"], "the unchanged neighbour comes along");
    plane.set(cluster("c"));
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn no_names_mean_all_clusters_until_a_name_was_given() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    plane.set(cluster("b"));
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &[]).await;
    assert_eq!(cluster_names(&client.take(&[]).await), ["a", "b"]);

    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    let response = client.hear().await;
    client.ack(&response, &[]).await;
    plane.wait_for(|event| matches!(event, Event::Acked(ack) if ack.nonce == response.nonce)).await;
    plane.set(cluster("a"));
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn an_asterisk_means_all_clusters() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["*"]).await;
    assert_eq!(cluster_names(&client.take(&["*"]).await), ["a"]);
    plane.set(cluster("b"));
    assert_eq!(cluster_names(&client.take(&["*"]).await), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_first_request_for_unknown_listeners_is_answered_and_for_unknown_routes_is_not() {
    let plane = ControlPlane::new();
    let mut client = Client::of(&plane).await;
    client.ask(Listener, &["a"]).await;
    assert!(client.take(&["a"]).await.resources.is_empty());
    client.ask(RouteConfiguration, &["a"]).await;
    client.hears_nothing().await;
    plane.set(route_config("a", [("x", 1)]));
    assert_eq!(client.take(&["a"]).await.resources.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_endpoints_that_changed_are_sent() {
    let plane = ControlPlane::new();
    plane.set(endpoints("a", [address(1)]));
    plane.set(endpoints("b", [address(2)]));
    let mut client = Client::of(&plane).await;
    client.ask(ClusterLoadAssignment, &["a", "b"]).await;
    assert_eq!(client.take(&["a", "b"]).await.resources.len(), 2);
    plane.set(endpoints("b", [address(3)]));
    let response = client.take(&["a", "b"]).await;
    assert_eq!(response.resources.len(), 1);
    assert_eq!(response.version_info, "3");
}

#[tokio::test(start_paused = true)]
async fn several_changes_are_one_version_and_clusters_come_first() {
    let plane = ControlPlane::new();
    let mut client = Client::of(&plane).await;
    client.ask(Listener, &["l"]).await;
    client.take(&["l"]).await;
    client.ask(CDS, &["a", "b"]).await;
    client.take(&["a", "b"]).await;
    plane.update(|tx| {
        tx.set(listener("l", route_config("r", [("a", 1), ("b", 1)]))).set(cluster("a")).set(cluster("b"));
    });
    let first = client.take(&["a", "b"]).await;
    assert_eq!((first.type_url.as_str(), first.version_info.as_str()), (CDS.type_url(), "1"));
    assert_eq!(cluster_names(&first), ["a", "b"]);
    let second = client.take(&["l"]).await;
    assert_eq!((second.type_url.as_str(), second.version_info.as_str()), (Listener.type_url(), "1"));
}

#[tokio::test(start_paused = true)]
async fn a_removed_cluster_leaves_the_full_state_and_removed_endpoints_say_nothing() {
    let plane = ControlPlane::new();
    plane.update(|tx| {
        tx.set(cluster("a")).set(cluster("b")).set(endpoints("a", [address(1)]));
    });
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a", "b"]).await;
    client.take(&["a", "b"]).await;
    client.ask(ClusterLoadAssignment, &["a"]).await;
    client.take(&["a"]).await;
    plane.remove(CDS, "a");
    assert_eq!(cluster_names(&client.take(&["a", "b"]).await), ["b"]);
    plane.remove(ClusterLoadAssignment, "a");
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_dropped_and_asked_for_again_is_sent_again() {
    let plane = ControlPlane::new();
    plane.set(endpoints("a", [address(1)]));
    let mut client = Client::of(&plane).await;
    client.ask(ClusterLoadAssignment, &["a"]).await;
    let response = client.take(&["a"]).await;
    client.ack(&response, &[]).await;
    client.hears_nothing().await;
    client.ack(&response, &["a"]).await;
    assert_eq!(client.hear().await.resources.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_protobuf_are_sent_as_they_are() {
    let plane = ControlPlane::new();
    let garbage = Any { type_url: CDS.type_url().to_owned(), value: vec![0xff; 9] };
    plane.raw(CDS, "a", garbage.clone());
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    assert_eq!(client.hear().await.resources, [garbage]);
}
