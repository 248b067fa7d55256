//! Who asks for what, over how many streams, and that nothing is left when nobody asks any longer.

use std::time::Duration;

use mesh_core::source::ConfigSource;
use mesh_xds_client::ResourceKind::{self, Cluster, Listener};
use mesh_xds_client::testkit::resource::listener;
use mesh_xds_client::testkit::{ControlPlane, Event};

use super::running;
use crate::support::{offer, routed, set};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn two_targets_share_one_stream_and_their_clusters() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1", "shared"]);
    offer(&plane, "other", &["v2", "shared"]);
    let mut running = running(&plane);
    let clone = running.client.clone();
    let _echo = running.client.watch("echo");
    running.until_routed("echo", &["v1", "shared"]).await;
    let other = clone.watch("other");
    running.until_routed("other", &["v2", "shared"]).await;
    assert_eq!(plane.streams(), 1);
    assert_eq!(plane.subscriptions(Cluster), set(&["v1", "v2", "shared"]));

    drop(other);
    running.settle(SECOND).await;
    assert_eq!(plane.subscriptions(Cluster), set(&["v1", "shared"]));
    assert!(!running.present().targets.contains_key("other"));
    assert!(!running.present().clusters.contains_key("v2"));
}

#[tokio::test(start_paused = true)]
async fn target_is_kept_until_its_last_user_has_gone() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = running(&plane);
    let interests = [running.client.watch("echo"), running.client.watch("echo")];
    running.until_routed("echo", &["v1"]).await;
    let [first, second] = interests;
    drop(first);
    running.settle(SECOND).await;
    assert_eq!(plane.subscriptions(Listener), set(&["echo"]));
    drop(second);
    running.settle(SECOND).await;
    assert!(ResourceKind::ALL.into_iter().all(|kind| plane.subscriptions(kind).is_empty()));
    assert!(running.client.status().resources.is_empty());
    assert!(running.present().targets.is_empty() && running.present().clusters.is_empty());
}

#[tokio::test(start_paused = true)]
async fn target_that_returns_is_served_again() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = running(&plane);
    for _ in 0..3 {
        let interest = running.client.watch("echo");
        running.until_routed("echo", &["v1"]).await;
        drop(interest);
        running.until(|snapshot| snapshot.targets.is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_after_1000_rounds_of_clusters_that_come_and_go() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["start"]);
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["start"]).await;
    for round in 0..1000 {
        let (one, two) = (format!("a{round}"), format!("b{round}"));
        let clusters = [one.as_str(), two.as_str()];
        offer(&plane, "echo", &clusters);
        running.until_routed("echo", &clusters).await;
        for name in &clusters {
            plane.remove(Cluster, name);
            plane.remove(ResourceKind::ClusterLoadAssignment, name);
        }
    }
    offer(&plane, "echo", &["end"]);
    running.until_routed("echo", &["end"]).await;
    running.settle(SECOND).await;
    for kind in ResourceKind::ALL {
        assert_eq!(plane.subscriptions(kind).len(), 1, "{kind}");
    }
    assert_eq!(running.client.status().resources.len(), 4);
    assert_eq!(running.present().clusters.len(), 1);
    assert_eq!(plane.streams(), 1);
}

#[tokio::test(start_paused = true)]
async fn work_goes_on_without_a_handle() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = running(&plane);
    let interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    let mut snapshots = running.snapshots;
    drop(running.client);
    offer(&plane, "echo", &["v2"]);
    snapshots.wait_for(|snapshot| routed(snapshot, "echo") == Some(set(&["v2"]))).await.expect("it goes on");
    drop(interest);
    snapshots.wait_for(|snapshot| snapshot.targets.is_empty()).await.expect("it goes on");
    running.work.abort();
}

#[tokio::test(start_paused = true)]
async fn work_that_was_dropped_begins_again_with_what_is_held() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = running(&plane);
    let _interest = running.client.watch("echo");
    let before = running.until_routed("echo", &["v1"]).await;
    running.work.abort();
    plane.wait_streams(0).await;
    assert!(!running.client.status().connected);

    // A second that comes too early waits for its turn.
    let first = tokio::spawn(running.client.work());
    let second = tokio::spawn(running.client.work());
    plane.wait_streams(1).await;
    running.settle(10 * SECOND).await;
    assert_eq!(plane.streams(), 1);
    assert!(std::sync::Arc::ptr_eq(&before, &running.present()), "nothing has changed");
    first.abort();
    offer(&plane, "echo", &["v2"]);
    running.until_routed("echo", &["v2"]).await;
    second.abort();
}

#[tokio::test(start_paused = true)]
async fn stream_is_opened_when_somebody_is_interested_and_not_before() {
    let plane = ControlPlane::new();
    let running = running(&plane);
    running.settle(10 * SECOND).await;
    assert!(plane.events().is_empty());
    let _interest = running.client.watch("echo");
    plane.wait_streams(1).await;
    plane.set(listener("echo", "routes"));
    plane.wait_for(|event| matches!(event, Event::Acked(_))).await;
}
