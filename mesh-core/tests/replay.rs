//! Replayable request bodies, read as a connection would read them: every attempt sees the same bytes, within the limit.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use mesh_core::{
    outcome::{BoxError, Failure, FailureKind},
    retry::{Keep, Kept, Replay, ReplayBody, Replayed, Try},
};
use proptest::prelude::*;
use tokio_test::task;

/// A body that is fed by hand.
#[derive(Clone, Default)]
struct Fed(Arc<Mutex<Feed>>);

#[derive(Default)]
struct Feed {
    frames: VecDeque<Result<Frame<Bytes>, BoxError>>,
    ended: bool,
    waker: Option<Waker>,
}

impl Fed {
    fn give(&self, frame: Result<Frame<Bytes>, BoxError>) {
        self.change(|feed| feed.frames.push_back(frame));
    }

    fn data(&self, data: &'static str) {
        self.give(Ok(Frame::data(Bytes::from_static(data.as_bytes()))));
    }

    fn end(&self) {
        self.change(|feed| feed.ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut Feed)) {
        let mut feed = self.0.lock().expect("no test panics while it holds this");
        change(&mut feed);
        let waker = feed.waker.take();
        drop(feed);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Body for Fed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut feed = self.0.lock().expect("no test panics while it holds this");
        match feed.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if feed.ended => Poll::Ready(None),
            None => {
                feed.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The `id`th attempt.
fn nth(id: u32) -> Try {
    Try { id, number: id + 1 }
}

fn keep<B>(replay: Replay, body: B) -> Replayed<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut kept = replay.keep(Request::new(body), true);
    kept.gather(&mut Context::from_waker(Waker::noop()));
    kept
}

fn attempt<B>(kept: &mut Replayed<B>, id: u32) -> ReplayBody
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    kept.attempt(nth(id)).expect("there can be another attempt").into_body()
}

/// What a body gives before it is pending, ended or broken.
fn read(body: &mut ReplayBody) -> (String, Rest) {
    let mut text = String::new();
    loop {
        match Pin::new(&mut *body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => return (text, Rest::Pending),
            Poll::Ready(None) => return (text, Rest::Ended),
            Poll::Ready(Some(Err(error))) => return (text, Rest::Broken(Failure::of(&*error).kind)),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => text.push_str(str::from_utf8(&data).expect("tests send text")),
                Err(_) => text.push('.'),
            },
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Rest {
    Pending,
    Ended,
    Broken(FailureKind),
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[test]
fn empty_body_is_over_before_it_begins() {
    let mut kept = keep(Replay::new(), Empty::<Bytes>::new());
    for id in 0..3 {
        let body = attempt(&mut kept, id);
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
    }
    assert!(kept.retire(nth(2)));
}

#[test]
fn short_body_is_one_piece_of_known_size_that_is_not_copied() {
    let data = Bytes::from(vec![b'x'; 100]);
    let mut kept = keep(Replay::new(), Full::new(data.clone()));
    for id in 0..3 {
        let mut body = attempt(&mut kept, id);
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (false, Some(100)));
        let frame = task::spawn(body.frame()).poll();
        let Poll::Ready(Some(Ok(frame))) = frame else { panic!("a frame") };
        assert_eq!(frame.data_ref().expect("data").as_ptr(), data.as_ptr());
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (true, Some(0)));
    }
}

#[test]
fn size_is_hidden_where_asked() {
    let body = attempt(&mut keep(Replay::new().hide_size(), Full::new(Bytes::from("x"))), 0);
    assert_eq!((body.is_end_stream(), body.size_hint().exact(), body.size_hint().upper()), (false, None, None));
}

#[test]
fn stream_that_ends_at_once_is_taken_for_a_short_body() {
    let source = Fed::default();
    source.data("all");
    source.end();
    let body = attempt(&mut keep(Replay::new(), source), 0);
    assert_eq!(body.size_hint().exact(), Some(3));
}

#[test]
fn body_that_has_nothing_yet_is_not_waited_for() {
    let source = Fed::default();
    let mut kept = keep(Replay::new(), source.clone());
    let mut first = attempt(&mut kept, 0);
    assert_eq!(read(&mut first), (text(""), Rest::Pending));
    source.data("late");
    assert_eq!(read(&mut first), (text("late"), Rest::Pending));
}

#[test]
fn dropped_attempt_leaves_the_source_intact() {
    let source = Fed::default();
    source.data("ab");
    let mut kept = keep(Replay::new(), source.clone());
    let mut first = attempt(&mut kept, 0);
    source.data("cd");
    assert_eq!(read(&mut first), (text("abcd"), Rest::Pending));
    assert!(kept.retire(nth(0)));
    drop(first);

    let mut second = attempt(&mut kept, 1);
    source.data("ef");
    source.end();
    assert_eq!(read(&mut second), (text("abcdef"), Rest::Ended));
    assert!(second.is_end_stream());
    assert!(kept.retire(nth(1)));
    assert_eq!(read(&mut attempt(&mut kept, 2)), (text("abcdef"), Rest::Ended));
}

#[test]
fn trailers_are_kept_too() {
    let source = Fed::default();
    source.data("x");
    let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("1"))]);
    source.give(Ok(Frame::trailers(trailers)));
    source.end();
    let mut kept = keep(Replay::new(), source);
    for id in 0..2 {
        assert_eq!(read(&mut attempt(&mut kept, id)), (text("x."), Rest::Ended));
    }
}

#[test]
fn readers_at_the_same_time_see_the_same() {
    let source = Fed::default();
    let mut kept = keep(Replay::new(), source.clone());
    let (mut first, mut second) = (attempt(&mut kept, 0), attempt(&mut kept, 1));
    source.data("a");
    assert_eq!(read(&mut first), (text("a"), Rest::Pending));
    source.data("b");
    assert_eq!(read(&mut second), (text("ab"), Rest::Pending));
    source.end();
    assert_eq!(read(&mut second), (text(""), Rest::Ended));
    assert_eq!(read(&mut first), (text("b"), Rest::Ended));
}

#[test]
fn source_wakes_all_who_wait_and_not_only_who_asked_last() {
    let source = Fed::default();
    let mut kept = keep(Replay::new(), source.clone());
    let (mut first, mut second) = (attempt(&mut kept, 0), attempt(&mut kept, 1));
    let mut first = task::spawn(first.frame());
    let mut second = task::spawn(second.frame());
    assert!(first.poll().is_pending() && second.poll().is_pending());
    source.data("x");
    assert!(first.is_woken() && second.is_woken());
}

#[test]
fn reader_that_takes_a_frame_wakes_those_that_wait_for_it() {
    let source = Fed::default();
    let mut kept = keep(Replay::new(), source.clone());
    let (mut first, mut second) = (attempt(&mut kept, 0), attempt(&mut kept, 1));
    let mut waits = task::spawn(first.frame());
    assert!(waits.poll().is_pending());
    // The frame comes without a wake, as it may while the second is just about to ask.
    source.0.lock().expect("unlocked").frames.push_back(Ok(Frame::data(Bytes::from_static(b"x"))));
    assert_eq!(read(&mut second).0, "x");
    assert!(waits.is_woken());
}

#[test]
fn long_piece_goes_through_unkept() {
    let mut kept = keep(Replay::new().limit(3), Full::new(Bytes::from("long")));
    let mut body = attempt(&mut kept, 0);
    assert_eq!(body.size_hint().exact(), Some(4));
    assert_eq!(read(&mut body), (text("long"), Rest::Ended));
    assert!(!kept.retire(nth(0)));
    assert!(kept.attempt(nth(1)).is_none());
}

#[test]
fn stream_past_the_limit_goes_on_unrepeatable() {
    let source = Fed::default();
    source.data("abc");
    let mut kept = keep(Replay::new().limit(5), source.clone());
    let mut first = attempt(&mut kept, 0);
    source.data("de");
    assert_eq!(read(&mut first), (text("abcde"), Rest::Pending));
    assert!(kept.retire(nth(0)), "the limit itself is within the limit");

    let mut second = attempt(&mut kept, 1);
    source.data("f");
    assert_eq!(read(&mut second), (text("abcdef"), Rest::Pending));
    assert!(!kept.retire(nth(1)));
    assert!(kept.attempt(nth(2)).is_none());
    source.data("g");
    source.end();
    assert_eq!(read(&mut second), (text("g"), Rest::Ended));
}

#[test]
fn past_the_limit_the_latest_reader_goes_on_whoever_gets_there_first() {
    let source = Fed::default();
    source.data("ab");
    let mut kept = keep(Replay::new().limit(2), source.clone());
    let (mut first, mut second) = (attempt(&mut kept, 0), attempt(&mut kept, 1));
    assert_eq!(read(&mut first), (text("ab"), Rest::Pending));
    source.data("c");
    source.end();
    assert_eq!(read(&mut first), (text(""), Rest::Broken(FailureKind::Other)));
    assert_eq!(read(&mut second), (text("abc"), Rest::Ended));
}

#[test]
fn attempt_that_was_given_up_is_told_so_and_takes_nothing() {
    let source = Fed::default();
    let mut kept = keep(Replay::new(), source.clone());
    let mut first = attempt(&mut kept, 0);
    let mut waits = task::spawn(first.frame());
    assert!(waits.poll().is_pending());
    assert!(kept.retire(nth(0)));
    assert!(waits.is_woken());
    drop(waits);
    source.data("x");
    assert_eq!(read(&mut first), (text(""), Rest::Broken(FailureKind::Other)));
    assert_eq!(read(&mut attempt(&mut kept, 1)).0, "x");
}

#[test]
fn attempt_that_is_committed_to_reads_on_alone() {
    let source = Fed::default();
    source.data("a");
    let mut kept = keep(Replay::new(), source.clone());
    let (mut winner, mut loser) = (attempt(&mut kept, 0), attempt(&mut kept, 1));
    kept.commit(nth(0));
    drop(kept);
    source.data("b");
    assert_eq!(read(&mut loser), (text(""), Rest::Broken(FailureKind::Other)));
    assert_eq!(read(&mut winner), (text("ab"), Rest::Pending));
    source.data("c");
    source.end();
    assert_eq!(read(&mut winner), (text("c"), Rest::Ended));
}

#[test]
fn nothing_is_kept_once_committed() {
    let source = Fed::default();
    let mut kept = keep(Replay::new(), source.clone());
    let mut body = attempt(&mut kept, 0);
    kept.commit(nth(0));
    let data = Bytes::from(vec![0; 1000]);
    source.give(Ok(Frame::data(data.clone())));
    let Poll::Ready(Some(Ok(frame))) = task::spawn(body.frame()).poll() else { panic!("a frame") };
    drop(frame);
    assert!(data.is_unique(), "a frame that was read is held by nobody else");
}

#[test]
fn users_error_is_a_failure_of_the_request_and_not_repeatable() {
    let source = Fed::default();
    source.data("a");
    let mut kept = keep(Replay::new(), source.clone());
    let mut body = attempt(&mut kept, 0);
    source.give(Err("disk".into()));
    assert_eq!(read(&mut body), (text("a"), Rest::Broken(FailureKind::RequestBody)));
    assert!(!kept.retire(nth(0)));
}

#[test]
fn users_error_before_the_first_attempt_reaches_the_first_attempt() {
    let source = Fed::default();
    source.give(Err("disk".into()));
    let mut kept = keep(Replay::new(), source);
    assert_eq!(read(&mut attempt(&mut kept, 0)), (text(""), Rest::Broken(FailureKind::RequestBody)));
}

#[test]
fn size_of_what_is_left_is_told_while_it_streams() {
    struct Sized(Fed);
    impl Body for Sized {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }
        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(5)
        }
    }
    let source = Fed::default();
    source.data("ab");
    let mut kept = keep(Replay::new(), Sized(source));
    let mut body = attempt(&mut kept, 0);
    assert_eq!(body.size_hint().exact(), Some(5));
    assert_eq!(read(&mut body), (text("ab"), Rest::Pending));
    assert_eq!(body.size_hint().exact(), Some(3));
    assert_eq!(attempt(&mut kept, 1).size_hint().exact(), Some(5));
}

#[test]
fn body_type_is_unpin_and_send_when_the_users_is() {
    fn check<T: Unpin + Send + 'static>() {}
    check::<ReplayBody>();
}

/// What happens next to a body and its attempts.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The source gives so many bytes.
    Give(usize),
    /// One of the attempts reads what there is.
    Read(usize),
    /// An attempt goes away, and another begins where that is possible.
    Replace(usize),
    /// Another begins beside those there are.
    Another,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..12_usize).prop_map(Event::Give),
        4 => (0..4_usize).prop_map(Event::Read),
        1 => (0..4_usize).prop_map(Event::Replace),
        1 => Just(Event::Another),
    ]
}

const SENT: &str =
    "the quick brown fox jumps over the lazy dog, and again: the quick brown fox jumps over the lazy dog";

/// An attempt and what it has read.
type Reading = (u32, ReplayBody, String);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn every_attempt_sees_the_same_bytes(
        early in prop::collection::vec(0..12_usize, 0..3),
        events in prop::collection::vec(event(), 0..40),
        limit in prop_oneof![Just(usize::MAX), 0..60_usize],
        committed in any::<bool>(),
    ) {
        let source = Fed::default();
        let mut given = 0;
        let mut give = |length: usize| {
            let end = (given + length).min(SENT.len());
            source.data(&SENT[given..end]);
            given = end;
            end
        };
        let mut total = early.into_iter().map(&mut give).last().unwrap_or(0);
        let mut kept = keep(Replay::new().limit(limit), source.clone());
        let mut next = 1;
        let mut readings: Vec<Reading> = vec![(0, attempt(&mut kept, 0), String::new())];
        let mut begin = |kept: &mut Replayed<Fed>, readings: &mut Vec<Reading>| {
            if let Some(request) = kept.attempt(nth(next)) {
                readings.push((next, request.into_body(), String::new()));
                next += 1;
            }
        };

        for event in events {
            match event {
                Event::Give(length) => total = give(length),
                Event::Read(index) => {
                    let index = index % readings.len();
                    let (_, body, seen) = &mut readings[index];
                    let (more, rest) = read(body);
                    seen.push_str(&more);
                    prop_assert!(SENT.starts_with(seen.as_str()));
                    match rest {
                        Rest::Pending => prop_assert_eq!(seen.len(), total),
                        Rest::Broken(_) => {
                            prop_assert!(total > limit, "only the limit may break an attempt that was not given up");
                            prop_assert!(index + 1 < readings.len(), "the latest goes on");
                            readings.remove(index);
                        }
                        Rest::Ended => prop_assert!(false, "the source has not ended"),
                    }
                }
                Event::Replace(index) => {
                    let index = index % readings.len();
                    let fits = total <= limit;
                    let again = kept.retire(nth(readings[index].0));
                    prop_assert!(again || !fits, "within the limit there can always be another attempt");
                    if again {
                        readings.remove(index);
                        begin(&mut kept, &mut readings);
                    }
                }
                Event::Another => begin(&mut kept, &mut readings),
            }
        }

        // The latest is delivered, and reads to the end.
        total = give(usize::MAX - SENT.len());
        source.end();
        let (id, mut body, mut seen) = readings.pop().expect("there is always one");
        if committed {
            kept.commit(nth(id));
        }
        drop(kept);
        let (more, rest) = read(&mut body);
        seen.push_str(&more);
        prop_assert_eq!((seen.as_str(), rest), (SENT, Rest::Ended));
        prop_assert_eq!(total, SENT.len());
    }
}
