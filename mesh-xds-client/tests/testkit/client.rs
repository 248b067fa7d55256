//! A client written by hand against the protocol.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc;
use hyper_util::rt::TokioIo;
use mesh_xds_client::ResourceKind;
use mesh_xds_client::testkit::ControlPlane;
use prost::Message as _;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

pub(crate) const CDS: ResourceKind = ResourceKind::Cluster;

/// One stream, driven by hand.
pub(crate) struct Client {
    requests: mpsc::Sender<DiscoveryRequest>,
    pub(crate) responses: Streaming<DiscoveryResponse>,
}

impl Client {
    /// A stream to `plane` through memory.
    pub(crate) async fn of(plane: &ControlPlane) -> Self {
        Self::over(in_memory(plane).await).await.expect("a stream opens")
    }

    pub(crate) async fn over(channel: Channel) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        let mut service = AggregatedDiscoveryServiceClient::new(channel);
        let responses = service.stream_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    pub(crate) async fn say(&self, request: DiscoveryRequest) {
        self.requests.send(request).await.expect("the stream takes requests");
    }

    pub(crate) async fn ask(&self, kind: ResourceKind, names: &[&str]) {
        self.say(request(kind, names)).await;
    }

    /// The next response.
    pub(crate) async fn hear(&mut self) -> DiscoveryResponse {
        self.responses.message().await.expect("the stream is up").expect("the stream goes on")
    }

    /// The next response, which is accepted.
    pub(crate) async fn take(&mut self, names: &[&str]) -> DiscoveryResponse {
        let response = self.hear().await;
        self.ack(&response, names).await;
        response
    }

    pub(crate) async fn ack(&self, response: &DiscoveryResponse, names: &[&str]) {
        self.say(answer(response, &response.version_info, names)).await;
    }

    pub(crate) async fn nack(&self, response: &DiscoveryResponse, held: &str, names: &[&str]) {
        let error_detail = Some(rpc::Status { code: 3, message: "no good".to_owned(), ..Default::default() });
        self.say(DiscoveryRequest { error_detail, ..answer(response, held, names) }).await;
    }

    /// Nothing comes, for as long as nothing else happens. Under a paused clock this takes no time.
    pub(crate) async fn hears_nothing(&mut self) {
        let heard = timeout(Duration::from_secs(60), self.responses.message()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

pub(crate) fn request(kind: ResourceKind, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        node: Some(Node { id: "tester".to_owned(), ..Default::default() }),
        ..Default::default()
    }
}

fn answer(response: &DiscoveryResponse, version: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: response.type_url.clone(),
        version_info: version.to_owned(),
        response_nonce: response.nonce.clone(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

pub(crate) async fn in_memory(plane: &ControlPlane) -> Channel {
    let plane = plane.clone();
    let connect = tower::service_fn(move |_| {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(plane.serve_connection(theirs));
        async move { Ok::<TokioIo<DuplexStream>, std::io::Error>(TokioIo::new(ours)) }
    });
    Endpoint::from_static("http://plane").connect_with_connector(connect).await.expect("memory connects")
}

pub(crate) async fn over_tcp(address: SocketAddr) -> Client {
    let channel = Endpoint::try_from(format!("http://{address}")).expect("a URI").connect().await;
    Client::over(channel.expect("the port is open")).await.expect("a stream opens")
}

pub(crate) fn cluster_names(response: &DiscoveryResponse) -> Vec<String> {
    let name = |any: &Any| Cluster::decode(any.value.as_slice()).expect("a cluster").name;
    response.resources.iter().map(name).collect()
}

pub(crate) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
