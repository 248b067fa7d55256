//! The number of attempts, and what is delivered in the end.

use std::sync::Arc;

use http::Method;
use mesh_core::{
    config::{RetryOn, RetryPolicy},
    outcome::{Failure, FailureKind, Flags, Sent},
    retry::RetryLayer,
};
use tower::{Layer, ServiceExt};

use crate::support::{
    Script,
    Step::{Answer, Fail},
    Terms, flags_of, get, on_terms, policy,
};

#[tokio::test(start_paused = true)]
async fn retries_end_with_the_first_good_answer() {
    let script = Script::new([Answer(503), Answer(502), Answer(200), Answer(500)]);
    let service = RetryLayer::new(policy(RetryOn::GATEWAY_ERROR, 5)).layer(script.clone());
    let response = service.oneshot(get()).await.expect("an answer");
    assert_eq!((response.status().as_u16(), script.started(), flags_of(&response)), (200, 3, Flags::default()));
}

#[tokio::test(start_paused = true)]
async fn last_answer_is_delivered_with_a_note_when_retries_are_used_up() {
    let script = Script::new([Answer(503)]);
    let service = RetryLayer::new(policy(RetryOn::SERVER_ERROR, 2)).layer(script.clone());
    let response = service.oneshot(get()).await.expect("an answer");
    assert_eq!((response.status().as_u16(), script.started(), flags_of(&response)), (503, 3, Flags::URX));
}

#[tokio::test(start_paused = true)]
async fn last_error_is_delivered_with_a_flag_when_retries_are_used_up() {
    let script = Script::new([Fail(FailureKind::Disconnected, Sent::Maybe)]);
    let service = RetryLayer::new(policy(RetryOn::RESET, 1)).layer(script.clone());
    let error = service.oneshot(get()).await.expect_err("never an answer");
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind, failure.sent), (FailureKind::Disconnected, Sent::Maybe));
    assert_eq!(failure.flags, Flags::UC | Flags::URX);
    assert_eq!(script.started(), 2);
}

#[tokio::test(start_paused = true)]
async fn answer_that_meets_no_condition_is_delivered_as_it_is() {
    let script = Script::new([Answer(500), Answer(200)]);
    let service = RetryLayer::new(policy(RetryOn::GATEWAY_ERROR, 2)).layer(script.clone());
    let response = service.oneshot(get()).await.expect("an answer");
    assert_eq!((response.status().as_u16(), script.started(), flags_of(&response)), (500, 1, Flags::default()));
}

#[tokio::test(start_paused = true)]
async fn policy_without_retries_leaves_answers_alone() {
    let script = Script::new([Answer(503), Answer(200)]);
    let service = RetryLayer::new(RetryPolicy::never()).layer(script.clone());
    let response = service.oneshot(get()).await.expect("an answer");
    assert_eq!((response.status().as_u16(), flags_of(&response)), (503, Flags::default()));
}

#[tokio::test(start_paused = true)]
async fn method_or_mark_makes_a_request_idempotent() {
    for (method, marked, attempts) in [(Method::GET, false, 2), (Method::POST, false, 1), (Method::POST, true, 2)] {
        let script = Script::new([Fail(FailureKind::Disconnected, Sent::Yes), Answer(200)]);
        let retry = Some(Arc::new(policy(RetryOn::IDEMPOTENT_FAILURE, 1)));
        let service = on_terms(Terms { retry, idempotent: marked, ..Terms::default() }).layer(script.clone());
        let mut request = get();
        *request.method_mut() = method.clone();
        let _ = service.oneshot(request).await;
        assert_eq!(script.started(), attempts, "{method} marked {marked}");
    }
}
