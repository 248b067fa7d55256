//! How gRPC differs from plain HTTP, in mesh-http's terms.

use std::{error::Error as StdError, time::Duration};

use http::{HeaderMap, HeaderValue, Response, StatusCode};
use mesh_core::{
    config::{AbortStatus, HttpProtocol, Policy, RetryOn, Semantics, preset},
    outcome::{Failure, FailureKind},
};
use mesh_http::protocol::{Announcement, Protocol, Pushback};
use tonic::Code;

use crate::{
    channel::Channel,
    classify::GrpcClassifier,
    status::{code_of, code_of_http},
    timeout,
    wire::{GRPC_MESSAGE, GRPC_STATUS, GRPC_TIMEOUT, Grpc, PREVIOUS_ATTEMPTS, PUSHBACK},
};

impl Protocol for Grpc {
    type Classifier = GrpcClassifier;
    type Client = Channel;

    const SEMANTICS: Semantics = Semantics::Grpc;
    const HTTP: HttpProtocol = HttpProtocol::Http2;
    /// Peers do not expect a `content-length`.
    const ANNOUNCES_LENGTH: bool = false;
    const ABORT_HAS_TEXT: bool = false;

    fn classifier() -> GrpcClassifier {
        GrpcClassifier
    }

    fn preset() -> Policy {
        preset::rpc()
    }

    fn asked_timeout(headers: &HeaderMap) -> Option<Duration> {
        timeout::asked(headers)
    }

    /// Tells the peer the time that is left, and how often the call was tried before (gRFC A6).
    fn announce(headers: &mut HeaderMap, attempt: &Announcement) {
        match attempt.remaining {
            Some(remaining) => {
                headers.insert(GRPC_TIMEOUT, timeout::format(remaining));
            }
            // What the caller asked for was not taken for a limit, and is not passed on as one.
            None => {
                headers.remove(GRPC_TIMEOUT);
            }
        }
        if attempt.number > 1 {
            headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(attempt.number - 1));
        }
    }

    /// A call that fails before its head has a status like any other, and is retried by it (gRFC A6): a lost connection is
    /// UNAVAILABLE. The end of the call's own time never is.
    fn conditions(failure: &Failure, error: &(dyn StdError + 'static)) -> RetryOn {
        match failure.kind {
            FailureKind::Timeout | FailureKind::Idle => RetryOn::default(),
            kind => condition_of(code_of(kind, error)),
        }
    }

    /// An answer that is not gRPC's, such as a proxy's 503, is retried by the status that it stands for.
    #[inline]
    fn conditions_of_response(status: StatusCode, headers: &HeaderMap) -> RetryOn {
        // As good as all answers; what else comes with a 200 stands for UNKNOWN, of which there is no condition.
        if status == StatusCode::OK || headers.contains_key(GRPC_STATUS) {
            return RetryOn::default();
        }
        condition_of(code_of_http(status))
    }

    /// A whole number of milliseconds is the wait; anything else means not to try again (gRFC A6).
    fn pushback(headers: &HeaderMap) -> Option<Pushback> {
        let value = headers.get(PUSHBACK)?;
        let millis = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        Some(millis.map_or(Pushback::Stop, |millis| Pushback::After(Duration::from_millis(millis))))
    }

    /// An answer that is all head, with the status; an HTTP status counts as gRFC A33 maps it.
    fn abort(with: AbortStatus) -> Response<()> {
        let code = match with {
            AbortStatus::Grpc(code) => code,
            AbortStatus::Http(status) => code_of_http(status) as u32,
        };
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(code));
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static("fault%20filter%20abort"));
        response
    }
}

/// The retry condition that looks for a status; none for those that nothing on this side stands for.
fn condition_of(code: Code) -> RetryOn {
    match code {
        Code::Unavailable => RetryOn::GRPC_UNAVAILABLE,
        Code::Internal => RetryOn::GRPC_INTERNAL,
        Code::Cancelled => RetryOn::GRPC_CANCELLED,
        Code::ResourceExhausted => RetryOn::GRPC_RESOURCE_EXHAUSTED,
        _ => RetryOn::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(number: u32, remaining: Option<Duration>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        Grpc::announce(&mut headers, &Announcement { number, remaining, numbered: false });
        headers
    }

    #[test]
    fn peer_is_told_the_time_left_and_the_attempts_before() {
        let first = announced(1, Some(Duration::from_millis(1_500)));
        assert_eq!(
            (first.get(GRPC_TIMEOUT), first.get(PREVIOUS_ATTEMPTS)),
            (Some(&HeaderValue::from_static("1500000u")), None)
        );
        assert_eq!(announced(3, None)[PREVIOUS_ATTEMPTS], "2");
    }

    #[test]
    fn pushback_that_is_no_whole_number_means_stop() {
        let pushback =
            |value: &'static str| Grpc::pushback(&[(PUSHBACK, HeaderValue::from_static(value))].into_iter().collect());
        assert_eq!(pushback("250"), Some(Pushback::After(Duration::from_millis(250))));
        for stop in ["-1", "x", "", "1.5"] {
            assert_eq!(pushback(stop), Some(Pushback::Stop), "{stop}");
        }
        assert_eq!(Grpc::pushback(&HeaderMap::new()), None);
    }
}
