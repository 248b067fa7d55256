//! Whose trace a request continues: opentelemetry's context, else the current tracing span, as W3C Trace Context.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use bytes::Bytes;
use client_support::{Net, says, text};
use http::Request;
use http_body_util::Empty;
use mesh_http::{Client, Mesh};
use opentelemetry::{
    Context, SpanId, TraceFlags, TraceId,
    trace::{FutureExt as _, SpanContext, TraceContextExt as _, TraceState, TracerProvider as _},
};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Instrument as _;
use tracing_subscriber::layer::SubscriberExt as _;

/// A client of a server that says which trace it was told of.
fn client() -> Client {
    let net = Net::serving(|_, request| {
        let header = |name| request.headers().get(name).map_or("none", |value| value.to_str().unwrap());
        says(format!("{} {}", header("traceparent"), header("tracestate")))
    });
    let mesh = Mesh::builder().connector(net).seed(1).build().unwrap();
    Client::builder("reviews").mesh(&mesh).endpoints(["10.0.0.1:80"]).build().unwrap()
}

async fn told(client: &Client) -> String {
    text(client.get("http://reviews/").await.unwrap()).await
}

fn context(state: TraceState) -> Context {
    let span = SpanContext::new(TraceId::from(7), SpanId::from(9), TraceFlags::SAMPLED, true, state);
    Context::new().with_remote_span_context(span)
}

const PARENT: &str = "00-00000000000000000000000000000007-0000000000000009-01";

#[tokio::test(start_paused = true)]
async fn without_a_trace_nothing_is_told() {
    assert_eq!(told(&client()).await, "none none");
}

#[tokio::test(start_paused = true)]
async fn context_of_opentelemetry_is_passed_on_with_its_state() {
    let state = TraceState::from_key_value([("vendor", "value")]).unwrap();
    let told = told(&client()).with_context(context(state)).await;
    assert_eq!(told, format!("{PARENT} vendor=value"));
}

#[tokio::test(start_paused = true)]
async fn context_that_is_not_valid_is_not_passed_on() {
    let told = told(&client()).with_context(Context::new().with_remote_span_context(SpanContext::NONE)).await;
    assert_eq!(told, "none none");
}

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
async fn what_the_caller_wrote_stays() {
    let request = Request::get("http://reviews/").header("traceparent", "mine").body(Empty::<Bytes>::new()).unwrap();
    let call = client().request(request).with_context(context(TraceState::NONE));
    assert_eq!(text(call.await.unwrap()).await, "mine none");
}
