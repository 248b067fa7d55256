//! What differs between the protocols that are spoken over HTTP: plain HTTP here, gRPC in mesh-grpc.
//!
//! The whole way of a request is generic over one [`Protocol`], so that a gRPC channel is the HTTP client with other answers
//! to these questions, and not a second client.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_core::{
    config::{AbortStatus, HttpProtocol, Policy, RetryOn, Semantics, preset},
    outcome::{Classify, Failure, HttpClassifier},
};

use crate::Client;

/// What a protocol over HTTP means by what it says.
pub trait Protocol: Clone + Send + Sync + Sized + 'static {
    /// Finds out what a response means.
    type Classifier: Classify;

    /// What [`ClientBuilder::build`](crate::ClientBuilder::build) builds: the client, in the words of the protocol.
    type Client: From<Client<Self>>;

    /// Whose rules count where Envoy's and gRPC's differ.
    const SEMANTICS: Semantics;

    /// The HTTP that is spoken where nothing says which.
    const HTTP: HttpProtocol;

    /// Whether the exact size of a request body is told to the peer (`content-length`).
    const ANNOUNCES_LENGTH: bool;

    /// Whether an injected abort has a text as its body.
    const ABORT_HAS_TEXT: bool;

    /// The classifier.
    fn classifier() -> Self::Classifier;

    /// The policy that counts where everything else is silent.
    fn preset() -> Policy;

    /// The time that the caller wrote into the request, if any.
    fn asked_timeout(headers: &HeaderMap) -> Option<Duration>;

    /// Writes what the peer should know of an attempt into its request.
    fn announce(headers: &mut HeaderMap, attempt: &Announcement);

    /// The retry conditions that a failure meets by what the protocol's callers would see of it. None by default.
    fn conditions(failure: &Failure) -> RetryOn {
        let _ = failure;
        RetryOn::default()
    }

    /// What a response says about repeating its request, beyond what retry policies know.
    fn pushback(headers: &HeaderMap) -> Option<Pushback>;

    /// The response that stands for an injected abort: status and headers, no body.
    fn abort(with: AbortStatus) -> http::Response<()>;
}

/// What a peer says about repeating a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// Not at all.
    Stop,
    /// After exactly this long.
    After(Duration),
}

/// What a peer may be told of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Announcement {
    /// Which attempt it is, counting from 1.
    pub number: u32,
    /// The time that is left for the whole request.
    pub remaining: Option<Duration>,
    /// Whether the route asks to number attempts (`x-envoy-attempt-count`).
    pub numbered: bool,
}

/// Plain HTTP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Http;

impl Protocol for Http {
    type Classifier = HttpClassifier;
    type Client = Client<Self>;

    const SEMANTICS: Semantics = Semantics::Envoy;
    const HTTP: HttpProtocol = HttpProtocol::Http1;
    const ANNOUNCES_LENGTH: bool = true;
    const ABORT_HAS_TEXT: bool = true;

    fn classifier() -> HttpClassifier {
        HttpClassifier
    }

    fn preset() -> Policy {
        preset::service()
    }

    fn asked_timeout(_: &HeaderMap) -> Option<Duration> {
        None
    }

    fn announce(headers: &mut HeaderMap, attempt: &Announcement) {
        const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
        if attempt.numbered {
            headers.insert(ATTEMPT_COUNT, HeaderValue::from(attempt.number));
        }
    }

    fn pushback(_: &HeaderMap) -> Option<Pushback> {
        None
    }

    fn abort(with: AbortStatus) -> http::Response<()> {
        let status = match with {
            AbortStatus::Http(status) => status,
            AbortStatus::Grpc(code) => status_of_grpc(code),
            _ => http::StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = http::Response::new(());
        *response.status_mut() = status;
        response
    }
}

/// The HTTP status that stands for a gRPC status, for callers that do not speak gRPC.
fn status_of_grpc(code: u32) -> http::StatusCode {
    let status = match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    http::StatusCode::from_u16(status).expect("each is a legal status")
}
