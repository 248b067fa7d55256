//! What is claimed of sockets, on sockets.

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::protobuf::Any;
use hyper_util::rt::TokioIo;
use mesh_xds_client::testkit::resource::cluster;
use mesh_xds_client::testkit::{ControlPlane, Place};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::client::{CDS, Client, cluster_names, over_tcp, request};

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
