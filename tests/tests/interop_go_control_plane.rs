//! go-control-plane steers: weights shifted and endpoints changed under load, killed and restarted in between.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::rpc::Status;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use mesh_tests::peers::{GoControlPlane, RunningControlPlane, Snapshot};

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

#[tokio::test]
async fn answer_waits_until_every_name_of_the_snapshot_was_asked_for() {
    let Some(program) = GoControlPlane::find() else { return };
    let mut control_plane = program.start().await;
    let endpoint: [SocketAddr; 1] = [([127, 0, 0, 1], 1).into()];
    let clusters: [(&str, u32, &[SocketAddr]); 3] = [("a", 1, &endpoint), ("b", 1, &endpoint), ("idle", 0, &endpoint)];
    control_plane.set(&Snapshot::new("node", 1).target("echo.shop:7070", &clusters)).await;
    let mut stream = Ads::open(&control_plane).await;

    stream.ask(CLUSTER, &["a"], None, None).await;
    stream.ask(LISTENER, &["echo.shop:7070"], None, None).await;
    // The cluster was asked for first and is still held.
    assert_eq!(stream.answer().await.type_url, LISTENER);

    stream.ask(CLUSTER, &["a", "b"], None, None).await;
    let clusters = stream.answer().await;
    assert_eq!((clusters.type_url.as_str(), clusters.resources.len()), (CLUSTER, 2));
}

#[tokio::test]
async fn report_tells_acceptance_rejection_and_reconnection() {
    let Some(program) = GoControlPlane::find() else { return };
    let mut control_plane = program.start().await;
    control_plane.set(&Snapshot::new("node", 1).target("echo.shop:7070", &[])).await;
    let mut stream = Ads::open(&control_plane).await;

    stream.ask(LISTENER, &["echo.shop:7070"], None, None).await;
    let first = stream.answer().await;
    stream.ask(LISTENER, &["echo.shop:7070"], Some(&first), None).await;
    control_plane.set(&Snapshot::new("node", 2).target("echo.shop:7070", &[])).await;
    let second = stream.answer().await;
    assert_eq!(second.version_info, "2");
    let rejected = DiscoveryResponse { version_info: first.version_info, ..second };
    stream.ask(LISTENER, &["echo.shop:7070"], Some(&rejected), Some("listener: too loud")).await;

    let report = loop {
        let report = control_plane.report().await;
        if !report.rejected.is_empty() {
            break report;
        }
    };
    assert_eq!(report.acked[LISTENER], "1");
    assert_eq!(report.rejected[0].message, "listener: too loud");
    assert_eq!((report.node.as_str(), report.streams), ("node", 1));

    let addr = control_plane.addr();
    let restart = control_plane.kill().await;
    assert!(stream.answers.message().await.is_err());
    let mut control_plane = restart().await;
    assert_eq!(control_plane.addr(), addr);
    assert_eq!(control_plane.report().await.opened, 0);
}

/// A state-of-the-world stream by hand.
struct Ads {
    requests: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

impl Ads {
    async fn open(control_plane: &RunningControlPlane) -> Self {
        let channel = Channel::from_shared(format!("http://{}", control_plane.addr())).unwrap().connect_lazy();
        let (requests, outgoing) = mpsc::channel(8);
        // The server answers the headers with its first message only: something must be asked to get the stream.
        let node = Node { id: "node".to_owned(), ..Node::default() };
        requests.send(DiscoveryRequest { node: Some(node), ..DiscoveryRequest::default() }).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let answers = client.stream_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn ask(&self, type_url: &str, names: &[&str], last: Option<&DiscoveryResponse>, refusal: Option<&str>) {
        let request = DiscoveryRequest {
            node: Some(Node { id: "node".to_owned(), ..Node::default() }),
            type_url: type_url.to_owned(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            version_info: last.map(|last| last.version_info.clone()).unwrap_or_default(),
            response_nonce: last.map(|last| last.nonce.clone()).unwrap_or_default(),
            error_detail: refusal.map(|message| Status { code: 3, message: message.to_owned(), details: vec![] }),
            ..DiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> DiscoveryResponse {
        self.answers.message().await.unwrap().expect("the stream goes on")
    }
}
