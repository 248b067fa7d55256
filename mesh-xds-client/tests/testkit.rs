//! What the control plane of the test kit says to a client written by hand against the protocol, in memory under a paused
//! clock, and on sockets where the claim is about sockets.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::{protobuf::Any, rpc};
use hyper_util::rt::TokioIo;
use mesh_core::source::ConfigSource;
use mesh_xds_client::ResourceKind::{self, ClusterLoadAssignment, Listener, RouteConfiguration};
use mesh_xds_client::bootstrap::ServerFeature;
use mesh_xds_client::testkit::resource::{cluster, endpoints, listener, route_config};
use mesh_xds_client::testkit::{ControlPlane, Event, Mutations, Place};
use prost::Message;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

const CDS: ResourceKind = ResourceKind::Cluster;

/// One stream, driven by hand.
struct Client {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Client {
    /// A stream to `plane` through memory.
    async fn of(plane: &ControlPlane) -> Self {
        Self::over(in_memory(plane).await).await.expect("a stream opens")
    }

    async fn over(channel: Channel) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        let mut service = AggregatedDiscoveryServiceClient::new(channel);
        let responses = service.stream_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn say(&self, request: DiscoveryRequest) {
        self.requests.send(request).await.expect("the stream takes requests");
    }

    async fn ask(&self, kind: ResourceKind, names: &[&str]) {
        self.say(request(kind, names)).await;
    }

    /// The next response.
    async fn hear(&mut self) -> DiscoveryResponse {
        self.responses.message().await.expect("the stream is up").expect("the stream goes on")
    }

    /// The next response, which is accepted.
    async fn take(&mut self, names: &[&str]) -> DiscoveryResponse {
        let response = self.hear().await;
        self.ack(&response, names).await;
        response
    }

    async fn ack(&self, response: &DiscoveryResponse, names: &[&str]) {
        self.say(answer(response, &response.version_info, names)).await;
    }

    async fn nack(&self, response: &DiscoveryResponse, held: &str, names: &[&str]) {
        let error_detail = Some(rpc::Status { code: 3, message: "no good".to_owned(), ..Default::default() });
        self.say(DiscoveryRequest { error_detail, ..answer(response, held, names) }).await;
    }

    /// Nothing comes, for as long as nothing else happens. Under a paused clock this takes no time.
    async fn hears_nothing(&mut self) {
        let heard = timeout(Duration::from_secs(60), self.responses.message()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

fn request(kind: ResourceKind, names: &[&str]) -> DiscoveryRequest {
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

async fn in_memory(plane: &ControlPlane) -> Channel {
    let plane = plane.clone();
    let connect = tower::service_fn(move |_| {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(plane.serve_connection(theirs));
        async move { Ok::<TokioIo<DuplexStream>, std::io::Error>(TokioIo::new(ours)) }
    });
    Endpoint::from_static("http://plane").connect_with_connector(connect).await.expect("memory connects")
}

async fn over_tcp(address: SocketAddr) -> Client {
    let channel = Endpoint::try_from(format!("http://{address}")).expect("a URI").connect().await;
    Client::over(channel.expect("the port is open")).await.expect("a stream opens")
}

fn cluster_names(response: &DiscoveryResponse) -> Vec<String> {
    let name = |any: &Any| Cluster::decode(any.value.as_slice()).expect("a cluster").name;
    response.resources.iter().map(name).collect()
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

// Resources

#[tokio::test(start_paused = true)]
async fn named_clusters_come_whole_and_only_those_named() {
    let plane = ControlPlane::new();
    for name in ["a", "b", "c"] {
        plane.set(cluster(name));
    }
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a", "b"]).await;
    let response = client.take(&["a", "b"]).await;
    assert_eq!(cluster_names(&response), ["a", "b"]);
    assert_eq!(response.version_info, plane.version(CDS));

    plane.set(cluster("a"));
    assert_eq!(cluster_names(&client.take(&["a", "b"]).await), ["a", "b"], "the unchanged neighbour comes along");
    plane.set(cluster("c"));
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn no_names_mean_all_clusters_until_a_name_was_given() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    plane.set(cluster("b"));
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &[]).await;
    assert_eq!(cluster_names(&client.take(&[]).await), ["a", "b"]);

    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    let response = client.hear().await;
    client.ack(&response, &[]).await;
    plane.wait_for(|event| matches!(event, Event::Acked(ack) if ack.nonce == response.nonce)).await;
    plane.set(cluster("a"));
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn an_asterisk_means_all_clusters() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["*"]).await;
    assert_eq!(cluster_names(&client.take(&["*"]).await), ["a"]);
    plane.set(cluster("b"));
    assert_eq!(cluster_names(&client.take(&["*"]).await), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_first_request_for_unknown_listeners_is_answered_and_for_unknown_routes_is_not() {
    let plane = ControlPlane::new();
    let mut client = Client::of(&plane).await;
    client.ask(Listener, &["a"]).await;
    assert!(client.take(&["a"]).await.resources.is_empty());
    client.ask(RouteConfiguration, &["a"]).await;
    client.hears_nothing().await;
    plane.set(route_config("a", [("x", 1)]));
    assert_eq!(client.take(&["a"]).await.resources.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_endpoints_that_changed_are_sent() {
    let plane = ControlPlane::new();
    plane.set(endpoints("a", [address(1)]));
    plane.set(endpoints("b", [address(2)]));
    let mut client = Client::of(&plane).await;
    client.ask(ClusterLoadAssignment, &["a", "b"]).await;
    assert_eq!(client.take(&["a", "b"]).await.resources.len(), 2);
    plane.set(endpoints("b", [address(3)]));
    let response = client.take(&["a", "b"]).await;
    assert_eq!(response.resources.len(), 1);
    assert_eq!(response.version_info, "3");
}

#[tokio::test(start_paused = true)]
async fn several_changes_are_one_version_and_clusters_come_first() {
    let plane = ControlPlane::new();
    let mut client = Client::of(&plane).await;
    client.ask(Listener, &["l"]).await;
    client.take(&["l"]).await;
    client.ask(CDS, &["a", "b"]).await;
    client.take(&["a", "b"]).await;
    plane.update(|tx| {
        tx.set(listener("l", route_config("r", [("a", 1), ("b", 1)]))).set(cluster("a")).set(cluster("b"));
    });
    let first = client.take(&["a", "b"]).await;
    assert_eq!((first.type_url.as_str(), first.version_info.as_str()), (CDS.type_url(), "1"));
    assert_eq!(cluster_names(&first), ["a", "b"]);
    let second = client.take(&["l"]).await;
    assert_eq!((second.type_url.as_str(), second.version_info.as_str()), (Listener.type_url(), "1"));
}

#[tokio::test(start_paused = true)]
async fn a_removed_cluster_leaves_the_full_state_and_removed_endpoints_say_nothing() {
    let plane = ControlPlane::new();
    plane.update(|tx| {
        tx.set(cluster("a")).set(cluster("b")).set(endpoints("a", [address(1)]));
    });
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a", "b"]).await;
    client.take(&["a", "b"]).await;
    client.ask(ClusterLoadAssignment, &["a"]).await;
    client.take(&["a"]).await;
    plane.remove(CDS, "a");
    assert_eq!(cluster_names(&client.take(&["a", "b"]).await), ["b"]);
    plane.remove(ClusterLoadAssignment, "a");
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_dropped_and_asked_for_again_is_sent_again() {
    let plane = ControlPlane::new();
    plane.set(endpoints("a", [address(1)]));
    let mut client = Client::of(&plane).await;
    client.ask(ClusterLoadAssignment, &["a"]).await;
    let response = client.take(&["a"]).await;
    client.ack(&response, &[]).await;
    client.hears_nothing().await;
    client.ack(&response, &["a"]).await;
    assert_eq!(client.hear().await.resources.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_protobuf_are_sent_as_they_are() {
    let plane = ControlPlane::new();
    let garbage = Any { type_url: CDS.type_url().to_owned(), value: vec![0xff; 9] };
    plane.raw(CDS, "a", garbage.clone());
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    assert_eq!(client.hear().await.resources, [garbage]);
}

// Answers

#[tokio::test(start_paused = true)]
async fn an_ack_is_recorded_with_all_that_it_says() {
    let plane = ControlPlane::new();
    let version = plane.set(cluster("a"));
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    let response = client.take(&["a"]).await;
    let ack = plane.wait_acked(CDS, &version).await.expect("accepted");
    assert_eq!((ack.version.as_str(), ack.answers.as_deref()), (version.as_str(), Some(version.as_str())));
    assert_eq!((ack.nonce, ack.node_id.as_str()), (response.nonce, "tester"));
    assert_eq!((ack.kind, ack.names), (Some(CDS), vec!["a".to_owned()]));
    assert!(!ack.has_node && ack.error.is_none());
    assert!(plane.nacks().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_version_is_not_sent_again_until_something_changes() {
    let plane = ControlPlane::new();
    let first = plane.set(cluster("a"));
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    let response = client.take(&["a"]).await;
    let second = plane.set(cluster("a"));
    let refused = client.hear().await;
    client.nack(&refused, &response.version_info, &["a"]).await;
    client.hears_nothing().await;

    let nack = plane.wait_acked(CDS, &second).await.expect_err("refused");
    assert_eq!((nack.request().version.as_str(), nack.request().answers.as_deref()), (first.as_str(), Some("2")));
    assert_eq!(nack.to_string(), format!(r#"node "tester" refused version 2 of {}: no good"#, CDS.type_url()));
    assert_eq!(plane.nacks().len(), 1);

    let third = plane.set(cluster("a"));
    assert_eq!(client.take(&["a"]).await.version_info, third);
    plane.wait_for(|event| matches!(event, Event::Acked(ack) if ack.version == third)).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_crossed_a_response_is_recorded_and_otherwise_passed_over() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    let first = client.hear().await;
    plane.set(cluster("a"));
    let second = client.hear().await;
    client.ack(&first, &["a", "late"]).await;
    plane.wait_for(|event| matches!(event, Event::Acked(ack) if ack.nonce == first.nonce)).await;
    assert_eq!(plane.subscriptions(CDS), ["a".to_owned()].into());
    client.ack(&second, &["a", "late"]).await;
    plane.wait_for(|event| matches!(event, Event::Acked(ack) if ack.nonce == second.nonce)).await;
    client.hears_nothing().await;
    assert_eq!(plane.subscriptions(CDS), ["a".to_owned(), "late".to_owned()].into());
}

#[tokio::test(start_paused = true)]
async fn streams_and_subscriptions_are_those_of_live_streams() {
    let plane = ControlPlane::new();
    let one = Client::of(&plane).await;
    let two = Client::of(&plane).await;
    one.ask(CDS, &["a"]).await;
    two.ask(CDS, &["b"]).await;
    plane.wait_for(|event| event.request().is_some_and(|request| request.names == ["b"])).await;
    assert_eq!(plane.streams(), 2);
    assert_eq!(plane.subscriptions(CDS), ["a".to_owned(), "b".to_owned()].into());
    drop(one);
    plane.wait_streams(1).await;
    assert_eq!(plane.subscriptions(CDS), ["b".to_owned()].into());
}

#[tokio::test(start_paused = true)]
async fn a_type_nobody_serves_is_recorded_and_not_answered() {
    let plane = ControlPlane::new();
    let mut client = Client::of(&plane).await;
    client.say(DiscoveryRequest { type_url: "type/other".to_owned(), ..Default::default() }).await;
    client.hears_nothing().await;
    let asked = plane.events().into_iter().find_map(|event| event.request().cloned()).expect("recorded");
    assert_eq!((asked.kind, asked.type_url.as_str()), (None, "type/other"));
}

// Delta

/// One stream in delta, driven by hand.
struct DeltaClient {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl DeltaClient {
    async fn of(plane: &ControlPlane) -> Self {
        let (requests, outgoing) = mpsc::channel(16);
        let mut service = AggregatedDiscoveryServiceClient::new(in_memory(plane).await);
        let streaming = service.delta_aggregated_resources(ReceiverStream::new(outgoing)).await;
        Self { requests, responses: streaming.expect("a stream opens").into_inner() }
    }

    async fn ask(&self, subscribe: &[&str], unsubscribe: &[&str], holds: &[(&str, &str)]) {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let request = DeltaDiscoveryRequest {
            type_url: CDS.type_url().to_owned(),
            resource_names_subscribe: owned(subscribe),
            resource_names_unsubscribe: owned(unsubscribe),
            initial_resource_versions: holds
                .iter()
                .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
                .collect(),
            ..Default::default()
        };
        self.requests.send(request).await.expect("the stream takes requests");
    }

    /// The next response, which is accepted: resources with their versions, and names that are gone.
    async fn take(&mut self) -> (Vec<String>, Vec<String>) {
        let response = self.responses.message().await.expect("the stream is up").expect("the stream goes on");
        let type_url = response.type_url.clone();
        let answer = DeltaDiscoveryRequest { type_url, response_nonce: response.nonce, ..Default::default() };
        self.requests.send(answer).await.expect("the stream takes requests");
        let resources = response.resources.iter().map(|one| format!("{}={}", one.name, one.version)).collect();
        (resources, response.removed_resources)
    }

    async fn hears_nothing(&mut self) {
        timeout(Duration::from_secs(60), self.responses.message()).await.expect_err("silence");
    }
}

fn said(resources: &[&str], removed: &[&str]) -> (Vec<String>, Vec<String>) {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    (owned(resources), owned(removed))
}

#[tokio::test(start_paused = true)]
async fn in_delta_what_changed_is_sent_and_what_is_not_there_is_said_once() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    let mut client = DeltaClient::of(&plane).await;
    client.ask(&["a", "b", "ghost"], &[], &[]).await;
    assert_eq!(client.take().await, said(&["a=1"], &["b", "ghost"]));
    plane.set(cluster("b"));
    assert_eq!(client.take().await, said(&["b=2"], &[]));
    plane.remove(CDS, "a");
    assert_eq!(client.take().await, said(&[], &["a"]));
    plane.set(cluster("nobody's"));
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn in_delta_a_client_is_believed_what_it_holds_on_a_new_stream() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    plane.set(cluster("b"));
    let mut client = DeltaClient::of(&plane).await;
    client.ask(&["a", "b", "gone"], &[], &[("a", "1"), ("b", "1"), ("gone", "1")]).await;
    assert_eq!(client.take().await, said(&["b=2"], &["gone"]));
}

#[tokio::test(start_paused = true)]
async fn in_delta_what_is_subscribed_to_again_is_sent_again() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    let mut client = DeltaClient::of(&plane).await;
    for _ in 0..2 {
        client.ask(&["a"], &[], &[]).await;
        assert_eq!(client.take().await, said(&["a=1"], &[]));
    }
    client.ask(&[], &["a"], &[]).await;
    plane.wait_for(|event| event.request().is_some_and(|request| request.unsubscribes == ["a"])).await;
    plane.set(cluster("a"));
    client.hears_nothing().await;
    assert!(plane.subscriptions(CDS).is_empty());
}

#[tokio::test(start_paused = true)]
async fn in_delta_everything_is_wanted_by_a_star_or_by_a_first_request_without_names() {
    for first in [&["*"][..], &[]] {
        let plane = ControlPlane::new();
        let mut client = DeltaClient::of(&plane).await;
        client.ask(first, &[], &[]).await;
        assert_eq!(client.take().await, said(&[], &[]), "there is nothing, and it is said");
        plane.set(cluster("a"));
        assert_eq!(client.take().await, said(&["a=1"], &[]));
        client.ask(&["*", "a"], &[], &[]).await;
        assert_eq!(client.take().await, said(&["a=1"], &[]));
        client.ask(&[], &["a"], &[]).await;
        assert_eq!(client.take().await, said(&["a=1"], &[]), "it is among everything still");
        client.ask(&[], &["*"], &[]).await;
        plane.wait_for(|event| event.request().is_some_and(|request| request.unsubscribes == ["*"])).await;
        plane.set(cluster("b"));
        client.hears_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn in_delta_answers_are_recorded_with_what_was_asked() {
    let plane = ControlPlane::new();
    let version = plane.set(cluster("a"));
    let mut client = DeltaClient::of(&plane).await;
    client.ask(&["a"], &[], &[("x", "7")]).await;
    client.take().await;
    let answer = plane.wait_acked(CDS, &version).await.expect("accepted");
    assert!(answer.is_delta && answer.names == ["a"], "{answer:?}");
    let first = plane.events().into_iter().find_map(|event| event.request().cloned()).expect("recorded");
    assert_eq!((first.subscribes, first.holds.get("x").map(String::as_str)), (vec!["a".to_owned()], Some("7")));
}

// A canary

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

// Breaking

#[tokio::test(start_paused = true)]
async fn ended_streams_bring_their_status_and_leave_the_connection() {
    let plane = ControlPlane::new();
    let channel = in_memory(&plane).await;
    let mut client = Client::over(channel.clone()).await.expect("a stream opens");
    client.ask(CDS, &["a"]).await;
    client.hear().await;
    plane.end_streams(Status::unavailable("going away"));
    let status = client.responses.message().await.expect_err("ended");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "going away"));
    plane.wait_streams(0).await;

    let mut client = Client::over(channel).await.expect("a new stream on the same connection");
    client.ask(CDS, &["a"]).await;
    client.hear().await;
}

#[tokio::test(start_paused = true)]
async fn aborted_connections_end_without_a_word() {
    let plane = ControlPlane::new();
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    client.hear().await;
    plane.abort_connections();
    client.responses.message().await.expect_err("cut");
    plane.wait_streams(0).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_takes_its_connections_along() {
    let plane = ControlPlane::new();
    let (ours, theirs) = tokio::io::duplex(1024);
    let connection = tokio::spawn(plane.serve_connection(theirs));
    let other = plane.clone();
    drop(plane);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!connection.is_finished(), "a handle is left");
    drop(other);
    connection.await.expect("ended");
    drop(ours);
}

#[tokio::test(start_paused = true)]
async fn delayed_responses_come_late_and_silence_keeps_them_until_it_ends() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    let mut client = Client::of(&plane).await;
    plane.silence(true);
    client.ask(CDS, &["a"]).await;
    client.hears_nothing().await;

    plane.delay(Duration::from_secs(7));
    let start = Instant::now();
    plane.silence(false);
    client.take(&["a"]).await;
    assert!((7..8).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dripping_connection_needs_a_second_for_each_byte() {
    let plane = ControlPlane::new();
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    client.take(&["a"]).await;
    plane.drip(Duration::from_secs(1));
    plane.set(cluster("a"));
    let start = Instant::now();
    let size = client.hear().await.encoded_len() as u64;
    assert!(start.elapsed() >= Duration::from_secs(size), "{:?} for {size} bytes", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_unsolicited_response_is_sent_as_written_and_its_nonce_recognised() {
    let plane = ControlPlane::new();
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    client.take(&["a"]).await;
    let odd = DiscoveryResponse {
        version_info: "odd".to_owned(),
        nonce: "odd-nonce".to_owned(),
        type_url: CDS.type_url().to_owned(),
        ..Default::default()
    };
    plane.send(odd.clone());
    assert_eq!(client.hear().await, odd);
    client.ack(&odd, &["a"]).await;
    let ack = plane.wait_acked(CDS, "odd").await.expect("accepted");
    assert_eq!((ack.nonce.as_str(), ack.answers.as_deref()), ("odd-nonce", Some("odd")));
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_delayed_is_passed_by_the_others() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    plane.set(listener("l", "r"));
    plane.delay_kind(CDS, Duration::from_secs(7));
    let mut client = Client::of(&plane).await;
    let start = Instant::now();
    client.ask(CDS, &["a"]).await;
    client.ask(Listener, &["l"]).await;
    assert_eq!(client.take(&["l"]).await.type_url, Listener.type_url());
    assert_eq!(start.elapsed().as_secs(), 0);
    assert_eq!(client.take(&["a"]).await.type_url, CDS.type_url());
    assert_eq!(start.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn responses_delayed_alike_keep_their_order_and_are_not_added_up() {
    let plane = ControlPlane::new();
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    client.take(&["a"]).await;
    plane.delay(Duration::from_secs(7));
    let versions = ["a", "a", "a"].map(|name| plane.set(cluster(name)));
    let start = Instant::now();
    assert_eq!(client.hear().await.version_info, versions[2], "all changes are one response when it is made");
    plane.send(DiscoveryResponse { nonce: "1".to_owned(), ..Default::default() });
    plane.send(DiscoveryResponse { nonce: "2".to_owned(), ..Default::default() });
    assert_eq!((client.hear().await.nonce, client.hear().await.nonce), ("1".to_owned(), "2".to_owned()));
    assert_eq!(start.elapsed().as_secs(), 14);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_back_is_released_in_another_order_with_its_nonces() {
    let plane = ControlPlane::new();
    plane.update(|tx| {
        tx.set(cluster("a")).set(listener("l", "r"));
    });
    let mut client = Client::of(&plane).await;
    plane.hold();
    client.ask(CDS, &["a"]).await;
    client.ask(Listener, &["l"]).await;
    plane.wait_held(2).await;
    client.hears_nothing().await;
    plane.release(|held| {
        held.reverse();
        held.push(held[0].clone());
    });
    let nonces = [client.hear().await, client.hear().await, client.hear().await].map(|response| response.nonce);
    assert_eq!((nonces[0].ends_with("-2"), nonces[1].ends_with("-1")), (true, true), "{nonces:?}");
    assert_eq!(nonces[2], nonces[0], "and one of them twice");

    client.ask(ClusterLoadAssignment, &["a"]).await;
    plane.set(endpoints("a", [address(1)]));
    client.take(&["a"]).await;
}

#[tokio::test(start_paused = true)]
async fn only_the_next_response_of_its_kind_is_corrupt() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    plane.set(listener("l", "r"));
    plane.corrupt_next(CDS, |bytes| *bytes = DiscoveryResponse::default().encode_to_vec());
    let mut client = Client::of(&plane).await;
    client.ask(Listener, &["l"]).await;
    assert_eq!(client.take(&["l"]).await.resources.len(), 1);
    client.ask(CDS, &["a"]).await;
    assert_eq!(client.hear().await, DiscoveryResponse::default());
    plane.set(cluster("a"));
    assert_eq!(cluster_names(&client.hear().await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_response_end_the_stream_at_the_client() {
    let plane = ControlPlane::new();
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    client.take(&["a"]).await;
    plane.send_bytes([0xff; 9]);
    let status = client.responses.message().await.expect_err("it cannot be decoded");
    assert_eq!(status.code(), Code::Internal);
}

#[tokio::test(start_paused = true)]
async fn mutations_are_those_of_their_seed_until_they_end() {
    let heard = async |seed| {
        let plane = ControlPlane::new();
        plane.set(cluster("a"));
        plane.mutate(Mutations::new(seed));
        let mut client = Client::of(&plane).await;
        client.ask(CDS, &["a"]).await;
        let heard = client.responses.message().await.map_err(|status| status.to_string());
        plane.mutate(None);
        let mut client = Client::of(&plane).await;
        client.ask(CDS, &["a"]).await;
        assert_eq!(cluster_names(&client.hear().await), ["a"]);
        heard
    };
    let mut different = 0;
    for seed in 0..8 {
        let first = heard(seed).await;
        assert_eq!(first, heard(seed).await);
        different += u8::from(first != heard(seed + 100).await);
    }
    assert!(different > 4, "{different} of 8");
}

#[tokio::test(start_paused = true)]
async fn refused_streams_bring_their_status_and_open_ones_go_on() {
    let plane = ControlPlane::new();
    let channel = in_memory(&plane).await;
    let mut open = Client::over(channel.clone()).await.expect("a stream opens");
    open.ask(CDS, &["a"]).await;
    open.take(&["a"]).await;
    plane.refuse_streams(Status::resource_exhausted("too many"));
    let status = Client::over(channel.clone()).await.err().expect("refused");
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too many"));
    plane.set(cluster("a"));
    assert_eq!(cluster_names(&open.hear().await), ["a"]);
    plane.refuse_streams(None);
    Client::over(channel).await.expect("a stream opens");
}

#[tokio::test(start_paused = true)]
async fn taken_events_are_forgotten_and_what_comes_is_still_waited_for() {
    let plane = ControlPlane::new();
    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    client.take(&["a"]).await;
    plane.wait_acked(CDS, "0").await.expect("accepted");
    let waiting = tokio::spawn({
        let plane = plane.clone();
        async move { plane.wait_acked(CDS, "1").await.expect("accepted").nonce }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(plane.take_events().len(), 3);
    assert!(plane.events().is_empty());
    plane.set(cluster("a"));
    let response = client.take(&["a"]).await;
    assert_eq!(waiting.await.expect("no panic"), response.nonce);
}

#[tokio::test(start_paused = true)]
async fn a_paused_control_plane_answers_once_resumed() {
    let plane = ControlPlane::new();
    plane.pause();
    let channel = in_memory(&plane).await;
    let opening = tokio::spawn(Client::over(channel));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!opening.is_finished());
    plane.resume();
    opening.await.expect("no panic").expect("a stream opens");
}

// Sockets

#[tokio::test]
async fn a_stopped_control_plane_starts_again_on_its_address_with_what_it_had() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    let place = Place::new([127, 0, 0, 1]).expect("a free port");
    tokio::net::TcpStream::connect(place.address()).await.expect_err("nobody listens yet");
    tokio::spawn(plane.serve(place.listen().expect("nobody else listens")));
    let mut client = over_tcp(place.address()).await;
    client.ask(CDS, &["a"]).await;
    client.take(&["a"]).await;

    plane.stop().await;
    client.responses.message().await.expect_err("cut");
    tokio::net::TcpStream::connect(place.address()).await.expect_err("the port is closed");

    tokio::spawn(plane.serve(place.listen().expect("the port is kept")));
    let mut client = over_tcp(place.address()).await;
    client.ask(CDS, &["a"]).await;
    assert_eq!(cluster_names(&client.hear().await), ["a"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_served_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("xds.sock");
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    tokio::spawn(plane.serve(tokio::net::UnixListener::bind(&path).expect("bound")));
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://plane").connect_with_connector(connect).await.expect("connects");
    let mut client = Client::over(channel).await.expect("a stream opens");
    client.ask(CDS, &["a"]).await;
    assert_eq!(cluster_names(&client.hear().await), ["a"]);
}

#[tokio::test]
async fn a_response_of_many_megabytes_is_sent_whole() {
    let plane = ControlPlane::new();
    let body = Any { type_url: CDS.type_url().to_owned(), value: vec![7; 20 << 20] };
    plane.raw(CDS, "a", body);
    let address = plane.listen("127.0.0.1:0").await.expect("a free port");
    let channel = Endpoint::try_from(format!("http://{address}")).expect("a URI").connect().await.expect("connects");
    let mut service = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let (requests, outgoing) = mpsc::channel(1);
    requests.send(request(CDS, &["a"])).await.expect("taken");
    let responses = service.stream_aggregated_resources(ReceiverStream::new(outgoing)).await;
    let response = responses.expect("a stream opens").into_inner().message().await.expect("up").expect("goes on");
    assert_eq!(response.resources[0].value.len(), 20 << 20);
}

#[tokio::test(start_paused = true)]
async fn answers_are_awaited_until_the_last_response_has_one() {
    let plane = ControlPlane::new();
    plane.set(cluster("a"));
    plane.set(endpoints("a", [address(1)]));
    plane.wait_answered().await;
    let is_answered = async || timeout(Duration::from_secs(1), plane.wait_answered()).await.is_ok();

    let mut client = Client::of(&plane).await;
    client.ask(CDS, &["a"]).await;
    let clusters = client.hear().await;
    client.ask(ClusterLoadAssignment, &["a"]).await;
    let assignment = client.hear().await;
    assert!(!is_answered().await);
    client.ack(&clusters, &["a"]).await;
    assert!(!is_answered().await);
    client.nack(&assignment, "", &["a"]).await;
    assert!(is_answered().await);
}
