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
//! | `mesh_attempts_total` | counter | `cluster` | attempts; what exceeds the requests are retries |

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_core::{
    hold::Settle,
    outcome::{Class, Outcome},
};
use metrics::{Counter, Gauge, Histogram};
use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt},
};
use tokio::time::Instant;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The metrics of one cluster.
pub(crate) struct ClusterMetrics {
    requests: [Counter; 5],
    duration: Histogram,
    active: Gauge,
    attempts: Counter,
}

/// The record of one call; settled with its outcome, or dropped when the caller goes away.
pub(crate) struct CallRecord {
    /// One reference, where the handles are many, and move with the call.
    metrics: Arc<ClusterMetrics>,
    start: Instant,
    is_settled: bool,
}

// === impl ClusterMetrics ===

impl ClusterMetrics {
    /// The metrics of `cluster`, on the recorder that is installed at this moment.
    pub(crate) fn of(cluster: &str) -> Self {
        let requests = ["success", "server_error", "gateway_error", "cancelled", "local"].map(
            |outcome| metrics::counter!("mesh_requests_total", "cluster" => cluster.to_owned(), "outcome" => outcome),
        );
        Self {
            requests,
            duration: metrics::histogram!("mesh_request_duration_seconds", "cluster" => cluster.to_owned()),
            active: metrics::gauge!("mesh_requests_active", "cluster" => cluster.to_owned()),
            attempts: metrics::counter!("mesh_attempts_total", "cluster" => cluster.to_owned()),
        }
    }

    pub(crate) fn attempted(&self) {
        self.attempts.increment(1);
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

impl std::fmt::Debug for ClusterMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterMetrics").finish_non_exhaustive()
    }
}

// === impl CallRecord ===

impl CallRecord {
    pub(crate) fn open(metrics: &Arc<ClusterMetrics>, start: Instant) -> Self {
        metrics.active.increment(1.0);
        Self { metrics: metrics.clone(), start, is_settled: false }
    }
}

impl Settle for CallRecord {
    fn settle(&mut self, outcome: &Outcome) {
        self.is_settled = true;
        self.metrics.ended(outcome.class, outcome.at.saturating_duration_since(self.start));
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        if !self.is_settled {
            self.metrics.ended(Class::Cancelled, self.start.elapsed());
        }
    }
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Writes the trace context that is current on this task into a request, as W3C Trace Context, level 1. A context that the
/// caller wrote itself stays; without a trace nothing is written.
pub(crate) fn propagate(headers: &mut HeaderMap) {
    let context = current_span();
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

/// The span of the caller: opentelemetry's own, else that of the current tracing span.
fn current_span() -> SpanContext {
    let own = Context::map_current(|context| context.span().span_context().clone());
    if own.is_valid() {
        return own;
    }
    let span = tracing::Span::current();
    if span.is_none() {
        return SpanContext::NONE;
    }
    span.context().span().span_context().clone()
}
