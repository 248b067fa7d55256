//! The limits on an attempt, on silence, and on the call as a whole.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use mesh_core::{
    config::{RetryAfter, RetryOn, RetryPolicy},
    deadline::{Bound, Elapsed, Silence},
    hold::UntilEnd,
    outcome::{BoxError, FailureKind, Flags, HttpClassifier, find_cause},
    retry::{ReplayBody, RetryLayer},
};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use crate::support::{
    MS, SECOND, Script,
    Step::{Answer, AnswerAfter, AskToWait, Never},
    Terms, Upload, flags_of, get, on_terms, policy,
};

#[tokio::test(start_paused = true)]
async fn slow_attempt_is_cut_off_and_tried_again() {
    let script = Script::new([Never, Answer(200)]);
    let service = RetryLayer::new(policy(RetryOn::RESET, 1)).per_try_timeout(SECOND).layer(script.clone());
    let start = Instant::now();
    assert_eq!(service.oneshot(get()).await.expect("an answer").status().as_u16(), 200);
    assert!(SECOND <= start.elapsed() && start.elapsed() < SECOND + 25 * MS);
    assert_eq!(script.most_under_way(), 1, "the first was dropped before the second began");
}

#[tokio::test(start_paused = true)]
async fn per_try_timeout_that_is_not_retried_says_which_limit_passed() {
    let script = Script::new([Never]);
    let service = RetryLayer::new(RetryPolicy::never()).per_try_timeout(SECOND).layer(script);
    let error = service.oneshot(get()).await.expect_err("never an answer");
    let elapsed = find_cause::<Elapsed>(&*error).expect("time was up");
    assert_eq!((elapsed.bound(), elapsed.failure().kind), (Bound::PerTry, FailureKind::PerTryTimeout));
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_its_own_limit() {
    let slow = AnswerAfter(900 * MS, 503);
    let script = Script::new([slow, slow, AnswerAfter(900 * MS, 200)]);
    let service = RetryLayer::new(policy(RetryOn::SERVER_ERROR, 2)).per_try_timeout(SECOND).layer(script.clone());
    assert_eq!(service.oneshot(get()).await.expect("an answer").status().as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn deadline_ends_everything() {
    let script = Script::new([AnswerAfter(700 * MS, 503), Never]);
    let layer = RetryLayer::new(policy(RetryOn::SERVER_ERROR | RetryOn::RESET, 5)).per_try_timeout(SECOND);
    let service = layer.timeout(SECOND).layer(script.clone());
    let start = Instant::now();
    let error = service.oneshot(get()).await.expect_err("never a good answer");
    assert_eq!(find_cause::<Elapsed>(&*error).map(Elapsed::bound), Some(Bound::Request));
    assert_eq!((start.elapsed(), script.started(), script.under_way()), (SECOND, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn at_the_same_instant_the_deadline_comes_first() {
    let layer = RetryLayer::new(policy(RetryOn::RESET, 1)).timeout(SECOND).per_try_timeout(SECOND);
    let error = layer.layer(Script::new([Never])).oneshot(get()).await.expect_err("never an answer");
    assert_eq!(find_cause::<Elapsed>(&*error).map(Elapsed::bound), Some(Bound::Request));
}

#[tokio::test(start_paused = true)]
async fn wait_that_would_outlast_the_deadline_is_not_begun() {
    let script = Script::new([AskToWait("9")]);
    let policy = policy(RetryOn::SERVER_ERROR, 1).retry_after(RetryAfter::up_to(10 * SECOND).expect("legal"));
    let service = RetryLayer::new(policy).timeout(5 * SECOND).layer(script);
    let start = Instant::now();
    let response = service.oneshot(get()).await.expect("the answer there is");
    assert_eq!((response.status().as_u16(), flags_of(&response)), (503, Flags::URX));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// A response body that gives one frame and then nothing.
struct Stalled(Option<Bytes>);

impl Body for Stalled {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.0.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Poll::Pending,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn limits_reach_into_the_body_where_asked() {
    let inner = tower::service_fn(async |_: Request<ReplayBody>| {
        Ok::<_, BoxError>(Response::new(Stalled(Some(Bytes::from("first")))))
    });
    let layer = RetryLayer::new(policy(RetryOn::SERVER_ERROR, 1)).hold(UntilEnd(HttpClassifier)).timeout(9 * SECOND);
    for (layer, bound, time) in [
        (layer.clone(), Bound::Request, 9 * SECOND),
        (layer.per_try_idle_timeout(2 * SECOND), Bound::PerTryIdle, 2 * SECOND),
    ] {
        let start = Instant::now();
        let mut body = Box::pin(layer.layer(inner).oneshot(get()).await.expect("a head").into_body());
        assert!(body.frame().await.expect("a frame").is_ok());
        let error = body.frame().await.expect("an end").expect_err("silence");
        assert_eq!(find_cause::<Elapsed>(&*error).map(Elapsed::bound), Some(bound));
        assert_eq!(start.elapsed(), time);
    }
}

#[tokio::test(start_paused = true)]
async fn silent_attempt_is_cut_off_and_tried_again() {
    let script = Script::new([Never, Answer(200)]);
    let silence = Some(Silence { bound: Bound::PerTryIdle, limit: SECOND });
    let retry = Some(Arc::new(policy(RetryOn::SERVER_ERROR, 1)));
    let terms = Terms { retry, silence, per_try: Some(2 * SECOND), ..Terms::default() };
    let service = on_terms(terms).layer(script.clone());
    assert_eq!(service.oneshot(get()).await.expect("an answer").status().as_u16(), 200);
    assert!(script.gaps()[0] < SECOND + 25 * MS);
}

#[tokio::test(start_paused = true)]
async fn attempt_that_reads_its_request_is_not_silent() {
    let inner = tower::service_fn(async |request: Request<ReplayBody>| {
        Ok::<_, BoxError>(Response::new(request.into_body().collect().await?.to_bytes().len()))
    });
    let silence = Some(Silence { bound: Bound::PerTryIdle, limit: SECOND });
    let layer = on_terms(Terms { silence, ..Terms::default() });
    assert!(layer.layer(inner).oneshot(Upload::new(SECOND / 2)).await.is_ok());

    let start = Instant::now();
    let error = layer.layer(inner).oneshot(Upload::new(60 * SECOND)).await.expect_err("silence");
    assert_eq!(find_cause::<Elapsed>(&*error).map(Elapsed::bound), Some(Bound::PerTryIdle));
    assert_eq!(start.elapsed(), SECOND);
}

/// Answers at once, reads its request, and never says anything more. Else whoever uploads for long would be cut off while all goes
/// well.
#[tokio::test(start_paused = true)]
async fn stream_is_not_silent_while_its_request_is_read() {
    let mute = tower::service_fn(async |request: Request<ReplayBody>| {
        tokio::spawn(request.into_body().collect());
        Ok::<_, BoxError>(Response::new(Stalled(None)))
    });
    let layer = RetryLayer::new(policy(RetryOn::RESET, 1)).per_try_idle_timeout(2 * SECOND);
    let start = Instant::now();
    let response = layer.hold(UntilEnd(HttpClassifier)).layer(mute).oneshot(Upload::new(SECOND)).await.expect("a head");
    let mut body = Box::pin(response.into_body());
    let error = body.frame().await.expect("an end").expect_err("silence, in the end");
    assert_eq!(find_cause::<Elapsed>(&*error).map(Elapsed::bound), Some(Bound::PerTryIdle));
    let silent = start.elapsed() - 10 * SECOND;
    assert!((2 * SECOND..=4 * SECOND).contains(&silent), "cut off after one limit, and two at most: {silent:?}");
}
