//! The body of gRPC responses: mesh-http's, whose errors are statuses.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project::pin_project;
use tonic::Status;

use crate::{status::status_of, wire::Grpc};

/// The body of a gRPC response. The call is under way until it has ended, trailers included.
#[pin_project]
pub struct Body {
    #[pin]
    inner: mesh_http::Body<Grpc>,
}

impl Body {
    pub(crate) fn new(inner: mesh_http::Body<Grpc>) -> Self {
        Self { inner }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(self.project().inner.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(status_of)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
