//! Bad news from a control plane, in every form: what served goes on serving, and the status says what is wrong.

use std::time::Duration;

use mesh_core::source::{ConfigSource, Interest};
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::endpoints;

use super::{builder, running};
use crate::support::{Running, address, offer, reached, routed, set};

mod denial;
mod removal;
mod replay;
mod resources;
mod responses;
mod streams;

const SECOND: Duration = Duration::from_secs(1);
/// Whom the control plane's operator has to look for.
const NODE: &str = "node id `test`";

/// A target that serves.
async fn serving(plane: &ControlPlane) -> (Running, Interest) {
    offer(plane, "echo", &["v1"]);
    let mut running = running(plane);
    let interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    (running, interest)
}

/// New endpoints arrive, so the client still listens.
async fn assert_alive(plane: &ControlPlane, running: &mut Running) {
    plane.set(endpoints("v1", [address(99)]));
    running.until(|snapshot| reached(snapshot, "v1") == ["10.0.0.99:80"]).await;
    assert_eq!(routed(&running.present(), "echo"), Some(set(&["v1"])));
}
