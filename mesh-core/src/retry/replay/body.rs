//! A request body that several attempts may read: the one body type of everything that is sent.
//!
//! Most bodies are over before they begin. So the body is asked for what it has before the first attempt: where it has
//! nothing, there is nothing to keep; where it gives one piece of data and ends, that piece is kept, and to clone it costs
//! a reference count. Only what streams is shared ([`tape`](super::tape)): frames are appended to a buffer as the source
//! gives them, and every attempt reads them through a cursor of its own, from the beginning.
//!
//! The buffer is bounded. The frame that would pass the limit ends it: what was kept is let go, the latest attempt reads on
//! straight from the source, and the request can no longer be repeated. The same happens when an attempt is committed to.

use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::tape::{Cursor, Piece, Reader, Tape, TapeHandle, user_error};
use crate::{deadline::Progress, outcome::BoxError};

/// A request body that the next attempt can read again.
///
/// Dropping it before its end cancels the attempt and leaves the source as it was, so that a later attempt reads on.
///
/// # Errors
///
/// An error of the user's body is a [`Failed`](crate::outcome::Failed) of kind
/// [`FailureKind::RequestBody`](crate::outcome::FailureKind::RequestBody) with that error as its source. An attempt that was
/// given up, and still reads, is told so by an error.
pub struct ReplayBody(Kind);

/// A user's body that streams: boxed, so that whatever users send, connections carry one type. It is the only box that a
/// body costs, and bodies that are over before they begin have none.
pub(super) type Source = Box<dyn Body<Data = Bytes, Error = BoxError> + Send + Unpin>;

/// A user's body in our words: data in `Bytes`, errors boxed.
struct Plain<B>(B);

enum Kind {
    Empty,
    /// The data is taken when it is read. A size that is hidden makes no `content-length`.
    Whole {
        data: Option<Bytes>,
        sized: bool,
    },
    Shared(Cursor<Source>),
    /// Nothing is kept.
    Through(Source),
}

/// The body of a request that is kept for another attempt.
pub(super) struct Recording<B> {
    kind: Recorded<B>,
    limit: usize,
    sized: bool,
}

enum Recorded<B> {
    /// Not asked yet.
    Fresh(B),
    Empty,
    Whole(Bytes),
    Shared(TapeHandle<Source>),
    /// An attempt has it, and no other will.
    Gone,
}

// === impl Recording ===

impl<B> Recording<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Keeps up to `limit` bytes of `body`; `sized` tells whether a short body may show its size.
    pub(super) const fn new(body: B, limit: usize, sized: bool) -> Self {
        Self { kind: Recorded::Fresh(body), limit, sized }
    }

    /// Whether the body was not asked yet, and says how long it is.
    pub(super) fn knows_its_size(&self) -> bool {
        matches!(&self.kind, Recorded::Fresh(body) if body.size_hint().exact().is_some())
    }

    /// Asks the body what it has. It is asked once and never waited for, as what it gives may depend on the answer.
    pub(super) fn gather(&mut self, cx: &mut Context<'_>) {
        self.kind = match mem::replace(&mut self.kind, Recorded::Gone) {
            Recorded::Fresh(body) => gather(body, self.limit, cx),
            known => known,
        };
    }

    /// The body for one more attempt, if there can be one.
    #[inline]
    pub(super) fn attempt(&mut self, reader: Reader) -> Option<ReplayBody> {
        let kind = match &self.kind {
            Recorded::Empty => Kind::Empty,
            Recorded::Whole(data) => Kind::Whole { data: Some(data.clone()), sized: self.sized },
            Recorded::Shared(tape) => Kind::Shared(tape.cursor(reader)?),
            Recorded::Fresh(_) | Recorded::Gone => through(self.take()?),
        };
        Some(ReplayBody(kind))
    }

    /// Gives up what `reader` reads, if another could read all of it again.
    pub(super) fn retire(&mut self, reader: Reader) -> bool {
        match &self.kind {
            Recorded::Empty | Recorded::Whole(_) => true,
            Recorded::Shared(tape) => tape.retire(reader),
            Recorded::Fresh(_) | Recorded::Gone => false,
        }
    }

    /// Records nothing further: `reader` reads on alone.
    #[inline]
    pub(super) fn commit(&self, reader: Reader) {
        if let Recorded::Shared(tape) = &self.kind {
            tape.commit(reader);
        }
    }

    /// Where it is noted that the body is read, where it is shared; a short one is read at once.
    pub(super) fn progress(&self) -> Option<Progress> {
        match &self.kind {
            Recorded::Shared(tape) => Some(tape.progress()),
            _ => None,
        }
    }

    fn take(&mut self) -> Option<B> {
        match mem::replace(&mut self.kind, Recorded::Gone) {
            Recorded::Fresh(body) => Some(body),
            _ => None,
        }
    }
}

fn gather<B>(mut body: B, limit: usize, cx: &mut Context<'_>) -> Recorded<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return Recorded::Empty;
    }
    let hint = body.size_hint();
    let mut next = |body: &mut B| Pin::new(body).poll_frame(cx).map(|frame| Some(Piece::of_frame(frame?)));
    let data = match next(&mut body) {
        Poll::Ready(None) => return Recorded::Empty,
        Poll::Ready(Some(Ok(Piece::Data(data)))) if data.len() <= limit => data,
        first => return Recorded::Shared(TapeHandle::new(Tape::new(source(body), hint, limit).with(first))),
    };
    if body.is_end_stream() {
        return Recorded::Whole(data);
    }
    match next(&mut body) {
        Poll::Ready(None) => Recorded::Whole(data),
        second => {
            let tape = Tape::new(source(body), hint, limit).with(Poll::Ready(Some(Ok(Piece::Data(data)))));
            Recorded::Shared(TapeHandle::new(tape.with(second)))
        }
    }
}

/// A body that is not kept; one that is over already needs no box.
fn through<B>(body: B) -> Kind
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() { Kind::Empty } else { Kind::Through(source(body)) }
}

/// Boxes a body that streams.
fn source<B>(body: B) -> Source
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    Box::new(Plain(body))
}

// === impl Plain ===

impl<B> Body for Plain<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(Into::into)?;
            Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

// === impl ReplayBody ===

impl ReplayBody {
    /// Whether all that is left of it is at hand, and reading it never waits.
    pub fn is_whole(&self) -> bool {
        matches!(self.0, Kind::Empty | Kind::Whole { .. })
    }
}

impl Body for ReplayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Whole { data, .. } => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Kind::Shared(cursor) => cursor.poll_frame(cx),
            Kind::Through(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(user_error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Whole { data, .. } => data.is_none(),
            Kind::Shared(cursor) => cursor.has_ended(),
            Kind::Through(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Whole { data, sized: true } => SizeHint::with_exact(data.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Whole { .. } => SizeHint::default(),
            Kind::Shared(cursor) => cursor.size_hint(),
            Kind::Through(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for ReplayBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::Empty => "ReplayBody(empty)",
            Kind::Whole { .. } => "ReplayBody(whole)",
            Kind::Shared(_) => "ReplayBody(shared)",
            Kind::Through(_) => "ReplayBody(through)",
        })
    }
}
