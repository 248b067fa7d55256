//! The policy layers around endpoints that answer at once, so that all that is measured is theirs.
#![allow(missing_docs, dead_code, reason = "shared by benches and a test, each of which uses a part")]

use std::{
    future::{Future, Ready, ready},
    hint::black_box,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::Body;
use http_body_util::{Empty, Full};
use mesh_core::{
    Dice,
    balance::{Ask, Balance, Terms as Asked, TermsOf},
    carry::{Carried, Carries, Fixed, PolicyOf},
    cluster::{Cluster, Dispatch, Transport, Undelivered},
    config::{
        self, CircuitBreakers, ClusterPolicy, Endpoint, Endpoints, LoadBalancing, RequestPriority, RetryOn,
        RetryPolicy, Semantics,
    },
    deadline::{Bound, Expiry},
    endpoint::{EndpointId, EndpointInfo, Tried},
    hold::{JoinEnd, UntilEnd},
    limit::{Breaker, Limit, LimitLayer, Limits},
    outcome::{BoxError, HttpClassifier},
    retry::{AttemptPolicy, HttpRules, Keep, Replay, ReplayBody, Replayed, Retry, RetryLayer},
};
use tokio::time::Instant;
use tower::{Layer, Service};

/// Reaches endpoints that answer at once.
pub(crate) struct Answers;

/// An endpoint that answers at once.
pub(crate) struct Answering;

impl Transport for Answers {
    type Handle = Answering;

    fn open(&self, _: &EndpointInfo<'_>) -> Answering {
        Answering
    }

    fn update(&self, _: &Answering, _: &EndpointInfo<'_>) {}

    fn retire(&self, _: &Answering) {}
}

impl<R> Dispatch<R> for Answering {
    type Response = Response<Empty<Bytes>>;
    type Future = Ready<Result<Self::Response, Undelivered<R>>>;

    fn dispatch(&self, request: R) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(Empty::new())))
    }
}

/// What a route says of one request.
#[derive(Clone)]
pub(crate) struct Terms {
    retry: Arc<RetryPolicy>,
    limits: Arc<Limits>,
    deadline: Expiry,
    kept: bool,
}

impl Terms {
    pub(crate) fn new(kept: bool) -> Self {
        let retry = RetryPolicy::on(RetryOn::SERVER_ERROR).max_retries(2).expect("legal");
        let limits = Limits::new(&CircuitBreakers::default());
        let deadline = Expiry::new(Bound::Request, Instant::now(), Duration::from_secs(15));
        Self { retry: Arc::new(retry), limits, deadline, kept }
    }

    /// As the mesh does for each call: one reading of the clock, of which the deadline is made.
    pub(crate) fn begin(&self) -> Self {
        let deadline = Expiry::new(Bound::Request, Instant::now(), Duration::from_secs(15));
        Self { deadline, ..self.clone() }
    }
}

impl AttemptPolicy for Terms {
    fn retry(&self) -> Option<&RetryPolicy> {
        Some(&self.retry)
    }

    fn dice(&self) -> Dice {
        Dice::new(1)
    }

    fn budget(&self) -> Option<Breaker> {
        Some(Breaker { limits: self.limits.clone(), priority: RequestPriority::Default })
    }

    fn deadline(&self) -> Option<Expiry> {
        Some(self.deadline)
    }

    fn per_try(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    fn is_kept(&self) -> bool {
        self.kept
    }
}

/// A request that carries its terms, as a request of the mesh does.
pub(crate) struct Routed<B> {
    request: Request<B>,
    terms: Terms,
}

impl<B> Carries<Terms> for Routed<B> {
    fn carried(&self) -> Terms {
        self.terms.begin()
    }
}

impl<B> Routed<B> {
    /// A request without headers, so that to drop it costs nothing.
    pub(crate) fn bare(body: B, terms: Terms) -> Self {
        Self { request: Request::new(body), terms }
    }

    /// A request with a head as applications send it: to copy it is what keeping costs.
    pub(crate) fn new(body: B, terms: Terms) -> Self {
        let mut request = Request::new(body);
        *request.uri_mut() = Uri::from_static("http://reviews/v1/7");
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("bench"));
        Self { request, terms }
    }
}

pub(crate) fn empty() -> Empty<Bytes> {
    Empty::new()
}

pub(crate) fn small() -> Full<Bytes> {
    Full::from("a small body")
}

/// Keeps the HTTP request within.
#[derive(Clone)]
pub(crate) struct KeepRouted(Replay);

impl<B> Keep<Routed<B>> for KeepRouted
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Kept = Replayed<B>;

    fn keep(&self, routed: Routed<B>, repeatable: bool) -> Replayed<B> {
        self.0.keep(routed.request, repeatable)
    }
}

/// Whose limits an attempt counts against.
#[derive(Clone)]
pub(crate) struct ByCluster(Arc<Limits>);

impl PolicyOf<Request<ReplayBody>, Breaker> for ByCluster {
    fn policy_of(&self, _: &Request<ReplayBody>) -> Breaker {
        Breaker { limits: self.0.clone(), priority: RequestPriority::Default }
    }
}

pub(crate) type Stack = Retry<Limit<Balanced, ByCluster, JoinEnd>, KeepRouted, HttpRules, JoinEnd, Carried, Terms>;

type Balanced = Balance<Answers, Fixed<Arc<Cluster<Answers>>>, First, UntilEnd>;

/// Asks as a first attempt does, by the reading of the clock that its request began with.
#[derive(Clone)]
pub(crate) struct First(Instant);

impl<R> TermsOf<R> for First {
    fn terms_of(&self, _: &mut R) -> Asked {
        Asked { dice: Dice::new(1), tried: Tried::new(), now: self.0, wait_for_ready: false }
    }

    fn picked(&self, _: &mut R, _: EndpointId) {}
}

/// Deadline, retries and budget, then the request breaker, then balancing over ten endpoints that answer at once.
pub(crate) fn stack() -> Stack {
    let limits = ByCluster(Limits::new(&CircuitBreakers::default()));
    let retry = RetryLayer::with_parts(KeepRouted(Replay::new()), HttpRules, JoinEnd, Carried);
    let balance = Balance::new(Fixed(cluster()), First(Instant::now()), UntilEnd(HttpClassifier));
    retry.layer(LimitLayer::with_policy(limits).hold(JoinEnd).layer(balance))
}

/// All of whose endpoints have been used.
fn cluster() -> Arc<Cluster<Answers>> {
    let config = Arc::new(config::Cluster::new("bench").expect("a name"));
    let policy = ClusterPolicy { load_balancing: Some(LoadBalancing::LEAST_REQUEST), ..ClusterPolicy::default() };
    let cluster = Cluster::new(&config, policy, Semantics::Envoy, Answers, 1);
    let endpoints = (0..10).map(|host| Endpoint::new(SocketAddr::from(([10, 0, 0, host], 80)))).collect();
    cluster.update_endpoints(&Endpoints::flat(endpoints).expect("ten"));
    let (mut dice, tried, now) = (Dice::new(1), Tried::new(), Instant::now());
    for _ in 0..1_000 {
        let mut ask = Ask { dice: &mut dice, tried: &tried, now, wait_for_ready: false };
        drop(cluster.pick(&mut ask).expect("all endpoints are healthy"));
    }
    cluster
}

/// One call, from request to dropped response.
pub(crate) fn call<B>(stack: &mut Stack, request: Routed<B>)
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let ready = Service::<Routed<B>>::poll_ready(stack, &mut cx);
    assert!(ready.is_ready());
    let answer = pin!(stack.call(request)).poll(&mut cx);
    assert!(black_box(answer).is_ready());
}
