//! The four kinds of call through tonic's own client types, and what comes back with them.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::uri::PathAndQuery;
use mesh_grpc::{Channel, testkit::Raw};
use tonic::{
    Code, Request, Status,
    body::Body,
    client::GrpcService,
    codec::{Codec, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::Endpoint,
};

use crate::support::{Client, Server, answer, builder, client_of, collect, joined, message, one};

#[test]
fn channel_is_a_handle() {
    fn is_handle<T: Clone + Send + Sync + 'static>() {}
    is_handle::<Channel>();
}

#[tokio::test]
async fn target_may_have_the_scheme_of_grpc() {
    let server = Server::echo();
    let channel = Channel::builder("xds:///echo.test:7070").endpoints([server.address]).build().expect("legal");
    assert_eq!(channel.client().target(), "echo.test:7070");
    assert_eq!(Client::new(channel).unary(message("one")).await.expect("an answer").into_inner(), "one");
}

#[tokio::test]
async fn channel_shows_and_ends_its_mesh() {
    let server = Server::echo();
    let channel = builder([server.address]).build().expect("a legal channel");
    let mut client = Client::new(channel.clone());
    client.unary(message("one")).await.expect("an answer");
    let status = channel.status();
    assert_eq!((status.clusters[0].endpoints.len(), status.pools[0].figures.connections), (1, 1));
    assert!(channel.shutdown(Duration::from_secs(5)).await, "nothing had to be cut");
    assert_eq!(client.unary(message("one")).await.expect_err("it is shut down").code(), Code::Unavailable);
}

#[tokio::test]
async fn all_four_kinds_of_call_echo() {
    let server = Server::echo();
    let mut client = client_of([server.address]);

    assert_eq!(client.unary(message("one")).await.expect("an answer").into_inner(), "one");

    let sent = tokio_stream::iter(["a", "b", "c"].map(message));
    assert_eq!(client.client_stream(sent).await.expect("an answer").into_inner(), "abc");

    let answers = client.server_stream(message("xyz")).await.expect("an answer").into_inner();
    let (messages, end) = collect(answers).await;
    assert_eq!((messages, end.is_ok()), (["x", "y", "z"].map(message).to_vec(), true));

    let sent = tokio_stream::iter(["a", "b"].map(message));
    let answers = client.both(sent).await.expect("an answer").into_inner();
    assert_eq!(collect(answers).await.0, ["a", "b"].map(message));
}

#[tokio::test]
async fn call_names_its_library_unless_the_caller_does() {
    let server = Server::start(async |request| {
        Ok(one(request.metadata().get("user-agent").expect("it came").as_bytes().to_vec()))
    });
    let mut client = client_of([server.address]);
    let ours = client.unary(message("")).await.expect("an answer").into_inner();
    assert_eq!(ours, concat!("mesh-grpc/", env!("CARGO_PKG_VERSION")));

    let mut named = Request::new(message(""));
    named.metadata_mut().insert("user-agent", "till/3".parse().expect("legal"));
    assert_eq!(client.unary(named).await.expect("an answer").into_inner(), "till/3");
}

#[tokio::test]
async fn each_side_of_a_bidirectional_call_waits_for_the_other() {
    let server = Server::echo();
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let mut client = client_of([server.address]);
    send.send(message("0")).await.expect("room");
    let sent = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut answers = client.both(sent).await.expect("an answer").into_inner();
    for turn in 1..20 {
        let got = answers.message().await.expect("no error").expect("a message");
        assert_eq!(got, message(&(turn - 1).to_string()));
        send.send(message(&turn.to_string())).await.expect("room");
    }
    drop(send);
    assert_eq!(collect(answers).await.0, [message("19")]);
}

#[tokio::test]
async fn big_messages_pass_both_ways() {
    let server = Server::echo();
    let big = Bytes::from(vec![7; 16 << 20]);
    let channel = builder([server.address]).build().expect("a legal channel");
    let grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
    let back = Client::from(grpc).unary(big.clone()).await.expect("an answer").into_inner();
    assert!(back == big, "{} bytes came back", back.len());
}

#[tokio::test]
async fn status_passes_with_message_details_and_metadata() {
    let server = Server::start(async |request| {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-why", "because".parse().expect("legal"));
        metadata.insert_bin("x-raw-bin", tonic::metadata::MetadataValue::from_bytes(b"\0\x01"));
        let details = Bytes::from_static(b"\x08\x09");
        let status = Status::with_details_and_metadata(Code::ResourceExhausted, "no café", details, metadata);
        match request.metadata().contains_key("x-after-a-message") {
            false => Err(status),
            true => Ok(answer(tokio_stream::iter([Ok(message("first")), Err(status)]))),
        }
    });
    let mut client = client_of([server.address]);
    let check = |status: &Status| {
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "no café"));
        assert_eq!(status.details(), b"\x08\x09");
        assert_eq!(status.metadata().get("x-why").expect("it is there"), "because");
        assert_eq!(status.metadata().get_bin("x-raw-bin").expect("it is there").to_bytes().expect("base64"), "\0\x01");
        assert!(mesh_grpc::flags(status).is_empty());
    };

    check(&client.unary(message("")).await.expect_err("trailers only"));
    let mut late = Request::new(message(""));
    late.metadata_mut().insert("x-after-a-message", "yes".parse().expect("legal"));
    let answers = client.server_stream(late).await.expect("a head").into_inner();
    let (messages, end) = collect(answers).await;
    assert_eq!(messages, ["first"]);
    check(&end.expect_err("in the trailers"));
}

#[tokio::test]
async fn metadata_passes_both_ways() {
    let server = Server::start(async |request| {
        let mut response = one("");
        response.metadata_mut().insert("x-back", request.metadata().get("x-there").expect("it came").clone());
        Ok(response)
    });
    let mut request = Request::new(message(""));
    request.metadata_mut().insert("x-there", "mark".parse().expect("legal"));
    let response = client_of([server.address]).unary(request).await.expect("an answer");
    assert_eq!(response.metadata().get("x-back").expect("it came"), "mark");
}

/// Fails to encode a message that says so.
#[derive(Clone, Copy)]
struct Picky;

impl Codec for Picky {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Raw;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Picky {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        if item == "unencodable" {
            return Err(Status::failed_precondition("this one cannot be encoded"));
        }
        Raw.encode(item, buffer)
    }
}

/// The status of a call whose second message cannot be encoded.
async fn status_of_unencodable<T>(channel: T) -> Status
where
    T: GrpcService<Body, ResponseBody: http_body::Body<Data = Bytes> + Send + 'static>,
    T::Error: Into<Box<dyn Error + Send + Sync>> + std::fmt::Debug,
    <T::ResponseBody as http_body::Body>::Error: Into<Box<dyn Error + Send + Sync>> + Send,
{
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("it is ready");
    let sent = tokio_stream::iter(["a", "unencodable", "b"].map(message));
    let path = PathAndQuery::from_static("/mesh.interop.Echo/ClientStream");
    grpc.client_streaming(Request::new(sent), path, Picky).await.expect_err("the second cannot be encoded")
}

#[tokio::test]
async fn request_stream_that_fails_ends_the_call_as_it_does_through_tonics_own_channel() {
    let server = Server::start(async |request| Ok(one(joined(request.into_inner()).await?)));
    let plain = Endpoint::from_shared(format!("http://{}", server.address)).expect("legal").connect_lazy();
    let theirs = status_of_unencodable(plain).await;

    let channel = builder([server.address]).build().expect("a legal channel");
    let ours = status_of_unencodable(channel.clone()).await;
    // hyper resets the stream and forgets why: neither channel can tell more.
    assert_eq!((ours.code(), theirs.code()), (Code::Internal, Code::Internal), "{ours:?}");
    assert_eq!(Client::new(channel).unary(message("next")).await.expect("others go on").into_inner(), "next");
}
