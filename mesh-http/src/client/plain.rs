//! Plain HTTP as a protocol of the client.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_core::{
    config::{AbortStatus, HttpProtocol, Policy, Semantics, preset},
    outcome::HttpClassifier,
};

use super::Client;
use crate::protocol::{Announcement, Http, Protocol, Pushback};

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
