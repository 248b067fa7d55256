//! What no peer has processed is repeated without a policy; anything else is not.

use std::{sync::Arc, time::Duration};

use mesh_core::{
    config::RetryOn,
    outcome::{Failure, FailureKind, Flags, Sent},
};
use tower::{Layer, ServiceExt};

use crate::support::{
    Script,
    Step::{Answer, Fail},
    Terms, budget_of, get, on_terms, policy,
};

#[tokio::test(start_paused = true)]
async fn what_never_left_is_repeated_without_policy_or_wait() {
    let mut steps = vec![Fail(FailureKind::Disconnected, Sent::No); 5];
    steps.push(Answer(200));
    let script = Script::new(steps);
    let limits = budget_of(0);
    let service = on_terms(Terms { limits: Some(limits), ..Terms::default() }).layer(script.clone());
    assert_eq!(service.oneshot(get()).await.expect("an answer").status().as_u16(), 200);
    assert_eq!(script.gaps(), [Duration::ZERO; 5]);
}

#[tokio::test(start_paused = true)]
async fn transport_that_never_sends_does_not_spin() {
    let script = Script::new([Fail(FailureKind::Disconnected, Sent::No)]);
    let service = on_terms(Terms::default()).layer(script.clone());
    assert!(service.oneshot(get()).await.is_err());
    assert_eq!(script.started(), 17);
}

#[tokio::test(start_paused = true)]
async fn refused_stream_is_repeated_once_without_policy() {
    let script = Script::new([Fail(FailureKind::Refused, Sent::No)]);
    let service = on_terms(Terms::default()).layer(script.clone());
    let error = service.oneshot(get()).await.expect_err("refused twice");
    assert_eq!((Failure::of(&*error).flags, script.started()), (Flags::UR, 2));
}

#[tokio::test(start_paused = true)]
async fn repetition_leaves_the_policy_its_attempts() {
    let refused = Fail(FailureKind::Refused, Sent::No);
    let script = Script::new([refused, refused, Answer(503), Answer(200)]);
    let retry = Some(Arc::new(policy(RetryOn::REFUSED_STREAM | RetryOn::SERVER_ERROR, 2)));
    let service = on_terms(Terms { retry, ..Terms::default() }).layer(script.clone());
    assert_eq!(service.oneshot(get()).await.expect("an answer").status().as_u16(), 200);
    assert_eq!(script.started(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_processed_is_not_repeated() {
    for (kind, sent) in [
        (FailureKind::Disconnected, Sent::Maybe),
        (FailureKind::Reset, Sent::Yes),
        (FailureKind::Connect, Sent::No),
        (FailureKind::Overflow, Sent::No),
        (FailureKind::NoEndpoint, Sent::No),
        (FailureKind::Shutdown, Sent::No),
        (FailureKind::Other, Sent::No),
    ] {
        let script = Script::new([Fail(kind, sent), Answer(200)]);
        assert!(on_terms(Terms::default()).layer(script.clone()).oneshot(get()).await.is_err());
        assert_eq!(script.started(), 1, "{kind}");
    }
}
