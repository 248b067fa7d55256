//! A client through memory, and traffic that is shifted.

use mesh_core::source::ConfigSource as _;
use mesh_xds_client::ResourceKind::RouteConfiguration;
use mesh_xds_client::bootstrap::ServerFeature;
use mesh_xds_client::testkit::ControlPlane;

use crate::client::{CDS, address};

#[tokio::test(start_paused = true)]
async fn a_client_through_memory_takes_what_is_offered_and_shifted_in_either_variant() {
    for features in [None, Some(ServerFeature::Delta)] {
        let plane = ControlPlane::new();
        plane.offer("echo.test", [("v1", address(1)), ("v2", address(2))]);
        let client = plane.client_with(features).build().expect("a valid client");
        let work = tokio::spawn(client.work());
        let interest = client.watch("echo.test");
        plane.shift("echo.test", [("v1", 1), ("v2", 9)]).await.expect("accepted");
        let acks = plane.acks();
        assert!(acks.iter().all(|ack| ack.is_delta == features.is_some() && ack.node_id == "test"), "{acks:?}");
        assert_eq!(plane.subscriptions(CDS), ["v1".to_owned(), "v2".to_owned()].into());
        let refused = plane.shift("echo.test", [("v1", 0)]).await.expect_err("weights that come to nothing");
        assert_eq!(refused.request().kind, Some(RouteConfiguration));
        drop((interest, client));
        work.abort();
    }
}
