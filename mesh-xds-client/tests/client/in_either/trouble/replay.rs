//! Trouble under the same seed is the same trouble.

use std::time::Duration;

use mesh_xds_client::ResourceKind::Cluster;
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{cluster, endpoints, route_config};
use tonic::Status;

use super::serving;
use crate::support::address;

/// A story with a bit of everything, as the control plane and a reader of snapshots saw it.
async fn story() -> (Vec<String>, Vec<String>) {
    let plane = ControlPlane::new();
    let (running, _interest) = serving(&plane).await;
    let mut seen = Vec::new();
    for round in 0..20 {
        plane.set(route_config("echo", [("v1", 1), ("v2", round)]));
        plane.set(endpoints("v1", [address(1 + round as u8)]));
        match round % 4 {
            0 => plane.abort_connections(),
            1 => plane.end_streams(Status::unavailable("restarting")),
            2 => drop(plane.set(cluster("v2"))),
            _ => drop(plane.remove(Cluster, "v2")),
        }
        running.settle(Duration::from_millis(700)).await;
        seen.push(format!("{:?}", running.present()));
    }
    assert!(running.present().generation > 10, "something was published on the way");
    (plane.events().iter().map(|event| format!("{event:?}")).collect(), seen)
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let tell = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        std::thread::spawn(move || runtime.expect("a runtime").block_on(story())).join().expect("the story ends")
    };
    let (events, snapshots) = tell();
    assert!(events.len() > 50, "{}", events.len());
    assert_eq!(tell(), (events, snapshots));
}
