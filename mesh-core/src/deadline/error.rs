//! The one way in which a time limit fails a request: it passed.

use std::{error::Error as StdError, fmt, time::Duration};

use crate::outcome::{Failed, Failure, FailureKind, Flags, Sent};

/// Time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed {
    bound: Bound,
    limit: Duration,
    sent: Sent,
}

/// Which limit passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bound {
    /// That of the whole request (`RouteAction.timeout`, or the caller's own deadline).
    Request,
    /// That of one attempt, to its response head (`RetryPolicy.per_try_timeout`).
    PerTry,
    /// That of silence within one attempt (`RetryPolicy.per_try_idle_timeout`).
    PerTryIdle,
    /// That of silence on the whole stream (`RouteAction.idle_timeout`).
    Idle,
    /// That of the stream (`RouteAction.max_stream_duration`).
    StreamDuration,
}

// === impl Elapsed ===

impl Elapsed {
    pub(crate) const fn new(bound: Bound, limit: Duration, sent: Sent) -> Self {
        Self { bound, limit, sent }
    }

    /// Which limit passed.
    pub const fn bound(&self) -> Bound {
        self.bound
    }

    /// How long the limit was.
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// What it stands for: flag UT, SI for a silent stream and DT for one that lasted too long.
    pub const fn failure(&self) -> Failure {
        let kind = match self.bound {
            Bound::Request | Bound::StreamDuration => FailureKind::Timeout,
            Bound::PerTry | Bound::PerTryIdle => FailureKind::PerTryTimeout,
            Bound::Idle => FailureKind::Idle,
        };
        let flags = match self.bound {
            Bound::StreamDuration => Flags::DT,
            _ => kind.flag(),
        };
        Failure { kind, sent: self.sent, flags }
    }
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit of {:?} on {} passed", self.limit, self.bound)
    }
}

impl StdError for Elapsed {}

impl From<Elapsed> for Failed {
    fn from(elapsed: Elapsed) -> Self {
        Self::because(elapsed.failure(), elapsed)
    }
}

// === impl Bound ===

impl Bound {
    /// Whether it counts from when something last moved.
    pub(crate) const fn is_silence(self) -> bool {
        matches!(self, Self::Idle | Self::PerTryIdle)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "the whole request",
            Self::PerTry => "an attempt",
            Self::PerTryIdle => "silence within an attempt",
            Self::Idle => "silence",
            Self::StreamDuration => "the length of the stream",
        })
    }
}
