//! What became of a request: one outcome per response, read by retries, breakers, balancing, ejection and metrics alike.
//!
//! A classifier ([`Classify`]) speaks twice. At the head of a response it says what is certain already; at the end, which
//! is the trailers, an error or a drop, the [`Outcome`] is complete. A refusal made on this side (breaker open, no
//! endpoint, deadline passed before sending) is a [`Failure`] whose kind says so, and is never held against an endpoint.

use std::{error::Error as StdError, iter::successors};

use http::StatusCode;
use tokio::time::Instant;

mod classify;
mod failure;
mod flags;
mod place;

pub use self::{
    classify::{Classify, ClassifyEnd, Head, HttpClassifier, Judgement, Never},
    failure::{Failed, Failure, FailureKind},
    flags::Flags,
    place::{AtEndpoint, EndpointId},
};

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

/// The first `E` among an error and its sources.
///
/// The layers hand on what failed in a chain of errors: a [`Failed`], which says what it stands for, and below it what a
/// layer has to say of its own.
///
/// # Examples
///
/// ```
/// use mesh_core::{config::{CircuitBreakers, RequestPriority}, limit::{Limits, Overloaded}, outcome::{Failed, find_cause}};
///
/// let mut breakers = CircuitBreakers::default();
/// breakers.default.max_requests = Some(0);
/// let refused = Limits::new(&breakers).request(RequestPriority::Default).expect_err("none is allowed");
/// let error = Failed::from(refused);
/// assert_eq!(find_cause::<Overloaded>(&error).map(Overloaded::limit), Some(0));
/// ```
pub fn find_cause<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
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
