//! The policy layers as the mesh stacks them, around endpoints that answer at once, so that all that is measured is theirs.
#![allow(missing_docs, dead_code, reason = "shared by benches and a test, each of which uses a part")]

use std::{
    future::Future,
    hint::black_box,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::Body;
use http_body_util::{Empty, Full};
use mesh_core::{
    Dice,
    balance::{Balance, Terms},
    carry::{Carried, Carries},
    cluster::{Cluster, Dispatch, EndpointInfo, Transport, Undelivered},
    config::{self, ClusterPolicy, Endpoint, Endpoints, RequestPriority, RetryOn, RetryPolicy, Semantics},
    deadline::{Bound, Expiry},
    hold::{JoinEnd, UntilEnd},
    limit::Breaker,
    outcome::{BoxError, HttpClassifier},
    retry::{
        AttemptPolicy, Govern, Governed, HttpRules, Keep, Kept, Observe, Replay, ReplayBody, Replayed, Retry,
        RetryLayer, Try,
    },
};
use tokio::time::Instant;
use tower::{Layer, Service};

/// An endpoint that answers at once.
pub(crate) struct Answers;

/// The answer.
pub(crate) struct Answer;

/// Carries requests to endpoints that answer at once.
pub(crate) struct AtOnce;

impl Transport for AtOnce {
    type Handle = Answers;

    fn open(&self, _: &EndpointInfo<'_>) -> Answers {
        Answers
    }

    fn update(&self, _: &Answers, _: &EndpointInfo<'_>) {}

    fn retire(&self, _: &Answers) {}
}

impl Dispatch<Attempt> for Answers {
    type Response = Response<Empty<Bytes>>;
    type Future = Answer;

    #[inline]
    fn dispatch(&self, attempt: Attempt) -> Answer {
        black_box(&attempt);
        Answer
    }
}

impl Future for Answer {
    type Output = Result<Response<Empty<Bytes>>, Undelivered<Attempt>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(Response::new(Empty::new())))
    }
}

/// What a route says of one request.
#[derive(Clone)]
pub(crate) struct Facts {
    retry: Arc<RetryPolicy>,
    cluster: Arc<Cluster<AtOnce>>,
    start: Instant,
    deadline: Expiry,
    dice: Dice,
    kept: bool,
}

impl Facts {
    pub(crate) fn new(kept: bool) -> Self {
        let retry = RetryPolicy::on(RetryOn::SERVER_ERROR).max_retries(2).expect("legal");
        let config = Arc::new(config::Cluster::new("bench").expect("a name"));
        let cluster = Cluster::new(&config, ClusterPolicy::default(), Semantics::Envoy, AtOnce, 1);
        let endpoints = (1..=3).map(|i| Endpoint::new(SocketAddr::from(([10, 0, 0, i], 80)))).collect();
        cluster.update_endpoints(&Endpoints::flat(endpoints).expect("three"));
        let (start, deadline) = Self::begin();
        Self { retry: Arc::new(retry), cluster, start, deadline, dice: Dice::new(1), kept }
    }

    /// One reading of the clock, which all policies share.
    fn begin() -> (Instant, Expiry) {
        let start = Instant::now();
        (start, Expiry::new(Bound::Request, start, Duration::from_secs(15)))
    }
}

impl AttemptPolicy for Facts {
    fn retry(&self) -> Option<&RetryPolicy> {
        Some(&self.retry)
    }

    fn dice(&self) -> Dice {
        self.dice
    }

    fn budget(&self) -> Option<Breaker> {
        Some(Breaker { limits: self.cluster.limits().clone(), priority: RequestPriority::Default })
    }

    fn deadline(&self) -> Option<Expiry> {
        Some(self.deadline)
    }

    fn per_try(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}

/// A request that carries what was decided about it, as a request of the mesh does.
pub(crate) struct Routed<B> {
    request: Request<B>,
    facts: Facts,
}

impl<B> Routed<B> {
    /// A request without headers, so that to drop it costs nothing.
    pub(crate) fn bare(body: B, facts: Facts) -> Self {
        Self { request: Request::new(body), facts }
    }

    /// A request with a head as applications send it: to copy it is what keeping costs.
    pub(crate) fn new(body: B, facts: Facts) -> Self {
        let mut request = Request::new(body);
        *request.uri_mut() = Uri::from_static("http://reviews/v1/7");
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("bench"));
        Self { request, facts }
    }
}

pub(crate) fn empty() -> Empty<Bytes> {
    Empty::new()
}

pub(crate) fn small() -> Full<Bytes> {
    Full::from("a small body")
}

/// One attempt at a request.
pub(crate) struct Attempt {
    request: Request<ReplayBody>,
    /// Taken when the attempt is balanced.
    cluster: Option<Arc<Cluster<AtOnce>>>,
    dice: Dice,
    now: Instant,
}

impl Carries<Arc<Cluster<AtOnce>>> for Attempt {
    fn carried(&mut self) -> Arc<Cluster<AtOnce>> {
        self.cluster.take().expect("an attempt is balanced once")
    }
}

impl Carries<Terms> for Attempt {
    fn carried(&mut self) -> Terms {
        Terms { breaker: Some(RequestPriority::Default), ..Terms::new(self.dice, self.now) }
    }
}

/// Keeps the HTTP request within, and what was decided beside it.
#[derive(Clone)]
pub(crate) struct KeepRouted(Replay);

pub(crate) struct KeptRouted<B> {
    replayed: Replayed<B>,
    facts: Facts,
}

impl<B> Govern<Routed<B>> for KeepRouted
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Governed = KeptRouted<B>;

    fn govern(&self, routed: Routed<B>) -> KeptRouted<B> {
        KeptRouted { replayed: self.0.keep(routed.request, routed.facts.kept), facts: routed.facts }
    }
}

impl<B> Governed for KeptRouted<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Kept = Self;
    type Policy = Facts;

    fn kept(&mut self) -> &mut Self {
        self
    }

    fn policy(&self) -> &Facts {
        &self.facts
    }
}

impl<B> Kept for KeptRouted<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Attempt = Attempt;

    fn gather(&mut self, cx: &mut Context<'_>) {
        self.replayed.gather(cx);
    }

    fn attempt(&mut self, this: Try) -> Option<Attempt> {
        let mut dice = self.facts.dice;
        let cluster = Some(self.facts.cluster.clone());
        let dice = Dice::new(dice.roll());
        Some(Attempt { request: self.replayed.attempt(this)?, cluster, dice, now: self.facts.start })
    }

    fn retire(&mut self, this: Try) -> bool {
        self.replayed.retire(this)
    }

    fn commit(&mut self, this: Try) {
        self.replayed.commit(this);
    }

    fn is_idempotent(&self) -> bool {
        self.replayed.is_idempotent()
    }
}

impl<B, Res> Observe<Res> for KeptRouted<B> {}

pub(crate) type Stack = Retry<Balance<AtOnce, Carried, Carried, UntilEnd>, KeepRouted, HttpRules, JoinEnd>;

/// Deadline, retries and budget, then the balancer, which asks the request breaker before it picks.
pub(crate) fn stack() -> Stack {
    let balance = Balance::new(Carried, Carried, UntilEnd(HttpClassifier));
    RetryLayer::with_parts(KeepRouted(Replay::new()), HttpRules, JoinEnd).layer(balance)
}

/// One call, from request to dropped response.
#[inline]
pub(crate) fn call<B>(stack: &mut Stack, mut routed: Routed<B>)
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    (routed.facts.start, routed.facts.deadline) = Facts::begin();
    let mut cx = Context::from_waker(Waker::noop());
    let ready = Service::<Routed<B>>::poll_ready(stack, &mut cx);
    assert!(ready.is_ready());
    let answer = pin!(stack.call(routed)).poll(&mut cx);
    assert!(black_box(&answer).is_ready());
}
