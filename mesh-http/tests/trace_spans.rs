//! Requests are spans of the caller's trace, and pass theirs on.
//!
//! In a program of its own: tracing keeps for the whole process whether a callsite interests anybody, and asks only the
//! thread that comes by first, so that a subscriber of one test is not seen beside tests without one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use client_support::{client_that_is_told as client, told};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing::Instrument as _;
use tracing_subscriber::layer::SubscriberExt as _;

#[tokio::test(start_paused = true)]
async fn current_tracing_span_is_passed_on() {
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

    let client = client();
    let (one, again) =
        async { (told(&client).await, told(&client).await) }.instrument(tracing::info_span!("one")).await;
    let other = told(&client).instrument(tracing::info_span!("other")).await;
    assert!(one.starts_with("00-") && one.ends_with("-01 none"), "{one}");
    assert_eq!(one[3..35], again[3..35], "requests under one span are of one trace");
    assert_ne!(one[36..52], again[36..52], "each request is a span of its own");
    assert_ne!(one[3..35], other[3..35], "another span without a parent is another trace");
    let alone = told(&client).await;
    assert!(
        ![&one[3..35], &other[3..35]].contains(&&alone[3..35]),
        "the spans are over, and the request begins a trace"
    );
}

#[tokio::test(start_paused = true)]
async fn span_says_what_was_asked_and_what_became_of_it() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

    let client = client();
    told(&client).await;
    client.get("http://elsewhere/v1").await.unwrap_err();
    let spans = exporter.get_finished_spans().unwrap();
    let said = |span: &SpanData, name: &str| {
        let said = span.attributes.iter().find(|said| said.key.as_str() == name);
        said.map_or_else(|| "-".to_owned(), |said| said.value.to_string())
    };
    const FIELDS: [&str; 6] = [
        "http.request.method",
        "server.address",
        "url.path",
        "mesh.cluster",
        "http.response.status_code",
        "error.type",
    ];
    let spans: Vec<_> = spans.iter().map(|span| FIELDS.map(|name| said(span, name))).collect();
    let expected = [["GET", "reviews", "/", "reviews", "200", "-"], ["GET", "elsewhere", "/v1", "-", "-", "no route"]];
    assert_eq!(spans, expected.map(|span| span.map(str::to_owned)));
}
