//! The response body that goes on watching the clock.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::Instant;

use super::{Bound, Elapsed, Expiry, Progress, Timer};
use crate::{
    hold::{AtOnce, Concluded, Hold, JoinEnd, UntilEnd},
    outcome::{BoxError, Failed, Outcome, Sent},
};

/// What is left to watch when the head of a response has come.
///
/// It is put into responses by the strategies of [`hold`](crate::hold): [`AtOnce`] lets go of it, as do limits on the head
/// alone; [`UntilEnd`] and [`JoinEnd`] put it into the body of HTTP responses, as a [`TimedBody`].
#[derive(Clone, Debug, Default)]
pub struct BodyLimits {
    /// When everything must be over.
    pub overall: Option<Expiry>,
    /// How long nothing may move.
    pub silence: Option<Silence>,
    /// Of the request, while that may still be read; a stream on which either side moves is not silent.
    pub progress: Option<Progress>,
}

/// A limit on silence: the time for which someone waits for a frame and none comes. A reader who does not ask is not kept
/// waiting, so a slow reader never hears of it. Nor is a stream silent whose request is being read; that is looked at once a
/// limit, so that it is cut off after two at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Which limit it is: [`Bound::Idle`] or [`Bound::PerTryIdle`].
    pub bound: Bound,
    /// How long it is.
    pub limit: Duration,
}

/// A response body that ends with [`Elapsed`] when a limit passes.
///
/// Limits are looked at whenever no frame is ready; and the one on everything every so many frames that came without a wait, so
/// that a peer who never pauses, or a reader who is always behind, does not escape it. When a limit passes, the inner body is dropped before the error is returned, and nothing comes after it.
#[pin_project]
#[derive(Debug)]
pub struct TimedBody<B> {
    #[pin]
    stage: Stage<B>,
    #[pin]
    timer: Timer,
    // Between the body and the limits: next to each other, both would be moved twice.
    lately: Lately,
    limits: BodyLimits,
}

/// What has come of late.
#[derive(Clone, Copy, Debug)]
enum Lately {
    /// So many frames, without a wait or a look at the clock.
    Frames(u8),
    /// None, though one has been waited for since then.
    Nothing(Instant),
}

/// How many frames may come without a look at the clock.
const UNWATCHED: u8 = 16;

#[pin_project(project = StageProjection)]
#[derive(Debug)]
enum Stage<B> {
    InTime(#[pin] B),
    /// A limit has passed.
    Expired(Outcome),
}

// === impl BodyLimits ===

impl BodyLimits {
    /// When the nearest limit passes, and what is said then.
    fn nearest(&self, lately: &mut Lately) -> Option<Expiry> {
        let silence = self.silence.map(|Silence { bound, limit }| {
            let since = match *lately {
                Lately::Nothing(since) => since,
                Lately::Frames(_) => {
                    // What was read before the silence does not end it.
                    self.was_read();
                    Instant::now()
                }
            };
            *lately = Lately::Nothing(since);
            Expiry::new(bound, since, limit)
        });
        match (self.overall, silence) {
            (Some(overall), Some(silence)) if silence.at() < overall.at() => Some(silence),
            (Some(overall), _) => Some(overall),
            (None, silence) => silence,
        }
    }

    /// Ready with a limit that has passed.
    fn poll(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Timer>, lately: &mut Lately) -> Poll<Expiry> {
        while let Some(expiry) = self.nearest(lately) {
            ready!(timer.as_mut().poll(cx, expiry.at()));
            if !expiry.bound().is_silence() || !self.was_read() {
                return Poll::Ready(expiry);
            }
            *lately = Lately::Nothing(Instant::now());
        }
        Poll::Pending
    }

    /// Whether the request was read on since that was last asked.
    fn was_read(&self) -> bool {
        self.progress.as_ref().is_some_and(Progress::take)
    }
}

impl<Res> Hold<Res, BodyLimits> for AtOnce {
    type Held = Res;

    #[inline]
    fn hold(&self, response: Res, _: BodyLimits) -> Res {
        response
    }
}

impl<B, C> Hold<Response<B>, BodyLimits> for UntilEnd<C> {
    type Held = Response<TimedBody<B>>;

    #[inline]
    fn hold(&self, response: Response<B>, limits: BodyLimits) -> Self::Held {
        response.map(|body| TimedBody::new(body, limits))
    }
}

impl<B> Hold<Response<B>, BodyLimits> for JoinEnd {
    type Held = Response<TimedBody<B>>;

    // In line, the response would be put together beside where it goes, and copied.
    #[inline(never)]
    fn hold(&self, response: Response<B>, limits: BodyLimits) -> Self::Held {
        response.map(|body| TimedBody::new(body, limits))
    }
}

// === impl TimedBody ===

impl<B> TimedBody<B> {
    /// Watches `body`.
    #[inline]
    pub const fn new(body: B, limits: BodyLimits) -> Self {
        Self { stage: Stage::InTime(body), timer: Timer::new(), limits, lately: Lately::Frames(0) }
    }

    /// The inner body; none once a limit has passed.
    pub const fn get_ref(&self) -> Option<&B> {
        match &self.stage {
            Stage::InTime(body) => Some(body),
            Stage::Expired(_) => None,
        }
    }
}

impl<B> Body for TimedBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let StageProjection::InTime(body) = this.stage.as_mut().project() else {
            return Poll::Ready(None);
        };
        let expiry = match this.lately.overdue(this.limits.overall) {
            // Nothing more takes time.
            Some(overdue) if !body.is_end_stream() => overdue,
            _ => {
                if let Poll::Ready(frame) = body.poll_frame(cx) {
                    this.lately.came();
                    return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
                }
                ready!(this.limits.poll(cx, this.timer.as_mut(), this.lately))
            }
        };
        let elapsed: Elapsed = expiry.elapsed(Sent::Yes);
        let expired = Stage::Expired(Outcome::failed(elapsed.failure(), expiry.at()));
        expiry.give_up(Sent::Yes, || this.stage.set(expired));
        Poll::Ready(Some(Err(Failed::from(elapsed).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.get_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.get_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Concluded> Concluded for TimedBody<B> {
    fn outcome(&self) -> Option<Outcome> {
        match &self.stage {
            Stage::InTime(body) => body.outcome(),
            Stage::Expired(outcome) => Some(*outcome),
        }
    }

    fn outcome_of_drop(&self) -> Outcome {
        match &self.stage {
            Stage::InTime(body) => body.outcome_of_drop(),
            Stage::Expired(outcome) => *outcome,
        }
    }
}

// === impl Lately ===

impl Lately {
    /// A frame has come.
    const fn came(&mut self) {
        *self = match *self {
            Self::Frames(frames) if frames < UNWATCHED => Self::Frames(frames + 1),
            Self::Frames(_) | Self::Nothing(_) => Self::Frames(1),
        };
    }

    /// The limit, if it is time to look at the clock and it has passed.
    fn overdue(self, overall: Option<Expiry>) -> Option<Expiry> {
        match self {
            Self::Frames(UNWATCHED) => overall.filter(|overall| overall.at() <= Instant::now()),
            _ => None,
        }
    }
}
