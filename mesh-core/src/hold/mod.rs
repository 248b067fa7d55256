//! What holds a guard until a response has ended: a permit, an in-flight count, a latency sample.
//!
//! A permit lives as long as the work. For an HTTP response the work ends with its body, so a guard moves into the body
//! ([`UntilEnd`]) and is settled by whatever comes first of the last frame, the trailers, an error and a drop. For
//! responses that are complete when they are there, it ends at once ([`AtOnce`]).
//!
//! There is one watcher per response however many guards there are: a further layer joins its guard to those that the
//! response already holds ([`JoinEnd`]), and all of them are settled with the one [`Outcome`].

mod cause;

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project::{pin_project, pinned_drop};
use tokio::time::Instant;

pub use self::cause::give_up;
pub(crate) use self::cause::{cause, cause_at};
use crate::outcome::{BoxError, Class, Classify, ClassifyEnd, Failure, Head, HttpClassifier, Outcome};

/// A guard that wants to know how the work that it guards has ended.
///
/// A guard that is dropped unsettled takes it that the caller went away before there was a response, unless it is dropped
/// by [`give_up`].
pub trait Settle: Send + 'static {
    /// The work has ended; called at most once, and the guard is dropped right after.
    fn settle(&mut self, outcome: &Outcome);
}

/// Puts guards into responses.
pub trait Hold<Res, G> {
    /// A response that holds the guard.
    type Held;

    /// Moves `guard` into `response`.
    fn hold(&self, response: Res, guard: G) -> Self::Held;
}

/// Settles a guard as soon as there is a response, as a success.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtOnce;

/// Settles a guard when the body of an HTTP response has ended, with the outcome that the classifier `C` finds.
#[derive(Clone, Copy, Debug, Default)]
pub struct UntilEnd<C = HttpClassifier>(pub C);

/// Joins a guard to those that an HTTP response already holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct JoinEnd;

/// A response body that settles a guard when it has ended.
///
/// It passes frames on as they are. Dropping it early is a normal ending: the outcome is what the head said, where the head
/// said everything, else [`Class::Cancelled`]. Dropped by [`give_up`], it has failed.
#[pin_project(PinnedDrop)]
#[derive(Debug)]
pub struct Watched<B: Body, J: Conclude<B>, G: Settle> {
    #[pin]
    body: B,
    judge: J,
    watch: Watch<G>,
}

/// The guard until the end, the outcome after it.
#[derive(Debug)]
enum Watch<G> {
    Open(G),
    Settled(Outcome),
}

/// A response body that knows its outcome once it has ended.
pub trait Concluded {
    /// The outcome; none before the end.
    fn outcome(&self) -> Option<Outcome>;

    /// The outcome if it were dropped now: what its head said, where that said everything.
    fn outcome_of_drop(&self) -> Outcome;
}

/// Finds the outcome of a response body at its end.
pub trait Conclude<B> {
    /// `body` has ended in this way.
    fn conclude(&self, body: &B, end: End<'_>) -> Outcome;
}

/// How a response body ended.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// It is whole; these are its trailers.
    Whole(Option<&'a HeaderMap>),
    /// It broke, or was given up.
    Failed(Failure),
    /// It was dropped before its end.
    Dropped,
}

/// Asks a classifier.
#[derive(Debug)]
pub struct ByClassifier<E> {
    status: StatusCode,
    head: Head<E>,
}

/// Asks the body within.
#[derive(Debug)]
pub struct ByBody;

// === impl Settle ===

impl Settle for () {
    fn settle(&mut self, _: &Outcome) {}
}

impl<A: Settle, B: Settle> Settle for (A, B) {
    fn settle(&mut self, outcome: &Outcome) {
        self.0.settle(outcome);
        self.1.settle(outcome);
    }
}

impl<G: Settle> Settle for Option<G> {
    fn settle(&mut self, outcome: &Outcome) {
        if let Some(guard) = self {
            guard.settle(outcome);
        }
    }
}

// === impl AtOnce ===

impl<Res, G: Settle> Hold<Res, G> for AtOnce {
    type Held = Res;

    #[inline]
    fn hold(&self, response: Res, mut guard: G) -> Res {
        let at = Instant::now();
        guard.settle(&Outcome { class: Class::Success, status: None, grpc_status: None, failure: None, at });
        response
    }
}

// === impl UntilEnd ===

impl<B, G, C> Hold<Response<B>, G> for UntilEnd<C>
where
    B: Body,
    B::Error: Into<BoxError>,
    G: Settle,
    C: Classify,
{
    type Held = Response<Watched<B, ByClassifier<C::End>, G>>;

    #[inline]
    fn hold(&self, response: Response<B>, guard: G) -> Self::Held {
        let status = response.status();
        let head = self.0.head(status, response.headers());
        response.map(|body| Watched::new(body, ByClassifier { status, head }, guard))
    }
}

// === impl JoinEnd ===

impl<B, G> Hold<Response<B>, G> for JoinEnd
where
    B: Body + Concluded,
    B::Error: Into<BoxError>,
    G: Settle,
{
    type Held = Response<Watched<B, ByBody, G>>;

    #[inline]
    fn hold(&self, response: Response<B>, guard: G) -> Self::Held {
        response.map(|body| Watched::new(body, ByBody, guard))
    }
}

// === impl Watched ===

impl<B, J, G> Watched<B, J, G>
where
    B: Body,
    J: Conclude<B>,
    G: Settle,
{
    /// Watches `body`; one that is at its end already is settled here.
    #[inline]
    fn new(body: B, judge: J, mut guard: G) -> Self {
        if !body.is_end_stream() {
            return Self { body, judge, watch: Watch::Open(guard) };
        }
        let outcome = judge.conclude(&body, End::Whole(None));
        guard.settle(&outcome);
        Self { body, judge, watch: Watch::Settled(outcome) }
    }

    /// The body that is watched.
    pub fn get_ref(&self) -> &B {
        &self.body
    }

    /// It is dropped before its end.
    #[cold]
    fn abandon(self: Pin<&mut Self>) {
        let this = self.project();
        let end = cause().map_or(End::Dropped, End::Failed);
        settle(this.watch, this.judge, &*this.body, end);
    }
}

/// Settles an open guard; later ends change nothing.
fn settle<B, J: Conclude<B>, G: Settle>(watch: &mut Watch<G>, judge: &J, body: &B, end: End<'_>) {
    if let Watch::Open(guard) = watch {
        let outcome = judge.conclude(body, end);
        guard.settle(&outcome);
        *watch = Watch::Settled(outcome);
    }
}

impl<B, J, G> Body for Watched<B, J, G>
where
    B: Body,
    B::Error: Into<BoxError>,
    J: Conclude<B>,
    G: Settle,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx)).map(|frame| frame.map_err(Into::into));
        let end = match &frame {
            None => Some(End::Whole(None)),
            Some(Err(error)) => Some(End::Failed(Failure::of(&**error))),
            Some(Ok(frame)) => match frame.trailers_ref() {
                Some(trailers) => Some(End::Whole(Some(trailers))),
                None => this.body.is_end_stream().then_some(End::Whole(None)),
            },
        };
        if let Some(end) = end {
            settle(this.watch, this.judge, &*this.body, end);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body, J: Conclude<B>, G: Settle> Concluded for Watched<B, J, G> {
    fn outcome(&self) -> Option<Outcome> {
        match self.watch {
            Watch::Open(_) => None,
            Watch::Settled(outcome) => Some(outcome),
        }
    }

    fn outcome_of_drop(&self) -> Outcome {
        self.outcome().unwrap_or_else(|| self.judge.conclude(&self.body, End::Dropped))
    }
}

#[pinned_drop]
impl<B: Body, J: Conclude<B>, G: Settle> PinnedDrop for Watched<B, J, G> {
    fn drop(self: Pin<&mut Self>) {
        if let Watch::Open(_) = self.watch {
            self.abandon();
        }
    }
}

// === impl ByClassifier ===

impl<B, E: ClassifyEnd> Conclude<B> for ByClassifier<E> {
    fn conclude(&self, _: &B, end: End<'_>) -> Outcome {
        let at = Instant::now();
        match (&self.head, end) {
            (_, End::Failed(failure)) => Outcome::failed(failure, at),
            (Head::Final(judgement), _) => Outcome::responded(self.status, *judgement, at),
            (Head::AtEnd(rest), End::Whole(trailers)) => {
                Outcome::responded(self.status, rest.end(self.status, trailers), at)
            }
            (Head::AtEnd(_), End::Dropped) => Outcome::cancelled(at),
        }
    }
}

// === impl ByBody ===

impl<B: Concluded> Conclude<B> for ByBody {
    fn conclude(&self, body: &B, end: End<'_>) -> Outcome {
        body.outcome().unwrap_or_else(|| match end {
            End::Failed(failure) => Outcome::failed(failure, Instant::now()),
            // The body within is dropped after this one, which is asked first.
            End::Whole(_) | End::Dropped => body.outcome_of_drop(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty, Full, StreamBody};

    use super::*;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<Class>>>);

    impl Settle for Seen {
        fn settle(&mut self, outcome: &Outcome) {
            self.0.lock().expect("no test panics while it holds this").push(outcome.class);
        }
    }

    impl Seen {
        fn classes(&self) -> Vec<Class> {
            self.0.lock().expect("no test panics while it holds this").clone()
        }
    }

    fn response<B>(status: u16, body: B) -> Response<B> {
        Response::builder().status(status).body(body).expect("a legal status")
    }

    #[tokio::test]
    async fn guard_is_settled_once_when_the_last_frame_is_read() {
        let seen = Seen::default();
        let held = UntilEnd(HttpClassifier).hold(response(200, Full::new(Bytes::from("x"))), seen.clone());
        assert_eq!(seen.classes(), []);
        held.into_body().collect().await.expect("a whole body");
        assert_eq!(seen.classes(), [Class::Success]);
    }

    #[tokio::test]
    async fn empty_body_ends_with_its_head() {
        let seen = Seen::default();
        let _held = UntilEnd(HttpClassifier).hold(response(503, Empty::<Bytes>::new()), seen.clone());
        assert_eq!(seen.classes(), [Class::GatewayError]);
    }

    #[tokio::test]
    async fn dropped_body_counts_by_what_its_head_said() {
        let seen = Seen::default();
        drop(UntilEnd(HttpClassifier).hold(response(500, Full::new(Bytes::from("x"))), seen.clone()));
        assert_eq!(seen.classes(), [Class::ServerError]);
    }

    #[tokio::test]
    async fn broken_body_overrules_a_good_head() {
        let seen = Seen::default();
        let broken = StreamBody::new(Broken);
        let held = UntilEnd(HttpClassifier).hold(response(200, broken), seen.clone());
        assert!(held.into_body().collect().await.is_err());
        assert_eq!(seen.classes(), [Class::GatewayError]);
    }

    #[tokio::test]
    async fn joined_guard_reads_the_outcome_of_the_first() {
        let (first, second) = (Seen::default(), Seen::default());
        let held = UntilEnd(HttpClassifier).hold(response(502, Full::new(Bytes::from("x"))), first.clone());
        let held = JoinEnd.hold(held, second.clone());
        held.into_body().collect().await.expect("a whole body");
        assert_eq!((first.classes(), second.classes()), (vec![Class::GatewayError], vec![Class::GatewayError]));
    }

    #[tokio::test]
    async fn joined_guard_of_a_dropped_body_reads_what_the_head_said() {
        let (first, second) = (Seen::default(), Seen::default());
        let held = UntilEnd(HttpClassifier).hold(response(502, Full::new(Bytes::from("x"))), first.clone());
        drop(JoinEnd.hold(held, second.clone()));
        assert_eq!((first.classes(), second.classes()), (vec![Class::GatewayError], vec![Class::GatewayError]));
    }

    struct Broken;

    impl futures_core::Stream for Broken {
        type Item = Result<Frame<Bytes>, std::io::Error>;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(Some(Err(std::io::Error::other("reset"))))
        }
    }

    #[test]
    fn guards_may_be_paired() {
        let (mut first, second) = (Seen::default(), Seen::default());
        (first.clone(), Some(second.clone())).settle(&Outcome::cancelled(Instant::now()));
        first.settle(&Outcome::cancelled(Instant::now()));
        assert_eq!((first.classes().len(), second.classes().len()), (2, 1));
    }
}
