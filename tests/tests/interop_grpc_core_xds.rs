//! gRPC's C-core as the client of our in-process control plane, which proves that the test kit speaks the real protocol.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use mesh_tests::peers::{GrpcCore, bootstrap};
use mesh_xds_client::ResourceKind;
use mesh_xds_client::testkit::{ControlPlane, resource};

#[tokio::test]
async fn xds_client_obeys_the_control_plane_of_the_test_kit() {
    let Some(core) = GrpcCore::find() else { return };
    let servers = core.servers(&["v1", "v2"]).await;
    let plane = ControlPlane::new();
    plane.update(|tx| {
        tx.set(resource::listener("echo.shop:7070", "routes"))
            .set(resource::route_config("routes", [("v1", 1)]))
            .set(resource::cluster("v1"))
            .set(resource::cluster("v2"))
            .set(resource::endpoints("v1", [servers.addr("v1")]))
            .set(resource::endpoints("v2", [servers.addr("v2")]));
    });
    let addr = plane.listen("127.0.0.1:0").await.unwrap();
    let mut client = core.client("xds:///echo.shop:7070", &bootstrap(addr, "client")).await;
    client.settle(&["v1"]).await;

    // 1. Weights shift under load.
    client.start().await;
    for (weight, answering) in [(50, &["v1", "v2"][..]), (100, &["v2"])] {
        plane.set(resource::route_config("routes", [("v1", 100 - weight), ("v2", weight)]));
        client.settle(answering).await;
    }
    // 2. The control plane goes, and traffic is unharmed.
    plane.stop().await;
    client.settle(&["v2"]).await;

    // 3. It comes back, and is obeyed.
    let version = plane.set(resource::route_config("routes", [("v1", 1)]));
    plane.listen(addr).await.unwrap();
    client.settle(&["v1"]).await;
    plane.wait_acked(ResourceKind::RouteConfiguration, &version).await.unwrap();
    let tally = client.stop().await;
    tally.assert_none_failed();
    assert!(plane.nacks().is_empty());
}
