//! The response body that settles a guard when it has ended, and how the outcome is found by then.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project::{pin_project, pinned_drop};
use tokio::time::Instant;

use super::{Settle, cause::cause};
use crate::outcome::{BoxError, ClassifyEnd, Failure, Head, Outcome};

/// A response body that settles a guard when it has ended.
///
/// It passes frames on as they are. Dropping it early is a normal ending: the outcome is what the head said, where the head
/// said everything, else [`Class::Cancelled`](crate::outcome::Class::Cancelled). Dropped by [`give_up`](super::give_up), it
/// has failed.
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
    pub(super) status: StatusCode,
    pub(super) head: Head<E>,
}

/// Asks the body within.
#[derive(Debug)]
pub struct ByBody;

// === impl Watched ===

impl<B, J, G> Watched<B, J, G>
where
    B: Body,
    J: Conclude<B>,
    G: Settle,
{
    /// Watches `body`; one that is at its end already is settled here.
    #[inline]
    pub(super) fn new(body: B, judge: J, mut guard: G) -> Self {
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
