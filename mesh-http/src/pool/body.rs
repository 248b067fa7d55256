//! A response body that occupies its connection until it has ended.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use mesh_core::outcome::{Failed, Failure, FailureKind, Sent};

use super::{connection::Occupied, error};
use crate::conn;

/// The body of a response from a pool.
///
/// Its connection, or its stream, goes back to the pool when it has been read to its end; at once, where there is no body.
/// Dropping it earlier resets the stream, or closes an HTTP/1 connection. Errors are a [`Failed`]; as the response had
/// begun, [`Sent::Yes`].
#[derive(Debug)]
pub struct PoolBody {
    /// Taken when the body has ended or broken. That it is gone is also how the end is known: asking hyper takes a lock of
    /// the connection's, and everything that watches a body asks.
    open: Option<Open>,
}

/// Dropped in this order: once the stream is let go of, an upload that ends with it is the last to hold it.
#[derive(Debug)]
struct Open {
    incoming: Incoming,
    occupied: Occupied,
}

/// A stream was reset with NO_ERROR before its response was whole.
#[derive(Debug)]
struct CutShort;

// === impl PoolBody ===

impl PoolBody {
    pub(super) fn new(incoming: Incoming, occupied: Occupied) -> Self {
        let mut body = Self { open: Some(Open { incoming, occupied }) };
        if body.open.as_ref().is_some_and(|open| open.incoming.is_end_stream()) {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some(Open { incoming, occupied }) = self.open.take() {
            drop(incoming);
            occupied.finish();
        }
    }
}

impl Body for PoolBody {
    type Data = Bytes;
    type Error = Failed;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        let Some(open) = &mut self.open else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut open.incoming).poll_frame(cx));
        match &frame {
            Some(Ok(_)) if !open.incoming.is_end_stream() => {}
            None if open.is_cut_short() => {
                self.open = None;
                return Poll::Ready(Some(Err(Failed::because(Failure::new(FailureKind::Reset, Sent::Yes), CutShort))));
            }
            Some(Ok(_)) | None => self.finish(),
            Some(Err(_)) => self.open = None,
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| error::failed(conn::Error::from_body(error), Sent::Yes))))
    }

    fn is_end_stream(&self) -> bool {
        self.open.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.open.as_ref().map_or_else(|| SizeHint::with_exact(0), |open| open.incoming.size_hint())
    }
}

// === impl Open ===

impl Open {
    /// Whether a body that gives nothing more is not whole: hyper takes a reset with NO_ERROR for its end. Such a reset may
    /// follow a whole response (RFC 9113, 8.1), but then END_STREAM has come before.
    fn is_cut_short(&self) -> bool {
        self.occupied.is_stream() && !self.incoming.is_end_stream()
    }
}

// === impl CutShort ===

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("peer reset the stream with NO_ERROR before the response was whole")
    }
}

impl StdError for CutShort {}
