//! What a server takes away, and its silence.

use std::sync::Arc;

use mesh_core::source::{ConfigSource, ResourceState};
use mesh_xds_client::ResourceKind::{Cluster, Listener};
use mesh_xds_client::bootstrap::ServerFeature;
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{cluster, endpoints, route_config};
use tokio::time::Instant;

use super::{SECOND, assert_alive, builder, serving};
use crate::support::{address, offer, reached, routed, run, set};

#[tokio::test(start_paused = true)]
async fn server_takes_away_what_it_removes() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    plane.remove(Listener, "echo");
    let reason = running.until_unavailable("echo").await;
    assert!(reason.contains("Listener `echo`") && reason.contains("removed"), "{reason}");
    assert_eq!(running.state(Listener, "echo"), Some(ResourceState::Absent));
    running.settle(SECOND).await;
    assert!(plane.subscriptions(Cluster).is_empty(), "nothing refers to clusters any longer");
    offer(&plane, "echo", &["v2"]);
    running.until_routed("echo", &["v2"]).await;
}

#[tokio::test(start_paused = true)]
async fn removed_cluster_serves_until_no_route_names_it() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    let before = running.present();
    let version = plane.remove(Cluster, "v1");
    plane.wait_acked(Cluster, &version).await.expect("accepted");
    running.settle(SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));
    let resource = running.resource(Cluster, "v1").expect("asked for");
    assert_eq!(resource.state, ResourceState::Absent);
    assert!(resource.error.is_some_and(|error| error.contains("until no route names it")));

    // Its endpoints are followed meanwhile, and it goes with its last route.
    plane.set(endpoints("v1", [address(2)]));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.2:80"]).await;
    plane.set(cluster("v2"));
    plane.set(endpoints("v2", [address(3)]));
    plane.set(route_config("echo", [("v2", 1)]));
    let snapshot = running.until_routed("echo", &["v2"]).await;
    assert_eq!(snapshot.clusters.len(), 1);
    running.settle(SECOND).await;
    assert!(running.resource(Cluster, "v1").is_none());
    // Wanted again, it is what the server says now.
    plane.set(route_config("echo", [("v1", 1)]));
    let snapshot = running.until_routed("echo", &["v1"]).await;
    assert!(snapshot.clusters.is_empty(), "it does not exist");
}

#[tokio::test(start_paused = true)]
async fn removed_cluster_is_gone_at_once_where_the_server_wants_that() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = run(builder(&plane, [ServerFeature::FailOnDataErrors]));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    plane.remove(Cluster, "v1");
    let snapshot = running.until(|snapshot| snapshot.clusters.is_empty()).await;
    assert_eq!(routed(&snapshot, "echo"), Some(set(&["v1"])), "the routes stay, and fail what goes there");
    plane.set(cluster("v1"));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.1:80"]).await;
}

#[tokio::test(start_paused = true)]
async fn removal_is_ignored_where_the_server_is_known_to_remove_by_mistake() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = run(builder(&plane, [ServerFeature::IgnoreResourceDeletion]));
    let _interest = running.client.watch("echo");
    let before = running.until_routed("echo", &["v1"]).await;
    plane.remove(Cluster, "v1");
    let version = plane.remove(Listener, "echo");
    plane.wait_acked(Listener, &version).await.expect("accepted");
    running.settle(60 * SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));
    for (kind, name) in [(Listener, "echo"), (Cluster, "v1")] {
        let resource = running.resource(kind, name).expect("asked for");
        assert_eq!(resource.state, ResourceState::Absent);
        assert!(resource.error.is_some_and(|error| error.contains("it is kept")));
        assert!(resource.version.is_some(), "and yet it serves");
    }
    offer(&plane, "echo", &["v1"]);
    assert_alive(&plane, &mut running).await;
}

#[tokio::test(start_paused = true)]
async fn silence_lasts_longer_where_it_means_trouble_rather_than_absence() {
    let plane = ControlPlane::new();
    let mut running = run(builder(&plane, [ServerFeature::ResourceTimerIsTransientError]));
    let _interest = running.client.watch("echo");
    let start = Instant::now();
    running.until_unavailable("echo").await;
    assert!((30 * SECOND..31 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
}
