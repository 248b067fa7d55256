//! The cache file: what is never in it, whom it does not serve, and that a better source is not passed over for it.

use std::path::Path;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as WireCluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment as WireAssignment;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, TlsCertificate, UpstreamTlsContext,
};
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryResponse, Resource, ResourceError, ResourceName};
use envoy_types::pb::google::protobuf as wire;
use envoy_types::pb::google::rpc;
use envoy_types::util::pack_any;
use mesh_core::source::{ConfigSource, ResourceState};
use mesh_xds_client::ResourceKind::{Cluster, ClusterLoadAssignment};
use mesh_xds_client::bootstrap::{Bootstrap, ChannelCredentials, Node, ServerFeature};
use mesh_xds_client::cache::{Found, Unusable};
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{cluster, endpoints};
use mesh_xds_client::{XdsClient, XdsClientBuilder};
use tonic::Code;

use crate::support::{Pipes, Planes, address, builder, offer, reached, run};

const SECOND: Duration = Duration::from_secs(1);

fn client_of(plane: &ControlPlane, node: &str, servers: &[&str], file: &Path) -> XdsClientBuilder {
    let servers = servers.iter().fold(Bootstrap::builder().node(Node::new(node)), |bootstrap, server| {
        bootstrap.server(*server, ChannelCredentials::Insecure)
    });
    let bootstrap = servers.build().expect("a valid bootstrap");
    XdsClient::builder(bootstrap).connector(Pipes::to(plane)).seed(7).cache_file(file)
}

/// A cluster that is taken, though some of its endpoints were to be reached with a key that stands in it.
fn with_key(name: &str, key: &str) -> WireCluster {
    let key = DataSource { specifier: Some(Specifier::InlineString(key.to_owned())), ..Default::default() };
    let certificate = TlsCertificate { private_key: Some(key), ..Default::default() };
    let common = CommonTlsContext { tls_certificates: vec![certificate], ..Default::default() };
    let context = UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
    let socket = TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack_any(context))),
    };
    let matched = TransportSocketMatch { transport_socket: Some(socket), ..Default::default() };
    let plain = TransportSocket { name: "envoy.transport_sockets.raw_buffer".to_owned(), config_type: None };
    let plain = TransportSocketMatch { transport_socket: Some(plain), ..Default::default() };
    WireCluster { transport_socket_matches: vec![plain, matched], ..cluster(name) }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn private_key_is_never_written_whatever_becomes_of_its_resource() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("xds.cache");
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1", "v2"]);
    let running = run(client_of(&plane, "web-1", &["10.0.0.1:1"], &file));
    let _interest = running.client.watch("echo");
    let key = "a key in no known form";
    plane.set(with_key("v2", key));
    running.settle(10 * SECOND).await;
    let state = running.state(Cluster, "v2").expect("asked for");
    assert!(matches!(state, ResourceState::Synced | ResourceState::Rejected), "{state:?}");
    let bytes = std::fs::read(&file).expect("written");
    assert!(contains(&bytes, "v1"), "its neighbour is there");
    assert!(!contains(&bytes, key));
}

#[tokio::test(start_paused = true)]
async fn file_of_another_node_or_of_other_control_planes_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("xds.cache");
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = run(client_of(&plane, "web-1", &["10.0.0.1:1"], &file));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    running.settle(10 * SECOND).await;

    let found = |node: &str, servers: &[&str]| {
        let client = client_of(&plane, node, servers, &file).build().expect("a valid client");
        client.cache_status().expect("it has a file").found
    };
    assert!(matches!(found("web-1", &["10.0.0.1:1"]), Found::Resources { .. }));
    let refusal = |found: Found| match found {
        Found::Refused(reason) => reason,
        other => panic!("{other:?}"),
    };
    assert!(matches!(*refusal(found("web-2", &["10.0.0.1:1"])), Unusable::Node { .. }));
    assert!(matches!(*refusal(found("web-1", &["10.0.0.2:1"])), Unusable::Servers { .. }));
    assert!(matches!(*refusal(found("web-1", &["10.0.0.1:1", "10.0.0.2:1"])), Unusable::Servers { .. }));
}

#[tokio::test(start_paused = true)]
async fn directory_that_is_not_there_is_told_and_tried_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("later").join("xds.cache");
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let mut running = run(client_of(&plane, "web-1", &["10.0.0.1:1"], &file));
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    running.settle(6 * SECOND).await;
    let status = running.client.cache_status().expect("it has a file");
    assert!(matches!(status.found, Found::Nothing));
    assert_eq!(status.last_error.expect("it failed").kind(), std::io::ErrorKind::NotFound);
    assert_eq!(status.written, None);

    std::fs::create_dir(directory.path().join("later")).expect("made");
    running.settle(6 * SECOND).await;
    let status = running.client.cache_status().expect("it has a file");
    assert!(status.written.is_some() && status.last_error.is_none(), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn gap_in_a_full_state_is_no_word_of_a_server_whose_silence_is_trouble() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("xds.cache");
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1", "v2"]);
    let start = || {
        let patient = [ServerFeature::ResourceTimerIsTransientError];
        run(builder(&plane, patient).cache_file(&file))
    };
    let mut running = start();
    let interest = running.client.watch("echo");
    running.until_routed("echo", &["v1", "v2"]).await;
    running.settle(10 * SECOND).await;
    running.work.abort();
    drop(interest);

    plane.remove(Cluster, "v1");
    let mut running = start();
    let _interest = running.client.watch("echo");
    running.settle(600 * SECOND).await;
    let snapshot = running.until_routed("echo", &["v1", "v2"]).await;
    assert!(snapshot.clusters.contains_key("v1"));
    let status = running.resource(Cluster, "v1").expect("asked for");
    assert_eq!((status.state, status.is_cached), (ResourceState::TimedOut, true));
    assert!(!running.resource(Cluster, "v2").expect("asked for").is_cached, "the state has come");
}

#[tokio::test(start_paused = true)]
async fn second_server_is_asked_though_an_earlier_run_has_kept_everything() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("xds.cache");
    let (first, second) = (ControlPlane::new(), ControlPlane::new());
    offer(&first, "echo", &["v1"]);
    offer(&second, "echo", &["v2"]);
    let (to_first, to_second) = (Pipes::to(&first), Pipes::to(&second));
    let start = || {
        let connector = Planes(vec![(1, to_first.clone()), (2, to_second.clone())]);
        run(client_of(&first, "web-1", &["10.0.0.1:1", "10.0.0.1:2"], &file).connector(connector))
    };
    let mut running = start();
    let interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    running.settle(10 * SECOND).await;
    running.work.abort();
    drop(interest);

    to_first.cut(true);
    to_second.cut(true);
    let mut running = start();
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    to_second.cut(false);
    running.until_routed("echo", &["v2"]).await;
    assert_eq!(running.client.status().server, "10.0.0.1:2");
    assert_eq!(running.client.status().age, Duration::ZERO);
}

/// Says that the server has no endpoints of this name.
fn deny_endpoints(plane: &ControlPlane, name: &str) {
    let status = rpc::Status { code: Code::NotFound as i32, ..Default::default() };
    plane.send(DiscoveryResponse {
        type_url: ClusterLoadAssignment.type_url().to_owned(),
        nonce: "denial".to_owned(),
        version_info: "denial".to_owned(),
        resource_errors: vec![ResourceError {
            resource_name: Some(ResourceName { name: name.to_owned(), ..Default::default() }),
            error_detail: Some(status),
        }],
        ..Default::default()
    });
}

#[tokio::test(start_paused = true)]
async fn what_a_strict_server_takes_away_by_an_error_leaves_the_file() {
    let refuse = |plane: &ControlPlane| {
        let mut unusable = endpoints("v1", [address(1)]);
        unusable.endpoints[0].priority = 7;
        plane.set(unusable);
    };
    let deny = |plane: &ControlPlane| deny_endpoints(plane, "v1");
    for spoil in [&refuse as &dyn Fn(&ControlPlane), &deny] {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("xds.cache");
        let plane = ControlPlane::new();
        offer(&plane, "echo", &["v1"]);
        let client = || builder(&plane, [ServerFeature::FailOnDataErrors]).cache_file(&file);
        let count = || match client().build().expect("a valid client").cache_status().expect("it has a file").found {
            Found::Resources { count, .. } => count,
            other => panic!("{other:?}"),
        };
        let mut running = run(client());
        let _interest = running.client.watch("echo");
        running.until_routed("echo", &["v1"]).await;
        running.settle(10 * SECOND).await;
        assert_eq!(count(), 4, "a listener, its routes, a cluster and its endpoints");

        spoil(&plane);
        running.until(|snapshot| snapshot.clusters["v1"].endpoints.is_none()).await;
        running.settle(10 * SECOND).await;
        assert_eq!(count(), 3);
    }
}

/// The endpoints of a cluster as a control plane in state of the world sends them with a time to live.
fn living(name: &str, body: Option<WireAssignment>) -> Resource {
    let ttl = Some(wire::Duration { seconds: 3600, nanos: 0 });
    Resource { name: name.to_owned(), resource: body.map(pack_any), ttl, ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn resource_with_a_time_to_live_is_not_in_the_file_and_does_not_serve_the_next_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("xds.cache");
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1", "v2"]);
    let (body, kind) = (endpoints("v1", [address(1)]), ClusterLoadAssignment);
    plane.update(|tx| _ = tx.raw(kind, "v1", pack_any(living("v1", Some(body)))));
    let pipes = Pipes::to(&plane);
    let start = || run(builder(&plane, []).connector(pipes.clone()).cache_file(&file));
    let mut running = start();
    let interest = running.client.watch("echo");
    let snapshot = running.until_routed("echo", &["v1", "v2"]).await;
    assert_eq!(reached(&snapshot, "v1"), ["10.0.0.1:80"]);
    running.settle(10 * SECOND).await;
    running.work.abort();
    drop(interest);

    pipes.cut(true);
    let running = start();
    let _interest = running.client.watch("echo");
    running.settle(10 * SECOND).await;
    let is_cached = |name| running.resource(kind, name).expect("asked for").is_cached;
    assert_eq!((is_cached("v1"), is_cached("v2")), (false, true));
}

#[tokio::test(start_paused = true)]
async fn resource_that_is_given_a_time_to_live_leaves_the_file_and_is_back_when_it_comes_without() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("xds.cache");
    let plane = ControlPlane::new();
    offer(&plane, "echo", &["v1"]);
    let (body, kind) = (|| endpoints("v1", [address(1)]), ClusterLoadAssignment);
    let client = || builder(&plane, []).cache_file(&file);
    let mut running = run(client());
    let _interest = running.client.watch("echo");
    running.until_routed("echo", &["v1"]).await;
    let count = async || {
        running.settle(10 * SECOND).await;
        match client().build().expect("a valid client").cache_status().expect("it has a file").found {
            Found::Resources { count, .. } => count,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(count().await, 4, "a listener, its routes, a cluster and its endpoints");
    plane.update(|tx| _ = tx.raw(kind, "v1", pack_any(living("v1", Some(body())))));
    assert_eq!(count().await, 3, "the same bytes, for a time");
    plane.set(body());
    assert_eq!(count().await, 4);
    // In state of the world a resource without a body says that it stands as it was.
    plane.send(DiscoveryResponse {
        type_url: kind.type_url().to_owned(),
        nonce: "heartbeat".to_owned(),
        version_info: plane.version(kind),
        resources: vec![pack_any(living("v1", None))],
        ..Default::default()
    });
    assert_eq!(count().await, 3);
    assert_eq!(running.state(kind, "v1"), Some(ResourceState::Synced));
}
