//! All rules together, on random scripts: the bounds hold, and nothing is left under way.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body_util::Empty;
use mesh_core::{
    config::{RetryAfter, RetryOn},
    deadline::{Bound, Expiry},
    outcome::{BoxError, FailureKind, Sent},
};
use proptest::prelude::*;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use crate::support::{
    MS, SECOND, Script,
    Step::{self, Answer, AnswerAfter, AskToWait, FailAfter, Never},
    Terms, budget_of, get, on_terms, policy, retries_under_way,
};

fn step() -> impl Strategy<Value = Step> {
    use FailureKind as K;
    let kind = prop::sample::select(vec![
        K::Disconnected,
        K::Refused,
        K::Reset,
        K::Connect,
        K::Overflow,
        K::RequestBody,
        K::Protocol,
        K::Other,
    ]);
    let sent = prop::sample::select(vec![Sent::No, Sent::Maybe, Sent::Yes]);
    let wait = (0..1500_u32).prop_map(|millis| MS * millis);
    let status = prop::sample::select(vec![200, 404, 409, 500, 502, 503]);
    prop_oneof![
        status.clone().prop_map(Answer),
        (wait.clone(), status).prop_map(|(wait, status)| AnswerAfter(wait, status)),
        (wait, kind, sent).prop_map(|(wait, kind, sent)| FailAfter(wait, kind, sent)),
        Just(AskToWait("1")),
        Just(Never),
    ]
}

/// Runs one call to its end, or drops it at `patience`, and says when it ended.
async fn run(script: &Script, terms: Terms, patience: Duration) -> Option<Result<Response<Empty<Bytes>>, BoxError>> {
    let call = on_terms(terms).layer(script.clone()).oneshot(get());
    tokio::time::timeout(patience, call).await.ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_script_breaks_the_bounds(
        steps in prop::collection::vec(step(), 1..12),
        retries in 0..4_u32,
        room in 0..3_u32,
        deadline in prop::option::of(1..4000_u32),
        per_try in prop::option::of(1..1500_u32),
        patience in prop::option::of(0..4000_u32),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        runtime.block_on(async move {
            let (script, limits, start) = (Script::new(steps), budget_of(room), Instant::now());
            let policy = policy(RetryOn::SERVER_ERROR | RetryOn::CONFLICT, retries)
                .retry_after(RetryAfter::up_to(SECOND).expect("legal"));
            let terms = Terms {
                retry: Some(Arc::new(policy)),
                limits: Some(limits.clone()),
                deadline: deadline.map(|millis| Expiry::new(Bound::Request, start, MS * millis)),
                per_try: per_try.map(|millis| MS * millis),
                ..Terms::default()
            };
            // A script may end in silence, so that someone must lose patience where there is no deadline.
            let patience = patience.map_or(3600 * SECOND, |millis| MS * millis);
            let ended = run(&script, terms, patience).await;

            let repeats = 16 + 1;
            prop_assert!(script.started() <= (1 + retries) as usize + repeats);
            prop_assert!(script.most_under_way() <= 1);
            prop_assert_eq!((retries_under_way(&limits), script.under_way()), (0, 0));
            if let Some(deadline) = deadline {
                prop_assert!(start.elapsed() <= MS * deadline, "ended after {:?}", start.elapsed());
                prop_assert!(ended.is_some() || patience <= MS * deadline);
            }
            Ok(())
        })?;
    }
}
