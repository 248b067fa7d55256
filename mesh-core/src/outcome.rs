//! What became of a request: one outcome per response, read by retries, breakers, balancing, ejection and metrics alike.
//!
//! A classifier ([`Classify`]) speaks twice. At the head of a response it says what is certain already; at the end, which
//! is the trailers, an error or a drop, the [`Outcome`] is complete. A refusal made on this side (breaker open, no
//! endpoint, deadline passed before sending) is a [`Failure`] whose kind says so, and is never held against an endpoint.

use std::{error::Error as StdError, fmt, ops::BitOr};

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use crate::{cluster::Dropped, deadline::Elapsed, limit::Overloaded, pick::NoEndpoint};

/// A boxed error, as tower has it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// How good an answer was, from the caller's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The server did what it should, even if it refused the request for the client's own fault (4xx, NOT_FOUND, ...).
    Success,
    /// The server failed: 5xx, or a gRPC status that means so.
    ServerError,
    /// The server could not do it now: 502, 503, 504, UNAVAILABLE, a reset, a failure to connect.
    GatewayError,
    /// The caller lost interest before there was an answer; nobody's fault.
    Cancelled,
    /// Refused on this side; the endpoint had no part in it.
    Local,
}

/// What became of one request.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// How good it was.
    pub class: Class,
    /// The HTTP status, where there was a response.
    pub status: Option<StatusCode>,
    /// The gRPC status, where there was one.
    pub grpc_status: Option<u32>,
    /// What failed, where there was no whole response.
    pub failure: Option<Failure>,
    /// When it ended: the one clock reading at the end of a request.
    pub at: Instant,
}

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

/// Whether a request left this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sent {
    /// The peer has not processed it: repeating it is safe.
    No,
    /// It may have been processed.
    Maybe,
    /// It was sent whole, or answered in part.
    Yes,
}

/// Envoy's response flags, as a set; prints as `UF,URX`, or `-` when empty.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

/// Says what a response means, at its head and at its end.
pub trait Classify: Clone + Send + Sync + 'static {
    /// What is remembered of the head until the end.
    type End: ClassifyEnd;

    /// Looks at the head of a response.
    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Head<Self::End>;
}

/// Says what the end of a response means.
pub trait ClassifyEnd: Send + 'static {
    /// The response is whole; `trailers` are its trailers, if it had any.
    fn end(&self, status: StatusCode, trailers: Option<&HeaderMap>) -> Judgement;
}

/// What the head of a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head<E> {
    /// Everything: only a broken body can change it.
    Final(Judgement),
    /// Not enough; the end decides.
    AtEnd(E),
}

/// A classifier's verdict on a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// How good it was.
    pub class: Class,
    /// The gRPC status, where there is one.
    pub grpc_status: Option<u32>,
}

/// Classifies HTTP responses by their status.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpClassifier;

/// Never waits for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {}

/// An error with its [`Failure`], as transports raise it; the cause is its source.
#[derive(Debug)]
pub struct Failed {
    failure: Failure,
    /// Those of its flags that the source knows nothing of; empty where the kind is what this level has to say.
    noted: Flags,
    source: Option<BoxError>,
}

// === impl Class ===

impl Class {
    /// Whether an endpoint is to blame.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::ServerError | Self::GatewayError)
    }

    /// The class of an HTTP status.
    pub fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            502..=504 => Self::GatewayError,
            500.. => Self::ServerError,
            _ => Self::Success,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// A response of `status` that was judged.
    pub const fn responded(status: StatusCode, judgement: Judgement, at: Instant) -> Self {
        let Judgement { class, grpc_status } = judgement;
        Self { class, status: Some(status), grpc_status, failure: None, at }
    }

    /// No whole response.
    pub const fn failed(failure: Failure, at: Instant) -> Self {
        Self { class: failure.class(), status: None, grpc_status: None, failure: Some(failure), at }
    }

    /// The caller went away.
    pub const fn cancelled(at: Instant) -> Self {
        Self { class: Class::Cancelled, status: None, grpc_status: None, failure: None, at }
    }
}

// === impl Failure ===

impl Failure {
    /// A failure with the flag that Envoy gives its kind.
    pub const fn new(kind: FailureKind, sent: Sent) -> Self {
        Self { kind, sent, flags: kind.flag() }
    }

    /// The failure that an error, or anything in its chain of sources, stands for; `Other`, perhaps sent, when none does.
    pub fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(failure) = Self::exactly(error) {
                return failure;
            }
            next = error.source();
        }
        Self::new(FailureKind::Other, Sent::Maybe)
    }

    fn exactly(error: &(dyn StdError + 'static)) -> Option<Self> {
        if let Some(failed) = error.downcast_ref::<Failed>() {
            return Some(failed.failure);
        }
        if let Some(elapsed) = error.downcast_ref::<Elapsed>() {
            return Some(elapsed.failure());
        }
        if let Some(overloaded) = error.downcast_ref::<Overloaded>() {
            return Some(overloaded.failure());
        }
        if let Some(dropped) = error.downcast_ref::<Dropped>() {
            return Some(dropped.failure());
        }
        error.downcast_ref::<NoEndpoint>().map(NoEndpoint::failure)
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
            Self::Connect | Self::ConnectTimeout | Self::Tls => Flags::UF,
            Self::Disconnected | Self::Severed => Flags::UC,
            Self::Reset | Self::Refused => Flags::UR,
            Self::Protocol => Flags::UPE,
            Self::Timeout | Self::PerTryTimeout => Flags::UT,
            Self::Idle => Flags::SI,
            Self::Fault => Flags::FI,
            Self::Shutdown => Flags::LR,
            Self::Request => Flags::DPE,
            Self::RequestBody => Flags::DC,
            Self::Other => Flags(0),
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

// === impl Flags ===

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal,)*) => {
        impl Flags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*

            const NAMES: &'static [(&'static str, Self)] = &[$((stringify!($name), Self::$name),)*];
        }
    };
}

flags! {
    /// No healthy endpoint.
    UH = 0,
    /// The request's time was up.
    UT = 1,
    /// Ended on this side.
    LR = 2,
    /// Reset by the peer.
    UR = 3,
    /// No connection could be made.
    UF = 4,
    /// The connection ended.
    UC = 5,
    /// A circuit breaker was open.
    UO = 6,
    /// The retries, or the time for them, were used up.
    URX = 7,
    /// No route.
    NR = 8,
    /// No such cluster.
    NC = 9,
    /// A delay was injected.
    DI = 10,
    /// An abort was injected.
    FI = 11,
    /// Rate limited.
    RL = 12,
    /// Nothing moved for too long.
    SI = 13,
    /// The peer broke the protocol.
    UPE = 14,
    /// The stream lasted too long.
    DT = 15,
    /// Refused by chance, as the source of the endpoints sheds load.
    DO = 16,
    /// Refused for certain, as that source sheds all load.
    UDO = 17,
    /// The caller's side ended: its request broke off.
    DC = 18,
    /// The caller's request is none that can be sent.
    DPE = 19,
}

impl Flags {
    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether none is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let mut separator = "";
        for (name, _) in Self::NAMES.iter().filter(|(_, flag)| self.contains(*flag)) {
            write!(f, "{separator}{name}")?;
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({self})")
    }
}

// === impl HttpClassifier ===

impl Classify for HttpClassifier {
    type End = Never;

    fn head(&self, status: StatusCode, _: &HeaderMap) -> Head<Never> {
        Head::Final(Judgement { class: Class::of_status(status), grpc_status: None })
    }
}

impl ClassifyEnd for Never {
    fn end(&self, _: StatusCode, _: Option<&HeaderMap>) -> Judgement {
        match *self {}
    }
}

// === impl Failed ===

impl Failed {
    /// A failure whose cause is not known further.
    pub const fn new(failure: Failure) -> Self {
        Self { failure, noted: Flags(0), source: None }
    }

    /// A failure and its cause.
    pub fn because(failure: Failure, source: impl Into<BoxError>) -> Self {
        Self { failure, noted: Flags(0), source: Some(source.into()) }
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
    fn flags_print_in_envoys_words() {
        assert_eq!((Flags::UF | Flags::URX).to_string(), "UF,URX");
        assert_eq!(Flags::default().to_string(), "-");
    }

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
        for kind in [FailureKind::Overflow, FailureKind::NoEndpoint, FailureKind::Fault, FailureKind::NoConfig] {
            assert!(!Failure::new(kind, Sent::No).class().is_failure(), "{kind}");
        }
        assert!(Failure::new(FailureKind::PerTryTimeout, Sent::Yes).class().is_failure());
    }
}
