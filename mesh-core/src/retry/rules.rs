//! Envoy's rules for when an attempt is followed by another, as judges of HTTP and of failures alone.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Response, StatusCode, header};

use super::{
    backoff::Wait,
    date,
    judge::{Judge, Tried, Verdict},
};
use crate::{
    config::{RetryOn, RetryPolicy},
    outcome::{Failure, FailureKind, Flags, Sent},
};

/// Envoy's conditions for HTTP responses and for failures, and [`RetryOn::IDEMPOTENT_FAILURE`]; gRPC statuses are looked
/// for in the head, as the answers that may be retried have no other part.
///
/// Why a response was not tried again is noted as [`Flags`] in its extensions.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpRules;

/// Envoy's conditions for failures alone; every response is delivered.
#[derive(Clone, Copy, Debug, Default)]
pub struct FailureRules;

/// A response as the conditions see it.
struct Answer<'a> {
    /// Conditions that it meets by what its status and headers do not show.
    meets: RetryOn,
    status: StatusCode,
    headers: &'a HeaderMap,
    policy: &'a RetryPolicy,
    idempotent: bool,
}

// === impl FailureRules ===

impl<Res> Judge<Res> for FailureRules {
    fn judge(&self, tried: Tried<'_, Res>) -> Verdict {
        match tried.failure {
            Some(failure) if failure_is_retriable(&failure, tried.policy, tried.idempotent) => {
                Verdict::Retry(Wait::Backoff)
            }
            _ => Verdict::Deliver,
        }
    }
}

// === impl HttpRules ===

impl HttpRules {
    /// As [`Judge::judge`], of a response that also `meets` conditions which its status and headers do not show: what it
    /// stands for in the protocol that is spoken over HTTP.
    #[inline]
    pub fn judge_meeting<B>(&self, meets: RetryOn, tried: Tried<'_, Response<B>>) -> Verdict {
        let Ok(response) = tried.result else {
            return FailureRules.judge(tried);
        };
        // Nearly every response ends here.
        if response.status().is_success() && !may_retry_success(meets, tried.policy.conditions()) {
            return Verdict::Deliver;
        }
        let Tried { policy, idempotent, .. } = tried;
        let answer = Answer { meets, status: response.status(), headers: response.headers(), policy, idempotent };
        answer.judge()
    }
}

impl<B> Judge<Response<B>> for HttpRules {
    #[inline]
    fn judge(&self, tried: Tried<'_, Response<B>>) -> Verdict {
        self.judge_meeting(RetryOn::default(), tried)
    }

    fn note(&self, response: &mut Response<B>, flags: Flags) {
        let known = response.extensions().get::<Flags>().copied().unwrap_or_default();
        response.extensions_mut().insert(known | flags);
    }
}

/// Whether the policy's conditions include a failure. What was refused on this side never is, nor what failed for the
/// caller's own body, nor the end of the request's own time.
fn failure_is_retriable(failure: &Failure, policy: &RetryPolicy, idempotent: bool) -> bool {
    let on = policy.conditions();
    let any = RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR | RetryOn::RESET;
    let own_time = matches!(failure.kind, FailureKind::Timeout | FailureKind::Idle);
    if own_time || !failure.class().is_failure() {
        return false;
    }
    if on.intersects(any) || (idempotent && on.intersects(RetryOn::IDEMPOTENT_FAILURE)) {
        return true;
    }
    match failure.kind {
        FailureKind::Refused => on.intersects(RetryOn::REFUSED_STREAM),
        FailureKind::Connect | FailureKind::ConnectTimeout | FailureKind::Tls => {
            on.intersects(RetryOn::CONNECT_FAILURE | RetryOn::RESET_BEFORE_REQUEST)
        }
        // A refused stream has had bytes; anything else that was not sent has not.
        _ => failure.sent == Sent::No && on.intersects(RetryOn::RESET_BEFORE_REQUEST),
    }
}

const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The conditions that look at a gRPC status, and the status that each looks for.
const GRPC_CONDITIONS: [(RetryOn, &[u8]); 5] = [
    (RetryOn::GRPC_CANCELLED, b"1"),
    (RetryOn::GRPC_DEADLINE_EXCEEDED, b"4"),
    (RetryOn::GRPC_RESOURCE_EXHAUSTED, b"8"),
    (RetryOn::GRPC_INTERNAL, b"13"),
    (RetryOn::GRPC_UNAVAILABLE, b"14"),
];

/// Whether the conditions may include a response of a good status: for what it `meets` or for its headers, or since the status
/// is listed.
#[inline]
fn may_retry_success(meets: RetryOn, on: RetryOn) -> bool {
    let beyond_class = RetryOn::RATE_LIMITED | RetryOn::HEADERS | RetryOn::STATUSES | RetryOn::IDEMPOTENT_FAILURE;
    on.intersects(meets | beyond_class) || wants_a_grpc_status(on)
}

// === impl Answer ===

impl Answer<'_> {
    /// The verdict, by everything that the policy may say.
    // Out of line, so that what is in line is what nearly every response needs.
    #[inline(never)]
    fn judge(&self) -> Verdict {
        if !self.is_retriable() {
            return Verdict::Deliver;
        }
        let asked = self.policy.asked_wait().and_then(|asked| retry_after(self.headers, asked.limit()));
        Verdict::Retry(asked.map_or(Wait::Backoff, Wait::Asked))
    }

    /// Whether the policy's conditions include it. One that is marked as rate limited is retried on the condition for that
    /// alone, whatever else it meets.
    fn is_retriable(&self) -> bool {
        let is_limited = || self.headers.contains_key(RATE_LIMITED);
        // The header is looked up only where it decides.
        match self.policy.conditions().intersects(RetryOn::RATE_LIMITED) {
            true => is_limited() || self.meets_a_condition(),
            false => self.meets_a_condition() && !is_limited(),
        }
    }

    fn meets_a_condition(&self) -> bool {
        let Self { meets, status, headers, policy, idempotent } = *self;
        let mut on = policy.conditions();
        if idempotent && on.intersects(RetryOn::IDEMPOTENT_FAILURE) {
            // CANCELLED, which the caller did not ask for, is what C-core's servers answer on drain to what no handler has
            // taken.
            on = on | RetryOn::GATEWAY_ERROR | RetryOn::GRPC_UNAVAILABLE | RetryOn::GRPC_CANCELLED;
        }
        let gateway = matches!(status.as_u16(), 502..=504);
        on.intersects(meets)
            || (status.is_server_error() && on.intersects(RetryOn::SERVER_ERROR))
            || (gateway && on.intersects(RetryOn::GATEWAY_ERROR))
            || (status == StatusCode::CONFLICT && on.intersects(RetryOn::CONFLICT))
            || (on.intersects(RetryOn::STATUSES) && policy.retriable_statuses().contains(&status))
            || (on.intersects(RetryOn::HEADERS)
                && policy.retriable_headers().iter().any(|m| m.matches_headers(headers)))
            || (wants_a_grpc_status(on) && meets_a_grpc_condition(headers, on))
    }
}

/// Asked first, since a header is looked up only where it decides.
#[inline]
fn wants_a_grpc_status(on: RetryOn) -> bool {
    GRPC_CONDITIONS.iter().any(|(condition, _)| on.intersects(*condition))
}

/// Whether the status of a trailers-only answer meets a condition.
fn meets_a_grpc_condition(headers: &HeaderMap, on: RetryOn) -> bool {
    let mut wanted = GRPC_CONDITIONS.iter().filter(|(condition, _)| on.intersects(*condition));
    headers.get(GRPC_STATUS).is_some_and(|status| wanted.any(|(_, wanted)| status.as_bytes() == *wanted))
}

/// How long a `retry-after` asks to wait, in whole seconds above zero and up to `limit`; a longer wait is not waited at all.
///
/// Seconds, a date and a Unix time are understood (RFC 9110 10.2.3, and Envoy's `UNIX_TIMESTAMP`). Points in time are
/// measured from the `date` of the same response, so that neither side's clock need be right.
fn retry_after(headers: &HeaderMap, limit: Duration) -> Option<Duration> {
    /// Above this, in 2001 or after 31 years, a number is taken for a point in time.
    const POINT_IN_TIME: u64 = 1_000_000_000;
    let text = |name| headers.get(name)?.to_str().ok();
    let asked = text(header::RETRY_AFTER)?.trim();
    let sent = || date::parse(text(header::DATE)?);
    let seconds = match asked.parse::<u64>() {
        Ok(seconds) if seconds < POINT_IN_TIME => seconds,
        Ok(point) => point.checked_sub(sent()?)?,
        Err(_) => date::parse(asked)?.checked_sub(sent()?)?,
    };
    let wait = Duration::from_secs(seconds);
    (seconds > 0 && wait <= limit).then_some(wait)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::config::{HeaderKey, HeaderMatcher, HeaderTest, RetryAfter};

    fn judge(on: RetryOn, idempotent: bool, response: &Response<()>) -> bool {
        let policy = RetryPolicy::on(on);
        let tried = Tried { result: Ok(response), failure: None, policy: &policy, idempotent };
        HttpRules.judge(tried) == Verdict::Retry(Wait::Backoff)
    }

    fn judge_failure(on: RetryOn, idempotent: bool, kind: FailureKind, sent: Sent) -> bool {
        let policy = RetryPolicy::on(on);
        failure_is_retriable(&Failure::new(kind, sent), &policy, idempotent)
    }

    fn answer(status: u16) -> Response<()> {
        Response::builder().status(status).body(()).expect("legal")
    }

    fn with(name: &'static str, value: &'static str) -> Response<()> {
        let mut response = answer(200);
        response.headers_mut().insert(name, HeaderValue::from_static(value));
        response
    }

    #[test]
    fn statuses_meet_the_conditions_of_envoy() {
        let met = |on| [409, 429, 499, 500, 501, 502, 503, 504, 505].map(|status| judge(on, false, &answer(status)));
        assert_eq!(met(RetryOn::SERVER_ERROR), [false, false, false, true, true, true, true, true, true]);
        assert_eq!(met(RetryOn::GATEWAY_ERROR), [false, false, false, false, false, true, true, true, false]);
        assert_eq!(met(RetryOn::CONFLICT), [true, false, false, false, false, false, false, false, false]);
        assert_eq!(met(RetryOn::RESET | RetryOn::CONNECT_FAILURE), [false; 9]);
    }

    #[test]
    fn own_statuses_and_headers_count_as_listed() {
        let met = |policy: &RetryPolicy, status, headers: &HeaderMap| {
            Answer { meets: RetryOn::default(), status, headers, policy, idempotent: false }.is_retriable()
        };
        let policy = RetryPolicy::on(RetryOn::default()).statuses([StatusCode::TOO_MANY_REQUESTS]);
        assert!(met(&policy, StatusCode::TOO_MANY_REQUESTS, &HeaderMap::new()));
        assert!(!met(&policy, StatusCode::BAD_GATEWAY, &HeaderMap::new()));

        let key = HeaderKey::parse("x-try-again").expect("legal");
        let policy = RetryPolicy::on(RetryOn::default()).headers([HeaderMatcher::new(key, HeaderTest::Present(true))]);
        let headers = with("x-try-again", "yes").headers().clone();
        assert!(met(&policy, StatusCode::OK, &headers));
        assert!(!met(&policy, StatusCode::OK, &HeaderMap::new()));
    }

    #[test]
    fn rate_limited_answer_is_retried_on_its_own_condition_only() {
        let mut limited = with("x-envoy-ratelimited", "true");
        *limited.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        assert!(!judge(RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR, true, &limited));
        assert!(judge(RetryOn::RATE_LIMITED, false, &limited));
        assert!(!judge(RetryOn::RATE_LIMITED, false, &answer(503)));
    }

    #[test]
    fn grpc_status_of_a_trailers_only_answer_meets_its_condition() {
        let conditions = [
            ("1", RetryOn::GRPC_CANCELLED),
            ("4", RetryOn::GRPC_DEADLINE_EXCEEDED),
            ("8", RetryOn::GRPC_RESOURCE_EXHAUSTED),
            ("13", RetryOn::GRPC_INTERNAL),
            ("14", RetryOn::GRPC_UNAVAILABLE),
        ];
        for (status, condition) in conditions {
            for (_, other) in conditions {
                assert_eq!(
                    judge(other, false, &with("grpc-status", status)),
                    condition == other,
                    "{status} on {other:?}"
                );
            }
        }
    }

    #[test]
    fn idempotent_request_is_retried_on_gateway_errors_and_failures() {
        let on = RetryOn::IDEMPOTENT_FAILURE;
        assert_eq!([500, 502, 503, 504].map(|status| judge(on, true, &answer(status))), [false, true, true, true]);
        assert!(!judge(on, false, &answer(503)));
        assert!(judge_failure(on, true, FailureKind::Disconnected, Sent::Yes));
        assert!(!judge_failure(on, false, FailureKind::Disconnected, Sent::Yes));
    }

    #[test]
    fn failures_meet_the_conditions_of_envoy() {
        use FailureKind as K;
        let all = [K::Reset, K::Disconnected, K::Refused, K::Connect, K::ConnectTimeout, K::PerTryTimeout, K::Protocol];
        for on in [RetryOn::SERVER_ERROR, RetryOn::GATEWAY_ERROR, RetryOn::RESET] {
            assert!(all.iter().all(|kind| judge_failure(on, false, *kind, Sent::Maybe)), "{on:?}");
        }
        let met = |on, sent| all.map(|kind| judge_failure(on, false, kind, sent));
        assert_eq!(met(RetryOn::REFUSED_STREAM, Sent::No), [false, false, true, false, false, false, false]);
        assert_eq!(met(RetryOn::CONNECT_FAILURE, Sent::No), [false, false, false, true, true, false, false]);
        assert_eq!(met(RetryOn::RESET_BEFORE_REQUEST, Sent::No), [true, true, false, true, true, true, true]);
        assert_eq!(met(RetryOn::RESET_BEFORE_REQUEST, Sent::Maybe), [false, false, false, true, true, false, false]);
    }

    #[test]
    fn what_was_refused_here_is_never_retried() {
        use FailureKind as K;
        let everything =
            RetryOn::SERVER_ERROR | RetryOn::RESET | RetryOn::RESET_BEFORE_REQUEST | RetryOn::IDEMPOTENT_FAILURE;
        for kind in [K::Overflow, K::NoEndpoint, K::NoRoute, K::Fault, K::RequestBody, K::Timeout, K::Idle, K::Shutdown]
        {
            for sent in [Sent::No, Sent::Maybe] {
                assert!(!judge_failure(everything, true, kind, sent), "{kind}");
            }
        }
    }

    #[test]
    fn retry_after_is_read_in_three_forms_up_to_its_limit() {
        let asked = |value: &'static str| {
            let mut response = with("retry-after", value);
            response.headers_mut().insert("date", HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
            retry_after(response.headers(), Duration::from_secs(300)).map(|wait| wait.as_secs())
        };
        assert_eq!(asked("2"), Some(2));
        assert_eq!((asked("300"), asked("301")), (Some(300), None));
        assert_eq!((asked("0"), asked("soon"), asked("-1")), (None, None, None));
        assert_eq!(asked("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:07 GMT"), None);
        let headers = with("retry-after", "1700000300").headers().clone();
        assert_eq!(retry_after(&headers, Duration::from_secs(300)), None, "measured from no date");
    }

    #[test]
    fn verdict_carries_what_the_peer_asked_for() {
        let retry_after = RetryAfter::up_to(Duration::from_secs(10)).expect("legal");
        let policy = RetryPolicy::on(RetryOn::SERVER_ERROR).retry_after(retry_after);
        let mut response = with("retry-after", "7");
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let tried = Tried { result: Ok(&response), failure: None, policy: &policy, idempotent: false };
        assert_eq!(HttpRules.judge(tried), Verdict::Retry(Wait::Asked(Duration::from_secs(7))));
    }
}
