//! Responses that make no sense, or are large.

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use envoy_types::pb::google::protobuf::Any;
use mesh_core::config::Snapshot;
use mesh_core::source::ConfigSource;
use mesh_xds_client::ResourceKind::{Cluster, ClusterLoadAssignment, Listener};
use mesh_xds_client::testkit::resource::{cluster, route_config};
use mesh_xds_client::testkit::{ControlPlane, Event};

use super::{SECOND, assert_alive, builder, serving};
use crate::support::{offer, ready, run};

#[tokio::test(start_paused = true)]
async fn responses_that_make_no_sense_do_no_harm() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    let before = running.present();
    let response = |type_url: &str, value: Vec<u8>, nonce: &str| DiscoveryResponse {
        type_url: type_url.to_owned(),
        resources: vec![Any { type_url: type_url.to_owned(), value }],
        version_info: "weird".to_owned(),
        nonce: nonce.to_owned(),
        ..Default::default()
    };
    plane.send(response("", vec![1], ""));
    plane.send(response("type.googleapis.com/envoy.service.runtime.v3.Runtime", vec![1], "n"));
    plane.send(response(Cluster.type_url(), vec![0xff; 9], "a nonce of its own"));
    plane.send(response(ClusterLoadAssignment.type_url(), Vec::new(), "\u{0}"));
    let mut foreign = response(Cluster.type_url(), vec![1], "x");
    foreign.resources[0].type_url = Listener.type_url().to_owned();
    plane.send(foreign);
    plane.send(DiscoveryResponse::default());
    running.settle(SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));
    assert_eq!(plane.streams(), 1, "none of it ends the stream");
    assert_alive(&plane, &mut running).await;
}

#[tokio::test(start_paused = true)]
async fn response_beyond_the_limit_is_told_and_leaves_the_last_good_one_serving() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = run(builder(&plane, []).max_message_size(64 * 1024));
    let _interest = running.client.watch("echo");
    let before = running.until_routed("echo", &["v1"]).await;
    let mut huge = cluster("v1");
    huge.alt_stat_name = "x".repeat(70 * 1024);
    plane.set(huge);
    running.settle(60 * SECOND).await;
    assert!(Arc::ptr_eq(&before, &running.present()));
    let error = running.client.status().last_error.expect("streams were lost");
    assert!(error.contains("more than 65536 bytes"), "{error}");
    let opened = plane.events().iter().filter(|event| matches!(event, Event::StreamOpened { .. })).count();
    assert!(opened < 100, "{opened} streams in a minute");
    plane.set(cluster("v1"));
    assert_alive(&plane, &mut running).await;
}

#[tokio::test(start_paused = true)]
async fn response_of_64_mebibytes_is_taken() {
    let plane = ControlPlane::new();
    let (mut running, _interest) = serving(&plane).await;
    let mut routes = route_config("echo", [("v1", 1)]);
    routes.virtual_hosts[0].routes[0].name = "x".repeat(64 << 20);
    plane.set(routes);
    running.until(|snapshot| first_route(snapshot).is_some_and(|name| name.len() == 64 << 20)).await;
    assert_alive(&plane, &mut running).await;
}

fn first_route(snapshot: &Snapshot) -> Option<Arc<str>> {
    let listener = ready(snapshot, "echo")?;
    Some(listener.routes.virtual_hosts()[0].routes[0].name.clone())
}
