//! The same in delta.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mesh_xds_client::testkit::ControlPlane;
use mesh_xds_client::testkit::resource::cluster;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::client::{CDS, in_memory};

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
