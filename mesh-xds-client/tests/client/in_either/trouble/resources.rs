//! Resources that are refused, or are not there.

use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;
use mesh_core::source::{ConfigSource, ResourceState};
use mesh_xds_client::ResourceKind;
use mesh_xds_client::ResourceKind::{Cluster, ClusterLoadAssignment, Listener, RouteConfiguration};
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{cluster, endpoints, listener, route_config};
use tokio::time::Instant;

use super::{NODE, SECOND, assert_alive, running, serving};
use crate::support::{address, offer, reached, routed, set};

/// Bytes that are no message of any kind.
fn garbage(kind: ResourceKind) -> Any {
    Any { type_url: kind.type_url().to_owned(), value: vec![0xff; 40] }
}

#[tokio::test(start_paused = true)]
async fn refused_resource_of_every_kind_leaves_the_last_good_one_serving() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    let before = running.present();
    for kind in ResourceKind::ALL {
        let name = if matches!(kind, Listener | RouteConfiguration) { "echo" } else { "v1" };
        let version = plane.raw(kind, name, garbage(kind));
        let nack = plane.wait_acked(kind, &version).await.expect_err("garbage is refused");
        assert!(nack.request().error.is_some(), "{nack}");
    }
    running.settle(SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));

    // Once more with names, which is what a decoder refuses.
    let mut unusable = cluster("v1");
    unusable.eds_cluster_config = None;
    let version = plane.set(unusable);
    let nack = plane.wait_acked(Cluster, &version).await.expect_err("it has no eds_cluster_config");
    assert!(nack.request().error.as_deref().is_some_and(|text| text.contains("\"v1\": eds_cluster_config")), "{nack}");
    let resource = running.resource(Cluster, "v1").expect("asked for");
    assert_eq!(resource.state, ResourceState::Rejected);
    assert_eq!(resource.version.as_deref(), Some("1"), "the version that serves");
    let error = resource.error.expect("the latest is refused");
    assert!(["\"v1\"", "eds_cluster_config", NODE].iter().all(|part| error.contains(part)), "{error}");

    offer(&plane, "echo", &["v1"]);
    assert_alive(&plane, &mut running).await;
    assert_eq!(running.state(Cluster, "v1"), Some(ResourceState::Synced));
}

#[tokio::test(start_paused = true)]
async fn neighbours_of_a_refused_resource_apply() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1", "v2"]);
    plane.raw(ClusterLoadAssignment, "v2", {
        let mut unusable = endpoints("v2", [address(1)]);
        unusable.endpoints[0].priority = 7;
        envoy_types::util::pack_any(unusable)
    });
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    let snapshot = running.until_routed("echo", &["v1", "v2"]).await;
    assert_eq!(reached(&snapshot, "v1"), ["10.0.0.1:80"]);
    assert!(snapshot.clusters["v2"].endpoints.is_none());
    assert_eq!(running.state(ClusterLoadAssignment, "v2"), Some(ResourceState::Rejected));
}

#[tokio::test(start_paused = true)]
async fn target_that_never_had_routes_says_what_is_wrong_with_its_listener() {
    let plane = ControlPlane::new();
    let mut unusable = listener("echo", "routes");
    unusable.api_listener = None;
    plane.set(unusable);
    let mut running = running(&plane);
    let _interests = [running.client.watch("echo"), running.client.watch("xds://other/echo")];
    let reason = running.until_unavailable("echo").await;
    for part in ["Listener `echo`", "api_listener", NODE] {
        assert!(reason.contains(part), "{reason}");
    }
    let reason = running.until_unavailable("xds://other/echo").await;
    assert!(reason.contains("authority"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn target_without_a_listener_is_unavailable_after_15_seconds_until_it_comes() {
    let plane = ControlPlane::new();
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    let start = Instant::now();
    let reason = running.until_unavailable("echo").await;
    assert!((15 * SECOND..16 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(reason.contains("Listener `echo`") && reason.contains(NODE), "{reason}");
    // In delta the server has said that there is none.
    let state = running.state(Listener, "echo");
    assert!(matches!(state, Some(ResourceState::TimedOut | ResourceState::Absent)), "{state:?}");
    offer(&plane, "echo", &["v1"]);
    running.until_routed("echo", &["v1"]).await;
}

#[tokio::test(start_paused = true)]
async fn missing_routes_are_told_by_a_target_that_never_had_any_and_ignored_by_one_that_had() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    plane.set(listener("new", "ghost"));
    let mut running = running(&plane);
    let _interests = [running.client.watch("echo"), running.client.watch("new")];
    running.until_routed("echo", &["v1"]).await;
    plane.set(listener("echo", "ghost"));
    let reason = running.until_unavailable("new").await;
    assert!(reason.contains("RouteConfiguration `ghost`"), "{reason}");
    running.settle(60 * SECOND).await;
    assert_eq!(routed(&running.present(), "echo"), Some(set(&["v1"])));
    plane.set(route_config("ghost", [("v1", 1)]));
    running.until_routed("new", &["v1"]).await;
}
