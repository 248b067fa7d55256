//! The share of requests that may be retries, who counts against it, and for how long.

use mesh_core::{
    config::{CircuitBreakers, RequestPriority, RetryAfter, RetryBudget, RetryOn, Thresholds},
    limit::Limits,
    outcome::{Failure, FailureKind, Flags, Sent},
    retry::RetryLayer,
};
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, ServiceExt};

use crate::support::{
    SECOND, Script,
    Step::{Answer, AskToWait, Fail, Never},
    budget_of, flags_of, get, policy, retries_under_way,
};

#[tokio::test(start_paused = true)]
async fn budget_empty_stops_retries() {
    let script = Script::new([Answer(503)]);
    let limits = budget_of(1);
    let held = limits.retry(RequestPriority::Default).expect("room for one");
    let service = RetryLayer::new(policy(RetryOn::SERVER_ERROR, 3)).budget(limits.clone()).layer(script.clone());
    let response = service.clone().oneshot(get()).await.expect("an answer");
    assert_eq!((flags_of(&response), script.started()), (Flags::UO, 1));

    drop(held);
    let response = service.oneshot(get()).await.expect("an answer");
    assert_eq!((flags_of(&response), script.started()), (Flags::URX, 5));
    assert_eq!(retries_under_way(&limits), 0);
}

#[tokio::test(start_paused = true)]
async fn retry_holds_its_permit_while_it_waits_and_while_it_is_under_way() {
    let script = Script::new([AskToWait("4"), Never]);
    let limits = budget_of(1);
    let policy = policy(RetryOn::SERVER_ERROR, 3).retry_after(RetryAfter::up_to(10 * SECOND).expect("legal"));
    let service = RetryLayer::new(policy).budget(limits.clone()).layer(script.clone());
    let mut call = task::spawn(service.oneshot(get()));
    assert_pending!(call.poll());
    assert_eq!((retries_under_way(&limits), script.under_way()), (1, 0));
    sleep(6 * SECOND).await;
    assert_pending!(call.poll());
    assert_eq!((retries_under_way(&limits), script.under_way()), (1, 1));
    drop(call);
    assert_eq!((retries_under_way(&limits), script.under_way()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn connection_that_is_severed_costs_no_budget_the_first_time() {
    for (severances, status) in [(1, Some(200)), (2, None)] {
        let mut steps = vec![Fail(FailureKind::Severed, Sent::Maybe); severances];
        steps.push(Answer(200));
        let script = Script::new(steps);
        let retry = RetryLayer::new(policy(RetryOn::IDEMPOTENT_FAILURE, 3)).budget(budget_of(0));
        let result = retry.layer(script.clone()).oneshot(get()).await;
        assert_eq!(result.ok().map(|response| response.status().as_u16()), status);
        assert_eq!(script.started(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn failure_to_connect_costs_an_attempt_but_no_budget() {
    let script = Script::new([Fail(FailureKind::Connect, Sent::No)]);
    let limits = budget_of(0);
    let service = RetryLayer::new(policy(RetryOn::CONNECT_FAILURE, 2)).budget(limits).layer(script.clone());
    let error = service.oneshot(get()).await.expect_err("never connected");
    assert_eq!((Failure::of(&*error).flags, script.started()), (Flags::UF | Flags::URX, 3));
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_layer_that_stands_alone_share_its_budget() {
    // The waits that are asked for are longer than the test, so that no retry gives its share back.
    let script = Script::new([AskToWait("1")]);
    let asked = RetryAfter::up_to(10 * SECOND).expect("legal");
    let layer = RetryLayer::new(policy(RetryOn::SERVER_ERROR, 1).retry_after(asked));
    let services = [layer.layer(script.clone()), layer.clone().layer(script.clone())];
    let mut calls: Vec<_> = (0..4).map(|i| task::spawn(services[i % 2].clone().oneshot(get()))).collect();
    for call in &mut calls[..3] {
        assert_pending!(call.poll(), "three retries are always allowed");
    }
    let refused = assert_ready!(calls[3].poll(), "the fourth is not").expect("the answer there is");
    assert_eq!((flags_of(&refused), script.started()), (Flags::UO, 4));
}

#[tokio::test(start_paused = true)]
async fn budget_of_a_share_allows_more_retries_under_more_load() {
    let thresholds = Thresholds {
        retry_budget: Some(RetryBudget { min_concurrency: 0, ..RetryBudget::default() }),
        ..Thresholds::default()
    };
    let limits = Limits::new(&CircuitBreakers { default: thresholds, high: thresholds });
    let script = Script::new([Answer(503)]);
    let service = RetryLayer::new(policy(RetryOn::SERVER_ERROR, 1)).budget(limits.clone()).layer(script.clone());
    assert_eq!(flags_of(&service.clone().oneshot(get()).await.expect("an answer")), Flags::UO);
    let _load: Vec<_> = (0..5).map(|_| limits.request(RequestPriority::Default).expect("room")).collect();
    assert_eq!(flags_of(&service.oneshot(get()).await.expect("an answer")), Flags::URX);
}
