//! Why a request got no whole response, as a value that every error of the mesh can be asked for.

use std::{error::Error as StdError, fmt};

use super::{BoxError, Class, Flags, Sent, find_cause};

/// Why there was no (whole) response, whether the request was sent, and Envoy's response flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub kind: FailureKind,
    /// Whether the peer may have seen the request, which is what makes a repetition safe or not.
    pub sent: Sent,
    /// In Envoy's vocabulary.
    pub flags: Flags,
}

/// What happened to a request that got no (whole) response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// No configuration for the target yet, or none that is valid.
    NoConfig,
    /// No route takes it.
    NoRoute,
    /// The route's cluster does not exist.
    NoCluster,
    /// No endpoint is there, or none is fit.
    NoEndpoint,
    /// A circuit breaker is open.
    Overflow,
    /// The source of the endpoints sheds load, and chance took this request.
    Dropped,
    /// No connection could be made.
    Connect,
    /// No connection was made in time.
    ConnectTimeout,
    /// TLS was not to be had, on either side's terms.
    Tls,
    /// There is no identity on this side, or no trust, to shake hands with.
    Identity,
    /// The connection ended.
    Disconnected,
    /// The connection ended, and had served other requests before: it was closed for its age or with its peer, whatever this
    /// request asked.
    Severed,
    /// The peer reset the stream.
    Reset,
    /// The peer refused the stream unprocessed.
    Refused,
    /// What the peer sent is not HTTP.
    Protocol,
    /// The request's time was up.
    Timeout,
    /// The attempt's time was up.
    PerTryTimeout,
    /// Nothing moved for too long.
    Idle,
    /// The request is none that can be sent, as its caller made it or as its route changed it.
    Request,
    /// The request's own body failed.
    RequestBody,
    /// A fault was injected.
    Fault,
    /// The mesh is shutting down.
    Shutdown,
    /// Something else; the error says what.
    Other,
}

/// An error with its [`Failure`], as every layer and transport raises it; the cause is its source.
#[derive(Debug)]
pub struct Failed {
    failure: Failure,
    /// Those of its flags that the source knows nothing of; empty where the kind is what this level has to say.
    noted: Flags,
    source: Option<BoxError>,
}

// === impl Failure ===

impl Failure {
    /// A failure with the flag that Envoy gives its kind.
    pub const fn new(kind: FailureKind, sent: Sent) -> Self {
        Self { kind, sent, flags: kind.flag() }
    }

    /// What the first [`Failed`] in the chain of an error stands for; `Other`, perhaps sent, where there is none.
    pub fn of(error: &(dyn StdError + 'static)) -> Self {
        find_cause(error).map_or(Self::new(FailureKind::Other, Sent::Maybe), Failed::failure)
    }

    /// The same, with further flags.
    #[must_use]
    pub fn with_flags(mut self, flags: Flags) -> Self {
        self.flags = self.flags | flags;
        self
    }

    /// The class that it counts as.
    pub const fn class(&self) -> Class {
        use FailureKind as K;
        match self.kind {
            K::NoConfig | K::NoRoute | K::NoCluster | K::NoEndpoint | K::Overflow => Class::Local,
            K::Dropped | K::Request | K::RequestBody | K::Fault | K::Shutdown => Class::Local,
            K::Identity => Class::Local,
            // An overall deadline that passes says nothing of who was slow unless the request was on its way.
            K::Timeout if matches!(self.sent, Sent::No) => Class::Local,
            _ => Class::GatewayError,
        }
    }
}

// === impl FailureKind ===

impl FailureKind {
    /// The flag that Envoy gives it.
    pub const fn flag(self) -> Flags {
        match self {
            Self::NoConfig | Self::NoRoute => Flags::NR,
            Self::NoCluster => Flags::NC,
            Self::NoEndpoint => Flags::UH,
            Self::Overflow => Flags::UO,
            Self::Dropped => Flags::DO,
            Self::Connect | Self::ConnectTimeout | Self::Tls | Self::Identity => Flags::UF,
            Self::Disconnected | Self::Severed => Flags::UC,
            Self::Reset | Self::Refused => Flags::UR,
            Self::Protocol => Flags::UPE,
            Self::Timeout | Self::PerTryTimeout => Flags::UT,
            Self::Idle => Flags::SI,
            Self::Fault => Flags::FI,
            Self::Shutdown => Flags::LR,
            Self::Request => Flags::DPE,
            Self::RequestBody => Flags::DC,
            Self::Other => Flags::NONE,
        }
    }

    /// What it is, in a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoConfig => "no configuration",
            Self::NoRoute => "no route",
            Self::NoCluster => "no such cluster",
            Self::NoEndpoint => "no healthy upstream",
            Self::Overflow => "overflow",
            Self::Dropped => "drop overload",
            Self::Connect => "connection failure",
            Self::ConnectTimeout => "connection timeout",
            Self::Tls => "tls failure",
            Self::Identity => "no identity",
            Self::Disconnected => "connection termination",
            Self::Severed => "termination of a connection in use",
            Self::Reset => "remote reset",
            Self::Refused => "remote refused stream",
            Self::Protocol => "protocol error",
            Self::Timeout => "request timeout",
            Self::PerTryTimeout => "per-try timeout",
            Self::Idle => "stream idle",
            Self::Request => "request that cannot be sent",
            Self::RequestBody => "request body failure",
            Self::Fault => "fault injected",
            Self::Shutdown => "shutting down",
            Self::Other => "other failure",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Failed ===

impl Failed {
    /// A failure whose cause is not known further.
    pub const fn new(failure: Failure) -> Self {
        Self { failure, noted: Flags::NONE, source: None }
    }

    /// A failure and its cause.
    pub fn because(failure: Failure, source: impl Into<BoxError>) -> Self {
        Self { failure, noted: Flags::NONE, source: Some(source.into()) }
    }

    /// The failure that `source` stands for, with `flags` that say why nothing more was tried.
    pub(crate) fn noting(flags: Flags, source: BoxError) -> Self {
        Self { failure: Failure::of(&*source).with_flags(flags), noted: flags, source: Some(source) }
    }

    /// What it stands for.
    pub fn failure(&self) -> Failure {
        self.failure
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.noted {
            Flags::URX => "no retry is left",
            Flags::UO => "no retry budget is left",
            _ => self.failure.kind.as_str(),
        })
    }
}

impl StdError for Failed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_is_found_anywhere_in_the_chain() {
        let inner = Failed::new(Failure::new(FailureKind::Refused, Sent::No));
        let outer = Failed::because(Failure::new(FailureKind::Other, Sent::Maybe), inner);
        assert_eq!(Failure::of(&outer).kind, FailureKind::Other);
        let foreign = Foreign(Failed::new(Failure::new(FailureKind::Refused, Sent::No)));
        assert_eq!(Failure::of(&foreign).kind, FailureKind::Refused);
        assert_eq!(Failure::of(&std::io::Error::other("x")), Failure::new(FailureKind::Other, Sent::Maybe));
    }

    #[derive(Debug)]
    struct Foreign(Failed);

    impl fmt::Display for Foreign {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("somebody else's error")
        }
    }

    impl StdError for Foreign {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn local_refusals_are_not_held_against_an_endpoint() {
        use FailureKind as K;
        for kind in [K::Overflow, K::NoEndpoint, K::Fault, K::NoConfig, K::Identity] {
            assert!(!Failure::new(kind, Sent::No).class().is_failure(), "{kind}");
        }
        assert!(Failure::new(FailureKind::PerTryTimeout, Sent::Yes).class().is_failure());
    }
}
