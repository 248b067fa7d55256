//! HTTP requests that are kept for another attempt: a clone of the head, and a body that can be read again.

use std::{fmt, task::Context};

use http::{Request, request::Parts};
use http_body::Body;

use self::body::Recording;
use super::keep::{Keep, Kept, Observe, Try};
use crate::{deadline::Progress, outcome::BoxError};

mod body;
mod tape;

pub use self::body::ReplayBody;

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

    fn progress(&mut self) -> Option<Progress> {
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
