//! How a request fails at a pool, in the words that retries, ejection and metrics read.

use std::{error::Error as StdError, fmt, io, sync::Arc, time::Duration};

use mesh_core::outcome::{Failed, Failure, FailureKind, Sent};

use crate::{
    conn::{self, ErrorKind},
    tls::TlsError,
};

/// Why there is no connection; told to everyone who waited for it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// No stream of bytes could be opened.
    Io(Arc<io::Error>),
    /// TLS failed.
    Tls(TlsError),
    /// The peer chose a protocol by ALPN that the configuration does not allow.
    Alpn(Box<str>),
    /// The peer does not speak HTTP/2, or hung up before it said a word.
    Http(Arc<conn::Error>),
    /// It was not ready within this time.
    Elapsed(Duration),
    /// The task that opened it was ended.
    Cancelled,
}

// === impl ConnectError ===

impl ConnectError {
    /// Nothing of a request has left when there is no connection.
    pub(super) fn failed(&self) -> Failed {
        let kind = match self {
            Self::Io(_) | Self::Http(_) => FailureKind::Connect,
            Self::Tls(TlsError::Identity(_)) => FailureKind::Identity,
            Self::Tls(_) | Self::Alpn(_) => FailureKind::Tls,
            Self::Elapsed(_) => FailureKind::ConnectTimeout,
            Self::Cancelled => FailureKind::Shutdown,
        };
        Failed::because(Failure::new(kind, Sent::No), self.clone())
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(_) => f.write_str("no stream to the endpoint"),
            Self::Tls(_) => f.write_str("no TLS with the endpoint"),
            Self::Alpn(protocol) => {
                write!(f, "the endpoint chose `{protocol}`, which the cluster's protocol does not allow")
            }
            Self::Http(_) => f.write_str("the endpoint does not begin HTTP/2"),
            Self::Elapsed(limit) => write!(f, "connection not ready within {limit:?}"),
            Self::Cancelled => f.write_str("connecting was given up on this side"),
        }
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Io(error) => Some(&**error),
            Self::Tls(error) => Some(error),
            Self::Http(error) => Some(&**error),
            Self::Alpn(_) | Self::Elapsed(_) | Self::Cancelled => None,
        }
    }
}

/// A fault of the request itself; the endpoint has no part in it.
pub(super) fn unsendable(source: impl Into<mesh_core::outcome::BoxError>) -> Failed {
    Failed::because(Failure::new(FailureKind::Request, Sent::No), source)
}

/// The end of a call whose connection TLS has ended.
pub(super) fn tls_failed(error: &TlsError, sent: Sent) -> Failed {
    Failed::because(Failure::new(FailureKind::Tls, sent), error.clone())
}

/// What a connection says of a call that was not its first.
pub(super) fn severed(error: conn::Error, sent: Sent) -> Failed {
    let kind = match kind_of(&error) {
        FailureKind::Disconnected => FailureKind::Severed,
        other => other,
    };
    Failed::because(Failure::new(kind, sent), error)
}

/// What a connection says of a call, or of a response body.
pub(super) fn failed(error: conn::Error, sent: Sent) -> Failed {
    Failed::because(Failure::new(kind_of(&error), sent), error)
}

fn kind_of(error: &conn::Error) -> FailureKind {
    match error.kind() {
        ErrorKind::Closed | ErrorKind::Lost | ErrorKind::Silent => FailureKind::Disconnected,
        ErrorKind::Refused => FailureKind::Refused,
        ErrorKind::Reset => FailureKind::Reset,
        ErrorKind::Protocol => FailureKind::Protocol,
        ErrorKind::Request => FailureKind::RequestBody,
    }
}
