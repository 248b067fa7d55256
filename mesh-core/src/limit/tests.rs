//! The limits by hand and from many threads, and the layer against a mock service.

use std::{sync::Arc, thread};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower_layer::Layer;
use tower_test::mock;

use super::{permits::Tier, *};
use crate::{
    config::{CircuitBreakers, Percent, RetryBudget, Thresholds},
    hold::UntilEnd,
    outcome::{Failed, Failure, FailureKind, Flags, HttpClassifier, Sent, find_cause},
};

const NORMAL: RequestPriority = RequestPriority::Default;

fn breakers(thresholds: Thresholds) -> CircuitBreakers {
    CircuitBreakers { default: thresholds, high: Thresholds::default() }
}

fn requests(max: u32) -> Arc<Limits> {
    Limits::new(&breakers(Thresholds { max_requests: Some(max), ..Thresholds::default() }))
}

fn active(limits: &Limits) -> u32 {
    limits.figures(NORMAL).requests.active
}

#[test]
fn unset_limits_are_those_of_envoy() {
    let figures = Limits::new(&CircuitBreakers::default()).figures(RequestPriority::High);
    let limits = [figures.requests, figures.pending, figures.connections, figures.retries].map(|figure| figure.limit);
    assert_eq!(limits, [1024, 1024, 1024, 3]);
}

#[test]
fn zero_admits_nothing() {
    let overloaded = requests(0).request(NORMAL).expect_err("no room at all");
    assert_eq!(overloaded.to_string(), "limit of 0 requests reached");
}

#[test]
fn priorities_do_not_share_room() {
    let limits = requests(1);
    let _held = limits.request(NORMAL).expect("room for one");
    assert!(limits.request(NORMAL).is_err());
    assert!(limits.request(RequestPriority::High).is_ok());
}

#[test]
fn limits_of_high_priority_hold_whenever_they_were_set() {
    const HIGH: RequestPriority = RequestPriority::High;
    let of = |max| CircuitBreakers {
        high: Thresholds { max_requests: Some(max), ..Thresholds::default() },
        ..CircuitBreakers::default()
    };
    let limits = Limits::new(&of(3));
    let figure = || limits.figures(HIGH).requests;
    assert_eq!((figure().active, figure().limit), (0, 3), "before the first");
    limits.update(&of(1));
    let held = limits.request(HIGH).expect("room for one");
    assert!(limits.request(HIGH).is_err());
    limits.update(&of(2));
    assert_eq!((figure().active, figure().limit, figure().refused), (1, 2, 1));
    assert!(limits.request(HIGH).is_ok());
    drop(held);
    assert_eq!(figure().active, 0);
}

#[test]
fn lowered_limit_keeps_count_of_what_runs() {
    let limits = requests(3);
    let held: Vec<_> = (0..3).map(|_| limits.request(NORMAL).expect("room for three")).collect();
    limits.update(&breakers(Thresholds { max_requests: Some(1), ..Thresholds::default() }));
    assert!(limits.request(NORMAL).is_err());
    drop(held);
    assert_eq!(active(&limits), 0);
    assert!(limits.request(NORMAL).is_ok());
    assert_eq!(limits.figures(NORMAL).requests.refused, 1);
}

#[test]
fn retry_budget_grows_with_requests_and_counts_those_that_wait_once() {
    let budget = RetryBudget { percent: Percent::new(20.0).expect("legal"), min_concurrency: 1 };
    let limits = Limits::new(&breakers(Thresholds { retry_budget: Some(budget), ..Thresholds::default() }));
    let _first = limits.retry(NORMAL).expect("one is always allowed");
    assert_eq!(limits.retry(NORMAL).expect_err("above the floor").limit(), 1);

    let _requests: Vec<_> = (0..9).map(|_| limits.request(NORMAL).expect("room")).collect();
    assert!(limits.retry(NORMAL).is_err(), "20 % of 9 is 1.8, which allows one");
    let _waiting: Vec<_> = (0..9).map(|_| limits.pending(NORMAL).expect("room")).collect();
    assert!(limits.retry(NORMAL).is_err(), "all of them wait, and they are still 9");
    let _tenth = limits.request(NORMAL).expect("room");
    let _second = limits.retry(NORMAL).expect("20 % of 10 is 2");
    assert!(limits.retry(NORMAL).is_err());
}

#[test]
fn retry_budget_knows_those_that_wait_where_nobody_counts_requests() {
    let budget = RetryBudget { percent: Percent::new(50.0).expect("legal"), min_concurrency: 0 };
    let limits = Limits::new(&breakers(Thresholds { retry_budget: Some(budget), ..Thresholds::default() }));
    assert!(limits.retry(NORMAL).is_err());
    let _waiting: Vec<_> = (0..2).map(|_| limits.pending(NORMAL).expect("room")).collect();
    assert!(limits.retry(NORMAL).is_ok());
}

#[test]
fn endpoint_without_connection_gets_one_beyond_the_limit() {
    let limits = Limits::new(&breakers(Thresholds { max_connections: Some(0), ..Thresholds::default() }));
    assert!(limits.connection(NORMAL).is_err());
    let first = limits.first_connection(NORMAL);
    assert_eq!(limits.figures(NORMAL).connections.active, 1);
    drop(first);
    assert_eq!(limits.figures(NORMAL).connections.active, 0);
}

#[test]
fn racing_threads_never_exceed_a_limit_nor_lose_a_count() {
    let limits = requests(3);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    let permit = limits.request(NORMAL);
                    assert!(active(&limits) <= 3);
                    drop(permit);
                }
            });
        }
    });
    assert_eq!(active(&limits), 0);
}

#[test]
fn counters_do_not_share_cache_lines() {
    assert_eq!(align_of::<Tier>(), 128);
    assert_eq!(size_of::<Tier>(), 4 * 128);
    // What is read of the rare ones stands on a line of its own.
    assert_eq!(size_of::<Limits>(), 5 * 128);
}

#[test]
fn refusal_is_found_as_overflow_that_was_not_sent() {
    let overloaded = requests(0).request(NORMAL).expect_err("no room at all");
    let failure = Failure::of(&Failed::from(overloaded));
    assert_eq!((failure.kind, failure.sent, failure.flags), (FailureKind::Overflow, Sent::No, Flags::UO));
}

#[tokio::test]
async fn refusal_is_an_answer_and_readiness_is_that_of_the_inner_service() {
    let limits = requests(1);
    let layer = LimitLayer::new(limits.clone());
    let (mut service, mut handle) = mock::spawn_with(move |inner: mock::Mock<&str, &str>| layer.layer(inner));
    handle.allow(2);

    assert_ready_ok!(service.poll_ready());
    let mut first = task::spawn(service.call("first"));
    assert_pending!(first.poll());
    assert_ready_ok!(service.poll_ready());
    let error = assert_ready_err!(task::spawn(service.call("second")).poll());
    assert!(find_cause::<Overloaded>(&*error).is_some());

    let (request, answer) = handle.next_request().await.expect("the first was sent");
    assert_eq!(request, "first");
    answer.send_response("done");
    assert_eq!(assert_ready_ok!(first.poll()), "done");
    assert_eq!(active(&limits), 0);
}

#[tokio::test]
async fn dropped_call_gives_its_permit_back() {
    let limits = requests(1);
    let (inner, mut handle) = mock::pair::<&str, &str>();
    handle.allow(1);
    let mut service = task::spawn(Limit::new(inner, limits.clone()));
    assert_ready!(service.enter(|cx, mut service| service.poll_ready(cx))).expect("ready");
    let call = service.call("lost");
    assert_eq!(active(&limits), 1);
    drop(call);
    assert_eq!(active(&limits), 0);
}

#[tokio::test]
async fn permit_lives_to_the_end_of_the_body() {
    let limits = requests(1);
    let (inner, mut handle) = mock::pair::<(), Response<Full<Bytes>>>();
    let layer = LimitLayer::new(limits.clone()).hold(UntilEnd(HttpClassifier));
    let mut service = layer.layer(inner);
    let mut call = task::spawn(async move {
        std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
        service.call(()).await
    });
    handle.allow(1);
    assert_pending!(call.poll());
    handle.next_request().await.expect("sent").1.send_response(Response::new(Full::from("body")));
    let response = assert_ready_ok!(call.poll());
    assert_eq!(active(&limits), 1);
    drop(response);
    assert_eq!(active(&limits), 0);
}
