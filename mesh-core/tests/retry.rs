//! The retry layer against scripted services, under a paused clock: each rule of the driver, and all of them together on
//! random scripts.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use mesh_core::{
    Dice,
    carry::Fixed,
    config::{CircuitBreakers, RequestPriority, RetryAfter, RetryBudget, RetryOn, RetryPolicy, Thresholds},
    deadline::{Bound, Elapsed, Expiry, Silence},
    hold::{AtOnce, UntilEnd},
    limit::{Breaker, Limits},
    outcome::{BoxError, Failed, Failure, FailureKind, Flags, HttpClassifier, Sent, find_cause},
    retry::{
        AttemptPolicy, ByClone, Cloned, FailureRules, HttpRules, Keep, Kept, Observe, Replay, ReplayBody, RetryLayer,
        Tried, Try, Under, Verdict, Wait,
    },
};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

// What the service does with one request.
#[derive(Clone, Copy, Debug)]
enum Step {
    Answer(u16),
    AnswerAfter(Duration, u16),
    Fail(FailureKind, Sent),
    FailAfter(Duration, FailureKind, Sent),
    /// Answers 503, and asks to wait for so many seconds.
    AskToWait(&'static str),
    Never,
}

use Step::{Answer, AnswerAfter, AskToWait, Fail, FailAfter, Never};

/// A service that follows a script, and its last step for ever.
#[derive(Clone)]
struct Script(Arc<Mutex<State>>);

struct State {
    steps: VecDeque<Step>,
    started: Vec<Instant>,
    /// Its count is one more than requests under way.
    under_way: Arc<()>,
    most_under_way: usize,
}

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let steps = steps.into_iter().collect();
        Self(Arc::new(Mutex::new(State { steps, started: Vec::new(), under_way: Arc::new(()), most_under_way: 0 })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds this")
    }

    fn started(&self) -> usize {
        self.state().started.len()
    }

    /// The times between the starts of attempts.
    fn gaps(&self) -> Vec<Duration> {
        self.state().started.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn under_way(&self) -> usize {
        Arc::strong_count(&self.state().under_way) - 1
    }
}

impl<R> Service<R> for Script {
    type Response = Response<Empty<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: R) -> Self::Future {
        let mut state = self.state();
        let step = if state.steps.len() > 1 { state.steps.pop_front() } else { state.steps.front().copied() };
        state.started.push(Instant::now());
        let guard = state.under_way.clone();
        state.most_under_way = state.most_under_way.max(Arc::strong_count(&guard) - 1);
        drop(state);
        Box::pin(async move {
            let _guard = guard;
            follow(step.expect("a script has a step")).await
        })
    }
}

async fn follow(step: Step) -> Result<Response<Empty<Bytes>>, BoxError> {
    let answer = |status: u16| Response::builder().status(status);
    match step {
        Answer(status) => Ok(answer(status).body(Empty::new())?),
        AnswerAfter(wait, status) => {
            sleep(wait).await;
            Ok(answer(status).body(Empty::new())?)
        }
        Fail(kind, sent) => Err(Failed::new(Failure::new(kind, sent)).into()),
        FailAfter(wait, kind, sent) => {
            sleep(wait).await;
            Err(Failed::new(Failure::new(kind, sent)).into())
        }
        AskToWait(value) => Ok(answer(503).header("retry-after", value).body(Empty::new())?),
        Never => std::future::pending().await,
    }
}

fn policy(on: RetryOn, retries: u32) -> RetryPolicy {
    RetryPolicy::on(on).max_retries(retries).expect("legal")
}

fn get() -> Request<Full<Bytes>> {
    Request::new(Full::from("body"))
}

fn flags_of(response: &Response<impl Sized>) -> Flags {
    response.extensions().get::<Flags>().copied().unwrap_or_default()
}

/// What a route would say.
#[derive(Clone, Default)]
struct Terms {
    retry: Option<Arc<RetryPolicy>>,
    limits: Option<Arc<Limits>>,
    deadline: Option<Expiry>,
    per_try: Option<Duration>,
    silence: Option<Silence>,
    idempotent: bool,
}

impl AttemptPolicy for Terms {
    fn retry(&self) -> Option<&RetryPolicy> {
        self.retry.as_deref()
    }

    fn dice(&self) -> Dice {
        Dice::new(1)
    }

    fn budget(&self) -> Option<Breaker> {
        Some(Breaker { limits: self.limits.clone()?, priority: RequestPriority::Default })
    }

    fn deadline(&self) -> Option<Expiry> {
        self.deadline
    }

    fn per_try(&self) -> Option<Duration> {
        self.per_try
    }

    fn silence(&self) -> Option<Silence> {
        self.silence
    }

    fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    fn is_kept(&self) -> bool {
        true
    }
}

fn on_terms(terms: Terms) -> RetryLayer<Under<Replay, Fixed<Terms>, Terms>> {
    RetryLayer::with_parts(Under::new(Replay::new(), Fixed(terms)), HttpRules, AtOnce)
}

fn budget_of(retries: u32) -> Arc<Limits> {
    let thresholds = Thresholds { max_retries: Some(retries), ..Thresholds::default() };
    Limits::new(&CircuitBreakers { default: thresholds, high: thresholds })
}

fn retries_under_way(limits: &Limits) -> u32 {
    limits.figures(RequestPriority::Default).retries.active
}

// === The number of attempts, and what is delivered ===

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

// === Waits ===

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

// === What no peer has processed ===

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

// === Time limits ===

#[tokio::test(start_paused = true)]
async fn slow_attempt_is_cut_off_and_tried_again() {
    let script = Script::new([Never, Answer(200)]);
    let service = RetryLayer::new(policy(RetryOn::RESET, 1)).per_try_timeout(SECOND).layer(script.clone());
    let start = Instant::now();
    assert_eq!(service.oneshot(get()).await.expect("an answer").status().as_u16(), 200);
    assert!(SECOND <= start.elapsed() && start.elapsed() < SECOND + 25 * MS);
    assert_eq!(script.state().most_under_way, 1, "the first was dropped before the second began");
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

/// A request body that gives ten frames, with a gap before each.
struct Upload {
    gap: Duration,
    left: u32,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Upload {
    fn new(gap: Duration) -> Request<Self> {
        Request::new(Self { gap, left: 10, sleep: Box::pin(sleep(gap)) })
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        std::task::ready!(self.sleep.as_mut().poll(cx));
        self.left -= 1;
        self.sleep = Box::pin(sleep(self.gap));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
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

// === The budget ===

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

// === Requests and services ===

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

/// Panics when it is called unready; ready only while `open`.
struct Strict {
    ready: bool,
    open: Arc<Mutex<u32>>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false, open: self.open.clone() }
    }
}

impl Service<&'static str> for Strict {
    type Response = Response<()>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Response<()>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut open = self.open.lock().expect("no test panics while it holds this");
        if *open == 0 {
            return Poll::Pending;
        }
        *open -= 1;
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: &'static str) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called unready");
        std::future::ready(Err(Failed::new(Failure::new(FailureKind::Reset, Sent::Maybe)).into()))
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_finds_the_service_ready() {
    let open = Arc::new(Mutex::new(3));
    let service = RetryLayer::cloning(policy(RetryOn::RESET, 2)).layer(Strict { ready: false, open: open.clone() });
    assert!(service.oneshot("request").await.is_err());
    assert_eq!(*open.lock().expect("unlocked"), 0);
}

#[tokio::test(start_paused = true)]
async fn service_that_does_not_get_ready_again_is_waited_for_until_the_deadline() {
    let open = Arc::new(Mutex::new(1));
    let layer = RetryLayer::cloning(policy(RetryOn::RESET, 2)).timeout(SECOND);
    let service = layer.layer(Strict { ready: false, open });
    let start = Instant::now();
    let error = service.oneshot("request").await.expect_err("never ready again");
    assert_eq!((find_cause::<Elapsed>(&*error).map(Elapsed::bound), start.elapsed()), (Some(Bound::Request), SECOND));
}

#[test]
fn layer_and_service_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    struct NotSync(std::cell::Cell<()>);
    let layer = RetryLayer::with_parts(Under::<_, _, NotSync>::new(ByClone, Fixed(())), FailureRules, AtOnce);
    shared(&layer);
    shared(&layer.layer(()));
    let _ = NotSync(std::cell::Cell::new(()));
}

// === All of it ===

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
            prop_assert!(script.state().most_under_way <= 1);
            prop_assert_eq!((retries_under_way(&limits), script.under_way()), (0, 0));
            if let Some(deadline) = deadline {
                prop_assert!(start.elapsed() <= MS * deadline, "ended after {:?}", start.elapsed());
                prop_assert!(ended.is_some() || patience <= MS * deadline);
            }
            Ok(())
        })?;
    }
}
