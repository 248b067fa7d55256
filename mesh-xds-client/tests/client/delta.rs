//! What delta alone can say: that endpoints and routes are gone, and under which name a resource goes.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf as wire;
use envoy_types::util::pack_any;
use mesh_core::source::{ConfigSource, ResourceState};
use mesh_xds_client::ResourceKind::{self, Cluster, ClusterLoadAssignment, RouteConfiguration};
use mesh_xds_client::bootstrap::ServerFeature;
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{cluster, endpoints};

use crate::support::{Running, address, builder, offer, reached, routed, run, set};

const SECOND: Duration = Duration::from_secs(1);

async fn serving(plane: &ControlPlane, features: &[ServerFeature]) -> (Running, mesh_core::source::Interest) {
    offer(plane, "echo", &["v1"]);
    let features = features.iter().copied().chain([ServerFeature::Delta]);
    let mut running = run(builder(plane, features));
    let interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    (running, interest)
}

async fn removed(plane: &ControlPlane, kind: ResourceKind, name: &str) {
    let version = plane.remove(kind, name);
    plane.wait_acked(kind, &version).await.expect("there is nothing to refuse");
}

#[tokio::test(start_paused = true)]
async fn endpoints_and_routes_that_are_removed_serve_while_they_are_named() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane, &[]).await;
    removed(&plane, ClusterLoadAssignment, "v1").await;
    removed(&plane, RouteConfiguration, "echo").await;
    running.settle(60 * SECOND).await;
    let present = running.present();
    assert_eq!(reached(&present, "v1"), ["10.0.0.1:80"]);
    assert_eq!(routed(&present, "echo"), Some(set(&["v1"])));
    for (kind, name) in [(ClusterLoadAssignment, "v1"), (RouteConfiguration, "echo")] {
        let resource = running.resource(kind, name).expect("asked for");
        assert_eq!(resource.state, ResourceState::Absent);
        assert!(resource.error.expect("told").contains("it is kept until no"), "and the status says so");
    }
    plane.set(endpoints("v1", [address(2)]));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.2:80"]).await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_are_removed_are_gone_where_the_server_wants_that() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane, &[ServerFeature::FailOnDataErrors]).await;
    plane.remove(ClusterLoadAssignment, "v1");
    running.until(|snapshot| reached(snapshot, "v1").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_calls_itself_otherwise_is_refused() {
    let plane = ControlPlane::new();
    let (running, _interest) = serving(&plane, &[]).await;
    let version = plane.raw(Cluster, "v1", pack_any(cluster("v2")));
    let refused = plane.wait_acked(Cluster, &version).await.expect_err("refused");
    assert!(refused.to_string().contains(r#"resource "v1": it calls itself `v2`"#), "{refused}");
    assert_eq!(reached(&running.present(), "v1"), ["10.0.0.1:80"]);
}

#[tokio::test(start_paused = true)]
async fn what_came_for_a_time_is_gone_when_the_time_is_over() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane, &[]).await;
    let resource = Resource {
        name: "v1".to_owned(),
        version: "for a time".to_owned(),
        resource: Some(pack_any(endpoints("v1", [address(9)]))),
        ttl: Some(wire::Duration { seconds: 30, nanos: 0 }),
        ..Default::default()
    };
    plane.send(DeltaDiscoveryResponse {
        type_url: ClusterLoadAssignment.type_url().to_owned(),
        nonce: "n".to_owned(),
        resources: vec![resource],
        ..Default::default()
    });
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.9:80"]).await;
    let resource = running.resource(ClusterLoadAssignment, "v1").expect("asked for");
    assert_eq!(resource.version.as_deref(), Some("for a time"));
    running.settle(29 * SECOND).await;
    assert_eq!(reached(&running.present(), "v1"), ["10.0.0.9:80"]);
    running.until(|snapshot| reached(snapshot, "v1").is_empty()).await;
    let error = running.resource(ClusterLoadAssignment, "v1").and_then(|resource| resource.error);
    assert!(error.is_some_and(|error| error.contains("its time to live is over")));
}
