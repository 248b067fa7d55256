//! Deadlines: what the server is told, and when the caller hears that time is up.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use mesh_core::{
    config::{RetryOn, RetryPolicy},
    outcome::Flags,
};
use mesh_grpc::{CallOptions, flags};
use mesh_http::Scope;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use crate::support::{
    Alive, Messages, Place, Server, attempts_before, builder, built, client_of, collect, message, one, ticks, within,
};

/// What `grpc-timeout` says, in microseconds.
fn timeout_of<T>(request: &Request<T>) -> Option<u64> {
    let text = request.metadata().get("grpc-timeout")?.to_str().expect("visible");
    let (digits, unit) = text.split_at(text.len() - 1);
    let scale = match unit {
        "S" => 1_000_000,
        "m" => 1_000,
        "u" => 1,
        _ => panic!("unexpected unit in {text}"),
    };
    Some(digits.parse::<u64>().expect("digits") * scale)
}

#[tokio::test]
async fn server_is_told_the_time_that_is_left_and_less_with_each_attempt() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let server = Server::start(move |request| {
        log.lock().expect("not poisoned").push(timeout_of(&request));
        let before = attempts_before(&request);
        async move { if before < 2 { Err(Status::unavailable("not yet")) } else { Ok(one("")) } }
    });
    let policy = RetryPolicy::on(RetryOn::GRPC_UNAVAILABLE).max_retries(2).expect("legal");
    let mut client = built(builder([server.address]).retry(policy));

    client.unary(within(Duration::from_secs(30))).await.expect("the third attempt");
    let times: Vec<u64> = told.lock().expect("not poisoned").drain(..).flatten().collect();
    assert_eq!(times.len(), 3);
    assert!(times[0] <= 30_000_000 && times[0] > 25_000_000, "{times:?}");
    assert!(times.is_sorted_by(|one, next| one > next), "{times:?}");

    client.unary(message("")).await.expect("the third attempt");
    assert_eq!(*told.lock().expect("not poisoned"), [None, None, None]);
}

#[tokio::test]
async fn options_and_the_header_both_count_and_the_nearer_wins() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let server = Server::start(move |request| {
        log.lock().expect("not poisoned").extend(timeout_of(&request));
        async { Ok(one("")) }
    });
    let mut client = client_of([server.address]);
    for (header, option) in [(60, 20), (20, 60)] {
        let mut request = within(Duration::from_secs(header));
        request.extensions_mut().insert(CallOptions::new().within(Duration::from_secs(option)));
        client.unary(request).await.expect("an answer");
    }
    assert!(told.lock().expect("not poisoned").iter().all(|micros| (15_000_000..=20_000_000).contains(micros)));
}

#[tokio::test]
async fn deadline_ends_a_call_that_has_no_answer() {
    let alive = Alive::default();
    let server = Server::silent(&alive);
    let mut client = client_of([server.address]);
    let start = Instant::now();
    let status = client.unary(within(Duration::from_millis(80))).await.expect_err("too slow");
    assert_eq!((status.code(), flags(&status)), (Code::DeadlineExceeded, Flags::UT), "{status:?}");
    assert!(start.elapsed() >= Duration::from_millis(80));
    alive.reaches(0).await;
}

#[tokio::test(start_paused = true)]
async fn deadline_ends_a_response_stream() {
    let alive = Alive::default();
    let handlers = alive.clone();
    // tonic's server alone leaves streams to the client.
    let server = Server::in_memory(move |_| {
        let guard = handlers.enter();
        async move { Ok(ticks(Duration::from_millis(40), guard)) }
    });
    let request = within(Duration::from_millis(150));
    let answers = server.client().server_stream(request).await.expect("a head").into_inner();
    let (ticks, end) = collect(answers).await;
    let status = end.expect_err("it would never end");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(ticks.len(), 3);
    alive.reaches(0).await;
}

#[tokio::test]
async fn time_that_is_over_before_the_call_is_refused_unsent() {
    let server = Server::start(async |_| -> Result<tonic::Response<Messages>, Status> { panic!("never called") });
    let mut client = client_of([server.address]);
    let status = Scope::new().until(Instant::now()).run(client.unary(message(""))).await.expect_err("no time");
    assert_eq!((status.code(), flags(&status)), (Code::DeadlineExceeded, Flags::UT), "{status:?}");
}

#[tokio::test]
async fn deadline_ends_waiting_for_an_endpoint_and_between_attempts() {
    let nobody = Place::new();
    let mut request = within(Duration::from_millis(80));
    request.extensions_mut().insert(CallOptions::new().wait_for_ready());
    let status = client_of([nobody.address]).unary(request).await.expect_err("nobody comes");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");

    let server = Server::start(async |_| {
        let mut status = Status::unavailable("later");
        status.metadata_mut().insert("grpc-retry-pushback-ms", "60000".parse().expect("legal"));
        Err(status)
    });
    // A wait beyond the deadline is not begun: the answer of now is worth more.
    let mut client = built(builder([server.address]).retry(RetryPolicy::on(RetryOn::GRPC_UNAVAILABLE)));
    let status = client.unary(within(Duration::from_secs(20))).await.expect_err("as the server says");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "later"));
}

#[tokio::test(start_paused = true)]
async fn attempt_that_is_too_slow_is_retried_in_time() {
    let server = Server::in_memory(async |request| {
        if attempts_before(&request) == 0 {
            std::future::pending::<()>().await;
        }
        Ok(one("second"))
    });
    let policy = RetryPolicy::on(RetryOn::RESET);
    let mut client = built(server.builder().per_try_timeout(Duration::from_millis(50)).retry(policy));
    let answer = client.unary(within(Duration::from_secs(20))).await.expect("the second attempt");
    assert_eq!(answer.into_inner(), "second");
}
