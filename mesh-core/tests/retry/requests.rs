//! How requests are kept for another attempt, and what a keeper hears of each.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use http_body_util::BodyExt;
use mesh_core::{
    config::{RetryOn, RetryPolicy},
    outcome::{BoxError, Failure, FailureKind, Flags, Sent},
    retry::{ByClone, Cloned, FailureRules, Keep, Kept, Observe, Replay, ReplayBody, RetryLayer, Try},
};
use tower::{Layer, ServiceExt};

use crate::support::{
    SECOND, Script,
    Step::{Answer, Fail, Never},
    Upload, budget_of, flags_of, get, policy, retries_under_way,
};

#[tokio::test(start_paused = true)]
async fn request_that_is_not_kept_is_never_cloned() {
    #[derive(Debug)]
    struct Precious;
    impl Clone for Precious {
        fn clone(&self) -> Self {
            panic!("cloned")
        }
    }
    let script = Script::new([Answer(503)]);
    let service = RetryLayer::cloning(RetryPolicy::never()).layer(script);
    assert_eq!(service.oneshot(Precious).await.expect("an answer").status().as_u16(), 503);
}

#[tokio::test(start_paused = true)]
async fn answer_to_a_request_that_cannot_be_repeated_is_delivered() {
    let script = Script::new([Answer(503), Answer(200)]);
    let limits = budget_of(1);
    let layer = RetryLayer::new(policy(RetryOn::SERVER_ERROR, 1)).keep(Replay::new().limit(3)).budget(limits.clone());
    let response = layer.layer(script.clone()).oneshot(get()).await.expect("the answer there is");
    assert_eq!((response.status().as_u16(), script.started(), flags_of(&response)), (503, 1, Flags::default()));
    assert_eq!(retries_under_way(&limits), 0);
}

#[tokio::test(start_paused = true)]
async fn request_streams_on_after_an_early_answer() {
    let inner = tower::service_fn(async |request: Request<ReplayBody>| {
        let mut body = request.into_body();
        body.frame().await.expect("a first frame")?;
        Ok::<_, BoxError>(Response::new(body))
    });
    let service = RetryLayer::new(policy(RetryOn::SERVER_ERROR, 1)).layer(inner);
    let rest = service.oneshot(Upload::new(SECOND)).await.expect("an early answer").into_body();
    assert_eq!(rest.collect().await.expect("the rest").to_bytes().len(), 9);
}

#[tokio::test(start_paused = true)]
async fn failure_rules_deliver_every_response() {
    let script = Script::new([Fail(FailureKind::Reset, Sent::Maybe), Answer(503), Answer(200)]);
    let service = RetryLayer::cloning(policy(RetryOn::SERVER_ERROR, 5)).judge(FailureRules).layer(script.clone());
    assert_eq!(service.oneshot("any request").await.expect("an answer").status().as_u16(), 503);
}

/// Keeps a clone, and writes down what it hears.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<(Try, String)>>>);

struct Entry {
    request: Cloned<&'static str>,
    journal: Journal,
}

impl Journal {
    fn write(&self, this: Try, line: String) {
        self.0.lock().expect("no test panics while it holds this").push((this, line));
    }
}

impl Keep<&'static str> for Journal {
    type Kept = Entry;

    fn keep(&self, request: &'static str, repeatable: bool) -> Entry {
        Entry { request: ByClone.keep(request, repeatable), journal: self.clone() }
    }
}

impl Kept for Entry {
    type Attempt = &'static str;

    fn attempt(&mut self, this: Try) -> Option<&'static str> {
        self.journal.write(this, "start".into());
        self.request.attempt(this)
    }

    fn retire(&mut self, this: Try) -> bool {
        self.request.retire(this)
    }

    fn commit(&mut self, this: Try) {
        self.journal.write(this, "commit".into());
        self.request.commit(this);
    }
}

impl<B> Observe<Response<B>> for Entry {
    fn observe(&mut self, this: Try, result: Result<&Response<B>, &BoxError>) {
        let line = match result {
            Ok(response) => response.status().as_u16().to_string(),
            Err(error) => error.to_string(),
        };
        self.journal.write(this, line);
    }
}

#[tokio::test(start_paused = true)]
async fn kept_request_hears_of_every_attempt_and_its_number() {
    let journal = Journal::default();
    let script = Script::new([Fail(FailureKind::Refused, Sent::No), Never, Answer(200)]);
    let layer = RetryLayer::cloning(policy(RetryOn::RESET, 1)).keep(journal.clone()).per_try_timeout(SECOND);
    layer.layer(script).oneshot("request").await.expect("an answer");
    let (first, again, second) = (Try { id: 0, number: 1 }, Try { id: 1, number: 1 }, Try { id: 2, number: 2 });
    let expected = [
        (first, "start"),
        (first, "remote refused stream"),
        (again, "start"),
        (again, "per-try timeout"),
        (second, "start"),
        (second, "200"),
        (second, "commit"),
    ];
    let heard = journal.0.lock().expect("no test panics while it holds this");
    assert_eq!(heard.iter().map(|(this, line)| (*this, line.as_str())).collect::<Vec<_>>(), expected);
}

/// Knows so many other places for a request that could not leave.
#[derive(Clone)]
struct Elsewhere(u32);

struct Traveller {
    request: Cloned<&'static str>,
    left: u32,
}

impl Keep<&'static str> for Elsewhere {
    type Kept = Traveller;

    fn keep(&self, request: &'static str, repeatable: bool) -> Traveller {
        Traveller { request: ByClone.keep(request, repeatable), left: self.0 }
    }
}

impl Kept for Traveller {
    type Attempt = &'static str;

    fn attempt(&mut self, this: Try) -> Option<&'static str> {
        self.request.attempt(this)
    }

    fn retire(&mut self, this: Try) -> bool {
        self.request.retire(this)
    }

    fn moves_on(&mut self, _: &Failure) -> bool {
        let goes_on = self.left > 0;
        self.left = self.left.saturating_sub(1);
        goes_on
    }

    fn commit(&mut self, this: Try) {
        self.request.commit(this);
    }
}

impl<Res> Observe<Res> for Traveller {}

#[tokio::test(start_paused = true)]
async fn request_that_could_not_leave_moves_on_as_no_attempt_and_one_that_left_does_not() {
    for (sent, places, started) in [(Sent::No, 2, 3), (Sent::No, 0, 1), (Sent::Maybe, 2, 1)] {
        let script = Script::new([Fail(FailureKind::Connect, sent)]);
        let layer = RetryLayer::cloning(policy(RetryOn::CONFLICT, 3)).keep(Elsewhere(places));
        assert!(layer.layer(script.clone()).oneshot("request").await.is_err());
        assert_eq!(script.started(), started, "{sent:?} {places}");
        assert!(script.gaps().iter().all(Duration::is_zero));
    }
}
