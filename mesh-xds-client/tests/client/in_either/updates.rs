//! What reaches a mesh of what a control plane says, and when: whole, warm, and only what changed.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as WireCluster;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration as WireRoutes;
use mesh_core::config::Snapshot;
use mesh_core::source::{ConfigSource, ResourceState};
use mesh_xds_client::ResourceKind::{Cluster, ClusterLoadAssignment, RouteConfiguration};
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{cluster, endpoints, listener, route_config};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::time::Instant;

use super::running;
use crate::support::{address, offer, reached, ready, routed, set};

const SECOND: Duration = Duration::from_secs(1);

fn routes_to(name: &str, clusters: &[&str]) -> WireRoutes {
    route_config(name, clusters.iter().map(|cluster| (*cluster, 1)))
}

#[tokio::test(start_paused = true)]
async fn target_becomes_ready_with_its_clusters_and_their_endpoints() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1", "v2"]);
    let mut running = running(&plane);
    let _interest = running.client.watch("xds:///echo");
    let snapshot = running.until_routed("xds:///echo", &["v1", "v2"]).await;
    assert_eq!(reached(&snapshot, "v1"), ["10.0.0.1:80"]);
    assert_eq!(snapshot.generation, 1, "one snapshot, and it is whole");
    let status = running.client.status();
    assert!(status.connected);
    assert_eq!(status.server, "127.0.0.1:15010");
    assert!(status.resources.iter().all(|resource| resource.state == ResourceState::Synced), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn routes_inside_a_listener_need_no_other_resource() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    plane.set(listener("echo", routes_to("inline", &["v1"])));
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    assert!(plane.subscriptions(RouteConfiguration).is_empty());
}

#[tokio::test(start_paused = true)]
async fn new_cluster_is_warm_before_its_route_is_published() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;

    plane.set(routes_to("echo", &["v2"]));
    plane.set(cluster("v2"));
    running.settle(5 * SECOND).await;
    assert_eq!(routed(&running.present(), "echo"), Some(set(&["v1"])), "v2 has no endpoints yet");
    // What still serves is kept current.
    plane.set(endpoints("v1", [address(9)]));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.9:80"]).await;

    plane.set(endpoints("v2", [address(2)]));
    let snapshot = running.until_routed("echo", &["v2"]).await;
    assert_eq!(reached(&snapshot, "v2"), ["10.0.0.2:80"]);
    assert!(!snapshot.clusters.contains_key("v1"));
}

#[tokio::test(start_paused = true)]
async fn route_to_a_cluster_that_never_comes_is_published_after_15_seconds() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    offer(&plane, "other", &["v3"]);
    let mut running = running(&plane);
    let _interests = [running.client.watch("echo"), running.client.watch("other")];
    running.until_routed("echo", &["v1"]).await;

    plane.set(routes_to("echo", &["v1", "ghost"]));
    let start = Instant::now();
    offer(&plane, "other", &["v4"]);
    running.until_routed("other", &["v4"]).await;
    assert!(start.elapsed() < SECOND, "a neighbour waits for nobody's ghost");
    let snapshot = running.until_routed("echo", &["v1", "ghost"]).await;
    assert!((15 * SECOND..16 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(reached(&snapshot, "v1"), ["10.0.0.1:80"]);
    assert!(!snapshot.clusters.contains_key("ghost"));

    plane.update(|tx| {
        tx.set(cluster("ghost")).set(endpoints("ghost", [address(6)]));
    });
    running.until(|snapshot| reached(snapshot, "ghost") == ["10.0.0.6:80"]).await;
}

#[tokio::test(start_paused = true)]
async fn cluster_moves_to_other_endpoints_once_those_have_come() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;

    let mut moved: WireCluster = cluster("v1");
    moved.eds_cluster_config.as_mut().expect("set by the kit").service_name = "elsewhere".to_owned();
    plane.set(moved);
    running.settle(5 * SECOND).await;
    assert_eq!(reached(&running.present(), "v1"), ["10.0.0.1:80"]);
    plane.set(endpoints("elsewhere", [address(2)]));
    let snapshot = running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.2:80"]).await;
    assert_eq!(snapshot.clusters["v1"].cluster.endpoints_name().map(|name| &**name), Some("elsewhere"));
    assert_eq!(plane.subscriptions(ClusterLoadAssignment), set(&["elsewhere"]));
}

#[tokio::test(start_paused = true)]
async fn what_did_not_change_is_the_same_arc() {
    let names: Vec<_> = (0..1000).map(|number| format!("c{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let plane = ControlPlane::new();
    offer(&plane, "echo", &names);
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    let before = running.until_routed("echo", &names).await;

    // The kit sends all clusters again, in a new version, and the endpoints that changed.
    plane.update(|tx| {
        tx.set(cluster("c1")).set(endpoints("c7", [address(7)]));
    });
    let after = running.until(|snapshot| reached(snapshot, "c7") == ["10.0.0.7:80"]).await;
    let (listener, same) = (ready(&before, "echo"), ready(&after, "echo"));
    assert!(Arc::ptr_eq(&listener.expect("ready"), &same.expect("ready")));
    let changed = |(name, entry): (&Arc<str>, &mesh_core::config::ClusterEntry)| {
        let now = &after.clusters[name];
        assert!(Arc::ptr_eq(&entry.cluster, &now.cluster), "{name}");
        let (old, new) = (entry.endpoints.as_ref(), now.endpoints.as_ref());
        (!Arc::ptr_eq(old.expect("known"), new.expect("known"))).then(|| name.to_string())
    };
    assert_eq!(before.clusters.iter().filter_map(changed).collect::<Vec<_>>(), ["c7"]);
}

#[tokio::test(start_paused = true)]
async fn same_again_is_not_published_and_is_still_accepted() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    let before = running.until_routed("echo", &["v1"]).await;
    let version = plane.set(endpoints("v1", [address(1)]));
    plane.wait_acked(ClusterLoadAssignment, &version).await.expect("accepted");
    running.settle(SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));
    let resource = running.resource(ClusterLoadAssignment, "v1").expect("asked for");
    assert_eq!(resource.version.as_deref(), Some(&*version));
}

/// Every snapshot on the way, not only those that a test waits for, holds all that its routes name.
#[tokio::test(start_paused = true)]
async fn no_snapshot_is_torn_while_routes_and_clusters_change_at_random() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["c0"]);
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["c0"]).await;
    let mut snapshots = running.client.snapshots();
    let watcher = tokio::spawn(async move {
        let mut seen = 0;
        while snapshots.changed().await.is_ok() {
            assert_is_whole(&snapshots.borrow_and_update());
            seen += 1;
        }
        seen
    });
    let mut dice = mesh_core::Dice::new(3);
    for _ in 0..300 {
        let names: Vec<_> = (0..=dice.below(3)).map(|_| format!("c{}", dice.below(40))).collect();
        // Routes come first, clusters and endpoints later, in either order.
        plane.set(routes_to("echo", &names.iter().map(String::as_str).collect::<Vec<_>>()));
        for name in &names {
            running.settle(Duration::from_millis(dice.below(20).into())).await;
            if dice.below(2) == 0 {
                plane.set(cluster(name));
                plane.set(endpoints(name, [address(2)]));
            } else {
                plane.set(endpoints(name, [address(3)]));
                plane.set(cluster(name));
            }
        }
        running.settle(Duration::from_millis(dice.below(20).into())).await;
    }
    drop(running.client);
    running.work.abort();
    let _ = running.work.await;
    let seen = watcher.await.expect("no snapshot is torn");
    assert!(seen > 100, "{seen}");
}

fn assert_is_whole(snapshot: &Snapshot) {
    let Some(names) = routed(snapshot, "echo") else { return };
    for name in names {
        let entry = snapshot.clusters.get(&*name);
        assert!(entry.is_some_and(|entry| entry.endpoints.is_some()), "{name} in {}", snapshot.generation);
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_count_what_comes_and_show_what_is_there() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1", "v2"]);
    let recorder = DebuggingRecorder::new();
    let figures = recorder.snapshotter();
    let mut running = metrics::with_local_recorder(&recorder, || running(&plane));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1", "v2"]).await;
    let mut unusable = cluster("v1");
    unusable.eds_cluster_config = None;
    plane.update(|tx| {
        tx.set(unusable).set(cluster("v2"));
    });
    plane.wait_acked(Cluster, &plane.version(Cluster)).await.expect_err("it is refused");
    running.settle(SECOND).await;

    let mut lines = Vec::new();
    for (key, _, _, value) in figures.snapshot().into_vec() {
        let (_, key) = key.into_parts();
        let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(figure) => figure.into_inner(),
            DebugValue::Histogram(_) => panic!("{key} is no histogram"),
        };
        if value > 0.0 && !key.name().ends_with("timestamp_seconds") {
            lines.push(format!("{} {} {value}", key.name(), labels.join(" ")));
        }
    }
    lines.sort();
    assert_eq!(
        lines,
        [
            "mesh_xds_connected 127.0.0.1:15010 1",
            "mesh_xds_resources Cluster rejected 1",
            "mesh_xds_resources Cluster synced 1",
            "mesh_xds_resources ClusterLoadAssignment synced 2",
            "mesh_xds_resources Listener synced 1",
            "mesh_xds_resources RouteConfiguration synced 1",
            "mesh_xds_updates_accepted_total Cluster 3",
            "mesh_xds_updates_accepted_total ClusterLoadAssignment 2",
            "mesh_xds_updates_accepted_total Listener 1",
            "mesh_xds_updates_accepted_total RouteConfiguration 1",
            "mesh_xds_updates_rejected_total Cluster 1",
        ]
    );
}
