//! How long the layer waits between attempts, and who says so.

use std::time::Duration;

use http::Response;
use mesh_core::{
    Dice,
    config::{RetryAfter, RetryOn},
    retry::{RetryLayer, Tried, Verdict, Wait},
};
use tower::{Layer, ServiceExt};

use crate::support::{
    MS, SECOND, Script,
    Step::{Answer, AskToWait},
    get, policy,
};

#[tokio::test(start_paused = true)]
async fn waits_are_rolled_with_the_dice_of_the_call() {
    let script = Script::new([Answer(503)]);
    let service = RetryLayer::new(policy(RetryOn::SERVER_ERROR, 3)).seed(7).layer(script.clone());
    service.oneshot(get()).await.expect("an answer");
    let mut dice = Dice::of_call(7, 0, 0);
    let expected: Vec<_> = [25, 50, 100].map(|window| MS * (dice.roll() % window) as u32).into();
    assert_eq!(script.gaps(), expected);
}

#[tokio::test(start_paused = true)]
async fn peer_may_ask_for_a_longer_wait_up_to_the_limit() {
    let asked = RetryAfter::up_to(10 * SECOND).expect("legal");
    for (value, least, most) in [("4", 4 * SECOND, 6 * SECOND), ("11", Duration::ZERO, 25 * MS)] {
        let script = Script::new([AskToWait(value), Answer(200)]);
        let policy = policy(RetryOn::SERVER_ERROR, 1).retry_after(asked);
        RetryLayer::new(policy).layer(script.clone()).oneshot(get()).await.expect("an answer");
        let gap = script.gaps()[0];
        assert!(least <= gap && gap < most, "{value}: {gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn judge_may_say_exactly_how_long_to_wait() {
    let script = Script::new([Answer(503), Answer(200)]);
    let service = RetryLayer::new(policy(RetryOn::default(), 1))
        .judge(|tried: Tried<'_, Response<_>>| match tried.result {
            Ok(response) if response.status() == 503 => Verdict::Retry(Wait::Exactly(777 * MS)),
            _ => Verdict::Deliver,
        })
        .layer(script.clone());
    service.oneshot(get()).await.expect("an answer");
    assert_eq!(script.gaps(), [777 * MS]);
}
