//! How a connection, or one call on it, comes to a bad end.

use std::error::Error as StdError;
use std::fmt;

use http::Request;
use mesh_core::outcome::{Sent, find_cause};

/// What hyper asks the error of a request body to be convertible to.
pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// What went wrong, and hyper's account of it as [`source`](StdError::source).
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    source: hyper::Error,
}

/// The kinds of failure that call for different reactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The connection took no more requests. The request comes back with the error.
    Closed,
    /// The peer says that it did not process the request: REFUSED_STREAM, or GOAWAY with a lower stream id (RFC 9113,
    /// 8.7).
    Refused,
    /// The socket failed or was closed, or the driver was dropped.
    Lost,
    /// The peer did not answer a keep-alive ping.
    Silent,
    /// The peer reset the stream; [`Error::code`] says why.
    Reset,
    /// The peer broke the protocol, or does not speak it.
    Protocol,
    /// The request cannot be sent as it is, or its body failed.
    Request,
}

/// A call that failed, with the request where it is certain that none of it was written.
pub struct SendError<B> {
    error: Error,
    sent: Sent,
    /// Boxed, to keep what every call returns small.
    request: Option<Box<Request<B>>>,
}

// === impl Error ===

impl Error {
    /// Reads an error of a response body.
    #[must_use]
    pub fn from_body(source: hyper::Error) -> Self {
        Self::classify(source, false)
    }

    /// Reads an error of hyper's. `abandoned` says that the connection was given up under the call, which hyper reports
    /// in the same way as a fault in the request.
    pub(super) fn classify(source: hyper::Error, abandoned: bool) -> Self {
        let kind = match find_cause(&source) {
            Some(error) => of_h2(error),
            None if source.is_timeout() => ErrorKind::Silent,
            None if source.is_parse() || is_malformed(&source) => ErrorKind::Protocol,
            None if source.is_user() && !abandoned => ErrorKind::Request,
            None => ErrorKind::Lost,
        };
        Self { kind, source }
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The HTTP/2 error code (RFC 9113, 7) in the frame that ended the stream or the connection, whoever sent it.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        find_cause::<::h2::Error>(&self.source)?.reason().map(u32::from)
    }

    fn is_go_away(&self) -> bool {
        find_cause(&self.source).is_some_and(::h2::Error::is_go_away)
    }

    fn sent(&self) -> Sent {
        match self.kind {
            ErrorKind::Closed | ErrorKind::Refused => Sent::No,
            ErrorKind::Reset => Sent::Yes,
            ErrorKind::Lost | ErrorKind::Silent | ErrorKind::Protocol | ErrorKind::Request => Sent::Maybe,
        }
    }
}

/// Whether a body was not what it must be. hyper's decoder of chunks says so by an I/O error, as it does of a lost socket.
fn is_malformed(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause
        .is_some_and(|cause| matches!(cause.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData))
}

/// h2 names a GOAWAY as the cause only for streams above its last stream id; the others end with the socket, as I/O
/// errors.
fn of_h2(error: &::h2::Error) -> ErrorKind {
    if error.is_io() {
        ErrorKind::Lost
    } else if error.is_library() {
        ErrorKind::Protocol
    } else if !error.is_remote() {
        ErrorKind::Request
    } else if error.is_go_away() || error.reason() == Some(::h2::Reason::REFUSED_STREAM) {
        ErrorKind::Refused
    } else {
        ErrorKind::Reset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ErrorKind::Closed => "connection takes no more requests",
            ErrorKind::Refused => "peer refused the request unprocessed",
            ErrorKind::Lost => "connection lost",
            ErrorKind::Silent => "peer did not answer a keep-alive ping",
            ErrorKind::Reset => "peer reset the stream",
            ErrorKind::Protocol => "peer broke the protocol",
            ErrorKind::Request => "request or its body cannot be sent",
        })
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

// === impl SendError ===

impl<B> SendError<B> {
    /// See [`Error::classify`] for `abandoned`.
    pub(super) fn new(mut failed: hyper::client::conn::TrySendError<Request<B>>, abandoned: bool) -> Self {
        let request = failed.take_message().map(Box::new);
        let mut error = Error::classify(failed.into_error(), abandoned);
        if request.is_some() {
            error.kind = ErrorKind::Closed;
        }
        Self { sent: error.sent(), error, request }
    }

    /// The same, of a request with the body that `unwrap` makes of this one.
    pub(super) fn map_body<T>(self, unwrap: impl FnOnce(B) -> T) -> SendError<T> {
        let request = self.request.map(|request| Box::new(request.map(unwrap)));
        SendError { error: self.error, sent: self.sent, request }
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.error.kind
    }

    /// What the peer may have seen of the request.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// Whether new requests would fare no better.
    pub(super) fn is_about_connection(&self) -> bool {
        self.kind() == ErrorKind::Closed || self.error.is_go_away()
    }

    /// The request, if none of it was written. It is there once.
    pub fn take_request(&mut self) -> Option<Request<B>> {
        self.request.take().map(|request| *request)
    }

    /// The error without the request.
    #[must_use]
    pub fn into_error(self) -> Error {
        self.error
    }
}

impl<B> fmt::Debug for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("error", &self.error)
            .field("sent", &self.sent)
            .field("has_request", &self.request.is_some())
            .finish()
    }
}

impl<B> fmt::Display for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("call failed on its connection")
    }
}

impl<B> StdError for SendError<B> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.error)
    }
}
