//! What delta alone can say: that endpoints and routes are gone, under which name a resource goes, and that a server does not
//! know it.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf as wire;
use envoy_types::util::pack_any;
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_core::config::Address;
use mesh_core::source::{ConfigSource, ResourceState};
use mesh_http::connect::{Connect, Connecting, Stream};
use mesh_xds_client::ResourceKind::{self, Cluster, ClusterLoadAssignment, RouteConfiguration};
use mesh_xds_client::XdsClient;
use mesh_xds_client::bootstrap::{Bootstrap, ChannelCredentials, Node, ServerFeature};
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{cluster, endpoints};

use crate::support::{Pipes, Running, address, builder, offer, reached, routed, run, set};

const SECOND: Duration = Duration::from_secs(1);

/// At port 1 a server without the incremental method, at any other what the pipes lead to.
struct WithoutDelta(Pipes);

impl Connect for WithoutDelta {
    fn connect(&self, address: &Address) -> Connecting {
        if !matches!(address, Address::Socket(socket) if socket.port() == 1) {
            return self.0.connect(address);
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let answer = service_fn(async |_| {
            let response = http::Response::builder().header("content-type", "application/grpc");
            let response = response.header("grpc-status", "12").header("grpc-message", "unknown method");
            response.body(Empty::<bytes::Bytes>::new())
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(builder.serve_connection(TokioIo::new(theirs), answer));
        Box::pin(async move { Ok(Box::new(ours) as Stream) })
    }
}

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

#[tokio::test(start_paused = true)]
async fn server_without_delta_is_told_as_such() {
    let plane = ControlPlane::new();
    let bootstrap = Bootstrap::builder()
        .server_with_features("10.0.0.1:1", ChannelCredentials::Insecure, [ServerFeature::Delta])
        .node(Node::new("test-node"))
        .build()
        .expect("a valid bootstrap");
    let running = run(XdsClient::builder(bootstrap).connector(WithoutDelta(Pipes::to(&plane))).seed(7));
    let _interest = running.client.watch("echo");
    running.settle(60 * SECOND).await;
    let status = running.client.status();
    assert!(!status.connected);
    let error = status.last_error.expect("no stream lasts");
    assert!(error.contains("does not speak delta"), "{error}");
    assert!(error.contains("take `mesh.delta` out of its server_features (Unimplemented: unknown method)"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn server_without_delta_that_is_listed_again_without_the_feature_serves() {
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let bootstrap = Bootstrap::builder()
        .server_with_features("10.0.0.1:1", ChannelCredentials::Insecure, [ServerFeature::Delta])
        .server("10.0.0.1:2", ChannelCredentials::Insecure)
        .node(Node::new("test-node"))
        .build()
        .expect("a valid bootstrap");
    let mut running = run(XdsClient::builder(bootstrap).connector(WithoutDelta(Pipes::to(&plane))).seed(7));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    assert_eq!(running.client.status().server, "10.0.0.1:2");
}
