//! CSDS over real sockets, read by the client that `envoy-types` generates: what a control plane said is what a tool is
//! told.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::admin::v3::ClientResourceStatus;
use envoy_types::pb::envoy::config::cluster::v3::Cluster as WireCluster;
use envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::{ClientConfig, ClientStatusRequest};
use envoy_types::pb::envoy::r#type::matcher::v3::NodeMatcher;
use mesh_core::source::{ConfigSource, Interest};
use mesh_xds_client::ResourceKind::{Cluster, RouteConfiguration};
use mesh_xds_client::bootstrap::{Bootstrap, ChannelCredentials, Node};
use mesh_xds_client::csds::{self, ClientStatus};
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::{cluster, endpoints, listener, route_config};
use mesh_xds_client::{ResourceKind, XdsClient};
use prost::Message as _;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

/// A client at work, of a control plane of its own.
struct Running {
    plane: ControlPlane,
    client: XdsClient,
    work: JoinHandle<()>,
    _interest: Interest,
}

type Reader = ClientStatusDiscoveryServiceClient<Channel>;

const PATIENCE: Duration = Duration::from_secs(30);

impl Running {
    async fn start(node: &str, keeps_contents: bool) -> Self {
        let plane = ControlPlane::new();
        let endpoint = SocketAddr::from(([10, 0, 0, 1], 80));
        plane.update(|tx| {
            tx.set(listener("echo", "echo-routes"))
                .set(route_config("echo-routes", [("v1", 1)]))
                .set(cluster("v1"))
                .set(endpoints("v1", [endpoint]));
        });
        let at = plane.listen("127.0.0.1:0").await.expect("a port");
        let bootstrap = Bootstrap::builder()
            .server(at.to_string(), ChannelCredentials::Insecure)
            .node(Node::new(node))
            .build()
            .expect("a valid bootstrap");
        let mut builder = XdsClient::builder(bootstrap);
        if keeps_contents {
            builder = builder.keep_contents();
        }
        let client = builder.build().expect("a valid client");
        let work = tokio::spawn(client.work());
        let interest = client.watch("echo");
        let mut snapshots = client.snapshots();
        let ready = snapshots.wait_for(|snapshot| snapshot.targets.contains_key("echo"));
        timeout(PATIENCE, ready).await.expect("in time").expect("the client lives");
        Self { plane, client, work, _interest: interest }
    }

    /// Waits until the client has answered the present version of a kind.
    async fn settle(&self, kind: ResourceKind) {
        let _ = timeout(PATIENCE, self.plane.wait_acked(kind, &self.plane.version(kind))).await.expect("in time");
    }
}

async fn reader(service: ClientStatus) -> Reader {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    Reader::connect(format!("http://{address}")).await.expect("listening")
}

async fn fetch(reader: &mut Reader) -> Vec<ClientConfig> {
    reader.fetch_client_status(ClientStatusRequest::default()).await.expect("answered").into_inner().config
}

fn resource<'a>(config: &'a ClientConfig, kind: ResourceKind, name: &str) -> &'a GenericXdsConfig {
    let mut all = config.generic_xds_configs.iter();
    all.find(|one| one.type_url == kind.type_url() && one.name == name).expect("listed")
}

#[tokio::test]
async fn every_resource_is_told_with_version_time_and_the_bytes_that_came() {
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let running = Running::start("node-1", true).await;
    let mut reader = reader(csds::service(&running.client)).await;
    let configs = fetch(&mut reader).await;
    let [config] = &*configs else { panic!("{configs:?}") };
    assert_eq!(config.node.as_ref().expect("a node").id, "node-1");
    assert_eq!(config.client_scope, running.client.status().server);
    let kinds: Vec<_> = config.generic_xds_configs.iter().map(|one| &*one.type_url).collect();
    assert_eq!(kinds, ResourceKind::ALL.map(ResourceKind::type_url), "one of each");
    for one in &config.generic_xds_configs {
        assert_eq!(one.client_status(), ClientResourceStatus::Acked);
        assert_eq!(one.version_info, "1");
        let updated = one.last_updated.as_ref().expect("a time").seconds;
        assert!((started..=started + 60).contains(&u64::try_from(updated).expect("after 1970")), "{updated}");
        assert!(one.error_state.is_none());
    }
    let content = resource(config, Cluster, "v1").xds_config.clone().expect("kept");
    assert_eq!(content.type_url, Cluster.type_url());
    assert_eq!(WireCluster::decode(&*content.value).expect("whole"), cluster("v1"));
    running.work.abort();
}

#[tokio::test]
async fn refused_version_is_told_beside_the_one_that_serves_until_it_is_mended() {
    let running = Running::start("node-1", true).await;
    let mut reader = reader(csds::service(&running.client)).await;
    let unusable = WireCluster { eds_cluster_config: None, ..cluster("v1") };
    running.plane.set(unusable);
    running.settle(Cluster).await;
    let config = fetch(&mut reader).await.remove(0);
    let refused = resource(&config, Cluster, "v1");
    assert_eq!(refused.client_status(), ClientResourceStatus::Nacked);
    assert_eq!(refused.version_info, "1");
    assert_eq!(
        WireCluster::decode(&*refused.xds_config.as_ref().expect("the last good").value).expect("whole"),
        cluster("v1")
    );
    let error = refused.error_state.as_ref().expect("an error");
    assert_eq!(error.version_info, running.plane.version(Cluster));
    assert!(error.details.contains("eds_cluster_config"), "{error:?}");
    assert!(
        error.last_update_attempt.as_ref().expect("a time").seconds
            >= refused.last_updated.as_ref().expect("a time").seconds
    );
    assert_eq!(error.failed_configuration, None);

    running.plane.set(cluster("v1"));
    running.settle(Cluster).await;
    let config = fetch(&mut reader).await.remove(0);
    let mended = resource(&config, Cluster, "v1");
    assert_eq!(mended.client_status(), ClientResourceStatus::Acked);
    assert_eq!(mended.error_state, None);
    running.work.abort();
}

#[tokio::test]
async fn stream_answers_each_request_with_the_state_of_that_moment() {
    let running = Running::start("node-1", true).await;
    let mut reader = reader(csds::service(&running.client)).await;
    let (requests, outgoing) = tokio::sync::mpsc::channel(1);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    requests.send(ClientStatusRequest::default()).await.expect("open");
    let mut answers = reader.stream_client_status(outgoing).await.expect("served").into_inner();
    let first = answers.message().await.expect("no error").expect("an answer");
    assert_eq!(resource(&first.config[0], RouteConfiguration, "echo-routes").version_info, "1");

    running.plane.set(route_config("echo-routes", [("v1", 2)]));
    running.settle(RouteConfiguration).await;
    let bare = ClientStatusRequest { exclude_resource_contents: true, ..Default::default() };
    requests.send(bare).await.expect("open");
    let second = answers.message().await.expect("no error").expect("an answer");
    let routes = resource(&second.config[0], RouteConfiguration, "echo-routes");
    assert_eq!((&*routes.version_info, &routes.xds_config), ("2", &None));

    let matching = ClientStatusRequest { node_matchers: vec![NodeMatcher::default()], ..Default::default() };
    requests.send(matching).await.expect("open");
    assert_eq!(answers.message().await.expect_err("refused").code(), Code::InvalidArgument);
    running.work.abort();
}

#[tokio::test]
async fn several_clients_are_told_by_scope_and_one_that_is_gone_no_longer() {
    let (one, two) = (Running::start("node-1", false).await, Running::start("node-2", true).await);
    let service = ClientStatus::new().client("orders", &one.client).client("billing", &two.client);
    let mut reader = reader(service).await;
    let scopes = |configs: &[ClientConfig]| -> Vec<_> {
        let told = |config: &ClientConfig| (config.client_scope.clone(), config.node.clone().expect("a node").id);
        configs.iter().map(told).collect()
    };
    let configs = fetch(&mut reader).await;
    let (orders, billing) = (("orders".to_owned(), "node-1".to_owned()), ("billing".to_owned(), "node-2".to_owned()));
    assert_eq!(scopes(&configs), [orders, billing.clone()]);
    assert_eq!(resource(&configs[0], Cluster, "v1").xds_config, None, "contents are not kept unless that is asked for");

    let Running { client, work, .. } = one;
    drop(client);
    work.abort();
    assert!(work.await.expect_err("aborted").is_cancelled());
    assert_eq!(scopes(&fetch(&mut reader).await), [billing]);
    two.work.abort();
}

#[tokio::test]
async fn node_matchers_are_refused() {
    let mut reader = reader(ClientStatus::new()).await;
    let matching = ClientStatusRequest { node_matchers: vec![NodeMatcher::default()], ..Default::default() };
    assert_eq!(reader.fetch_client_status(matching).await.expect_err("refused").code(), Code::InvalidArgument);
    assert_eq!(fetch(&mut reader).await, []);
}
