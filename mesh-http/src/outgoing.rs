//! The body of a request on its way out.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use mesh_core::{outcome::BoxError, retry::ReplayBody};

/// The one type of request body that connections carry.
///
/// A request is moved a dozen times between here and hyper's connection, and is in most results on the way back, for the case
/// that it was not sent. So this is small: most bodies are empty, and the others have a box.
pub(crate) struct Outgoing(Option<Box<ReplayBody>>);

impl From<ReplayBody> for Outgoing {
    fn from(body: ReplayBody) -> Self {
        Self((!body.is_end_stream()).then(|| Box::new(body)))
    }
}

impl Outgoing {
    /// Whether all that is left of it is at hand.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_whole())
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Some(body) => Pin::new(&mut **body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |body| body.size_hint())
    }
}
