//! Peers that break the rules, and refusals made on this side: the right status for one call, and no harm to the others.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use mesh_core::{
    config::{Address, CircuitBreakers, OutlierDetection, Thresholds},
    outcome::Flags,
};
use mesh_grpc::{CallOptions, Channel, flags};
use mesh_http::{
    Mesh,
    connect::{Connect, Connecting},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
};
use tonic::{Code, Request, Status};

use crate::support::{
    Alive, Client, Pipes, Place, RawBody, Said, Server, builder, builder_over, built, client_of, collect, framed,
    frames, grpc, http2_peer, joined, message, one, page, trailers, until, whole, within,
};

/// Refuses connections until it is open.
#[derive(Clone, Default)]
struct Gate {
    open: Arc<OnceLock<Pipes>>,
    refused: watch::Sender<usize>,
}

impl Connect for Gate {
    fn connect(&self, address: &Address) -> Connecting {
        let Some(pipes) = self.open.get() else {
            self.refused.send_modify(|count| *count += 1);
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        };
        pipes.connect(address)
    }
}

/// A client of a peer that answers calls marked `x-odd` with `odd`, and others as it should.
async fn odd_peer(odd: impl Fn() -> Response<RawBody> + Clone + Send + 'static) -> (Client, tokio::task::JoinSet<()>) {
    let respond = move |request: &http::Request<hyper::body::Incoming>| {
        if request.headers().contains_key("x-odd") { odd() } else { whole() }
    };
    let (address, peer) = http2_peer(respond).await;
    (built(builder([address]).no_retries()), peer)
}

fn odd() -> Request<Bytes> {
    let mut request = Request::new(message(""));
    request.metadata_mut().insert("x-odd", "yes".parse().expect("legal"));
    request
}

/// Makes an odd call among others, which must not notice, and gives its status.
async fn status_among_others(client: &Client) -> Status {
    let others = (0..8).map(|_| {
        let mut client = client.clone();
        async move { client.unary(message("")).await }
    });
    let mut odd_client = client.clone();
    let (others, status) = tokio::join!(futures_util::future::join_all(others), odd_client.unary(odd()));
    for other in others {
        assert_eq!(other.expect("others are unharmed").into_inner(), "whole");
    }
    assert_eq!(client.clone().unary(message("")).await.expect("and those after it").into_inner(), "whole");
    status.expect_err("the odd one fails")
}

#[tokio::test]
async fn answer_without_a_status_is_unknown() {
    let (client, _peer) = odd_peer(|| grpc(frames(vec![Ok(framed("no end"))]))).await;
    assert_eq!(status_among_others(&client).await.code(), Code::Unknown);
    let answers = client.clone().server_stream(odd()).await.expect("a head").into_inner();
    let (messages, end) = collect(answers).await;
    assert_eq!((messages, end.expect_err("no status").code()), (vec![message("no end")], Code::Unknown));

    let (client, _peer) = odd_peer(|| grpc(frames(vec![Ok(framed("")), Ok(Frame::trailers(HeaderMap::new()))]))).await;
    assert_eq!(status_among_others(&client).await.code(), Code::Unknown);
}

#[tokio::test]
async fn http_error_is_the_status_that_it_stands_for() {
    let pairs = [
        (400, Code::Internal),
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::Unimplemented),
        (429, Code::Unavailable),
        (500, Code::Unknown),
        (502, Code::Unavailable),
        (503, Code::Unavailable),
        (504, Code::Unavailable),
    ];
    for (http, code) in pairs {
        let (client, _peer) = odd_peer(move || page(http)).await;
        let status = status_among_others(&client).await;
        assert_eq!(status.code(), code, "{http}: {status:?}");
        assert!(status.message().contains(&http.to_string()), "{status:?}");
    }
}

#[tokio::test]
async fn page_with_status_200_is_no_answer() {
    let (client, _peer) = odd_peer(|| page(200)).await;
    let status = status_among_others(&client).await;
    assert_eq!(status.code(), Code::Unknown);
    assert!(status.message().contains("text/html"), "{status:?}");
}

#[tokio::test]
async fn status_that_is_no_number_is_unknown() {
    let (client, _peer) = odd_peer(|| {
        let mut response = grpc(frames(vec![]));
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("fine"));
        response
    })
    .await;
    assert_eq!(status_among_others(&client).await.code(), Code::Unknown);
}

#[tokio::test]
async fn reset_has_the_status_of_its_code() {
    let pairs = [
        (h2::Reason::INTERNAL_ERROR, Code::Internal),
        (h2::Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
        (h2::Reason::INADEQUATE_SECURITY, Code::PermissionDenied),
        (h2::Reason::REFUSED_STREAM, Code::Unavailable),
        (h2::Reason::PROTOCOL_ERROR, Code::Internal),
    ];
    for (reason, code) in pairs {
        let (client, _peer) = odd_peer(move || grpc(frames(vec![Ok(framed("part")), Err(reason.into())]))).await;
        let status = status_among_others(&client).await;
        assert_eq!(status.code(), code, "{reason:?}: {status:?}");
    }
}

#[tokio::test]
async fn message_that_is_cut_short_is_an_error() {
    let cut = || Bytes::from_static(b"\0\0\0\0\x09four");
    let (client, _peer) = odd_peer(move || grpc(frames(vec![Ok(Frame::data(cut())), Ok(trailers("0"))]))).await;
    let status = status_among_others(&client).await;
    assert_eq!(status.code(), Code::Internal, "{status:?}");
}

#[tokio::test]
async fn peer_that_speaks_no_http_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let peer = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 64]).await;
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await;
        }
    });
    let status = client_of([address]).unary(message("")).await.expect_err("nothing to talk to");
    assert_eq!((status.code(), flags(&status)), (Code::Unavailable, Flags::UF | Flags::URX), "{status:?}");
    peer.abort();
}

#[tokio::test]
async fn peer_that_hangs_up_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let peer = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let status = client_of([address]).unary(message("")).await.expect_err("it hangs up");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    peer.abort();
}

#[tokio::test]
async fn nobody_there_is_unavailable_at_once() {
    let nobody = Place::new();
    let status = client_of([nobody.address]).unary(message("")).await.expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(flags(&status).contains(Flags::UF), "{:?}", flags(&status));
}

#[tokio::test(start_paused = true)]
async fn message_says_once_what_happened_and_where() {
    let status = built(builder_over(Gate::default())).unary(message("")).await.expect_err("it is shut");
    let expected = "request failed [UF,URX]: no retry is left: endpoint 1 failed: connection failure: \
                    no stream to the endpoint: connection refused";
    assert_eq!(status.message(), expected);
}

#[tokio::test(start_paused = true)]
async fn call_that_waits_goes_out_when_somebody_is_there() {
    let gate = Gate::default();
    let mut client = built(builder_over(gate.clone()));
    let mut request = Request::new(message("patient"));
    request.extensions_mut().insert(CallOptions::new().wait_for_ready());
    let waiting = tokio::spawn(async move { client.unary(request).await });
    let mut refused = gate.refused.subscribe();
    until("it was refused twice", refused.wait_for(|count| *count >= 2)).await.expect("the gate is here");
    assert!(!waiting.is_finished());

    gate.open.get_or_init(|| Server::in_memory(async |request| Ok(one(joined(request.into_inner()).await?))));
    let answer = until("the call goes out", waiting).await.expect("no panic");
    assert_eq!(answer.expect("an answer").into_inner(), "patient");
}

#[tokio::test]
async fn open_breaker_is_unavailable_at_once() {
    let alive = Alive::default();
    let server = Server::silent(&alive);
    let limit = CircuitBreakers {
        default: Thresholds { max_requests: Some(1), ..Thresholds::default() },
        ..Default::default()
    };
    let mut client = built(builder([server.address]).circuit_breakers(limit));
    let mut first = client.clone();
    let first = tokio::spawn(async move { first.unary(message("")).await });
    alive.reaches(1).await;
    let status = client.unary(message("")).await.expect_err("there is no room");
    assert_eq!((status.code(), flags(&status)), (Code::Unavailable, Flags::UO), "{status:?}");
    first.abort();
}

#[tokio::test]
async fn authority_outside_the_target_is_unavailable() {
    let server = Server::echo();
    let channel = builder([server.address]).build().expect("a legal channel");
    let origin = "http://elsewhere.test".parse().expect("legal");
    let mut client = Client::from(tonic::client::Grpc::with_origin(channel, origin));
    let status = client.unary(message("")).await.expect_err("there is no route");
    assert_eq!((status.code(), flags(&status)), (Code::Unavailable, Flags::NR), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn configuration_that_never_comes_is_unavailable_or_the_deadline() {
    let mesh = Mesh::builder().source(Said::default()).build().expect("in a runtime");
    let builder = Channel::builder("echo.test").mesh(&mesh).ready_timeout(Duration::from_millis(50));
    let mut client = built(builder);
    let status = client.unary(message("")).await.expect_err("nothing is known");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("echo.test"), "{status:?}");

    for options in [CallOptions::new(), CallOptions::new().wait_for_ready()] {
        let mut request = within(Duration::from_millis(20));
        request.extensions_mut().insert(options);
        let status = client.unary(request).await.expect_err("nothing is known");
        assert_eq!((status.code(), flags(&status)), (Code::DeadlineExceeded, Flags::UT), "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusal_is_not_counted_against_the_endpoint() {
    let network = Server::in_memory(async |request| match &*joined(request.into_inner()).await? {
        b"break" => Err(Status::internal("broken")),
        _ => Ok(one("")),
    });
    // One failure is enough.
    let rules = OutlierDetection { consecutive_errors: 1, always_eject_one: true, ..OutlierDetection::default() };
    let channel = network.builder().no_retries().outlier_detection(rules).build().expect("a legal channel");
    let is_ejected = async || {
        // The clock moves on when every task waits, the one that ejects included.
        tokio::time::sleep(Duration::from_millis(1)).await;
        channel.status().clusters[0].endpoints[0].is_ejected
    };
    let mut client = Client::new(channel.clone());
    client.unary(message("")).await.expect("the endpoint is well");
    for _ in 0..20 {
        let mut request = Request::new(message(""));
        request.extensions_mut().insert(CallOptions::new().within(Duration::ZERO));
        assert_eq!(client.unary(request).await.expect_err("no time").code(), Code::DeadlineExceeded);
    }
    assert!(!is_ejected().await);
    assert_eq!(client.unary(message("break")).await.expect_err("it is told to").code(), Code::Internal);
    assert!(is_ejected().await, "a failure of its own is counted");
}
