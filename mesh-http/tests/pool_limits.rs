//! What is bounded in a pool, who waits, and what they are told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod pool_support;

use std::time::Duration;

use mesh_core::{
    config::{CircuitBreakers, ConnectionPolicy, RequestPriority},
    outcome::{Failure, FailureKind, Flags, Sent},
};
use mesh_http::pool::ConnectError;
use pool_support::{Backend, Bench, Net, Outcome, all_is_quiet, blame, get, h2, text};
use tokio::time::Instant;

fn breakers(max_connections: u32, max_pending: u32) -> CircuitBreakers {
    let mut breakers = CircuitBreakers::default();
    breakers.default.max_connections = Some(max_connections);
    breakers.default.max_pending = Some(max_pending);
    breakers
}

#[tokio::test(start_paused = true)]
async fn full_queue_refuses_at_once_and_gives_the_request_back() {
    let backend = Backend::new();
    let bench = Bench::limited(&backend.h1(), &breakers(1, 2), |context| context);
    bench.served("/").await;
    let calls = [bench.start("/wait"), bench.start("/wait"), bench.start("/wait")];
    all_is_quiet().await;
    let refused = bench.send(get("/refused")).await.unwrap_err();
    assert_eq!(refused.request.as_ref().unwrap().uri(), "http://peer/refused");
    assert_eq!(Failure::of(&*refused.error).flags, Flags::UO);
    assert_eq!(blame(Err::<(), _>(refused)), (FailureKind::Overflow, Sent::No, true));
    backend.gate.add_permits(3);
    for call in calls {
        assert_eq!(text(call.await.unwrap()).await, "0");
    }
    assert_eq!(bench.counts().pending.active, 0);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_served_in_turn() {
    let backend = Backend::new();
    let bench = Bench::limited(&backend.h1(), &breakers(1, 100), |context| context);
    let calls: Vec<_> = (0..10).map(|number| bench.start(&format!("/wait/{number}"))).collect();
    all_is_quiet().await;
    backend.gate.add_permits(10);
    for call in calls {
        text(call.await.unwrap()).await;
    }
    let order: Vec<_> = backend.seen().into_iter().map(|(_, path)| path).collect();
    let expected: Vec<_> = (0..10).map(|number| format!("/wait/{number}")).collect();
    assert_eq!((order, bench.net.connects()), (expected, 1));
}

#[tokio::test(start_paused = true)]
async fn endpoint_without_a_connection_gets_one_beyond_the_limit() {
    let bench = Bench::limited(&Backend::new().h1(), &breakers(0, 100), |context| context);
    assert_eq!(bench.served("/").await, "0");
    assert_eq!(bench.counts().connections.active, 1);
}

#[tokio::test(start_paused = true)]
async fn endpoint_has_no_more_connections_than_its_own_limit() {
    let backend = Backend::new();
    let policy = ConnectionPolicy { max_per_endpoint: Some(2), ..ConnectionPolicy::default() };
    let bench = Bench::new(&backend.h1(), |context| context.policy(&policy));
    let calls: Vec<_> = (0..5).map(|_| bench.start("/wait")).collect();
    all_is_quiet().await;
    assert_eq!((bench.figures().connections, bench.figures().pending), (2, 3));
    backend.gate.add_permits(5);
    for call in calls {
        text(call.await.unwrap()).await;
    }
    assert_eq!(bench.net.connects(), 2);
}

#[tokio::test(start_paused = true)]
async fn room_that_becomes_free_is_used_by_who_waits() {
    let backend = Backend::new();
    let bench = Bench::limited(&backend.h1(), &breakers(1, 100), |context| context);
    let first = bench.start("/wait");
    all_is_quiet().await;
    let second = bench.start("/");
    all_is_quiet().await;
    // The only connection closes with the call that used it.
    first.abort();
    assert_eq!(text(second.await.unwrap()).await, "1");
}

#[tokio::test(start_paused = true)]
async fn cancelled_waiters_leave_no_trace() {
    let backend = Backend::new();
    let bench = Bench::limited(&backend.h1(), &breakers(1, 100), |context| context);
    let first = bench.start("/wait");
    all_is_quiet().await;
    let waiting: Vec<_> = (0..20).map(|_| bench.start("/never")).collect();
    let last = bench.start("/last");
    all_is_quiet().await;
    waiting.iter().for_each(|call| call.abort());
    all_is_quiet().await;
    assert_eq!((bench.figures().pending, bench.counts().pending.active), (1, 1));
    backend.gate.add_permits(1);
    text(first.await.unwrap()).await;
    assert_eq!(text(last.await.unwrap()).await, "0");
    assert!(!backend.seen().iter().any(|(_, path)| path == "/never"));
}

#[tokio::test(start_paused = true)]
async fn connection_granted_to_who_is_gone_serves_the_next() {
    let backend = Backend::new();
    let bench = Bench::limited(&backend.h1(), &breakers(1, 100), |context| context);
    // 1. The first request is never polled, so its connection is granted and not seen.
    let unpolled = bench.send(get("/unseen"));
    all_is_quiet().await;
    assert_eq!(bench.figures().pending, 0);
    let next = bench.start("/next");
    all_is_quiet().await;
    assert_eq!(bench.figures().pending, 1);
    // 2. It goes, and the connection, still clean, goes to the next.
    drop(unpolled);
    assert_eq!(text(next.await.unwrap()).await, "0");
    assert_eq!(backend.seen(), [(0, "/next".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn failed_attempt_gives_all_requests_back_and_is_not_repeated() {
    let bench = Bench::h2(&Net::new(|_| Outcome::Refuse));
    let calls: Vec<_> = (0..10).map(|_| bench.start("/")).collect();
    for call in calls {
        let failed = call.await.unwrap().unwrap_err();
        let cause = failed.error.source().unwrap().downcast_ref::<ConnectError>();
        assert!(matches!(cause, Some(ConnectError::Io(_))));
        assert_eq!(blame(Err::<(), _>(failed)), (FailureKind::Connect, Sent::No, true));
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((bench.net.connects(), bench.figures().failed), (1, 1));
    assert_eq!((bench.counts().connections.active, bench.counts().pending.active), (0, 0));
    // The next request tries again.
    assert_eq!(blame(bench.send(get("/")).await).0, FailureKind::Connect);
    assert_eq!(bench.net.connects(), 2);
}

#[tokio::test(start_paused = true)]
async fn connecting_takes_no_longer_than_its_timeout() {
    let bench = Bench::new(&Net::new(|_| Outcome::Hang), |context| context.connect_timeout(Duration::from_secs(3)));
    let start = Instant::now();
    assert_eq!(blame(bench.send(get("/")).await), (FailureKind::ConnectTimeout, Sent::No, true));
    assert_eq!((start.elapsed(), bench.counts().connections.active), (Duration::from_secs(3), 0));
}

#[tokio::test(start_paused = true)]
async fn peer_that_never_speaks_http2_is_a_connect_timeout() {
    let net = Net::accept(|_, stream| {
        tokio::spawn(async move {
            let _open = stream;
            std::future::pending::<()>().await;
        });
    });
    let bench = Bench::h2(&net);
    assert_eq!(blame(bench.send(get("/")).await), (FailureKind::ConnectTimeout, Sent::No, true));
}

#[tokio::test(start_paused = true)]
async fn runtime_that_drops_the_task_fails_who_waits() {
    let net = Net::new(|_| Outcome::Hang);
    let spawn = std::sync::Arc::new(|task: mesh_http::pool::Task| drop(task));
    let limits = mesh_core::limit::Limits::new(&CircuitBreakers::default());
    let context =
        mesh_http::pool::PoolContext::new(std::sync::Arc::new(pool_support::Pipes(net)), spawn, limits.clone());
    let address = mesh_core::config::Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 80)));
    let pool = mesh_http::pool::Pool::new(std::sync::Arc::new(context), [address], None);
    assert_eq!(blame(pool.send(get("/"), RequestPriority::Default).await), (FailureKind::Shutdown, Sent::No, true));
    assert_eq!(limits.figures(RequestPriority::Default).connections.active, 0);
}

#[tokio::test(start_paused = true)]
async fn priorities_are_counted_apart() {
    let backend = Backend::new();
    let bench = Bench::limited(&backend.h1(), &breakers(1, 0), |context| context);
    assert_eq!(blame(bench.send(get("/")).await).0, FailureKind::Overflow);
    let answer = bench.pool.send(get("/"), RequestPriority::High).await;
    assert_eq!(text(answer).await, "0");
}

#[tokio::test(start_paused = true)]
async fn connection_opened_ahead_serves_the_first_request() {
    let bench = Bench::new(&Backend::new().h2(100), |context| context.policy(&h2()));
    bench.pool.connect_ahead();
    bench.pool.connect_ahead();
    all_is_quiet().await;
    assert_eq!((bench.net.connects(), bench.figures().idle), (1, 1));
    assert_eq!(bench.served("/").await, "0");
}

#[tokio::test(start_paused = true)]
async fn connection_that_cannot_be_opened_ahead_is_counted_and_left_to_the_first_request() {
    let net = Net::new(|number| match number {
        0 => Outcome::Refuse,
        _ => Outcome::Hang,
    });
    let bench = Bench::h1(&net);
    bench.pool.connect_ahead();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((bench.net.connects(), bench.figures().failed, bench.counts().connections.active), (1, 1, 0));
    let _waiting = bench.start("/");
    all_is_quiet().await;
    assert_eq!(bench.net.connects(), 2);
}

/// 1. Eight tasks on four threads ask again as soon as they are answered.
/// 2. There are fewer streams than tasks, so that somebody always waits.
/// 3. A wake that was lost would leave somebody waiting for good.
async fn hammer(bench: Bench) {
    const CALLS: usize = 500;
    let bench = std::sync::Arc::new(bench);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let bench = bench.clone();
            tokio::spawn(async move {
                for call in 0..CALLS {
                    if (call + task) % 7 == 0 {
                        // Some are given up at once.
                        drop(bench.send(get("/dropped")));
                    }
                    bench.served("/").await;
                }
            })
        })
        .collect();
    let all = async {
        for task in tasks {
            task.await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("a wake was lost");
    assert_eq!((bench.figures().pending, bench.counts().pending.active), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_is_lost_between_threads_on_http1() {
    hammer(Bench::limited(&Backend::new().h1(), &breakers(2, 100), |context| context)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_is_lost_between_threads_on_http2() {
    hammer(Bench::limited(&Backend::new().h2(2), &breakers(1, 100), |context| context.policy(&h2()))).await;
}
