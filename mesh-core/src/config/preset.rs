//! Policies that a team would start with, named for their use.
//!
//! A preset is the lowest of the four sources of a policy: whatever the code or the control plane says of a field hides it.
//! Each value stands here with its reason.

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use super::{
    Backoff, CircuitBreakers, ClusterPolicy, ConnectionPolicy, HttpProtocol, LoadBalancing, OutlierDetection, Percent,
    Policy, RetryAfter, RetryBudget, RetryOn, RetryPolicy, RoutePolicy, Thresholds, TimeLimit, Timeouts,
};

/// Requests to a service of one's own: many, short, answered in well under a second. The default of HTTP clients.
///
/// - Retries: two, where it is safe. Always when nothing was sent (connect failure, refused stream); for idempotent methods
///   also on resets, 502, 503 and 504. Two cover a rolling restart that hits two endpoints in a row; more would only feed
///   an overload.
/// - Retry budget: 20 % of the requests under way, at least 3: a failing service sees at most 1.2 times its load.
/// - Back-off: 25 ms doubling to 250 ms with full jitter, Envoy's.
/// - Request timeout: 15 s, Envoy's. There is no per-try timeout: only the service's owner knows what slow means.
/// - Balancing: least request of two, which needs no statistics and avoids slow endpoints at once.
/// - Ejection: five failures in a row, for 30 s, at most half of the endpoints: three replicas can lose one.
/// - Breakers: 1024 requests, connections and waiting requests, Envoy's.
/// - Connections: 5 s to connect; idle ones are closed after 90 s, before most servers and middleboxes do it.
pub fn service() -> Policy {
    Policy {
        route: RoutePolicy {
            timeouts: Timeouts { request: limit(15), ..Timeouts::default() },
            retry: Some(Arc::new(safe_retry())),
        },
        cluster: ClusterPolicy {
            load_balancing: Some(LoadBalancing::LEAST_REQUEST),
            panic_threshold: Some(percent(50.0)),
            circuit_breakers: breakers(),
            outlier_detection: Some(Arc::new(ejection())),
            connect_timeout: Some(Duration::from_secs(5)),
            connections: ConnectionPolicy {
                protocol: Some(HttpProtocol::Http1),
                idle_timeout: limit(90),
                ..ConnectionPolicy::default()
            },
            ..ClusterPolicy::default()
        },
    }
}

/// Remote procedure calls: as [`service`], with what gRPC expects. The default of gRPC channels.
///
/// - No request timeout: the caller's deadline is the limit, and streams live as long as they like.
/// - Retries: two, where it is safe, as there. gRPC methods do not tell whether they are idempotent, so only what was not
///   processed is repeated, unless the call is marked idempotent; then UNAVAILABLE and lost connections are too.
/// - HTTP/2, with a ping after six minutes of silence while calls are under way, so that a dead peer is found without
///   traffic. gRPC's servers permit one in five minutes, and end connections that bring more (gRFC A8).
pub fn rpc() -> Policy {
    let mut policy = service();
    policy.route = RoutePolicy {
        timeouts: Timeouts { request: Some(TimeLimit::OFF), ..Timeouts::default() },
        retry: Some(Arc::new(safe_retry())),
    };
    policy.cluster.connections = ConnectionPolicy {
        protocol: Some(HttpProtocol::Http2),
        idle_timeout: limit(30 * 60),
        keep_alive_interval: limit(6 * 60),
        keep_alive_timeout: Some(Duration::from_secs(20)),
        ..ConnectionPolicy::default()
    };
    policy
}

/// A service of somebody else, across the internet: slower, rate-limited, billed by the request.
///
/// As [`service`], but: 30 s for a request and 10 s to connect; one retry, which waits 200 ms doubling to 2 s and honours
/// `retry-after` up to 30 s for 429 and 503; round robin, since addresses of one name are usually load balancers themselves;
/// no ejection, for the same reason.
pub fn external() -> Policy {
    let mut policy = service();
    policy.route.timeouts.request = limit(30);
    let wait = Backoff::new(Duration::from_millis(200), Duration::from_secs(2)).expect("200 ms is below 2 s");
    let retry_after = RetryAfter::up_to(Duration::from_secs(30)).expect("30 s is not zero");
    policy.route.retry = Some(Arc::new(
        RetryPolicy::on(safe_conditions())
            .statuses([StatusCode::TOO_MANY_REQUESTS])
            .backoff(wait)
            .retry_after(retry_after),
    ));
    policy.cluster.load_balancing = Some(LoadBalancing::RoundRobin);
    policy.cluster.outlier_detection = None;
    policy.cluster.connect_timeout = Some(Duration::from_secs(10));
    policy
}

/// Nothing but Envoy's own defaults: 15 s, no retries, round robin, 1024 of everything, no ejection. For those who want
/// every policy to come from their control plane.
pub fn bare() -> Policy {
    Policy {
        route: RoutePolicy { timeouts: Timeouts { request: limit(15), ..Timeouts::default() }, retry: None },
        cluster: ClusterPolicy {
            load_balancing: Some(LoadBalancing::RoundRobin),
            panic_threshold: Some(percent(50.0)),
            connect_timeout: Some(Duration::from_secs(5)),
            connections: ConnectionPolicy { idle_timeout: limit(3600), ..ConnectionPolicy::default() },
            ..ClusterPolicy::default()
        },
    }
}

fn safe_conditions() -> RetryOn {
    RetryOn::CONNECT_FAILURE | RetryOn::REFUSED_STREAM | RetryOn::RESET_BEFORE_REQUEST | RetryOn::IDEMPOTENT_FAILURE
}

fn safe_retry() -> RetryPolicy {
    retries(RetryPolicy::on(safe_conditions()))
}

fn retries(policy: RetryPolicy) -> RetryPolicy {
    policy.max_retries(2).expect("2 is below the limit")
}

fn breakers() -> CircuitBreakers {
    let thresholds = Thresholds { retry_budget: Some(RetryBudget::default()), ..Thresholds::default() };
    CircuitBreakers { default: thresholds, high: thresholds }
}

fn ejection() -> OutlierDetection {
    OutlierDetection { max_ejected: percent(50.0), always_eject_one: true, ..OutlierDetection::default() }
}

fn limit(seconds: u64) -> Option<TimeLimit> {
    Some(TimeLimit::after(Duration::from_secs(seconds)).expect("presets have no zero limit"))
}

fn percent(value: f64) -> Percent {
    Percent::new(value).expect("presets have legal percentages")
}
