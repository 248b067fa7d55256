//! What a caller of a pool of HTTP/1 connections may rely on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod pool_support;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mesh_core::{
    config::{ConnectionPolicy, TimeLimit},
    outcome::{Failure, FailureKind, Sent},
};
use mesh_http::pool::Pool;
use pool_support::{Backend, Bench, Net, TestBody, all_is_quiet, blame, get, post, text, whole};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{mpsc, oneshot},
};

fn seconds(seconds: u64) -> Option<TimeLimit> {
    TimeLimit::after(Duration::from_secs(seconds)).ok()
}

/// Reads one request head and writes `answer`.
async fn exchange(stream: &mut DuplexStream, answer: &[u8]) {
    let mut head = [0; 4096];
    assert!(stream.read(&mut head).await.unwrap() > 0, "a request should come");
    stream.write_all(answer).await.unwrap();
}

/// Every connection answers once with `answer`, then hangs up.
fn answering(answer: &'static [u8]) -> Arc<Net> {
    Net::accept(move |_, mut stream| drop(tokio::spawn(async move { exchange(&mut stream, answer).await })))
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test(start_paused = true)]
async fn nothing_is_opened_before_the_first_request() {
    let bench = Bench::h1(&Backend::new().h1());
    all_is_quiet().await;
    assert_eq!((bench.net.connects(), bench.figures().connections), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn connection_is_used_again_once_the_body_was_read() {
    let bench = Bench::h1(&Backend::new().h1());
    for _ in 0..20 {
        assert_eq!(bench.served("/").await, "0");
    }
    assert_eq!((bench.net.connects(), bench.figures().connections), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn body_that_is_still_read_keeps_its_connection() {
    let bench = Bench::h1(&Backend::new().h1());
    let first = bench.send(get("/")).await.unwrap();
    assert_eq!(bench.served("/").await, "1");
    assert_eq!(text(Ok(first)).await, "0");
    all_is_quiet().await;
    assert_eq!(bench.figures().idle, 2);
}

#[tokio::test(start_paused = true)]
async fn connection_without_a_body_to_read_is_back_at_the_head() {
    let bench = Bench::h1(&answering_often(b"HTTP/1.1 204 No Content\r\n\r\n"));
    let first = bench.send(get("/")).await.unwrap();
    let second = bench.send(get("/")).await.unwrap();
    assert_eq!(bench.net.connects(), 1);
    drop((first, second));
}

/// Every connection answers every request with `answer`.
fn answering_often(answer: &'static [u8]) -> Arc<Net> {
    Net::accept(move |_, mut stream| {
        tokio::spawn(async move {
            let mut head = [0; 4096];
            while stream.read(&mut head).await.is_ok_and(|count| count > 0) {
                stream.write_all(answer).await.unwrap();
            }
        });
    })
}

#[tokio::test(start_paused = true)]
async fn connection_used_last_is_used_first() {
    let backend = Backend::new();
    let bench = Bench::h1(&backend.h1());
    let waiting = [bench.start("/wait"), bench.start("/wait"), bench.start("/wait")];
    all_is_quiet().await;
    backend.gate.add_permits(3);
    let mut last = String::new();
    for task in waiting {
        last = text(task.await.unwrap()).await;
    }
    all_is_quiet().await;
    assert_eq!(bench.figures().idle, 3);
    for _ in 0..5 {
        assert_eq!(bench.served("/").await, last);
    }
}

#[tokio::test(start_paused = true)]
async fn connection_closed_while_idle_does_no_harm() {
    // 1. Each connection answers one request and says nothing of closing.
    // 2. It is closed at the moment of the next request, which finds it idle.
    let (tx, mut close) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
    let net = Net::accept(move |_, mut stream| {
        let (now, closed) = oneshot::channel();
        tx.send(now).unwrap();
        tokio::spawn(async move {
            exchange(&mut stream, OK).await;
            let _ = closed.await;
        });
    });
    let bench = Bench::h1(&net);
    for round in 1..5 {
        assert_eq!(bench.served("/").await, "ok");
        assert_eq!(net.connects(), round);
        all_is_quiet().await;
        assert_eq!(bench.figures().idle, 1);
        close.recv().await.unwrap().send(()).unwrap();
        if round % 2 == 0 {
            // The driver may hear of it before the next request, or after.
            all_is_quiet().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn request_that_was_written_and_not_answered_may_have_been_sent() {
    let net = Net::accept(|_, mut stream| {
        drop(tokio::spawn(async move {
            exchange(&mut stream, b"").await;
        }));
    });
    let bench = Bench::h1(&net);
    assert_eq!(blame(bench.send(get("/")).await), (FailureKind::Disconnected, Sent::Maybe, false));
    all_is_quiet().await;
    assert_eq!(bench.figures().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn server_that_closes_at_once_does_not_loop() {
    let bench = Bench::h1(&Net::accept(|_, stream| drop(stream)));
    assert_eq!(blame(bench.send(get("/")).await), (FailureKind::Connect, Sent::No, true));
    assert_eq!(bench.net.connects(), 1);
}

#[tokio::test(start_paused = true)]
async fn garbage_is_a_protocol_failure() {
    let bench = Bench::h1(&answering(b"\x00\x01\x02 what is this\r\n\r\n"));
    assert_eq!(blame(bench.send(get("/")).await).0, FailureKind::Protocol);
}

#[tokio::test(start_paused = true)]
async fn too_many_headers_are_a_protocol_failure() {
    let net = Net::accept(|_, mut stream| {
        let headers: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
        let answer = format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n");
        drop(tokio::spawn(async move { exchange(&mut stream, answer.as_bytes()).await }));
    });
    assert_eq!(blame(Bench::h1(&net).send(get("/")).await).0, FailureKind::Protocol);
}

#[tokio::test(start_paused = true)]
async fn truncated_body_is_a_failure_of_the_body() {
    let bench = Bench::h1(&answering(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"));
    let response = bench.send(get("/")).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert_eq!(Failure::of(&error).kind, FailureKind::Disconnected);
    assert_eq!(Failure::of(&error).sent, Sent::Yes);
    all_is_quiet().await;
    assert_eq!(bench.figures().connections, 0);
}

/// A body that says nothing until it is told.
fn slow_body() -> (mpsc::UnboundedSender<Bytes>, TestBody) {
    let (tx, rx) = mpsc::unbounded_channel();
    let frames = stream::unfold(rx, async |mut rx: mpsc::UnboundedReceiver<Bytes>| {
        let bytes = rx.recv().await?;
        Some((Ok::<_, io::Error>(Frame::data(bytes)), rx))
    });
    (tx, StreamBody::new(frames).boxed_unsync())
}

#[tokio::test(start_paused = true)]
async fn early_answer_holds_up_nobody_else() {
    let bench = Bench::h1(&answering_often(OK));
    let (upload, body) = slow_body();
    upload.send("part".into()).unwrap();
    assert_eq!(text(bench.send(post("/", body)).await).await, "ok");
    // The connection is not fit for others, and they do not wait for it.
    assert_eq!(text(bench.send(get("/")).await).await, "ok");
    assert_eq!(bench.net.connects(), 2);
    upload.closed().await;
}

#[tokio::test(start_paused = true)]
async fn connection_whose_peer_answers_early_and_reads_no_more_is_closed() {
    let whole_answer = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";
    let begun_answer = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 9\r\n\r\n";
    for (max_requests, answer) in [(None, whole_answer), (Some(1), whole_answer), (None, begun_answer)] {
        // It is held open until the test ends.
        let net = Net::accept(move |_, mut stream| {
            drop(tokio::spawn(async move {
                exchange(&mut stream, answer.as_bytes()).await;
                std::future::pending::<()>().await;
            }));
        });
        let one = ConnectionPolicy { max_per_endpoint: Some(1), max_requests, ..ConnectionPolicy::default() };
        let bench = Bench::new(&net, |context| context.policy(&one));
        for connects in [1, 2] {
            let answer = bench.send(post("/", whole(vec![0; 1 << 20]))).await;
            assert_eq!(answer.unwrap().status(), 413);
            all_is_quiet().await;
            let figures = bench.figures();
            assert_eq!((figures.connections, bench.counts().connections.active, net.connects()), (0, 0, connects));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_call_closes_its_connection() {
    let backend = Backend::new();
    let bench = Bench::h1(&backend.h1());
    let call = bench.start("/wait");
    all_is_quiet().await;
    call.abort();
    all_is_quiet().await;
    let figures = bench.figures();
    assert_eq!((figures.connections, figures.idle, bench.counts().connections.active), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn dropped_body_closes_its_connection() {
    let bench = Bench::h1(&answering(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"));
    drop(bench.send(get("/")).await.unwrap());
    all_is_quiet().await;
    assert_eq!(bench.figures().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn idle_connection_is_closed_in_time() {
    let policy = ConnectionPolicy { idle_timeout: seconds(80), ..ConnectionPolicy::default() };
    let bench = Bench::new(&Backend::new().h1(), |context| context.policy(&policy));
    bench.served("/").await;
    tokio::time::sleep(Duration::from_secs(45)).await;
    bench.served("/").await;
    tokio::time::sleep(Duration::from_secs(79)).await;
    assert_eq!(bench.figures().connections, 1);
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!((bench.figures().connections, bench.counts().connections.active), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn busy_connection_is_not_idle() {
    let backend = Backend::new();
    let policy = ConnectionPolicy { idle_timeout: seconds(80), ..ConnectionPolicy::default() };
    let bench = Bench::new(&backend.h1(), |context| context.policy(&policy));
    let call = bench.start("/wait");
    tokio::time::sleep(Duration::from_secs(500)).await;
    backend.gate.add_permits(1);
    assert_eq!(text(call.await.unwrap()).await, "0");
    tokio::time::sleep(Duration::from_secs(75)).await;
    assert_eq!(bench.figures().idle, 1);
}

#[tokio::test(start_paused = true)]
async fn old_connection_finishes_what_it_has() {
    let backend = Backend::new();
    let policy = ConnectionPolicy { max_age: seconds(100), ..ConnectionPolicy::default() };
    let bench = Bench::new(&backend.h1(), |context| context.policy(&policy));
    let call = bench.start("/wait");
    tokio::time::sleep(Duration::from_secs(101)).await;
    assert_eq!(bench.served("/").await, "1");
    backend.gate.add_permits(1);
    assert_eq!(text(call.await.unwrap()).await, "0");
    all_is_quiet().await;
    assert_eq!(bench.figures().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn connection_takes_no_more_than_its_requests() {
    let policy = ConnectionPolicy { max_requests: Some(3), ..ConnectionPolicy::default() };
    let bench = Bench::new(&Backend::new().h1(), |context| context.policy(&policy));
    let mut served = Vec::new();
    for _ in 0..7 {
        served.push(bench.served("/").await);
    }
    assert_eq!(served, ["0", "0", "0", "1", "1", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn target_takes_the_form_of_the_version() {
    let (tx, mut heads) = mpsc::unbounded_channel();
    let net = Net::accept(move |_, mut stream| {
        let tx = tx.clone();
        tokio::spawn(async move {
            let mut head = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut head).await {
                tx.send(String::from_utf8(head[..count].to_vec()).unwrap()).unwrap();
                stream.write_all(OK).await.unwrap();
            }
        });
    });
    let bench = Bench::h1(&net);
    let own_host = Request::get("http://peer/a").header("host", "other:81").body(whole("")).unwrap();
    let origin = Request::get("/b?c").header("host", "third").body(whole("")).unwrap();
    let named = Request::get("http://user@peer:80").body(whole("")).unwrap();
    for (request, line, host) in [
        (get("/v1/7?x=y"), "GET /v1/7?x=y HTTP/1.1\r\n", "host: peer\r\n"),
        (own_host, "GET /a HTTP/1.1\r\n", "host: peer\r\n"),
        (origin, "GET /b?c HTTP/1.1\r\n", "host: third\r\n"),
        (named, "GET / HTTP/1.1\r\n", "host: peer:80\r\n"),
    ] {
        assert_eq!(text(bench.send(request).await).await, "ok");
        let head = heads.recv().await.unwrap();
        assert!(head.starts_with(line) && head.contains(host), "{head}");
        assert_eq!(head.matches("host:").count(), 1, "{head}");
    }
}

#[tokio::test(start_paused = true)]
async fn retired_pool_finishes_and_still_carries_latecomers() {
    let backend = Backend::new();
    let bench = Bench::h1(&backend.h1());
    bench.served("/").await;
    let call = bench.start("/wait");
    all_is_quiet().await;
    bench.pool.retire();
    assert_eq!(bench.served("/").await, "1");
    backend.gate.add_permits(1);
    assert_eq!(text(call.await.unwrap()).await, "0");
    all_is_quiet().await;
    assert_eq!((bench.figures().connections, bench.counts().connections.active), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn dropped_pool_closes_idle_connections() {
    let bench = Bench::h1(&Backend::new().h1());
    bench.served("/").await;
    let limits = bench.limits.clone();
    drop(bench);
    all_is_quiet().await;
    assert_eq!(limits.figures(mesh_core::config::RequestPriority::Default).connections.active, 0);
}

#[tokio::test(start_paused = true)]
async fn pool_dropped_when_its_timers_are_due_closes_idle_connections() {
    let (closed, mut is_closed) = mpsc::unbounded_channel();
    let net = Net::accept(move |_, mut stream| {
        let closed = closed.clone();
        tokio::spawn(async move {
            exchange(&mut stream, OK).await;
            let read = stream.read(&mut [0]).await;
            closed.send(read.unwrap()).unwrap();
        });
    });
    let policy = ConnectionPolicy { idle_timeout: seconds(80), ..ConnectionPolicy::default() };
    let bench = Bench::new(&net, |context| context.policy(&policy));
    bench.served("/").await;
    // It is time to look whether the connection is idle, and before its task runs nobody holds it any more.
    tokio::time::sleep(Duration::from_secs(80) / 8).await;
    drop(bench);
    all_is_quiet().await;
    assert_eq!(is_closed.try_recv(), Ok(0));
}

#[test]
fn pool_and_its_future_cross_threads() {
    fn check<T: Send + Sync>() {}
    fn check_future<T: Send>() {}
    check::<Pool<TestBody>>();
    check_future::<mesh_http::pool::Sending<TestBody>>();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn caller_that_is_faster_than_the_driver_opens_no_connection() {
    let bench = Arc::new(Bench::h1(&Backend::new().h1()));
    let calling = bench.clone();
    // On a worker, so that it races the driver on another.
    let calls = tokio::spawn(async move {
        for _ in 0..2_000 {
            calling.served("/").await;
        }
    });
    calls.await.unwrap();
    assert_eq!(bench.net.connects(), 1);
}
