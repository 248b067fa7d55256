//! The balance layer: where requests go, how they move on, when their guards are settled.
#![allow(missing_docs)]

use std::{
    collections::{HashSet, VecDeque},
    future::{Pending, Ready, pending, ready},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use mesh_core::{
    Dice,
    balance::{AtEndpoint, Balance, BalanceLayer, NoEndpoint, Terms},
    carry::{Carried, Carries, Fixed},
    cluster::{Cluster, Dispatch, EndpointInfo, Transport, Undelivered},
    config::{self, ClusterPolicy, Endpoints, RequestPriority, Semantics},
    endpoint::{EndpointId, Tried},
    hold::{AtOnce, UntilEnd},
    limit::Overloaded,
    outcome::{BoxError, Failed, Failure, FailureKind, HttpClassifier, Sent, find_cause},
};
use tokio::time::{Instant, advance, timeout};
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

mod support;
use support::{endpoint, flat, group, groups, port};

/// What endpoints do, by port; they answer with their port where nothing else is said.
#[derive(Clone, Default)]
struct Stage(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    down: HashSet<u16>,
    silent: HashSet<u16>,
    errors: VecDeque<(FailureKind, Sent, bool)>,
    seen: Vec<u16>,
}

struct Actor {
    stage: Stage,
    port: u16,
}

impl Stage {
    fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.0.lock().expect("no panic"));
    }

    fn seen(&self) -> Vec<u16> {
        std::mem::take(&mut self.0.lock().expect("no panic").seen)
    }

    fn cluster(&self, endpoints: &Endpoints) -> Arc<Cluster<Self>> {
        let config = Arc::new(config::Cluster::new("test").expect("a name"));
        let cluster = Cluster::new(&config, ClusterPolicy::default(), Semantics::Envoy, self.clone(), 1);
        cluster.update_endpoints(endpoints);
        cluster
    }
}

impl Transport for Stage {
    type Handle = Actor;

    fn open(&self, endpoint: &EndpointInfo<'_>) -> Actor {
        Actor { stage: self.clone(), port: port(&endpoint.addresses[0]) }
    }

    fn update(&self, _: &Actor, _: &EndpointInfo<'_>) {}

    fn retire(&self, _: &Actor) {}
}

enum Answer<R> {
    Now(Ready<Result<u16, Undelivered<R>>>),
    Never(Pending<Result<u16, Undelivered<R>>>),
}

impl<R: Unpin> Future for Answer<R> {
    type Output = Result<u16, Undelivered<R>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Now(answer) => Pin::new(answer).poll(cx),
            Self::Never(never) => Pin::new(never).poll(cx),
        }
    }
}

impl<R: Unpin> Dispatch<R> for Actor {
    type Response = u16;
    type Future = Answer<R>;

    fn dispatch(&self, request: R) -> Answer<R> {
        let mut script = self.stage.0.lock().expect("no panic");
        script.seen.push(self.port);
        if script.silent.contains(&self.port) {
            return Answer::Never(pending());
        }
        let failure = match script.errors.pop_front() {
            Some(failure) => failure,
            None if script.down.contains(&self.port) => (FailureKind::Connect, Sent::No, true),
            None => return Answer::Now(ready(Ok(self.port))),
        };
        let (kind, sent, is_returned) = failure;
        let error = Failed::new(Failure::new(kind, sent)).into();
        Answer::Now(ready(Err(Undelivered { request: is_returned.then_some(request), error })))
    }
}

/// A request with terms of its own.
struct Call(Terms);

impl Call {
    fn new() -> Self {
        Self(Terms::new(Dice::new(1), Instant::now()))
    }

    fn waiting() -> Self {
        Self(Terms { wait_for_ready: true, ..Self::new().0 })
    }

    /// One that counts against the breaker.
    fn counted() -> Self {
        Self(Terms { breaker: Some(RequestPriority::Default), ..Self::new().0 })
    }
}

impl Carries<Terms> for Call {
    fn carried(&mut self) -> Terms {
        self.0.clone()
    }
}

/// The endpoints, in the order of their ports.
fn ids(cluster: &Cluster<Stage>) -> Vec<EndpointId> {
    cluster.status().endpoints.iter().map(|endpoint| endpoint.id).collect()
}

fn balance(cluster: &Arc<Cluster<Stage>>) -> Balance<Stage, Fixed<Arc<Cluster<Stage>>>, Carried> {
    Balance::new(Fixed(cluster.clone()), Carried, AtOnce)
}

/// What the breaker counts.
fn counted(cluster: &Cluster<impl Transport>) -> u32 {
    cluster.limits().figures(RequestPriority::Default).requests.active
}

fn in_flight(cluster: &Cluster<impl Transport>) -> u32 {
    cluster.status().endpoints.iter().map(|endpoint| endpoint.in_flight).sum()
}

#[tokio::test(start_paused = true)]
async fn connect_failure_moves_on_and_the_dead_endpoint_is_left_alone() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat([1, 2, 3]));
    stage.set(|script| script.down.extend([1]));
    for _ in 0..30 {
        assert_ne!(balance(&cluster).oneshot(Call::new()).await.expect("an answer"), 1);
    }
    assert_eq!(stage.seen().iter().filter(|port| **port == 1).count(), 1, "tried once, in 30 calls");
    assert_eq!(in_flight(&cluster), 0);
}

#[tokio::test(start_paused = true)]
async fn call_gives_up_when_it_was_everywhere() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat([1, 2, 3]));
    stage.set(|script| script.down.extend([1, 2, 3]));
    let error = balance(&cluster).oneshot(Call::new()).await.expect_err("nobody is there");
    let mut seen = stage.seen();
    let last = usize::from(*seen.last().expect("somebody was tried"));
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3], "each once");
    assert_eq!(Failure::of(&*error).kind, FailureKind::Connect);
    assert_eq!(AtEndpoint::of(&*error), Some(ids(&cluster)[last - 1]));
    assert_eq!(in_flight(&cluster), 0);
}

#[tokio::test(start_paused = true)]
async fn moves_are_bounded() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat(1..=100));
    stage.set(|script| script.down.extend(1..=100));
    balance(&cluster).oneshot(Call::new()).await.expect_err("nobody is there");
    assert_eq!(stage.seen().len(), Tried::CAPACITY + 1);
}

#[tokio::test(start_paused = true)]
async fn request_that_may_have_been_sent_does_not_move() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat([1, 2, 3]));
    for failure in [
        (FailureKind::Reset, Sent::Maybe, true),
        (FailureKind::Disconnected, Sent::Yes, false),
        (FailureKind::Connect, Sent::No, false),
    ] {
        stage.set(|script| script.errors.push_back(failure));
        let error = balance(&cluster).oneshot(Call::new()).await.expect_err("it broke");
        assert_eq!(Failure::of(&*error).kind, failure.0);
        assert_eq!(stage.seen().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn refused_stream_moves_on_and_the_endpoint_stays_reachable() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat([1, 2]));
    stage.set(|script| script.errors.push_back((FailureKind::Refused, Sent::No, true)));
    balance(&cluster).oneshot(Call::new()).await.expect("an answer");
    assert_eq!(stage.seen().len(), 2);
    assert!(cluster.status().endpoints.iter().all(|endpoint| !endpoint.is_unreachable));
}

#[tokio::test(start_paused = true)]
async fn local_refusal_does_not_move_on() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat([1, 2]));
    stage.set(|script| script.errors.push_back((FailureKind::Overflow, Sent::No, true)));
    let error = balance(&cluster).oneshot(Call::new()).await.expect_err("refused");
    assert_eq!(Failure::of(&*error).kind, FailureKind::Overflow);
    assert_eq!(stage.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn request_avoids_where_it_was() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat([1, 2]));
    for _ in 0..10 {
        let mut call = Call::new();
        call.0.tried.push(ids(&cluster)[0]);
        assert_eq!(balance(&cluster).oneshot(call).await.expect("an answer"), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn empty_cluster_fails_at_once_unless_the_request_waits() {
    let stage = Stage::default();
    let cluster = stage.cluster(&Endpoints::none());
    let error = balance(&cluster).oneshot(Call::new()).await.expect_err("nobody");
    assert_eq!(find_cause::<NoEndpoint>(&*error), Some(&NoEndpoint::Empty));
    assert_eq!(Failure::of(&*error).flags.to_string(), "UH");

    let mut waiting = task::spawn(balance(&cluster).oneshot(Call::waiting()));
    assert_pending!(waiting.poll());
    cluster.update_endpoints(&flat([4]));
    assert!(waiting.is_woken());
    assert_eq!(waiting.await.expect("an answer"), 4);
}

#[tokio::test(start_paused = true)]
async fn waiting_request_outlasts_an_outage() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat([1, 2]));
    stage.set(|script| script.down.extend([1, 2]));
    let call = tokio::spawn(balance(&cluster).oneshot(Call::waiting()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!call.is_finished());
    let tries = stage.seen().len();
    assert!((8..=16).contains(&tries), "{tries} tries in a minute: the back-off doubles");
    stage.set(|script| script.down.clear());
    timeout(Duration::from_secs(150), call).await.expect("in time").expect("no panic").expect("an answer");
}

#[tokio::test(start_paused = true)]
async fn want_of_an_identity_goes_elsewhere_or_waits_and_marks_nobody() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat([1, 2]));
    let lacks = |times| std::iter::repeat_n((FailureKind::Identity, Sent::No, true), times);
    let is_marked = || cluster.status().endpoints.iter().any(|endpoint| endpoint.is_unreachable);
    stage.set(|script| script.errors.extend(lacks(1)));
    assert!(balance(&cluster).oneshot(Call::new()).await.is_ok(), "the other asks for none");
    stage.set(|script| script.errors.extend(lacks(2)));
    let error = balance(&cluster).oneshot(Call::new()).await.expect_err("both do");
    assert_eq!(Failure::of(&*error).kind, FailureKind::Identity);

    stage.seen();
    stage.set(|script| script.errors.extend(lacks(30)));
    let start = Instant::now();
    assert!(balance(&cluster).oneshot(Call::waiting()).await.is_ok(), "it has come");
    assert_eq!((stage.seen().len(), start.elapsed()), (31, Duration::from_secs(15)), "a second after each round");
    assert!(!is_marked());
}

/// As where some endpoints are reached in plaintext, and the identity for the others has not come.
#[tokio::test(start_paused = true)]
async fn want_of_an_identity_goes_to_whoever_asks_for_none_of_whatever_priority_before_it_waits() {
    let priorities =
        groups(vec![group(0, "near", 0, vec![endpoint(1), endpoint(2)]), group(1, "far", 0, vec![endpoint(3)])]);
    for call in [Call::new, Call::waiting] {
        let stage = Stage::default();
        stage.set(|script| script.errors.extend([(FailureKind::Identity, Sent::No, true); 2]));
        let start = Instant::now();
        balance(&stage.cluster(&priorities)).oneshot(call()).await.expect("the third asks for none");
        let seen = stage.seen();
        assert_eq!((seen.len(), seen[2], start.elapsed()), (3, 3, Duration::ZERO), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn more_endpoints_than_a_request_remembers_do_not_keep_one_that_waits_from_pausing() {
    let stage = Stage::default();
    stage.set(|script| script.errors.extend([(FailureKind::Identity, Sent::No, true); 16]));
    let start = Instant::now();
    balance(&stage.cluster(&flat(1..=20))).oneshot(Call::waiting()).await.expect("it has come");
    assert_eq!((stage.seen().len(), start.elapsed()), (17, Duration::from_secs(2)), "a second after each eight");
}

#[tokio::test(start_paused = true)]
async fn dropped_call_leaves_nothing_in_flight() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat([1]));
    stage.set(|script| script.silent.extend([1]));
    let mut call = task::spawn(balance(&cluster).oneshot(Call::new()));
    assert_pending!(call.poll());
    assert_eq!(in_flight(&cluster), 1);
    drop(call);
    assert_eq!(in_flight(&cluster), 0);
}

#[tokio::test(start_paused = true)]
async fn breaker_refuses_before_anybody_is_picked() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat([1]));
    let mut policy = ClusterPolicy::default();
    policy.circuit_breakers.default.max_requests = Some(1);
    cluster.update_policy(policy);
    stage.set(|script| script.silent.extend([1]));
    let mut first = task::spawn(balance(&cluster).oneshot(Call::counted()));
    assert_pending!(first.poll());
    let error = balance(&cluster).oneshot(Call::counted()).await.expect_err("one is under way");
    assert_eq!(find_cause::<Overloaded>(&*error).map(Overloaded::limit), Some(1));
    assert_eq!((stage.seen(), counted(&cluster)), (vec![1], 1));
    drop(first);
    assert_eq!(counted(&cluster), 0);
}

#[tokio::test(start_paused = true)]
async fn request_counts_once_while_it_waits_and_moves() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat([1]));
    stage.set(|script| {
        script.down.extend([1]);
        script.silent.extend([2]);
    });
    let mut waiting = Call::counted();
    waiting.0.wait_for_ready = true;
    let mut call = task::spawn(balance(&cluster).oneshot(waiting));
    assert_pending!(call.poll());
    assert_eq!((stage.seen(), counted(&cluster)), (vec![1], 1));
    cluster.update_endpoints(&flat([1, 2]));
    assert!(call.is_woken());
    assert_pending!(call.poll());
    assert_eq!((stage.seen(), counted(&cluster)), (vec![2], 1));
    drop(call);
    assert_eq!(counted(&cluster), 0);
}

#[tokio::test(start_paused = true)]
async fn http_request_counts_until_its_body_has_ended() {
    let layer = BalanceLayer::new(flat([1]), ClusterPolicy::default());
    let answers = layer.layer(|_: &EndpointInfo<'_>| {
        service_fn(|_: Call| async { Ok::<_, BoxError>(Response::new(Full::new(Bytes::from("x")))) })
    });
    let cluster = answers.cluster();
    let balance = Balance::new(Fixed(cluster.clone()), Carried, UntilEnd(HttpClassifier));
    let response = balance.oneshot(Call::counted()).await.expect("an answer");
    assert_eq!(counted(cluster), 1);
    response.into_body().collect().await.expect("a whole body");
    assert_eq!(counted(cluster), 0);
}

#[tokio::test(start_paused = true)]
async fn http_request_is_in_flight_until_its_body_has_ended() {
    let layer = BalanceLayer::new(flat([1]), ClusterPolicy::default()).seed(1).hold(UntilEnd(HttpClassifier));
    let mut service = ServiceBuilder::new().layer(layer).service(|_: &EndpointInfo<'_>| {
        service_fn(|_: Request<()>| async { Ok::<_, BoxError>(Response::new(Full::new(Bytes::from("x")))) })
    });
    let cluster = service.cluster().clone();
    let response = service.ready().await.expect("ready").call(Request::new(())).await.expect("an answer");
    assert_eq!(in_flight(&cluster), 1);
    response.into_body().collect().await.expect("a whole body");
    assert_eq!(in_flight(&cluster), 0);
}

#[tokio::test(start_paused = true)]
async fn service_that_does_not_become_ready_hands_its_request_on() {
    #[derive(Clone)]
    struct Broken(u16);

    impl Service<&'static str> for Broken {
        type Response = String;
        type Error = BoxError;
        type Future = Ready<Result<String, BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(if self.0 == 1 { Err("no connection".into()) } else { Ok(()) })
        }

        fn call(&mut self, request: &'static str) -> Self::Future {
            ready(Ok(format!("{} got {request}", self.0)))
        }
    }

    let endpoints = Endpoints::flat(vec![endpoint(1), endpoint(2)]).expect("legal");
    let balance = Balance::from_endpoints(&endpoints, ClusterPolicy::default(), |endpoint: &EndpointInfo<'_>| {
        Broken(port(&endpoint.addresses[0]))
    });
    for _ in 0..10 {
        assert_eq!(balance.clone().oneshot("it").await.expect("an answer"), "2 got it");
    }
    assert!(balance.cluster().status().endpoints[0].is_unreachable);
}

#[tokio::test(start_paused = true)]
async fn random_drops_leak_nothing() {
    let stage = Stage::default();
    let cluster = stage.cluster(&flat(1..=5));
    stage.set(|script| {
        script.down.extend([1]);
        script.silent.extend([2, 3]);
    });
    let mut dice = Dice::new(3);
    let mut calls = Vec::new();
    for step in 0..2_000_u32 {
        let mut call = if dice.below(2) == 0 { Call::new() } else { Call::counted() };
        call.0.wait_for_ready = dice.below(2) == 0;
        let mut call = Box::pin(balance(&cluster).oneshot(call));
        let waker = std::task::Waker::noop();
        if call.as_mut().poll(&mut Context::from_waker(waker)).is_pending() {
            calls.push(call);
        }
        if dice.below(3) == 0 && !calls.is_empty() {
            calls.swap_remove(dice.below(calls.len() as u32) as usize);
        }
        if step % 100 == 0 {
            let ports = (1..=5).filter(|_| dice.below(3) > 0);
            cluster.update_endpoints(&Endpoints::flat(ports.chain([6]).map(endpoint).collect()).expect("legal"));
            advance(Duration::from_millis(300)).await;
        }
    }
    drop(calls);
    assert_eq!((in_flight(&cluster), counted(&cluster)), (0, 0));
}

#[test]
fn futures_and_services_cross_threads() {
    fn both<T: Send + Sync>(_: &T) {}
    let stage = Stage::default();
    let mut service = balance(&stage.cluster(&flat([1])));
    both(&service);
    let call: Pin<Box<dyn Future<Output = Result<u16, BoxError>> + Send>> = Box::pin(service.call(Call::new()));
    drop(call);
}
