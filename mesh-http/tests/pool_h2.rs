//! What a caller of a pool of HTTP/2 connections may rely on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod pool_support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_core::{
    Dice,
    config::{Address, CircuitBreakers, ConnectionPolicy, RequestPriority, TimeLimit},
    limit::Limits,
    outcome::{Failure, FailureKind, Sent},
};
use mesh_http::{
    connect::SocketConnector,
    pool::{Pool, PoolContext, Sending, Task},
};
use pool_support::{Backend, Bench, Net, TestBody, all_is_quiet, blame, get, h2, post, text, whole};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
    time::sleep,
};

fn seconds(seconds: u64) -> Option<TimeLimit> {
    TimeLimit::after(Duration::from_secs(seconds)).ok()
}

#[tokio::test(start_paused = true)]
async fn requests_share_a_connection() {
    let backend = Backend::new();
    let bench = Bench::h2(&backend.h2(100));
    let calls: Vec<_> = (0..50).map(|_| bench.start("/wait")).collect();
    all_is_quiet().await;
    assert_eq!((backend.seen().len(), bench.figures().streams), (50, 50));
    backend.gate.add_permits(50);
    for call in calls {
        assert_eq!(text(call.await.unwrap()).await, "0");
    }
    let figures = bench.figures();
    assert_eq!((figures.connections, figures.streams, figures.idle, figures.pending), (1, 0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn another_connection_is_open_before_streams_run_out() {
    let backend = Backend::new();
    let bench = Bench::h2(&backend.h2(10));
    bench.served("/").await;
    let mut calls: Vec<_> = (0..8).map(|_| bench.start("/wait")).collect();
    all_is_quiet().await;
    assert_eq!((bench.figures().connections, bench.figures().streams), (1, 8));
    calls.push(bench.start("/wait"));
    all_is_quiet().await;
    assert_eq!((bench.figures().connections, bench.figures().streams), (2, 9));
    // The new one has less to do.
    calls.extend((0..5).map(|_| bench.start("/wait")));
    all_is_quiet().await;
    assert_eq!(backend.seen().iter().filter(|(number, _)| *number == 1).count(), 5);
    assert_eq!(bench.figures().pending, 0);
    backend.gate.add_permits(100);
    for call in calls {
        text(call.await.unwrap()).await;
    }
    assert_eq!((bench.figures().streams, bench.net.connects()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_all_streams_wait_in_turn() {
    let backend = Backend::new();
    let mut breakers = CircuitBreakers::default();
    breakers.default.max_connections = Some(1);
    let bench = Bench::limited(&backend.h2(2), &breakers, |context| context.policy(&h2()));
    let calls: Vec<_> = (0..6).map(|number| bench.start(&format!("/wait/{number}"))).collect();
    all_is_quiet().await;
    assert_eq!((bench.figures().streams, bench.figures().pending, bench.counts().pending.active), (2, 4, 4));
    for _ in 0..6 {
        backend.gate.add_permits(1);
        all_is_quiet().await;
    }
    for call in calls {
        text(call.await.unwrap()).await;
    }
    let order: Vec<_> = backend.seen().into_iter().map(|(_, path)| path).collect();
    assert_eq!(order, ["/wait/0", "/wait/1", "/wait/2", "/wait/3", "/wait/4", "/wait/5"]);
    assert_eq!((bench.counts().pending.active, bench.net.connects()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn body_that_is_still_read_keeps_its_stream() {
    let bench = Bench::h2(&Backend::new().h2(100));
    let response = bench.send(get("/")).await.unwrap();
    assert_eq!(bench.figures().streams, 1);
    let mut body = response.into_body();
    while body.frame().await.is_some() {}
    assert_eq!(bench.figures().streams, 0);
    drop(body);
}

#[tokio::test(start_paused = true)]
async fn dropped_call_frees_its_stream_and_nothing_else() {
    let backend = Backend::new();
    let bench = Bench::h2(&backend.h2(100));
    let other = bench.start("/wait");
    let call = bench.start("/wait");
    all_is_quiet().await;
    call.abort();
    all_is_quiet().await;
    assert_eq!((bench.figures().streams, bench.figures().connections), (1, 1));
    backend.gate.add_permits(1);
    assert_eq!(text(other.await.unwrap()).await, "0");
}

#[tokio::test(start_paused = true)]
async fn goaway_under_load_loses_nothing() {
    // Every connection says GOAWAY after a while, and the next request goes over another.
    let backend = Backend::new();
    let stops = Arc::new(Mutex::new(Vec::new()));
    let (serving, kept) = (backend.clone(), stops.clone());
    let net = Net::accept(move |number, stream| kept.lock().unwrap().push(serving.serve_h2(number, stream, 100)));
    let bench = Bench::h2(&net);
    let mut calls = Vec::new();
    for round in 0..200 {
        calls.push(bench.start(if round % 3 == 0 { "/wait" } else { "/" }));
        if round % 20 == 10 {
            let stop = stops.lock().unwrap().pop();
            stop.map(|stop| stop.send(()));
        }
        if round % 7 == 0 {
            all_is_quiet().await;
        }
    }
    backend.gate.add_permits(1000);
    for call in calls {
        let answer = call.await.unwrap();
        text(answer).await;
    }
    all_is_quiet().await;
    assert!(net.connects() > 5, "{} connections", net.connects());
    assert_eq!((bench.figures().connections, bench.counts().connections.active), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn refused_stream_was_not_sent_and_says_so() {
    let net = Net::accept(|_, stream| {
        tokio::spawn(async move {
            let mut peer = ::h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = peer.accept().await {
                respond.send_reset(::h2::Reason::REFUSED_STREAM);
            }
        });
    });
    let bench = Bench::h2(&net);
    let (kind, sent, _) = blame(bench.send(get("/")).await);
    assert_eq!((kind, sent), (FailureKind::Refused, Sent::No));
    assert_eq!((bench.figures().streams, bench.figures().connections), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn headers_beyond_the_limit_end_their_stream_only() {
    let net = Net::accept(|_, stream| {
        tokio::spawn(async move {
            let mut peer = ::h2::server::handshake(stream).await.unwrap();
            let mut size = 20_000;
            while let Some(Ok((_, mut respond))) = peer.accept().await {
                let response = http::Response::builder().header("x-large", "y".repeat(size)).body(()).unwrap();
                respond.send_response(response, true).unwrap();
                size = 10;
            }
        });
    });
    let bench = Bench::h2(&net);
    let (kind, sent, _) = blame(bench.send(get("/")).await);
    assert_eq!((kind, sent), (FailureKind::Protocol, Sent::Maybe));
    text(bench.send(get("/")).await).await;
    assert_eq!((net.connects(), bench.figures().streams), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn reset_body_is_a_failure_of_the_body() {
    let net = Net::accept(|_, stream| {
        tokio::spawn(async move {
            let mut peer = ::h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = peer.accept().await {
                let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                body.send_data("part".into(), false).unwrap();
                body.send_reset(::h2::Reason::INTERNAL_ERROR);
            }
        });
    });
    let bench = Bench::h2(&net);
    let failure = match bench.send(get("/")).await {
        Ok(response) => Failure::of(&response.into_body().collect().await.unwrap_err()),
        Err(failed) => Failure::of(&*failed.error),
    };
    assert_eq!((failure.kind, failure.sent), (FailureKind::Reset, Sent::Yes));
    assert_eq!(bench.figures().streams, 0);
}

#[tokio::test(start_paused = true)]
async fn peer_that_speaks_http1_is_no_connection() {
    let net = Net::accept(|_, mut stream| {
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            std::future::pending::<()>().await;
        });
    });
    let bench = Bench::h2(&net);
    assert_eq!(blame(bench.send(get("/")).await), (FailureKind::Connect, Sent::No, true));
    all_is_quiet().await;
    assert_eq!(bench.counts().connections.active, 0);
}

#[tokio::test(start_paused = true)]
async fn peer_that_permits_no_stream_is_not_asked_for_more_connections() {
    let bench = Bench::h2(&Backend::new().h2(0));
    let call = bench.start("/");
    sleep(Duration::from_secs(60)).await;
    assert_eq!((bench.net.connects(), bench.figures().pending), (1, 1));
    call.abort();
    all_is_quiet().await;
    assert_eq!(bench.counts().pending.active, 0);
}

#[tokio::test(start_paused = true)]
async fn streams_of_a_connection_are_limited_below_what_the_peer_permits() {
    let backend = Backend::new();
    let policy = ConnectionPolicy { max_streams: Some(2), ..h2() };
    let net = backend.h2(100);
    let bench = Bench::new(&net, |context| context.policy(&policy));
    let calls: Vec<_> = (0..6).map(|_| bench.start("/wait")).collect();
    all_is_quiet().await;
    assert_eq!((net.connects(), bench.figures().streams, bench.figures().pending), (3, 6, 0));
    backend.gate.add_permits(6);
    for call in calls {
        text(call.await.unwrap()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn old_connection_drains_without_loss() {
    let backend = Backend::new();
    let policy = ConnectionPolicy { max_age: seconds(100), ..h2() };
    let bench = Bench::new(&backend.h2(100), |context| context.policy(&policy));
    let call = bench.start("/wait");
    sleep(Duration::from_secs(101)).await;
    assert_eq!(bench.served("/").await, "1");
    assert_eq!(bench.figures().connections, 2);
    backend.gate.add_permits(1);
    assert_eq!(text(call.await.unwrap()).await, "0");
    all_is_quiet().await;
    assert_eq!(bench.figures().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn idle_connection_is_closed_in_time() {
    let backend = Backend::new();
    let policy = ConnectionPolicy { idle_timeout: seconds(80), ..h2() };
    let bench = Bench::new(&backend.h2(100), |context| context.policy(&policy));
    let call = bench.start("/wait");
    sleep(Duration::from_secs(300)).await;
    backend.gate.add_permits(1);
    text(call.await.unwrap()).await;
    sleep(Duration::from_secs(75)).await;
    assert_eq!(bench.figures().connections, 1);
    sleep(Duration::from_secs(16)).await;
    assert_eq!((bench.figures().connections, bench.counts().connections.active), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn connection_takes_no_more_than_its_requests() {
    let policy = ConnectionPolicy { max_requests: Some(3), ..h2() };
    let bench = Bench::new(&Backend::new().h2(100), |context| context.policy(&policy));
    let mut served = Vec::new();
    for _ in 0..7 {
        served.push(bench.served("/").await);
    }
    assert_eq!(served, ["0", "0", "0", "1", "1", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn silent_peer_is_found_by_pings() {
    let policy =
        ConnectionPolicy { keep_alive_interval: seconds(10), keep_alive_timeout: Some(Duration::from_secs(5)), ..h2() };
    // It reads and writes until it has accepted one request, and never again.
    let net = Net::accept(|_, stream| {
        tokio::spawn(async move {
            let mut peer = ::h2::server::handshake(stream).await.unwrap();
            let _request = peer.accept().await;
            std::future::pending::<()>().await;
        });
    });
    let bench = Bench::new(&net, |context| context.policy(&policy));
    assert_eq!(blame(bench.send(get("/")).await), (FailureKind::Disconnected, Sent::Maybe, false));
    all_is_quiet().await;
    assert_eq!(bench.figures().connections, 0);
}

// gRPC's servers end connections that are pinged without need.
#[tokio::test(start_paused = true)]
async fn idle_connection_is_pinged_only_where_the_policy_says_so() {
    for (while_idle, left) in [(None, 1), (Some(true), 0)] {
        let policy = ConnectionPolicy {
            keep_alive_interval: seconds(10),
            keep_alive_timeout: Some(Duration::from_secs(5)),
            keep_alive_while_idle: while_idle,
            ..h2()
        };
        // It answers one request and is deaf afterwards: only a ping can tell.
        let net = Net::accept(|_, stream| {
            tokio::spawn(async move {
                let mut peer = ::h2::server::handshake(stream).await.unwrap();
                let (_request, mut answer) = peer.accept().await.unwrap().unwrap();
                answer.send_response(http::Response::new(()), true).unwrap();
                let _ = tokio::time::timeout(Duration::from_secs(1), peer.accept()).await;
                std::future::pending::<()>().await;
            });
        });
        let bench = Bench::new(&net, |context| context.policy(&policy));
        text(bench.send(get("/")).await).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(bench.figures().connections, left, "{while_idle:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_generation_drains_and_loses_nobody() {
    let backend = Backend::new();
    let bench = Bench::h2(&backend.h2(2));
    let calls: Vec<_> = (0..2).map(|_| bench.start("/wait")).collect();
    all_is_quiet().await;
    // From HTTP/2 to HTTP/1 would need another server; another generation of the same is change enough.
    bench.pool.update(Arc::new(bench.context.clone().generation(1)));
    assert_ne!(bench.served("/").await, "0");
    backend.gate.add_permits(2);
    for call in calls {
        text(call.await.unwrap()).await;
    }
    all_is_quiet().await;
    assert_eq!(bench.figures().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_ask_again_under_another_generation() {
    let backend = Backend::new();
    let serving = backend.clone();
    let net = Net::new(move |number| match number {
        0 => pool_support::Outcome::Hang,
        _ => {
            let serving = serving.clone();
            pool_support::Outcome::Accept(Box::new(move |stream| drop(serving.serve_h2(number, stream, 100))))
        }
    });
    let bench = Bench::h2(&net);
    let calls: Vec<_> = (0..3).map(|_| bench.start("/")).collect();
    all_is_quiet().await;
    bench.pool.update(Arc::new(bench.context.clone().generation(1)));
    for call in calls {
        assert_eq!(text(call.await.unwrap()).await, "1");
    }
}

#[tokio::test(start_paused = true)]
async fn same_generation_keeps_connections() {
    let bench = Bench::h2(&Backend::new().h2(100));
    bench.served("/").await;
    let policy = ConnectionPolicy { max_per_endpoint: Some(1), ..h2() };
    bench.pool.update(Arc::new(bench.context.clone().policy(&policy)));
    assert_eq!(bench.served("/").await, "0");
}

#[tokio::test(start_paused = true)]
async fn host_header_becomes_the_authority_where_the_target_has_none() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let net = Net::accept(move |_, stream| {
        let log = log.clone();
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let host = request.headers().contains_key("host");
            log.lock().unwrap().push((request.uri().to_string(), host));
            async { Ok::<_, std::convert::Infallible>(http::Response::new(whole(""))) }
        });
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    });
    let bench = Bench::h2(&net);
    let origin = Request::get("/a?b").header("host", "peer:81").body(whole("")).unwrap();
    let both = Request::get("https://peer/").header("host", "other").body(whole("")).unwrap();
    for request in [get("/x"), origin, both] {
        text(bench.send(request).await).await;
    }
    let expected = [("http://peer/x", false), ("http://peer:81/a?b", false), ("https://peer/", false)];
    assert_eq!(*seen.lock().unwrap(), expected.map(|(uri, host)| (uri.to_owned(), host)));
}

/// Sends, and reads the whole response, on a task of its own: whoever is served late may wait for a connection that an
/// unread response occupies.
fn read(sending: Sending<TestBody>) -> JoinHandle<String> {
    tokio::spawn(async move { text(sending.await).await })
}

#[tokio::test(start_paused = true)]
async fn counts_return_to_zero_after_random_drops() {
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let backend = Backend::new();
        let (net, policy) = match seed % 2 {
            0 => (backend.h2(3), h2()),
            _ => (backend.h1(), ConnectionPolicy::default()),
        };
        let mut breakers = CircuitBreakers::default();
        breakers.default.max_connections = Some(3);
        let bench = Bench::limited(&net, &breakers, |context| context.policy(&policy));
        let mut calls = Vec::new();
        for _ in 0..200 {
            match dice.below(6) {
                0 | 1 => calls.push(read(bench.send(get("/wait")))),
                2 => calls.push(read(bench.send(post("/echo", whole(vec![b'x'; 50_000]))))),
                3 => backend.gate.add_permits(1),
                4 if !calls.is_empty() => {
                    calls.swap_remove(dice.below(u32::try_from(calls.len()).unwrap()) as usize).abort();
                }
                _ => tokio::task::yield_now().await,
            }
        }
        // 1. All who are left are served. 2. With the pool gone, nothing is counted any more.
        backend.gate.add_permits(1000);
        for call in calls {
            call.await.unwrap();
        }
        all_is_quiet().await;
        let (figures, counts) = (bench.figures(), bench.counts());
        assert_eq!((figures.streams, figures.pending, counts.pending.active), (0, 0, 0), "seed {seed}");
        assert_eq!(figures.idle, figures.connections, "seed {seed}");
        assert_eq!(figures.connections, counts.connections.active as usize, "seed {seed}");
        let limits = bench.limits.clone();
        drop(bench);
        all_is_quiet().await;
        assert_eq!(limits.figures(mesh_core::config::RequestPriority::Default).connections.active, 0, "seed {seed}");
    }
}

#[tokio::test]
async fn real_sockets_carry_concurrent_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    // Bound and not listening: whoever connects is refused, and nobody else is given the port.
    let refusing = TcpSocket::new_v4().unwrap();
    refusing.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<hyper::body::Incoming>| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(request.into_body()))
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let spawn = Arc::new(|task: Task| drop(tokio::spawn(task)));
    let limits = Limits::new(&CircuitBreakers::default());
    let context = PoolContext::new(Arc::new(SocketConnector), spawn, limits).policy(&h2());
    let addresses = [Address::from(refusing.local_addr().unwrap()), address];
    let pool = Arc::new(Pool::new(Arc::new(context), addresses, None));
    let calls: Vec<_> = (0..64)
        .map(|number| {
            let sending = pool.send(post("/", whole(format!("{number}"))), RequestPriority::Default);
            tokio::spawn(async move { (number, text(sending.await).await) })
        })
        .collect();
    for call in calls {
        let (number, echoed) = call.await.unwrap();
        assert_eq!(echoed, number.to_string());
    }
    assert_eq!(pool.figures().connections, 1);
}
