//! What clients say is recorded, and can be waited for.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use mesh_xds_client::ResourceKind::ClusterLoadAssignment;
use mesh_xds_client::testkit::resource::{cluster, endpoints};
use mesh_xds_client::testkit::{ControlPlane, Event};
use tokio::time::timeout;

use crate::client::{CDS, Client, address};

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
