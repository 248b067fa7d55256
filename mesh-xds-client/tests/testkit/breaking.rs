//! A control plane that is late, silent, slow, corrupt or gone, as it is told to be.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use mesh_xds_client::ResourceKind::{ClusterLoadAssignment, Listener};
use mesh_xds_client::testkit::resource::{cluster, endpoints, listener};
use mesh_xds_client::testkit::{ControlPlane, Mutations};
use prost::Message as _;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::client::{CDS, Client, address, cluster_names, in_memory};

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
