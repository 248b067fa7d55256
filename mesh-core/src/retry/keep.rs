//! How a request is kept for another attempt: by clone, or, for HTTP, with a body that can be read again.

use std::{fmt, task::Context};

use http::{Request, request::Parts};
use http_body::Body;

use super::replay::{Recording, ReplayBody};
use crate::outcome::{BoxError, Failure};

/// Keeps requests for another attempt.
pub trait Keep<R> {
    /// A request that is kept.
    type Kept: Kept;

    /// Keeps `request`; there will be one attempt only where it is not `repeatable`, and nothing need be kept.
    fn keep(&self, request: R, repeatable: bool) -> Self::Kept;
}

/// A request that is kept, to be sent once or more.
///
/// Dropping it means that no further attempt will be made.
pub trait Kept {
    /// What is sent.
    type Attempt;

    /// Called once before the first attempt, with the waker of the call: the time to see what of the request is there.
    fn gather(&mut self, _: &mut Context<'_>) {}

    /// The request for one more attempt; none where it can no longer be made, which ends the call.
    fn attempt(&mut self, this: Try) -> Option<Self::Attempt>;

    /// An attempt has ended, and another is wanted instead: stops whatever still reads for it, and returns whether there can
    /// be another. Where there cannot, nothing is stopped, since the attempt's answer will be delivered after all.
    fn retire(&mut self, this: Try) -> bool;

    /// The answer of this attempt is delivered: no other will be made.
    fn commit(&mut self, this: Try);

    /// Whether the request, of which an attempt has failed without leaving, is to be sent elsewhere at once, without policy or
    /// budget, as no attempt: where whoever keeps it knows a place that whoever sends it does not. No by default. Called once
    /// for each such failure; where this always said yes, the call would never end.
    fn moves_on(&mut self, failure: &Failure) -> bool {
        let _ = failure;
        false
    }

    /// Counts what was read of the request so far, in any unit: while it grows, an attempt without an answer is not silent.
    fn progress(&self) -> u64 {
        0
    }

    /// Whether the request may be repeated whatever became of it, by what can be seen from it.
    fn is_idempotent(&self) -> bool {
        false
    }
}

/// Hears how each attempt of a kept request ended, to avoid the endpoint next time for example. Does nothing by default.
pub trait Observe<Res> {
    /// Attempt `this` has ended with `result`, or has failed with it, as when its time was up.
    fn observe(&mut self, this: Try, result: Result<&Res, &BoxError>) {
        let _ = (this, result);
    }
}

/// Which attempt it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Try {
    /// Counts everything that was started, from 0.
    pub id: u32,
    /// Counts attempts, from 1; a repetition of what the peer has not processed has the number of what it repeats. This is
    /// what peers are told (`x-envoy-attempt-count`; one less is `grpc-previous-rpc-attempts`).
    pub number: u32,
}

/// Keeps a clone of any request.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByClone;

/// A request kept by [`ByClone`].
#[derive(Clone, Debug)]
pub struct Cloned<R> {
    /// None once the only attempt has it.
    request: Option<R>,
    repeatable: bool,
}

/// Keeps HTTP requests: a clone of the head, and a body that can be read again up to a limit. Attempts are sent with a
/// [`ReplayBody`].
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    limit: usize,
    sized: bool,
}

/// A request kept by [`Replay`].
pub struct Replayed<B> {
    /// Of the next attempt, which takes it: there is one path to an attempt, on which the head moves once.
    head: Option<Parts>,
    origin: Origin,
    body: Recording<B>,
}

/// What further heads are copied from.
#[expect(clippy::large_enum_variant, reason = "boxed, each request that is kept would allocate")]
#[derive(Debug)]
enum Origin {
    /// There will be one attempt only.
    Unkept,
    /// To be copied before the first attempt takes the head.
    Wanted,
    Kept(Parts),
}

// === impl ByClone ===

impl<R: Clone> Keep<R> for ByClone {
    type Kept = Cloned<R>;

    fn keep(&self, request: R, repeatable: bool) -> Cloned<R> {
        Cloned { request: Some(request), repeatable }
    }
}

impl<R: Clone> Kept for Cloned<R> {
    type Attempt = R;

    fn attempt(&mut self, _: Try) -> Option<R> {
        if self.repeatable { self.request.clone() } else { self.request.take() }
    }

    fn retire(&mut self, _: Try) -> bool {
        self.repeatable
    }

    fn commit(&mut self, _: Try) {
        self.request = None;
    }
}

impl<R, Res> Observe<Res> for Cloned<R> {}

// === impl Replay ===

impl Replay {
    /// How much of a body is kept unless said otherwise: 64 KiB.
    pub const DEFAULT_LIMIT: usize = 64 * 1024;

    /// Keeps bodies of up to [`DEFAULT_LIMIT`](Self::DEFAULT_LIMIT).
    pub const fn new() -> Self {
        Self { limit: Self::DEFAULT_LIMIT, sized: true }
    }

    /// Keeps up to `bytes` of a body. Each request under way may hold as much; one whose body is longer goes on, unretried.
    #[must_use]
    pub const fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Hides the size of short bodies, which would else be sent as `content-length`. gRPC peers do not expect one.
    #[must_use]
    pub const fn hide_size(mut self) -> Self {
        self.sized = false;
        self
    }
}

impl Default for Replay {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> Keep<Request<B>> for Replay
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Kept = Replayed<B>;

    #[inline]
    fn keep(&self, request: Request<B>, repeatable: bool) -> Replayed<B> {
        let (head, body) = request.into_parts();
        let origin = if repeatable { Origin::Wanted } else { Origin::Unkept };
        Replayed { head: Some(head), origin, body: Recording::new(body, self.limit, self.sized) }
    }
}

impl<B> Kept for Replayed<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Attempt = Request<ReplayBody>;

    #[inline]
    fn gather(&mut self, cx: &mut Context<'_>) {
        if let (Origin::Wanted, Some(head)) = (&self.origin, &self.head) {
            self.origin = Origin::Kept(head.clone());
        }
        // A body that knows its size is mostly all there, and then goes without a box even where nothing is kept.
        if self.is_repeatable() || self.body.knows_its_size() {
            self.body.gather(cx);
        }
    }

    #[inline]
    fn attempt(&mut self, this: Try) -> Option<Self::Attempt> {
        if self.head.is_none() {
            self.copy_head();
        }
        let body = self.body.attempt(this.id)?;
        let head = self.head.take()?;
        Some(Request::from_parts(head, body))
    }

    fn retire(&mut self, this: Try) -> bool {
        self.is_repeatable() && self.body.retire(this.id)
    }

    #[inline]
    fn commit(&mut self, this: Try) {
        self.body.commit(this.id);
    }

    fn progress(&self) -> u64 {
        self.body.progress()
    }

    /// Without its head, a request is not repeated anyway.
    #[inline]
    fn is_idempotent(&self) -> bool {
        matches!(&self.origin, Origin::Kept(head) if head.method.is_idempotent())
    }
}

impl<B, Res> Observe<Res> for Replayed<B> {}

impl<B> Replayed<B> {
    /// For an attempt beyond the first.
    #[cold]
    fn copy_head(&mut self) {
        if let Origin::Kept(head) = &self.origin {
            self.head = Some(head.clone());
        }
    }

    #[inline]
    const fn is_repeatable(&self) -> bool {
        !matches!(self.origin, Origin::Unkept)
    }
}

impl<B> fmt::Debug for Replayed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replayed").field("origin", &self.origin).finish_non_exhaustive()
    }
}
