//! Whose trace a request continues where no subscriber makes spans: opentelemetry's context, as W3C Trace Context.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod client_support;

use bytes::Bytes;
use client_support::{client_that_is_told as client, text, told};
use http::Request;
use http_body_util::Empty;
use opentelemetry::{
    Context, SpanId, TraceFlags, TraceId,
    trace::{FutureExt as _, SpanContext, TraceContextExt as _, TraceState},
};

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
async fn what_the_caller_wrote_stays() {
    let request = Request::get("http://reviews/").header("traceparent", "mine").body(Empty::<Bytes>::new()).unwrap();
    // Made in the context too: a call reads it when it is made.
    let answer = async { client().request(request).await.unwrap() }.with_context(context(TraceState::NONE)).await;
    assert_eq!(text(answer).await, "mine none");
}
