//! Endpoints that are too slow, as seen from outside the balancer: whoever runs out of patience blames the endpoint, whatever
//! stands in between; a caller who goes away blames nobody.
#![allow(missing_docs)]

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use mesh_core::{
    balance::{AtEndpoint, BalanceLayer},
    cluster::{ClusterStatus, EndpointInfo},
    config::{ClusterPolicy, LoadBalancing, OutlierDetection, Percent, RetryOn, RetryPolicy},
    deadline::DeadlineLayer,
    hold::UntilEnd,
    outcome::{BoxError, Failure, FailureKind, HttpClassifier},
    retry::RetryLayer,
};
use tokio::{task::yield_now, time::sleep};
use tower::{Layer, Service, ServiceExt};

mod support;
use support::{flat, port};

const LIMIT: Duration = Duration::from_millis(100);

/// How often a slow endpoint fails before it is ejected.
const THRESHOLD: usize = 3;

/// One of two endpoints. The first gives no answer, or an answer whose body gives nothing.
#[derive(Clone)]
struct Actor {
    port: u16,
    answers: bool,
    seen: Seen,
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u16>>>);

/// A body of nothing, now or never.
struct Silence {
    is_over: bool,
}

impl Seen {
    fn count(&self, port: u16) -> usize {
        self.0.lock().expect("no panic").iter().filter(|seen| **seen == port).count()
    }
}

impl Service<()> for Actor {
    type Response = Response<Silence>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Silence>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        self.seen.0.lock().expect("no panic").push(self.port);
        let is_over = self.port != 1;
        if is_over || self.answers {
            return Box::pin(std::future::ready(Ok(Response::new(Silence { is_over }))));
        }
        Box::pin(std::future::pending())
    }
}

impl Body for Silence {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_over { Poll::Ready(None) } else { Poll::Pending }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

/// Endpoints 1, which is slow, and 2, with the ejections of their cluster under review.
struct Scene<S> {
    balance: S,
    seen: Seen,
    status: Box<dyn Fn() -> ClusterStatus>,
}

fn scene(
    balancing: LoadBalancing,
    answers: bool,
) -> Scene<impl Service<(), Response = Response<impl Body<Data = Bytes, Error = BoxError>>, Error = BoxError> + Clone> {
    let outlier = OutlierDetection {
        consecutive_errors: THRESHOLD as u32,
        max_ejected: Percent::new(50.0).expect("legal"),
        ..OutlierDetection::default()
    };
    let policy = ClusterPolicy {
        load_balancing: Some(balancing),
        outlier_detection: Some(Arc::new(outlier)),
        ..ClusterPolicy::default()
    };
    let seen = Seen::default();
    let factory = {
        let seen = seen.clone();
        move |endpoint: &EndpointInfo<'_>| Actor { port: port(&endpoint.addresses[0]), answers, seen: seen.clone() }
    };
    let balance = BalanceLayer::new(flat([1, 2]), policy).seed(1).hold(UntilEnd(HttpClassifier)).layer(factory);
    let cluster = balance.cluster().clone();
    tokio::spawn(cluster.work());
    // A layer of somebody else's stands in between, and knows of nothing.
    let balance = balance.map_future(|call| Box::pin(call) as Pin<Box<dyn Future<Output = _> + Send>>);
    Scene { balance, seen, status: Box::new(move || cluster.status()) }
}

impl<S> Scene<S> {
    fn ejected(&self) -> Vec<u16> {
        let endpoints = (self.status)().endpoints.into_iter().filter(|endpoint| endpoint.is_ejected);
        endpoints.map(|endpoint| port(&endpoint.addresses[0])).collect()
    }

    fn in_flight(&self) -> u32 {
        (self.status)().endpoints.iter().map(|endpoint| endpoint.in_flight).sum()
    }
}

fn retries(retries: u32) -> RetryPolicy {
    RetryPolicy::on(RetryOn::RESET).max_retries(retries).expect("legal")
}

#[tokio::test(start_paused = true)]
async fn endpoint_that_times_out_per_try_is_ejected_at_the_threshold() {
    let scene = scene(LoadBalancing::RoundRobin, false);
    let service = RetryLayer::cloning(retries(3)).per_try_timeout(LIMIT).layer(scene.balance.clone());
    yield_now().await;
    for _ in 0..20 {
        service.clone().oneshot(()).await.expect("the other endpoint answers");
        yield_now().await;
    }
    assert_eq!((scene.ejected(), scene.seen.count(1), scene.in_flight()), (vec![1], THRESHOLD, 0));
}

#[tokio::test(start_paused = true)]
async fn endpoint_is_blamed_for_the_overall_timeout_and_named_by_the_error() {
    let scene = scene(LoadBalancing::RoundRobin, false);
    let service = RetryLayer::cloning(retries(0)).timeout(LIMIT).layer(scene.balance.clone());
    yield_now().await;
    let slow = (scene.status)().endpoints[0].id;
    let mut failed = 0;
    for _ in 0..20 {
        if let Err(error) = service.clone().oneshot(()).await {
            assert_eq!((Failure::of(&*error).kind, AtEndpoint::of(&*error)), (FailureKind::Timeout, Some(slow)));
            failed += 1;
        }
        yield_now().await;
    }
    assert_eq!((failed, scene.ejected()), (THRESHOLD, vec![1]));
}

#[tokio::test(start_paused = true)]
async fn deadline_layer_blames_the_endpoint_too() {
    let scene = scene(LoadBalancing::RoundRobin, false);
    let service = DeadlineLayer::new(LIMIT).layer(scene.balance.clone());
    yield_now().await;
    for _ in 0..20 {
        let _ = service.clone().oneshot(()).await;
        yield_now().await;
    }
    assert_eq!((scene.ejected(), scene.seen.count(1)), (vec![1], THRESHOLD));
}

#[tokio::test(start_paused = true)]
async fn endpoint_whose_body_is_cut_off_is_ejected() {
    let scene = scene(LoadBalancing::RoundRobin, true);
    let layer = RetryLayer::cloning(retries(0)).timeout(LIMIT).hold(UntilEnd(HttpClassifier));
    let service = layer.layer(scene.balance.clone());
    yield_now().await;
    for _ in 0..20 {
        let response = service.clone().oneshot(()).await.expect("both answer");
        let _ = response.into_body().collect().await;
        yield_now().await;
    }
    assert_eq!((scene.ejected(), scene.seen.count(1), scene.in_flight()), (vec![1], THRESHOLD, 0));
}

#[tokio::test(start_paused = true)]
async fn peak_ewma_keeps_away_from_who_timed_out() {
    let scene = scene(LoadBalancing::PEAK_EWMA, false);
    let service = RetryLayer::cloning(retries(3)).per_try_timeout(LIMIT).layer(scene.balance.clone());
    // No word of failures in a row: all that is known is how long it took.
    while scene.seen.count(1) == 0 {
        service.clone().oneshot(()).await.expect("the other endpoint answers");
    }
    for _ in 0..100 {
        service.clone().oneshot(()).await.expect("the other endpoint answers");
    }
    assert_eq!((scene.seen.count(1), scene.ejected()), (1, vec![]));
}

#[tokio::test(start_paused = true)]
async fn caller_who_goes_away_blames_nobody() {
    let scene = scene(LoadBalancing::RoundRobin, false);
    let service = RetryLayer::cloning(retries(3)).timeout(10 * LIMIT).layer(scene.balance.clone());
    yield_now().await;
    for _ in 0..20 {
        let call = pin!(service.clone().oneshot(()));
        let mut cx = Context::from_waker(Waker::noop());
        let _ = call.poll(&mut cx);
        sleep(LIMIT).await;
    }
    assert_eq!((scene.ejected(), scene.seen.count(1)), (vec![], 10));
}

#[tokio::test(start_paused = true)]
async fn caller_who_drops_a_body_blames_nobody() {
    let scene = scene(LoadBalancing::RoundRobin, true);
    let layer = RetryLayer::cloning(retries(0)).timeout(LIMIT).hold(UntilEnd(HttpClassifier));
    let service = layer.layer(scene.balance.clone());
    yield_now().await;
    for _ in 0..20 {
        drop(service.clone().oneshot(()).await.expect("both answer"));
        yield_now().await;
    }
    assert_eq!((scene.ejected(), scene.in_flight()), (vec![], 0));
}
