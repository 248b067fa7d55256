//! The body of a response, with all that waits for its end.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use mesh_core::{
    balance::Picked,
    deadline::TimedBody,
    endpoint::EndpointId,
    hold::{ByBody, ByClassifier, Watched},
    outcome::Classify,
};

use crate::{
    Error,
    cluster::{EndpointBody, Handle},
    protocol::{Http, Protocol},
    telemetry::CallRecord,
};

/// The body of a response.
///
/// The request is under way until its body has ended: circuit breakers, balancing and time limits count it until then.
/// Dropping the body early is a normal ending; the stream is reset, or the connection closed.
pub struct Body<P: Protocol = Http> {
    kind: Kind<P>,
}

enum Kind<P: Protocol> {
    /// Boxed: it is half a kilobyte, and responses are moved about.
    Upstream(Pin<Box<CallBody<P>>>),
    Local(Option<Bytes>),
}

/// A response of an endpoint, with all that waits for its end: the endpoint's guard, which counts against the breaker too,
/// the time limits, the record of the call.
pub(crate) type CallBody<P> = Watched<TimedBody<AttemptBody<P>>, ByBody, CallRecord>;

/// The part of it that belongs to one attempt.
pub(crate) type AttemptBody<P> =
    Watched<EndpointBody, ByClassifier<<<P as Protocol>::Classifier as Classify>::End>, Picked<Handle>>;

/// The endpoint that an attempt was answered by.
pub(crate) fn endpoint_of<P: Protocol>(body: &AttemptBody<P>) -> Option<EndpointId> {
    Some(body.get_ref().endpoint())
}

// === impl Body ===

impl<P: Protocol> Body<P> {
    /// No body.
    pub const fn empty() -> Self {
        Self { kind: Kind::Local(None) }
    }

    pub(crate) fn upstream(body: CallBody<P>) -> Self {
        Self { kind: Kind::Upstream(Box::pin(body)) }
    }
}

impl<P: Protocol, T: Into<Bytes>> From<T> for Body<P> {
    fn from(data: T) -> Self {
        let data = data.into();
        Self { kind: Kind::Local((!data.is_empty()).then_some(data)) }
    }
}

impl<P: Protocol> HttpBody for Body<P> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.get_mut().kind {
            Kind::Local(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Kind::Upstream(body) => {
                let frame = ready!(body.as_mut().poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from_below)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Local(data) => data.is_none(),
            Kind::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Local(data) => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
            Kind::Upstream(body) => body.size_hint(),
        }
    }
}

impl<P: Protocol> fmt::Debug for Body<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("size_hint", &self.size_hint()).finish_non_exhaustive()
    }
}
