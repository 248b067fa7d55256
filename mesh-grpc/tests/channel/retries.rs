//! What is tried again, when, and what the server is told of it; and what endpoints are blamed for.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use mesh_core::config::{LoadBalancing, OutlierDetection, Percent, RetryOn, RetryPolicy};
use mesh_grpc::CallOptions;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use crate::support::{
    Client, Place, Server, answer, attempts_before, builder, built, client_of, collect, http2_peer, joined, message,
    moody_peer, one, page, whole,
};

/// The attempts that a server saw: how many were before each, and when each came.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(u32, Instant)>>>);

impl Seen {
    fn note<T>(&self, request: &Request<T>) -> u32 {
        let before = attempts_before(request);
        self.0.lock().expect("not poisoned").push((before, Instant::now()));
        before
    }

    fn take(&self) -> Vec<(u32, Instant)> {
        std::mem::take(&mut *self.0.lock().expect("not poisoned"))
    }

    fn numbers(&self) -> Vec<u32> {
        self.take().into_iter().map(|(before, _)| before).collect()
    }
}

/// A client that retries what is UNAVAILABLE, twice.
fn retrying(server: &Server) -> Client {
    let policy = RetryPolicy::on(RetryOn::GRPC_UNAVAILABLE).max_retries(2).expect("legal");
    built(builder([server.address]).retry(policy))
}

fn pushback(value: &str) -> Status {
    let mut status = Status::unavailable("not now");
    status.metadata_mut().insert("grpc-retry-pushback-ms", value.parse().expect("legal"));
    status
}

#[tokio::test]
async fn unavailable_in_a_head_is_retried_and_attempts_are_numbered() {
    let seen = Seen::default();
    let log = seen.clone();
    let server = Server::start(move |request| {
        let before = log.note(&request);
        async move { if before < 2 { Err(Status::unavailable("not yet")) } else { Ok(one("third")) } }
    });
    let answer = retrying(&server).unary(message("")).await.expect("the third attempt");
    assert_eq!(answer.into_inner(), "third");
    assert_eq!(seen.numbers(), [0, 1, 2]);
}

#[tokio::test]
async fn by_default_only_idempotent_calls_are_repeated() {
    let server = Server::start(async |request| {
        if attempts_before(&request) == 0 { Err(Status::unavailable("not yet")) } else { Ok(one("second")) }
    });
    let mut client = client_of([server.address]);
    assert_eq!(client.unary(message("")).await.expect_err("as the server says").code(), Code::Unavailable);
    let mut request = Request::new(message(""));
    request.extensions_mut().insert(CallOptions::new().idempotent());
    assert_eq!(client.unary(request).await.expect("the second attempt").into_inner(), "second");
}

#[tokio::test]
async fn last_answer_is_delivered_when_attempts_are_used_up() {
    let seen = Seen::default();
    let log = seen.clone();
    let server = Server::start(move |request| {
        let before = log.note(&request);
        async move { Err(Status::unavailable(format!("answer {before}"))) }
    });
    let status = retrying(&server).unary(message("")).await.expect_err("never");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "answer 2"));
    assert_eq!(seen.numbers(), [0, 1, 2]);
}

#[tokio::test]
async fn committed_call_is_not_retried() {
    let seen = Seen::default();
    let log = seen.clone();
    let server = Server::start(move |request| {
        log.note(&request);
        async { Ok(answer(tokio_stream::iter([Ok(message("part")), Err(Status::unavailable("broken off"))]))) }
    });
    let mut client = retrying(&server);
    let answers = client.server_stream(message("")).await.expect("a head").into_inner();
    let (messages, end) = collect(answers).await;
    assert_eq!((messages, end.expect_err("in the trailers").code()), (vec![message("part")], Code::Unavailable));
    assert_eq!(seen.numbers(), [0]);
}

#[tokio::test]
async fn other_statuses_are_not_retried() {
    for code in [Code::Internal, Code::Aborted, Code::ResourceExhausted] {
        let seen = Seen::default();
        let log = seen.clone();
        let server = Server::start(move |request| {
            log.note(&request);
            async move { Err(Status::new(code, "no")) }
        });
        assert_eq!(retrying(&server).unary(message("")).await.expect_err("no").code(), code);
        assert_eq!(seen.numbers(), [0], "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pushback_says_exactly_how_long_to_wait() {
    let seen = Seen::default();
    let log = seen.clone();
    let server = Server::in_memory(move |request| {
        let before = log.note(&request);
        async move { if before == 0 { Err(pushback("200")) } else { Ok(one("")) } }
    });
    let policy = RetryPolicy::on(RetryOn::GRPC_UNAVAILABLE);
    built(server.builder().retry(policy)).unary(message("")).await.expect("the second attempt");
    let seen = seen.take();
    let waited = seen[1].1 - seen[0].1;
    // The back-off alone would be below 25 ms; tokio's timers are a millisecond apart.
    let expected = Duration::from_millis(200);
    assert!((expected..=expected + Duration::from_millis(1)).contains(&waited), "{waited:?}");
}

#[tokio::test]
async fn pushback_that_is_negative_or_unreadable_stops() {
    for value in ["-1", "soon"] {
        let seen = Seen::default();
        let log = seen.clone();
        let server = Server::start(move |request| {
            log.note(&request);
            async move { Err(pushback(value)) }
        });
        let status = retrying(&server).unary(message("")).await.expect_err("as the server says");
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(seen.numbers(), [0], "{value}");
    }
}

#[tokio::test]
async fn request_stream_is_sent_again() {
    let server = Server::start(async |request| {
        let before = attempts_before(&request);
        let body = joined(request.into_inner()).await?;
        if before == 0 { Err(Status::unavailable("again, please")) } else { Ok(one(body)) }
    });
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let sender = async {
        for text in ["a", "b", "c"] {
            send.send(message(text)).await.expect("it is read");
            tokio::task::yield_now().await;
        }
        drop(send);
    };
    let mut client = retrying(&server);
    let call = client.client_stream(tokio_stream::wrappers::ReceiverStream::new(receive));
    let (answer, ()) = tokio::join!(call, sender);
    assert_eq!(answer.expect("the second attempt").into_inner(), "abc");
}

#[tokio::test]
async fn request_past_the_limit_goes_on_and_is_not_retried() {
    let seen = Seen::default();
    let log = seen.clone();
    let server = Server::start(move |request| {
        let fails = request.metadata().contains_key("x-fail");
        log.note(&request);
        async move {
            let body = joined(request.into_inner()).await?;
            if fails { Err(Status::unavailable("again?")) } else { Ok(one(body.len().to_string())) }
        }
    });
    let mut client = retrying(&server);
    let stream = || tokio_stream::iter((0..64).map(|_| Bytes::from(vec![1; 64 << 10])));
    let answer = client.client_stream(stream()).await.expect("an answer");
    assert_eq!(answer.into_inner(), (4 << 20).to_string());

    let mut request = Request::new(stream());
    request.metadata_mut().insert("x-fail", "yes".parse().expect("legal"));
    assert_eq!(client.client_stream(request).await.expect_err("as the server says").code(), Code::Unavailable);
    assert_eq!(seen.numbers(), [0, 0]);
}

#[tokio::test]
async fn retry_prefers_an_endpoint_that_is_alive() {
    let server = Server::start(async |_| Ok(one("alive")));
    let dead = Place::new();
    let mut client = client_of([dead.address, server.address]);
    for _ in 0..50 {
        assert_eq!(client.unary(message("")).await.expect("the living one").into_inner(), "alive");
    }
}

#[tokio::test]
async fn conditions_of_the_route_decide() {
    let server = Server::start(async |request| {
        if attempts_before(&request) == 0 { Err(Status::resource_exhausted("full")) } else { Ok(one("room")) }
    });
    let policy = RetryPolicy::on(RetryOn::GRPC_RESOURCE_EXHAUSTED);
    let mut client = built(builder([server.address]).retry(policy));
    assert_eq!(client.unary(message("")).await.expect("the second attempt").into_inner(), "room");
    let status = built(builder([server.address]).no_retries()).unary(message("")).await.expect_err("only one");
    assert_eq!(status.code(), Code::ResourceExhausted);
}

/// A client that retries on `conditions`, and a peer that meets the first attempt at a call with a page.
async fn behind_a_page(
    status: u16,
    headers: &'static [&'static str],
    conditions: RetryOn,
) -> (Client, tokio::task::JoinSet<()>) {
    let respond = move |request: &http::Request<hyper::body::Incoming>| {
        if request.headers().contains_key("grpc-previous-rpc-attempts") {
            return whole();
        }
        let mut page = page(status);
        page.headers_mut()
            .extend(headers.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("true"))));
        page
    };
    let (address, peer) = http2_peer(respond).await;
    (built(builder([address]).retry(RetryPolicy::on(conditions))), peer)
}

#[tokio::test]
async fn page_of_a_proxy_is_retried_by_the_status_that_it_stands_for() {
    let rows = [
        (429, Code::Unavailable, RetryOn::GRPC_UNAVAILABLE),
        (502, Code::Unavailable, RetryOn::GRPC_UNAVAILABLE),
        (503, Code::Unavailable, RetryOn::GRPC_UNAVAILABLE),
        (504, Code::Unavailable, RetryOn::GRPC_UNAVAILABLE),
        (400, Code::Internal, RetryOn::GRPC_INTERNAL),
        // Envoy's conditions look at the HTTP status.
        (502, Code::Unavailable, RetryOn::GATEWAY_ERROR),
        (503, Code::Unavailable, RetryOn::SERVER_ERROR),
        (500, Code::Unknown, RetryOn::SERVER_ERROR),
    ];
    for (status, code, condition) in rows {
        let (mut client, _peer) = behind_a_page(status, &[], condition).await;
        let answer = client.unary(message("")).await;
        assert_eq!(answer.expect("the second attempt").into_inner(), "whole", "{status} {condition:?}");

        let (mut client, _peer) = behind_a_page(status, &[], RetryOn::GRPC_CANCELLED).await;
        assert_eq!(client.unary(message("")).await.expect_err("it is not asked for").code(), code, "{status}");
    }
}

#[tokio::test]
async fn page_that_stands_for_another_status_is_not_retried() {
    for (status, condition) in [
        (500, RetryOn::GRPC_UNAVAILABLE),
        (404, RetryOn::GRPC_UNAVAILABLE),
        (500, RetryOn::GATEWAY_ERROR),
        (429, RetryOn::SERVER_ERROR),
    ] {
        let (mut client, _peer) = behind_a_page(status, &[], condition).await;
        client.unary(message("")).await.expect_err("it is not asked for");
    }
}

#[tokio::test]
async fn page_of_a_rate_limit_is_retried_only_by_its_own_condition() {
    let limited = &["x-envoy-ratelimited"];
    let (mut client, _peer) = behind_a_page(429, limited, RetryOn::GRPC_UNAVAILABLE).await;
    assert_eq!(client.unary(message("")).await.expect_err("it is not asked for").code(), Code::Unavailable);
    let (mut client, _peer) = behind_a_page(429, limited, RetryOn::RATE_LIMITED).await;
    client.unary(message("")).await.expect("the second attempt");
}

#[tokio::test]
async fn reset_is_retried_by_the_status_that_callers_see() {
    let rows = [
        (h2::Reason::CANCEL, Code::Cancelled, RetryOn::GRPC_CANCELLED),
        (h2::Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted, RetryOn::GRPC_RESOURCE_EXHAUSTED),
        (h2::Reason::INTERNAL_ERROR, Code::Internal, RetryOn::GRPC_INTERNAL),
    ];
    for (reason, code, _) in rows {
        let respond = move |request: &http::Request<hyper::body::Incoming>| {
            let is_first = !request.headers().contains_key("grpc-previous-rpc-attempts");
            if is_first { Err(reason.into()) } else { Ok(whole()) }
        };
        let (address, _peer) = moody_peer(respond).await;
        for (_, wanted, condition) in rows {
            let answer = built(builder([address]).retry(RetryPolicy::on(condition))).unary(message("")).await;
            match answer {
                Ok(answer) => assert_eq!((answer.into_inner(), wanted), ("whole".into(), code)),
                Err(status) => assert!(status.code() == code && wanted != code, "{status} on {condition:?}"),
            }
        }
    }
}

#[tokio::test]
async fn endpoint_that_fails_in_trailers_is_ejected() {
    let bad =
        Server::start(async |_| Ok(answer(tokio_stream::iter([Ok(message("bad")), Err(Status::internal("broken"))]))));
    let good = Server::start(async |_| Ok(one("good")));
    let max_ejected = Percent::new(50.0).expect("legal");
    let rules = OutlierDetection { consecutive_errors: 3, max_ejected, ..OutlierDetection::default() };
    // The default avoids an endpoint after its first failure already.
    let builder =
        builder([bad.address, good.address]).outlier_detection(rules).load_balancing(LoadBalancing::RoundRobin);
    let channel = builder.build().expect("a legal channel");
    let mut client = Client::new(channel.clone());
    let (mut failures, mut since_failure) = (0, 0);
    for _ in 0..100 {
        let answers = client.server_stream(message("")).await.expect("a head").into_inner();
        match collect(answers).await.1 {
            Ok(()) => since_failure += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::Internal);
                failures += 1;
                since_failure = 0;
            }
        }
    }
    assert_eq!(failures, 3, "{:?}", channel.mesh().status());
    assert!(since_failure > 20, "{since_failure}");
}
