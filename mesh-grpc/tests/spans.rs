//! What the span of a call says of its gRPC status, wherever on the wire the status stands.
//!
//! In a program of its own: tracing keeps for the whole process whether a callsite interests anybody, and asks only the
//! thread that comes by first, so that a subscriber of one test is not seen beside tests without one.
#![allow(clippy::result_large_err, reason = "it is tonic's error type")]

#[path = "channel/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each test program uses its part")]
mod support;

use http::{HeaderValue, Response};
use http_body_util::{BodyExt as _, Empty};
use mesh_core::config::{CircuitBreakers, Thresholds};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use support::{RawBody, builder, built, collect, framed, frames, grpc, http2_peer, message, page, trailers, whole};
use tonic::Code;
use tracing_subscriber::layer::SubscriberExt as _;

/// An answer that is all head, and its status with it.
fn head_only(status: &'static str) -> Response<RawBody> {
    let mut answer = grpc(RawBody::new(Empty::new().map_err(|never| match never {})));
    answer.headers_mut().insert("grpc-status", HeaderValue::from_static(status));
    answer
}

fn said(span: &SpanData, name: &str) -> String {
    let said = span.attributes.iter().find(|said| said.key.as_str() == name);
    said.map_or_else(|| "-".to_owned(), |said| said.value.to_string())
}

#[tokio::test]
async fn span_says_which_status_the_call_ended_with() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

    let (address, _peer) = http2_peer(|request| match request.uri().path().rsplit('/').next() {
        Some("Unary") => whole(),
        Some("ServerStream") => grpc(frames(vec![Ok(framed("one")), Ok(framed("two")), Ok(trailers("9"))])),
        Some("ClientStream") => head_only("5"),
        _ => page(403),
    })
    .await;
    let one = Thresholds { max_requests: Some(1), ..Thresholds::default() };
    let breakers = CircuitBreakers { default: one, ..CircuitBreakers::default() };
    let mut client = built(builder([address]).circuit_breakers(breakers));

    // 1. In the trailers, after a message and after several.
    client.unary(message("")).await.expect("an answer");
    let answers = client.server_stream(message("")).await.expect("a stream").into_inner();
    assert_eq!(collect(answers).await.1.expect_err("its end").code(), Code::FailedPrecondition);
    // 2. In the head.
    let status = client.client_stream(tokio_stream::iter([message("")])).await.expect_err("not found");
    assert_eq!(status.code(), Code::NotFound);
    // 3. Nowhere: what an answer that is not gRPC's stands for.
    let status = client.both(tokio_stream::iter([message("")])).await.expect_err("forbidden");
    assert_eq!(status.code(), Code::PermissionDenied);
    // 4. No peer gave one: a call is refused here, and the one that is in its way is dropped before its trailers.
    let held = client.server_stream(message("")).await.expect("a stream");
    assert_eq!(client.unary(message("")).await.expect_err("one is under way").code(), Code::Unavailable);
    drop(held);

    const FIELDS: [&str; 4] = ["url.path", "http.response.status_code", "rpc.grpc.status_code", "error.type"];
    let spans = exporter.get_finished_spans().expect("it works");
    // hyper and h2 have spans too.
    let ours = spans.iter().filter(|span| span.name == "request");
    let spans: Vec<_> = ours.map(|span| FIELDS.map(|name| said(span, name))).collect();
    let expected = [
        ["/mesh.interop.Echo/Unary", "200", "0", "-"],
        ["/mesh.interop.Echo/ServerStream", "200", "9", "-"],
        ["/mesh.interop.Echo/ClientStream", "200", "5", "-"],
        ["/mesh.interop.Echo/Both", "403", "7", "-"],
        ["/mesh.interop.Echo/Unary", "-", "-", "overflow"],
        ["/mesh.interop.Echo/ServerStream", "-", "-", "-"],
    ];
    assert_eq!(spans, expected.map(|span| span.map(str::to_owned)));
}
