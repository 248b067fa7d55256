//! go-control-plane steers: weights shifted and endpoints changed under load, killed and restarted in between.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::rpc::Status;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use mesh_tests::peers::{GoControlPlane, GrpcCore, RunningControlPlane, Snapshot, bootstrap};

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const TARGET: &str = "echo.shop:7070";
const NODE: &str = "client";

#[tokio::test]
async fn answer_waits_until_every_name_of_the_snapshot_was_asked_for() {
    let Some(program) = GoControlPlane::find() else { return };
    let mut control_plane = program.start().await;
    control_plane.set(&snapshot(1)).await;

    // The clusters are asked for first, and held: one of the two that have weight was not named.
    let mut stream = Ads::open(&control_plane, &[ask(CLUSTER, &["a"]), ask(LISTENER, &[TARGET])]).await;
    assert_eq!(stream.answer().await.type_url, LISTENER);

    stream.send(ask(CLUSTER, &["a", "b"])).await;
    let clusters = stream.answer().await;
    assert_eq!((clusters.type_url.as_str(), clusters.resources.len()), (CLUSTER, 2));
}

#[tokio::test]
async fn report_tells_acceptance_rejection_and_reconnection() {
    let Some(program) = GoControlPlane::find() else { return };
    let mut control_plane = program.start().await;
    control_plane.set(&snapshot(1)).await;

    let mut stream = Ads::open(&control_plane, &[ask(LISTENER, &[TARGET])]).await;
    let first = stream.answer().await;
    stream.send(accept(ask(LISTENER, &[TARGET]), &first)).await;
    control_plane.set(&snapshot(2)).await;
    let second = stream.answer().await;
    assert_eq!(second.version_info, "2");
    let still_first = DiscoveryResponse { version_info: first.version_info, ..second };
    stream.send(reject(ask(LISTENER, &[TARGET]), &still_first, "listener: too loud")).await;

    // What was rejected is offered again at once.
    assert_eq!(stream.answer().await.version_info, "2");

    let report = control_plane.report().await;
    assert_eq!(report.acked[LISTENER], "1");
    assert_eq!(report.rejected[0].type_url, LISTENER);
    assert_eq!(report.rejected[0].message, "listener: too loud");
    assert_eq!((report.node.as_str(), report.streams), (NODE, 1));

    let addr = control_plane.addr();
    let killed = control_plane.kill().await;
    assert!(stream.answers.message().await.is_err());
    let mut control_plane = killed.restart().await;
    assert_eq!(control_plane.addr(), addr);
    assert_eq!(control_plane.report().await.opened, 0);
}

// The same that is asked of our clients, asked of one that others wrote: it shows that the control plane, the snapshots and
// the restart are what they should be.
#[tokio::test]
async fn c_core_follows_ten_shifts_and_a_restart_without_a_failed_call() {
    let (Some(program), Some(core)) = (GoControlPlane::find(), GrpcCore::find()) else { return };
    let servers = core.servers(&["v1", "v2", "v3"]).await;
    let (v1, v2) = ([servers.addr("v1")], [servers.addr("v2"), servers.addr("v3")]);
    let split = |version: u32, weight: u32| {
        let clusters: [(&str, u32, &[SocketAddr]); 2] = [("v1", 100 - weight, &v1), ("v2", weight, &v2)];
        Snapshot::new(NODE, version).target(TARGET, &clusters)
    };
    let mut control_plane = program.start().await;
    control_plane.set(&Snapshot::new(NODE, 0).target(TARGET, &[("v1", 100, &v1)])).await;
    let mut client = core.client(&format!("xds:///{TARGET}"), &bootstrap(control_plane.addr(), NODE)).await;
    client.settle(&["v1"]).await;

    client.start().await;
    for version in 1..=10 {
        if version == 6 {
            control_plane = control_plane.kill().await.restart().await;
        }
        control_plane.set(&split(version, version * 10)).await;
        control_plane.accepted(version).await;
    }
    control_plane.set(&Snapshot::new(NODE, 11).target(TARGET, &[("v2", 100, &v2)])).await;
    control_plane.accepted(11).await;
    client.settle(&["v2", "v3"]).await;
    let tally = client.stop().await;

    assert!(tally.failures.is_empty(), "{tally:?}");
}

fn snapshot(version: u32) -> Snapshot {
    let endpoint: [SocketAddr; 1] = [([127, 0, 0, 1], 1).into()];
    Snapshot::new(NODE, version).target(TARGET, &[("a", 1, &endpoint), ("b", 1, &endpoint)])
}

fn ask(type_url: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node { id: NODE.to_owned(), ..Node::default() }),
        type_url: type_url.to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..DiscoveryRequest::default()
    }
}

fn accept(request: DiscoveryRequest, last: &DiscoveryResponse) -> DiscoveryRequest {
    DiscoveryRequest { version_info: last.version_info.clone(), response_nonce: last.nonce.clone(), ..request }
}

fn reject(request: DiscoveryRequest, last: &DiscoveryResponse, message: &str) -> DiscoveryRequest {
    let status = Status { code: Code::InvalidArgument as i32, message: message.to_owned(), details: vec![] };
    DiscoveryRequest { error_detail: Some(status), ..accept(request, last) }
}

/// A state-of-the-world stream by hand.
struct Ads {
    requests: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

impl Ads {
    /// Sends these at once: gRPC's Go server sends no headers before its first message, so that a client which waits for
    /// headers must have asked for something that will be answered.
    async fn open(control_plane: &RunningControlPlane, first: &[DiscoveryRequest]) -> Self {
        let channel = Channel::from_shared(format!("http://{}", control_plane.addr())).unwrap().connect_lazy();
        let (requests, outgoing) = mpsc::channel(8);
        for request in first {
            requests.send(request.clone()).await.unwrap();
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let answers = client.stream_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn send(&self, request: DiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> DiscoveryResponse {
        self.answers.message().await.unwrap().expect("the stream goes on")
    }
}
