//! gRPC's C-core and its own messages as the reader of our CSDS service: what a tool that we did not write makes of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use mesh_core::source::ConfigSource;
use mesh_tests::peers::{GrpcCore, bootstrap};
use mesh_xds_client::{
    ResourceKind, XdsClient,
    bootstrap::Bootstrap,
    csds,
    testkit::{ControlPlane, resource},
};
use serde_json::Value;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

fn resource_of<'a>(client: &'a Value, kind: ResourceKind, name: &str) -> &'a Value {
    let all = client["genericXdsConfigs"].as_array().unwrap();
    all.iter().find(|one| one["typeUrl"] == kind.type_url() && one["name"] == name).unwrap()
}

#[tokio::test]
async fn status_is_read_resource_by_resource() {
    let Some(core) = GrpcCore::find() else { return };
    let plane = ControlPlane::new();
    plane.update(|tx| {
        tx.set(resource::listener("echo", "routes")).set(resource::route_config("routes", [("v1", 1)]));
        tx.set(resource::cluster("v1")).set(resource::endpoints("v1", [SocketAddr::from(([127, 0, 0, 1], 7070))]));
    });
    let at = plane.listen("127.0.0.1:0").await.unwrap();
    let bootstrap = Bootstrap::from_json(bootstrap(at, "reader's node")).unwrap();
    let client = XdsClient::builder(bootstrap).keep_contents().build().unwrap();
    let work = tokio::spawn(client.work());
    let _interest = client.watch("echo");
    client.snapshots().wait_for(|snapshot| snapshot.targets.contains_key("echo")).await.unwrap();
    let refused = plane.set(Cluster { eds_cluster_config: None, ..resource::cluster("v1") });
    plane.wait_acked(ResourceKind::Cluster, &refused).await.unwrap_err();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = Server::builder().add_service(csds::service(&client));
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    let mut reader = core.status_reader(addr).await;

    // 1. Unary, with everything.
    let response = reader.fetch().await;
    let [told] = &response["config"].as_array().unwrap()[..] else { panic!("{response:#}") };
    assert_eq!(told["node"]["id"], "reader's node");
    assert_eq!(told["clientScope"], at.to_string());
    assert_eq!(told["genericXdsConfigs"].as_array().unwrap().len(), 4);
    let endpoints = resource_of(told, ResourceKind::ClusterLoadAssignment, "v1");
    assert_eq!((&endpoints["clientStatus"], &endpoints["versionInfo"]), (&"ACKED".into(), &"1".into()));
    let address = &endpoints["xdsConfig"]["endpoints"][0]["lbEndpoints"][0]["endpoint"]["address"];
    assert_eq!(address["socketAddress"]["portValue"], 7070, "{endpoints:#}");
    let cluster = resource_of(told, ResourceKind::Cluster, "v1");
    assert_eq!((&cluster["clientStatus"], &cluster["versionInfo"]), (&"NACKED".into(), &"1".into()));
    assert_eq!(cluster["xdsConfig"]["type"], "EDS", "the last good one");
    assert_eq!(cluster["errorState"]["versionInfo"], *refused);
    assert!(cluster["errorState"]["details"].as_str().unwrap().contains("eds_cluster_config"), "{cluster:#}");
    for field in [&cluster["lastUpdated"], &cluster["errorState"]["lastUpdateAttempt"]] {
        assert!(field.as_str().is_some_and(|time| time.ends_with('Z')), "{cluster:#}");
    }

    // 2. A stream, without contents.
    let responses = reader.stream(3).await;
    assert_eq!(responses.as_array().unwrap().len(), 3);
    let told = &responses[2]["config"][0];
    let listener = resource_of(told, ResourceKind::Listener, "echo");
    assert_eq!((&listener["clientStatus"], &listener["xdsConfig"]), (&"ACKED".into(), &Value::Null));
    work.abort();
}
