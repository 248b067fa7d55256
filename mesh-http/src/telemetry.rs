//! What is told of requests: metrics, spans, and the trace context that goes with them.
//!
//! Metrics go through the [`metrics`] facade. Their handles are made when a cluster is, so that a request only adds to
//! counters, and to nothing at all when no recorder is installed. Names and labels:
//!
//! | metric | kind | labels | meaning |
//! |---|---|---|---|
//! | `mesh_requests_total` | counter | `cluster`, `outcome` | requests that ended: `success`, `server_error`, `gateway_error`, `cancelled`, `local` |
//! | `mesh_request_duration_seconds` | histogram | `cluster` | from the call to the end of the response |
//! | `mesh_requests_active` | gauge | `cluster` | requests under way |
//! | `mesh_failures_total` | counter | `cluster`, `flags` | requests that ended in an error, by Envoy's response flags: `UO`, `UF,URX` |
//! | `mesh_unrouted_requests_total` | counter | `target`, `outcome` | requests that ended before they had a cluster: redirects, direct responses, and what had no configuration, route or cluster |
//! | `mesh_unrouted_request_duration_seconds` | histogram | `target` | from the call to that end |
//! | `mesh_unrouted_requests_active` | gauge | `target` | requests that wait for their configuration, or their cluster |
//! | `mesh_unrouted_failures_total` | counter | `target`, `flags` | those of them that ended in an error |
//! | `mesh_attempts_total` | counter | `cluster` | attempts; what exceeds the requests are retries |
//!
//! Every request is counted once, in one of the two families. It is a [`tracing`] span called `request`, of level `INFO` and
//! target `mesh_http`, with the fields that OpenTelemetry's conventions name (`otel.kind`, `http.request.method`,
//! `server.address`, `url.path`, `http.response.status_code`, `rpc.grpc.status_code`, `error.type`) and `mesh.cluster`. It
//! lasts until the response has ended. Where no subscriber wants it, it costs one look at a static.
//!
//! The context of that span goes with the request, as W3C Trace Context; where there is none, the context that is current on
//! the caller's task.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use mesh_core::{
    RequestHead,
    hold::Settle,
    outcome::{Class, Flags, Outcome},
};
use metrics::{Counter, Gauge, Histogram};
use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt},
};
use tokio::time::Instant;
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// What is counted of calls, under one label.
pub(crate) struct CallMetrics {
    requests: [Counter; 5],
    duration: Histogram,
    active: Gauge,
    failures: Failures,
}

/// Failures by their flags, of which there are too many to have a counter for each in advance.
struct Failures {
    name: &'static str,
    label: &'static str,
    of: String,
    seen: Mutex<Vec<(Flags, Counter)>>,
}

/// The metrics of one cluster.
pub(crate) struct ClusterMetrics {
    calls: Arc<CallMetrics>,
    attempts: Counter,
}

/// The record of one call; settled with its outcome, or dropped when the caller goes away.
pub(crate) struct CallRecord {
    /// One reference, where the handles are many, and move with the call.
    metrics: Arc<CallMetrics>,
    start: Instant,
    span: Span,
    is_settled: bool,
}

// === impl CallMetrics ===

const OUTCOMES: [&str; 5] = ["success", "server_error", "gateway_error", "cancelled", "local"];

impl CallMetrics {
    /// Of the calls to `cluster`, on the recorder that is installed at this moment.
    fn of_cluster(cluster: &str) -> Self {
        let requests = OUTCOMES.map(
            |outcome| metrics::counter!("mesh_requests_total", "cluster" => cluster.to_owned(), "outcome" => outcome),
        );
        Self {
            requests,
            duration: metrics::histogram!("mesh_request_duration_seconds", "cluster" => cluster.to_owned()),
            active: metrics::gauge!("mesh_requests_active", "cluster" => cluster.to_owned()),
            failures: Failures::new("mesh_failures_total", "cluster", cluster),
        }
    }

    /// Of the calls to `target` that end before they have a cluster.
    pub(crate) fn of_target(target: &str) -> Self {
        let requests = OUTCOMES.map(|outcome| {
            metrics::counter!("mesh_unrouted_requests_total", "target" => target.to_owned(), "outcome" => outcome)
        });
        Self {
            requests,
            duration: metrics::histogram!("mesh_unrouted_request_duration_seconds", "target" => target.to_owned()),
            active: metrics::gauge!("mesh_unrouted_requests_active", "target" => target.to_owned()),
            failures: Failures::new("mesh_unrouted_failures_total", "target", target),
        }
    }

    fn ended(&self, class: Class, duration: Duration) {
        let index = match class {
            Class::Success => 0,
            Class::ServerError => 1,
            Class::GatewayError => 2,
            Class::Cancelled => 3,
            Class::Local => 4,
        };
        self.requests[index].increment(1);
        self.duration.record(duration.as_secs_f64());
        self.active.decrement(1.0);
    }
}

impl std::fmt::Debug for CallMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallMetrics").finish_non_exhaustive()
    }
}

// === impl Failures ===

impl Failures {
    fn new(name: &'static str, label: &'static str, of: &str) -> Self {
        Self { name, label, of: of.to_owned(), seen: Mutex::default() }
    }

    fn count(&self, flags: Flags) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let at = seen.iter().position(|(known, _)| *known == flags).unwrap_or_else(|| {
            let labels = [(self.label, self.of.clone()), ("flags", flags.to_string())];
            seen.push((flags, metrics::counter!(self.name, &labels)));
            seen.len() - 1
        });
        seen[at].1.increment(1);
    }
}

// === impl ClusterMetrics ===

impl ClusterMetrics {
    /// The metrics of `cluster`, on the recorder that is installed at this moment.
    pub(crate) fn of(cluster: &str) -> Self {
        Self {
            calls: Arc::new(CallMetrics::of_cluster(cluster)),
            attempts: metrics::counter!("mesh_attempts_total", "cluster" => cluster.to_owned()),
        }
    }

    pub(crate) fn calls(&self) -> &Arc<CallMetrics> {
        &self.calls
    }

    pub(crate) fn attempted(&self) {
        self.attempts.increment(1);
    }
}

impl std::fmt::Debug for ClusterMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterMetrics").finish_non_exhaustive()
    }
}

// === impl CallRecord ===

impl CallRecord {
    /// The record of a call that began at `start`, in `span`.
    pub(crate) fn open(metrics: &Arc<CallMetrics>, span: Span, start: Instant) -> Self {
        metrics.active.increment(1.0);
        Self { metrics: metrics.clone(), start, span, is_settled: false }
    }

    /// The call goes to the cluster `name`, and is counted there from now on.
    pub(crate) fn goes_to(&mut self, metrics: &Arc<CallMetrics>, name: &str) {
        metrics.active.increment(1.0);
        self.metrics.active.decrement(1.0);
        self.metrics = metrics.clone();
        name_cluster(&self.span, name);
    }

    fn end(&mut self, class: Class, duration: Duration) {
        self.is_settled = true;
        self.metrics.ended(class, duration);
    }
}

impl Settle for CallRecord {
    fn settle(&mut self, outcome: &Outcome) {
        self.end(outcome.class, outcome.at.saturating_duration_since(self.start));
        if let Some(failure) = outcome.failure {
            self.metrics.failures.count(failure.flags);
        }
        if !self.span.is_none() {
            describe(&self.span, outcome);
        }
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        if !self.is_settled {
            self.end(Class::Cancelled, self.start.elapsed());
        }
    }
}

/// The span of a request, from its beginning.
pub(crate) fn span<B>(request: &Request<B>) -> Span {
    tracing::info_span!(
        target: "mesh_http",
        "request",
        otel.kind = "client",
        http.request.method = request.method().as_str(),
        server.address = RequestHead::of(request).authority,
        url.path = request.uri().path(),
        mesh.cluster = Empty,
        http.response.status_code = Empty,
        rpc.grpc.status_code = Empty,
        error.type = Empty,
    )
}

/// Writes into a request's span which cluster it goes to.
pub(crate) fn name_cluster(span: &Span, name: &str) {
    if !span.is_none() {
        span.record("mesh.cluster", name);
    }
}

/// Writes what became of a request into its span.
fn describe(span: &Span, outcome: &Outcome) {
    if let Some(status) = outcome.status {
        span.record("http.response.status_code", status.as_u16());
    }
    if let Some(status) = outcome.grpc_status {
        span.record("rpc.grpc.status_code", status);
    }
    if let Some(failure) = outcome.failure {
        span.record("error.type", failure.kind.as_str());
    }
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Writes the trace context of a request's span, or else that of the caller's task, into its headers, as W3C Trace Context,
/// level 1. A context that the caller wrote itself stays; without a trace nothing is written.
pub(crate) fn propagate(headers: &mut HeaderMap, span: &Span) {
    let context = context_of(span);
    if !context.is_valid() || headers.contains_key(TRACEPARENT) {
        return;
    }
    let parent = format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8());
    if let Ok(value) = HeaderValue::from_str(&parent) {
        headers.insert(TRACEPARENT, value);
    }
    let state = context.trace_state().header();
    if let Ok(value) = HeaderValue::from_str(&state)
        && !state.is_empty()
    {
        headers.insert(TRACESTATE, value);
    }
}

/// The context of `span`; without one, opentelemetry's own on this task, or that of the tracing span that is current.
fn context_of(span: &Span) -> SpanContext {
    if !span.is_none() {
        let context = span.context().span().span_context().clone();
        if context.is_valid() {
            return context;
        }
    }
    let own = Context::map_current(|context| context.span().span_context().clone());
    if own.is_valid() {
        return own;
    }
    let current = Span::current();
    if current.is_none() {
        return SpanContext::NONE;
    }
    current.context().span().span_context().clone()
}
