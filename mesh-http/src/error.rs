//! The one error that a caller of the mesh sees.

use std::{error::Error as StdError, fmt};

use http::StatusCode;
use mesh_core::{
    config::ConfigError,
    outcome::{BoxError, Failed, Failure, FailureKind, Flags, Sent, find_cause},
};

/// Why a request got no response, or something could not be built.
///
/// What happened is asked by predicates; wording and causes may change. [`flags`](Self::flags) speaks Envoy's vocabulary,
/// and [`sent`](Self::sent) says whether the peer may have seen the request, which is what makes repeating it safe.
///
/// # Examples
///
/// ```
/// # fn example(error: mesh_http::Error) {
/// if error.is_overloaded() {
///     // Refused here, at once; come back later.
/// } else if error.is_timeout() && error.sent() == mesh_core::outcome::Sent::No {
///     // Safe to repeat, whatever the method.
/// }
/// # }
/// ```
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    failure: Failure,
    /// What a route says instead of the usual status.
    status: Option<StatusCode>,
    source: Option<BoxError>,
}

impl Error {
    pub(crate) fn new(kind: FailureKind, source: impl Into<BoxError>) -> Self {
        let inner = Inner { failure: Failure::new(kind, Sent::No), status: None, source: Some(source.into()) };
        Self { inner: Box::new(inner) }
    }

    /// An error of the layers and rooms below, whose failure is found in its chain.
    pub(crate) fn from_below(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => *error,
            Err(error) => {
                Self { inner: Box::new(Inner { failure: Failure::of(&*error), status: None, source: Some(error) }) }
            }
        }
    }

    /// The same, with further flags.
    pub(crate) fn flagged(mut self, flags: Flags) -> Self {
        self.inner.failure = self.inner.failure.with_flags(flags);
        self
    }

    /// The same, which stands for another status.
    pub(crate) fn answering(mut self, status: StatusCode) -> Self {
        self.inner.status = Some(status);
        self
    }

    /// What failed, and what that says of the request.
    pub(crate) fn failure(&self) -> Failure {
        self.inner.failure
    }

    /// Envoy's response flags, such as `UF,URX`.
    pub fn flags(&self) -> Flags {
        self.inner.failure.flags
    }

    /// Whether the request left this process.
    pub fn sent(&self) -> Sent {
        self.inner.failure.sent
    }

    /// What happened.
    pub fn kind(&self) -> FailureKind {
        self.inner.failure.kind
    }

    /// Whether a time limit passed: the request's, an attempt's, an idle one.
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind(), FailureKind::Timeout | FailureKind::PerTryTimeout | FailureKind::Idle)
    }

    /// Whether no connection could be had, TLS included.
    pub fn is_connect(&self) -> bool {
        self.is_tls() || matches!(self.kind(), FailureKind::Connect | FailureKind::ConnectTimeout)
    }

    /// Whether TLS was refused, by this side or the other, or there was no identity for it.
    pub fn is_tls(&self) -> bool {
        matches!(self.kind(), FailureKind::Tls | FailureKind::Identity)
    }

    /// Whether the request was refused at once to spare the service: a circuit breaker is open, or its source sheds load.
    pub fn is_overloaded(&self) -> bool {
        matches!(self.kind(), FailureKind::Overflow | FailureKind::Dropped)
    }

    /// Whether no endpoint was there, or fit.
    pub fn is_no_endpoint(&self) -> bool {
        self.kind() == FailureKind::NoEndpoint
    }

    /// Whether nothing says where the request should go: no configuration, route or cluster.
    pub fn is_unrouted(&self) -> bool {
        matches!(self.kind(), FailureKind::NoConfig | FailureKind::NoRoute | FailureKind::NoCluster)
    }

    /// Whether the connection or stream broke while the request was on its way.
    pub fn is_reset(&self) -> bool {
        matches!(
            self.kind(),
            FailureKind::Disconnected
                | FailureKind::Severed
                | FailureKind::Reset
                | FailureKind::Refused
                | FailureKind::Protocol
        )
    }

    /// Whether a builder refused a value; the source is a [`ConfigError`].
    pub fn is_config(&self) -> bool {
        self.config_error().is_some()
    }

    /// What a builder refused.
    pub fn config_error(&self) -> Option<&ConfigError> {
        find_cause(self)
    }

    /// The status that Envoy would have answered with: 404 for no route, 504 for a timeout, 502 for a broken protocol, 400 for
    /// a request that cannot be sent, else 503.
    pub fn status(&self) -> StatusCode {
        if let Some(status) = self.inner.status {
            return status;
        }
        match self.kind() {
            FailureKind::NoRoute => StatusCode::NOT_FOUND,
            FailureKind::Timeout | FailureKind::PerTryTimeout => StatusCode::GATEWAY_TIMEOUT,
            FailureKind::Idle => StatusCode::REQUEST_TIMEOUT,
            FailureKind::Protocol => StatusCode::BAD_GATEWAY,
            FailureKind::Request => StatusCode::BAD_REQUEST,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What happened, and all that led to it: the texts of this error and of its sources, in one line.
    pub fn reason(&self) -> String {
        let mut reason = self.to_string();
        let mut next = self.source();
        while let Some(error) = next {
            reason.push_str(": ");
            reason.push_str(&error.to_string());
            next = error.source();
        }
        reason
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only what is this level's own: the flags. The sources say what happened, each in words of its own.
        match (self.config_error(), self.flags()) {
            (Some(_), _) => f.write_str("configuration refused"),
            (None, flags) if flags.is_empty() => f.write_str("request failed"),
            (None, flags) => write!(f, "request failed [{flags}]"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind())
            .field("sent", &self.sent())
            .field("flags", &self.flags())
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::new(FailureKind::NoConfig, error)
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        Self::from_below(Box::new(failed))
    }
}
