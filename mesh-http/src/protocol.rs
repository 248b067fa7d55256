//! What differs between the protocols that are spoken over HTTP: plain HTTP here, gRPC in mesh-grpc.
//!
//! The whole way of a request is generic over one [`Protocol`], so that a gRPC channel is the HTTP client with other answers
//! to these questions, and not a second client.

use std::{error::Error as StdError, time::Duration};

use http::{HeaderMap, StatusCode};
use mesh_core::{
    config::{AbortStatus, HttpProtocol, Policy, RetryOn, Semantics},
    outcome::{Classify, Failure},
};

/// What a protocol over HTTP means by what it says.
pub trait Protocol: Clone + Send + Sync + Sized + 'static {
    /// Finds out what a response means.
    type Classifier: Classify;

    /// What [`ClientBuilder::build`](crate::ClientBuilder::build) builds: the client, in the words of the protocol.
    type Client;

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

    /// The retry conditions that a failure meets by what the protocol's callers would see of it, which may be further down in
    /// its `error`. None by default.
    fn conditions(failure: &Failure, error: &(dyn StdError + 'static)) -> RetryOn {
        let _ = (failure, error);
        RetryOn::default()
    }

    /// The retry conditions that a response meets by what the protocol's callers would see of it, where its head does not
    /// show it. None by default.
    fn conditions_of_response(status: StatusCode, headers: &HeaderMap) -> RetryOn {
        let _ = (status, headers);
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
