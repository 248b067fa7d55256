//! Requests are spans of the caller's trace, and pass theirs on.
//!
//! In a program of its own: tracing keeps for the whole process whether a callsite interests anybody, and asks only the
//! thread that comes by first, so that a subscriber of one test is not seen beside tests without one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use client_support::{client_that_is_told as client, told};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
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
