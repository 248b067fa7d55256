//! When a request is tried again, how long is waited, and what is spared (`envoy.config.route.v3.RetryPolicy`, gRFC A44).

use std::{fmt, ops::BitOr, time::Duration};

use http::StatusCode;

use super::{ConfigError, HeaderMatcher};

/// When and how often a request is tried again.
///
/// The number of retries under way at a time is not said here: it is the cluster's
/// [`Thresholds`](super::Thresholds), since the load it bounds is the cluster's.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    on: RetryOn,
    max_retries: u32,
    statuses: Vec<StatusCode>,
    headers: Vec<HeaderMatcher>,
    backoff: Backoff,
    retry_after: Option<RetryAfter>,
    avoid_previous: bool,
}

/// The conditions of a retry, as a set (`retry_on`).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(u32);

/// Exponential back-off with full jitter: before retry `n`, a uniform time below `min(base * 2^(n-1), max)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
}

/// Waiting for as long as the peer asks (`rate_limited_retry_back_off`; here with its common header).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter {
    max: Duration,
}

// === impl RetryPolicy ===

impl RetryPolicy {
    /// The most retries that one request may have.
    pub const MOST_RETRIES: u32 = 100;

    /// Retries up to once, with Envoy's back-off, when one of `on` is met.
    pub fn on(on: RetryOn) -> Self {
        Self {
            on,
            max_retries: 1,
            statuses: Vec::new(),
            headers: Vec::new(),
            backoff: Backoff::default(),
            retry_after: None,
            avoid_previous: true,
        }
    }

    /// No retries, said on purpose.
    pub fn never() -> Self {
        Self { max_retries: 0, ..Self::on(RetryOn::default()) }
    }

    /// At most `retries` beyond the first attempt (`num_retries`; default 1). Zero is none.
    ///
    /// # Errors
    ///
    /// Refuses more than [`MOST_RETRIES`](Self::MOST_RETRIES).
    pub fn max_retries(mut self, retries: u32) -> Result<Self, ConfigError> {
        if retries > Self::MOST_RETRIES {
            return Err(ConfigError::new("num_retries", retries, "give at most 100"));
        }
        self.max_retries = retries;
        Ok(self)
    }

    /// Statuses that [`RetryOn::STATUSES`] means, which is set by this (`retriable_status_codes`).
    #[must_use]
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.statuses = statuses.into_iter().collect();
        self.on = self.on | RetryOn::STATUSES;
        self
    }

    /// Response headers that [`RetryOn::HEADERS`] means, which is set by this (`retriable_headers`).
    #[must_use]
    pub fn headers(mut self, headers: impl IntoIterator<Item = HeaderMatcher>) -> Self {
        self.headers = headers.into_iter().collect();
        self.on = self.on | RetryOn::HEADERS;
        self
    }

    /// How long is waited between attempts (default: 25 ms doubling to 250 ms).
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Waits as long as a `retry-after` header asks, up to the given limit.
    #[must_use]
    pub fn retry_after(mut self, retry_after: RetryAfter) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// Whether a retry avoids the endpoints that were tried before, while others are available (default: it does;
    /// Envoy's `previous_hosts` predicate).
    #[must_use]
    pub fn avoid_previous(mut self, avoid: bool) -> Self {
        self.avoid_previous = avoid;
        self
    }

    /// The conditions.
    pub fn conditions(&self) -> RetryOn {
        self.on
    }

    /// Retries beyond the first attempt.
    pub fn retries(&self) -> u32 {
        self.max_retries
    }

    /// The statuses of [`RetryOn::STATUSES`].
    pub fn retriable_statuses(&self) -> &[StatusCode] {
        &self.statuses
    }

    /// The header matchers of [`RetryOn::HEADERS`]; any of them suffices.
    pub fn retriable_headers(&self) -> &[HeaderMatcher] {
        &self.headers
    }

    /// The wait between attempts.
    pub fn wait(&self) -> Backoff {
        self.backoff
    }

    /// What a peer may ask for, if it may.
    pub fn asked_wait(&self) -> Option<RetryAfter> {
        self.retry_after
    }

    /// Whether earlier endpoints are avoided.
    pub fn avoids_previous(&self) -> bool {
        self.avoid_previous
    }
}

// === impl RetryOn ===

impl RetryOn {
    /// Any 5xx, and every reset but an overflow (`5xx`).
    pub const SERVER_ERROR: Self = Self(1);
    /// 502, 503, 504, and resets as above (`gateway-error`).
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// Any reset by the other side, disconnects and per-try timeouts included (`reset`).
    pub const RESET: Self = Self(1 << 2);
    /// A reset before any byte of the request was sent (`reset-before-request`).
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    /// No connection could be had (`connect-failure`).
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    /// The response says `x-envoy-ratelimited`; without this, such a response is never retried (`envoy-ratelimited`).
    pub const RATE_LIMITED: Self = Self(1 << 5);
    /// 409 (`retriable-4xx`).
    pub const CONFLICT: Self = Self(1 << 6);
    /// The stream was refused unprocessed (`refused-stream`).
    pub const REFUSED_STREAM: Self = Self(1 << 7);
    /// The policy's own statuses (`retriable-status-codes`).
    pub const STATUSES: Self = Self(1 << 8);
    /// The policy's own header matchers (`retriable-headers`).
    pub const HEADERS: Self = Self(1 << 9);
    /// gRPC status CANCELLED (`cancelled`). All five gRPC conditions look at a trailers-only answer.
    pub const GRPC_CANCELLED: Self = Self(1 << 10);
    /// gRPC status DEADLINE_EXCEEDED (`deadline-exceeded`).
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 11);
    /// gRPC status RESOURCE_EXHAUSTED (`resource-exhausted`).
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 12);
    /// gRPC status INTERNAL (`internal`).
    pub const GRPC_INTERNAL: Self = Self(1 << 13);
    /// gRPC status UNAVAILABLE (`unavailable`).
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 14);
    /// Failures, gateway errors and gRPC's UNAVAILABLE and CANCELLED, of a request that may be repeated whatever became of
    /// it: its method is idempotent (RFC 9110 9.2.2), or the call was marked so. Not a condition of Envoy's; it is what a
    /// preset needs to be safe for
    /// every method.
    pub const IDEMPOTENT_FAILURE: Self = Self(1 << 15);

    const NAMES: [(&'static str, Self); 15] = [
        ("5xx", Self::SERVER_ERROR),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("reset", Self::RESET),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("envoy-ratelimited", Self::RATE_LIMITED),
        ("retriable-4xx", Self::CONFLICT),
        ("refused-stream", Self::REFUSED_STREAM),
        ("retriable-status-codes", Self::STATUSES),
        ("retriable-headers", Self::HEADERS),
        ("cancelled", Self::GRPC_CANCELLED),
        ("deadline-exceeded", Self::GRPC_DEADLINE_EXCEEDED),
        ("resource-exhausted", Self::GRPC_RESOURCE_EXHAUSTED),
        ("internal", Self::GRPC_INTERNAL),
        ("unavailable", Self::GRPC_UNAVAILABLE),
    ];

    /// Reads a comma-separated list as Envoy and gRPC do: blanks trimmed, unknown tokens returned rather than refused.
    pub fn parse(list: &str) -> (Self, Vec<&str>) {
        let mut on = Self::default();
        let mut unknown = Vec::new();
        for token in list.split(',').map(str::trim).filter(|token| !token.is_empty()) {
            match Self::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(token)) {
                Some((_, condition)) => on = on | *condition,
                None => unknown.push(token),
            }
        }
        (on, unknown)
    }

    /// Whether any condition of `other` is set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether no condition is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for RetryOn {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idempotent = [("idempotent-failure", Self::IDEMPOTENT_FAILURE)];
        let names = Self::NAMES.iter().chain(&idempotent).filter(|(_, c)| self.intersects(*c)).map(|(name, _)| name);
        f.debug_set().entries(names).finish()
    }
}

// === impl Backoff ===

impl Backoff {
    /// Windows that start at `base` and double up to `max`; below 1 ms counts as 1 ms.
    ///
    /// # Errors
    ///
    /// Refuses a zero base and a maximum below the base.
    pub fn new(base: Duration, max: Duration) -> Result<Self, ConfigError> {
        if base.is_zero() {
            return Err(ConfigError::new("base_interval", "0s", "give a time above zero"));
        }
        if max < base {
            let value = format!("{max:?}");
            return Err(ConfigError::new("max_interval", value, "give at least the base interval"));
        }
        let floor = Duration::from_millis(1);
        Ok(Self { base: base.max(floor), max: max.max(floor) })
    }

    /// Windows from `base` to ten times as much, Envoy's default.
    ///
    /// # Errors
    ///
    /// Refuses zero.
    pub fn from_base(base: Duration) -> Result<Self, ConfigError> {
        Self::new(base, base.saturating_mul(10))
    }

    /// The window before retry `number`, which counts from 1.
    pub fn window(self, number: u32) -> Duration {
        let doublings = number.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.max)
    }
}

impl Default for Backoff {
    /// 25 ms doubling to 250 ms.
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

// === impl RetryAfter ===

impl RetryAfter {
    /// Takes requests of up to `max`; a longer one is ignored in favour of the ordinary back-off.
    ///
    /// # Errors
    ///
    /// Refuses zero.
    pub fn up_to(max: Duration) -> Result<Self, ConfigError> {
        if max.is_zero() {
            return Err(ConfigError::new("rate_limited_retry_back_off.max_interval", "0s", "give a time above zero"));
        }
        Ok(Self { max })
    }

    /// The longest request that is honoured.
    pub fn limit(self) -> Duration {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_trimmed_and_unknown_ones_reported() {
        let (on, unknown) = RetryOn::parse(" 5xx, Unavailable,later ,,");
        assert_eq!(on, RetryOn::SERVER_ERROR | RetryOn::GRPC_UNAVAILABLE);
        assert_eq!(unknown, ["later"]);
    }

    #[test]
    fn windows_double_to_the_maximum() {
        let windows: Vec<_> = (1..=6).map(|n| Backoff::default().window(n).as_millis()).collect();
        assert_eq!(windows, [25, 50, 100, 200, 250, 250]);
    }

    #[test]
    fn maximum_below_the_base_is_refused() {
        let error = Backoff::new(Duration::from_secs(2), Duration::from_secs(1)).expect_err("max < base");
        assert_eq!(error.field(), "max_interval");
    }
}
