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
    incoming: Incoming,
    /// Taken when the body has ended or broken. That it is gone is also how the end is known: asking hyper takes a lock of
    /// the connection's, and everything that watches a body asks.
    occupied: Option<Occupied>,
}

/// A stream was reset with NO_ERROR before its response was whole.
#[derive(Debug)]
struct CutShort;

// === impl PoolBody ===

impl PoolBody {
    pub(super) fn new(incoming: Incoming, occupied: Occupied) -> Self {
        let mut body = Self { incoming, occupied: Some(occupied) };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some(occupied) = self.occupied.take() {
            occupied.finish();
        }
    }

    /// Whether the stream was reset before its end, with NO_ERROR, which hyper takes for the end: it may follow a whole
    /// response (RFC 9113, 8.1), and then END_STREAM has come before.
    fn is_cut_short(&self) -> bool {
        self.occupied.as_ref().is_some_and(Occupied::is_stream) && !self.incoming.is_end_stream()
    }
}

impl Body for PoolBody {
    type Data = Bytes;
    type Error = Failed;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match &frame {
            Some(Ok(_)) if !self.incoming.is_end_stream() => {}
            None if self.is_cut_short() => {
                self.occupied = None;
                return Poll::Ready(Some(Err(Failed::because(Failure::new(FailureKind::Reset, Sent::Yes), CutShort))));
            }
            Some(Ok(_)) | None => self.finish(),
            Some(Err(_)) => self.occupied = None,
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| error::failed(conn::Error::from_body(error), Sent::Yes))))
    }

    fn is_end_stream(&self) -> bool {
        self.occupied.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

// === impl CutShort ===

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("peer reset the stream with NO_ERROR before the response was whole")
    }
}

impl StdError for CutShort {}
