//! The deadline against mock services, mock bodies and a paused clock.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio::time::{advance, sleep};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::service_fn;
use tower_layer::Layer;
use tower_test::mock;

use super::*;
use crate::{
    carry::{Carried, Carries},
    hold::{Concluded, UntilEnd},
    outcome::{Class, Failure, FailureKind, Flags, HttpClassifier, Outcome, find_cause},
};

const SECOND: Duration = Duration::from_secs(1);

/// Gives a frame after each of these times, then ends.
struct Slow {
    gaps: VecDeque<Duration>,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Slow {
    fn new(gaps: &[Duration]) -> Self {
        Self { gaps: gaps.iter().copied().collect(), sleep: None }
    }
}

impl Body for Slow {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.sleep.is_none() {
            match self.gaps.pop_front() {
                Some(gap) => self.sleep = Some(Box::pin(sleep(gap))),
                None => return Poll::Ready(None),
            }
        }
        let sleep = self.sleep.as_mut().expect("set above");
        std::task::ready!(std::future::Future::poll(sleep.as_mut(), cx));
        self.sleep = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

fn silence(bound: Bound, limit: Duration) -> BodyLimits {
    BodyLimits { silence: Some(Silence { bound, limit }), ..BodyLimits::default() }
}

fn elapsed(error: &BoxError) -> Elapsed {
    *find_cause::<Elapsed>(&**error).expect("time was up")
}

#[tokio::test(start_paused = true)]
async fn answer_in_time_passes_and_late_one_is_cut_off() {
    let layer = DeadlineLayer::new(SECOND);
    let (mut service, mut handle) = mock::spawn_with(move |inner: mock::Mock<&str, &str>| layer.layer(inner));
    handle.allow(2);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call("quick"));
    assert_pending!(call.poll());
    handle.next_request().await.expect("sent").1.send_response("done");
    assert_eq!(assert_ready_ok!(call.poll()), "done");

    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call("slow"));
    assert_pending!(call.poll());
    advance(SECOND - Duration::from_millis(1)).await;
    assert_pending!(call.poll());
    advance(Duration::from_millis(1)).await;
    assert!(call.is_woken());
    let error = assert_ready_err!(call.poll());
    assert_eq!(elapsed(&error).to_string(), "limit of 1s on the whole request passed");
    assert_eq!(Failure::of(&*error).flags, Flags::UT);
}

#[tokio::test(start_paused = true)]
async fn late_call_is_dropped_before_its_error_is_seen() {
    let work = Arc::new(());
    let mut service = Deadline::new(
        service_fn(|work: Arc<()>| async move {
            std::future::pending::<()>().await;
            drop(work);
            Ok::<_, BoxError>(())
        }),
        SECOND,
    );
    let mut call = task::spawn(service.call(work.clone()));
    assert_pending!(call.poll());
    assert_eq!(Arc::strong_count(&work), 2);
    advance(SECOND).await;
    assert_ready_err!(call.poll());
    assert_eq!(Arc::strong_count(&work), 1);
}

struct Limited(Option<Expiry>);

impl Carries<Option<Expiry>> for Limited {
    fn carried(&mut self) -> Option<Expiry> {
        self.0
    }
}

#[tokio::test(start_paused = true)]
async fn limit_that_the_request_carries_counts_from_its_own_start() {
    let start = Instant::now();
    advance(Duration::from_millis(900)).await;
    let (inner, mut handle) = mock::pair::<Limited, ()>();
    let mut service = DeadlineLayer::with_policy(Carried).layer(inner);
    handle.allow(2);
    std::future::poll_fn(|cx| service.poll_ready(cx)).await.expect("ready");
    let mut unlimited = task::spawn(service.call(Limited(None)));
    std::future::poll_fn(|cx| service.poll_ready(cx)).await.expect("ready");
    let expiry = Expiry::new(Bound::StreamDuration, start, SECOND);
    let mut limited = task::spawn(service.call(Limited(Some(expiry))));
    assert_pending!(limited.poll());
    assert_pending!(unlimited.poll());
    advance(Duration::from_millis(100)).await;
    assert_eq!(elapsed(&assert_ready_err!(limited.poll())).failure().flags, Flags::DT);
    advance(1000 * SECOND).await;
    assert_pending!(unlimited.poll());
}

#[tokio::test(start_paused = true)]
async fn limit_reaches_to_the_end_of_the_body_where_asked() {
    let (inner, mut handle) = mock::pair::<(), Response<Slow>>();
    let mut service = DeadlineLayer::new(SECOND).hold(UntilEnd(HttpClassifier)).layer(inner);
    handle.allow(1);
    std::future::poll_fn(|cx| service.poll_ready(cx)).await.expect("ready");
    let call = service.call(());
    let gaps = [SECOND / 2, SECOND];
    handle.next_request().await.expect("sent").1.send_response(Response::new(Slow::new(&gaps)));
    let start = Instant::now();
    let mut body = Box::pin(call.await.expect("a head").into_body());
    assert!(body.frame().await.expect("a first frame").is_ok());
    let error = body.frame().await.expect("an end").expect_err("too late");
    assert_eq!(elapsed(&error).bound(), Bound::Request);
    assert_eq!(start.elapsed(), SECOND);
    assert!(body.is_end_stream() && body.get_ref().is_none());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn silence_is_counted_between_frames_and_not_over_all() {
    let gaps = [SECOND / 2; 10];
    let body = TimedBody::new(Slow::new(&gaps), silence(Bound::Idle, SECOND));
    assert_eq!(body.collect().await.expect("never silent for long").to_bytes().len(), 10);

    let mut body = Box::pin(TimedBody::new(Slow::new(&[SECOND / 2, 2 * SECOND]), silence(Bound::Idle, SECOND)));
    let start = Instant::now();
    assert!(body.frame().await.expect("a first frame").is_ok());
    let error = body.frame().await.expect("an end").expect_err("silent for too long");
    assert_eq!((elapsed(&error).failure().kind, elapsed(&error).failure().flags), (FailureKind::Idle, Flags::SI));
    assert_eq!(start.elapsed(), 3 * SECOND / 2);
}

#[tokio::test(start_paused = true)]
async fn slow_reader_is_not_taken_for_a_silent_peer() {
    let mut body = Box::pin(TimedBody::new(Slow::new(&[SECOND / 2; 2]), silence(Bound::PerTryIdle, SECOND)));
    assert!(body.frame().await.expect("a first frame").is_ok());
    sleep(10 * SECOND).await;
    assert!(body.frame().await.expect("a second frame").is_ok());
}

#[tokio::test(start_paused = true)]
async fn silence_starts_again_where_the_request_was_read_meanwhile() {
    let progress = Progress::default();
    let limits = BodyLimits { progress: Some(progress.clone()), ..silence(Bound::Idle, 2 * SECOND) };
    let mut body = Box::pin(TimedBody::new(Slow::new(&[60 * SECOND]), limits));
    // Read before anybody waited: no part of the silence.
    progress.note();
    let start = Instant::now();
    tokio::spawn(async move {
        sleep(SECOND).await;
        progress.note();
    });
    let error = body.frame().await.expect("an end").expect_err("silent for too long");
    assert_eq!((elapsed(&error).bound(), start.elapsed()), (Bound::Idle, 4 * SECOND));
}

/// Has a frame at any time.
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_never_pauses_and_reader_who_is_always_behind_do_not_escape_the_limit() {
    let limit = Expiry::new(Bound::Request, Instant::now(), 100 * SECOND);
    let limits = BodyLimits { overall: Some(limit), ..silence(Bound::Idle, SECOND) };
    let mut body = Box::pin(TimedBody::new(Endless, limits));
    let mut read = 0;
    let error = loop {
        match body.frame().await.expect("it has no end of its own") {
            Ok(_) => read += 1,
            Err(error) => break error,
        }
        sleep(SECOND).await;
    };
    assert_eq!(elapsed(&error).bound(), Bound::Request);
    assert!((100..=100 + 16).contains(&read), "{read} frames, one a second");
    assert!(body.is_end_stream() && body.get_ref().is_none());
}

/// There is no runtime, without which a timer that is armed panics.
#[test]
fn body_that_is_ready_never_arms_the_timer() {
    let limits = BodyLimits {
        overall: Some(Expiry::new(Bound::Request, Instant::now(), SECOND)),
        silence: Some(Silence { bound: Bound::Idle, limit: SECOND }),
        progress: None,
    };
    let mut body = Box::pin(TimedBody::new(Full::new(Bytes::from("x")), limits));
    assert!(assert_ready!(task::spawn(body.frame()).poll()).expect("a frame").is_ok());
}

struct Held(Slow);

impl Concluded for Held {
    fn outcome(&self) -> Option<Outcome> {
        None
    }

    fn outcome_of_drop(&self) -> Outcome {
        Outcome::cancelled(Instant::now())
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn body_that_was_cut_off_concludes_as_timed_out() {
    let mut body = Box::pin(TimedBody::new(Held(Slow::new(&[2 * SECOND])), silence(Bound::PerTryIdle, SECOND)));
    assert!(body.outcome().is_none());
    assert!(body.frame().await.expect("an end").is_err());
    let outcome = body.outcome().expect("it has ended");
    assert_eq!(outcome.class, Class::GatewayError);
    assert_eq!(outcome.failure.map(|failure| failure.kind), Some(FailureKind::PerTryTimeout));
}

#[tokio::test(start_paused = true)]
async fn timer_moves_nearer_and_away() {
    let start = Instant::now();
    let mut timer = task::spawn(Timer::new());
    let mut poll = |at: Duration| timer.enter(|cx, timer| timer.poll(cx, start + at));
    assert_pending!(poll(5 * SECOND));
    assert_pending!(poll(2 * SECOND));
    advance(2 * SECOND).await;
    assert_pending!(poll(3 * SECOND));
    assert_ready!(poll(2 * SECOND));
    assert_pending!(poll(4 * SECOND));
    advance(2 * SECOND).await;
    assert_ready!(poll(4 * SECOND));
}

#[test]
fn endless_limit_does_not_overflow_the_clock() {
    let now = Instant::now();
    assert!(Expiry::new(Bound::Request, now, Duration::MAX).at() > now + 1_000_000 * SECOND);
}
